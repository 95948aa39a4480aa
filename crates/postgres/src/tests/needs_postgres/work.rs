//! Tasks, mail, domains, settings and notes as they are written: who waits for whom, and what is lost by nobody.

use std::{sync::Arc, time::Duration};

use aito_contracts::wait;
use aito_domain::{
    agent::{Agent, Lifecycle},
    allowlist::{Decided, DomainEntry, DomainRequest, NewEntry, NewRequest},
    event::Actor,
    id::{AgentId, CommitId, DomainId, DomainRequestId, EventId, Incarnation, MailId, TaskId},
    mailbox::{Delays, Mail, MailKind},
    ports::{
        agent_store,
        clock::Clock as _,
        domain_store::DomainStore,
        ledger::{Change, Commit, CommitError, Ledger as _, Settled, Speaker},
        mailbox_store::MailboxStore,
        quota_store::QuotaStore as _,
        settings_store::SettingsStore as _,
        state_store::StateStore,
        task_store::TaskStore,
    },
    quota::{Spent, SpentKind, day_of},
    setting::{Setting, StoredValue},
    state::StateEntry,
    task::{ClaimRules, EndedBy, NewTask, PickOutcome, Priority, Task, TaskPick, TaskStatus},
    time::after,
};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::tests::{
    bench::{Bench, SOON},
    proxy::{Line, behind_a_proxy},
};

pub(super) fn tasks(bench: &Bench) -> &dyn TaskStore {
    &*bench.store
}

fn mailbox(bench: &Bench) -> &dyn MailboxStore {
    &*bench.store
}

fn domains(bench: &Bench) -> &dyn DomainStore {
    &*bench.store
}

fn state(bench: &Bench) -> &dyn StateStore {
    &*bench.store
}

/// An agent whose incarnation 1 is active.
pub(super) async fn active(bench: &Bench, agent_type: &str) -> Agent {
    let since = bench.clock.now();
    let agent = Agent {
        incarnation: Incarnation(1),
        lifecycle: Lifecycle::Active { since },
        ..bench.agent(agent_type)
    };
    // No event: the numberer has nothing to do.
    bench.store.commit(&Commit { events: Vec::new(), ..bench.changing(&agent) }).await.unwrap();
    agent_store::AgentStore::by_id(&*bench.store, agent.id).await.unwrap().unwrap()
}

pub(super) fn new_task(bench: &Bench, agent: &Agent) -> Task {
    let new = NewTask {
        title: "a task".into(),
        description: None,
        priority: Priority::Normal,
        assigned_to: agent.id,
        created_by: None,
        actor: Actor::System,
        due_at: None,
    };
    Task::create(TaskId(bench.new_id()), new, &agent.agent_type, bench.clock.now()).task
}

fn new_mail(bench: &Bench, agent: AgentId) -> Mail {
    let now = bench.clock.now();
    Mail {
        id: MailId(bench.new_id()),
        version: Default::default(),
        agent_id: agent,
        kind: MailKind::Broadcast,
        sender: Actor::System,
        from_agent: None,
        priority: Priority::High,
        body: json!({"text": "hear"}),
        created_at: now,
        wake_at: now,
        // By the database's clock.
        expires_at: after(now, Duration::from_secs(100 * 365 * 24 * 3600)),
        acknowledged: None,
    }
}

fn new_entry(bench: &Bench, domain: &str) -> DomainEntry {
    let new = NewEntry {
        domain: domain.parse().unwrap(),
        category: "data".into(),
        description: None,
        actor: Actor::System,
    };
    DomainEntry::add(DomainId(bench.new_id()), new, bench.clock.now()).0
}

fn new_request(bench: &Bench, domain: &str) -> DomainRequest {
    let new = NewRequest {
        domain: domain.parse().unwrap(),
        url: None,
        requested_by: None,
        actor: Actor::Agent("ceo".parse().unwrap()),
        task_context: None,
        reason: None,
        category: None,
    };
    DomainRequest::ask(DomainRequestId(bench.new_id()), new, bench.clock.now()).0
}

fn rejected(bench: &Bench, request: DomainRequest) -> DomainRequest {
    let decided = Decided { approved: false, by: Actor::System, at: bench.clock.now(), reason: None };
    request.decide(decided).unwrap().0
}

pub(super) fn task(task: &Task) -> Change {
    Change::Task(Box::new(task.clone()))
}

fn domain(entry: &DomainEntry) -> Change {
    Change::Domain(Box::new(entry.clone()))
}

fn request(request: &DomainRequest) -> Change {
    Change::DomainRequest(Box::new(request.clone()))
}

