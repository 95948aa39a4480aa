//! The rules of `AuditStore`.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aito_domain::{
    audit::{AuditEntry, AuditKey, Checkpoint, Head, MAX_FIELD, Outcome, Seal, Sealed},
    id::AuditId,
    installation::InstallationKey,
    ports::{
        audit_store::{AuditQuery, AuditStore, Listed, SealError},
        clock::Clock as _,
        ledger::Commit,
    },
    time::millis,
};
use futures_util::future::join_all;
use uuid::Uuid;

use super::{Handles, Maker, Snapshot, StoreFixture, event_log::persistent, must, within};

/// Rule 1.
pub async fn audit_store_01_unsealed_gives_what_has_no_place_yet_by_id<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    assert_eq!(handles.audit.unsealed(10).await.unwrap(), []);
    let mut waiting = Vec::new();
    for n in 0..20_u32 {
        // Ids do not follow the order of writing.
        let entries = entries_out_of_order(&make, n * 2..n * 2 + 2, 40);
        let writes = if n % 2 == 0 { &handles } else { &other };
        must(&writes.ledger, &Commit { audit: entries.clone(), ..make.commit() }).await;
        waiting.extend(entries);
        waiting.sort_by_key(|entry| entry.id);
        for store in [&other.audit, &handles.audit] {
            assert_eq!(
                store.unsealed(100).await.unwrap(),
                waiting,
                "it is there when the commit has returned"
            );
        }
        for limit in [0, 1, 3] {
            let expected = &waiting[..waiting.len().min(limit as usize)];
            assert_eq!(handles.audit.unsealed(limit).await.unwrap(), expected);
        }
    }
    let mut head = Head::NONE;
    for size in [1, 5, 34] {
        let sealed = chain(head, &waiting[..size]);
        seal(&handles.audit, head, &sealed).await.unwrap();
        head = end(head, &sealed);
        waiting.drain(..size);
        assert_eq!(other.audit.unsealed(100).await.unwrap(), waiting);
    }
    // What comes with an id below those that have their places waits for its own.
    let late = AuditEntry { id: AuditId(Uuid::from_u128(1)), ..make.audit("late") };
    must(&handles.ledger, &make.auditing(&late)).await;
    assert_eq!(handles.audit.unsealed(100).await.unwrap(), [late]);
}

/// Rule 2.
pub async fn audit_store_02_head_is_what_the_last_seal_made_it<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    let mut head = Head::NONE;
    for round in 0..6_usize {
        let (handles, other) = (fixture.handles(), fixture.second_handle().await);
        for store in [&handles.audit, &other.audit] {
            assert_eq!(store.head().await.unwrap(), head);
        }
        let entries: Vec<_> = (0..=round % 3).map(|n| make.audit(&format!("{round}: {n}"))).collect();
        must(&handles.ledger, &Commit { audit: entries.clone(), ..make.commit() }).await;
        assert_eq!(handles.audit.head().await.unwrap(), head, "writing an entry does not seal it");
        let sealed = chain(head, &entries);
        seal(if round % 2 == 0 { &handles.audit } else { &other.audit }, head, &sealed).await.unwrap();
        head = entries.iter().fold(head, Head::then);
        for store in [&handles.audit, &other.audit] {
            assert_eq!(store.head().await.unwrap(), head);
        }
        drop((handles, other));
        if round % 2 == 1 {
            fixture.reopen().await;
        }
    }
    assert_eq!(head.n, 12);
}

