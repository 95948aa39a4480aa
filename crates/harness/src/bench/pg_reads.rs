//! Reading on PostgreSQL: what the server adds to its own queries.
//!
//! Invariants: the reference runs the query that the server was seen to run, on the same database with the server
//! beside it idle; the log is full and numbered before anything is measured.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    load::Request,
    pgbench::{Pgbench, Script},
    scenario::{About, Context, Figure, Measured, Scenario, Subject, Target, history_request},
};
use crate::wait;

/// Connections that ask at the same time.
const CONNECTIONS: usize = 16;
/// Events in the log before it is read.
const EVENTS_BEFORE: u64 = 10_000;
/// How long it may take to number them.
const NUMBERING: Duration = Duration::from_secs(60);
/// PostgreSQL shows no more than so many bytes of a statement.
const SHOWN: usize = 1023;

const REFERENCE: &str = "pgbench with the same prepared SQL on as many connections, on the same database, where 2 \
                         threads in C throw the rows away; no HTTP, no JSON, no check of a caller";

/// Agents.
pub(crate) const AGENTS: About = About {
    name: "pg_agents",
    what: "GET /agents on PostgreSQL over 16 connections that stay open: one query of seven rows, shown with what is \
           known in memory of containers and heartbeats; who asks while two such answers are worked on shares the next",
    reference: REFERENCE,
    unit: "answers/s",
    target: Some(Target::AtLeast(0.5)),
    on_servers: true,
    only_large: false,
    set_up: |context| Box::pin(agents(context)),
};

/// Events.
pub(crate) const EVENTS: About = About {
    name: "pg_events",
    what: "GET /events?limit=100 on PostgreSQL over 16 connections that stay open, on a log of more than 10,000 \
           events: one round trip that asks whether events wait for their positions and for the page; who asks while \
           two such answers are worked on shares the next",
    reference: REFERENCE,
    unit: "answers/s",
    target: Some(Target::AtLeast(0.5)),
    on_servers: true,
    only_large: false,
    set_up: |context| Box::pin(events(context)),
};

async fn agents(context: &Context) -> Result<Box<dyn Scenario>, String> {
    let subject = filled(context).await?;
    let request = Request::get("/agents");
    let query = seen(&subject, &request, r#"SELECT "agents".%ORDER BY "agents"."agent_type"%"#).await?;
    let script = Script::default().statements(&[&query]);
    reading(context, subject, request, script).await
}

async fn events(context: &Context) -> Result<Box<dyn Scenario>, String> {
    let subject = filled(context).await?;
    let request = Request::get("/events?limit=100");
    let page = seen(&subject, &request, r#"%"event_order"."position" DESC%LIMIT $1"#).await?;
    let page = page.replace("$1", "100");
    let is_pending = r#"SELECT EXISTS (SELECT "event_pending"."seq" FROM "event_pending")"#;
    reading(context, subject, request, Script::default().pipeline(&[is_pending, &page])).await
}

/// A server with a log of copies of one event that was written by itself.
async fn filled(context: &Context) -> Result<Subject, String> {
    let subject = Subject::on_servers(context).await?;
    subject.started_once("ceo").await?;
    subject.answer(&history_request()).await?;
    subject.sandbox.sql(&format!(
        "WITH written AS (
             INSERT INTO events (id, event_type, source_agent, actor, body, created_at)
             SELECT gen_random_uuid(), event_type, source_agent, actor, body, created_at
             FROM generate_series(1, {EVENTS_BEFORE}),
                 (SELECT * FROM events WHERE event_type = 'history_recorded' LIMIT 1) AS one
             RETURNING seq
         )
         INSERT INTO event_pending (seq) SELECT seq FROM written"
    ));
    let numbered = async || {
        let state = "SELECT count(*) FROM event_order UNION ALL SELECT count(*) FROM event_pending";
        let counts = subject.sandbox.sql(state);
        let counts: Vec<u64> = counts.lines().filter_map(|line| line.parse().ok()).collect();
        (counts[0] > EVENTS_BEFORE && counts[1] == 0).then_some(())
    };
    wait::until("the events to be numbered", NUMBERING, numbered).await;
    // As the server's own housekeeping would do sooner or later.
    subject.sandbox.sql("VACUUM (ANALYZE)");
    Ok(subject)
}

/// The last statement that some connection of the server ran for a request, of those that are like this.
async fn seen(subject: &Subject, request: &Request, like: &str) -> Result<String, String> {
    let question = format!(
        "SELECT query FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '{like}' LIMIT 1"
    );
    let look = async || match subject.answer(request).await {
        Ok(_) => Some(subject.sandbox.sql(&question)).filter(|query| !query.is_empty()).map(Ok),
        Err(why) => Some(Err(why)),
    };
    let query = wait::until("the server's query to be seen", wait::SOON, look).await?;
    let query = query.trim_end();
    if query.len() >= SHOWN { Err(format!("not seen as a whole: {query}")) } else { Ok(query.to_owned()) }
}

async fn reading(
    context: &Context,
    subject: Subject,
    request: Request,
    script: Script,
) -> Result<Box<dyn Scenario>, String> {
    let bytes = subject.answer(&request).await?.len();
    let pgbench = context.servers().await?.pgbench();
    Ok(Box::new(Reading { subject, request, bytes, pgbench, script }))
}

struct Reading {
    subject: Subject,
    request: Request,
    bytes: usize,
    pgbench: Pgbench,
    script: Script,
}

#[async_trait(?Send)]
impl Scenario for Reading {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        self.subject.rate(&self.request, CONNECTIONS, time).await
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        let url = &self.subject.sandbox.places().database_url;
        self.pgbench.load(url, &self.script, CONNECTIONS, time).await
    }

    async fn facts(&mut self) -> Result<Vec<Figure>, String> {
        Ok(vec![Figure::new("one answer, head and body", self.bytes as f64, "bytes")])
    }
}
