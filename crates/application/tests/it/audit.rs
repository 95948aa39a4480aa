//! The audit: an entry with every change, a bounded account of everything else, one chain, nothing forgotten early.

use std::{collections::BTreeSet, time::Duration};

use aito_application::{
    Error,
    audit::{Broken, TELL_EVERY, Verified, verify},
};
use aito_domain::{
    audit::{AuditEntry, Checkpoint, Head, Outcome},
    ports::{
        audit_store::{AuditQuery, AuditStore as _},
        clock::Clock as _,
        ledger::Ledger as _,
    },
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    doors::{Guard, accountable, attempt, audited, public, wish},
    support::{House, Next, installation, ty},
};

/// How many kinds are counted between two times.
const KINDS: usize = 256;
const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

async fn verified(house: &House, exported: &[Checkpoint]) -> Verified {
    verify(&*house.store, &public(), exported).await.unwrap()
}

/// How an attempt of somebody that changes nothing ends.
fn refused(guard: &Guard, actor: &str, detail: &str) {
    guard.audit.ended(
        attempt(actor, "agents.start", "/agents/ceo/start"),
        Outcome::Refused,
        detail.to_owned(),
    );
}

fn times(entries: &[AuditEntry]) -> u64 {
    entries.iter().map(|entry| entry.times).sum()
}

/// The loop of a server, and what ends it.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn of(guard: &Guard) -> Self {
        let (audit, stop) = (guard.audit.clone(), CancellationToken::new());
        let stopping = stop.clone();
        Self { stop, task: tokio::spawn(async move { audit.run(stopping).await }) }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Lets the only loop of the house pass once, at the end of that time.
async fn pass(house: &House, by: Duration) {
    house.until_asleep().await;
    house.clock.advance(by).await;
    house.until_asleep().await;
}

#[tokio::test]
async fn an_entry_is_in_the_commit_of_its_change() {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    let guard = Guard::of(&house);
    let (by, making) = accountable("tokens.create", "/tokens");
    let (view, _) = guard.tokens.create(wish("ops"), &by, None).await.unwrap();
    assert_eq!(guard.ledger.commits(), 1, "one commit for both");
    let [entry] = audited(&house).await.try_into().unwrap();
    let detail = format!("{} \"ops\": viewer", view.token.id);
    let expected = making.entry(entry.id.0, view.token.created_at, Outcome::Done, detail, 1);
    assert_eq!(entry, expected);
    assert!(making.is_told());
    guard.audit.ended(making, Outcome::Done, String::new());
    guard.audit.tell().await;
    assert_eq!((audited(&house).await.len(), guard.ledger.commits()), (1, 1), "it is told once");

    let (by, starting) = accountable("agents.start", "/agents/ceo/start");
    server.fleet.start(&ty("ceo"), &by).await.unwrap();
    assert!(starting.is_told());
    assert_eq!(audited(&house).await[0].operation, "agents.start");
}

#[tokio::test]
async fn a_change_that_fails_leaves_no_entry_and_is_told_as_failed() {
    let house = House::automatic();
    let guard = Guard::of(&house);
    guard.ledger.then([Next::Unavailable]);
    let (by, attempt) = accountable("tokens.create", "/tokens");
    let failed = guard.tokens.create(wish("ops"), &by, None).await;
    assert!(matches!(failed, Err(Error::Unavailable { .. })));
    assert_eq!((house.tokens().await.len(), audited(&house).await.len()), (0, 0));
    assert!(!attempt.is_told());
    guard.audit.ended(attempt, Outcome::Failed, "503".to_owned());
    guard.audit.tell().await;
    let [entry] = audited(&house).await.try_into().unwrap();
    assert_eq!((entry.outcome, entry.detail.as_str(), entry.times), (Outcome::Failed, "503", 1));
}

