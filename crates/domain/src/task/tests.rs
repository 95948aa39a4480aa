//! Tasks: the order, picks, and who may end what.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{
    agent::{Lifecycle, Reach},
    event::NewEvent,
    id::{EventId, MailId},
    mailbox::{Delays, MailKind},
    time::millis,
};

const DAY: Duration = Duration::from_secs(86_400);
const RULES: ClaimRules = ClaimRules { at_most: 2, age_step: DAY };

fn cmo() -> AgentType {
    "cmo".parse().unwrap()
}

fn agent(incarnation: u64) -> Agent {
    let id = AgentId(Uuid::from_u128(7));
    let mut agent = Agent::register(id, cmo(), "CMO Agent".into(), millis(0)).agent;
    agent.incarnation = Incarnation(incarnation);
    agent.lifecycle = Lifecycle::Active { since: millis(0) };
    agent.reach = Reach::Ok;
    agent
}

fn task(id: u128, priority: Priority, created: i64) -> Task {
    let new = NewTask {
        title: "Create Twitter Post".into(),
        description: None,
        priority,
        assigned_to: agent(1).id,
        created_by: None,
        actor: Actor::System,
        due_at: None,
    };
    Task::create(TaskId(Uuid::from_u128(id)), new, &cmo(), millis(created)).task
}

fn waiting_task() -> Task {
    task(2, Priority::Low, 0)
}

fn held(id: u128, incarnation: u64) -> Task {
    task(id, Priority::Normal, 0).claim(Incarnation(incarnation), &cmo(), millis(1)).task
}

fn pick(claimant: Option<u64>, ids: usize) -> TaskPick {
    TaskPick {
        agent: agent(1).id,
        claimant: claimant.map(Incarnation),
        rules: RULES,
        at: millis(1000),
        actor: Actor::System,
        ids: (0..ids).map(|n| EventId(Uuid::from_u128(n as u128))).collect(),
        mail_ids: (0..ids).map(|n| MailId(Uuid::from_u128(100 + n as u128))).collect(),
        delays: Delays::new(|priority| Duration::from_millis(u64::from(priority.rank()))),
    }
}

fn told(events: &[NewEvent]) -> Vec<TaskChange> {
    let change = |event: &NewEvent| match &event.payload {
        Payload::TaskUpdated(updated) => updated.change,
        other => panic!("{other:?}"),
    };
    events.iter().map(change).collect()
}

#[test]
fn waiting_raises_up_to_high_and_never_past_it() {
    use Priority as P;
    for (priority, days, aged) in [
        (P::Low, 0, P::Low),
        (P::Low, 1, P::Normal),
        (P::Low, 2, P::High),
        (P::Low, 40_000, P::High),
        (P::Normal, 1, P::High),
        (P::High, 9, P::High),
        (P::Urgent, 9, P::Urgent),
        (P::Critical, 9, P::Critical),
    ] {
        assert_eq!(priority.aged(DAY * days, DAY), aged, "{priority} after {days} days");
    }
    assert_eq!(P::Low.aged(DAY - Duration::from_millis(1), DAY), P::Low);
    assert_eq!(P::Low.aged(DAY * 9, Duration::ZERO), P::Low, "never, if so set");
}

#[test]
fn the_order_is_priority_then_age_then_id() {
    use Priority as P;
    let now = millis(2 * 86_400_000);
    let fresh = now.timestamp_millis() - 1000;
    let tasks = [
        task(1, P::Low, fresh),
        task(2, P::Urgent, fresh),
        task(3, P::High, fresh),
        // Low, and so long there that it counts as high: before the younger high one.
        task(4, P::Low, 0),
        task(6, P::Critical, fresh + 1),
        task(5, P::Critical, fresh + 1),
    ];
    let mut waiting: Vec<&Task> = tasks.iter().collect();
    let mut order = Vec::new();
    while let Some(task) = next(waiting.iter().copied(), &RULES, now) {
        order.push(task.id.0.as_u128());
        waiting.retain(|one| one.id != task.id);
    }
    assert_eq!(order, [5, 6, 2, 4, 3, 1]);
}

#[test]
fn a_claim_takes_the_next_and_at_most_so_many() {
    let read = Claimable { agent: agent(3), held: vec![held(1, 3)], oldest: vec![task(2, Priority::Low, 5)] };
    let picked = pick(Some(3), 4).decide(&read);
    assert_eq!(picked.outcome, PickOutcome::Claimed { task: TaskId(Uuid::from_u128(2)) });
    assert_eq!(picked.tasks[0].lease().unwrap().incarnation, Incarnation(3));
    assert_eq!((picked.tasks[0].version, picked.tasks[0].claims), (Version(0), 1), "as it was read");
    assert_eq!(told(&picked.events), [TaskChange::Claimed]);
    let full = Claimable { held: vec![held(1, 3), held(4, 3)], ..read.clone() };
    let picked = pick(Some(3), 4).decide(&full);
    assert_eq!((picked.outcome, picked.tasks.len()), (PickOutcome::AtLimit, 0));
    let none = Claimable { oldest: Vec::new(), ..read };
    assert_eq!(pick(Some(3), 4).decide(&none).outcome, PickOutcome::NothingWaits);
}