/// Rule 3.
pub async fn audit_store_03_sealing_is_all_or_none_and_from_the_head_only<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let entries: Vec<_> = (0..60).map(|n| make.audit(&n.to_string())).collect();
    must(&handles.ledger, &Commit { audit: entries.clone(), ..make.commit() }).await;
    let first = chain(Head::NONE, &entries[..2]);
    seal(&handles.audit, Head::NONE, &first).await.unwrap();
    let mut head = end(Head::NONE, &first);

    let before = Snapshot::of(&handles).await;
    let nobody = make.audit("not stored");
    let (sealed, open) = (&entries[0], &entries[2]);
    for (from, tried) in [
        (Head::NONE, vec![open]),
        (Head { seal: Seal([7; 32]), ..head }, vec![open]),
        (Head { n: head.n - 1, ..head }, vec![open]),
        (Head { n: head.n + 1, ..head }, vec![open]),
        (head, vec![sealed]),
        (head, vec![open, sealed]),
        (head, vec![sealed, open]),
        (head, vec![&nobody]),
        (head, vec![open, &nobody]),
        (head, vec![&nobody, open]),
        (head, vec![open, open]),
    ] {
        let tried: Vec<_> = tried.into_iter().cloned().collect();
        for store in [&handles.audit, &other.audit] {
            let answer = seal(store, from, &chain(from, &tried)).await;
            assert!(matches!(answer, Err(SealError::Conflict)), "{from:?}, {tried:?}: {answer:?}");
            assert_eq!(Snapshot::of(&handles).await, before, "{from:?}, {tried:?} left a trace");
        }
    }

    // Eight at once from one head, each with entries of its own choice, of which many are those of others too.
    for round in 0..6_usize {
        let open = handles.audit.unsealed(100).await.unwrap();
        let racers = (0..8_usize).map(|n| {
            let store = Arc::clone(if n % 2 == 0 { &handles.audit } else { &other.audit });
            let mut chosen: Vec<_> = open.iter().skip((n + round) % 4).take(1 + n % 3).cloned().collect();
            chosen.push(open[10 + n].clone());
            let tried = chain(head, &chosen);
            tokio::spawn(async move { (seal(&store, head, &tried).await, tried) })
        });
        let mut winners = Vec::new();
        for racer in within(join_all(racers.collect::<Vec<_>>())).await {
            match racer.unwrap() {
                (Ok(()), tried) => winners.push(tried),
                (Err(SealError::Conflict), _) => {}
                (Err(other), _) => panic!("{other:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(other.audit.sealed(head.n, 100).await.unwrap(), winners[0], "round {round}");
        let left = handles.audit.unsealed(100).await.unwrap();
        assert_eq!(left.len(), open.len() - winners[0].len(), "nothing of the others' counts");
        head = end(head, &winners[0]);
        assert_eq!(handles.audit.head().await.unwrap(), head, "round {round}");
    }
}

/// Rule 4, under load: two that seal race, while others write; the chain is whole and holds every entry once.
pub async fn audit_store_04_sealed_gives_the_chain_in_order_as_it_was_sealed<F: StoreFixture>() {
    const WRITERS: u32 = 4;
    const COMMITS: u32 = 8;

    let mut fixture = F::fresh().await;
    let make = Arc::new(Maker::new());
    let (handles, other) = (fixture.handles(), fixture.second_handle().await);
    assert_eq!(handles.audit.sealed(0, 10).await.unwrap(), []);
    let odd = odd_entries(&make);
    must(&handles.ledger, &Commit { audit: odd.clone(), ..make.commit() }).await;
    for listed in handles.audit.page(&AuditQuery::default(), 100).await.unwrap() {
        assert!(odd.contains(&listed.entry), "as it was written: {listed:?}");
    }
    let done = Arc::new(AtomicBool::new(false));
    let sealers: Vec<_> = [&handles, &other]
        .into_iter()
        .enumerate()
        .map(|(n, handles)| {
            let (audit, done) = (Arc::clone(&handles.audit), Arc::clone(&done));
            tokio::spawn(async move { seal_what_comes(&audit, &done, 3 + 2 * n as u32).await })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (make, ledger) = (
                Arc::clone(&make),
                Arc::clone(if writer % 2 == 0 { &handles.ledger } else { &other.ledger }),
            );
            tokio::spawn(async move {
                let mut written = Vec::new();
                for n in 0..COMMITS {
                    let audit: Vec<_> =
                        (0..=n % 3).map(|m| make.audit(&format!("{writer}: {n}: {m}"))).collect();
                    written.extend(audit.clone());
                    persistent(&ledger, &Commit { audit, ..make.commit() }).await.unwrap();
                }
                written
            })
        })
        .collect();
    let mut written = odd;
    for writer in within(join_all(writers)).await {
        written.extend(writer.unwrap());
    }
    done.store(true, Ordering::SeqCst);
    for sealer in within(join_all(sealers)).await {
        sealer.unwrap();
    }

    assert_eq!(handles.audit.unsealed(1000).await.unwrap(), []);
    let all = handles.audit.sealed(0, 1000).await.unwrap();
    assert_eq!(all, chain(Head::NONE, &all.iter().map(|sealed| sealed.entry.clone()).collect::<Vec<_>>()));
    let ids: BTreeSet<_> = all.iter().map(|sealed| sealed.entry.id).collect();
    assert_eq!((ids.len(), all.len()), (written.len(), written.len()), "every entry once");
    for entry in &written {
        assert!(all.iter().any(|sealed| sealed.entry == *entry), "{entry:?} is not read as it was written");
    }
    assert_eq!(handles.audit.head().await.unwrap(), end(Head::NONE, &all));
    for (n, limit) in [(0, 0), (0, 1), (0, 7), (3, 7), (all.len() - 2, 7), (all.len() - 1, 1)] {
        let expected: Vec<_> = all.iter().skip(n).take(limit).cloned().collect();
        let found = other.audit.sealed(n as u64, u32::try_from(limit).unwrap()).await.unwrap();
        assert_eq!(found, expected);
    }
    for beyond in [all.len() as u64, i64::MAX as u64, u64::MAX] {
        assert_eq!(handles.audit.sealed(beyond, 5).await.unwrap(), []);
    }
    drop((handles, other));
    fixture.reopen().await;
    assert_eq!(fixture.handles().audit.sealed(0, 1000).await.unwrap(), all);
}

/// Rule 5.
pub async fn audit_store_05_page_gives_the_newest_first_filtered<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.audit.page(&AuditQuery::default(), 10).await.unwrap(), []);
    let (actors, operations) = (["token:ops", "agent:ceo"], ["agents.start", "tokens.create", "audit"]);
    let entries: Vec<_> = entries_out_of_order(&make, 0..36, 36)
        .into_iter()
        .enumerate()
        .map(|(n, entry)| AuditEntry {
            actor: actors[n % 2].to_owned(),
            operation: operations[n % 3].to_owned(),
            outcome: Outcome::ALL[n / 2 % 4],
            ..entry
        })
        .collect();
    for chunk in entries.chunks(7) {
        must(&handles.ledger, &Commit { audit: chunk.to_vec(), ..make.commit() }).await;
    }
    // Every third has a place, in an order of its own.
    let sealed = chain(Head::NONE, &entries.iter().step_by(3).cloned().collect::<Vec<_>>());
    seal(&handles.audit, Head::NONE, &sealed).await.unwrap();
    let mut all: Vec<_> = entries
        .iter()
        .map(|entry| Listed {
            entry: entry.clone(),
            place: sealed
                .iter()
                .find(|sealed| sealed.entry.id == entry.id)
                .map(|sealed| Head { n: sealed.n, seal: sealed.seal }),
        })
        .collect();
    all.sort_by_key(|listed| std::cmp::Reverse(listed.entry.id));
    let befores = [None, Some(all[0].entry.id), Some(all[17].entry.id), Some(all[35].entry.id)];
    let beyond = [Some(AuditId(Uuid::nil())), Some(AuditId(Uuid::max()))];
    for actor in [None, Some(actors[0]), Some(actors[1]), Some("nobody")] {
        for operation in [None, Some(operations[0]), Some(operations[2])] {
            for outcome in [None, Some(Outcome::Done), Some(Outcome::Refused)] {
                for before in befores.into_iter().chain(beyond) {
                    for limit in [0, 2, 100] {
                        let query = AuditQuery {
                            actor: actor.map(str::to_owned),
                            operation: operation.map(str::to_owned),
                            outcome,
                            before,
                        };
                        let expected: Vec<_> = all
                            .iter()
                            .filter(|Listed { entry, .. }| {
                                actor.is_none_or(|actor| actor == entry.actor)
                                    && operation.is_none_or(|operation| operation == entry.operation)
                                    && outcome.is_none_or(|outcome| outcome == entry.outcome)
                                    && before.is_none_or(|before| entry.id < before)
                            })
                            .take(limit as usize)
                            .cloned()
                            .collect();
                        let found = handles.audit.page(&query, limit).await.unwrap();
                        assert_eq!(found, expected, "{query:?}, {limit}");
                    }
                }
            }
        }
    }
}

