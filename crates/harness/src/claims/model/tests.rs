//! The model finds what is wrong in logs that were doctored.
use aito_api::Timestamp;
use serde_json::json;

use super::*;

const RULES: Rules = Rules { at_most: 2, age_step_ms: 1000 };

fn event(event_type: &str, at_ms: i64, payload: Value) -> Event {
    let at = format!("2026-01-01T00:{:02}:{:02}.{:03}Z", at_ms / 60_000, at_ms / 1000 % 60, at_ms % 1000);
    Event {
        id: Uuid::nil(),
        event_type: event_type.to_owned(),
        source_agent: None,
        actor: "unauthenticated".to_owned(),
        payload,
        created_at: at.parse::<Timestamp>().unwrap(),
        position: String::new(),
    }
}

fn uuid(task: u128) -> Uuid {
    Uuid::from_u128(task)
}

fn begins(incarnation: u64, at_ms: i64) -> Event {
    event("agent_starting", at_ms, json!({"agentType": "ceo", "incarnation": incarnation}))
}

fn dies(incarnation: u64, at_ms: i64) -> Event {
    event("agent_error", at_ms, json!({"agentType": "ceo", "incarnation": incarnation}))
}

fn created(task: u128, priority: &str, at_ms: i64) -> Event {
    let payload = json!({"taskId": uuid(task), "title": "x", "priority": priority, "assignedTo": "ceo"});
    event("task_created", at_ms, payload)
}

fn updated(task: u128, change: &str, status: &str, incarnation: Option<u64>, at_ms: i64) -> Event {
    let payload = json!({
        "taskId": uuid(task), "change": change, "status": status, "priority": "low", "assignedTo": "ceo",
        "incarnation": incarnation,
    });
    event("task_updated", at_ms, payload)
}

fn claimed(task: u128, incarnation: u64, at_ms: i64) -> Event {
    updated(task, "claimed", "in_progress", Some(incarnation), at_ms)
}

fn released(task: u128, incarnation: u64, at_ms: i64) -> Event {
    updated(task, "released", "pending", Some(incarnation), at_ms)
}

fn completed(task: u128, incarnation: Option<u64>, at_ms: i64) -> Event {
    let payload =
        json!({"taskId": uuid(task), "title": "x", "assignedTo": "ceo", "incarnation": incarnation});
    event("task_completed", at_ms, payload)
}

/// A log without fault, in which everything happens.
fn good() -> Vec<Event> {
    vec![
        begins(1, 0),
        created(1, "low", 10),
        created(2, "high", 20),
        created(3, "normal", 30),
        created(4, "critical", 40),
        // 1 and 3 are low and normal still.
        claimed(4, 1, 50),
        claimed(2, 1, 60),
        completed(4, Some(1), 70),
        claimed(3, 1, 80),
        dies(1, 90),
        begins(2, 100),
        // All that is left counts as high: the oldest is next, and that is the low one.
        released(2, 1, 2100),
        released(3, 1, 2100),
        claimed(1, 2, 2100),
        claimed(2, 2, 2110),
        updated(1, "failed", "failed", Some(2), 2120),
        updated(3, "cancelled", "cancelled", None, 2130),
        completed(2, Some(2), 2140),
    ]
}

fn wrong(log: &[Event], what: &str) {
    let why = check(log, RULES).unwrap_err();
    assert!(why.contains(what), "{why}");
}

#[test]
fn a_log_without_fault_is_believed_and_counted() {
    let told = check(&good(), RULES).unwrap();
    assert_eq!((told.open, told.releases, told.aged), (0, 2, 1));
    assert_eq!(told.full, 3, "4, 2 and 3, then 1 and 2 were in progress together");
    assert_eq!(told.claims.len(), 5);
    let ended = [Ending::Completed, Ending::Failed, Ending::Cancelled].map(|ending| told.ended(ending));
    assert_eq!(ended, [2, 1, 1]);
    assert_eq!(check(&good()[..9], RULES).unwrap().open, 3);
}

#[test]
fn what_ended_does_not_end_again() {
    let mut log = good();
    log.push(completed(2, None, 2150));
    wrong(&log, "ended twice");
    log.pop();
    log.push(updated(4, "failed", "failed", None, 2150));
    wrong(&log, "ended twice, first as Completed");
    log.pop();
    log.push(claimed(4, 2, 2150));
    wrong(&log, "was claimed before None");
}

#[test]
fn a_third_in_progress_is_found() {
    let mut log = good();
    // Without the completion before it, the third claim is one too many.
    log.remove(7);
    wrong(&log, "2 tasks in progress already");
}

