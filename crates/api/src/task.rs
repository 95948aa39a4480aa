//! Tasks: what is to be done, by whom, how urgently, and what came of it.
//!
//! Invariants:
//! - `status` and `priority` are words of closed lists; they are text here so that the server can report a wrong one
//!   together with all other faults.
//! - A task's `assignedTo` is an agent's type, its `createdBy` an agent's id.

use crate::{Timestamp, given::given};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// The words of a task's `status`, for the description of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatusName {
    /// It waits for its agent.
    Pending,
    /// Its agent works on it.
    InProgress,
    /// It is done.
    Completed,
    /// It could not be done.
    Failed,
    /// It is no longer wanted.
    Cancelled,
}

/// The words of `priority`, for the description of the interface; from the least urgent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriorityName {
    /// Whenever there is time.
    Low,
    /// The ordinary case.
    Normal,
    /// Before ordinary ones.
    High,
    /// Soon.
    Urgent,
    /// At once.
    Critical,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id.
    #[schema(value_type = String, format = "uuid", examples("019ab1c2-7d3e-7f40-8a51-62c3d4e5f607"))]
    pub id: Uuid,
    /// What is to be done, in one line.
    #[schema(min_length = 1, max_length = 500, examples("Write the quarterly report"))]
    pub title: String,
    /// What is to be done, in detail; null when nothing more was said.
    #[schema(required, max_length = 50_000)]
    pub description: Option<String>,
    /// `pending`, `in_progress`, `completed`, `failed` or `cancelled`.
    #[schema(value_type = TaskStatusName)]
    pub status: String,
    /// `low`, `normal`, `high`, `urgent` or `critical`.
    #[schema(value_type = PriorityName)]
    pub priority: String,
    /// The type of the agent that shall do it.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("cmo"))]
    pub assigned_to: String,
    /// The agent that made it; null when it was none.
    #[schema(value_type = Option<String>, format = "uuid", required)]
    pub created_by: Option<Uuid>,
    /// Who made it: `agent:<type>`, `token:<name>`, `system` or `unauthenticated`.
    #[schema(examples("agent:ceo"))]
    pub actor: String,
    /// When it should be done; null: no matter when.
    #[schema(required)]
    pub due_date: Option<Timestamp>,
    /// What came of it, as any JSON; null while it is not completed, and when nothing was told.
    #[schema(required)]
    pub result: Option<Value>,
    /// Why it could not be done, or is no longer wanted; null when nothing was told.
    #[schema(required, max_length = 10_000)]
    pub error: Option<String>,
    /// Whether its due date came while it was open.
    pub overdue: bool,
    /// How often an agent took it.
    pub claims: u32,
    /// Who works on it; null when nobody does.
    #[schema(required)]
    pub lease: Option<TaskLease>,
    /// When it was completed, failed or cancelled; null before.
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// Names this state of it, for `If-Match`.
    #[schema(examples("\"3\""))]
    pub etag: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The hold of an agent's incarnation on a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskLease {
    /// The incarnation that works on it, from 1 on; the hold ends with it.
    #[schema(minimum = 1, examples(4))]
    pub incarnation: u64,
    /// Since when.
    pub since: Timestamp,
}

/// `GET /tasks`: a page of those that match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskList {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// How many match in all, whatever the page.
    pub total: u64,
    /// Whether `total` is exact: it is up to 10,000, above it may be an estimate.
    pub total_exact: bool,
    /// How many this page has at most, 1 to 500.
    #[schema(minimum = 1, maximum = 500, examples(50))]
    pub limit: u32,
    /// How many were skipped before this page.
    pub offset: u32,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Body of `POST /tasks`.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// `title`, `assignTo` and `priority` are required; they are optional here so that a missing one is a value fault with a
// pointer, reported together with the others.
pub struct NewTask {
    /// What is to be done, in one line: 1 to 500 characters, not only spaces, no NUL.
    #[serde(default)]
    #[schema(
        value_type = String,
        required,
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\u0000]*[^\u0000\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000]*$",
        examples("Write the quarterly report")
    )]
    pub title: Option<String>,
    /// What is to be done, in detail: at most 50,000 characters, no NUL; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 50_000,
        pattern = r"^[^\u0000]*$",
        examples("Figures of all departments, on two pages.")
    )]
    pub description: Option<String>,
    /// The type of the agent that shall do it.
    #[serde(default)]
    #[schema(value_type = String, required, pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("cmo"))]
    pub assign_to: Option<String>,
    /// `low`, `normal`, `high`, `urgent` or `critical`.
    #[serde(default)]
    #[schema(value_type = PriorityName, required)]
    pub priority: Option<String>,
    /// When it should be done (RFC 3339); null or absent: no matter when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "date-time", examples("2025-12-20T10:00:00.000Z"))]
    pub due_date: Option<String>,
}

