//! The rules of `TaskStore`.

use std::{collections::BTreeSet, time::Duration};

use aito_domain::{
    id::{AgentId, Incarnation, TaskId, Version},
    ports::{
        EXACT_TOTAL,
        clock::Clock as _,
        ledger::Commit,
        task_store::{TaskCursor, TaskQuery},
    },
    task::{Lease, Priority, Task, TaskState, TaskStatus},
    time::{Timestamp, after, millis},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Handles, Maker, StoreFixture,
    kinds::{TEXTS, actors, change_task, far, past, values},
    must, within,
};

/// Rule 1.
pub async fn task_store_01_what_is_read_is_what_was_committed_by_whoever<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await.id, make.stored_agent(&handles, "cto").await.id];
    let times = [millis(0), millis(1_766_224_800_123), millis(-5), millis(253_402_300_799_999)];
    let (values, actors) = (values(), actors());
    let mut task = make.task(agents[0]);
    for n in 0..60_usize {
        task.title = TEXTS[n % 5].to_owned();
        task.description =
            [None, Some(TEXTS[(n + 1) % 5].to_owned()), Some("ä".repeat(50_000))][n % 3].clone();
        task.priority = Priority::ALL[n % 5];
        task.state = match n % 6 {
            0 => TaskState::Pending,
            1 => TaskState::InProgress(Lease { incarnation: Incarnation(n as u64), since: times[n % 4] }),
            2 => TaskState::Completed { result: None, at: times[n % 4] },
            // No result is not told from one that is null.
            3 => TaskState::Completed { result: Some(values[1 + n % 4].clone()), at: times[n % 4] },
            4 => TaskState::Failed { error: TEXTS[n % 5].to_owned(), at: times[n % 4] },
            _ => TaskState::Cancelled {
                reason: [None, Some(TEXTS[n % 5].to_owned())][n % 2].clone(),
                at: times[n % 4],
            },
        };
        task.assigned_to = agents[n % 2];
        task.created_by = [None, Some(agents[0]), Some(AgentId(Uuid::max()))][n % 3];
        task.actor = actors[n % 4].clone();
        task.due_at = [None, Some(times[n % 4])][n % 2];
        task.overdue = n % 3 == 0;
        task.claims = [0, 1, i64::MAX as u64][n % 3];
        task.created_at = times[n % 4];
        task.updated_at = times[(n + 1) % 4];
        let writes = if n % 2 == 0 { &handles } else { &other };
        must(&writes.ledger, &changing(&make, &[&task])).await;
        task.version = task.version.next();
        for store in [&other.tasks, &handles.tasks] {
            assert_eq!(store.by_id(task.id).await.unwrap().as_ref(), Some(&task));
            let page = store.page(&TaskQuery::default(), None, 0, 10).await.unwrap();
            assert_eq!(page, std::slice::from_ref(&task));
        }
    }
    assert_eq!(handles.tasks.by_id(TaskId(make.uuid())).await.unwrap(), None);
}

/// Rule 2.
pub async fn task_store_02_pages_go_from_the_newest_on<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.tasks.page(&TaskQuery::default(), None, 0, 10).await.unwrap(), []);
    let (tasks, agents) = many(&make, &handles).await;
    for query in queries(&agents) {
        let expected = found(&tasks, &query);
        for (offset, limit) in
            [(0, 1000), (0, 0), (0, 3), (1, 1), (2, 7), (5, 0), (1000, 5), (u32::MAX, u32::MAX)]
        {
            let page = handles.tasks.page(&query, None, offset, limit).await.unwrap();
            let part: Vec<_> = expected.iter().skip(offset as usize).take(limit as usize).cloned().collect();
            assert_eq!(page, part, "{query:?} without {offset} up to {limit}");
        }
        for (limit, offset) in [(1, 0), (4, 0), (2, 1)] {
            let (mut read, mut before) = (Vec::new(), None);
            loop {
                let page = within(handles.tasks.page(&query, before, offset, limit)).await.unwrap();
                let Some(last) = page.last() else { break };
                before = Some(TaskCursor { at: last.created_at, id: last.id });
                assert!(page.len() <= limit as usize);
                read.extend(page);
                assert!(read.len() <= tasks.len(), "the pages do not come to an end");
            }
            // Of each page the first `offset` are left out.
            let step = (limit + offset) as usize;
            let expected = expected.iter().enumerate().filter(|(n, _)| n % step >= offset as usize);
            assert_eq!(
                read,
                expected.map(|(_, task)| task.clone()).collect::<Vec<_>>(),
                "{query:?} by {limit}"
            );
        }
    }
    // A cursor need not name a task that is there.
    let at = tasks[20].created_at;
    let gone = Some(TaskCursor { at, id: TaskId(Uuid::max()) });
    let rest = handles.tasks.page(&TaskQuery::default(), gone, 0, 1000).await.unwrap();
    let all = found(&tasks, &TaskQuery::default());
    assert_eq!(rest, all.into_iter().filter(|task| task.created_at <= at).collect::<Vec<_>>());
}

