//! Writing: a row of history and its event, stored for good before they are answered.
//!
//! Invariant: the reference's file lies in the same sandbox as the server's database, on the same disk.

use std::{fs::File, io::Write as _, path::PathBuf, time::Duration};

use async_trait::async_trait;
use rustix::fs::fdatasync;

use super::{
    scenario::{
        About, Context, Figure, HISTORY_BODY, MOST_REQUESTS, Measured, Scenario, Subject, Target,
        history_request, load_for, percentiles,
    },
    stats::Latencies,
};
use crate::wait;

/// Connections that write at the same time.
const CONNECTIONS: usize = 32;
/// How long the latency of a single connection is looked at.
const ALONE: Duration = Duration::from_secs(1);

/// Rows of history per second.
pub(crate) const DURABLE_WRITE: About = About {
    name: "durable_write",
    what: "POST /agents/ceo/history over 32 connections, each answered when its row and its event are on disk",
    reference: "one loop that appends the same number of bytes and calls fdatasync each time, in the sandbox's \
                directory; the server may sync once for a group of writers, so more than 1 is possible",
    unit: "writes/s",
    target: Some(Target::AtLeast(1.0)),
    on_servers: false,
    only_large: false,
    set_up: |context| Box::pin(set_up(context)),
};

async fn set_up(context: &Context) -> Result<Box<dyn Scenario>, String> {
    let subject = Subject::start(context, "").await?;
    subject.started_once("ceo").await?;
    let file = subject.sandbox.root().join("appended");
    Ok(Box::new(Writes { subject, file }))
}

struct Writes {
    subject: Subject,
    file: PathBuf,
}

#[async_trait(?Send)]
impl Scenario for Writes {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        load_for(&self.subject.address, &history_request(), CONNECTIONS, time).await.map(Measured::rate)
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        let file = self.file.clone();
        let appended = tokio::task::spawn_blocking(move || append(&file, HISTORY_BODY.as_bytes(), time));
        appended.await.map_err(|why| why.to_string())?
    }

    async fn facts(&mut self) -> Result<Vec<Figure>, String> {
        let mut alone = load_for(&self.subject.address, &history_request(), 1, ALONE).await?;
        let rate = Figure::new("one connection alone", alone.rate(), "writes/s");
        let mut facts = vec![rate];
        facts.extend(
            percentiles(&mut alone.latencies)
                .into_iter()
                .map(|figure| Figure { name: format!("its {}", figure.name), ..figure }),
        );
        Ok(facts)
    }
}

/// Appends and syncs for so long.
fn append(path: &PathBuf, bytes: &[u8], time: Duration) -> Result<Measured, String> {
    let failed = |why: std::io::Error| format!("cannot append to {}: {why}", path.display());
    let mut file = File::options().create(true).append(true).open(path).map_err(failed)?;
    let since = wait::stopwatch();
    let mut latencies = Latencies::default();
    let mut now = since();
    while now < time && (latencies.len() as u64) < MOST_REQUESTS {
        file.write_all(bytes).map_err(failed)?;
        fdatasync(&file).map_err(|why| failed(why.into()))?;
        let synced = since();
        latencies.push(synced - now);
        now = synced;
    }
    let value = latencies.len() as f64 / now.as_secs_f64();
    Ok(Measured { value, figures: percentiles(&mut latencies) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn the_reference_counts_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let measured = append(&path, b"12345", Duration::from_millis(30)).unwrap();
        let written = std::fs::metadata(&path).unwrap().len();
        assert!(written > 0 && written.is_multiple_of(5), "{written}");
        assert!(measured.value > 0.0 && measured.figures.len() == 2);
        assert!(append(&dir.path().join("no/f"), b"1", Duration::from_millis(1)).is_err());
    }
}
