//! Tasks and mailboxes between the domain and the rows.
//!
//! Invariants: those of the module above; a task's word for its state is never read back, `state` alone says where it is.

use aito_domain::{
    event::Actor,
    id::{AgentId, Incarnation, MailId, TaskId, Version},
    mailbox::{Acknowledged, Mail, MailKind},
    task::{Priority, Task},
    time::{Timestamp, millis},
};
use diesel::{AsChangeset, Insertable, Queryable, Selectable, sqlite::Sqlite};
use serde_json::Value;

use super::{Untranslatable, blob, json, natural, number, schema, uuid, value};

/// A task's row, as it is read and written.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::tasks, check_for_backend(Sqlite), treat_none_as_null = true)]
pub(in crate::sqlite) struct TaskRow {
    pub id: Vec<u8>,
    pub version: i64,
    pub title: String,
    pub description: Option<String>,
    pub priority: i64,
    pub status: String,
    pub state: String,
    pub assigned_to: Vec<u8>,
    pub created_by: Option<Vec<u8>>,
    pub actor: String,
    pub due_at: Option<i64>,
    pub overdue: bool,
    pub claims: i64,
    pub created_at: i64,
    pub updated_at: i64,
}

/// A message's row, as it is read and written.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::mailbox, check_for_backend(Sqlite), treat_none_as_null = true)]
pub(in crate::sqlite) struct MailRow {
    pub id: Vec<u8>,
    pub version: i64,
    pub agent_id: Vec<u8>,
    pub kind: String,
    pub sender: String,
    pub from_agent: Option<Vec<u8>>,
    pub priority: i64,
    pub body: String,
    pub created_at: i64,
    pub wake_at: i64,
    pub expires_at: i64,
    pub acknowledged_by: Option<i64>,
    pub acknowledged_at: Option<i64>,
}

impl TaskRow {
    /// The row that a commit of this task writes: with the version after the one that was read.
    pub(in crate::sqlite) fn next_of(task: &Task) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: blob(task.id.0),
            version: number("a version", task.version.0.saturating_add(1))?,
            title: task.title.clone(),
            description: task.description.clone(),
            priority: i64::from(task.priority.rank()),
            status: task.status().as_str().to_owned(),
            state: json("the state of a task", &task.state)?,
            assigned_to: blob(task.assigned_to.0),
            created_by: task.created_by.map(|agent| blob(agent.0)),
            actor: task.actor.to_string(),
            due_at: task.due_at.as_ref().map(Timestamp::timestamp_millis),
            overdue: task.overdue,
            claims: number("the claims of a task", task.claims)?,
            created_at: task.created_at.timestamp_millis(),
            updated_at: task.updated_at.timestamp_millis(),
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<Task, Untranslatable> {
        Ok(Task {
            id: TaskId(uuid("task id", &self.id)?),
            version: Version(natural("version", self.version)?),
            title: self.title,
            description: self.description,
            priority: priority(self.priority)?,
            state: value("state of a task", &self.state)?,
            assigned_to: AgentId(uuid("agent id", &self.assigned_to)?),
            created_by: self.created_by.map(|id| uuid("agent id", &id).map(AgentId)).transpose()?,
            actor: actor(&self.actor),
            due_at: self.due_at.map(millis),
            overdue: self.overdue,
            claims: natural("count of claims", self.claims)?,
            created_at: millis(self.created_at),
            updated_at: millis(self.updated_at),
        })
    }
}

