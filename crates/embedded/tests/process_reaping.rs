//! A server has no zombie supervisors. Alone in its file, because it looks at all children of its process.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, sync::Arc, time::Duration};

use aito_contracts::{
    clock::ManualClock,
    runtime::{SOON, key, start},
    wait::until,
};
use aito_domain::{
    id::InstallationId,
    ports::runtime::{ContainerRuntime, RuntimeError, Start, Started},
};
use aito_embedded::process::{Options, ProcessRuntime};
use uuid::Uuid;

fn open(dir: &Path) -> ProcessRuntime {
    ProcessRuntime::open(Options {
        installation: InstallationId(Uuid::from_u128(1)),
        dir: dir.to_owned(),
        program: env!("CARGO_BIN_EXE_aito-shim").into(),
        clock: Arc::new(ManualClock::new()),
    })
    .unwrap()
}

/// A start whose agent ends by itself should this test die.
fn sleeper(incarnation: u64) -> Start {
    let mut start = start(&key("ceo", incarnation));
    start.spec.command = Some(["/bin/sh", "-c", "exec sleep 60"].map(str::to_owned).to_vec());
    start
}

/// Children of this process: how many live, how many are zombies.
fn children() -> (usize, usize) {
    let own = std::process::id().to_string();
    let mut found = (0, 0);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, tail)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = tail.split(' ').take(2).collect();
        if fields[1] == own {
            *(if fields[0] == "Z" { &mut found.1 } else { &mut found.0 }) += 1;
        }
    }
    found
}

#[tokio::test]
async fn ended_supervisors_are_reaped_whatever_they_answered() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(&dir.path().join("agents"));
    let settled = async |living: usize| {
        until("no zombie", SOON, async || (children() == (living, 0)).then_some(())).await;
    };
    assert_eq!(runtime.ensure_started(&sleeper(1)).await.unwrap(), Started::Now);
    settled(1).await;
    // One that is refused because another holds the lock.
    assert!(matches!(runtime.ensure_started(&sleeper(2)).await, Err(RuntimeError::Conflict(_))));
    settled(1).await;
    // One that is found and not started by the handle that lists it.
    open(&dir.path().join("agents")).list().await.unwrap();
    runtime.remove(&key("ceo", 1)).await.unwrap();
    settled(0).await;
    // One whose caller has lost interest: started all the same, and reaped all the same.
    let start = sleeper(3);
    let _ = tokio::time::timeout(Duration::ZERO, runtime.ensure_started(&start)).await;
    runtime.ensure_started(&start).await.unwrap();
    settled(1).await;
    runtime.remove(&start.key).await.unwrap();
    settled(0).await;
}