#[test]
fn leases_of_the_dead_are_taken_back_and_may_be_claimed_at_once() {
    let read = Claimable { agent: agent(3), held: vec![held(1, 2), held(2, 3)], oldest: Vec::new() };
    let picked = pick(Some(3), 4).decide(&read);
    assert_eq!(picked.outcome, PickOutcome::Claimed { task: TaskId(Uuid::from_u128(1)) });
    assert_eq!(told(&picked.events), [TaskChange::Released, TaskChange::Claimed]);
    assert_eq!(picked.tasks.len(), 1, "each task once");
    assert_eq!(picked.tasks[0].claims, 2);
    assert!(picked.mails.is_empty(), "who claims it knows of it");
    let swept = pick(None, 4).decide(&read);
    assert_eq!((swept.outcome, told(&swept.events)), (PickOutcome::TakenBack, vec![TaskChange::Released]));
    let [mail] = &swept.mails[..] else { panic!("{:?}", swept.mails) };
    assert_eq!(
        (mail.kind, mail.agent_id, mail.body["taskId"].clone()),
        (MailKind::Task, read.agent.id, json!(read.held[0].id))
    );
    assert_eq!((mail.id.0.as_u128(), mail.created_at, mail.wake_at), (100, millis(1000), millis(1001)));
    let mut dead = agent(3);
    dead.lifecycle = Lifecycle::Inactive;
    let read = Claimable { agent: dead, ..read };
    let picked = pick(Some(3), 4).decide(&read);
    assert_eq!((picked.outcome, picked.tasks.len()), (PickOutcome::NotRunning, 2));
}

#[test]
fn who_is_stopping_keeps_what_it_holds_and_claims_nothing_more() {
    let mut stopping = agent(3);
    stopping.lifecycle = Lifecycle::Stopping { since: millis(500) };
    let read = Claimable { agent: stopping, held: vec![held(1, 3)], oldest: vec![task(2, Priority::Low, 5)] };
    let picked = pick(Some(3), 4).decide(&read);
    assert_eq!((picked.outcome, picked.tasks.len()), (PickOutcome::NotRunning, 0));
}

#[test]
fn a_past_incarnation_claims_nothing() {
    let read = Claimable { agent: agent(3), held: Vec::new(), oldest: vec![task(2, Priority::Low, 5)] };
    for said in [2, 4] {
        let picked = pick(Some(said), 4).decide(&read);
        assert_eq!(picked.outcome, PickOutcome::Past { present: Incarnation(3) });
        assert!(picked.tasks.is_empty());
    }
}

#[test]
fn with_too_few_ids_as_much_is_done_as_they_reach_for() {
    let read = Claimable {
        agent: agent(9),
        held: (1..6).map(|id| held(id, 2)).collect(),
        oldest: vec![task(20, Priority::Low, 5)],
    };
    let picked = pick(Some(9), 3).decide(&read);
    assert_eq!(told(&picked.events), [TaskChange::Released, TaskChange::Released]);
    assert_eq!(picked.outcome, PickOutcome::AtLimit, "three that could not be taken back still count");
    let picked = pick(Some(9), 0).decide(&read);
    assert!(picked.events.is_empty() && picked.tasks.is_empty());
    let picked = TaskPick { mail_ids: Vec::new(), ..pick(Some(9), 3) }.decide(&read);
    assert!(picked.tasks.is_empty(), "what waits again tells of itself");
}

#[test]
fn only_the_holder_or_an_operator_ends_a_task_and_only_once() {
    let (ours, other) = (agent(1).id, AgentId(Uuid::from_u128(8)));
    let task = held(1, 3);
    for (by, refused) in [
        (EndedBy::Holder(ours, Incarnation(2)), Refused::NotTheHolder),
        (EndedBy::Holder(other, Incarnation(3)), Refused::NotTheHolder),
    ] {
        assert_eq!(task.clone().complete(by, None, &cmo(), millis(9)), Err(refused));
        assert_eq!(task.clone().fail(by, "x".into(), &cmo(), millis(9)), Err(refused));
    }
    let holder = EndedBy::Holder(ours, Incarnation(3));
    let waiting = waiting_task();
    assert_eq!(waiting.clone().complete(holder, None, &cmo(), millis(9)), Err(Refused::NotClaimed));
    assert!(waiting.complete(EndedBy::Operator, None, &cmo(), millis(9)).is_ok());
    let result = || Some(json!({"n": 1}));
    let done = task.complete(holder, result(), &cmo(), millis(9)).unwrap().task;
    assert_eq!(done.status(), TaskStatus::Completed);
    let ended = Err(Refused::Ended(TaskStatus::Completed));
    assert_eq!(done.clone().complete(holder, Some(json!(2)), &cmo(), millis(10)), ended);
    let other_agent = EndedBy::Holder(other, Incarnation(3));
    assert_eq!(done.clone().complete(other_agent, result(), &cmo(), millis(10)), ended);
    let again = done.clone().complete(holder, result(), &cmo(), millis(10)).unwrap();
    assert_eq!((&again.task, again.events.len()), (&done, 0), "who got no answer may say it again");
    assert_eq!(done.clone().fail(EndedBy::Operator, "x".into(), &cmo(), millis(10)), ended);
    assert_eq!(done.clone().cancel(None, &cmo(), millis(10)), ended);
    assert_eq!(done.edit(TaskEdit::default(), &cmo(), millis(10)), ended);
}