/// Rule 3.
pub async fn task_store_03_all_conditions_hold_at_once<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let (tasks, agents) = many(&make, &handles).await;
    for query in queries(&agents) {
        let expected = found(&tasks, &query);
        let page = handles.tasks.page(&query, None, 0, 1000).await.unwrap();
        assert_eq!(page, expected, "{query:?}");
        let ids: BTreeSet<_> = page.iter().map(|task| task.id).collect();
        assert_eq!(ids.len(), page.len(), "{query:?}: a task of both kinds comes once");
        let total = handles.tasks.total(&query).await.unwrap();
        assert_eq!((total.count, total.exact), (expected.len() as u64, true), "{query:?}");
    }
    let seen = TaskQuery { seen_by: Some(agents[0]), ..TaskQuery::default() };
    let seen = handles.tasks.page(&seen, None, 0, 1000).await.unwrap();
    assert!(seen.iter().all(|task| task.concerns(agents[0])));
    assert!(
        seen.len() < tasks.len()
            && tasks.iter().filter(|task| task.concerns(agents[0])).count() == seen.len()
    );
}

/// Rule 4.
pub async fn task_store_04_total_is_exact_up_to_its_bound<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await.id, make.stored_agent(&handles, "cto").await.id];
    let of = |n: usize| Task { created_by: Some(agents[n % 2]), ..make.task(agents[0]) };
    let pending = TaskQuery { status: Some(TaskStatus::Pending), ..TaskQuery::default() };
    let queries = [
        TaskQuery::default(),
        pending,
        TaskQuery { assigned_to: Some(agents[0]), ..TaskQuery::default() },
        TaskQuery { assigned_to: Some(agents[0]), ..pending },
        TaskQuery { seen_by: Some(agents[0]), ..TaskQuery::default() },
        TaskQuery { seen_by: Some(agents[0]), ..pending },
    ];
    let half = TaskQuery { seen_by: Some(agents[1]), ..TaskQuery::default() };
    let mut stored = 0;
    for step in [2500, 2500, 2500, 2499, 1, 1, 1] {
        let tasks: Vec<_> = (stored..stored + step).map(of).collect();
        let changes = tasks.iter().map(change_task).collect();
        must(&handles.ledger, &Commit { changes, ..make.commit() }).await;
        stored += step;
        for query in &queries {
            let total = handles.tasks.total(query).await.unwrap();
            assert_eq!(total.exact, stored as u64 <= EXACT_TOTAL, "{stored} of {query:?}: {total:?}");
            if total.exact {
                assert_eq!(total.count, stored as u64, "{query:?}");
            } else {
                assert!(total.count > EXACT_TOTAL, "{query:?}: {total:?}");
            }
        }
        let total = handles.tasks.total(&half).await.unwrap();
        assert_eq!((total.count, total.exact), (stored as u64 / 2, true));
    }
}