impl MailRow {
    /// The row that a commit of this message writes: with the version after the one that was read.
    pub(in crate::sqlite) fn next_of(mail: &Mail) -> Result<Self, Untranslatable> {
        let heard = mail.acknowledged.as_ref();
        Ok(Self {
            id: blob(mail.id.0),
            version: number("a version", mail.version.0.saturating_add(1))?,
            agent_id: blob(mail.agent_id.0),
            kind: mail.kind.as_str().to_owned(),
            sender: mail.sender.to_string(),
            from_agent: mail.from_agent.map(|agent| blob(agent.0)),
            priority: i64::from(mail.priority.rank()),
            body: Value::to_string(&mail.body),
            created_at: mail.created_at.timestamp_millis(),
            wake_at: mail.wake_at.timestamp_millis(),
            expires_at: mail.expires_at.timestamp_millis(),
            acknowledged_by: heard.map(|heard| number("an incarnation", heard.incarnation.0)).transpose()?,
            acknowledged_at: heard.map(|heard| heard.at.timestamp_millis()),
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<Mail, Untranslatable> {
        let acknowledged = match (self.acknowledged_by, self.acknowledged_at) {
            (None, None) => None,
            (Some(by), Some(at)) => {
                Some(Acknowledged { incarnation: Incarnation(natural("incarnation", by)?), at: millis(at) })
            }
            _ => {
                return Err(Untranslatable::Strange("acknowledgement", "a half of it is missing".to_owned()));
            }
        };
        Ok(Mail {
            id: MailId(uuid("message id", &self.id)?),
            version: Version(natural("version", self.version)?),
            agent_id: AgentId(uuid("agent id", &self.agent_id)?),
            kind: MailKind::parse(&self.kind)
                .ok_or_else(|| Untranslatable::Strange("kind of a message", self.kind.clone()))?,
            sender: actor(&self.sender),
            from_agent: self.from_agent.map(|id| uuid("agent id", &id).map(AgentId)).transpose()?,
            priority: priority(self.priority)?,
            body: value("body of a message", &self.body)?,
            created_at: millis(self.created_at),
            wake_at: millis(self.wake_at),
            expires_at: millis(self.expires_at),
            acknowledged,
        })
    }
}

/// Reads an actor, which never fails.
pub(super) fn actor(text: &str) -> Actor {
    let Ok(actor) = text.parse();
    actor
}

fn priority(rank: i64) -> Result<Priority, Untranslatable> {
    Priority::of_rank(rank).ok_or_else(|| Untranslatable::Strange("priority", rank.to_string()))
}

#[cfg(test)]
mod tests {
    use aito_domain::task::{Lease, TaskState};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn task() -> Task {
        Task {
            id: TaskId(Uuid::from_u128(1)),
            version: Version(4),
            title: "read \"it\" – 日本 🦀".into(),
            description: Some(String::new()),
            priority: Priority::Critical,
            state: TaskState::InProgress(Lease { incarnation: Incarnation(9), since: millis(-1) }),
            assigned_to: AgentId(Uuid::from_u128(2)),
            created_by: Some(AgentId(Uuid::from_u128(3))),
            actor: Actor::Agent("cto".parse().unwrap()),
            due_at: Some(millis(1_700_000_000_123)),
            overdue: true,
            claims: i64::MAX as u64,
            created_at: millis(0),
            updated_at: millis(1),
        }
    }

    fn mail() -> Mail {
        Mail {
            id: MailId(Uuid::from_u128(1)),
            version: Version(4),
            agent_id: AgentId(Uuid::from_u128(2)),
            kind: MailKind::Notice,
            sender: Actor::Token("ops: laptop".into()),
            from_agent: Some(AgentId(Uuid::from_u128(3))),
            priority: Priority::Low,
            body: json!({"text": "ä \"'\n", "n": [0.1, 1e300, u64::MAX, null]}),
            created_at: millis(0),
            wake_at: millis(-5),
            expires_at: millis(253_402_300_799_999),
            acknowledged: Some(Acknowledged { incarnation: Incarnation(7), at: millis(3) }),
        }
    }

    #[test]
    fn a_task_reads_back_equal_with_the_next_version() {
        let bare = Task { description: None, created_by: None, due_at: None, overdue: false, ..task() };
        let ended = [
            TaskState::Pending,
            TaskState::Completed { result: None, at: millis(5) },
            TaskState::Completed { result: Some(json!({"x": 0.1})), at: millis(5) },
            TaskState::Failed { error: "no \u{1f980}".into(), at: millis(5) },
            TaskState::Cancelled { reason: None, at: millis(5) },
        ];
        let ended = ended.map(|state| Task { state, ..bare.clone() });
        for task in [task(), bare].into_iter().chain(ended) {
            let row = TaskRow::next_of(&task).unwrap();
            assert_eq!(row.status, task.status().as_str());
            assert_eq!(row.into_domain().unwrap(), Task { version: Version(5), ..task });
        }
    }

    #[test]
    fn a_message_reads_back_equal_with_the_next_version() {
        let bare = Mail { from_agent: None, acknowledged: None, body: Value::Null, ..mail() };
        for mail in [mail(), bare] {
            let read = MailRow::next_of(&mail).unwrap().into_domain().unwrap();
            assert_eq!(read, Mail { version: Version(5), ..mail });
        }
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let claims = Task { claims: u64::MAX, ..task() };
        assert_eq!(TaskRow::next_of(&claims), Err(Untranslatable::TooLarge("the claims of a task")));
        assert!(TaskRow::next_of(&Task { version: Version(i64::MAX as u64), ..task() }).is_err());
        let heard = Some(Acknowledged { incarnation: Incarnation(u64::MAX), at: millis(3) });
        assert!(MailRow::next_of(&Mail { acknowledged: heard, ..mail() }).is_err());
    }

    #[test]
    fn what_a_later_version_wrote_is_an_error_not_a_guess() {
        let row = TaskRow::next_of(&task()).unwrap();
        for strange in [
            TaskRow { id: vec![1], ..row.clone() },
            TaskRow { version: -1, ..row.clone() },
            TaskRow { priority: 5, ..row.clone() },
            TaskRow { state: r#"{"state":"dreaming"}"#.into(), ..row.clone() },
            TaskRow { assigned_to: vec![], ..row.clone() },
            TaskRow { created_by: Some(vec![1, 2]), ..row.clone() },
            TaskRow { claims: -1, ..row },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
        let row = MailRow::next_of(&mail()).unwrap();
        for strange in [
            MailRow { kind: "letter".into(), ..row.clone() },
            MailRow { body: "not json".into(), ..row.clone() },
            MailRow { priority: -1, ..row.clone() },
            MailRow { acknowledged_by: None, ..row.clone() },
            MailRow { acknowledged_at: None, ..row.clone() },
            MailRow { acknowledged_by: Some(-1), ..row.clone() },
            MailRow { from_agent: Some(vec![]), ..row },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
    }
}
