//! The rules of `Ledger`.

use std::{collections::HashSet, sync::Arc};

use aito_domain::{
    agent::{Agent, Desired},
    event::Actor,
    id::{AgentId, EventId, Incarnation, TokenId, Version},
    ports::{
        clock::Clock as _,
        history_store::Written,
        ledger::{Change, Commit, CommitError, Settled, Speaker},
    },
    quota::{Spent, SpentKind},
    token::Token,
};
use futures_util::future::join_all;
use serde_json::json;

use super::{
    Handles, Maker, Snapshot, StoreFixture, change, change_token,
    kinds::{
        change_domain, change_mail, change_note, change_request, change_setting, change_task, marked, stored,
    },
    logged_ids, must, within,
};

/// Rule 1: each part, and every two of them, are refused in turn, and nothing of the others is left.
pub async fn ledger_01_all_or_nothing<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let first = make.running_agent(&handles, "ceo").await;
    let second = make.running_agent(&handles, "dao").await;
    let token = make.stored_token(&handles, "ops").await;
    let (event, entry) = (make.event("there already"), make.entry(first.id, "there already"));
    let audited = make.audit("there already");
    let (worked_on, waiting) = (make.one_of_each(first.id), make.task(second.id));
    let there = Commit {
        changes: worked_on.iter().cloned().chain([change_task(&waiting)]).collect(),
        events: vec![event.clone()],
        history: vec![entry.clone()],
        audit: vec![audited.clone()],
        ..make.commit()
    };
    must(&handles.ledger, &there).await;

    let attempt = |refused: u32, too_old: bool| {
        let bad = |part: u32| refused & (1 << part) != 0;
        let version = |part, read: Version| match (bad(part), too_old) {
            (false, _) => read,
            (true, true) => Version(read.0 - 1),
            (true, false) => Version(read.0 + 1),
        };
        let agent = |part, agent: &Agent| {
            let version = version(part, agent.version);
            change(&Agent { focus: Some(format!("attempt {refused}")), version, ..agent.clone() })
        };
        let token = |part| {
            let (rotated_at, version) = (Some(make.clock().now()), version(part, token.version));
            change_token(&Token { rotated_at, version, ..token.clone() })
        };
        let tell = |part| if bad(part) { event.clone() } else { make.event("attempt") };
        let note = |part| if bad(part) { entry.clone() } else { make.entry(second.id, "attempt") };
        let mut changes = vec![agent(0, &first), token(6), agent(1, &second)];
        changes.extend(
            (8..).zip(&worked_on).map(|(part, one)| marked(one, version(part, Version(1)), "attempt")),
        );
        let mut pick = make.pick(if bad(14) { AgentId(make.uuid()) } else { second.id }, Some(1), 2);
        if bad(15) {
            pick.ids = vec![event.id; 2];
        }
        let incarnation = if bad(16) { Incarnation(if too_old { 0 } else { 2 }) } else { Incarnation(1) };
        let spent = |agent: &Agent, kind| Spent { agent: agent.id, kind, day: make.day(), rows: 1, bytes: 9 };
        Commit {
            changes,
            events: vec![tell(2), tell(3)],
            history: vec![note(4), note(5)],
            audit: vec![make.audit("attempt"), if bad(7) { audited.clone() } else { make.audit("attempt") }],
            speaker: Some(Speaker { agent: first.id, incarnation }),
            pick: Some(pick),
            spent: vec![spent(&first, SpentKind::Tasks), spent(&second, SpentKind::State)],
            answer: Some(json!(refused)),
            ..make.commit()
        }
    };
    const PARTS: u32 = 17;
    let ones = (0..PARTS).flat_map(|part| [(1 << part, false), (1 << part, true)]);
    let twos =
        (0..PARTS).flat_map(|one| (0..one).map(move |two| (1 << one | 1 << two, (one + two) % 2 == 0)));
    let before = Snapshot::of(&handles).await;
    let mut last = None;
    for (refused, too_old) in ones.chain(twos).chain([((1 << PARTS) - 1, true)]) {
        let commit = attempt(refused, too_old);
        let answer = within(handles.ledger.commit(&commit)).await;
        assert!(matches!(answer, Err(CommitError::Conflict(_))), "parts {refused:017b}: {answer:?}");
        assert_eq!(Snapshot::of(&handles).await, before, "parts {refused:017b} left a trace");
        last = Some(commit.id);
    }
    let good = Commit { id: last.unwrap(), ..attempt(0, false) };
    within(handles.ledger.commit(&good)).await.expect("a refused commit does not use up its id");
    let after = Snapshot::of(&handles).await;
    assert_eq!(after.events.len(), before.events.len() + 3, "one of them tells of the claim");
    assert_eq!(after.history.iter().flatten().count(), before.history.iter().flatten().count() + 2);
    assert!(after.agents.iter().all(|agent| agent.version == Version(2)));
    assert_eq!((after.tokens[0].version, after.audit.len()), (Version(2), before.audit.len() + 2));
    for one in &worked_on {
        assert_eq!(stored(&handles, one).await, Some(marked(one, Version(2), "attempt")));
    }
    assert!(after.tasks.iter().all(|task| task.version == Version(2)), "{:?}", after.tasks);
    assert!(after.tasks.iter().any(|task| task.id == waiting.id && task.lease().is_some()));
    let used: Vec<_> = after.spent.iter().filter(|spent| **spent != Written::default()).collect();
    assert_eq!(used, [&Written { rows: 1, bytes: 9 }; 2]);
}