impl NewTask {
    /// A task that says no more than it must.
    pub fn new(title: impl Into<String>, assign_to: impl Into<String>, priority: impl Into<String>) -> Self {
        Self {
            title: Some(title.into()),
            assign_to: Some(assign_to.into()),
            priority: Some(priority.into()),
            ..Self::default()
        }
    }
}

/// Answer of `POST /tasks` (201), of `GET` and `PATCH /tasks/{id}` and of `POST /tasks/{id}/complete`, `fail` and
/// `cancel` (200).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskAnswer {
    /// Always `true`.
    pub success: bool,
    /// The task.
    pub task: Task,
}

/// Body of `PATCH /tasks/{id}`: what shall be another; at least one field must be there.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(min_properties = 1)]
pub struct EditTask {
    /// What is to be done, in one line: 1 to 500 characters, not only spaces, no NUL; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\u0000]*[^\u0000\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000]*$",
        examples("Write the yearly report")
    )]
    pub title: Option<String>,
    /// What is to be done, in detail: at most 50,000 characters, no NUL; null clears it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 50_000, pattern = r"^[^\u0000]*$", examples("On two pages."))]
    pub description: Option<Option<String>>,
    /// The type of the agent that shall do it; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("coo"))]
    pub assign_to: Option<String>,
    /// `low`, `normal`, `high`, `urgent` or `critical`; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PriorityName>)]
    pub priority: Option<String>,
    /// When it should be done (RFC 3339); null: no matter when.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time", examples("2025-12-20T10:00:00.000Z"))]
    pub due_date: Option<Option<String>>,
    /// Always a fault, whatever stands there: a status changes by claim, complete, fail and cancel only.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub status: Option<Value>,
}

/// Body of `POST /tasks/claim`.
///
/// Values are checked by the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// `agent` is required; it is optional here so that a missing one is a value fault with a pointer.
pub struct ClaimTask {
    /// The type of the agent that wants something to do.
    #[serde(default)]
    #[schema(value_type = String, required, pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("cmo"))]
    pub agent: Option<String>,
}

/// The words of a claim's `reason`, for the description of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoClaimName {
    /// No task waits for the agent.
    NothingWaits,
    /// The agent has as many tasks in progress as it may have.
    AtLimit,
}

/// Answer of `POST /tasks/claim`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskClaimed {
    /// Always `true`.
    pub success: bool,
    /// The task, now in progress; null when there is none to be had.
    #[schema(required)]
    pub task: Option<Task>,
    /// Why there is none, `nothing_waits` or `at_limit`; null with a task.
    #[schema(value_type = Option<NoClaimName>, required)]
    pub reason: Option<String>,
}

/// Body of `POST /tasks/{id}/complete`; may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompleteTask {
    /// What came of it, as any JSON: at most 65,536 bytes, no NUL in its texts; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// Body of `POST /tasks/{id}/fail`.
///
/// Values are checked by the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// `error` is required; it is optional here so that a missing one is a value fault with a pointer.
pub struct FailTask {
    /// Why it could not be done: 1 to 10,000 characters, not only spaces, no NUL.
    #[serde(default)]
    #[schema(
        value_type = String,
        required,
        min_length = 1,
        max_length = 10_000,
        pattern = r"^[^\u0000]*[^\u0000\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000]*$",
        examples("The figures of one department are missing")
    )]
    pub error: Option<String>,
}