/// Rule 6.
pub async fn audit_store_06_prune_removes_what_the_checkpoint_covers<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let (chained, waiting) = sealed_and_waiting(&handles, &make, 20, 3).await;
    let head = end(Head::NONE, &chained);
    let at = |n: u64| checkpoint(&make, &chained, n);
    let left = async |store: &Arc<dyn AuditStore>| {
        (store.sealed(0, 100).await.unwrap(), store.page(&AuditQuery::default(), 100).await.unwrap().len())
    };

    for (n, went) in [(3, 3), (3, 0), (4, 1), (9, 5)] {
        assert_eq!(prune(&handles.audit, &at(n)).await.unwrap(), went, "up to {n}");
        assert_eq!(left(&other.audit).await, (chained[n as usize..].to_vec(), 23 - n as usize));
        assert_eq!(handles.audit.checkpoint().await.unwrap(), Some(at(n)));
    }
    for below in [0, 1, 8] {
        let before = Snapshot::of(&handles).await;
        for store in [&handles.audit, &other.audit] {
            let answer = prune(store, &at(below)).await;
            assert!(matches!(answer, Err(SealError::Conflict)), "{below}: {answer:?}");
        }
        assert_eq!(Snapshot::of(&handles).await, before);
    }
    assert_eq!(handles.audit.checkpoint().await.unwrap(), Some(at(9)));

    // Several at once, in any order: the highest one counts, and nothing above it goes.
    let racers = [12, 15, 10, 17, 11, 16].into_iter().enumerate().map(|(n, to)| {
        let store = Arc::clone(if n % 2 == 0 { &handles.audit } else { &other.audit });
        let checkpoint = at(to);
        tokio::spawn(async move { (to, prune(&store, &checkpoint).await) })
    });
    for racer in within(join_all(racers.collect::<Vec<_>>())).await {
        match racer.unwrap() {
            (_, Ok(_)) => {}
            (to, Err(SealError::Conflict)) => assert!(to < 17, "nothing is above it"),
            (to, Err(other)) => panic!("{to}: {other:?}"),
        }
    }
    assert_eq!(left(&handles.audit).await, (chained[17..].to_vec(), 6));
    assert_eq!(other.audit.checkpoint().await.unwrap(), Some(at(17)));

    // To the end: what waits stays, and the chain goes on where it was.
    assert_eq!(prune(&handles.audit, &at(20)).await.unwrap(), 3);
    assert_eq!(left(&other.audit).await, (Vec::new(), 3));
    assert_eq!(handles.audit.unsealed(100).await.unwrap(), waiting);
    assert_eq!(other.audit.head().await.unwrap(), head, "the end of the chain is not forgotten");
    let next = chain(head, &waiting);
    seal(&other.audit, head, &next).await.unwrap();
    assert_eq!(handles.audit.sealed(0, 100).await.unwrap(), next);
}

