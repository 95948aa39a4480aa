//! Makes tasks, messages, domains, settings and notes, and handles whatever a commit can change alike.
//!
//! Invariant: times that a store compares with its own clock are far from any clock: [`past`] and [`far`].

use aito_domain::{
    agent::{Agent, Desired, Lifecycle, Reach},
    allowlist::{DomainEntry, DomainRequest, NewEntry, NewRequest},
    event::Actor,
    id::{AgentId, DomainId, DomainRequestId, EventId, Incarnation, MailId, TaskId, Version},
    mailbox::{Delays, Mail, MailKind},
    ports::{clock::Clock as _, ledger::Change},
    quota::day_of,
    setting::{Setting, StoredValue},
    state::StateEntry,
    task::{ClaimRules, NewTask, Priority, Task, TaskPick},
    time::{Timestamp, millis},
};
use serde_json::{Value, json};

use super::{Handles, Maker, change, change_token, must};

/// Texts that a store might mistake for something.
pub(super) const TEXTS: [&str; 5] = [
    "",
    "  spaced \u{a0}\n ",
    "日本 🦀 \"'); DROP TABLE tasks; --",
    "a\nb\tc \\ %_ \u{202e} e\u{301}",
    "\u{1}\u{1f}\u{7f}$1 ?",
];

/// A time long before any clock of a store: 2001.
pub(super) fn past() -> Timestamp {
    millis(1_000_000_000_000)
}

/// A time long after any clock of a store: 2100.
pub(super) fn far() -> Timestamp {
    millis(4_102_444_800_000)
}

/// JSON of every kind, also numbers at their ends.
pub(super) fn values() -> Vec<Value> {
    vec![
        json!(null),
        json!(false),
        json!(""),
        json!({"ä": "日本 \"'\\", "n": [0.1, 1e300, u64::MAX, i64::MIN, null], "": {}}),
        json!([[], {}, "x", 0]),
    ]
}

/// Every person and thing that acts.
pub(super) fn actors() -> Vec<Actor> {
    vec![
        Actor::System,
        Actor::Unauthenticated,
        Actor::Agent("risk-officer".parse().unwrap()),
        Actor::Token("ops: laptop \"'".to_owned()),
    ]
}

impl Maker {
    /// Stores an agent whose first incarnation is heard.
    pub(super) async fn running_agent(&self, handles: &Handles, agent_type: &str) -> Agent {
        let agent = Agent {
            desired: Desired::Running,
            incarnation: Incarnation(1),
            lifecycle: Lifecycle::Active { since: self.clock().now() },
            reach: Reach::Ok,
            ..self.agent(agent_type)
        };
        must(&handles.ledger, &self.changing(&agent)).await;
        handles.agents.by_id(agent.id).await.unwrap().unwrap()
    }

    /// A waiting task that is not stored yet.
    pub(super) fn task(&self, assigned_to: AgentId) -> Task {
        let new = NewTask {
            title: "Write the report".to_owned(),
            description: None,
            priority: Priority::Normal,
            assigned_to,
            created_by: None,
            actor: Actor::System,
            due_at: None,
        };
        Task::create(TaskId(self.uuid()), new, &"ceo".parse().unwrap(), self.clock().now()).task
    }

    /// A message that waits and wakes, and is not stored yet.
    pub(super) fn mail(&self, agent_id: AgentId) -> Mail {
        Mail {
            id: MailId(self.uuid()),
            version: Version::default(),
            agent_id,
            kind: MailKind::Message,
            sender: Actor::System,
            from_agent: None,
            priority: Priority::Normal,
            body: json!({"text": "hello"}),
            created_at: self.clock().now(),
            wake_at: past(),
            expires_at: far(),
            acknowledged: None,
        }
    }

    /// An entry of the list of domains that is not stored yet.
    pub(super) fn domain(&self, domain: &str) -> DomainEntry {
        let new = NewEntry {
            domain: domain.parse().unwrap(),
            category: "research".to_owned(),
            description: None,
            actor: Actor::System,
        };
        DomainEntry::add(DomainId(self.uuid()), new, self.clock().now()).0
    }

    /// An open request for a domain that is not stored yet.
    pub(super) fn request(&self, domain: &str, actor: Actor) -> DomainRequest {
        let new = NewRequest {
            domain: domain.parse().unwrap(),
            url: None,
            requested_by: None,
            actor,
            task_context: None,
            reason: None,
            category: None,
        };
        DomainRequest::ask(DomainRequestId(self.uuid()), new, self.clock().now()).0
    }

    /// A setting that is not stored yet.
    pub(super) fn setting(&self, category: &str, key: &str) -> Setting {
        Setting {
            category: category.to_owned(),
            key: key.to_owned(),
            version: Version::default(),
            value: StoredValue::Plain(json!(5)),
            description: None,
            updated_by: Actor::System,
            updated_at: self.clock().now(),
        }
    }