/// Rule 2.
pub async fn ledger_02_of_changes_from_one_version_one_succeeds<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agent = make.stored_agent(&handles, "ceo").await;
    for wrong in [
        Agent { version: Version(0), ..agent.clone() },
        Agent { version: Version(2), ..agent.clone() },
        Agent { id: AgentId(make.uuid()), version: Version(0), ..agent.clone() },
        Agent { version: Version(1), ..make.agent("nobody") },
    ] {
        let answer = within(handles.ledger.commit(&make.changing(&wrong))).await;
        assert!(matches!(answer, Err(CommitError::Conflict(_))), "{wrong:?}: {answer:?}");
    }
    assert_eq!(handles.agents.list().await.unwrap(), std::slice::from_ref(&agent));

    let token = make.stored_token(&handles, "ops").await;
    for wrong in [
        Token { version: Version(0), ..token.clone() },
        Token { version: Version(2), ..token.clone() },
        Token { id: TokenId(make.uuid()), version: Version(1), name: "nobody".into(), ..token.clone() },
    ] {
        let answer = within(handles.ledger.commit(&make.changing_token(&wrong))).await;
        assert!(matches!(answer, Err(CommitError::Conflict(_))), "{wrong:?}: {answer:?}");
    }
    assert_eq!(handles.tokens.list().await.unwrap(), std::slice::from_ref(&token));

    for round in 0..5_u64 {
        let agent = handles.agents.by_id(agent.id).await.unwrap().unwrap();
        let racer = |n| change(&Agent { focus: Some(format!("racer {n}")), ..agent.clone() });
        let winners = race(&make, &handles, &other, (0..16).map(racer).collect()).await;
        let stored = handles.agents.by_id(agent.id).await.unwrap().unwrap();
        assert_eq!(winners.iter().map(|n| format!("racer {n}")).collect::<Vec<_>>(), [stored.focus.unwrap()]);
        assert_eq!(stored.version, Version(round + 2));

        let token = handles.tokens.by_id(token.id).await.unwrap().unwrap();
        let racer = |n| change_token(&Token { created_by: format!("racer {n}"), ..token.clone() });
        let winners = race(&make, &handles, &other, (0..16).map(racer).collect()).await;
        let stored = handles.tokens.by_id(token.id).await.unwrap().unwrap();
        assert_eq!(winners.iter().map(|n| format!("racer {n}")).collect::<Vec<_>>(), [stored.created_by]);
        assert_eq!(stored.version, Version(round + 2));
    }
    for new in make.one_of_each(agent.id) {
        one_succeeds(&make, &handles, &other, &new).await;
    }
}

