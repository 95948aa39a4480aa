//! The rules of `Ledger` on domains, speakers, picks, what is spent, and answers.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use aito_domain::{
    agent::{Agent, Lifecycle},
    allowlist::{Decided, DomainEntry, DomainRequest},
    event::{Actor, TaskChange},
    id::{AgentId, Incarnation, TaskId, Version},
    mailbox::MailKind,
    ports::{
        clock::Clock as _,
        history_store::Written,
        ledger::{Change, Commit, CommitError, Ledger, Settled, Speaker},
        task_store::TaskQuery,
    },
    quota::{Spent, SpentKind, day_after},
    task::{EndedBy, PickOutcome, Priority, Task, TaskPick, TaskState, TaskStatus, next},
    time::between,
};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    Handles, Maker, Snapshot, StoreFixture, change,
    event_log::persistent,
    kinds::{change_domain, change_mail, change_request, change_task, far},
    ledger::{race, settle},
    must, whole_log, within,
};

/// Rule 12.
pub async fn ledger_12_entries_and_open_requests_have_domains_of_their_own<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let now = make.clock().now();
    let refused = async |changes: Vec<Change>, why: &str| {
        let commit = Commit { changes, audit: vec![make.audit("refused")], ..make.telling("refused") };
        let before = Snapshot::of(&handles).await;
        for ledger in [&handles.ledger, &other.ledger] {
            let answer = within(ledger.commit(&commit)).await;
            assert!(matches!(answer, Err(CommitError::Conflict(_))), "{why}: {answer:?}");
            assert_eq!(Snapshot::of(&handles).await, before, "{why} left a trace");
        }
    };
    let changes = |changes: Vec<Change>| Commit { changes, ..make.commit() };

    let first = make.domain("example.com");
    must(&handles.ledger, &changes(vec![change_domain(&first)])).await;
    refused(vec![change_domain(&make.domain("example.com"))], "a new entry").await;
    refused(
        vec![change_domain(&make.domain("a.com")), change_domain(&make.domain("a.com"))],
        "two of one commit",
    )
    .await;
    for name in ["www.example.com", "example.org", "xample.com"] {
        must(&handles.ledger, &changes(vec![change_domain(&make.domain(name))])).await;
    }
    // A domain is free as soon as its entry is removed, also within the commit that does so.
    let removed = DomainEntry { version: Version(1), removed_at: Some(now), ..first };
    let heir = make.domain("example.com");
    must(&handles.ledger, &changes(vec![change_domain(&removed), change_domain(&heir)])).await;
    let again = DomainEntry { version: Version(2), removed_at: None, ..removed };
    refused(vec![change_domain(&again)], "one that comes back").await;
    for round in 0..4 {
        let raced: Vec<_> = (0..12).map(|_| make.domain(&format!("raced-{round}.com"))).collect();
        let winners = race(&make, &handles, &other, raced.iter().map(change_domain).collect()).await;
        let stands = handles.domains.standing(std::slice::from_ref(&raced[0].domain)).await.unwrap();
        assert_eq!(
            winners.iter().map(|n| raced[*n].id).collect::<Vec<_>>(),
            stands.iter().map(|entry| entry.id).collect::<Vec<_>>()
        );
        assert_eq!(stands.len(), 1, "round {round}");
    }

    let cmo = Actor::Agent("cmo".parse().unwrap());
    let request = make.request("example.net", cmo.clone());
    must(&handles.ledger, &changes(vec![change_request(&request)])).await;
    refused(vec![change_request(&make.request("example.net", cmo.clone()))], "the same asker").await;
    for (domain, actor) in [
        ("example.net", Actor::System),
        ("example.net", Actor::Token("cmo".into())),
        ("www.example.net", cmo.clone()),
    ] {
        must(&handles.ledger, &changes(vec![change_request(&make.request(domain, actor))])).await;
    }
    for approved in [true, false] {
        // Who asked may ask again as soon as it was decided, also within the commit that does so.
        let open = handles.domains.open_request(&request.domain, &cmo).await.unwrap().unwrap();
        let decided = Decided { approved, by: Actor::System, at: now, reason: None };
        let decided = DomainRequest { decided: Some(decided), ..open };
        let next = make.request("example.net", cmo.clone());
        must(&handles.ledger, &changes(vec![change_request(&decided), change_request(&next)])).await;
        let reopened = DomainRequest { version: decided.version.next(), decided: None, ..decided };
        refused(vec![change_request(&reopened)], "one that is opened again").await;
    }
    for round in 0..4 {
        let raced: Vec<_> =
            (0..12).map(|_| make.request(&format!("raced-{round}.com"), cmo.clone())).collect();
        let winners = race(&make, &handles, &other, raced.iter().map(change_request).collect()).await;
        let open = handles.domains.open_request(&raced[0].domain, &cmo).await.unwrap();
        assert_eq!(winners.iter().map(|n| raced[*n].id).collect::<Vec<_>>(), [open.unwrap().id]);
    }
}

