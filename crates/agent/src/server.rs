//! The agent's way to the server: one address, or whichever server of a directory of sockets answers.
//!
//! Invariants:
//! - The socket that answered last is tried first; the others follow in the order of their names.
//! - A refusal is an answer: it is not asked for elsewhere.
//! - A call that changes something is only tried elsewhere when it certainly did not reach the first server.

use crate::config::ServerAddress;
use aito_api::{
    CompleteTask, FailTask, HeartbeatAnswer, HeartbeatRequest, Mail, NewHistory, NewMessage, NewTask, Task,
    TaskClaimed,
};
use aito_client::{Client, Endpoint, Error, Options, Page, TaskQuery};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use uuid::Uuid;

/// The server, wherever it is.
#[derive(Debug)]
pub(crate) struct Server {
    agent_type: String,
    options: Options,
    way: Way,
}

#[derive(Debug)]
enum Way {
    One(Client),
    Any { dir: PathBuf, known: Mutex<Known> },
}

#[derive(Debug, Default)]
struct Known {
    clients: BTreeMap<PathBuf, Client>,
    last_good: Option<PathBuf>,
}

/// When a call may be made at another server too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// Always: it does no harm twice.
    Freely,
    /// When it certainly did not reach the one before.
    WhenUnsent,
}

impl Server {
    pub(crate) fn new(address: &ServerAddress, agent_type: &str, options: Options) -> Result<Self, Error> {
        let way = match address {
            ServerAddress::Endpoint(endpoint) => Way::One(Client::new(endpoint.clone(), options.clone())?),
            ServerAddress::SocketDir(dir) => Way::Any { dir: dir.clone(), known: Mutex::default() },
        };
        Ok(Self { agent_type: agent_type.to_owned(), options, way })
    }

    /// Sends a heartbeat; it may safely arrive twice.
    pub(crate) async fn heartbeat(&self, heartbeat: &HeartbeatRequest) -> Result<HeartbeatAnswer, Error> {
        let call = |client: Client| async move { client.heartbeat(&self.agent_type, heartbeat).await };
        self.call(Repeat::Freely, call).await
    }

    /// Stores a row of history; the key keeps a repeated call from storing it twice.
    pub(crate) async fn record(&self, row: &NewHistory, key: &str) -> Result<(), Error> {
        let call = |client: Client| async move {
            client.record_history_once(&self.agent_type, row, key).await.map(drop)
        };
        self.call(Repeat::WhenUnsent, call).await
    }

    /// Makes a task; the key keeps a repeated call from making it twice.
    pub(crate) async fn create_task(&self, task: &NewTask, key: &str) -> Result<Task, Error> {
        let call = |client: Client| async move { client.create_task(task, Some(key)).await };
        self.call(Repeat::WhenUnsent, call).await
    }

    /// Sends a message to an agent; the key keeps a repeated call from sending it twice.
    pub(crate) async fn send_message(
        &self,
        to: &str,
        message: &NewMessage,
        key: &str,
    ) -> Result<Mail, Error> {
        let call = |client: Client| async move { client.send_message(to, message, Some(key)).await };
        self.call(Repeat::WhenUnsent, call).await
    }

    /// Claims a task for this agent.
    pub(crate) async fn claim(&self) -> Result<TaskClaimed, Error> {
        let call = |client: Client| async move { client.claim_task(&self.agent_type).await };
        self.call(Repeat::WhenUnsent, call).await
    }

    /// Says that a task is done.
    pub(crate) async fn complete_task(&self, id: Uuid, outcome: &CompleteTask) -> Result<Task, Error> {
        let call = |client: Client| async move { client.complete_task(id, outcome).await };
        self.call(Repeat::WhenUnsent, call).await
    }

    /// Says that a task could not be done.
    pub(crate) async fn fail_task(&self, id: Uuid, outcome: &FailTask) -> Result<Task, Error> {
        let call = |client: Client| async move { client.fail_task(id, outcome).await };
        self.call(Repeat::WhenUnsent, call).await
    }

