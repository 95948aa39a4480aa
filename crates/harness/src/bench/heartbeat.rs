//! Hearing agents: heartbeats with a real credential over the agents' socket.
//!
//! Invariant: the credential is the one that the server gave to a running agent; it stays in the sandbox.

use std::{fs, time::Duration};

use async_trait::async_trait;

use super::{
    bare::Responder,
    load::{Address, Connection, Request},
    scenario::{About, Context, Measured, Scenario, Subject, Target, load_for},
};
use crate::wait;

/// Connections that send heartbeats at the same time.
const CONNECTIONS: usize = 8;

/// Heartbeats per second.
pub(crate) const HEARTBEAT: About = About {
    name: "heartbeat",
    what: "POST /agents/ceo/heartbeat with its credential over 8 connections to the agents' socket",
    reference: "a bare tokio responder on a Unix socket in the harness that sends the same bytes for every request, \
                to the same load generator; it checks no credential and notes nothing, so 1 cannot be reached",
    unit: "answers/s",
    target: Some(Target::AtLeast(0.1)),
    on_servers: false,
    only_large: false,
    set_up: |context| Box::pin(set_up(context)),
};

async fn set_up(context: &Context) -> Result<Box<dyn Scenario>, String> {
    // The agent is one that hands its credential out, to a file that is only ever there as a whole.
    let script = "cp \"$AGENT_CREDENTIAL_FILE\" \"$HANDED_OUT.part\" && mv \"$HANDED_OUT.part\" \"$HANDED_OUT\"; exec sleep 1000";
    let dir = tempfile::Builder::new().prefix("aito-").tempdir().map_err(|why| why.to_string())?;
    let handed_out = dir.path().join("credential");
    let configuration = format!(
        "[agents.ceo]\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\nenv = {{ HANDED_OUT = \"{}\" }}\n",
        handed_out.display()
    );
    let subject = Subject::start(context, &configuration).await?;
    subject.answer(&Request::post("/agents/ceo/start", "", None)).await?;
    let read = async || fs::read_to_string(&handed_out).ok();
    let token = wait::until("the credential", wait::SOON, read).await;
    let body = r#"{"loopCount":7,"currentFocus":"the offers for the shop","status":"working"}"#;
    let request = Request::post("/agents/ceo/heartbeat", body, Some(token.trim()));
    let socket = Address::Unix(subject.sandbox.socket());
    // The first one makes the agent active and sets its focus: what follows changes nothing.
    let mut connection = Connection::open(&socket).await?;
    connection.call(&request).await?;
    let answer = connection.answer(&request).await?;
    let bare = Responder::unix(subject.sandbox.root().join("bare.sock"), answer);
    let bare = bare.map_err(|why| format!("the responder does not start: {why}"))?;
    Ok(Box::new(Heartbeats { _subject: subject, socket, bare, request }))
}

struct Heartbeats {
    _subject: Subject,
    socket: Address,
    bare: Responder,
    request: Request,
}

#[async_trait(?Send)]
impl Scenario for Heartbeats {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        load_for(&self.socket, &self.request, CONNECTIONS, time).await.map(Measured::rate)
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        load_for(self.bare.address(), &self.request, CONNECTIONS, time).await.map(Measured::rate)
    }
}