/// Rule 7.
pub async fn audit_store_07_checkpoint_is_what_the_last_prune_kept<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    for handles in [fixture.handles(), fixture.second_handle().await] {
        assert_eq!(handles.audit.checkpoint().await.unwrap(), None);
    }
    let (chained, _) = sealed_and_waiting(&fixture.handles(), &make, 9, 1).await;
    assert_eq!(fixture.handles().audit.checkpoint().await.unwrap(), None, "sealing keeps none");
    for n in [2, 5, 5, 9] {
        make.clock().advance(std::time::Duration::from_millis(7)).await;
        let kept = checkpoint(&make, &chained, n);
        prune(&fixture.handles().audit, &kept).await.unwrap();
        for round in 0..2 {
            let read = fixture.handles().audit.checkpoint().await.unwrap();
            assert_eq!(read, Some(kept), "{n}");
            assert!(kept.is_signed_by(&key().public()));
            assert_eq!(fixture.second_handle().await.audit.checkpoint().await.unwrap(), Some(kept), "{n}");
            if round == 0 {
                fixture.reopen().await;
            }
        }
    }
}

/// What is sealed after a head, with the seals that follow from it.
fn chain(head: Head, entries: &[AuditEntry]) -> Vec<Sealed> {
    let mut head = head;
    entries
        .iter()
        .map(|entry| {
            head = head.then(entry);
            Sealed { n: head.n, seal: head.seal, entry: entry.clone() }
        })
        .collect()
}