/// Rule 13.
pub async fn ledger_13_only_the_present_incarnation_speaks<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let mut agent = make.running_agent(&handles, "ceo").await;
    let idle = make.stored_agent(&handles, "cto").await;
    let says = |agent: AgentId, incarnation: u64, what: &str| Commit {
        speaker: Some(Speaker { agent, incarnation: Incarnation(incarnation) }),
        ..make.telling(what)
    };
    for (who, incarnation) in
        [(agent.id, 0), (agent.id, 2), (agent.id, i64::MAX as u64), (idle.id, 1), (AgentId(make.uuid()), 0)]
    {
        let before = Snapshot::of(&handles).await;
        for ledger in [&handles.ledger, &other.ledger] {
            let answer = within(ledger.commit(&says(who, incarnation, "refused"))).await;
            assert!(matches!(answer, Err(CommitError::Conflict(_))), "{incarnation} of {who}: {answer:?}");
        }
        assert_eq!(Snapshot::of(&handles).await, before);
    }
    must(&handles.ledger, &says(agent.id, 1, "present")).await;
    must(&handles.ledger, &says(idle.id, 0, "present")).await;

    for round in 0..12_u64 {
        let present = agent.incarnation.0;
        let begun = Agent { incarnation: Incarnation(present + 1), ..agent.clone() };
        let begins = Commit { changes: vec![change(&begun)], ..make.telling("begins") };
        let spoken: Vec<_> = (0..12).map(|n| says(agent.id, present, &n.to_string())).collect();
        let racing = spoken.iter().enumerate().flat_map(|(n, commit)| {
            // Somewhere among the others.
            let first = (n as u64 == round).then_some(&begins);
            first.into_iter().chain([commit])
        });
        let racing = racing.enumerate().map(|(n, commit)| {
            let ledger = Arc::clone(if n % 2 == 0 { &handles.ledger } else { &other.ledger });
            let commit = commit.clone();
            tokio::spawn(async move { (commit.events[0].id, persistent(&ledger, &commit).await) })
        });
        let answers = within(join_all(racing.collect::<Vec<_>>())).await;
        let log: Vec<_> = whole_log(&handles.log).await.into_iter().map(|event| event.id).collect();
        let turn = log.iter().position(|id| *id == begins.events[0].id).expect("it began");
        for answer in answers {
            let (event, answer) = answer.unwrap();
            let place = log.iter().position(|id| *id == event);
            match answer {
                Ok(_) => assert!(place.unwrap() <= turn, "round {round}: spoken after the next had begun"),
                Err(CommitError::Conflict(_)) => assert_eq!(place, None, "round {round}"),
                Err(other) => panic!("round {round}: {other:?}"),
            }
        }
        let late = within(handles.ledger.commit(&says(agent.id, present, "late"))).await;
        assert!(matches!(late, Err(CommitError::Conflict(_))), "{late:?}");
        agent = handles.agents.by_id(agent.id).await.unwrap().unwrap();
        assert_eq!(agent.incarnation, begun.incarnation);
        must(&other.ledger, &says(agent.id, present + 1, "at once")).await;
    }
}

