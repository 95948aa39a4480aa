//! Tokens and the audit: how they are written, what is refused, what a line that dies leaves behind.

use std::{sync::Arc, time::Duration};

use aito_contracts::wait;
use aito_domain::{
    audit::{AuditEntry, AuditKey, Checkpoint, Head, Sealed},
    history::{ActionType, HistoryEntry},
    id::{CommitId, HistoryId, Incarnation, TokenId, Version},
    installation::InstallationKey,
    ports::{
        ReadError, agent_store,
        audit_store::{AuditStore as _, SealError},
        clock::Clock as _,
        ledger::{Change, Commit, CommitError, Ledger as _},
        token_store::TokenStore as _,
    },
    time::after,
    token::Token,
};
use futures_util::future::join_all;

use crate::tests::{
    bench::{Bench, SOON, connect},
    proxy::{Line, behind_a_proxy},
};

fn changing(bench: &Bench, tokens: &[&Token]) -> Commit {
    let changes = tokens.iter().map(|token| Change::Token(Box::new((*token).clone()))).collect();
    Commit { changes, ..Commit::new(CommitId(bench.new_id())) }
}

async fn stored(bench: &Bench, name: &str) -> Token {
    let token = bench.token(name);
    bench.store.commit(&changing(bench, &[&token])).await.unwrap();
    bench.store.by_id(token.id).await.unwrap().unwrap()
}

/// Commits `count` attempts, and gives the head after them with what is to be sealed.
async fn attempts(bench: &Bench, from: Head, count: usize) -> (Head, Vec<Sealed>) {
    let audit: Vec<AuditEntry> = (0..count).map(|_| bench.attempt("token:ops")).collect();
    let commit = Commit { audit: audit.clone(), ..Commit::new(CommitId(bench.new_id())) };
    bench.store.commit(&commit).await.unwrap();
    chained(from, audit)
}

fn chained(mut head: Head, entries: Vec<AuditEntry>) -> (Head, Vec<Sealed>) {
    let chain = entries.into_iter().map(|entry| {
        head = head.then(&entry);
        Sealed { n: head.n, seal: head.seal, entry }
    });
    let sealed = chain.collect();
    (head, sealed)
}