    /// A note that is not stored yet.
    pub(super) fn note(&self, agent_id: AgentId, key: &str) -> StateEntry {
        StateEntry {
            agent_id,
            key: key.to_owned(),
            version: Version::default(),
            value: Some(json!("noted")),
            updated_at: self.clock().now(),
        }
    }

    /// A pick for the claimant, or for nobody.
    pub(super) fn pick(&self, agent: AgentId, claimant: Option<u64>, at_most: u32) -> TaskPick {
        TaskPick {
            agent,
            claimant: claimant.map(Incarnation),
            rules: ClaimRules { at_most, age_step: std::time::Duration::from_secs(3600) },
            at: self.clock().now(),
            actor: Actor::System,
            ids: (0..8).map(|_| EventId(self.uuid())).collect(),
            mail_ids: (0..8).map(|_| MailId(self.uuid())).collect(),
            delays: Delays::new(|priority| std::time::Duration::from_secs(priority.rank().into())),
        }
    }

    /// One of each kind of what agents work with, none of it stored yet.
    pub(super) fn one_of_each(&self, agent: AgentId) -> Vec<Change> {
        vec![
            change_task(&self.task(agent)),
            change_mail(&self.mail(agent)),
            change_domain(&self.domain("example.com")),
            change_request(&self.request("example.org", Actor::System)),
            change_setting(&self.setting("queue", "delay")),
            change_note(&self.note(agent, "key")),
        ]
    }

    /// The beginning of the day on which everything here happens.
    pub(super) fn day(&self) -> Timestamp {
        day_of(self.clock().now())
    }
}

pub(super) fn change_task(task: &Task) -> Change {
    Change::Task(Box::new(task.clone()))
}

pub(super) fn change_mail(mail: &Mail) -> Change {
    Change::Mail(Box::new(mail.clone()))
}

pub(super) fn change_domain(entry: &DomainEntry) -> Change {
    Change::Domain(Box::new(entry.clone()))
}

pub(super) fn change_request(request: &DomainRequest) -> Change {
    Change::DomainRequest(Box::new(request.clone()))
}

pub(super) fn change_setting(setting: &Setting) -> Change {
    Change::Setting(Box::new(setting.clone()))
}

pub(super) fn change_note(entry: &StateEntry) -> Change {
    Change::State(Box::new(entry.clone()))
}

/// The same aggregate read at `version`, with a mark.
pub(super) fn marked(change: &Change, version: Version, mark: &str) -> Change {
    let mut change = change.clone();
    let text = mark.to_owned();
    match &mut change {
        Change::Agent(agent) => (agent.version, agent.focus) = (version, Some(text)),
        Change::Token(token) => (token.version, token.created_by) = (version, text),
        Change::Task(task) => (task.version, task.title) = (version, text),
        Change::Mail(mail) => (mail.version, mail.body) = (version, json!(text)),
        Change::Domain(entry) => (entry.version, entry.description) = (version, Some(text)),
        Change::DomainRequest(request) => (request.version, request.reason) = (version, Some(text)),
        Change::Setting(setting) => (setting.version, setting.description) = (version, Some(text)),
        Change::State(entry) => (entry.version, entry.value) = (version, Some(json!(text))),
    }
    change
}

/// What is stored of an aggregate.
pub(super) async fn stored(handles: &Handles, of: &Change) -> Option<Change> {
    match of {
        Change::Agent(agent) => handles.agents.by_id(agent.id).await.unwrap().as_ref().map(change),
        Change::Token(token) => handles.tokens.by_id(token.id).await.unwrap().as_ref().map(change_token),
        Change::Task(task) => handles.tasks.by_id(task.id).await.unwrap().as_ref().map(change_task),
        Change::Mail(mail) => handles.mailbox.by_id(mail.id).await.unwrap().as_ref().map(change_mail),
        Change::Domain(entry) => {
            let standing = handles.domains.standing(std::slice::from_ref(&entry.domain)).await.unwrap();
            standing.iter().find(|one| one.id == entry.id).map(change_domain)
        }
        Change::DomainRequest(request) => {
            handles.domains.request(request.id).await.unwrap().as_ref().map(change_request)
        }
        Change::Setting(setting) => {
            let name = (&setting.category, &setting.key);
            let all = handles.settings.all().await.unwrap();
            all.iter().find(|one| (&one.category, &one.key) == name).map(change_setting)
        }
        Change::State(entry) => {
            handles.state.by_key(entry.agent_id, &entry.key).await.unwrap().as_ref().map(change_note)
        }
    }
}