#[test]
fn cancelling_again_changes_nothing() {
    let cancelled = held(1, 3).cancel(Some("no".into()), &cmo(), millis(9)).unwrap().task;
    let again = cancelled.clone().cancel(None, &cmo(), millis(10)).unwrap();
    assert_eq!((again.task, again.events.len()), (cancelled, 0));
}

#[test]
fn a_task_in_progress_stays_with_its_agent() {
    let dao = (AgentId(Uuid::from_u128(9)), "dao".parse().unwrap());
    let edit = TaskEdit { assigned_to: Some(dao.clone()), ..TaskEdit::default() };
    assert_eq!(held(1, 3).edit(edit.clone(), &cmo(), millis(9)), Err(Refused::InProgress));
    let moved = task(1, Priority::Low, 0).edit(edit, &cmo(), millis(9)).unwrap();
    assert_eq!(moved.task.assigned_to, dao.0);
    assert!(matches!(&moved.events[..], [Payload::TaskUpdated(told)] if told.assigned_to == dao.1));
    let same = TaskEdit { priority: Some(Priority::Low), ..TaskEdit::default() };
    assert!(task(1, Priority::Low, 0).edit(same, &cmo(), millis(9)).unwrap().events.is_empty());
}

#[test]
fn that_its_time_has_passed_is_told_once_and_anew_for_another_time() {
    let due = |at| TaskEdit { due_at: Some(Some(millis(at))), ..TaskEdit::default() };
    let task = task(1, Priority::Low, 0).edit(due(100), &cmo(), millis(1)).unwrap().task;
    assert_eq!(task.clone().pass_due(&cmo(), millis(99)), Err(Refused::NotDue));
    let late = task.pass_due(&cmo(), millis(100)).unwrap().task;
    assert!(late.overdue);
    assert_eq!(late.clone().pass_due(&cmo(), millis(101)), Err(Refused::NotDue));
    let later = late.edit(due(200), &cmo(), millis(102)).unwrap().task;
    assert!(!later.overdue && later.pass_due(&cmo(), millis(200)).is_ok());
}

#[test]
fn states_and_words_read_back() {
    for priority in Priority::ALL {
        assert_eq!(priority.as_str().parse::<Priority>(), Ok(priority));
        assert_eq!(Priority::of_rank(i64::from(priority.rank())), Some(priority));
    }
    assert_eq!((Priority::of_rank(5), Priority::of_rank(-1)), (None, None));
    for status in TaskStatus::ALL {
        assert_eq!(status.as_str().parse::<TaskStatus>(), Ok(status));
    }
    let state = held(1, 3).state;
    let stored = serde_json::to_value(&state).unwrap();
    assert_eq!(
        stored,
        serde_json::json!({"state": "in_progress", "incarnation": 3, "since": "1970-01-01T00:00:00.001Z"})
    );
    assert_eq!(serde_json::from_value::<TaskState>(stored).unwrap(), state);
}

proptest! {
    #![proptest_config(crate::tests::cases(500))]

    /// Only the oldest of each priority is read, and that is enough.
    #[test]
    fn the_oldest_of_each_priority_hold_the_next(
        all in prop::collection::vec((0..5_i64, 0..20_i64), 0..40),
        now in 20..60_i64,
        step in 0..10_u64,
    ) {
        let tasks: Vec<_> = (0..).zip(&all)
            .map(|(id, (rank, created))| task(id, Priority::of_rank(*rank).unwrap(), *created))
            .collect();
        let rules = ClaimRules { at_most: 2, age_step: Duration::from_millis(step) };
        let oldest: Vec<&Task> = Priority::ALL.into_iter().filter_map(|priority| {
            tasks.iter().filter(|t| t.priority == priority).min_by_key(|t| (t.created_at, t.id))
        }).collect();
        let of_oldest = next(oldest, &rules, millis(now)).map(|task| task.id);
        prop_assert_eq!(of_oldest, next(&tasks, &rules, millis(now)).map(|task| task.id));
    }
}
