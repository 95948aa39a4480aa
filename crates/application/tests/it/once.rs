//! Calls that are repeated: one key, one commit, whatever becomes of the first try.

use std::sync::Arc;

use aito_application::{
    Attempt, Error,
    once::{Once, Outcome},
    writer::Writer,
};
use aito_contracts::faults::{FaultyLedger, Rates};
use aito_domain::audit;

use super::{
    doors::audited,
    support::{House, Next, Scripted},
};

/// A server that can do one thing: store a row.
struct Caller {
    ledger: Arc<Scripted>,
    writer: Arc<Writer>,
}

impl Caller {
    fn of(house: &House) -> Self {
        let ledger = Scripted::new(house.store.clone(), []);
        Self { writer: Arc::new(house.writer(ledger.clone())), ledger }
    }

    /// Stores a row with the answer, once.
    async fn call(&self, once: Option<&Once>, content: &[&str], answer: u64) -> Result<Outcome<u64>, Error> {
        store(&self.writer, once, content, answer).await
    }
}

async fn store(
    writer: &Writer,
    once: Option<&Once>,
    content: &[&str],
    answer: u64,
) -> Result<Outcome<u64>, Error> {
    let mut commit = writer.begin();
    let attempt = Attempt::local("test", answer.to_string());
    let (id, now) = (writer.ids().uuid(), writer.clock().now());
    commit.audit.push(attempt.entry(id, now, audit::Outcome::Done, String::new(), 1));
    let content: Vec<&[u8]> = content.iter().map(|part| part.as_bytes()).collect();
    writer.apply_once(&mut commit, once, &content, &answer).await
}

/// The answers of the rows that are stored, the oldest first.
async fn stored(house: &House) -> Vec<u64> {
    let mut rows: Vec<u64> =
        audited(house).await.into_iter().map(|entry| entry.object.parse().unwrap()).collect();
    rows.reverse();
    rows
}

fn key(text: &str) -> Once {
    Once::new("token/1", "POST", "/things", text)
}

fn is_taken(result: Result<Outcome<u64>, Error>) -> bool {
    matches!(result, Err(Error::Conflict(why)) if why.contains("Idempotency-Key"))
}

#[tokio::test]
async fn the_same_call_again_changes_nothing_and_gets_the_first_answer_on_every_server() {
    let house = House::new();
    let (a, b) = (Caller::of(&house), Caller::of(&house));
    let once = key("k");
    assert_eq!(a.call(Some(&once), &["content"], 1).await.unwrap(), Outcome::Now);
    for (caller, answer) in [(&a, 2), (&b, 3), (&Caller::of(&house), 4), (&a, 1)] {
        assert_eq!(caller.call(Some(&once), &["content"], answer).await.unwrap(), Outcome::Before(1));
    }
    assert_eq!(stored(&house).await, [1]);
}

#[tokio::test]
async fn the_same_key_for_another_content_is_refused() {
    let house = House::new();
    let caller = Caller::of(&house);
    let once = key("k");
    assert_eq!(caller.call(Some(&once), &["ab", "c"], 1).await.unwrap(), Outcome::Now);
    for other in [&["a", "bc"][..], &["abc"], &["ab", "c", ""], &["c", "ab"], &[]] {
        assert!(is_taken(caller.call(Some(&once), other, 1).await), "{other:?}");
    }
    assert_eq!(caller.call(Some(&once), &["ab", "c"], 2).await.unwrap(), Outcome::Before(1));
    assert_eq!(stored(&house).await, [1]);
}

#[tokio::test]
async fn without_a_key_every_call_counts() {
    let house = House::automatic();
    let caller = Caller::of(&house);
    caller.ledger.then([Next::UnknownApplied, Next::Fine, Next::Conflict, Next::UnknownLost]);
    for (answer, expected) in
        [(1, Outcome::Now), (2, Outcome::Now), (3, Outcome::Conflict), (4, Outcome::Now)]
    {
        assert_eq!(caller.call(None, &["content"], answer).await.unwrap(), expected);
    }
    assert_eq!(stored(&house).await, [1, 2, 4]);
    caller.ledger.then([Next::UnknownLost; 100]);
    let lost = caller.call(None, &["content"], 5).await;
    assert!(matches!(lost, Err(Error::Unavailable { detail, .. }) if detail.contains("nothing was done")));
    assert_eq!(stored(&house).await, [1, 2, 4]);
}

