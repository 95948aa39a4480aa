//! Looks at a Docker engine from outside, over its socket: what really runs there, whatever the server under test says.
//!
//! Invariants: one request, one connection, a time limit; nothing of the adapter under test is used here.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

/// How long an engine may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A container as the engine shows it.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `running`, `exited`, `created`, …
    pub state: String,
    /// Its main process on this host, while it runs.
    pub pid: Option<u32>,
}

/// An answer of an engine.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Asks an engine; `path` as it stands in the request line.
///
/// # Panics
/// When it does not answer.
pub fn call(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Answer {
    try_call(socket, method, path, body).unwrap_or_else(|why| {
        panic!("{method} {path}: the engine at {} does not answer: {why}", socket.display())
    })
}

fn try_call(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    // HTTP/1.0: the answer ends with the connection, without chunks.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok(Answer { status, body: answer.get(end + 4..).unwrap_or_default().to_vec() })
}

/// Every container with this label (`name=value`), running or not; empty when the engine does not answer.
pub fn all_containers(socket: &Path, label: &str) -> Vec<Container> {
    list(socket, label, true)
}

/// Every running container with this label; empty when the engine does not answer.
pub fn containers(socket: &Path, label: &str) -> Vec<Container> {
    let mut running = list(socket, label, false);
    for container in &mut running {
        let inspected = try_call(socket, "GET", &format!("/containers/{}/json", container.id), None);
        let pid = inspected.ok().and_then(|answer| answer.json()["State"]["Pid"].as_u64());
        container.pid = pid.filter(|pid| *pid > 0).and_then(|pid| u32::try_from(pid).ok());
    }
    running.retain(|container| container.pid.is_some());
    running
}

fn list(socket: &Path, label: &str, all: bool) -> Vec<Container> {
    let filters = escaped(&serde_json::json!({ "label": [label] }).to_string());
    let path = format!("/containers/json?all={}&filters={filters}", u8::from(all));
    let Ok(answer) = try_call(socket, "GET", &path, None) else { return Vec::new() };
    let listed = answer.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = |value: &Value| {
        let all = value.as_object().cloned().unwrap_or_default();
        all.into_iter().map(|(name, value)| (name, text(&value))).collect()
    };
    listed
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| Container {
            id: text(&one["Id"]),
            name: text(&one["Names"][0]).trim_start_matches('/').to_owned(),
            labels: labels(&one["Labels"]),
            state: text(&one["State"]),
            pid: None,
        })
        .collect()
}

/// Sends a signal to a container's main process, as `docker kill` does.
pub fn kill(socket: &Path, name: &str, signal: &str) {
    call(socket, "POST", &format!("/containers/{name}/kill?signal={signal}"), None);
}

/// Removes every container and network with this label; an engine that does not answer is left alone.
pub fn sweep(socket: &Path, label: &str) {
    for container in all_containers(socket, label) {
        let _ = try_call(socket, "DELETE", &format!("/containers/{}?force=1&v=1", container.id), None);
    }
    let filters = escaped(&serde_json::json!({ "label": [label] }).to_string());
    let networks = try_call(socket, "GET", &format!("/networks?filters={filters}"), None);
    let networks = networks.map(|answer| answer.json()).unwrap_or_default();
    for network in networks.as_array().into_iter().flatten().filter_map(|one| one["Id"].as_str()) {
        let _ = try_call(socket, "DELETE", &format!("/networks/{network}"), None);
    }
}

/// Percent-encodes all but what is plain (RFC 3986, section 2.3).
pub fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_escaped() {
        assert_eq!(escaped("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(escaped("{\"a\":[\"b=c\"]}"), "%7B%22a%22%3A%5B%22b%3Dc%22%5D%7D");
    }
}
