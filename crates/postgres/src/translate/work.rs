//! Tasks, mail, domains, settings, notes and what was spent between the domain and the rows.

use std::collections::BTreeMap;

use aito_domain::{
    allowlist::{Decided, DomainEntry, DomainRequest, RequestStatus},
    domain_name::DomainName,
    event::Actor,
    id::{AgentId, DomainId, DomainRequestId, Incarnation, MailId, TaskId, Version},
    mailbox::{Acknowledged, Mail, MailKind},
    ports::ledger::Change,
    quota::Spent,
    setting::{Setting, StoredValue},
    state::StateEntry,
    task::{Priority, Task},
    time::Timestamp,
};
use diesel::{AsChangeset, Insertable, Queryable};
use serde_json::Value;
use uuid::Uuid;

use super::{Untranslatable, json, natural, number, value};
use crate::schema;

/// A task's row, as it is read and written, with NULL as in an agent's.
#[derive(Debug, Clone, PartialEq, Queryable, Insertable, AsChangeset)]
#[diesel(table_name = schema::tasks)]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub(crate) struct TaskRow {
    pub id: Uuid,
    pub version: i64,
    pub title: String,
    pub description: Option<String>,
    pub priority: i16,
    pub status: String,
    pub state: Value,
    pub assigned_to: Uuid,
    pub created_by: Option<Uuid>,
    pub actor: String,
    pub due_at: Option<Timestamp>,
    pub overdue: bool,
    pub claims: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A message's row, likewise.
#[derive(Debug, Clone, PartialEq, Queryable, AsChangeset)]
#[diesel(table_name = schema::mailbox)]
#[diesel(treat_none_as_null = true)]
pub(crate) struct MailRow {
    pub id: Uuid,
    pub version: i64,
    pub agent_id: Uuid,
    pub kind: String,
    pub sender: String,
    pub from_agent: Option<Uuid>,
    pub priority: i16,
    pub body: Value,
    pub created_at: Timestamp,
    pub wake_at: Timestamp,
    pub expires_at: Timestamp,
    pub acknowledged_by: Option<i64>,
    pub acknowledged_at: Option<Timestamp>,
}

/// New messages, column by column: a broadcast is one for each agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct NewMail {
    pub ids: Vec<Uuid>,
    pub versions: Vec<i64>,
    pub agent_ids: Vec<Uuid>,
    pub kinds: Vec<String>,
    pub senders: Vec<String>,
    pub from_agents: Vec<Option<Uuid>>,
    pub priorities: Vec<i16>,
    pub bodies: Vec<Value>,
    pub created_at: Vec<Timestamp>,
    pub wake_at: Vec<Timestamp>,
    pub expires_at: Vec<Timestamp>,
    pub acknowledged_by: Vec<Option<i64>>,
    pub acknowledged_at: Vec<Option<Timestamp>>,
}

/// The row of an entry of the list of domains.
#[derive(Debug, Clone, PartialEq, Queryable, Insertable, AsChangeset)]
#[diesel(table_name = schema::domains)]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub(crate) struct DomainRow {
    pub id: Uuid,
    pub version: i64,
    pub domain: String,
    pub category: String,
    pub description: Option<String>,
    pub actor: String,
    pub created_at: Timestamp,
    pub removed_at: Option<Timestamp>,
}

/// The row of a request for a domain.
#[derive(Debug, Clone, PartialEq, Queryable, Insertable, AsChangeset)]
#[diesel(table_name = schema::domain_requests)]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub(crate) struct DomainRequestRow {
    pub id: Uuid,
    pub version: i64,
    pub domain: String,
    pub url: Option<String>,
    pub requested_by: Option<Uuid>,
    pub actor: String,
    pub task_context: Option<String>,
    pub reason: Option<String>,
    pub category: Option<String>,
    pub status: String,
    pub decided_by: Option<String>,
    pub decided_at: Option<Timestamp>,
    pub decision_reason: Option<String>,
    pub created_at: Timestamp,
}

/// A setting's row.
#[derive(Debug, Clone, PartialEq, Queryable, Insertable, AsChangeset)]
#[diesel(table_name = schema::settings, primary_key(category, key))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub(crate) struct SettingRow {
    pub category: String,
    pub key: String,
    pub version: i64,
    pub value: Option<Value>,
    pub sealed: Option<Vec<u8>>,
    pub description: Option<String>,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

/// A note's row.
#[derive(Debug, Clone, PartialEq, Queryable, Insertable, AsChangeset)]
#[diesel(table_name = schema::agent_state, primary_key(agent_id, key))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub(crate) struct StateRow {
    pub agent_id: Uuid,
    pub key: String,
    pub version: i64,
    pub value: Option<Value>,
    pub updated_at: Timestamp,
}

