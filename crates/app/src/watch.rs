//! `aito watch`: prints what happens as it happens, one frame of the WebSocket a line.
//!
//! Invariant: once an event was printed, every later one is, exactly once, also across restarts of the server.

use std::io::{self, Write as _};

use aito_client::{Client, Item, Options, ResumingEvents};
use clap::Args;

/// What to print, and from where.
#[derive(Args, Debug, Clone)]
pub(crate) struct WatchArgs {
    /// The server: http://host:port, or the path of a Unix socket
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Only these kinds of frame, separated by commas: agent_status, decision_vote, worker_log, event
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    types: Vec<String>,
    /// Begin after this position, as an event carries it
    #[arg(long, value_name = "POSITION")]
    since: Option<String>,
}

pub(crate) fn run(args: &WatchArgs) -> Result<(), String> {
    let endpoint = args.url.parse().map_err(|why| format!("--url: {why}"))?;
    let client = Client::new(endpoint, Options::default()).map_err(|why| why.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|why| why.to_string())?.block_on(follow(client, args))
}

async fn follow(client: Client, args: &WatchArgs) -> Result<(), String> {
    // A server that is not there is said at once; one that goes away later is waited for.
    client.health().await.map_err(|why| format!("{} does not answer: {why}", args.url))?;
    let types: Vec<&str> = args.types.iter().map(String::as_str).collect();
    let mut events = ResumingEvents::new(client, &types, args.since.clone());
    loop {
        let line = match events.next().await.map_err(|why| why.to_string())? {
            Item::Frame(frame) => serde_json::to_string(&frame),
            Item::Reset(reset) => {
                eprintln!("aito: events were missed: {}", reset.reason);
                continue;
            }
        };
        let line = line.map_err(|why| why.to_string())?;
        // Whoever reads may go away; that ends the watch and is no failure.
        if writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush()).is_err() {
            return Ok(());
        }
    }
}