/// Of each kind, changes that were read at another version than the stored one are refused; of those that race one counts.
async fn one_succeeds(make: &Maker, handles: &Handles, other: &Handles, new: &Change) {
    let wrong = async |version: u64| {
        let commit = Commit { changes: vec![marked(new, Version(version), "wrong")], ..make.commit() };
        let answer = within(handles.ledger.commit(&commit)).await;
        assert!(matches!(answer, Err(CommitError::Conflict(_))), "{version} of {new:?}: {answer:?}");
    };
    wrong(1).await;
    let racer =
        |version| (0..12).map(|n| marked(new, Version(version), &format!("racer {n}"))).collect::<Vec<_>>();
    for round in 0..4 {
        let racers = racer(round);
        let winners = race(make, handles, other, racers.clone()).await;
        assert_eq!(winners.len(), 1, "{new:?}");
        let mark = format!("racer {}", winners[0]);
        let expected = Some(marked(new, Version(round + 1), &mark));
        assert_eq!(stored(handles, new).await, expected);
        for version in [0, round, round + 2] {
            wrong(version).await;
        }
        assert_eq!(stored(other, new).await, expected, "what was refused changed it");
    }
}

/// Commits each change by itself, all at once and by two servers; gives the numbers of those that counted.
pub(super) async fn race(
    make: &Maker,
    handles: &Handles,
    other: &Handles,
    changes: Vec<Change>,
) -> Vec<usize> {
    let racers = changes.into_iter().enumerate().map(|(n, change)| {
        let commit = Commit { changes: vec![change], ..make.commit() };
        let ledger = Arc::clone(if n % 2 == 0 { &handles.ledger } else { &other.ledger });
        tokio::spawn(async move {
            loop {
                match ledger.commit(&commit).await {
                    // The other handle had the lock for too long.
                    Err(CommitError::Unavailable(_)) => {}
                    answer => break (n, answer),
                }
            }
        })
    });
    let mut winners = Vec::new();
    for racer in within(join_all(racers.collect::<Vec<_>>())).await {
        match racer.unwrap() {
            (n, Ok(_)) => winners.push(n),
            (_, Err(CommitError::Conflict(_))) => {}
            (n, other) => panic!("racer {n}: {other:?}"),
        }
    }
    winners
}

/// Rule 3.
pub async fn ledger_03_what_is_stored_carries_the_next_version<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let mut agent = make.agent("ceo");
    for version in 1..=5 {
        agent.restarts += 10;
        must(&handles.ledger, &make.changing(&agent)).await;
        agent.version = Version(version);
        assert_eq!(handles.agents.by_id(agent.id).await.unwrap(), Some(agent.clone()));
    }
    let mut token = make.token("ops");
    for version in 1..=5 {
        token.created_by.push('x');
        must(&handles.ledger, &make.changing_token(&token)).await;
        token.version = Version(version);
        assert_eq!(handles.tokens.by_id(token.id).await.unwrap(), Some(token.clone()));
    }
    for one in make.one_of_each(agent.id) {
        for version in 1..=5 {
            let mark = format!("written {version} times");
            let written = marked(&one, Version(version - 1), &mark);
            must(&handles.ledger, &Commit { changes: vec![written], ..make.commit() }).await;
            assert_eq!(stored(&handles, &one).await, Some(marked(&one, Version(version), &mark)));
        }
    }
}