/// Rule 14.
pub async fn ledger_14_picks_of_one_agent_are_decided_one_after_another<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agent = make.running_agent(&handles, "ceo").await;
    let another = make.running_agent(&handles, "cto").await;
    let mut waiting: Vec<Task> = (0..24_usize)
        .map(|n| {
            // Some have waited for so long that they count more than they say.
            let waited = std::time::Duration::from_secs([0, 10, 4000, 90_000][n % 4] + n as u64 % 3);
            Task {
                priority: Priority::ALL[n * 7 % 5],
                created_at: make.clock().now() - waited,
                ..make.task(agent.id)
            }
        })
        .collect();
    let theirs: Vec<Task> = (0..6).map(|_| make.task(another.id)).collect();
    let given = Commit { changes: waiting.iter().chain(&theirs).map(change_task).collect(), ..make.commit() };
    must(&handles.ledger, &given).await;
    let rules = make.pick(agent.id, Some(1), 2).rules;
    let mut order = Vec::new();
    while let Some(task) = next(&waiting, &rules, make.clock().now()).cloned() {
        waiting.retain(|one| one.id != task.id);
        order.push(task.id);
    }

    // Many at once: as many get one as may be in progress, and those are the first.
    for round in 0..4 {
        let outcomes = picks(&make, &handles, &other, 16, || make.pick(agent.id, Some(1), 2)).await;
        let claimed: BTreeSet<TaskId> = outcomes.iter().filter_map(claimed_by).collect();
        let expected: BTreeSet<TaskId> = order[round * 2..round * 2 + 2].iter().copied().collect();
        assert_eq!(claimed, expected, "round {round}");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == PickOutcome::AtLimit).count(), 14);
        assert_eq!(in_progress(&handles, agent.id).await, expected);
        for id in claimed {
            complete(&make, &handles.ledger, &handles, id).await;
        }
    }
    // Each ends what it got and picks again, while an agent that has nothing to do with it does the same.
    let (make, order) = (Arc::new(make), &order[8..]);
    let workers = (0..8).map(|n| {
        let (own, all) =
            if n % 2 == 0 { (handles.clone(), other.clone()) } else { (other.clone(), handles.clone()) };
        let (make, who) = (Arc::clone(&make), if n % 4 == 3 { another.id } else { agent.id });
        tokio::spawn(async move {
            let mut done = Vec::new();
            loop {
                let commit = Commit { pick: Some(make.pick(who, Some(1), 2)), ..make.commit() };
                let answer = persistent(&own.ledger, &commit).await.expect("nobody else changes these tasks");
                match outcome(answer) {
                    PickOutcome::Claimed { task } => {
                        let held = in_progress(&all, who).await;
                        assert!(held.len() <= 2 && held.contains(&task), "{held:?}");
                        complete(&make, &own.ledger, &all, task).await;
                        done.push((who, task));
                    }
                    PickOutcome::AtLimit => tokio::task::yield_now().await,
                    PickOutcome::NothingWaits => return done,
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    let mut done = Vec::new();
    for worker in within(join_all(workers.collect::<Vec<_>>())).await {
        done.extend(worker.unwrap());
    }
    assert_eq!(done.len(), order.len() + theirs.len());
    assert_eq!(done.iter().collect::<HashSet<_>>().len(), done.len(), "each is claimed once");
    let told: Vec<_> = claims_told(&handles, agent.id).await.split_off(8);
    assert_eq!(told, order, "they are handed out in their order, and told so");
    for (_, task) in &done {
        let task = handles.tasks.by_id(*task).await.unwrap().unwrap();
        assert_eq!((task.version, task.claims, task.status()), (Version(3), 1, TaskStatus::Completed));
    }
    pick_edges(&make, &handles, &other, agent).await;
    pick_tells_of_what_waits_again(&make, &handles, &other).await;
}

/// What becomes of leases that have ended, of picks for nobody and of those who may not, and of one that is disturbed.
async fn pick_edges(make: &Maker, handles: &Handles, other: &Handles, agent: Agent) {
    let asked = async |pick: TaskPick| {
        let commit = Commit { pick: Some(pick), answer: Some(json!("not this")), ..make.telling("picks") };
        let answer = within(persistent(&handles.ledger, &commit)).await.unwrap();
        assert_eq!(settle(other, &commit).await, Settled::Applied(answer.clone()), "it is what is kept");
        assert!(super::logged_ids(&handles.log).await.contains(&commit.events[0].id));
        outcome(answer)
    };
    let tasks: Vec<Task> = (0..3).map(|_| make.task(agent.id)).collect();
    let given = Commit { changes: tasks.iter().map(change_task).collect(), ..make.commit() };
    must(&handles.ledger, &given).await;
    for task in &tasks[..2] {
        assert_eq!(asked(make.pick(agent.id, Some(1), 2)).await, PickOutcome::Claimed { task: task.id });
    }
    assert_eq!(asked(make.pick(agent.id, None, 2)).await, PickOutcome::TakenBack, "both are alive");
    assert_eq!(in_progress(handles, agent.id).await.len(), 2);
    // The next incarnation takes over what the one before held.
    let begun = Agent { incarnation: Incarnation(2), ..agent.clone() };
    must(&handles.ledger, &make.changing(&begun)).await;
    let past = PickOutcome::Past { present: Incarnation(2) };
    assert_eq!(asked(late_pick(make, agent.id, Some(1))).await, past);
    assert_eq!(in_progress(handles, agent.id).await, BTreeSet::new(), "whoever asks takes them back");
    let told = wakes(handles, agent.id).await;
    assert_eq!(told, BTreeSet::from([tasks[0].id, tasks[1].id]), "and tells the agent that they wait again");
    for mail in handles.mailbox.waiting(agent.id, None, 10).await.unwrap() {
        let delay = between(mail.created_at, mail.wake_at);
        assert_eq!((mail.version, delay.as_secs()), (Version(1), mail.priority.rank().into()));
        assert_eq!(handles.mailbox.by_id(mail.id).await.unwrap(), Some(mail));
    }
    assert_eq!(asked(make.pick(agent.id, Some(2), 2)).await, PickOutcome::Claimed { task: tasks[0].id });
    let again = handles.tasks.by_id(tasks[0].id).await.unwrap().unwrap();
    assert_eq!((again.claims, again.version), (2, Version(4)));
    let ended = Agent { lifecycle: Lifecycle::Inactive, version: Version(2), ..begun };
    must(&handles.ledger, &make.changing(&ended)).await;
    assert_eq!(asked(late_pick(make, agent.id, Some(2))).await, PickOutcome::NotRunning);
    assert_eq!(in_progress(handles, agent.id).await, BTreeSet::new());
    assert_eq!(handles.mailbox.due(agent.id).await.unwrap().waiting, 3);
    let stopping = Agent {
        lifecycle: Lifecycle::Stopping { since: make.clock().now() },
        version: Version(3),
        ..ended.clone()
    };
    must(&handles.ledger, &make.changing(&stopping)).await;
    assert_eq!(asked(make.pick(agent.id, Some(2), 2)).await, PickOutcome::NotRunning);

    let nobody =
        Commit { pick: Some(make.pick(AgentId(make.uuid()), Some(1), 2)), ..make.telling("nobody's") };
    let answer = within(handles.ledger.commit(&nobody)).await;
    assert!(matches!(answer, Err(CommitError::Conflict(_))), "{answer:?}");

    // Somebody edits what is picked: one of them is wholly before the other, or the later one is refused.
    let runs = Agent { lifecycle: agent.lifecycle, version: Version(4), ..ended };
    must(&handles.ledger, &make.changing(&runs)).await;
    for round in 0..12 {
        let pressing =
            Task { priority: Priority::Critical, created_at: make.clock().now(), ..make.task(agent.id) };
        must(&handles.ledger, &Commit { changes: vec![change_task(&pressing)], ..make.commit() }).await;
        let edit = Task { title: "edited".into(), version: Version(1), ..pressing.clone() };
        let edit = Commit { changes: vec![change_task(&edit)], ..make.commit() };
        let pick = Commit { pick: Some(make.pick(agent.id, Some(2), 1)), ..make.commit() };
        let (edited, picked) = tokio::join!(
            tokio::spawn(persisting(&handles.ledger, &edit)),
            tokio::spawn(persisting(&other.ledger, &pick))
        );
        let task = handles.tasks.by_id(pressing.id).await.unwrap().unwrap();
        let (title, version) = (task.title.as_str(), task.version);
        match (edited.unwrap(), picked.unwrap()) {
            (Ok(_), Ok(_)) => assert_eq!((title, version), ("edited", Version(3)), "round {round}"),
            (Err(CommitError::Conflict(_)), Ok(_)) => {
                assert_eq!((title, version), (pressing.title.as_str(), Version(2)), "round {round}");
            }
            (Ok(_), Err(CommitError::Conflict(_))) => {
                assert_eq!((title, version), ("edited", Version(2)), "round {round}");
            }
            neither => panic!("round {round}: {neither:?}"),
        }
        let ended = Task { state: TaskState::Cancelled { reason: None, at: make.clock().now() }, ..task };
        must(&handles.ledger, &Commit { changes: vec![change_task(&ended)], ..make.commit() }).await;
    }
}

/// Of what a pick takes back its agent is told, unless the same pick claims it, and only if the pick is applied.
async fn pick_tells_of_what_waits_again(make: &Maker, handles: &Handles, other: &Handles) {
    let agent = make.running_agent(handles, "cfo").await;
    let tasks = [make.task(agent.id), make.task(agent.id)];
    let mail = make.mail(agent.id);
    let changes = tasks.iter().map(change_task).chain([change_mail(&mail)]).collect();
    must(&handles.ledger, &Commit { changes, ..make.commit() }).await;
    for _ in &tasks {
        let pick = Some(make.pick(agent.id, Some(1), 2));
        let answer = must(&handles.ledger, &Commit { pick, ..make.commit() }).await;
        assert!(claimed_by(&outcome(answer)).is_some());
    }
    must(&handles.ledger, &make.changing(&Agent { incarnation: Incarnation(2), ..agent.clone() })).await;

    // Refused are one whose own change meets what it takes back, and one whose message there is already.
    let held = handles.tasks.by_id(tasks[1].id).await.unwrap().unwrap();
    let mut taken = late_pick(make, agent.id, None);
    taken.mail_ids[1] = mail.id;
    for (changes, pick) in [(vec![change_task(&held)], late_pick(make, agent.id, None)), (Vec::new(), taken)]
    {
        let commit = Commit { changes, pick: Some(pick), ..make.telling("refused") };
        let before = Snapshot::of(handles).await;
        for ledger in [&handles.ledger, &other.ledger] {
            let answer = within(ledger.commit(&commit)).await;
            assert!(matches!(answer, Err(CommitError::Conflict(_))), "{answer:?}");
            assert_eq!(Snapshot::of(handles).await, before);
        }
        assert_eq!(wakes(handles, agent.id).await, BTreeSet::new());
    }

    let both = BTreeSet::from(tasks.map(|task| task.id));
    let pick = Some(late_pick(make, agent.id, Some(2)));
    let answer = must(&handles.ledger, &Commit { pick, ..make.commit() }).await;
    let claimed = BTreeSet::from_iter(claimed_by(&outcome(answer)));
    assert_eq!(in_progress(handles, agent.id).await, claimed);
    let waits: BTreeSet<_> = both.difference(&claimed).copied().collect();
    assert_eq!((waits.len(), wakes(other, agent.id).await), (1, waits), "who claims it knows of it");
}

/// Rule 15.
pub async fn ledger_15_what_is_spent_adds_up<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await.id, make.stored_agent(&handles, "cto").await.id];
    let days = [make.day(), day_after(make.day())];
    let spent = |agent, kind, day, n: u64| Spent { agent, kind, day, rows: n, bytes: n * 1000 };
    let racing = (1..=40_u64).map(|n| {
        let ledger = Arc::clone(if n % 2 == 0 { &handles.ledger } else { &other.ledger });
        let mut parts = vec![
            spent(agents[0], SpentKind::Tasks, days[0], n),
            // Twice in one commit counts twice.
            spent(agents[0], SpentKind::Tasks, days[0], 1),
            spent(agents[1], SpentKind::Tasks, days[0], 2),
            spent(agents[0], SpentKind::ALL[n as usize % 4], days[1], 3),
        ];
        if n % 3 == 0 {
            parts.reverse();
        }
        let commit = Commit { spent: parts, ..make.commit() };
        tokio::spawn(async move { persistent(&ledger, &commit).await })
    });
    for racer in within(join_all(racing.collect::<Vec<_>>())).await {
        racer.unwrap().unwrap();
    }
    let written = |rows: u64| Written { rows, bytes: rows * 1000 };
    for store in [&handles.quotas, &other.quotas] {
        assert_eq!(store.spent(agents[0], SpentKind::Tasks, days[0]).await.unwrap(), written(820 + 40));
        assert_eq!(store.spent(agents[1], SpentKind::Tasks, days[0]).await.unwrap(), written(80));
        for kind in SpentKind::ALL {
            assert_eq!(store.spent(agents[0], kind, days[1]).await.unwrap(), written(30));
        }
        assert_eq!(store.spent(agents[0], SpentKind::State, days[0]).await.unwrap(), Written::default());
    }
    // What is refused spends nothing, nor does what counted before.
    let mine = vec![spent(agents[0], SpentKind::State, days[0], 7)];
    let stale = Agent { version: Version(9), ..handles.agents.by_id(agents[0]).await.unwrap().unwrap() };
    let refused = Commit { changes: vec![change(&stale)], spent: mine.clone(), ..make.commit() };
    assert!(matches!(within(handles.ledger.commit(&refused)).await, Err(CommitError::Conflict(_))));
    let counts = Commit { spent: mine, ..make.commit() };
    within(handles.ledger.commit(&counts)).await.unwrap();
    let again = within(other.ledger.commit(&counts)).await;
    assert!(matches!(again, Err(CommitError::Duplicate(_))), "{again:?}");
    assert_eq!(other.quotas.spent(agents[0], SpentKind::State, days[0]).await.unwrap(), written(7));
}

/// Rule 16.
pub async fn ledger_16_commit_gives_the_answer_that_is_kept<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agent = make.running_agent(&handles, "ceo").await;
    let task = make.task(agent.id);
    must(&handles.ledger, &Commit { changes: vec![change_task(&task)], ..make.commit() }).await;
    let kept = async |commit: &Commit, expected: Option<Value>| {
        assert_eq!(within(handles.ledger.commit(commit)).await.unwrap(), expected);
        for handles in [&handles, &other] {
            match within(handles.ledger.commit(commit)).await {
                Err(CommitError::Duplicate(first)) => assert_eq!(first, expected),
                other => panic!("{other:?}"),
            }
            assert_eq!(settle(handles, commit).await, Settled::Applied(expected.clone()));
        }
    };
    for answer in [None, Some(json!(null)), Some(json!({"task": "日本 \"'", "n": [1, 0.1, u64::MAX]}))] {
        kept(&Commit { answer: answer.clone(), ..make.telling("answered") }, answer).await;
    }
    let claimed = PickOutcome::Claimed { task: task.id };
    for expected in [claimed, PickOutcome::NothingWaits, PickOutcome::TakenBack] {
        let claimant = (expected != PickOutcome::TakenBack).then_some(1);
        let pick = Some(make.pick(agent.id, claimant, 2));
        let commit = Commit { pick, answer: Some(json!("whatever")), ..make.telling("picked") };
        kept(&commit, Some(serde_json::to_value(&expected).unwrap())).await;
    }
}

/// Commits `count` picks at once, half of them by each server.
async fn picks(
    make: &Maker,
    handles: &Handles,
    other: &Handles,
    count: usize,
    pick: impl Fn() -> TaskPick,
) -> Vec<PickOutcome> {
    let racing = (0..count).map(|n| {
        let commit = Commit { pick: Some(pick()), ..make.commit() };
        tokio::spawn(persisting(if n % 2 == 0 { &handles.ledger } else { &other.ledger }, &commit))
    });
    let answers = within(join_all(racing.collect::<Vec<_>>())).await;
    let answers = answers.into_iter().map(|answer| answer.unwrap());
    answers.map(|answer| outcome(answer.expect("nobody else changes these tasks"))).collect()
}

/// [`persistent`], to be spawned.
fn persisting(
    ledger: &Arc<dyn Ledger>,
    commit: &Commit,
) -> impl Future<Output = Result<Option<Value>, CommitError>> + Send + use<> {
    let (ledger, commit) = (Arc::clone(ledger), commit.clone());
    async move { persistent(&ledger, &commit).await }
}

/// What the answer of a pick says.
fn outcome(answer: Option<Value>) -> PickOutcome {
    serde_json::from_value(answer.expect("a pick has an answer")).unwrap()
}

fn claimed_by(outcome: &PickOutcome) -> Option<TaskId> {
    match outcome {
        PickOutcome::Claimed { task } => Some(*task),
        _ => None,
    }
}

/// A pick at a time at which what it tells expires by no clock of a store.
fn late_pick(make: &Maker, agent: AgentId, claimant: Option<u64>) -> TaskPick {
    TaskPick { at: far(), ..make.pick(agent, claimant, 2) }
}

/// The tasks of which the mailbox of an agent tells.
async fn wakes(handles: &Handles, agent: AgentId) -> BTreeSet<TaskId> {
    let mails = handles.mailbox.waiting(agent, None, 1000).await.unwrap();
    let told = mails.into_iter().filter(|mail| mail.kind == MailKind::Task);
    told.map(|mail| mail.body["taskId"].as_str().unwrap().parse().unwrap()).collect()
}

async fn in_progress(handles: &Handles, agent: AgentId) -> BTreeSet<TaskId> {
    let query =
        TaskQuery { status: Some(TaskStatus::InProgress), assigned_to: Some(agent), ..TaskQuery::default() };
    let tasks = handles.tasks.page(&query, None, 0, 1000).await.unwrap();
    tasks.into_iter().map(|task| task.id).collect()
}

/// Ends a task as its holder does.
async fn complete(make: &Maker, ledger: &Arc<dyn Ledger>, reads: &Handles, id: TaskId) {
    let task = reads.tasks.by_id(id).await.unwrap().unwrap();
    let holder = EndedBy::Holder(task.assigned_to, task.lease().unwrap().incarnation);
    let done = task.complete(holder, None, &"ceo".parse().unwrap(), make.clock().now()).unwrap();
    let commit = Commit { changes: vec![change_task(&done.task)], ..make.commit() };
    persistent(ledger, &commit).await.unwrap();
}

/// The tasks that are told to be claimed by an agent, in the order of the log.
async fn claims_told(handles: &Handles, agent: AgentId) -> Vec<TaskId> {
    let log = whole_log(&handles.log).await.into_iter().filter(|event| event.source_agent == Some(agent));
    log.filter_map(|event| match event.payload() {
        aito_domain::event::Payload::TaskUpdated(told) if told.change == TaskChange::Claimed => {
            Some(told.task_id)
        }
        _ => None,
    })
    .collect()
}
