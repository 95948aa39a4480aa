//! An image from the machine's own busybox, without any registry.
//!
//! Invariants: the tag is unique to the content, so that whoever has the same content shares the image; nothing is
//! built, only imported.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use super::raw;

/// A pipe in the image that nobody writes into: to wait at, without a process of its own.
pub const NOTHING: &str = "/nothing";

/// Where Debian's package `busybox-static` puts it.
const BUSYBOX: &str = "/bin/busybox";

/// Imports the image into an engine unless it has it, with these changes (Dockerfile instructions), and names it.
///
/// # Panics
/// When busybox is not installed, or the engine refuses.
pub fn provide(socket: &Path, changes: &[&str]) -> String {
    let archive = archive();
    let mut hash = DefaultHasher::new();
    (&archive, changes).hash(&mut hash);
    let tag = format!("{:016x}", hash.finish());
    let name = format!("aito-test:{tag}");
    if raw::ask(socket, "GET", &format!("/images/{name}/json"), "", b"").0 == 200 {
        return name;
    }
    let changes: String = changes
        .iter()
        .map(|change| format!("&changes={}", change.replace(' ', "%20").replace('"', "%22")))
        .collect();
    let path = format!("/images/create?fromSrc=-&repo=aito-test&tag={tag}{changes}");
    let (status, said) = raw::ask(socket, "POST", &path, "application/x-tar", &archive);
    let said = String::from_utf8_lossy(&said);
    assert!(status == 200 && !said.contains("error"), "{status}: {said}");
    name
}

fn archive() -> Vec<u8> {
    let busybox = fs::read(BUSYBOX).unwrap_or_else(|why| panic!("{BUSYBOX}: {why}; install busybox-static"));
    let listed = Command::new(BUSYBOX).arg("--list").output().unwrap();
    let mut tar = Vec::new();
    for dir in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        entry(&mut tar, dir, b'5', 0o755, "", &[]);
    }
    entry(&mut tar, &NOTHING[1..], b'6', 0o666, "", &[]);
    entry(
        &mut tar,
        "bin/busybox",
        b'0',
        fs::metadata(BUSYBOX).unwrap().permissions().mode() & 0o777,
        "",
        &busybox,
    );
    for applet in String::from_utf8(listed.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        entry(&mut tar, &format!("bin/{applet}"), b'2', 0o777, "busybox", &[]);
    }
    tar.extend([0; 1024]);
    tar
}

/// One entry of a POSIX archive: ustar, pax(1).
fn entry(tar: &mut Vec<u8>, name: &str, kind: u8, mode: u32, link: &str, content: &[u8]) {
    let mut head = [0_u8; 512];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(157, link);
    put(257, "ustar");
    put(263, "00");
    put(329, "0000000");
    put(337, "0000000");
    head[156] = kind;
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend(head);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}