/// What is to be added to what was spent, column by column, each row once and in their order: two commits that add to
/// the same rows then lock them in the same order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct NewSpent {
    pub agent_ids: Vec<Uuid>,
    pub kinds: Vec<String>,
    pub days: Vec<Timestamp>,
    pub rows: Vec<i64>,
    pub bytes: Vec<i64>,
}

/// Rows of one kind: those that exist, each with the version that must be stored, and those that do not yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Changed<Row> {
    pub stored: Vec<(i64, Row)>,
    pub new: Vec<Row>,
}

/// What a commit writes of all this, each kind in the order of its keys, so that two commits lock the same rows in the
/// same order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct WorkRows {
    pub tasks: Changed<TaskRow>,
    pub mail: Vec<(i64, MailRow)>,
    pub new_mail: NewMail,
    pub domains: Changed<DomainRow>,
    pub requests: Changed<DomainRequestRow>,
    pub settings: Changed<SettingRow>,
    pub states: Changed<StateRow>,
    pub spent: NewSpent,
}

impl<Row> Default for Changed<Row> {
    fn default() -> Self {
        Self { stored: Vec::new(), new: Vec::new() }
    }
}

impl<Row> Changed<Row> {
    fn add(&mut self, read_at: i64, row: Row) {
        if read_at == 0 {
            self.new.push(row);
        } else {
            self.stored.push((read_at, row));
        }
    }

    fn sort<A: Ord, B: Ord>(&mut self, stored: impl Fn(&Row) -> A, new: impl Fn(&Row) -> B) {
        self.stored.sort_by_key(|(_, row)| stored(row));
        self.new.sort_by_key(new);
    }
}

impl WorkRows {
    /// Takes what it knows of a commit's changes and leaves the others.
    pub(super) fn of(changes: &[Change], spent: &[Spent]) -> Result<Self, Untranslatable> {
        let (mut rows, mut mail) = (Self { spent: NewSpent::of(spent)?, ..Self::default() }, Vec::new());
        for change in changes {
            let read_at = number("a version", change.read_at().0)?;
            match change {
                Change::Agent(_) | Change::Token(_) => {}
                Change::Task(task) => rows.tasks.add(read_at, TaskRow::next_of(task)?),
                Change::Mail(one) if read_at == 0 => mail.push(MailRow::next_of(one)?),
                Change::Mail(one) => rows.mail.push((read_at, MailRow::next_of(one)?)),
                Change::Domain(entry) => rows.domains.add(read_at, DomainRow::next_of(entry)?),
                Change::DomainRequest(one) => rows.requests.add(read_at, DomainRequestRow::next_of(one)?),
                Change::Setting(setting) => rows.settings.add(read_at, SettingRow::next_of(setting)?),
                Change::State(entry) => rows.states.add(read_at, StateRow::next_of(entry)?),
            }
        }
        rows.sort();
        rows.mail.sort_by_key(|(_, row)| row.id);
        rows.new_mail.add(mail);
        Ok(rows)
    }

    /// Adds tasks that are stored already, and new messages.
    pub(super) fn add(&mut self, tasks: &[Task], mails: &[Mail]) -> Result<(), Untranslatable> {
        for task in tasks {
            self.tasks.add(number("a version", task.version.0)?, TaskRow::next_of(task)?);
        }
        self.sort();
        self.new_mail.add(mails.iter().map(MailRow::next_of).collect::<Result<_, _>>()?);
        Ok(())
    }

    /// New rows in the order of what is unique among them, for which two commits may wait for each other.
    fn sort(&mut self) {
        self.tasks.sort(|row| row.id, |row| row.id);
        self.domains.sort(|row| row.id, |row| row.domain.clone());
        self.requests.sort(|row| row.id, |row| (row.domain.clone(), row.actor.clone()));
        let name = |row: &SettingRow| (row.category.clone(), row.key.clone());
        self.settings.sort(name, name);
        let name = |row: &StateRow| (row.agent_id, row.key.clone());
        self.states.sort(name, name);
    }
}