#[tokio::test]
async fn a_key_belongs_to_a_credential_a_method_and_a_path() {
    let house = House::new();
    let caller = Caller::of(&house);
    let scopes = [
        ["token/1", "POST", "/things", "k"],
        ["token/2", "POST", "/things", "k"],
        ["token/1", "PUT", "/things", "k"],
        ["token/1", "POST", "/things/k", "k"],
        ["token/1", "POST", "/things", "K"],
        ["token/1", "POST", "/thing", "sk"],
        ["token/1P", "OST", "/things", "k"],
        ["", "", "", ""],
    ];
    for round in 0..2 {
        for (n, [credential, method, path, key]) in (1..).zip(scopes) {
            let once = Once::new(credential, method, path, key);
            let outcome = caller.call(Some(&once), &["content"], n).await.unwrap();
            let expected = if round == 0 { Outcome::Now } else { Outcome::Before(n) };
            assert_eq!(outcome, expected, "{credential} {method} {path} {key}");
        }
    }
    assert_eq!(stored(&house).await, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_attempt_that_got_lost_is_made_under_the_next_id_and_found_there() {
    for lost in 1..3 {
        let house = House::automatic();
        let (a, b) = (Caller::of(&house), Caller::of(&house));
        let once = key("k");
        a.ledger.then(std::iter::repeat_n(Next::UnknownLost, lost));
        assert_eq!(a.call(Some(&once), &["content"], 1).await.unwrap(), Outcome::Now);
        assert_eq!((a.ledger.commits(), a.ledger.settles()), (lost + 1, lost));
        for caller in [&a, &b] {
            assert_eq!(caller.call(Some(&once), &["content"], 2).await.unwrap(), Outcome::Before(1));
            assert!(is_taken(caller.call(Some(&once), &["other"], 2).await));
        }
        assert_eq!(stored(&house).await, [1]);
    }
}

#[tokio::test]
async fn a_call_that_always_gets_lost_ends_as_unavailable_with_nothing_done() {
    let house = House::automatic();
    let caller = Caller::of(&house);
    caller.ledger.then([Next::UnknownLost; 100]);
    let Err(Error::Unavailable { detail, .. }) = caller.call(Some(&key("k")), &["content"], 1).await else {
        panic!("it cannot succeed")
    };
    assert!(detail.contains("nothing was done"), "{detail}");
    assert!((2..100).contains(&caller.ledger.commits()), "bounded");
    assert!(stored(&house).await.is_empty());
}

#[tokio::test]
async fn a_call_whose_answer_got_lost_is_done_and_is_not_done_again() {
    let house = House::automatic();
    let caller = Caller::of(&house);
    let once = key("k");
    caller.ledger.then([Next::UnknownApplied]);
    caller.ledger.mute_settles(2);
    assert_eq!(caller.call(Some(&once), &["content"], 1).await.unwrap(), Outcome::Now);
    assert_eq!(caller.call(Some(&once), &["content"], 2).await.unwrap(), Outcome::Before(1));

    // Nobody can say what became of it; the call again can.
    let once = key("l");
    caller.ledger.then([Next::UnknownApplied]);
    caller.ledger.mute_settles(5);
    let unknown = caller.call(Some(&once), &["content"], 3).await;
    assert!(matches!(unknown, Err(Error::Unavailable { detail, .. }) if detail.contains("not known")));
    assert_eq!(caller.call(Some(&once), &["content"], 4).await.unwrap(), Outcome::Before(3));
    assert_eq!(stored(&house).await, [1, 3]);
}

#[tokio::test]
async fn what_certainly_was_not_done_leaves_the_key_as_it_was() {
    let house = House::new();
    let caller = Caller::of(&house);
    let once = key("k");
    caller.ledger.then([Next::Unavailable, Next::Conflict]);
    let away = caller.call(Some(&once), &["first"], 1).await;
    assert!(matches!(away, Err(Error::Unavailable { detail, .. }) if detail.contains("nothing was done")));
    assert_eq!(caller.call(Some(&once), &["second"], 2).await.unwrap(), Outcome::Conflict, "decide again");
    assert_eq!(caller.ledger.commits(), 2, "a conflict is not tried again under another id");
    assert_eq!(caller.call(Some(&once), &["third"], 3).await.unwrap(), Outcome::Now);
    assert_eq!(caller.call(Some(&once), &["third"], 4).await.unwrap(), Outcome::Before(3));
    assert_eq!(stored(&house).await, [3]);
}

#[tokio::test]
async fn a_lost_call_that_somebody_repeats_meanwhile_gets_the_answer_of_the_repetition() {
    let house = House::new();
    let (a, b) = (Caller::of(&house), Caller::of(&house));
    a.ledger.then([Next::UnknownLost]);
    a.ledger.mute_settles(1);
    let lost = tokio::spawn({
        let writer = a.writer.clone();
        async move { store(&writer, Some(&key("k")), &["content"], 1).await.unwrap() }
    });
    house.until_asleep().await;
    assert_eq!(b.call(Some(&key("k")), &["content"], 2).await.unwrap(), Outcome::Now);
    let _passing = house.passing(std::time::Duration::from_millis(5));
    assert_eq!(lost.await.unwrap(), Outcome::Before(2));
    assert_eq!(stored(&house).await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_is_done_and_all_get_its_answer() {
    let house = House::new();
    let calls: Vec<_> = (0..8)
        .map(|n| {
            let caller = Caller::of(&house);
            tokio::spawn(async move { caller.call(Some(&key("k")), &["content"], n).await.unwrap() })
        })
        .collect();
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await.unwrap());
    }
    let [first] = stored(&house).await.try_into().unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Now).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Before(first)).count(), 7);
}