/// Rule 4.
pub async fn ledger_04_a_commit_id_counts_once<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agent = make.stored_agent(&handles, "ceo").await;
    for answer in [None, Some(json!(null)), Some(json!({"agent": "ceo", "n": [1, 2.5]}))] {
        let commit = Commit { answer: answer.clone(), ..make.telling("first") };
        within(handles.ledger.commit(&commit)).await.unwrap();
        let before = Snapshot::of(&handles).await;
        let again = Commit {
            id: commit.id,
            changes: vec![change_token(&make.token("second")), change_setting(&make.setting("a", "second"))],
            audit: vec![make.audit("second")],
            spent: vec![Spent {
                agent: agent.id,
                kind: SpentKind::State,
                day: make.day(),
                rows: 1,
                bytes: 1,
            }],
            answer: Some(json!("another")),
            ..make.telling("second")
        };
        for ledger in [&handles.ledger, &other.ledger, &handles.ledger] {
            match within(ledger.commit(&again)).await {
                Err(CommitError::Duplicate(first)) => assert_eq!(first, answer),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(Snapshot::of(&handles).await, before);
    }

    let commit = Commit { answer: Some(json!("once")), ..make.telling("raced") };
    let racers = (0..8).map(|n| {
        let (commit, ledger) =
            (commit.clone(), Arc::clone(if n % 2 == 0 { &handles.ledger } else { &other.ledger }));
        tokio::spawn(async move {
            loop {
                match ledger.commit(&commit).await {
                    Err(CommitError::Unavailable(_)) => {}
                    answer => break answer,
                }
            }
        })
    });
    for racer in within(join_all(racers.collect::<Vec<_>>())).await {
        match racer.unwrap() {
            Ok(answer) | Err(CommitError::Duplicate(answer)) => assert_eq!(answer, Some(json!("once"))),
            other => panic!("{other:?}"),
        }
    }
    let times = logged_ids(&handles.log).await.iter().filter(|id| **id == commit.events[0].id).count();
    assert_eq!(times, 1);
}

/// Rule 5.
pub async fn ledger_05_what_returned_is_durable_and_seen_by_all<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    let mut acknowledged = HashSet::new();
    for round in 0..3 {
        let (handles, other) = (fixture.handles(), fixture.second_handle().await);
        let agent = make.agent(&format!("agent-{round}"));
        let entry = make.entry(agent.id, "durable");
        let (token, audited) =
            (make.token(&format!("token {round}")), make.audit(&format!("durable {round}")));
        let worked_on: Vec<_> = vec![
            change_task(&make.task(agent.id)),
            change_mail(&make.mail(agent.id)),
            change_domain(&make.domain(&format!("round-{round}.com"))),
            change_request(&make.request(&format!("round-{round}.com"), Actor::System)),
            change_setting(&make.setting("durable", &format!("key-{round}"))),
            change_note(&make.note(agent.id, "durable")),
        ];
        let spent = Spent { agent: agent.id, kind: SpentKind::State, day: make.day(), rows: 3, bytes: 30 };
        let whole = Commit {
            changes: [vec![change(&agent), change_token(&token)], worked_on.clone()].concat(),
            history: vec![entry.clone()],
            audit: vec![audited.clone()],
            spent: vec![spent],
            ..make.telling("whole")
        };
        must(&handles.ledger, &whole).await;
        acknowledged.insert(whole.events[0].id);
        assert_eq!(other.agents.by_id(agent.id).await.unwrap().unwrap().version, Version(1));
        let token = Token { version: Version(1), ..token };
        assert_eq!(other.tokens.by_id(token.id).await.unwrap().as_ref(), Some(&token));
        assert!(other.audit.unsealed(10).await.unwrap().contains(&audited));
        let kept = async |handles: &Handles| {
            for one in &worked_on {
                let version = stored(handles, one).await.map(|one| one.read_at());
                assert_eq!(version, Some(Version(1)), "{one:?}");
            }
            let used = handles.quotas.spent(agent.id, spent.kind, spent.day).await.unwrap();
            assert_eq!(used, Written { rows: 3, bytes: 30 });
        };
        kept(&other).await;

        let many: Vec<_> = (0..20).map(|_| make.telling("many")).collect();
        within(join_all(many.iter().map(|commit| must(&handles.ledger, commit)))).await;
        acknowledged.extend(many.iter().map(|commit| commit.events[0].id));
        drop((handles, other));

        fixture.reopen().await;
        let handles = fixture.handles();
        let stored: HashSet<EventId> = logged_ids(&handles.log).await.into_iter().collect();
        assert_eq!(stored, acknowledged);
        assert_eq!(handles.history.page(agent.id, None, 10).await.unwrap(), [entry]);
        assert_eq!(handles.tokens.by_id(token.id).await.unwrap(), Some(token));
        assert!(handles.audit.unsealed(10).await.unwrap().contains(&audited));
        kept(&handles).await;
        let again = within(handles.ledger.commit(&whole)).await;
        assert!(matches!(again, Err(CommitError::Duplicate(_))), "ids are durable too: {again:?}");
    }
}