/// The server has done everything of the commit before it was allowed one answer: that is the first trip, and COMMIT
/// the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_all_parts_is_sent_whole_without_waiting_for_an_answer() {
    let (bench, proxy) = behind_a_proxy(|options| options.connections = 1).await;
    let agent = bench.agent("ceo");
    bench.store.commit(&bench.changing(&agent)).await.unwrap();
    let whole = async |new_agent: &str, token: &Token| {
        let agent = agent_store::AgentStore::by_id(&*bench.store, agent.id).await.unwrap().unwrap();
        let row = HistoryEntry {
            id: HistoryId(bench.new_id()),
            agent_id: agent.id,
            incarnation: Incarnation(1),
            action_type: ActionType::Task,
            summary: "a task".into(),
            details: None,
            created_at: bench.clock.now(),
        };
        let agents = [agent, bench.agent(new_agent)].map(|agent| Change::Agent(Box::new(agent)));
        let changes = agents.into_iter().chain([Change::Token(Box::new(token.clone()))]).collect();
        Commit { changes, history: vec![row], audit: vec![bench.attempt(new_agent)], ..bench.telling() }
    };
    // The connection learns every statement.
    let (first, second) = (bench.token("first"), bench.token("second"));
    bench.store.commit(&whole("cto", &first).await).await.unwrap();
    let changed = bench.store.by_id(first.id).await.unwrap().unwrap().revoke(bench.clock.now()).token;
    bench.store.commit(&whole("cmo", &changed).await).await.unwrap();

    for (new_agent, token) in [("cfo", &second), ("coo", &Token { version: Version(2), ..changed })] {
        let commit = whole(new_agent, token).await;
        proxy.set(Line::Withholds);
        let store = Arc::clone(&bench.store);
        let committing = tokio::spawn(async move { store.commit(&commit).await });
        let written = "SELECT count(DISTINCT relation) FROM pg_locks
             WHERE mode = 'RowExclusiveLock' AND relation IN ('agents'::regclass, 'tokens'::regclass,
                 'events'::regclass, 'history'::regclass, 'audit'::regclass)
             GROUP BY pid";
        wait::until("one transaction to have written to every table", SOON, async || {
            let rows = bench.outside.query(written, &[]).await.unwrap();
            rows.iter().any(|row| row.get::<_, i64>(0) == 5).then_some(())
        })
        .await;
        assert!(!committing.is_finished(), "it has no answer yet");
        let audited = format!("audit WHERE actor = '{new_agent}'");
        assert_eq!(bench.count(&audited).await, 0, "it is not committed yet");
        proxy.set(Line::Good);
        committing.await.unwrap().unwrap();
        assert_eq!(bench.count(&audited).await, 1);
        let token = bench.store.by_id(token.id).await.unwrap().unwrap();
        assert_eq!(token.version, if new_agent == "cfo" { Version(1) } else { Version(3) });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_freed_and_taken_in_one_commit_whatever_the_order() {
    let bench = Bench::new().await;
    let new = bench.token("ops");
    // Its id is above that of the one that takes its name.
    let old = stored(&bench, "ops").await;
    let revoked = old.revoke(bench.clock.now()).token;
    let refused = bench.store.commit(&changing(&bench, &[&new])).await;
    assert!(matches!(refused, Err(CommitError::Conflict(ref what)) if what == "token ops"), "{refused:?}");
    bench.store.commit(&changing(&bench, &[&new, &revoked])).await.unwrap();
    // What is revoked does not come back while another has its name.
    let revoked = bench.store.by_id(revoked.id).await.unwrap().unwrap();
    let refused = bench.store.commit(&changing(&bench, &[&Token { revoked_at: None, ..revoked }])).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_take_the_same_names_or_store_the_same_uses_crosswise_do_not_lock_each_other_up() {
    let bench = Bench::new().await;
    for round in 0..10 {
        let (one, other) = (format!("one {round}"), format!("other {round}"));
        let racers = (0..8).map(|n| {
            let names = if n % 2 == 0 { [&one, &other] } else { [&other, &one] };
            let tokens = names.map(|name| bench.token(name));
            let (store, commit) = (Arc::clone(&bench.store), changing(&bench, &[&tokens[0], &tokens[1]]));
            let at = after(bench.clock.now(), Duration::from_secs(n));
            let mut uses = [1, 2, 3, 4].map(|id| (TokenId(uuid::Uuid::from_u128(id)), at));
            if n % 2 == 0 {
                uses.reverse();
            }
            tokio::spawn(async move {
                store.used(&uses).await.unwrap();
                store.commit(&commit).await
            })
        });
        let mut won = 0;
        for racer in join_all(racers.collect::<Vec<_>>()).await {
            match racer.unwrap() {
                Ok(_) => won += 1,
                Err(CommitError::Conflict(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(won, 1);
    }
    let latest = after(bench.clock.now(), Duration::from_secs(7));
    assert!(bench.store.last_uses().await.unwrap().iter().all(|(_, at)| *at == latest));
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(bench.outside.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_seals_while_another_does_finds_the_head_moved() {
    let bench = Bench::new().await;
    let (head, entries) = attempts(&bench, Head::NONE, 3).await;
    // Another server has moved the head and has not ended yet.
    let other = connect(&bench.url).await;
    other.batch_execute("BEGIN; UPDATE audit_head SET n = 3, seal = sha256('x')").await.unwrap();
    let (store, late) = (Arc::clone(&bench.store), entries.clone());
    let sealing = tokio::spawn(async move { store.seal(Head::NONE, &late).await });
    let waits = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait::until("the second to wait", SOON, async || (bench.count(waits).await > 0).then_some(())).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert!(matches!(sealing.await.unwrap(), Err(SealError::Conflict)));
    assert_eq!(bench.count("audit WHERE n IS NOT NULL").await, 0);

    bench.run(&["UPDATE audit_head SET n = 0, seal = decode(repeat('00', 32), 'hex')"]).await;
    bench.store.seal(Head::NONE, &entries).await.unwrap();
    assert_eq!(bench.store.head().await.unwrap(), head);
    // One that is sealed already spoils the others.
    let (_, more) = attempts(&bench, head, 1).await;
    let (_, mixed) = chained(head, vec![more[0].entry.clone(), entries[2].entry.clone()]);
    assert!(matches!(bench.store.seal(head, &mixed).await, Err(SealError::Conflict)));
    assert_eq!(bench.store.head().await.unwrap(), head);
    assert_eq!(bench.store.sealed(0, 10).await.unwrap(), entries);
    bench.store.seal(head, &more).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_dies_leaves_the_chain_whole_and_is_told_as_unavailable() {
    let (bench, proxy) = behind_a_proxy(|options| {
        options.connections = 1;
        options.statement_timeout = Duration::from_secs(1);
        options.timeout = Duration::from_secs(1);
    })
    .await;
    let (mut head, mut all) = (Head::NONE, Vec::new());
    let lines = [(Line::LosesCommit, false), (Line::LosesAnswer, true), (Line::CutsAtCommit, true)];
    for (line, is_applied) in lines {
        let (next, entries) = attempts(&bench, head, 2).await;
        proxy.set(line);
        let answer = bench.store.seal(head, &entries).await;
        assert!(matches!(answer, Err(SealError::Unavailable(_))), "{line:?}: {answer:?}");
        proxy.set(Line::Good);
        let found = wait::until("the head to be read", SOON, async || bench.store.head().await.ok()).await;
        assert_eq!(found, if is_applied { next } else { head }, "{line:?}");
        let again = wait::until("an answer", SOON, async || match bench.store.seal(head, &entries).await {
            // The transaction before may hold the head for a moment.
            Err(SealError::Unavailable(_)) => None,
            known => Some(known),
        })
        .await;
        assert_eq!(matches!(again, Err(SealError::Conflict)), is_applied, "{line:?}: {again:?}");
        head = next;
        all.extend(entries);
    }
    assert_eq!(bench.store.sealed(0, 100).await.unwrap(), all);

    let key = AuditKey::new(&InstallationKey::new([1; 32]));
    let sealed = Head { n: all[2].n, seal: all[2].seal };
    let checkpoint = key.sign(sealed, bench.clock.now());
    proxy.set(Line::Dead);
    assert!(matches!(bench.store.prune(&checkpoint).await, Err(SealError::Unavailable(_))));
    assert!(matches!(
        bench.store.used(&[(TokenId(bench.new_id()), bench.clock.now())]).await,
        Err(ReadError::Unavailable(_))
    ));
    proxy.set(Line::Good);
    let kept = wait::until("the checkpoint", SOON, async || bench.store.checkpoint().await.ok()).await;
    assert_eq!(kept, None);
    assert_eq!(bench.store.prune(&checkpoint).await.unwrap(), 3);
    assert_eq!(bench.store.sealed(0, 100).await.unwrap(), all[3..]);
    let below = key.sign(Head { n: all[1].n, seal: all[1].seal }, bench.clock.now());
    assert!(matches!(bench.store.prune(&below).await, Err(SealError::Conflict)));
    assert_eq!(bench.store.checkpoint().await.unwrap(), Some(checkpoint));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_prune_at_once_count_every_entry_once() {
    let bench = Bench::new().await;
    let (head, entries) = attempts(&bench, Head::NONE, 200).await;
    bench.store.seal(Head::NONE, &entries).await.unwrap();
    let key = AuditKey::new(&InstallationKey::new([1; 32]));
    let signed: Vec<Checkpoint> = (0..8)
        .map(|n| {
            let last = &entries[20 * n + 19];
            key.sign(Head { n: last.n, seal: last.seal }, bench.clock.now())
        })
        .collect();
    let racers = signed.iter().map(|checkpoint| {
        let (store, checkpoint) = (Arc::clone(&bench.store), *checkpoint);
        tokio::spawn(async move { store.prune(&checkpoint).await })
    });
    let mut gone = 0;
    for racer in join_all(racers.collect::<Vec<_>>()).await {
        match racer.unwrap() {
            Ok(count) => gone += count,
            Err(SealError::Conflict) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(gone, 160);
    assert_eq!(bench.store.checkpoint().await.unwrap(), signed.last().copied());
    assert_eq!(bench.store.sealed(0, 100).await.unwrap(), entries[160..]);
    assert_eq!(bench.store.head().await.unwrap(), head);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_meddled_with_is_told_not_guessed() {
    let bench = Bench::new().await;
    let token = stored(&bench, "ops").await;
    bench.run(&[r#"UPDATE tokens SET grants = '{"roles": ["king"], "seat": null}'"#]).await;
    assert!(matches!(bench.store.by_id(token.id).await, Err(ReadError::Corrupt(_))));
    bench.run(&["DELETE FROM audit_head"]).await;
    assert!(matches!(bench.store.head().await, Err(ReadError::Corrupt(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_audit_walk_an_index() {
    let bench = Bench::new().await;
    let written = "INSERT INTO audit
             (id, at, actor, credential, operation, object, source, request_id, outcome, detail, times, n, seal)
         SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, now(),
             CASE WHEN n % 5000 = 0 THEN 'rare' ELSE 'token:ops' END, 'none',
             CASE WHEN n % 5000 = 0 THEN 'rare' ELSE 'agents.start' END, '/', 'unix', '',
             CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'done' END, '', 1,
             CASE WHEN n <= 19950 THEN n END, CASE WHEN n <= 19950 THEN sha256('x') END
         FROM generate_series(1, 20000) AS n";
    bench.run(&[written, "ANALYZE audit"]).await;
    let before = "id < '00000000-0000-7000-8000-000000003000' ORDER BY id DESC";
    for (filter, index) in [
        (format!("actor = 'rare' AND {before}"), "audit_by_actor"),
        (format!("operation = 'rare' AND {before}"), "audit_by_operation"),
        (format!("outcome = 'failed' AND {before}"), "audit_by_outcome"),
        (before.to_owned(), "audit_pkey"),
        ("n > 17000 ORDER BY n".to_owned(), "audit_by_number"),
        ("n IS NULL ORDER BY id".to_owned(), "audit_unsealed"),
    ] {
        let plan = format!("EXPLAIN SELECT * FROM audit WHERE {filter} LIMIT 10");
        let rows = bench.outside.query(&plan, &[]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        let walks = plan.contains(index) && !plan.contains("Seq Scan") && !plan.contains("Sort");
        assert!(walks, "{filter}:\n{plan}");
    }
}