pub(super) fn changes(bench: &Bench, changes: impl Into<Vec<Change>>) -> Commit {
    Commit { changes: changes.into(), ..bench.telling() }
}

/// A commit in which incarnation 1 claims.
pub(super) fn claiming(bench: &Bench, agent: &Agent, at_most: u32) -> Commit {
    let pick = TaskPick {
        agent: agent.id,
        claimant: Some(Incarnation(1)),
        rules: ClaimRules { at_most, age_step: Duration::ZERO },
        at: bench.clock.now(),
        actor: Actor::Agent(agent.agent_type.clone()),
        ids: (0..4).map(|_| EventId(bench.new_id())).collect(),
        mail_ids: (0..3).map(|_| MailId(bench.new_id())).collect(),
        delays: Delays::default(),
    };
    let speaker = Some(Speaker { agent: agent.id, incarnation: Incarnation(1) });
    Commit { pick: Some(pick), speaker, ..Commit::new(CommitId(bench.new_id())) }
}

fn outcome(answer: Option<Value>) -> PickOutcome {
    serde_json::from_value(answer.expect("a pick has an answer")).unwrap()
}

pub(super) async fn waits_for_a_lock(bench: &Bench, count: i64) {
    wait::until("somebody to wait for a lock", SOON, async || (waiting(bench).await >= count).then_some(()))
        .await;
}