#[tokio::test]
async fn a_change_that_is_tried_again_has_one_entry() {
    for faults in [vec![Next::Conflict; 2], vec![Next::UnknownLost], vec![Next::UnknownApplied]] {
        let house = House::automatic();
        let guard = Guard::of(&house);
        guard.ledger.then(faults.clone());
        let (by, attempt) = accountable("tokens.create", "/tokens");
        let (view, _) = guard.tokens.create(wish("ops"), &by, None).await.unwrap();
        assert_eq!((audited(&house).await.len(), attempt.is_told()), (1, true), "{faults:?}");
        guard.ledger.then(faults.clone());
        let (by, attempt) = accountable("tokens.revoke", "/tokens/x");
        guard.tokens.revoke(view.token.id, None, &by).await.unwrap();
        assert_eq!((audited(&house).await.len(), attempt.is_told()), (2, true), "{faults:?}");
        let (by, again) = accountable("tokens.revoke", "/tokens/x");
        guard.tokens.revoke(view.token.id, None, &by).await.unwrap();
        assert!(!again.is_told(), "nothing was changed");
        assert_eq!(audited(&house).await.len(), 2);
    }
}

#[tokio::test]
async fn commands_on_the_machine_are_in_the_audit_too() {
    let house = House::automatic();
    let guard = Guard::of(&house);
    guard.tokens.first(installation(), |_| Ok(())).await.unwrap();
    guard.tokens.recover(|_| Ok(())).await.unwrap();
    let told: Vec<_> = audited(&house)
        .await
        .into_iter()
        .map(|entry| (entry.operation, entry.actor, entry.credential, entry.source))
        .collect();
    let of = |operation: &str| (operation.to_owned(), "system".into(), "none".into(), "local".into());
    assert_eq!(told, [of("tokens.recover"), of("tokens.create")]);
}

#[tokio::test]
async fn what_changed_nothing_is_told_within_one_tell_and_what_a_commit_told_is_not_told_again() {
    let house = House::new();
    let guard = Guard::of(&house);
    let running = Running::of(&guard);
    let (by, told) = accountable("tokens.create", "/tokens");
    guard.tokens.create(wish("ops"), &by, None).await.unwrap();
    let at = house.clock.now();
    for outcome in [Outcome::Done, Outcome::Unchanged] {
        guard.audit.ended(told.clone(), outcome, String::new());
    }
    for outcome in Outcome::ALL {
        let attempt = attempt("token:root", "agents.stop", "/agents/ceo/stop");
        guard.audit.ended(attempt, outcome, "why".to_owned());
    }
    guard.audit.ended(told, Outcome::Failed, "after it was done".to_owned());
    pass(&house, TELL_EVERY).await;
    let entries = audited(&house).await;
    let outcomes: BTreeSet<_> =
        entries.iter().filter(|entry| entry.detail == "why").map(|entry| entry.outcome.as_str()).collect();
    assert_eq!(outcomes, Outcome::ALL.map(Outcome::as_str).into());
    assert_eq!(entries.iter().filter(|entry| entry.detail == "after it was done").count(), 1);
    assert_eq!(entries.len(), 1 + Outcome::ALL.len() + 1);
    assert!(entries.iter().all(|entry| entry.at == at && entry.times == 1), "{entries:?}");
    assert_eq!(verified(&house, &guard.sink.heads()).await.entries, 6, "it is sealed at the same time");
    running.end().await;
}

#[tokio::test]
async fn attempts_that_are_alike_are_one_entry_that_counts_them() {
    let house = House::new();
    let guard = Guard::of(&house);
    let at = house.clock.now();
    for _ in 0..1000 {
        refused(&guard, "token:eve", "401");
        house.pass(MOMENT);
    }
    refused(&guard, "token:eve", "403");
    refused(&guard, "token:ann", "401");
    for object in ["/agents/ceo/stop", "/agents/cmo/stop"] {
        guard.audit.ended(attempt("token:eve", "agents.stop", object), Outcome::Refused, "401".to_owned());
    }
    guard.audit.tell().await;
    assert_eq!(guard.ledger.commits(), 1);
    let entries = audited(&house).await;
    let [flood] = entries.iter().filter(|entry| entry.times > 1).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(
        (flood.times, flood.at, flood.actor.as_str()),
        (1000, at, "token:eve"),
        "since the first of them"
    );
    assert_eq!((entries.len(), times(&entries)), (5, 1004));
    guard.audit.tell().await;
    assert_eq!(guard.ledger.commits(), 1, "nothing waits, and nothing is written");
    refused(&guard, "token:eve", "401");
    guard.audit.tell().await;
    assert_eq!(audited(&house).await[0].times, 1, "it is counted anew");
}

