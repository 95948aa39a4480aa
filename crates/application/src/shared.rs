//! One answer for everybody who asks the same at the same time.
//!
//! Invariants: an answer was begun after everybody who gets it had asked, so nobody sees less than what was stored
//! when they asked; at most two answers to a question are worked on at a time, so that one is asked for while another
//! is under way; who goes away ends nobody else's answer; answers are not kept.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;
use tracing::Instrument as _;

/// How many answers to one question are worked on at a time.
const AT_A_TIME: u8 = 2;

/// Answers to questions of type `K`, of which there are no more than callers at any time.
pub struct Shared<K, V> {
    questions: Arc<Questions<K, V>>,
}

/// The questions that are being answered.
type Questions<K, V> = Mutex<HashMap<K, Open<V>>>;

/// A question that is being answered.
struct Open<V> {
    /// How many answers are worked on.
    under_way: u8,
    /// Those who asked since as many as may be were.
    waiting: Vec<oneshot::Sender<V>>,
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self { questions: Arc::default() }
    }
}

impl<K, V> Shared<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + 'static,
{
    /// The answer to `question`, found by `ask`, or by that of somebody who asked the same. Must be called within
    /// a runtime.
    ///
    /// `None`: it was given up half-way, because the runtime ends or `ask` panicked.
    pub async fn get<F>(&self, question: K, ask: impl Fn() -> F + Send + Sync + 'static) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let first = {
            let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
            let open = questions
                .entry(question.clone())
                .or_insert_with(|| Open { under_way: 0, waiting: Vec::new() });
            if open.under_way < AT_A_TIME {
                open.under_way += 1;
                Some(answer)
            } else {
                open.waiting.push(answer);
                None
            }
        };
        if let Some(answer) = first {
            let rounds = Rounds { questions: Arc::clone(&self.questions), question, is_open: true };
            tokio::spawn(rounds.run(vec![answer], ask).in_current_span());
        }
        answered.await.ok()
    }
}

/// Answers a question until nobody waits for it.
struct Rounds<K: Eq + Hash, V> {
    questions: Arc<Questions<K, V>>,
    question: K,
    /// Whether it counts as under way.
    is_open: bool,
}

impl<K: Eq + Hash, V: Clone> Rounds<K, V> {
    async fn run<F: Future<Output = V>>(mut self, first: Vec<oneshot::Sender<V>>, ask: impl Fn() -> F) {
        let mut those = first;
        loop {
            // Who went away meanwhile needs no answer.
            those.retain(|one| !one.is_closed());
            if let Some(last) = those.pop() {
                let answer = ask().await;
                for one in those {
                    let _ = one.send(answer.clone());
                }
                let _ = last.send(answer);
            }
            match self.next() {
                Some(others) => those = others,
                None => return,
            }
        }
    }

    /// Those who have asked meanwhile; with none, this ends.
    fn next(&mut self) -> Option<Vec<oneshot::Sender<V>>> {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let open = questions.get_mut(&self.question)?;
        if !open.waiting.is_empty() {
            return Some(std::mem::take(&mut open.waiting));
        }
        self.is_open = false;
        open.under_way -= 1;
        if open.under_way == 0 {
            questions.remove(&self.question);
        }
        None
    }
}

impl<K: Eq + Hash, V> Drop for Rounds<K, V> {
    /// Given up half-way. Those who wait for nobody else now are told by their channels.
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = questions.get_mut(&self.question) {
            open.under_way -= 1;
            if open.under_way == 0 {
                questions.remove(&self.question);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// A question whose answer is how often it was asked; each needs a permit.
    #[derive(Clone)]
    struct Counted {
        asked: Arc<AtomicU32>,
        permits: Arc<Semaphore>,
    }

    impl Counted {
        fn new() -> Self {
            Self { asked: Arc::default(), permits: Arc::new(Semaphore::new(0)) }
        }

        fn ask(&self) -> impl Future<Output = u32> + Send + use<> {
            let this = self.clone();
            async move {
                let number = this.asked.fetch_add(1, Ordering::SeqCst) + 1;
                this.permits.acquire().await.unwrap().forget();
                number
            }
        }
    }

    fn get(
        shared: &Arc<Shared<&'static str, u32>>,
        question: &'static str,
        counted: &Counted,
    ) -> tokio::task::JoinHandle<Option<u32>> {
        let (shared, counted) = (Arc::clone(shared), counted.clone());
        tokio::spawn(async move { shared.get(question, move || counted.ask()).await })
    }

    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_asks_while_answers_are_worked_on_gets_a_later_one_and_shares_it() {
        let (shared, counted) = (Arc::default(), Counted::new());
        let mut first = Vec::new();
        for _ in 0..2 {
            first.push(get(&shared, "q", &counted));
            settle().await;
        }
        let later: Vec<_> = (0..5).map(|_| get(&shared, "q", &counted)).collect();
        settle().await;
        assert_eq!(counted.asked.load(Ordering::SeqCst), 2, "two answers at a time");
        counted.permits.add_permits(3);
        for (number, one) in (1..).zip(first) {
            assert_eq!(one.await.unwrap(), Some(number));
        }
        for one in later {
            assert_eq!(one.await.unwrap(), Some(3), "an answer begun after they asked, one for all");
        }
        settle().await;
        assert!(shared.questions.lock().unwrap().is_empty());
        counted.permits.add_permits(1);
        assert_eq!(get(&shared, "q", &counted).await.unwrap(), Some(4), "answers are not kept");
    }

    #[tokio::test]
    async fn different_questions_do_not_wait_for_each_other() {
        let (shared, stuck, quick) = (Arc::default(), Counted::new(), Counted::new());
        let waiting: Vec<_> = (0..3).map(|_| get(&shared, "a", &stuck)).collect();
        quick.permits.add_permits(1);
        assert_eq!(get(&shared, "b", &quick).await.unwrap(), Some(1));
        stuck.permits.add_permits(3);
        for one in waiting {
            assert!(one.await.unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn who_goes_away_ends_nobody_elses_answer_and_causes_none() {
        let (shared, counted) = (Arc::default(), Counted::new());
        let first = get(&shared, "q", &counted);
        let second = get(&shared, "q", &counted);
        settle().await;
        let (third, gone) = (get(&shared, "q", &counted), get(&shared, "q", &counted));
        settle().await;
        first.abort();
        gone.abort();
        settle().await;
        counted.permits.add_permits(10);
        assert_eq!(second.await.unwrap(), Some(2));
        assert_eq!(third.await.unwrap(), Some(3));

        let counted = Counted::new();
        let first = [get(&shared, "q", &counted), get(&shared, "q", &counted)];
        settle().await;
        let gone = get(&shared, "q", &counted);
        settle().await;
        gone.abort();
        settle().await;
        counted.permits.add_permits(10);
        for one in first {
            assert!(one.await.unwrap().is_some());
        }
        settle().await;
        assert_eq!(counted.asked.load(Ordering::SeqCst), 2, "nobody waited for a third");
    }

    #[tokio::test]
    async fn an_answer_that_fails_half_way_is_told_and_the_next_begins_anew() {
        let shared = Arc::new(Shared::<&str, u32>::default());
        let broken = shared.get("q", || async { panic!("on purpose") }).await;
        assert_eq!(broken, None);
        settle().await;
        assert!(shared.questions.lock().unwrap().is_empty());
        assert_eq!(shared.get("q", || async { 7 }).await, Some(7));
    }
}
