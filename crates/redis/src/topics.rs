//! Counts who listens to what.
//!
//! Invariant: a topic is wanted exactly as long as a [`Held`] that names it lives.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aito_domain::ports::bus::Topic;
use tokio::sync::Notify;

/// The topics that somebody listens to.
#[derive(Default)]
pub(crate) struct Topics {
    counts: Mutex<Counts>,
    /// Woken when a topic has lost its last listener.
    pub(crate) idle: Notify,
}

#[derive(Default)]
struct Counts {
    subscriptions: usize,
    topics: HashMap<Topic, usize>,
}

impl Topics {
    /// Counts a subscription to these topics until what it gives is dropped.
    pub(crate) fn hold(self: &Arc<Self>, topics: &[Topic]) -> Held {
        let topics: HashSet<Topic> = topics.iter().cloned().collect();
        let mut counts = self.counts();
        counts.subscriptions += 1;
        for topic in &topics {
            *counts.topics.entry(topic.clone()).or_default() += 1;
        }
        drop(counts);
        Held { topics, all: self.clone() }
    }

    /// Every topic that somebody listens to.
    pub(crate) fn wanted(&self) -> HashSet<Topic> {
        self.counts().topics.keys().cloned().collect()
    }

    /// How many subscriptions there are.
    pub(crate) fn subscriptions(&self) -> usize {
        self.counts().subscriptions
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One subscription's topics.
pub(crate) struct Held {
    topics: HashSet<Topic>,
    all: Arc<Topics>,
}

impl Held {
    /// The topics, each once.
    pub(crate) fn topics(&self) -> &HashSet<Topic> {
        &self.topics
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        counts.subscriptions -= 1;
        let mut idle = false;
        for topic in &self.topics {
            if let Some(count) = counts.topics.get_mut(topic) {
                *count -= 1;
                if *count == 0 {
                    counts.topics.remove(topic);
                    idle = true;
                }
            }
        }
        drop(counts);
        if idle {
            self.all.idle.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_topic_is_wanted_until_its_last_listener_has_gone() {
        let topics = Arc::new(Topics::default());
        let [one, two] = ["one", "two"].map(|name| Topic(name.into()));
        let first = topics.hold(&[one.clone(), one.clone()]);
        let second = topics.hold(&[one.clone(), two.clone()]);
        assert_eq!((topics.subscriptions(), topics.wanted().len()), (2, 2));
        drop(first);
        assert_eq!((topics.subscriptions(), topics.wanted().len()), (1, 2));
        assert_eq!(topics.idle.notified().now_or_never(), None, "somebody still listens to it");
        drop(second);
        assert_eq!((topics.subscriptions(), topics.wanted().len()), (0, 0));
        assert_eq!(topics.idle.notified().now_or_never(), Some(()));
    }
}