#[tokio::test]
async fn who_has_no_credential_is_one_entry_whatever_the_paths() {
    let house = House::new();
    let guard = Guard::of(&house);
    for n in 0..2000 {
        let attempt = attempt("nobody", if n % 2 == 0 { "login" } else { "agents.start" }, &format!("/{n}"));
        guard.audit.ended(attempt, Outcome::Refused, "401".to_owned());
    }
    refused(&guard, "token:ann", "403");
    guard.audit.tell().await;
    let entries = audited(&house).await;
    assert_eq!((entries.len(), times(&entries)), (2, 2001));
    let strangers = entries.iter().find(|entry| entry.actor == "nobody").unwrap();
    assert_eq!(
        (strangers.times, strangers.operation.as_str(), strangers.object.as_str()),
        (2000, "login", "/0")
    );
}

#[tokio::test]
async fn a_flood_of_different_kinds_stays_a_few_rows_and_every_attempt_is_counted() {
    let house = House::new();
    let guard = Guard::of(&house);
    for n in 0..KINDS {
        refused(&guard, &format!("token:{n}"), "403");
    }
    for n in 0..10_000 {
        refused(&guard, &format!("token:other-{n}"), "403");
        refused(&guard, "token:7", "403");
    }
    guard.audit.tell().await;
    let entries = audited(&house).await;
    assert_eq!((entries.len(), times(&entries)), (KINDS + 1, KINDS as u64 + 20_000));
    let [various] =
        entries.iter().filter(|entry| entry.actor == "various").collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(various.times, 10_000);
    let unnamed = [&various.credential, &various.source, &various.object];
    assert_eq!(unnamed, ["various"; 3], "it speaks for nobody");
    assert_eq!(various.detail, "too many kinds at once");
    let known = entries.iter().find(|entry| entry.actor == "token:7").unwrap();
    assert_eq!(known.times, 10_001, "what was known before the flood is counted apart");
}

#[tokio::test]
async fn what_cannot_be_stored_is_kept_and_counted_on() {
    for fault in [Next::Unavailable, Next::UnknownLost, Next::Conflict] {
        let house = House::automatic();
        let guard = Guard::of(&house);
        let at = house.clock.now();
        refused(&guard, "nobody", "401");
        refused(&guard, "nobody", "401");
        refused(&guard, "token:ann", "403");
        guard.ledger.then([fault]);
        guard.audit.tell().await;
        assert_eq!(audited(&house).await, [], "{fault:?}");
        house.pass(SECOND);
        refused(&guard, "nobody", "401");
        refused(&guard, "token:bob", "403");
        guard.audit.tell().await;
        let entries = audited(&house).await;
        let mut counts: Vec<_> = entries.iter().map(|entry| (entry.actor.as_str(), entry.times)).collect();
        counts.sort_unstable();
        assert_eq!(counts, [("nobody", 3), ("token:ann", 1), ("token:bob", 1)], "{fault:?}");
        let ann = entries.iter().find(|entry| entry.actor == "token:ann").unwrap();
        assert_eq!(ann.at, at, "when it was tried, not when it was stored");
    }
    let house = House::automatic();
    let guard = Guard::of(&house);
    refused(&guard, "nobody", "401");
    guard.ledger.then([Next::UnknownApplied]);
    guard.audit.tell().await;
    guard.audit.tell().await;
    assert_eq!(audited(&house).await.len(), 1, "what was stored is not stored again");
}

