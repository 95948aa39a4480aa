//! A store in a database of its own, and what tests write into it.

use std::{
    process::id,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aito_contracts::clock::{ManualClock, SeqIds};
use aito_domain::{
    access::{Grants, Role},
    agent::Agent,
    audit::{AuditEntry, Outcome},
    event::{Actor, NewEvent, Payload},
    id::{AgentId, AuditId, CommitId, EventId, TokenId},
    ports::{
        clock::{Clock as _, IdSource as _},
        event_log::EventLog as _,
        ledger::{Change, Commit},
    },
    token::{Token, TokenText},
};
use aito_harness::servers::{POSTGRES, address, create_database};
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use crate::{Options, PgEventLog, PgStore};

/// Within which anything here happens that does happen.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) store: Arc<PgStore>,
    pub(crate) clock: Arc<ManualClock>,
    /// A connection of somebody else to the same database.
    pub(crate) outside: Client,
    pub(crate) url: String,
    ids: SeqIds,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut Options)) -> Self {
        Self::on(fresh_database().await, adjust).await
    }

    pub(crate) async fn on(url: String, adjust: impl FnOnce(&mut Options)) -> Self {
        let clock = Arc::new(ManualClock::new());
        let mut options = Options::new(url.clone(), clock.clone());
        adjust(&mut options);
        let store = PgStore::open(options).await.unwrap();
        Self { store, outside: connect(&url).await, url, ids: SeqIds::new(clock.clone(), 1), clock }
    }

    pub(crate) fn log(&self) -> Arc<PgEventLog> {
        self.store.log("abcd".parse().unwrap())
    }

    pub(crate) fn telling(&self) -> Commit {
        Commit { events: vec![self.event()], ..Commit::new(CommitId(self.ids.uuid())) }
    }

    pub(crate) fn event(&self) -> NewEvent {
        NewEvent {
            id: EventId(self.ids.uuid()),
            source_agent: None,
            actor: Actor::System,
            payload: Payload::Unknown { event_type: "test".into(), body: json!({"of": "a test"}) },
            created_at: self.clock.now(),
        }
    }

    pub(crate) fn agent(&self, agent_type: &str) -> Agent {
        let id = AgentId(self.ids.uuid());
        Agent::register(id, agent_type.parse().unwrap(), "An Agent".to_owned(), self.clock.now()).agent
    }

    pub(crate) fn changing(&self, agent: &Agent) -> Commit {
        Commit { changes: vec![Change::Agent(Box::new(agent.clone()))], ..self.telling() }
    }

    pub(crate) fn token(&self, name: &str) -> Token {
        let text = TokenText::new(TokenId(self.ids.uuid()), [7; 32]);
        let grants = Grants::of([Role::Viewer]);
        Token::issue(&text, name.to_owned(), grants, "system".to_owned(), None, self.clock.now()).token
    }

    pub(crate) fn attempt(&self, actor: &str) -> AuditEntry {
        AuditEntry {
            id: AuditId(self.ids.uuid()),
            at: self.clock.now(),
            actor: actor.to_owned(),
            credential: "none".to_owned(),
            operation: "agents.start".to_owned(),
            object: "/agents/ceo/start".to_owned(),
            source: "unix".to_owned(),
            request_id: String::new(),
            outcome: Outcome::Done,
            detail: String::new(),
            times: 1,
        }
    }

    pub(crate) fn new_id(&self) -> uuid::Uuid {
        self.ids.uuid()
    }

    /// The log as it is read, which must be without holes from 1 on.
    pub(crate) async fn logged(&self) -> Vec<EventId> {
        let events = self.log().after(0, 100_000).await.unwrap();
        assert!(events.iter().zip(1..).all(|(event, n)| event.position.n == n), "positions have holes");
        events.into_iter().map(|event| event.id).collect()
    }

    pub(crate) async fn count(&self, of: &str) -> i64 {
        self.outside.query_one(&format!("SELECT count(*) FROM {of}"), &[]).await.unwrap().get(0)
    }

    /// Statements of somebody else, one transaction each.
    pub(crate) async fn run(&self, statements: &[&str]) {
        for statement in statements {
            self.outside.batch_execute(statement).await.unwrap();
        }
    }

    /// The database's name.
    pub(crate) fn database(&self) -> &str {
        self.url.rsplit_once('/').unwrap().1
    }

    /// Ends every connection of the store.
    pub(crate) async fn cut(&self) {
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'aito'";
        self.outside.batch_execute(ended).await.unwrap();
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A new database on the run's server.
pub(crate) async fn fresh_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("aito_postgres_{}_{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
    tokio::task::spawn_blocking(move || create_database(&address(POSTGRES), &name)).await.unwrap()
}
