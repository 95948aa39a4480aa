//! An image from the machine's own busybox, without any registry.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
};

use aito_harness::image::{Entry, busybox, import};

/// A pipe in the image that nobody writes into: to wait at, without a process of its own.
pub const NOTHING: &str = "/nothing";

/// Imports the image into an engine, with these changes (Dockerfile instructions), and names it.
///
/// # Panics
/// When busybox is not installed, or the engine refuses.
pub fn provide(socket: &Path, changes: &[&str]) -> String {
    let mut files = busybox();
    files.push(Entry::pipe(&NOTHING[1..], 0o666));
    files.extend(["dev", "etc", "proc", "run", "sys"].map(|name| Entry::directory(name, 0o755)));
    files.push(Entry::directory("tmp", 0o1777));
    let mut hash = DefaultHasher::new();
    changes.hash(&mut hash);
    let name = format!("aito-test:docker-{:016x}", hash.finish());
    import(socket, &name, &files, changes);
    name
}