#[tokio::test]
async fn what_is_kept_while_the_store_is_away_stays_bounded() {
    let house = House::new();
    let guard = Guard::of(&house);
    guard.ledger.then([Next::Unavailable; 10]);
    for round in 0..10 {
        for n in 0..2 * KINDS {
            refused(&guard, &format!("token:{round}-{n}"), "403");
        }
        guard.audit.tell().await;
    }
    guard.audit.tell().await;
    let entries = audited(&house).await;
    assert!((KINDS..=2 * KINDS + 1).contains(&entries.len()), "{} rows", entries.len());
    assert!(entries.iter().any(|entry| entry.actor == "token:0-0"), "the first are not lost for the later");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_seal_at_once_make_one_chain() {
    let house = House::new();
    let guards = [Guard::of(&house), Guard::of(&house)];
    let writer = house.writer(house.store.clone());
    let done = CancellationToken::new();
    let sealing: Vec<_> = guards
        .iter()
        .map(|guard| {
            let (audit, store, done) = (guard.audit.clone(), house.store.clone(), done.clone());
            tokio::spawn(async move {
                // Who is slower may lose every race; when nobody writes any more it finds everything sealed.
                loop {
                    let is_over = done.is_cancelled();
                    let head = audit.seal().await;
                    if is_over && head.is_some() && store.unsealed(1).await.unwrap().is_empty() {
                        return;
                    }
                }
            })
        })
        .collect();
    let mut written = BTreeSet::new();
    for size in [1_usize, 2, 700, 3, 1, 1200, 40, 5] {
        let mut commit = writer.begin();
        for _ in 0..size {
            let now = house.clock.now();
            let entry = attempt("nobody", "agents.start", "/").entry(
                writer.ids().uuid(),
                now,
                Outcome::Refused,
                String::new(),
                1,
            );
            written.insert(entry.id);
            commit.audit.push(entry);
        }
        house.store.commit(&commit).await.unwrap();
    }
    done.cancel();
    for task in sealing {
        task.await.unwrap();
    }
    let found = verified(&house, &[]).await;
    assert_eq!((found.entries, found.after, found.unsealed), (written.len() as u64, 0, 0));
    let chain = house.store.sealed(0, 10_000).await.unwrap();
    assert_eq!(chain.into_iter().map(|sealed| sealed.entry.id).collect::<BTreeSet<_>>(), written);
}

#[tokio::test]
async fn a_head_is_exported_at_once_then_once_a_minute_and_at_the_end() {
    let house = House::new();
    let guard = Guard::of(&house);
    let running = Running::of(&guard);
    let exported = || guard.sink.heads().into_iter().map(|checkpoint| checkpoint.head.n).collect::<Vec<_>>();
    pass(&house, TELL_EVERY).await;
    assert!(exported().is_empty(), "there is nothing yet");
    refused(&guard, "token:ann", "403");
    pass(&house, TELL_EVERY).await;
    assert_eq!(exported(), [1]);
    refused(&guard, "token:bob", "403");
    pass(&house, TELL_EVERY).await;
    assert_eq!((exported(), house.store.head().await.unwrap().n), (vec![1], 2));
    pass(&house, 58 * SECOND).await;
    assert_eq!(exported(), [1]);
    pass(&house, SECOND).await;
    assert_eq!(exported(), [1, 2]);
    pass(&house, 120 * SECOND).await;
    assert_eq!(exported(), [1, 2], "a head that has not moved is not exported again");
    refused(&guard, "token:eve", "403");
    running.end().await;
    assert_eq!(exported(), [1, 2, 3], "a stop tells, seals and exports");
    assert!(guard.sink.heads().iter().all(|checkpoint| checkpoint.is_signed_by(&public())));
    let found = verified(&house, &guard.sink.heads()).await;
    assert_eq!((found.entries, found.exported, found.unsealed), (3, 3, 0));
}

#[tokio::test]
async fn what_is_not_sealed_yet_is_said_to_be_so() {
    let house = House::new();
    let guard = Guard::of(&house);
    let nothing = Verified { entries: 0, after: 0, head: Head::NONE, exported: 0, unsealed: 0 };
    assert_eq!(verified(&house, &[]).await, nothing);
    refused(&guard, "nobody", "401");
    guard.audit.tell().await;
    assert_eq!(verified(&house, &[]).await, Verified { unsealed: 1, ..nothing });
    guard.door.shut();
    assert_eq!(guard.audit.seal().await, None, "the store is away");
    let unreadable = verify(&*guard.door, &public(), &[]).await;
    assert!(matches!(unreadable, Err(Broken::Unreadable(_))), "{unreadable:?}");
    let page = guard.audit.list(&AuditQuery::default(), 10).await;
    assert!(matches!(page, Err(Error::Unavailable { .. })));
    guard.door.open();
    let head = guard.audit.seal().await.unwrap();
    assert_eq!((head.n, guard.audit.seal().await), (1, Some(head)));
    assert_eq!(verified(&house, &[]).await, Verified { entries: 1, head, ..nothing });
    assert_eq!(guard.audit.list(&AuditQuery::default(), 10).await.unwrap()[0].place, Some(head));
}

#[tokio::test]
async fn nothing_is_forgotten_before_its_time_and_the_chain_goes_on_from_a_signed_checkpoint() {
    const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
    let house = House::new();
    let (guard, forever) = (Guard::keeping(&house, KEEP), Guard::of(&house));
    let told = async |actor: &str| {
        refused(&guard, actor, "403");
        guard.audit.tell().await;
        guard.audit.seal().await.unwrap()
    };
    told("token:ann").await;
    let old = told("token:bob").await;
    house.pass(10 * SECOND);
    let young = told("token:eve").await;

    // Who keeps everything forgets nothing, however old it is.
    house.pass(KEEP - 2 * SECOND);
    let running = Running::of(&forever);
    pass(&house, SECOND).await;
    running.end().await;
    assert_eq!(house.store.checkpoint().await.unwrap(), None);

    // What cannot be exported is not forgotten either.
    guard.sink.fill(true);
    let running = Running::of(&guard);
    pass(&house, SECOND).await;
    assert_eq!((audited(&house).await.len(), house.store.checkpoint().await.unwrap()), (3, None));
    running.end().await;
    guard.sink.fill(false);
    house.clock.set(house.clock.now() - SECOND);

    // At this moment the third entry is exactly as old as entries are kept.
    let running = Running::of(&guard);
    pass(&house, SECOND).await;
    let checkpoint = house.store.checkpoint().await.unwrap().expect("the first two are too old");
    assert_eq!((checkpoint.head, checkpoint.is_start_signed_by(&public())), (old, true));
    assert!(guard.sink.heads().iter().any(|head| head.head == old), "it stands elsewhere too");
    assert_eq!(audited(&house).await.into_iter().map(|entry| entry.actor).collect::<Vec<_>>(), ["token:eve"]);
    let found = verified(&house, &guard.sink.heads()).await;
    assert_eq!((found.entries, found.after, found.head), (1, old.n, young));

    // And it is looked for what is old every ten minutes.
    pass(&house, Duration::from_secs(599)).await;
    assert_eq!(audited(&house).await.len(), 1);
    let next = told("token:zoe").await;
    pass(&house, SECOND).await;
    assert_eq!(audited(&house).await.into_iter().map(|entry| entry.actor).collect::<Vec<_>>(), ["token:zoe"]);
    running.end().await;
    let found = verified(&house, &guard.sink.heads()).await;
    assert_eq!((found.entries, found.after, found.head), (1, young.n, next));
}

#[tokio::test]
async fn many_old_entries_are_forgotten_part_by_part() {
    let house = House::new();
    let guard = Guard::keeping(&house, SECOND);
    let mut commit = guard.writer.begin();
    for _ in 0..4100 {
        let id = guard.writer.ids().uuid();
        let attempt = attempt("nobody", "agents.start", "/");
        commit.audit.push(attempt.entry(id, house.clock.now(), Outcome::Refused, String::new(), 1));
    }
    house.store.commit(&commit).await.unwrap();
    house.pass(10 * SECOND);
    let running = Running::of(&guard);
    pass(&house, SECOND).await;
    running.end().await;
    let checkpoints: BTreeSet<_> = guard.sink.heads().iter().map(|checkpoint| checkpoint.head.n).collect();
    assert_eq!(checkpoints, [2000, 4000, 4100].into());
    assert_eq!(audited(&house).await, []);
    let found = verified(&house, &guard.sink.heads()).await;
    assert_eq!((found.entries, found.after, found.head.n), (0, 4100, 4100));
}

#[tokio::test]
async fn a_chain_that_grows_while_it_is_verified_is_whole() {
    let house = House::new();
    let guard = Guard::of(&house);
    for round in 0..20 {
        refused(&guard, &format!("token:{round}"), "403");
        guard.audit.tell().await;
        // The head is read, and before the entries are it moves.
        let (first, second) = (guard.door.hold_next(), guard.door.hold_next());
        drop(first.open);
        let verifying = tokio::spawn({
            let door = guard.door.clone();
            async move { verify(&*door, &public(), &[]).await }
        });
        second.reached.await.unwrap();
        let sealing = Guard::of(&house);
        sealing.audit.seal().await.unwrap();
        drop(second.open);
        let found = verifying.await.unwrap().unwrap();
        assert_eq!(found.entries, round + 1);
    }
}