impl TaskRow {
    /// The row that a commit of this task writes: with the version after the one that was read. So for all others.
    pub(crate) fn next_of(task: &Task) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: task.id.0,
            version: next(task.version)?,
            title: task.title.clone(),
            description: task.description.clone(),
            priority: task.priority.rank().into(),
            status: task.status().as_str().to_owned(),
            state: json("the state of a task", &task.state)?,
            assigned_to: task.assigned_to.0,
            created_by: task.created_by.map(|agent| agent.0),
            actor: task.actor.to_string(),
            due_at: task.due_at,
            overdue: task.overdue,
            claims: number("a count of claims", task.claims)?,
            created_at: task.created_at,
            updated_at: task.updated_at,
        })
    }

    pub(crate) fn into_domain(self) -> Result<Task, Untranslatable> {
        let task = Task {
            id: TaskId(self.id),
            version: version(self.version)?,
            title: self.title,
            description: self.description,
            priority: priority(self.priority)?,
            state: value("state of a task", self.state)?,
            assigned_to: AgentId(self.assigned_to),
            created_by: self.created_by.map(AgentId),
            actor: actor(&self.actor),
            due_at: self.due_at,
            overdue: self.overdue,
            claims: natural("count of claims", self.claims)?,
            created_at: self.created_at,
            updated_at: self.updated_at,
        };
        if task.status().as_str() == self.status {
            Ok(task)
        } else {
            Err(Untranslatable::Strange("status of a task", self.status))
        }
    }
}

impl MailRow {
    pub(crate) fn next_of(mail: &Mail) -> Result<Self, Untranslatable> {
        let acknowledged_by = mail.acknowledged.map(|by| number("an incarnation", by.incarnation.0));
        Ok(Self {
            id: mail.id.0,
            version: next(mail.version)?,
            agent_id: mail.agent_id.0,
            kind: mail.kind.as_str().to_owned(),
            sender: mail.sender.to_string(),
            from_agent: mail.from_agent.map(|agent| agent.0),
            priority: mail.priority.rank().into(),
            body: mail.body.clone(),
            created_at: mail.created_at,
            wake_at: mail.wake_at,
            expires_at: mail.expires_at,
            acknowledged_by: acknowledged_by.transpose()?,
            acknowledged_at: mail.acknowledged.map(|by| by.at),
        })
    }

    pub(crate) fn into_domain(self) -> Result<Mail, Untranslatable> {
        let acknowledged = match (self.acknowledged_by, self.acknowledged_at) {
            (None, None) => None,
            (Some(by), Some(at)) => {
                Some(Acknowledged { incarnation: Incarnation(natural("incarnation", by)?), at })
            }
            _ => return Err(Untranslatable::Strange("acknowledgement", "a half of it".to_owned())),
        };
        Ok(Mail {
            id: MailId(self.id),
            version: version(self.version)?,
            agent_id: AgentId(self.agent_id),
            kind: MailKind::parse(&self.kind)
                .ok_or_else(|| Untranslatable::Strange("kind of a message", self.kind.clone()))?,
            sender: actor(&self.sender),
            from_agent: self.from_agent.map(AgentId),
            priority: priority(self.priority)?,
            body: self.body,
            created_at: self.created_at,
            wake_at: self.wake_at,
            expires_at: self.expires_at,
            acknowledged,
        })
    }
}

impl NewMail {
    fn add(&mut self, mail: Vec<MailRow>) {
        for row in mail {
            self.ids.push(row.id);
            self.versions.push(row.version);
            self.agent_ids.push(row.agent_id);
            self.kinds.push(row.kind);
            self.senders.push(row.sender);
            self.from_agents.push(row.from_agent);
            self.priorities.push(row.priority);
            self.bodies.push(row.body);
            self.created_at.push(row.created_at);
            self.wake_at.push(row.wake_at);
            self.expires_at.push(row.expires_at);
            self.acknowledged_by.push(row.acknowledged_by);
            self.acknowledged_at.push(row.acknowledged_at);
        }
    }
}

impl DomainRow {
    pub(crate) fn next_of(entry: &DomainEntry) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: entry.id.0,
            version: next(entry.version)?,
            domain: entry.domain.as_str().to_owned(),
            category: entry.category.clone(),
            description: entry.description.clone(),
            actor: entry.actor.to_string(),
            created_at: entry.created_at,
            removed_at: entry.removed_at,
        })
    }

    pub(crate) fn into_domain(self) -> Result<DomainEntry, Untranslatable> {
        Ok(DomainEntry {
            id: DomainId(self.id),
            version: version(self.version)?,
            domain: domain(self.domain)?,
            category: self.category,
            description: self.description,
            actor: actor(&self.actor),
            created_at: self.created_at,
            removed_at: self.removed_at,
        })
    }
}

impl DomainRequestRow {
    pub(crate) fn next_of(request: &DomainRequest) -> Result<Self, Untranslatable> {
        let decided = request.decided.as_ref();
        Ok(Self {
            id: request.id.0,
            version: next(request.version)?,
            domain: request.domain.as_str().to_owned(),
            url: request.url.clone(),
            requested_by: request.requested_by.map(|agent| agent.0),
            actor: request.actor.to_string(),
            task_context: request.task_context.clone(),
            reason: request.reason.clone(),
            category: request.category.clone(),
            status: request.status().as_str().to_owned(),
            decided_by: decided.map(|decided| decided.by.to_string()),
            decided_at: decided.map(|decided| decided.at),
            decision_reason: decided.and_then(|decided| decided.reason.clone()),
            created_at: request.created_at,
        })
    }