/// Body of `POST /tasks/{id}/cancel`; may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CancelTask {
    /// Why it is no longer wanted: at most 10,000 characters, no NUL; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 10_000, pattern = r"^[^\u0000]*$", examples("The campaign was called off"))]
    pub reason: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use utoipa::PartialSchema;

    fn task() -> Task {
        let at: Timestamp = "2025-12-20T09:00:00Z".parse().unwrap();
        Task {
            id: Uuid::nil(),
            title: "Report".to_owned(),
            description: None,
            status: "in_progress".to_owned(),
            priority: "high".to_owned(),
            assigned_to: "cmo".to_owned(),
            created_by: None,
            actor: "token:ops".to_owned(),
            due_date: None,
            result: None,
            error: None,
            overdue: false,
            claims: 1,
            lease: Some(TaskLease { incarnation: 4, since: at }),
            ended_at: None,
            etag: "\"3\"".to_owned(),
            created_at: at,
            updated_at: at,
        }
    }

    fn schema<T: PartialSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap()
    }

    #[test]
    fn shape_of_a_list() {
        let list = TaskList {
            tasks: vec![task()],
            total: 1,
            total_exact: true,
            limit: 50,
            offset: 0,
            next_cursor: None,
        };
        assert_eq!(
            serde_json::to_value(list).unwrap(),
            json!({
                "tasks": [{
                    "id": "00000000-0000-0000-0000-000000000000",
                    "title": "Report",
                    "description": null,
                    "status": "in_progress",
                    "priority": "high",
                    "assignedTo": "cmo",
                    "createdBy": null,
                    "actor": "token:ops",
                    "dueDate": null,
                    "result": null,
                    "error": null,
                    "overdue": false,
                    "claims": 1,
                    "lease": {"incarnation": 4, "since": "2025-12-20T09:00:00.000Z"},
                    "endedAt": null,
                    "etag": "\"3\"",
                    "createdAt": "2025-12-20T09:00:00.000Z",
                    "updatedAt": "2025-12-20T09:00:00.000Z",
                }],
                "total": 1,
                "totalExact": true,
                "limit": 50,
                "offset": 0,
                "nextCursor": null,
            })
        );
    }

    #[test]
    fn a_claim_has_a_task_or_a_reason() {
        let none = TaskClaimed { success: true, task: None, reason: Some("at_limit".to_owned()) };
        assert_eq!(
            serde_json::to_value(none).unwrap(),
            json!({"success": true, "task": null, "reason": "at_limit"})
        );
        let claimed = TaskClaimed { success: true, task: Some(task()), reason: None };
        let value = serde_json::to_value(&claimed).unwrap();
        assert_eq!((&value["task"]["claims"], &value["reason"]), (&json!(1), &Value::Null));
        assert_eq!(serde_json::from_value::<TaskClaimed>(value).unwrap(), claimed);
    }

    #[test]
    fn new_tasks_are_read_tolerantly() {
        let odd: NewTask =
            serde_json::from_value(json!({"priority": "soon", "title": null, "x": 1})).unwrap();
        assert_eq!((odd.priority.as_deref(), odd.title, odd.assign_to), (Some("soon"), None, None));
        assert!(serde_json::from_value::<NewTask>(json!({"title": 3})).is_err(), "a wrong type is refused");
        assert_eq!(
            serde_json::to_value(NewTask::new("Report", "cmo", "high")).unwrap(),
            json!({"title": "Report", "assignTo": "cmo", "priority": "high"})
        );
    }

    #[test]
    fn an_edit_tells_cleared_from_unchanged() {
        let edit: EditTask = serde_json::from_value(json!({"description": null, "dueDate": "x"})).unwrap();
        let wanted =
            EditTask { description: Some(None), due_date: Some(Some("x".to_owned())), ..EditTask::default() };
        assert_eq!(edit, wanted);
        assert_eq!(serde_json::to_value(edit).unwrap(), json!({"description": null, "dueDate": "x"}));
        assert_eq!(serde_json::from_value::<EditTask>(json!({"x": 1})).unwrap(), EditTask::default());
        assert_eq!(serde_json::to_value(EditTask::default()).unwrap(), json!({}));
    }

    #[test]
    fn a_status_in_an_edit_is_seen_whatever_it_is() {
        for status in [json!("completed"), json!(3), Value::Null] {
            let edit: EditTask = serde_json::from_value(json!({"status": status})).unwrap();
            assert_eq!(edit.status, Some(status));
        }
    }

    #[test]
    fn what_ends_a_task_is_read_tolerantly() {
        assert_eq!(serde_json::from_value::<FailTask>(json!({})).unwrap(), FailTask::default());
        for result in [json!({}), json!({"result": null})] {
            assert_eq!(serde_json::from_value::<CompleteTask>(result).unwrap(), CompleteTask::default());
        }
        assert_eq!(serde_json::to_value(CancelTask::default()).unwrap(), json!({}));
    }

    #[test]
    fn the_schema_says_what_the_server_accepts() {
        assert_eq!(schema::<NewTask>()["required"], json!(["title", "assignTo", "priority"]));
        assert_eq!(schema::<NewTask>()["properties"]["description"]["type"], json!(["string", "null"]));
        assert_eq!(schema::<NewTask>()["properties"]["dueDate"]["format"], "date-time");
        assert_eq!(schema::<ClaimTask>()["required"], json!(["agent"]));
        assert_eq!(schema::<FailTask>()["required"], json!(["error"]));
        for optional in [schema::<CompleteTask>(), schema::<CancelTask>(), schema::<EditTask>()] {
            assert_eq!(optional.get("required"), None);
        }
        let edit = schema::<EditTask>();
        let fields: Vec<_> = edit["properties"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["assignTo", "description", "dueDate", "priority", "title"]);
        assert_eq!(edit["properties"]["description"]["type"], json!(["string", "null"]));
        assert_eq!(edit["minProperties"], 1);
        assert_eq!(schema::<PriorityName>()["enum"], json!(["low", "normal", "high", "urgent", "critical"]));
        assert_eq!(
            schema::<TaskStatusName>()["enum"],
            json!(["pending", "in_progress", "completed", "failed", "cancelled"])
        );
        assert_eq!(schema::<NoClaimName>()["enum"], json!(["nothing_waits", "at_limit"]));
        let always = schema::<Task>()["required"].as_array().unwrap().len();
        assert_eq!(always, schema::<Task>()["properties"].as_object().unwrap().len());
    }
}