#[tokio::test]
async fn whatever_the_ledger_does_a_key_counts_once_and_everybody_is_told_the_same() {
    for seed in 0..20 {
        println!("seed {seed}");
        let house = House::automatic();
        let faulty = Arc::new(FaultyLedger::new(house.store.clone(), seed, Rates::ROUGH));
        let writer = house.writer(faulty);
        let mut done = 0;
        for n in 0..10 {
            let once = key(&n.to_string());
            let mut answers = Vec::new();
            for repetition in 0..4 {
                let answer = n * 10 + repetition;
                match store(&writer, Some(&once), &["content"], answer).await {
                    Ok(Outcome::Now) => answers.push(answer),
                    Ok(Outcome::Before(first)) => answers.push(first),
                    Err(Error::Unavailable { .. }) => {}
                    other => panic!("{other:?}, seed {seed}"),
                }
            }
            answers.dedup();
            assert!(answers.len() <= 1, "{answers:?}, seed {seed}");
            // What is on its way comes late, or not at all.
            let rows: Vec<_> = stored(&house).await.into_iter().filter(|row| row / 10 == n).collect();
            assert!(rows.len() <= 1, "{rows:?}, seed {seed}");
            if let [answer] = answers[..] {
                assert_eq!(rows, [answer], "seed {seed}");
                done += 1;
            }
        }
        assert!(done >= 7, "{done} of 10 with seed {seed}");
    }
}

#[tokio::test]
async fn a_stored_answer_that_is_not_understood_is_a_defect_and_not_another_call() {
    let house = House::new();
    let caller = Caller::of(&house);
    let once = key("k");
    let mut commit = caller.writer.begin();
    let text = "not a number".to_owned();
    let first = caller.writer.apply_once(&mut commit, Some(&once), &[b"content"], &text).await.unwrap();
    assert_eq!(first, Outcome::Now);
    assert!(matches!(caller.call(Some(&once), &["content"], 1).await, Err(Error::Internal(_))));
    assert!(stored(&house).await.is_empty());
}