    pub(crate) fn into_domain(self) -> Result<DomainRequest, Untranslatable> {
        let strange = |_| Untranslatable::Strange("status of a request", self.status.clone());
        let status: RequestStatus = self.status.parse().map_err(strange)?;
        let decided = match (status, self.decided_by, self.decided_at) {
            (RequestStatus::Pending, None, None) => None,
            (RequestStatus::Approved | RequestStatus::Rejected, Some(by), Some(at)) => Some(Decided {
                approved: status == RequestStatus::Approved,
                by: actor(&by),
                at,
                reason: self.decision_reason,
            }),
            _ => return Err(Untranslatable::Strange("decision", "a half of it".to_owned())),
        };
        Ok(DomainRequest {
            id: DomainRequestId(self.id),
            version: version(self.version)?,
            domain: domain(self.domain)?,
            url: self.url,
            requested_by: self.requested_by.map(AgentId),
            actor: actor(&self.actor),
            task_context: self.task_context,
            reason: self.reason,
            category: self.category,
            decided,
            created_at: self.created_at,
        })
    }
}

impl SettingRow {
    pub(crate) fn next_of(setting: &Setting) -> Result<Self, Untranslatable> {
        let (value, sealed) = match &setting.value {
            StoredValue::Plain(value) => (Some(value.clone()), None),
            StoredValue::Sealed(bytes) => (None, Some(bytes.clone())),
        };
        Ok(Self {
            category: setting.category.clone(),
            key: setting.key.clone(),
            version: next(setting.version)?,
            value,
            sealed,
            description: setting.description.clone(),
            updated_by: setting.updated_by.to_string(),
            updated_at: setting.updated_at,
        })
    }

    pub(crate) fn into_domain(self) -> Result<Setting, Untranslatable> {
        let value = match (self.value, self.sealed) {
            (Some(value), None) => StoredValue::Plain(value),
            (None, Some(bytes)) => StoredValue::Sealed(bytes),
            (None, None) => return Err(Untranslatable::Strange("setting", "no value".to_owned())),
            (Some(_), Some(_)) => return Err(Untranslatable::Strange("setting", "two values".to_owned())),
        };
        Ok(Setting {
            category: self.category,
            key: self.key,
            version: version(self.version)?,
            value,
            description: self.description,
            updated_by: actor(&self.updated_by),
            updated_at: self.updated_at,
        })
    }
}

impl StateRow {
    pub(crate) fn next_of(entry: &StateEntry) -> Result<Self, Untranslatable> {
        Ok(Self {
            agent_id: entry.agent_id.0,
            key: entry.key.clone(),
            version: next(entry.version)?,
            value: entry.value.clone(),
            updated_at: entry.updated_at,
        })
    }

    pub(crate) fn into_domain(self) -> Result<StateEntry, Untranslatable> {
        Ok(StateEntry {
            agent_id: AgentId(self.agent_id),
            key: self.key,
            version: version(self.version)?,
            value: self.value,
            updated_at: self.updated_at,
        })
    }
}

impl NewSpent {
    fn of(spent: &[Spent]) -> Result<Self, Untranslatable> {
        let mut sums = BTreeMap::<_, (u64, u64)>::new();
        for one in spent {
            let (rows, bytes) = sums.entry((one.agent, one.kind.as_str(), one.day)).or_default();
            (*rows, *bytes) = (rows.saturating_add(one.rows), bytes.saturating_add(one.bytes));
        }
        let mut columns = Self::default();
        for ((agent, kind, day), (rows, bytes)) in sums {
            columns.agent_ids.push(agent.0);
            columns.kinds.push(kind.to_owned());
            columns.days.push(day);
            columns.rows.push(number("a count of rows", rows)?);
            columns.bytes.push(number("a count of bytes", bytes)?);
        }
        Ok(columns)
    }
}

fn next(read: Version) -> Result<i64, Untranslatable> {
    number("a version", read.0.saturating_add(1))
}

fn version(stored: i64) -> Result<Version, Untranslatable> {
    Ok(Version(natural("version", stored)?))
}

fn priority(stored: i16) -> Result<Priority, Untranslatable> {
    Priority::of_rank(stored.into()).ok_or_else(|| Untranslatable::Strange("priority", stored.to_string()))
}

fn actor(stored: &str) -> Actor {
    let Ok(actor) = stored.parse();
    actor
}

fn domain(stored: String) -> Result<DomainName, Untranslatable> {
    DomainName::stored(stored.clone()).map_err(|_| Untranslatable::Strange("domain", stored))
}

#[cfg(test)]
mod tests;