/// Rule 5.
pub async fn task_store_05_claimable_gives_what_is_held_and_the_oldest_of_each_priority<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let idle = make.stored_agent(&handles, "idle").await;
    let (mut tasks, agents) = many(&make, &handles).await;
    // The oldest, all of one time: the smallest id is the first, and it is not the one that was written first.
    let early = make.clock().now() - Duration::from_secs(60);
    for (id, agent) in [70_u128, 30, 60, 40, 71, 50, 10, 61, 20].into_iter().zip(agents.into_iter().cycle()) {
        let id = TaskId(Uuid::from_u128(id << 96));
        let task = Task { id, created_at: early, ..make.task(agent) };
        must(&handles.ledger, &changing(&make, &[&task])).await;
        tasks.push(Task { version: Version(1), ..task });
    }
    for agent in &agents {
        let stored = handles.agents.by_id(*agent).await.unwrap().unwrap();
        let mine: Vec<_> = tasks.iter().filter(|task| task.assigned_to == *agent).collect();
        let mut held: Vec<Task> =
            mine.iter().filter(|task| task.lease().is_some()).map(|task| (*task).clone()).collect();
        held.sort_by_key(|task| task.id);
        let oldest = Priority::ALL.into_iter().filter_map(|priority| {
            let waiting = mine.iter().filter(|task| task.status() == TaskStatus::Pending);
            waiting.filter(|task| task.priority == priority).min_by_key(|task| (task.created_at, task.id))
        });
        let mut oldest: Vec<Task> = oldest.map(|task| (*task).clone()).collect();
        oldest.sort_by_key(|task| task.id);
        assert!(held.len() > 1 && oldest.len() > 1, "there is something to see");
        for store in [&handles.tasks, &other.tasks] {
            let mut read = store.claimable(*agent).await.unwrap().unwrap();
            read.oldest.sort_by_key(|task| task.id);
            assert_eq!((&read.agent, &read.held, &read.oldest), (&stored, &held, &oldest));
        }
    }
    let read = handles.tasks.claimable(idle.id).await.unwrap().unwrap();
    assert_eq!((read.agent, read.held, read.oldest), (idle, Vec::new(), Vec::new()));
    assert_eq!(handles.tasks.claimable(AgentId(make.uuid())).await.unwrap(), None);
}

/// Rule 6.
pub async fn task_store_06_leases_gives_who_works_on_tasks<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    assert_eq!(handles.tasks.leases().await.unwrap(), []);
    let (tasks, _) = many(&make, &handles).await;
    let mut held: Vec<_> = tasks.into_iter().filter(|task| task.lease().is_some()).collect();
    held.sort_by_key(|task| task.id);
    // One agent's at its end, and the same incarnation number of several agents.
    for (n, task) in held.iter_mut().enumerate() {
        let incarnation = Incarnation([1, 2, i64::MAX as u64][n % 3]);
        task.state = TaskState::InProgress(Lease { incarnation, since: past() });
        must(&handles.ledger, &changing(&make, &[task])).await;
        task.version = task.version.next();
    }
    let holders = |held: &[Task]| {
        let lease = |task: &Task| (task.assigned_to, task.lease().unwrap().incarnation);
        held.iter().map(lease).collect::<BTreeSet<_>>()
    };
    assert!(holders(&held).len() > 3 && holders(&held).len() < held.len(), "there is something to see");
    loop {
        for store in [&handles.tasks, &other.tasks] {
            let mut read = store.leases().await.unwrap();
            read.sort();
            assert_eq!(read, holders(&held).into_iter().collect::<Vec<_>>(), "each once");
        }
        let Some(last) = held.pop() else { break };
        let ended = Task { state: TaskState::Pending, ..last };
        must(&handles.ledger, &changing(&make, &[&ended])).await;
    }
}

