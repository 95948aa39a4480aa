//! A caller with a budget of its own beside somebody who asks as much as the machine gives.
//!
//! Invariants: the server has its default limits; the caller asks at a steady pace below its budget, so that what it
//! waits for is the server and never itself; the flood has used up its burst before the measurement and goes on through
//! the whole of it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::{
    load::{Address, Connection, Request},
    scenario::{About, Context, Figure, Measured, Scenario, Subject, Target, percentiles},
    stats::Latencies,
};
use crate::{Sandbox, wait};

/// Connections that flood: more than the server lets one address have would be closed by it.
const FLOODERS: usize = 200;
/// How often the caller asks.
const PACE: Duration = Duration::from_millis(10);

const REFERENCE: &str = "the same caller at the same pace with nobody beside it; flood, caller and server share the \
                         machine's processors";

/// Somebody without a credential.
pub(crate) const ADDRESS: About = About {
    name: "flood_address",
    what: "p99 of GET /agents/ceo with a token, 100 a second, beside 200 connections of one address that ask for GET \
           /agents without a credential as fast as they are answered",
    reference: REFERENCE,
    unit: "ms (p99)",
    target: Some(Target::AtMost(2.0)),
    on_servers: false,
    only_large: false,
    set_up: |context| Box::pin(set_up(context, By::Address)),
};

/// An agent that runs wild.
pub(crate) const AGENT: About = About {
    name: "flood_agent",
    what: "p99 of GET /agents/ceo with a token, 100 a second, beside 200 connections of one agent that send heartbeats \
           as fast as they are answered",
    reference: REFERENCE,
    unit: "ms (p99)",
    target: Some(Target::AtMost(2.0)),
    on_servers: false,
    only_large: false,
    set_up: |context| Box::pin(set_up(context, By::Agent)),
};

/// Who floods.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Address,
    Agent,
}

async fn set_up(context: &Context, by: By) -> Result<Box<dyn Scenario>, String> {
    let script = "cp \"$AGENT_CREDENTIAL_FILE\" \"$HANDED_OUT.part\" && mv \"$HANDED_OUT.part\" \"$HANDED_OUT\"; exec sleep 1000";
    let dir = tempfile::Builder::new().prefix("aito-").tempdir().map_err(|why| why.to_string())?;
    let handed_out = dir.path().join("credential");
    let mut sandbox = Sandbox::new(&context.bin);
    sandbox.env.retain(|name, _| !name.starts_with("AITO_LIMITS__"));
    sandbox.no_auth = false;
    sandbox.configure(&format!(
        "[agents.cmo]\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\nenv = {{ HANDED_OUT = \"{}\" }}\n",
        handed_out.display()
    ));
    let server = sandbox.start().await;
    let address = Address::of_url(server.address())?;
    let token = sandbox.first_token();
    let client = server.client_with(&token);
    let entered = async || client.agents(None).await.ok().filter(|list| !list.agents.is_empty());
    wait::until("the agents to be there", wait::SOON, entered).await;
    client.start("cmo").await.map_err(|why| format!("cmo cannot be started: {why}"))?;
    let credential =
        wait::until("the credential", wait::SOON, async || fs::read_to_string(&handed_out).ok()).await;
    let (flood_to, flood) = match by {
        By::Address => (address.clone(), Request::get("/agents")),
        By::Agent => {
            let socket = Address::Unix(sandbox.socket());
            (socket, Request::post("/agents/cmo/heartbeat", "{}", Some(credential.trim())))
        }
    };
    let asked = Request::get_as("/agents/ceo", &token);
    let subject = Subject { server, sandbox, address };
    Ok(Box::new(Flooded { subject, asked, flood_to, flood, refused: 0 }))
}

struct Flooded {
    subject: Subject,
    asked: Request,
    flood_to: Address,
    flood: Request,
    refused: u64,
}

impl Flooded {
    /// What the caller waits for at its pace, for so long.
    async fn paced(&self, time: Duration) -> Result<Measured, String> {
        let mut connection = Connection::open(&self.subject.address).await?;
        let mut latencies = Latencies::default();
        let since = wait::stopwatch();
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while since() < time {
            pace.tick().await;
            let began = since();
            connection.call(&self.asked).await?;
            latencies.push(since() - began);
        }
        let value = latencies.percentile_ms(99.0);
        Ok(Measured { value, figures: percentiles(&mut latencies) })
    }
}

#[async_trait(?Send)]
impl Scenario for Flooded {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut flooders = JoinSet::new();
        for _ in 0..FLOODERS {
            let (to, request) = (self.flood_to.clone(), self.flood.clone());
            let (stop, answers) = (stop.clone(), answers.clone());
            flooders.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut connection) = Connection::open(&to).await else { continue };
                    while !stop.load(Ordering::Relaxed) {
                        // Refusals are what is expected; only a connection that breaks is opened again.
                        match connection.status(&request).await {
                            Ok(429) => _ = answers.fetch_add(1, Ordering::Relaxed),
                            Ok(_) => {}
                            Err(_) => break,
                        }
                    }
                }
            });
        }
        // Measured is what comes after the burst that everybody has.
        let refused = async || (answers.load(Ordering::Relaxed) > 0).then_some(());
        wait::until("the flood to be refused", wait::SOON, refused).await;
        let measured = self.paced(time).await;
        stop.store(true, Ordering::Relaxed);
        let ended = async { while flooders.join_next().await.is_some() {} };
        if tokio::time::timeout(wait::SOON, ended).await.is_err() {
            return Err("the flood does not end".into());
        }
        self.refused = answers.load(Ordering::Relaxed);
        measured
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        self.paced(time).await
    }

    async fn facts(&mut self) -> Result<Vec<Figure>, String> {
        Ok(vec![Figure::new("refused in the last measurement", self.refused as f64, "answers")])
    }
}
