//! What a scenario is: how it is described, set up and measured, and what it may tell besides.
//!
//! Invariants: a scenario measures one value in one unit, of the subject and of a reference; its target bounds the
//! ratio of the two, never an absolute figure, which would be one of the machine.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;

use super::{
    load::{self, Address, Connection, Done, Limits, Request},
    machine,
    servers::{Lazy, Servers},
    stats::Latencies,
};
use crate::{Sandbox, Server, wait};

/// The most requests of one measurement.
pub(crate) const MOST_REQUESTS: u64 = 5_000_000;

/// A scenario as it is listed.
pub(crate) struct About {
    /// A slug.
    pub(crate) name: &'static str,
    /// What is measured, in one line.
    pub(crate) what: &'static str,
    /// What it is compared to, in one line, with what a reader must know to judge the ratio.
    pub(crate) reference: &'static str,
    /// Of both values.
    pub(crate) unit: &'static str,
    /// Bounds the median of the ratios, subject to reference.
    pub(crate) target: Option<Target>,
    /// Whether it is about PostgreSQL, Redis and a Docker engine, which not every machine can have.
    pub(crate) on_servers: bool,
    /// Whether there is no size of it but the larger one.
    pub(crate) only_large: bool,
    pub(crate) set_up: SetUp,
}

/// Starts what a scenario needs.
pub(crate) type SetUp = for<'a> fn(&'a Context) -> LocalBoxFuture<'a, Result<Box<dyn Scenario>, String>>;

/// What a scenario is given.
pub(crate) struct Context {
    /// The server's binary.
    pub(crate) bin: PathBuf,
    /// Whether the larger size is asked for.
    pub(crate) large: bool,
    /// There for those that are [`About::on_servers`].
    pub(crate) servers: Lazy,
}

impl Context {
    /// The servers that scenarios share.
    pub(crate) async fn servers(&self) -> Result<&Servers, String> {
        self.servers.get(&self.bin).await
    }
}

/// A scenario that was set up. What it started ends when it is dropped.
#[async_trait(?Send)]
pub(crate) trait Scenario {
    /// Measures the server for about so long.
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String>;

    /// Measures the reference for about so long.
    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String>;

    /// What is worth telling once, after all repetitions.
    async fn facts(&mut self) -> Result<Vec<Figure>, String> {
        Ok(Vec::new())
    }
}

/// One measurement.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// In the scenario's unit; more than 0.
    pub(crate) value: f64,
    /// What was seen besides; the same names in the same order every time.
    pub(crate) figures: Vec<Figure>,
}

impl Measured {
    /// Answers per second, and the latencies.
    pub(crate) fn rate(mut done: Done) -> Self {
        let figures = percentiles(&mut done.latencies);
        Self { value: done.rate(), figures }
    }
}

/// p50 and p99.
pub(crate) fn percentiles(latencies: &mut Latencies) -> Vec<Figure> {
    vec![
        Figure::new("p50", latencies.percentile_ms(50.0), "ms"),
        Figure::new("p99", latencies.percentile_ms(99.0), "ms"),
    ]
}

/// A named value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit }
    }
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// Of values where more is better.
    AtLeast(f64),
    /// Of values where less is better.
    AtMost(f64),
}

impl Target {
    pub(crate) fn met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

/// A server in a sandbox, with its address. Fields are dropped in this order: first the server, then what it left.
pub(crate) struct Subject {
    pub(crate) server: Server,
    pub(crate) sandbox: Sandbox,
    pub(crate) address: Address,
}

impl Subject {
    /// On the embedded set, with this configuration besides where its sockets lie.
    pub(crate) async fn start(context: &Context, configuration: &str) -> Result<Self, String> {
        let sandbox = Sandbox::new(&context.bin);
        sandbox.configure(configuration);
        Self::start_in(sandbox).await
    }

    /// On real servers, with the default configuration besides where its sockets lie.
    pub(crate) async fn on_servers(context: &Context) -> Result<Self, String> {
        let sandbox = context.servers().await?.sandbox(&context.bin);
        sandbox.configure("");
        Self::start_in(sandbox).await
    }

    /// In a sandbox in which none runs.
    pub(crate) async fn start_in(sandbox: Sandbox) -> Result<Self, String> {
        let server = sandbox.start().await;
        let address = Address::of_url(server.address())?;
        // The server listens before it has entered the agents of its configuration.
        let client = server.client();
        let entered = async || client.agents(None).await.ok().filter(|list| !list.agents.is_empty());
        wait::until("the agents to be there", wait::SOON, entered).await;
        Ok(Self { server, sandbox, address })
    }

    /// Loads it and gives answers per second, with the latencies and what an answer costs.
    pub(crate) async fn rate(
        &self,
        request: &Request,
        connections: usize,
        time: Duration,
    ) -> Result<Measured, String> {
        let before = machine::processor_time(self.server.pid())?;
        let done = load_for(&self.address, request, connections, time).await?;
        let spent = machine::processor_time(self.server.pid())?.saturating_sub(before);
        let each = spent.as_secs_f64() * 1000.0 / done.requests as f64;
        let mut measured = Measured::rate(done);
        measured.figures.push(Figure::new("processor time of the server per answer", each, "ms"));
        Ok(measured)
    }

    /// The whole answer to one request.
    pub(crate) async fn answer(&self, request: &Request) -> Result<Vec<u8>, String> {
        Connection::open(&self.address).await?.answer(request).await
    }

    /// Starts an agent and stops it again, so that it has an incarnation for which anybody here may write.
    pub(crate) async fn started_once(&self, agent: &str) -> Result<(), String> {
        let mut connection = Connection::open(&self.address).await?;
        connection.call(&Request::post(&format!("/agents/{agent}/start"), "", None)).await?;
        connection.call(&Request::post(&format!("/agents/{agent}/stop"), "", None)).await?;
        let client = self.server.client();
        let stopped = async || {
            let detail = client.agent(agent).await.ok()?;
            (detail.status == aito_api::AgentStatus::Inactive).then_some(())
        };
        wait::until("the agent to have stopped", wait::SOON, stopped).await;
        Ok(())
    }
}

/// A row of history as it is posted to produce one event.
pub(crate) fn history_request() -> Request {
    Request::post("/agents/ceo/history", HISTORY_BODY, None)
}

/// As long as what agents usually write.
pub(crate) const HISTORY_BODY: &str = concat!(
    r#"{"actionType":"decision","summary":"Compared three offers for the hosting of the shop and chose the second","#,
    r#""details":{"offers":3,"chosen":"second","because":"same price, notice of one month","cost":120}}"#
);

/// A closed loop for so long.
pub(crate) async fn load_for(
    to: &Address,
    request: &Request,
    connections: usize,
    time: Duration,
) -> Result<Done, String> {
    load::closed_loop(to, request, connections, Limits { time, requests: MOST_REQUESTS }).await
}