/// How many wait for a lock.
pub(super) async fn waiting(bench: &Bench) -> i64 {
    bench.count("pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").await
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_at_the_same_time_hand_out_each_task_once_and_no_more_than_allowed() {
    let bench = Arc::new(Bench::with(|options| options.connections = 16).await);
    let agent = active(&bench, "ceo").await;
    let made: Vec<Task> = (0..40).map(|_| new_task(&bench, &agent)).collect();
    bench.store.commit(&changes(&bench, made.iter().map(task).collect::<Vec<_>>())).await.unwrap();

    let racers = (0..16).map(|_| {
        let (store, commit) = (Arc::clone(&bench.store), claiming(&bench, &agent, 3));
        tokio::spawn(async move { outcome(store.commit(&commit).await.unwrap()) })
    });
    let mut claimed = Vec::new();
    for racer in join_all(racers.collect::<Vec<_>>()).await {
        match racer.unwrap() {
            PickOutcome::Claimed { task } => claimed.push(task),
            PickOutcome::AtLimit => {}
            other => panic!("{other:?}"),
        }
    }
    claimed.sort();
    let oldest: Vec<TaskId> = made.iter().take(3).map(|task| task.id).collect();
    assert_eq!(claimed, oldest);
    let held = tasks(&bench).claimable(agent.id).await.unwrap().unwrap().held;
    assert_eq!(held.iter().map(|task| task.id).collect::<Vec<_>>(), oldest);
    assert_eq!(tasks(&bench).leases().await.unwrap(), [(agent.id, Incarnation(1))]);

    // Now who claims completes as well, until nothing waits.
    for one in &held {
        bench.store.commit(&completing(&bench, &agent, one.clone())).await.unwrap();
    }
    let racers = (0..16).map(|_| {
        let (bench, agent) = (Arc::clone(&bench), agent.clone());
        tokio::spawn(async move {
            let mut claimed = Vec::new();
            loop {
                match outcome(bench.store.commit(&claiming(&bench, &agent, 3)).await.unwrap()) {
                    PickOutcome::Claimed { task } => {
                        let held = tasks(&bench).claimable(agent.id).await.unwrap().unwrap().held;
                        assert!(held.len() <= 3, "{} in progress", held.len());
                        let mine = tasks(&bench).by_id(task).await.unwrap().unwrap();
                        bench.store.commit(&completing(&bench, &agent, mine)).await.unwrap();
                        claimed.push(task);
                    }
                    PickOutcome::AtLimit => tokio::task::yield_now().await,
                    PickOutcome::NothingWaits => return claimed,
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    let mut all: Vec<TaskId> = Vec::new();
    for racer in join_all(racers.collect::<Vec<_>>()).await {
        all.extend(racer.unwrap());
    }
    all.sort();
    assert_eq!(all, made.iter().skip(3).map(|task| task.id).collect::<Vec<_>>());
    assert_eq!(bench.count("tasks WHERE status = 'completed' AND claims = 1 AND version = 3").await, 40);
}

fn completing(bench: &Bench, agent: &Agent, held: Task) -> Commit {
    let by = EndedBy::Holder(agent.id, Incarnation(1));
    let moved = held.complete(by, None, &agent.agent_type, bench.clock.now()).unwrap();
    let speaker = Some(Speaker { agent: agent.id, incarnation: Incarnation(1) });
    Commit { speaker, ..changes(bench, [task(&moved.task)]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pick_takes_back_what_an_ended_incarnation_held_and_meets_changes_as_a_conflict() {
    let bench = Bench::new().await;
    let agent = active(&bench, "ceo").await;
    let one = new_task(&bench, &agent);
    bench.store.commit(&changes(&bench, [task(&one)])).await.unwrap();
    let claim = claiming(&bench, &agent, 1);
    let claimed = PickOutcome::Claimed { task: one.id };
    assert_eq!(outcome(bench.store.commit(&claim).await.unwrap()), claimed);
    assert!(matches!(
        bench.store.commit(&claim).await,
        Err(CommitError::Duplicate(answer)) if outcome(answer.clone()) == claimed
    ));
    let answer = bench.store.commit(&claiming(&bench, &agent, 1)).await.unwrap();
    assert_eq!(outcome(answer), PickOutcome::AtLimit);
    let events = bench.logged().await.len();

    let next = Agent { incarnation: Incarnation(2), ..agent.clone() };
    bench.store.commit(&bench.changing(&next)).await.unwrap();
    // Its own word does not count any more; without it the store says who speaks now.
    let past = claiming(&bench, &agent, 1);
    let refused = bench.store.commit(&past).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    assert_eq!(tasks(&bench).by_id(one.id).await.unwrap().unwrap().status(), TaskStatus::InProgress);
    let answer = bench.store.commit(&Commit { speaker: None, ..claiming(&bench, &agent, 1) }).await.unwrap();
    assert_eq!(outcome(answer), PickOutcome::Past { present: Incarnation(2) });
    assert_eq!(tasks(&bench).by_id(one.id).await.unwrap().unwrap().status(), TaskStatus::Pending);
    assert_eq!(bench.logged().await.len(), events + 2, "of the agent, and of what was taken back");

    // Nothing of a pick that meets a change stays.
    let waiting = tasks(&bench).by_id(one.id).await.unwrap().unwrap();
    let mut both = Commit { speaker: None, ..claiming(&bench, &agent, 1) };
    both.changes = vec![task(&Task { title: "changed".into(), ..waiting.clone() })];
    let pick = both.pick.as_mut().unwrap();
    pick.claimant = Some(Incarnation(2));
    let refused = bench.store.commit(&both).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    assert_eq!(tasks(&bench).by_id(one.id).await.unwrap().unwrap(), waiting);
    let mut nobody = claiming(&bench, &agent, 1);
    nobody.speaker = None;
    nobody.pick.as_mut().unwrap().agent = AgentId(bench.new_id());
    assert!(matches!(bench.store.commit(&nobody).await, Err(CommitError::Conflict(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_what_is_spent_at_the_same_time_is_lost() {
    let bench = Bench::with(|options| options.connections = 16).await;
    let agents = [(); 2].map(|()| AgentId(bench.new_id()));
    let day = day_of(bench.clock.now());
    let spent = |agent, kind, bytes| Spent { agent, kind, day, rows: 1, bytes };
    let racers = (0..64_u64).map(|n| {
        let mut all = vec![
            spent(agents[0], SpentKind::Messages, n),
            spent(agents[1], SpentKind::Messages, 1),
            spent(agents[0], SpentKind::Messages, 1),
        ];
        if n % 2 == 0 {
            all.reverse();
        }
        let (store, commit) = (Arc::clone(&bench.store), Commit { spent: all, ..bench.telling() });
        tokio::spawn(async move { store.commit(&commit).await })
    });
    for racer in join_all(racers.collect::<Vec<_>>()).await {
        racer.unwrap().unwrap();
    }
    let mut sums = Vec::new();
    for agent in agents {
        let sum = bench.store.spent(agent, SpentKind::Messages, day).await.unwrap();
        sums.push((sum.rows, sum.bytes));
    }
    assert_eq!(sums, [(128, 64 + 63 * 64 / 2), (64, 64)]);
    assert_eq!(bench.store.spent(agents[0], SpentKind::Tasks, day).await.unwrap(), Default::default());
    // What is refused spends nothing.
    let refused = Commit {
        spent: vec![spent(agents[0], SpentKind::Tasks, 5)],
        ..bench.changing(&Agent { version: aito_domain::id::Version(9), ..bench.agent("cto") })
    };
    assert!(matches!(bench.store.commit(&refused).await, Err(CommitError::Conflict(_))));
    assert_eq!(bench.store.spent(agents[0], SpentKind::Tasks, day).await.unwrap(), Default::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_entries_and_open_requests_there_is_one_and_what_is_freed_can_be_taken_at_once() {
    let bench = Bench::with(|options| options.connections = 16).await;
    let make: [&dyn Fn() -> Change; 2] =
        [&|| domain(&new_entry(&bench, "a.com")), &|| request(&new_request(&bench, "a.com"))];
    for make in make {
        let racers = (0..16).map(|_| {
            let (store, commit) = (Arc::clone(&bench.store), changes(&bench, [make()]));
            tokio::spawn(async move { store.commit(&commit).await })
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
    assert_eq!(bench.logged().await.len(), 2);

    let stands = domains(&bench).page(None, 10).await.unwrap().remove(0);
    let (new, asker) = (new_entry(&bench, "a.com"), Actor::Agent("ceo".parse().unwrap()));
    let open = domains(&bench).open_request(&new.domain, &asker).await.unwrap().unwrap();
    let again = new_request(&bench, "a.com");
    let removed = stands.remove(bench.clock.now()).0;
    let decided = rejected(&bench, open);
    let all = [domain(&new), domain(&removed), request(&again), request(&decided)];
    bench.store.commit(&changes(&bench, all)).await.unwrap();
    assert_eq!(domains(&bench).page(None, 10).await.unwrap()[0].id, new.id);
    let open = domains(&bench).open_request(&new.domain, &asker).await.unwrap().unwrap();
    assert_eq!(open.id, again.id);
    // What was removed does not come back while another stands.
    let refused = changes(
        &bench,
        [domain(&DomainEntry { version: aito_domain::id::Version(2), removed_at: None, ..removed })],
    );
    assert!(matches!(bench.store.commit(&refused).await, Err(CommitError::Conflict(_))));
    let late = changes(&bench, [request(&decided)]);
    assert!(matches!(bench.store.commit(&late).await, Err(CommitError::Conflict(_))), "it was decided");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pick_of_which_the_end_is_not_known_is_settled_with_its_outcome() {
    let (bench, proxy) = behind_a_proxy(|options| options.timeout = Duration::from_secs(2)).await;
    let agent = active(&bench, "ceo").await;
    let made = [(); 2].map(|()| new_task(&bench, &agent));
    let commit = Commit { events: Vec::new(), ..changes(&bench, made.each_ref().map(task)) };
    bench.store.commit(&commit).await.unwrap();
    let lines = [(Line::LosesCommit, &made[0], false), (Line::LosesAnswer, &made[0], true)];
    for (line, next, is_applied) in lines.into_iter().chain([(Line::CutsAtCommit, &made[1], true)]) {
        // The numberer's COMMIT is not to be the one that is lost.
        bench.logged().await;
        let claim = claiming(&bench, &agent, 50);
        proxy.set(line);
        let answer = bench.store.commit(&claim).await;
        assert!(matches!(answer, Err(CommitError::Unknown(_))), "{line:?}: {answer:?}");
        proxy.set(Line::Good);
        let settled =
            wait::until("the id to be settled", SOON, async || bench.store.settle(claim.id).await.ok()).await;
        let stored = tasks(&bench).by_id(next.id).await.unwrap().unwrap();
        let again = bench.store.commit(&claim).await;
        if is_applied {
            let Settled::Applied(answer) = settled else { panic!("{settled:?}") };
            assert_eq!(outcome(answer.clone()), PickOutcome::Claimed { task: next.id });
            assert!(matches!(again, Err(CommitError::Duplicate(first)) if first == answer));
            assert_eq!(stored.status(), TaskStatus::InProgress);
        } else {
            assert_eq!(settled, Settled::NotApplied);
            assert!(matches!(again, Err(CommitError::Barred)), "{again:?}");
            assert_eq!(stored.status(), TaskStatus::Pending);
        }
    }
}

/// As with agents and tokens: that is the first trip, and COMMIT the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_all_kinds_of_work_is_sent_whole_without_waiting_for_an_answer() {
    let (bench, proxy) = behind_a_proxy(|options| options.connections = 1).await;
    let agent = active(&bench, "ceo").await;
    let now = bench.clock.now();
    let (first, note) = (
        new_task(&bench, &agent),
        StateEntry {
            agent_id: agent.id,
            key: "seen".into(),
            version: Default::default(),
            value: Some(json!(null)),
            updated_at: now,
        },
    );
    bench.store.commit(&changes(&bench, [task(&first), Change::State(Box::new(note))])).await.unwrap();
    let whole = async |name: &str| {
        let stored = tasks(&bench).by_id(first.id).await.unwrap().unwrap();
        let note = state(&bench).by_key(agent.id, "seen").await.unwrap().unwrap();
        let setting = Setting {
            category: "queue".into(),
            key: name.into(),
            version: Default::default(),
            value: StoredValue::Sealed(vec![0, 255]),
            description: None,
            updated_by: Actor::System,
            updated_at: now,
        };
        let mut all = vec![
            task(&stored),
            domain(&new_entry(&bench, &format!("{name}.com"))),
            request(&new_request(&bench, &format!("{name}.com"))),
            Change::Setting(Box::new(setting)),
            Change::State(Box::new(note)),
        ];
        all.extend((0..3).map(|_| Change::Mail(Box::new(new_mail(&bench, agent.id)))));
        let spent =
            Spent { agent: agent.id, kind: SpentKind::Messages, day: day_of(now), rows: 3, bytes: 30 };
        let speaker = Some(Speaker { agent: agent.id, incarnation: Incarnation(1) });
        Commit { spent: vec![spent], speaker, ..changes(&bench, all) }
    };
    // The connection learns every statement.
    bench.store.commit(&whole("one").await).await.unwrap();
    let commit = whole("two").await;
    proxy.set(Line::Withholds);
    let store = Arc::clone(&bench.store);
    let committing = tokio::spawn(async move { store.commit(&commit).await });
    let written = "SELECT count(DISTINCT relation) FROM pg_locks
         WHERE mode = 'RowExclusiveLock' AND relation IN ('tasks'::regclass, 'mailbox'::regclass, 'domains'::regclass,
             'domain_requests'::regclass, 'settings'::regclass, 'agent_state'::regclass, 'spent'::regclass,
             'events'::regclass)
         GROUP BY pid";
    wait::until("one transaction to have written to every table", SOON, async || {
        let rows = bench.outside.query(written, &[]).await.unwrap();
        rows.iter().any(|row| row.get::<_, i64>(0) == 8).then_some(())
    })
    .await;
    assert!(!committing.is_finished(), "it has no answer yet");
    assert_eq!(bench.count("mailbox").await, 3, "it is not committed yet");
    proxy.set(Line::Good);
    committing.await.unwrap().unwrap();
    assert_eq!(mailbox(&bench).waiting(agent.id, None, 10).await.unwrap().len(), 6);
    let settings = bench.store.all().await.unwrap();
    assert_eq!(settings.iter().map(|setting| setting.key.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    let sum = bench.store.spent(agent.id, SpentKind::Messages, day_of(now)).await.unwrap();
    assert_eq!((sum.rows, sum.bytes), (6, 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_counts_once_and_a_broadcast_is_all_or_nothing() {
    let bench = Bench::new().await;
    let agents = [(); 3].map(|()| AgentId(bench.new_id()));
    let mail = agents.map(|agent| new_mail(&bench, agent));
    let all = |mail: &[Mail]| mail.iter().map(|one| Change::Mail(Box::new(one.clone()))).collect::<Vec<_>>();
    bench.store.commit(&changes(&bench, all(&mail[..1]))).await.unwrap();
    let refused = bench.store.commit(&changes(&bench, all(&mail))).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    assert_eq!(bench.count("mailbox").await, 1);
    bench.store.commit(&changes(&bench, all(&mail[1..]))).await.unwrap();
    for (agent, mail) in agents.iter().zip(mail) {
        let waiting = mailbox(&bench).waiting(*agent, None, 10).await.unwrap();
        assert_eq!(waiting, [Mail { version: aito_domain::id::Version(1), ..mail }]);
        let due = mailbox(&bench).due(*agent).await.unwrap();
        assert_eq!((due.due, due.waiting, due.next, due.first.len()), (1, 1, None, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_time_has_whole_milliseconds_and_goes_on_within_a_transaction() {
    let bench = Bench::new().await;
    bench.run(&["BEGIN"]).await;
    let times =
        "generate_series(1, 1000) AS n CROSS JOIN LATERAL (SELECT aito_now() + n * interval '0') AS at (t)";
    let parts = format!("{times} WHERE extract(microseconds FROM t)::bigint % 1000 <> 0");
    assert_eq!(bench.count(&parts).await, 0);
    let begun = "SELECT aito_now() > now() - interval '1 ms'";
    assert!(bench.outside.query_one(begun, &[]).await.unwrap().get::<_, bool>(0));
    let goes_on = "SELECT aito_now() > date_trunc('milliseconds', now())";
    wait::until("time to go on", SOON, async || {
        bench.outside.query_one(goes_on, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    bench.run(&["ROLLBACK"]).await;
}
