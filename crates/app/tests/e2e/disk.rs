//! A full disk: changes are refused with 503 and nothing half done, reads go on, and it recovers alone.

use std::{fs, io::Write as _, process::Command};

use aito_api::{AgentStatus, NewHistory};
use aito_client::Error;
use aito_harness::{Sandbox, Set, story, wait};

use crate::{SOON, get, sandbox, until_status};

/// `serve` on a small file system of its own, mounted at the data directory in a mount namespace that ends
/// with the server.
fn serve_on_tmpfs(sandbox: &Sandbox) -> Command {
    fs::create_dir_all(sandbox.data_dir()).unwrap();
    let serve = sandbox.serve();
    let mut command = Command::new("unshare");
    command.env_clear().current_dir(sandbox.root());
    command.envs(serve.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.args(["-rm", "sh", "-c", "mount -t tmpfs -o size=4m,mode=700 tmpfs \"$0\" && exec \"$@\""]);
    command.arg(sandbox.data_dir()).arg(serve.get_program()).args(serve.get_args());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn needs_tmpfs_a_full_disk_refuses_writes_keeps_reads_and_recovers() {
    let sandbox = sandbox(Set::Embedded);
    let server = sandbox.start_as(serve_on_tmpfs(&sandbox)).await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    until_status(&client, "ceo", AgentStatus::Active).await;
    let row = |n: u32| NewHistory::new("task", format!("{n} {}", "x".repeat(4000)));
    client.record_history("ceo", &row(0)).await.unwrap();

    // Seen from outside, the mount is below the server's root.
    let filler = format!("/proc/{}/root{}/filler", server.pid(), sandbox.data_dir().display());
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let before = client.history("ceo", &aito_client::Page::default()).await.unwrap().history.len();
    let mut accepted = 0;
    let refused = wait::until("a refused write", SOON, async || {
        match client.record_history("ceo", &row(1)).await {
            // Room that was taken before can still be used up.
            Ok(_) => {
                accepted += 1;
                None
            }
            Err(error) => Some(error),
        }
    })
    .await;
    let Error::Unavailable { status, retry_after, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(status, Some(503));
    assert!(retry_after.is_some());
    for path in ["/agents", "/events", "/agents/ceo/history", "/health", "/metrics", "/agents/ceo/logs"] {
        assert_eq!(get(&client, path).await.status, 200, "{path} on a full disk");
    }
    let during = client.history("ceo", &aito_client::Page::default()).await.unwrap().history.len();
    assert_eq!(during, before + accepted, "a refused write left something, or an accepted one nothing");

    // An open file keeps its room.
    drop(file);
    fs::remove_file(&filler).unwrap();
    wait::until("writes to be taken again", SOON, async || client.record_history("ceo", &row(2)).await.ok())
        .await;
    until_status(&client, "ceo", AgentStatus::Active).await;
    story::check(&story::whole_log(&client).await);
    client.stop("ceo").await.unwrap();
}