    /// Up to `limit` tasks in progress that are this agent's, whatever its incarnation.
    pub(crate) async fn tasks_in_progress(&self, limit: u32) -> Result<Vec<Task>, Error> {
        let wanted = TaskQuery {
            status: Some("in_progress".to_owned()),
            assigned_to: Some(self.agent_type.clone()),
            page: Page { limit: Some(limit), cursor: None },
            ..TaskQuery::default()
        };
        let wanted = &wanted;
        let call = |client: Client| async move { client.tasks(wanted).await.map(|list| list.tasks) };
        self.call(Repeat::Freely, call).await
    }

    /// Up to `limit` messages that wait for this agent; waits up to `wait` seconds for one that is none of the `known` ones.
    pub(crate) async fn mailbox(&self, limit: u32, wait: u32, known: &[Uuid]) -> Result<Vec<Mail>, Error> {
        let page = &Page { limit: Some(limit), cursor: None };
        let call = |client: Client| async move {
            client.mailbox_beyond(&self.agent_type, page, wait, known).await.map(|list| list.messages)
        };
        self.call(Repeat::Freely, call).await
    }

    /// Acknowledges a message; it may safely be acknowledged twice.
    pub(crate) async fn acknowledge(&self, id: Uuid) -> Result<(), Error> {
        let call = |client: Client| async move { client.acknowledge(&self.agent_type, id).await.map(drop) };
        self.call(Repeat::Freely, call).await
    }

    /// Makes a call at the first server that answers.
    async fn call<T, F>(&self, repeat: Repeat, call: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = None;
        for (place, client) in self.candidates()? {
            match call(client).await {
                Err(error @ Error::Unavailable { sent, .. }) => {
                    if sent && repeat == Repeat::WhenUnsent {
                        return Err(error);
                    }
                    last = Some(error);
                }
                answer => {
                    self.remember(place);
                    return answer;
                }
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere("there is no socket")))
    }

    /// Whom to ask, in order.
    fn candidates(&self) -> Result<Vec<(PathBuf, Client)>, Error> {
        let (dir, known) = match &self.way {
            Way::One(client) => return Ok(vec![(PathBuf::new(), client.clone())]),
            Way::Any { dir, known } => (dir, known),
        };
        let sockets = sockets(dir).map_err(|error| self.nowhere(&error.to_string()))?;
        let order = {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.clients.retain(|path, _| sockets.contains(path));
            in_order(&sockets, known.last_good.as_deref())
        };
        order.into_iter().map(|path| Ok((path.clone(), self.client(known, &path)?))).collect()
    }

    fn remember(&self, place: PathBuf) {
        if let Way::Any { known, .. } = &self.way {
            known.lock().unwrap_or_else(PoisonError::into_inner).last_good = Some(place);
        }
    }

    fn nowhere(&self, why: &str) -> Error {
        let detail = match &self.way {
            Way::One(client) => format!("no server at {}: {why}", client.endpoint()),
            Way::Any { dir, .. } => format!("no server in {}: {why}", dir.display()),
        };
        Error::Unavailable { detail, sent: false, status: None, retry_after: None, source: None }
    }

    fn client(&self, known: &Mutex<Known>, path: &Path) -> Result<Client, Error> {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.clients.get(path) {
            return Ok(client.clone());
        }
        let client = Client::new(Endpoint::unix(path), self.options.clone())?;
        known.clients.insert(path.to_owned(), client.clone());
        Ok(client)
    }
}

fn sockets(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sock") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn in_order(sockets: &[PathBuf], first: Option<&Path>) -> Vec<PathBuf> {
    let (mut order, rest): (Vec<_>, Vec<_>) =
        sockets.iter().cloned().partition(|path| Some(path.as_path()) == first);
    order.extend(rest);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_that_worked_comes_first() {
        let sockets: Vec<PathBuf> = ["/a.sock", "/b.sock", "/c.sock"].map(PathBuf::from).to_vec();
        let names = |first: Option<&str>| in_order(&sockets, first.map(Path::new));
        assert_eq!(names(None), sockets);
        assert_eq!(names(Some("/b.sock")), ["/b.sock", "/a.sock", "/c.sock"].map(PathBuf::from));
        assert_eq!(names(Some("/gone.sock")), sockets);
    }
}