/// Rule 6.
pub async fn ledger_06_unavailable_means_not_applied<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    must(&handles.ledger, &make.telling("before")).await;
    fixture.break_store().await;
    let commits: Vec<_> = (0..4).map(|_| make.telling("while it is broken")).collect();
    let answers = within(join_all(commits.iter().map(|commit| handles.ledger.commit(commit)))).await;
    fixture.heal().await;

    // It recovers by itself: the next commit that is certain tells that it has.
    let after = make.telling("after");
    within(async {
        while matches!(handles.ledger.commit(&after).await, Err(CommitError::Unavailable(_))) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut unavailable = 0;
    for (commit, answer) in commits.iter().zip(answers) {
        let there = logged_ids(&handles.log).await.contains(&commit.events[0].id);
        match answer {
            Err(CommitError::Unavailable(_)) => {
                unavailable += 1;
                assert!(!there, "it was applied");
                within(handles.ledger.commit(commit)).await.expect("nothing of it was kept, its id neither");
            }
            Err(CommitError::Unknown(_)) => {
                let settled = within(handles.ledger.settle(commit.id)).await.unwrap();
                let there = logged_ids(&handles.log).await.contains(&commit.events[0].id);
                assert_eq!(matches!(settled, Settled::Applied(_)), there);
            }
            other => panic!("nothing else is possible while it is broken: {other:?}"),
        }
    }
    println!("{unavailable} of {} were certain", commits.len());
    let log = logged_ids(&handles.log).await;
    assert_eq!(log.len(), log.iter().collect::<HashSet<_>>().len(), "nothing came twice");
}

/// Rule 7: whoever stops waiting, or asks while the commit is under way, is told the truth afterwards.
pub async fn ledger_07_settle_tells_what_became_of_the_unknown<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let (mut applied, mut barred) = (0, 0);
    for round in 0..60_u32 {
        let commit = Commit { answer: Some(json!(round)), ..make.telling("is it there?") };
        let settled = if round % 2 == 0 {
            // The caller goes away after some steps.
            let ledger = Arc::clone(&handles.ledger);
            {
                let under_way = ledger.commit(&commit);
                tokio::select! {
                    biased;
                    () = yields(round / 2) => {}
                    _ = under_way => {}
                }
            }
            within(settle(&handles, &commit)).await
        } else {
            // Another server asks at the same time.
            let racing = tokio::spawn({
                let (ledger, commit) = (Arc::clone(&handles.ledger), commit.clone());
                async move { ledger.commit(&commit).await }
            });
            yields(round / 2).await;
            let settled = within(settle(&other, &commit)).await;
            match (within(racing).await.unwrap(), &settled) {
                (Ok(_), Settled::Applied(_)) | (Err(CommitError::Barred), Settled::NotApplied) => {}
                // The lock was not to be had in time; then the question came first.
                (Err(CommitError::Unavailable(_)), Settled::NotApplied)
                | (Err(CommitError::Unknown(_)), _) => {}
                (answer, settled) => panic!("round {round}: {answer:?} but {settled:?}"),
            }
            settled
        };
        let there = logged_ids(&other.log).await.contains(&commit.events[0].id);
        match settled {
            Settled::Applied(answer) => {
                assert!(there, "round {round}: said to be applied");
                assert_eq!(answer, Some(json!(round)));
                applied += 1;
            }
            Settled::NotApplied => {
                assert!(!there, "round {round}: said not to be applied");
                let late = within(handles.ledger.commit(&commit)).await;
                assert!(matches!(late, Err(CommitError::Barred)), "round {round}: {late:?}");
                barred += 1;
            }
        }
    }
    println!("{applied} applied, {barred} barred");
    let certain = make.telling("certain");
    must(&handles.ledger, &certain).await;
    let log = logged_ids(&handles.log).await;
    assert_eq!(log.len(), applied + 1, "nothing that was settled as not applied came later");
}

