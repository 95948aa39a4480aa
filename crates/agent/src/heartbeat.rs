//! The heartbeat: tells the server that the agent lives, and hears what is wanted of it.
//!
//! Invariants:
//! - It runs apart from the loop and knows nothing of thinking; what it tells it takes from [`Vitals`].
//! - The wait after a failure grows from 250 ms to the heartbeat interval, never beyond, whatever a server asks.
//! - It ends by itself only when the server wants the agent to stop or refuses its credential.

use crate::{log::Log, server::Server, time};
use aito_api::{Activity, DesiredState, HeartbeatRequest, Timestamp};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// What the loop lets the heartbeat tell.
#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    pub(crate) loop_count: u64,
    /// `None` until the agent says something; empty when it has no focus any more.
    pub(crate) focus: Option<String>,
    pub(crate) last_loop_at: Option<Timestamp>,
    pub(crate) activity: Activity,
}

impl Default for Vitals {
    fn default() -> Self {
        Self { loop_count: 0, focus: None, last_loop_at: None, activity: Activity::Idle }
    }
}

impl Vitals {
    pub(crate) fn request(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            loop_count: Some(i64::try_from(self.loop_count).unwrap_or(i64::MAX)),
            current_focus: self.focus.clone(),
            last_loop_at: self.last_loop_at.map(|at| at.to_string()),
            status: Some(self.activity.as_str().to_owned()),
        }
    }
}

/// What the server said last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    pub(crate) loop_interval: Duration,
    /// When the last answer came; `None` before the first.
    pub(crate) answered_at: Option<Instant>,
}

/// Why the heartbeat ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The credential was refused; the text is the server's.
    Refused(String),
    /// The server wants the agent to stop.
    StopWanted,
}

/// How long to wait after a first failure.
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(250);

/// Beats until there is a reason to end.
pub(crate) async fn run(
    server: Arc<Server>,
    interval: Duration,
    vitals: watch::Receiver<Vitals>,
    control: watch::Sender<Control>,
    log: Log,
) -> Ended {
    let mut failures = 0_u32;
    loop {
        let begun = time::now();
        let request = vitals.borrow().request();
        let next = match server.heartbeat(&request).await {
            Ok(answer) => {
                if answer.desired == DesiredState::Stopped {
                    return Ended::StopWanted;
                }
                if failures > 0 {
                    log.line(format!("heartbeat is answered again, after {failures} failures"));
                    failures = 0;
                }
                take(&control, Duration::from_secs(answer.loop_interval.max(1)), &log);
                begun + interval
            }
            Err(error) if error.is_refused_credential() => return Ended::Refused(error.to_string()),
            Err(error) => {
                if failures == 0 {
                    log.line(format!("heartbeat failed, trying again: {error}"));
                }
                let wait = retry_after(failures, error.retry_after(), interval);
                failures = failures.saturating_add(1);
                time::now() + wait
            }
        };
        time::sleep_until(next).await;
    }
}

fn take(control: &watch::Sender<Control>, loop_interval: Duration, log: &Log) {
    control.send_modify(|control| {
        if control.answered_at.is_none() {
            log.line("first heartbeat accepted");
        }
        if control.loop_interval != loop_interval {
            log.line(format!("loop interval is now {} s", loop_interval.as_secs()));
        }
        *control = Control { loop_interval, answered_at: Some(time::now()) };
    });
}

/// How long to wait after so many failures before this one.
fn retry_after(failures: u32, asked: Option<Duration>, interval: Duration) -> Duration {
    asked.unwrap_or_default().max(grown(failures)).min(interval)
}

/// The wait after so many failures before this one, when nothing bounds it.
pub(crate) fn grown(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_up_to_the_interval() {
        let interval = Duration::from_secs(10);
        let waits: Vec<_> = (0..40).map(|failures| retry_after(failures, None, interval)).collect();
        assert_eq!(waits[..3], [250, 500, 1000].map(Duration::from_millis));
        assert!(waits.is_sorted() && waits[39] == interval, "{waits:?}");
        assert_eq!(retry_after(0, Some(Duration::from_secs(3)), interval), Duration::from_secs(3));
        assert_eq!(retry_after(0, Some(Duration::from_secs(3600)), interval), interval);
        assert_eq!(retry_after(5, None, Duration::from_millis(100)), Duration::from_millis(100));
    }
}