/// The head after all of them.
fn end(head: Head, sealed: &[Sealed]) -> Head {
    sealed.last().map_or(head, |last| Head { n: last.n, seal: last.seal })
}

/// Seals; where it is not known whether it counted, the head tells: every attempt here would end in another one.
async fn seal(store: &Arc<dyn AuditStore>, head: Head, entries: &[Sealed]) -> Result<(), SealError> {
    let mut unsure = false;
    within(async {
        loop {
            match store.seal(head, entries).await {
                Err(SealError::Unavailable(_)) => unsure = true,
                Err(SealError::Conflict) if unsure => {
                    let counted = store.head().await.unwrap() == end(head, entries);
                    return if counted { Ok(()) } else { Err(SealError::Conflict) };
                }
                answer => return answer,
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Prunes; the same again changes nothing.
async fn prune(store: &Arc<dyn AuditStore>, checkpoint: &Checkpoint) -> Result<u64, SealError> {
    within(async {
        loop {
            match store.prune(checkpoint).await {
                Err(SealError::Unavailable(_)) => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    })
    .await
}

/// Seals up to `size` at a time, until nothing waits any more after the writers are done.
async fn seal_what_comes(audit: &Arc<dyn AuditStore>, done: &AtomicBool, size: u32) {
    loop {
        let last_round = done.load(Ordering::SeqCst);
        // In this order: whoever has sealed between the two has moved the head away from the one read first.
        let head = audit.head().await.unwrap();
        let waiting = audit.unsealed(size).await.unwrap();
        if waiting.is_empty() {
            if last_round {
                return;
            }
            tokio::task::yield_now().await;
            continue;
        }
        // Refused where the other one was first; then it is read again.
        match seal(audit, head, &chain(head, &waiting)).await {
            Ok(()) | Err(SealError::Conflict) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// The entries `range` of `of`, whose ids are spread over the whole space and do not follow their order.
fn entries_out_of_order(make: &Maker, range: std::ops::Range<u32>, of: u32) -> Vec<AuditEntry> {
    range
        .map(|n| AuditEntry {
            id: AuditId(Uuid::from_u128(u128::from((n * 7 + 3) % of + 1) << 120 | 5)),
            ..make.audit(&n.to_string())
        })
        .collect()
}

/// Entries whose fields are not what one is used to.
fn odd_entries(make: &Maker) -> Vec<AuditEntry> {
    let long = "ä".repeat(MAX_FIELD / 2);
    let texts = ["", "\"'); DROP TABLE audit; --", "日本 🦀 \\ \n\r\t", long.as_str()];
    let text = |n: usize| texts[n % 4].to_owned();
    (0..8)
        .map(|n| AuditEntry {
            at: [millis(0), millis(-1), millis(253_402_300_799_999)][n % 3],
            actor: text(n),
            credential: text(n + 1),
            operation: text(n + 2),
            object: text(n + 3),
            source: text(n / 2),
            request_id: text(n / 2 + 1),
            outcome: Outcome::ALL[n % 4],
            detail: text(n / 2 + 2),
            times: [1, 2, i64::MAX as u64][n % 3],
            ..make.audit("odd")
        })
        .collect()
}

/// Stores `sealed` entries that have places and then `waiting` ones that have none.
async fn sealed_and_waiting(
    handles: &Handles,
    make: &Maker,
    sealed: usize,
    waiting: usize,
) -> (Vec<Sealed>, Vec<AuditEntry>) {
    let mut entries: Vec<_> = (0..sealed + waiting).map(|n| make.audit(&n.to_string())).collect();
    must(&handles.ledger, &Commit { audit: entries.clone(), ..make.commit() }).await;
    let waiting = entries.split_off(sealed);
    let chained = chain(Head::NONE, &entries);
    seal(&handles.audit, Head::NONE, &chained).await.unwrap();
    (chained, waiting)
}

fn key() -> AuditKey {
    AuditKey::new(&InstallationKey::new([7; 32]))
}

/// The signed place of the entry with the number `n`; 0: before the first.
fn checkpoint(make: &Maker, chained: &[Sealed], n: u64) -> Checkpoint {
    key().sign(end(Head::NONE, &chained[..usize::try_from(n).unwrap()]), make.clock().now())
}
