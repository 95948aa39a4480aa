//! Starting an agent: what the server adds to the start of a process.
//!
//! Invariant: only the start is timed, never the stop that follows it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use aito_client::{Client, EventSocket};
use async_trait::async_trait;

use super::{
    scenario::{About, Context, Figure, Measured, Scenario, Subject, Target},
    stats::Latencies,
};
use crate::wait;

/// The most starts of one measurement.
const MOST: usize = 50;
/// The fewest, however long they take.
const FEWEST: usize = 3;

/// How long a start takes.
pub(crate) const AGENT_START: About = About {
    name: "agent_start",
    what: "POST /agents/ceo/start of a stopped agent until its answer: wish and incarnation stored, supervisor and \
           agent running, that stored too",
    reference: "the same agent program spawned directly, from before the spawn to its first line of output, then \
                killed; it stores nothing and has no supervisor",
    unit: "ms",
    target: Some(Target::AtMost(5.0)),
    on_servers: false,
    only_large: false,
    set_up: |context| Box::pin(set_up(context)),
};

async fn set_up(context: &Context) -> Result<Box<dyn Scenario>, String> {
    let subject = Subject::start(context, "").await?;
    let client = subject.server.client();
    let nobody = subject.sandbox.root().join("nobody");
    fs::create_dir(&nobody).map_err(|why| why.to_string())?;
    Ok(Box::new(Starts { subject, client, nobody }))
}

struct Starts {
    subject: Subject,
    client: Client,
    /// A directory for sockets in which there is none.
    nobody: PathBuf,
}

#[async_trait(?Send)]
impl Scenario for Starts {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        let failed = |why: aito_client::Error| why.to_string();
        let mut events = EventSocket::connect(&self.client, &["event"], None).await.map_err(failed)?;
        let (mut answered, mut heard) = (Latencies::default(), Latencies::default());
        let whole = wait::stopwatch();
        while answered.len() < FEWEST || (answered.len() < MOST && whole() < time) {
            let since = wait::stopwatch();
            self.client.start("ceo").await.map_err(failed)?;
            answered.push(since());
            told(&mut events, "agent_started").await?;
            heard.push(since());
            self.client.stop("ceo").await.map_err(failed)?;
            told(&mut events, "agent_stopped").await?;
        }
        Ok(measured(answered, Some(heard)))
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        let mut latencies = Latencies::default();
        let whole = wait::stopwatch();
        while latencies.len() < FEWEST || (latencies.len() < MOST && whole() < time) {
            let mut command = self.subject.sandbox.command();
            command
                .arg("agent")
                .env("AGENT_ID", "01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c")
                .env("AGENT_TYPE", "ceo");
            command.env("AGENT_INCARNATION", "1").env("ORCHESTRATOR_SOCKET_DIR", &self.nobody);
            let spawned = tokio::task::spawn_blocking(move || to_first_line(command));
            latencies.push(spawned.await.map_err(|why| why.to_string())??);
        }
        Ok(measured(latencies, None))
    }
}

fn measured(mut latencies: Latencies, heard: Option<Latencies>) -> Measured {
    let mut figures = vec![
        Figure::new("p99", latencies.percentile_ms(99.0), "ms"),
        Figure::new("starts in one measurement", latencies.len() as f64, ""),
    ];
    figures.extend(heard.map(|mut heard| {
        Figure::new("until its first heartbeat is told, p50", heard.percentile_ms(50.0), "ms")
    }));
    Measured { value: latencies.percentile_ms(50.0), figures }
}

/// Waits for an event of this type.
pub(crate) async fn told(events: &mut EventSocket, event_type: &str) -> Result<(), String> {
    loop {
        let next = tokio::time::timeout(wait::SOON, events.next()).await;
        let frame = next.map_err(|_| format!("{event_type} was not told"))?.map_err(|why| why.to_string())?;
        let frame = frame.ok_or("the stream of events ended")?;
        match frame.payload.get("eventType").and_then(serde_json::Value::as_str) {
            Some(kind) if kind == event_type => return Ok(()),
            Some("agent_error") => return Err(format!("the agent failed: {}", frame.payload)),
            _ => {}
        }
    }
}

/// From before the spawn to the first line.
fn to_first_line(mut command: Command) -> Result<Duration, String> {
    let since = wait::stopwatch();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|why| format!("cannot spawn: {why}"))?;
    let mut line = String::new();
    let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
    let took = since();
    let _ = child.kill();
    let _ = child.wait();
    match read {
        Some(Ok(length)) if length > 0 => Ok(took),
        _ => Err("the agent ended without a line".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn a_program_is_timed_to_its_first_line_and_then_killed() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo ready; exec sleep 1000"]);
        assert!(to_first_line(command).unwrap() < Duration::from_secs(100));
        let mut silent = Command::new("/bin/sh");
        silent.args(["-c", "exit 3"]);
        assert!(to_first_line(silent).unwrap_err().contains("without a line"));
        assert!(to_first_line(Command::new("/nowhere/x")).is_err());
    }
}
