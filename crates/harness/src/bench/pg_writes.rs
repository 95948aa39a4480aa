//! Writing on PostgreSQL: what the server adds to its own statements, and what the order of events costs writers.
//!
//! Invariants: the reference writes the same rows by the same statements, in as many round trips, on the same
//! PostgreSQL, into a copy of the database that was taken before anything was measured and that no server is
//! connected to; every event that is written while a server runs has a position in the end.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    pgbench::{Pgbench, Script},
    scenario::{About, Context, Figure, Measured, Scenario, Subject, Target, history_request},
    servers::Servers,
};
use crate::{servers, wait};

/// Connections that write at the same time.
const WRITERS: usize = 16;
/// How long events may wait for their positions when nobody writes any more.
const NUMBERING: Duration = Duration::from_secs(60);

/// A commit by the server.
pub(crate) const COMMIT: About = About {
    name: "pg_commit",
    what: "POST /agents/ceo/history on PostgreSQL over 16 connections: each reads the agent, then commits one row of \
           history and one event; events are numbered, read again and told meanwhile",
    reference: "pgbench with the same statements of one commit on 16 connections (one round trip for BEGIN and the \
                rows, one for COMMIT), into a copy of the database where nobody numbers or reads events",
    unit: "commits/s",
    target: Some(Target::AtLeast(0.5)),
    on_servers: true,
    only_large: false,
    set_up: |context| Box::pin(commit(context)),
};

/// The order of events.
pub(crate) const ORDER: About = About {
    name: "pg_order",
    what: "16 writers (pgbench with the statements of one commit with one event) while a server numbers their events; \
           it reads the log too and passes it on to Redis, as it always does",
    reference: "the same 16 writers into a copy of the database to which no server is connected: commits without an \
                order, and without readers",
    unit: "commits/s",
    target: Some(Target::AtLeast(0.6)),
    on_servers: true,
    only_large: false,
    set_up: |context| Box::pin(order(context)),
};

async fn commit(context: &Context) -> Result<Box<dyn Scenario>, String> {
    Ok(Box::new(Commits(Written::set_up(context).await?)))
}

async fn order(context: &Context) -> Result<Box<dyn Scenario>, String> {
    Ok(Box::new(Ordered(Written::set_up(context).await?)))
}

/// A server, and a copy of its database.
struct Written {
    subject: Subject,
    copy: Copy,
    pgbench: Pgbench,
    /// What the server does to commit one row of history.
    script: Script,
}

/// A database that is dropped with it.
struct Copy(String);

impl Drop for Copy {
    fn drop(&mut self) {
        servers::drop_database(&self.0);
    }
}

impl Written {
    async fn set_up(context: &Context) -> Result<Self, String> {
        let subject = Subject::on_servers(context).await?;
        subject.started_once("ceo").await?;
        subject.answer(&history_request()).await?;
        numbered(&subject).await;
        let script = script(&subject);
        // While it is copied, nobody may be connected to it.
        let Subject { server, sandbox, .. } = subject;
        server.stop().await;
        let url = sandbox.places().database_url.clone();
        let name = url.rsplit('/').next().unwrap_or_default();
        let copy = Copy(Servers::beside(&url, &format!("{name}-copy")));
        let copying = format!("CREATE DATABASE \"{name}-copy\" TEMPLATE \"{name}\"");
        servers::sql(&Servers::beside(&url, "postgres"), &copying);
        let subject = Subject::start_in(sandbox).await?;
        Ok(Self { subject, copy, pgbench: context.servers().await?.pgbench(), script })
    }

    /// Commits without anybody else.
    async fn alone(&self, time: Duration) -> Result<Measured, String> {
        servers::sql(&self.copy.0, "TRUNCATE event_pending");
        self.pgbench.load(&self.copy.0, &self.script, WRITERS, time).await
    }
}

/// Waits until every event has its position, and gives the number of them.
async fn numbered(subject: &Subject) -> u64 {
    let all = async || {
        let state = "SELECT (SELECT count(*) FROM event_pending), (SELECT position FROM event_head)";
        let counts = subject.sandbox.sql(state);
        let (pending, position) = counts.trim().split_once('|')?;
        (pending == "0").then(|| position.parse().ok()).flatten()
    };
    wait::until("every event to have its position", NUMBERING, all).await
}

/// The statements of a commit with one row of history and one event, with the values of those that the server wrote.
/// Ids rise, as the server's do.
fn script(subject: &Subject) -> Script {
    const ID: &str = "lpad(:id::text, 32, '0')::uuid";
    let remember = format!(
        "INSERT INTO commits (id, outcome, answer, at) VALUES ({ID}, 'applied', NULL, now()) ON CONFLICT DO NOTHING"
    );
    let tell = format!(
        "WITH written AS (
             INSERT INTO events (id, event_type, source_agent, actor, body, created_at)
             SELECT id, event_type, source_agent, actor, body, created_at
             FROM unnest(ARRAY[{ID}], ARRAY[:event_type::text], ARRAY[:agent::uuid], ARRAY[:actor::text],
                         ARRAY[:body::json], ARRAY[now()]) WITH ORDINALITY
                 AS new (id, event_type, source_agent, actor, body, created_at, place)
             ORDER BY place
             RETURNING seq
         )
         INSERT INTO event_pending (seq) SELECT seq FROM written"
    );
    let note = format!(
        "INSERT INTO history (id, agent_id, incarnation, action_type, summary, details, created_at)
         SELECT * FROM unnest(ARRAY[{ID}], ARRAY[:agent::uuid], ARRAY[:incarnation::bigint],
                              ARRAY[:action_type::text], ARRAY[:summary::text], ARRAY[:details::json], ARRAY[now()])"
    );
    let script =
        Script::default().numbered().pipeline(&["BEGIN", &remember, &tell, &note]).statements(&["COMMIT"]);
    let one = |what: &str| subject.sandbox.sql(what).trim_end_matches('\n').to_owned();
    let of_event =
        |column: &str| one(&format!("SELECT {column} FROM events WHERE event_type = 'history_recorded'"));
    let of_history = |column: &str| one(&format!("SELECT {column} FROM history"));
    script
        .value("event_type", of_event("event_type"))
        .value("agent", of_event("source_agent"))
        .value("actor", of_event("actor"))
        .value("body", of_event("body"))
        .value("incarnation", of_history("incarnation"))
        .value("action_type", of_history("action_type"))
        .value("summary", of_history("summary"))
        .value("details", of_history("details"))
}

struct Commits(Written);

#[async_trait(?Send)]
impl Scenario for Commits {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        let subject = &self.0.subject;
        let measured = subject.rate(&history_request(), WRITERS, time).await;
        // What is still to be done is not done during the reference.
        numbered(subject).await;
        measured
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        self.0.alone(time).await
    }
}

struct Ordered(Written);

#[async_trait(?Send)]
impl Scenario for Ordered {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        let Written { subject, pgbench, script, .. } = &self.0;
        let before = numbered(subject).await;
        let mut measured =
            pgbench.load(&subject.sandbox.places().database_url, script, WRITERS, time).await?;
        let behind = subject.sandbox.sql("SELECT count(*) FROM event_pending");
        let behind = behind.trim().parse().map_err(|_| format!("\"{behind}\" is no number"))?;
        let given = numbered(subject).await - before;
        if given == 0 {
            return Err("no event got a position".into());
        }
        measured.figures.push(Figure::new("events", given as f64, ""));
        measured.figures.push(Figure::new(
            "of them without a position when the last was written",
            behind,
            "",
        ));
        Ok(measured)
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        self.0.alone(time).await
    }
}
