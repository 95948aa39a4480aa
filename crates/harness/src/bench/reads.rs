//! Reading: lists that people and dashboards ask for all the time.
//!
//! Invariant: the reference sends exactly the bytes that the server answered once, head and body.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    bare::Responder,
    load::{self, Limits, Request},
    scenario::{About, Context, Figure, Measured, Scenario, Subject, Target, history_request, load_for},
};
use crate::wait;

/// Connections that ask at the same time.
const CONNECTIONS: usize = 16;
/// Events in the log before it is read.
const EVENTS_BEFORE: u64 = 5_000;
/// How long it may take to write them.
const FILLING: Duration = Duration::from_secs(180);

const REFERENCE: &str = "a bare tokio responder in the harness that sends the same bytes for every request, to the \
                         same load generator; it parses and knows nothing, so 1 cannot be reached";

/// Agents with the seven running.
pub(crate) const AGENTS: About = About {
    name: "read_agents",
    what: "GET /agents over 16 connections that stay open, the seven agents running",
    reference: REFERENCE,
    unit: "answers/s",
    target: Some(Target::AtLeast(0.2)),
    on_servers: false,
    only_large: false,
    set_up: |context| Box::pin(agents(context)),
};

/// Events of a log that is not empty.
pub(crate) const EVENTS: About = About {
    name: "read_events",
    what: "GET /events?limit=100 over 16 connections that stay open, on a log of more than 5,000 events",
    reference: REFERENCE,
    unit: "answers/s",
    target: Some(Target::AtLeast(0.05)),
    on_servers: false,
    only_large: false,
    set_up: |context| Box::pin(events(context)),
};

async fn agents(context: &Context) -> Result<Box<dyn Scenario>, String> {
    let subject = Subject::start(context, "").await?;
    let client = subject.server.client();
    for agent in ["ceo", "cmo", "cto", "cfo", "coo", "cco", "dao"] {
        client.start(agent).await.map_err(|why| format!("{agent} cannot be started: {why}"))?;
    }
    let active = async || {
        let agents = client.agents(None).await.ok()?.agents;
        agents.iter().all(|agent| agent.status == aito_api::AgentStatus::Active).then_some(())
    };
    wait::until("the seven agents to be heard", wait::SOON, active).await;
    reading(subject, Request::get("/agents")).await
}

async fn events(context: &Context) -> Result<Box<dyn Scenario>, String> {
    let subject = Subject::start(context, "").await?;
    subject.started_once("ceo").await?;
    let limits = Limits { time: FILLING, requests: EVENTS_BEFORE };
    let done = load::closed_loop(&subject.address, &history_request(), 32, limits).await?;
    if done.requests < EVENTS_BEFORE {
        return Err(format!("only {} of {EVENTS_BEFORE} events were written in {FILLING:?}", done.requests));
    }
    reading(subject, Request::get("/events?limit=100")).await
}

async fn reading(subject: Subject, request: Request) -> Result<Box<dyn Scenario>, String> {
    let answer = subject.answer(&request).await?;
    let bytes = answer.len();
    let bare = Responder::tcp(answer).map_err(|why| format!("the responder does not start: {why}"))?;
    Ok(Box::new(Reading { subject, bare, request, bytes }))
}

struct Reading {
    subject: Subject,
    bare: Responder,
    request: Request,
    bytes: usize,
}

#[async_trait(?Send)]
impl Scenario for Reading {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        load_for(&self.subject.address, &self.request, CONNECTIONS, time).await.map(Measured::rate)
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        load_for(self.bare.address(), &self.request, CONNECTIONS, time).await.map(Measured::rate)
    }

    async fn facts(&mut self) -> Result<Vec<Figure>, String> {
        Ok(vec![Figure::new("one answer, head and body", self.bytes as f64, "bytes")])
    }
}
