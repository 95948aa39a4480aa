//! The engine's API by hand: one request per connection, blocking, so that it works in a destructor too.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

/// Status and body of an answer.
pub fn ask(socket: &Path, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, Vec<u8>) {
    try_ask(socket, method, path, kind, body).unwrap_or_else(|why| panic!("{method} {path}: {why}"))
}

/// [`ask`] of an engine that may be away.
pub fn try_ask(
    socket: &Path,
    method: &str,
    path: &str,
    kind: &str,
    body: &[u8],
) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    // An engine that refuses may do so before it has read everything.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, answer.split_off(end + 4)))
}

/// A JSON answer; `Null` where there is none.
pub fn json(socket: &Path, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let sent = if body.is_null() { String::new() } else { body.to_string() };
    let (status, answer) = ask(socket, method, path, "application/json", sent.as_bytes());
    (status, serde_json::from_slice(&answer).unwrap_or_default())
}

/// A container as the engine shows it.
pub fn inspect(socket: &Path, name: &str) -> Value {
    let (status, shown) = json(socket, "GET", &format!("/containers/{name}/json"), &Value::Null);
    assert_eq!(status, 200, "{name}: {shown}");
    shown
}

/// Every container with this label, whatever its state; none when the engine is away.
pub fn labelled(socket: &Path, label: &str) -> Vec<Value> {
    let path = format!("/containers/json?all=1&filters=%7B%22label%22%3A%5B%22{label}%22%5D%7D");
    let answer = try_ask(socket, "GET", &path, "", b"").map(|(_, answer)| answer).unwrap_or_default();
    serde_json::from_slice(&answer).unwrap_or_default()
}

/// Removes a container whatever it does, if the engine answers.
pub fn remove(socket: &Path, name: &str) {
    let _ = try_ask(socket, "DELETE", &format!("/containers/{name}?force=1&v=1"), "", b"");
}
