//! Tasks: which ones this incarnation works on, and what it does about them.
//!
//! Invariants:
//! - Only tasks whose hold names this incarnation are its own.
//! - A claim, completion or failure is asked for once. When no answer came, the next look at the tasks tells what is
//!   so; nothing is repeated blindly.
//! - What the server forbids (403) is told to thinking; only a credential that is refused (401) ends the agent.

use crate::{log::cap, looping::Refused, server::Server, think};
use aito_api::{CompleteTask, FailTask, Task};
use aito_client::Error;
use serde_json::{Value, json};
use uuid::Uuid;

/// How many tasks one turn is shown.
const MAX_TASKS: usize = 50;
/// How many are looked at: some may be another incarnation's still.
const LOOKED_AT: u32 = 100;
/// The longest text of a failure, in bytes.
const MAX_TEXT: usize = 1000;

/// Why a call that thinking asked for came to nothing.
#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    /// The server refused it.
    No(String),
    /// The server is away, and the same would be so for the next call.
    Away(String),
}

/// What a call came to; the outer error ends the agent.
pub(crate) type Answer<T> = Result<Result<T, Failure>, Refused>;

/// Sorts a failure of a call that thinking asked for.
///
/// # Errors
/// The credential was refused.
pub(crate) fn sorted(error: &Error) -> Result<Failure, Refused> {
    let text = cap(error.to_string(), MAX_TEXT);
    match error.status() {
        Some(401) => Err(Refused(text)),
        _ if error.helps_to_wait() => Ok(Failure::Away(text)),
        _ => Ok(Failure::No(text)),
    }
}

/// The tasks in progress under `incarnation`.
pub(crate) async fn in_progress(server: &Server, incarnation: u64) -> Answer<Vec<think::Task>> {
    answer(server.tasks_in_progress(LOOKED_AT).await, |tasks| own(tasks, incarnation))
}

/// Claims a task; whether there was one, and what to tell of it.
pub(crate) async fn claim(server: &Server) -> Answer<(bool, Value)> {
    answer(server.claim().await, |claimed| match claimed.task {
        Some(task) => (true, json!({"taskId": task.id, "title": task.title})),
        None => (false, json!({"taskId": null, "reason": claimed.reason})),
    })
}

/// Says that a task is done; what to tell of it.
pub(crate) async fn complete(server: &Server, id: Uuid, result: Option<Value>) -> Answer<Value> {
    answer(server.complete_task(id, &CompleteTask { result }).await, ended)
}

/// Says that a task could not be done; what to tell of it.
pub(crate) async fn fail(server: &Server, id: Uuid, error: String) -> Answer<Value> {
    answer(server.fail_task(id, &FailTask { error: Some(error) }).await, ended)
}

fn ended(task: Task) -> Value {
    json!({"taskId": task.id})
}

fn answer<T, U>(answer: Result<T, Error>, read: impl FnOnce(T) -> U) -> Answer<U> {
    match answer {
        Ok(answer) => Ok(Ok(read(answer))),
        Err(error) => sorted(&error).map(Err),
    }
}

fn own(tasks: Vec<Task>, incarnation: u64) -> Vec<think::Task> {
    let held = |task: &Task| task.lease.as_ref().is_some_and(|lease| lease.incarnation == incarnation);
    tasks.into_iter().filter(held).take(MAX_TASKS).map(shown).collect()
}

fn shown(task: Task) -> think::Task {
    let Task { id, title, description, priority, due_date, created_at, .. } = task;
    think::Task { id, title, description, priority, due_date, created_at }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use aito_api::Problem;

    fn task(lease: Value) -> Task {
        serde_json::from_value(json!({
            "id": Uuid::nil(), "title": "t", "description": null, "status": "in_progress", "priority": "high",
            "assignedTo": "ceo", "createdBy": null, "actor": "token:ops", "dueDate": null, "result": null,
            "error": null, "overdue": false, "claims": 1, "lease": lease, "endedAt": null, "etag": "\"1\"",
            "createdAt": "2025-12-20T10:00:00.000Z", "updatedAt": "2025-12-20T10:00:00.000Z",
        }))
        .unwrap()
    }

    #[test]
    fn only_those_of_this_incarnation_are_its_own_and_not_too_many() {
        let lease =
            |incarnation: u64| json!({"incarnation": incarnation, "since": "2025-12-20T10:00:00.000Z"});
        let mut tasks = vec![task(lease(2)), task(Value::Null), task(lease(4))];
        assert!(own(tasks.clone(), 3).is_empty());
        tasks.extend(vec![task(lease(3)); 60]);
        assert_eq!(own(tasks, 3).len(), MAX_TASKS);
    }

    #[test]
    fn only_a_refused_credential_ends_the_agent() {
        let problem = |status: u16| {
            let problem: Problem = serde_json::from_value(json!({
                "type": "about:blank", "title": "", "status": status, "detail": "why", "instance": "",
                "success": false, "error": "why",
            }))
            .unwrap();
            sorted(&Error::Problem(Box::new(problem)))
        };
        assert!(problem(401).is_err());
        for status in [403, 404, 409, 422] {
            assert!(matches!(problem(status), Ok(Failure::No(text)) if text.contains("why")), "{status}");
        }
        assert!(matches!(problem(429), Ok(Failure::Away(_))));
    }
}