/// Rule 7.
pub async fn task_store_07_overdue_gives_what_is_newly_so<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.tasks.overdue(10).await.unwrap(), []);
    let agent = make.stored_agent(&handles, "ceo").await.id;
    let lease = TaskState::InProgress(Lease { incarnation: Incarnation(1), since: past() });
    let ended = TaskState::Cancelled { reason: None, at: past() };
    let mut expected = Vec::new();
    for n in 0..48_usize {
        let task = Task {
            due_at: [Some(after(past(), Duration::from_millis(100 - n as u64))), None, Some(far())][n % 3],
            state: [&TaskState::Pending, &lease, &ended][n / 3 % 3].clone(),
            overdue: n % 7 == 0,
            ..make.task(agent)
        };
        must(&handles.ledger, &changing(&make, &[&task])).await;
        let newly = n % 3 == 0 && n / 3 % 3 != 2 && !task.overdue;
        expected.extend(newly.then_some(Task { version: Version(1), ..task }));
    }
    expected.sort_by_key(|task| (task.due_at, task.id));
    assert!(expected.len() > 6);
    for limit in [0, 1, 5, 1000] {
        let read = handles.tasks.overdue(limit).await.unwrap();
        assert_eq!(read, expected.iter().take(limit as usize).cloned().collect::<Vec<_>>());
    }
    let told = Task { overdue: true, ..expected.remove(0) };
    must(&handles.ledger, &changing(&make, &[&told])).await;
    assert_eq!(handles.tasks.overdue(1000).await.unwrap(), expected, "once it was told it is not newly so");
}

fn changing(make: &Maker, tasks: &[&Task]) -> Commit {
    Commit { changes: tasks.iter().map(|task| change_task(task)).collect(), ..make.commit() }
}

/// Stores tasks of every status, priority and relation between three agents, several of one time.
async fn many(make: &Maker, handles: &Handles) -> (Vec<Task>, [AgentId; 3]) {
    let mut agents = [AgentId(Uuid::nil()); 3];
    for (agent, name) in agents.iter_mut().zip(["ceo", "cto", "cfo"]) {
        *agent = make.stored_agent(handles, name).await.id;
    }
    let start: Timestamp = make.clock().now();
    let tasks: Vec<Task> = (0..72_usize)
        .map(|n| {
            let at = after(start, Duration::from_millis(n as u64 / 5));
            Task {
                // Ids follow neither the order of writing nor that of time.
                id: TaskId(Uuid::from_u128(((n as u128 * 29 + 11) % 72) << 64 | 1)),
                state: match n * 7 / 3 % 5 {
                    0 | 1 => TaskState::Pending,
                    2 => TaskState::InProgress(Lease { incarnation: Incarnation(1), since: at }),
                    3 => TaskState::Completed { result: Some(json!(n)), at },
                    _ => TaskState::Failed { error: "no".into(), at },
                },
                priority: Priority::ALL[n / 2 % 5],
                created_by: [None, Some(agents[0]), Some(agents[1]), Some(agents[2])][n / 3 % 4],
                created_at: at,
                ..make.task(agents[n % 3])
            }
        })
        .collect();
    for chunk in tasks.chunks(7) {
        must(&handles.ledger, &changing(make, &chunk.iter().collect::<Vec<_>>())).await;
    }
    (tasks.into_iter().map(|task| Task { version: Version(1), ..task }).collect(), agents)
}

/// Every combination of conditions.
fn queries(agents: &[AgentId; 3]) -> Vec<TaskQuery> {
    let statuses = [None].into_iter().chain(TaskStatus::ALL.map(Some));
    let nobody = Some(AgentId(Uuid::max()));
    let assigned = [None, Some(agents[0]), nobody];
    let seen = [None, Some(agents[0]), Some(agents[1]), nobody];
    let mut all = Vec::new();
    for status in statuses {
        for assigned_to in assigned {
            all.extend(seen.map(|seen_by| TaskQuery { status, assigned_to, seen_by }));
        }
    }
    all
}

/// What a query finds, as the rules say.
fn found(tasks: &[Task], query: &TaskQuery) -> Vec<Task> {
    let mut found: Vec<_> = tasks
        .iter()
        .filter(|task| query.status.is_none_or(|status| task.status() == status))
        .filter(|task| query.assigned_to.is_none_or(|agent| task.assigned_to == agent))
        .filter(|task| query.seen_by.is_none_or(|agent| task.concerns(agent)))
        .cloned()
        .collect();
    found.sort_by_key(|task| std::cmp::Reverse((task.created_at, task.id)));
    found
}