/// Rule 8.
pub async fn ledger_08_what_settle_found_not_applied_is_barred<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    let agent = make.agent("ceo");
    let commit = Commit {
        changes: [vec![change(&agent), change_token(&make.token("never"))], make.one_of_each(agent.id)]
            .concat(),
        spent: vec![Spent { agent: agent.id, kind: SpentKind::State, day: make.day(), rows: 1, bytes: 1 }],
        history: vec![make.entry(agent.id, "never")],
        audit: vec![make.audit("never")],
        answer: Some(json!("never")),
        ..make.telling("never")
    };
    for _ in 0..2 {
        let (handles, other) = (fixture.handles(), fixture.second_handle().await);
        for asked in [&handles, &other] {
            assert_eq!(settle(asked, &commit).await, Settled::NotApplied);
            for ledger in [&handles.ledger, &other.ledger] {
                let late = within(ledger.commit(&commit)).await;
                assert!(matches!(late, Err(CommitError::Barred)), "{late:?}");
            }
        }
        assert_eq!(logged_ids(&handles.log).await, []);
        assert_eq!(handles.agents.list().await.unwrap(), []);
        assert_eq!(handles.tokens.list().await.unwrap(), []);
        assert_eq!(handles.audit.unsealed(10).await.unwrap(), []);
        for one in make.one_of_each(agent.id) {
            assert_eq!(stored(&handles, &one).await, None);
        }
        assert_eq!(handles.settings.all().await.unwrap(), []);
        assert!(handles.domains.is_untouched().await.unwrap());
        let used = handles.quotas.spent(agent.id, SpentKind::State, make.day()).await.unwrap();
        assert_eq!(used, Written::default());
        drop((handles, other));
        fixture.reopen().await;
    }
}

/// Rule 9.
pub async fn ledger_09_settle_gives_the_answer_of_what_was_applied<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    for answer in [None, Some(json!(null)), Some(json!({"n": 1}))] {
        let commit = Commit { answer: answer.clone(), ..make.telling("applied") };
        within(fixture.handles().ledger.commit(&commit)).await.unwrap();
        for _ in 0..2 {
            for handles in [fixture.handles(), fixture.second_handle().await] {
                assert_eq!(settle(&handles, &commit).await, Settled::Applied(answer.clone()));
                assert_eq!(settle(&handles, &commit).await, Settled::Applied(answer.clone()));
            }
            fixture.reopen().await;
        }
        let again = within(fixture.handles().ledger.commit(&commit)).await;
        assert!(matches!(again, Err(CommitError::Duplicate(_))), "settling does not change it: {again:?}");
    }
}

