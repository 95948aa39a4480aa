//! The real binary, from outside: what its users do, and what must hold when it is killed, starved or misused.
//!
//! Invariants: every test has a sandbox of its own; nothing sleeps to wait for something.

#![allow(clippy::unwrap_used, missing_docs)] // a failed unwrap is a failed test

mod access;
mod bad_input;
mod bad_start;
mod disk;
mod events;
mod fleet;
mod shapes;

use std::time::Duration;

use aito_api::AgentStatus;
use aito_client::{Client, Endpoint, Options, RawAnswer, Token};
use aito_harness::{Sandbox, wait};
use serde_json::Value;

/// How long something may take that promises no time.
const SOON: Duration = wait::SOON;

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_aito"))
}

/// A sandbox whose `ceo` runs a shell script that hands out its credential and waits.
fn sandbox_with_leaky_ceo() -> Sandbox {
    let sandbox = sandbox();
    sandbox.configure(&format!(
        "[agents.ceo]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", '{}']\n",
        leak(&sandbox)
    ));
    sandbox
}

/// Copies the credential whole to `credential-<incarnation>`, then waits to be ended.
fn leak(sandbox: &Sandbox) -> String {
    let to = sandbox.root().join("credential");
    let to = to.display();
    format!("cp \"$AGENT_CREDENTIAL_FILE\" {to}.new; mv {to}.new {to}-$AGENT_INCARNATION; exec sleep 1000")
}

/// The credential that an incarnation of the leaky ceo was given.
async fn credential(sandbox: &Sandbox, incarnation: u64) -> String {
    let file = sandbox.root().join(format!("credential-{incarnation}"));
    wait::until("the credential", SOON, async || std::fs::read_to_string(&file).ok()).await.trim().to_owned()
}

/// A caller on the agents' socket with this credential.
fn as_agent(sandbox: &Sandbox, credential: &str) -> Client {
    let options = Options { token: Some(Token::new(credential).unwrap()), ..Options::default() };
    Client::new(Endpoint::unix(sandbox.socket()), options).unwrap()
}

async fn until_status(client: &Client, agent: &str, status: AgentStatus) {
    let what = format!("{agent} to be {status:?}");
    wait::until(&what, SOON, async || (client.agent(agent).await.ok()?.status == status).then_some(())).await;
}

async fn get(client: &Client, path: &str) -> RawAnswer {
    client.raw("GET", path, &[], None).await.unwrap()
}

async fn post(client: &Client, path: &str, body: &str) -> RawAnswer {
    client.raw("POST", path, &[("content-type", "application/json")], Some(body.into())).await.unwrap()
}

/// The answer must be a problem document with this status; gives the pointers of its faults.
fn refused(answer: &RawAnswer, status: u16) -> Vec<String> {
    let body: Value = answer.json().unwrap();
    assert_eq!(answer.status, status, "{body}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{body}");
    assert!(answer.header("x-request-id").is_some());
    assert_eq!((&body["status"], &body["success"]), (&Value::from(status), &Value::from(false)), "{body}");
    for key in ["type", "title", "detail", "instance", "error"] {
        assert!(body[key].as_str().is_some_and(|text| !text.is_empty()), "{key} is missing in {body}");
    }
    let faults = body["errors"].as_array().cloned().unwrap_or_default();
    faults.iter().map(|fault| fault["pointer"].as_str().unwrap().to_owned()).collect()
}
