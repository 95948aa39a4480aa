//! What takes effect while everything runs: settings, mail, leases, and what restarts must not lose.
//!
//! Invariant: on real servers what one server does is looked at through another one.

mod leases;
mod mail;
mod settings;

use aito_api::{HeartbeatAnswer, HeartbeatRequest, NewTask, Task};
use aito_client::Client;
use aito_harness::{Sandbox, Server, Set};

pub(crate) use leases::*;
pub(crate) use mail::*;
pub(crate) use settings::*;

/// The servers of an installation under test.
struct Installation {
    servers: Vec<Server>,
    _second: Option<Sandbox>,
}

impl Installation {
    /// One server on the embedded set, two on real servers.
    async fn start(sandbox: &Sandbox) -> Self {
        let first = sandbox.start().await;
        if !sandbox.has_containers() {
            return Self { servers: vec![first], _second: None };
        }
        let second = sandbox.another_server();
        let other = second.start().await;
        Self { servers: vec![first, other], _second: Some(second) }
    }

    /// Through whom things are done.
    fn here(&self) -> Client {
        self.servers[0].client()
    }

    /// Through whom they are looked at: another server, where there is one.
    fn there(&self) -> Client {
        self.last().client()
    }

    fn last(&self) -> &Server {
        &self.servers[self.servers.len() - 1]
    }

    fn both(&self) -> Vec<Client> {
        self.servers.iter().map(Server::client).collect()
    }
}

/// A sandbox whose ceo does nothing of its own accord, and hands out its credentials.
fn quiet(set: Set) -> Sandbox {
    crate::sandbox_with_leaky_ceo(set)
}

async fn beat(client: &Client) -> HeartbeatAnswer {
    client.heartbeat("ceo", &HeartbeatRequest::default()).await.unwrap()
}

async fn task(client: &Client, title: &str, priority: &str) -> Task {
    client.create_task(&NewTask::new(title, "ceo", priority), None).await.unwrap()
}

/// Claims for the ceo; the title of the task, or the reason why there is none.
async fn claim(client: &Client) -> Result<Task, String> {
    let claimed = client.claim_task("ceo").await.unwrap();
    claimed.task.ok_or_else(|| claimed.reason.unwrap())
}