/// Rule 10.
pub async fn ledger_10_events_keep_the_order_of_their_commit<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let agent = Agent { desired: Desired::Running, ..make.agent("ceo") };
    // Ids fall while positions rise, so an order by id or by chance would be noticed.
    let commits: Vec<_> = (0..8)
        .map(|n| {
            let mut events: Vec<_> = (0..20).map(|m| make.event(&format!("{n}: {m}"))).collect();
            events.reverse();
            Commit {
                changes: if n == 0 { vec![change(&agent)] } else { Vec::new() },
                events,
                ..make.commit()
            }
        })
        .collect();
    within(join_all(commits.iter().map(|commit| must(&handles.ledger, commit)))).await;
    let log = logged_ids(&handles.log).await;
    assert_eq!(log.len(), 8 * 20);
    for commit in &commits {
        let places: Vec<_> =
            commit.events.iter().map(|event| log.iter().position(|id| *id == event.id).unwrap()).collect();
        assert!(places.is_sorted(), "{places:?}");
    }
}

/// Rule 11.
pub async fn ledger_11_tokens_that_stand_have_names_of_their_own<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let now = make.clock().now();
    let first = make.stored_token(&handles, "ops").await;
    let second = make.stored_token(&handles, "laptop").await;
    let refused = async |changes: Vec<Change>, why: &str| {
        let commit = Commit { changes, audit: vec![make.audit("refused")], ..make.telling("refused") };
        let before = Snapshot::of(&handles).await;
        for ledger in [&handles.ledger, &other.ledger] {
            let answer = within(ledger.commit(&commit)).await;
            assert!(matches!(answer, Err(CommitError::Conflict(_))), "{why}: {answer:?}");
            assert_eq!(Snapshot::of(&handles).await, before, "{why} left a trace");
        }
    };
    refused(vec![change_token(&make.token("ops"))], "a new one").await;
    refused(vec![change_token(&Token { name: "ops".into(), ..second.clone() })], "a change of name").await;
    refused(vec![change_token(&make.token("a")), change_token(&make.token("a"))], "two of one commit").await;
    for name in ["Ops", "ops ", "op", "o.s"] {
        must(&handles.ledger, &make.changing_token(&make.token(name))).await;
    }

    // A name is free as soon as its token is revoked, also within the commit that does so.
    let revoked = first.revoke(now).token;
    let heir = make.token("ops");
    let moved = Commit { changes: vec![change_token(&revoked), change_token(&heir)], ..make.commit() };
    must(&handles.ledger, &moved).await;
    let heir = other.tokens.by_id(heir.id).await.unwrap().unwrap();
    let revoked = other.tokens.by_id(revoked.id).await.unwrap().unwrap();
    assert_eq!((heir.name.as_str(), revoked.name.as_str()), ("ops", "ops"));
    refused(vec![change_token(&Token { revoked_at: None, ..revoked })], "one that comes back").await;
    must(&handles.ledger, &make.changing_token(&heir.revoke(now).token)).await;

    for round in 0..4 {
        let named: Vec<_> = (0..12).map(|_| make.token(&format!("raced {round}"))).collect();
        let winners = race(&make, &handles, &other, named.iter().map(change_token).collect()).await;
        let stored: Vec<_> = handles.tokens.list().await.unwrap();
        let stored: Vec<_> =
            stored.iter().filter(|token| token.name == named[0].name).map(|token| token.id).collect();
        assert_eq!(winners.iter().map(|n| named[*n].id).collect::<Vec<_>>(), stored, "round {round}");
        assert_eq!(stored.len(), 1, "round {round}");
    }
}

/// Asks until there is an answer.
pub(super) async fn settle(handles: &Handles, commit: &Commit) -> Settled {
    within(async {
        loop {
            match handles.ledger.settle(commit.id).await {
                Ok(settled) => return settled,
                Err(CommitError::Unavailable(_) | CommitError::Unknown(_)) => tokio::task::yield_now().await,
                Err(other) => panic!("{other:?}"),
            }
        }
    })
    .await
}

/// Lets others run `count` times.
async fn yields(count: u32) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}
