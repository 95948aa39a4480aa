//! Makes images without a registry and without a command line tool, by importing an archive over an engine's socket.
//!
//! Invariants: a file of any size is streamed, never held in memory; equal files make an equal archive. What fails
//! panics, as everywhere in test code.

mod tar;

use std::{
    io::{BufWriter, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

pub use tar::Entry;

use crate::engine::{call, escaped};

/// The names of the tests' image: what agents run, and what other containers run.
pub const TEST_IMAGES: [&str; 2] = ["aito-agent:latest", "aito-test:latest"];

/// How long an engine may be silent.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes an image of one layer with these files and gives its id. `changes` are instructions as in a Dockerfile, such
/// as `ENTRYPOINT ["/aito"]`.
pub fn import(socket: &Path, tag: &str, files: &[Entry], changes: &[&str]) -> String {
    let (name, version) = split(tag);
    let mut path = format!("/images/create?fromSrc=-&repo={}&tag={}", escaped(name), escaped(version));
    for change in changes {
        path += &format!("&changes={}", escaped(change));
    }
    let said = send(socket, &path, files);
    // The status is good before the archive has been read: what became of it stands in the last line.
    let last: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_default();
    match last["status"].as_str() {
        Some(id) if id.starts_with("sha256:") => id.to_owned(),
        _ => panic!("{tag} was not imported: {said}"),
    }
}

/// Makes the image that agents run in production: the program alone.
pub fn agent_image(socket: &Path, aito: &Path, tag: &str) -> String {
    import(socket, tag, &[Entry::program("aito", aito)], &[r#"ENTRYPOINT ["/aito","agent"]"#])
}

/// Makes the tests' image under both of its names ([`TEST_IMAGES`]) and gives its id: as [`agent_image`], with
/// everything that busybox can do in `/bin`, for containers that a test gives a command of its own. Where all have one,
/// any program does as `aito`.
///
/// # Panics
/// When there is no busybox.
pub fn test_image(socket: &Path, aito: &Path) -> String {
    let mut files = vec![Entry::program("aito", aito), Entry::directory("tmp", 0o1777)];
    files.extend(busybox());
    let id = import(socket, TEST_IMAGES[0], &files, &[r#"ENTRYPOINT ["/aito","agent"]"#, "ENV PATH=/bin"]);
    let (name, version) = split(TEST_IMAGES[1]);
    let tagged = call(socket, "POST", &format!("/images/{id}/tag?repo={name}&tag={version}"), None);
    assert_eq!(tagged.status, 201, "{id} was not tagged: {}", tagged.json());
    id
}

/// Busybox and a link for each of its applets, `/bin/sh` among them.
///
/// # Panics
/// When there is none.
pub fn busybox() -> Vec<Entry> {
    let program = PathBuf::from("/bin/busybox");
    let list =
        Command::new(&program).arg("--list").output().unwrap_or_else(|why| panic!("no busybox: {why}"));
    let applets = String::from_utf8(list.stdout).unwrap();
    let mut files = vec![Entry::directory("bin", 0o755), Entry::program("bin/busybox", &program)];
    let names = applets.lines().filter(|applet| *applet != "busybox");
    files.extend(names.map(|applet| Entry::link(&format!("bin/{applet}"), "busybox")));
    files
}

/// Sends an archive and gives the answer's body.
fn send(socket: &Path, path: &str, files: &[Entry]) -> String {
    let stream =
        UnixStream::connect(socket).unwrap_or_else(|why| panic!("no engine at {}: {why}", socket.display()));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    let mut sink = BufWriter::with_capacity(1 << 18, &stream);
    // HTTP/1.0: the answer ends with the connection, without chunks.
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        tar::size(files)
    );
    let sent = sink.write_all(head.as_bytes()).and_then(|()| tar::write(files, &mut sink));
    let sent = sent.and_then(|()| sink.flush());
    // An engine that refuses does so before it has read everything: its answer tells why, not the failed write.
    let mut answer = Vec::new();
    let read = (&stream).read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match (answer.split_once("\r\n\r\n"), sent, read) {
        (Some((head, body)), Ok(()), Ok(_)) if head.split(' ').nth(1) == Some("200") => body.to_owned(),
        (_, sent, read) => panic!("POST {path}: sent: {sent:?}, read: {read:?}, answer: {answer}"),
    }
}

/// Name and version.
fn split(tag: &str) -> (&str, &str) {
    tag.rsplit_once(':').unwrap_or_else(|| panic!("{tag} is not name:version"))
}