#[test]
fn a_claim_out_of_order_is_found() {
    let mut log = good();
    log.swap(5, 6);
    wrong(&log, "was claimed before Some");
    // With the same waiting, a moment earlier: no step is over for the low one yet.
    let mut log = good();
    log[13] = claimed(1, 2, 1900);
    wrong(&log, "was claimed before Some");
    // Equal in priority, and not the oldest.
    let mut log = good();
    log[13] = claimed(2, 2, 2100);
    wrong(&log, "was claimed before Some");
}

#[test]
fn equal_tasks_go_by_their_ids() {
    let pair = |first: u128| [begins(1, 0), created(7, "low", 5), created(6, "low", 5), claimed(first, 1, 9)];
    assert!(check(&pair(6), RULES).is_ok());
    wrong(&pair(7), "was claimed before Some");
}

#[test]
fn waiting_raises_no_task_beyond_high() {
    let pair = |first: u128| {
        [begins(1, 0), created(1, "low", 0), created(2, "urgent", 1), claimed(first, 1, 59_000)]
    };
    assert!(check(&pair(2), RULES).is_ok());
    wrong(&pair(1), "was claimed before Some");
    let high = [begins(1, 0), created(1, "low", 0), created(2, "high", 1), claimed(1, 1, 2000)];
    assert_eq!(check(&high, RULES).unwrap().aged, 1);
    wrong(&[&high[..3], &[claimed(1, 1, 1999)]].concat(), "was claimed before Some");
}

#[test]
fn a_lease_is_taken_back_from_the_dead_alone_and_from_its_holder() {
    let living = [begins(1, 0), created(1, "low", 1), claimed(1, 1, 2), released(1, 1, 3)];
    wrong(&living, "which has not ended");
    let other = [begins(1, 0), created(1, "low", 1), claimed(1, 1, 2), begins(2, 3), released(1, 2, 4)];
    wrong(&other, "does not hold what is taken back");
    let nobodys = [begins(1, 0), created(1, "low", 1), dies(1, 2), released(1, 1, 3)];
    wrong(&nobodys, "does not hold what is taken back");
}

#[test]
fn who_claims_lives() {
    let log = |claim: Event| [begins(1, 0), created(1, "low", 1), dies(1, 2), begins(2, 20), claim];
    wrong(&log(claimed(1, 3, 30)), "never began");
    wrong(&log(claimed(1, 1, 30)), "the present one is 2");
    let dead = [begins(1, 0), created(1, "low", 1), dies(1, 2), claimed(1, 1, 3)];
    wrong(&dead, "claims after its end");
    let nobody = [created(1, "low", 1), claimed(1, 0, 2)];
    wrong(&nobody, "never began");
}

#[test]
fn events_that_do_not_fit_their_task_are_found() {
    let base = [begins(1, 0), created(1, "low", 1), claimed(1, 1, 2)];
    for (event, what) in [
        (completed(1, Some(2), 3), "as the incarnation at work"),
        (completed(1, None, 3), "as the incarnation at work"),
        (completed(9, None, 3), "never created"),
        (updated(1, "failed", "pending", Some(1), 3), "the task is failed"),
        (updated(1, "edited", "pending", Some(1), 3), "nobody here changes a task so"),
        (created(1, "low", 3), "created twice"),
        (begins(1, 3), "began after 1"),
    ] {
        wrong(&[&base[..], &[event]].concat(), what);
    }
}

#[test]
fn what_was_acknowledged_is_in_the_log() {
    let told = check(&good(), RULES).unwrap();
    let all = [
        (uuid(4), Said::Claimed(1)),
        (uuid(4), Said::Completed),
        (uuid(2), Said::Claimed(1)),
        (uuid(2), Said::Claimed(2)),
        (uuid(1), Said::Failed),
        (uuid(3), Said::Cancelled),
        (uuid(3), Said::Cancelled),
    ];
    assert_eq!(told.confirm(&all), Ok(()));
    for (lie, what) in [
        ((uuid(4), Said::Claimed(2)), "1 times; the log tells of 0"),
        ((uuid(4), Said::Claimed(1)), "2 times; the log tells of 1"),
        ((uuid(4), Said::Completed), "as Some(Completed) and as Completed"),
        ((uuid(4), Said::Failed), "as Some(Completed) and as Failed"),
        ((uuid(2), Said::Failed), "the log tells of Some(Completed)"),
        ((uuid(9), Said::Completed), "the log tells of None"),
    ] {
        let why = told.confirm(&[&all[..], &[lie]].concat()).unwrap_err();
        assert!(why.contains(what), "{why}");
    }
}
