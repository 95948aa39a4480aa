//! Follows an agent's log across its incarnations: a reader who watches an agent die sees it come back.
//!
//! Invariants: every line of an incarnation that is followed is given before the next one's; what is waited for
//! is looked up in what was observed last, so that a follower costs the runtime no call; a follower of an agent
//! that does not run waits for it to be started.

use std::{sync::Arc, time::Duration};

use aito_domain::{
    fleet::{ContainerKey, ContainerState},
    ports::runtime::{LogLine, LogQuery},
};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};

use super::FleetService;

/// How often it is looked whether the followed incarnation has ended, or the next one begun.
const LOOK: Duration = Duration::from_millis(250);
/// How long an ended incarnation's last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

struct Follower {
    fleet: Arc<FleetService>,
    key: ContainerKey,
    lines: Option<BoxStream<'static, LogLine>>,
    /// Whether the incarnation is known to have ended, so that its stream will end with what is there.
    ended: bool,
}

/// Goes on with the next incarnation when the one of `key`, whose log `lines` is, has ended.
pub(super) fn follow(
    fleet: Arc<FleetService>,
    key: ContainerKey,
    lines: BoxStream<'static, LogLine>,
) -> BoxStream<'static, LogLine> {
    let follower = Follower { fleet, key, lines: Some(lines), ended: false };
    stream::unfold(follower, |mut follower| async move {
        let line = follower.next().await;
        Some((line, follower))
    })
    .boxed()
}

impl Follower {
    async fn next(&mut self) -> LogLine {
        loop {
            let Some(lines) = self.lines.as_mut() else {
                self.begin_next().await;
                continue;
            };
            let line = if self.ended {
                tokio::time::timeout(LAST_LINES, lines.next()).await.ok().flatten()
            } else {
                tokio::select! {
                    biased;
                    line = lines.next() => line,
                    () = ended(&self.fleet, &self.key) => {
                        self.ended = true;
                        continue;
                    }
                }
            };
            match line {
                Some(line) => return line,
                None => self.lines = None,
            }
        }
    }

    /// Waits until a later incarnation has a container, and takes its whole log.
    async fn begin_next(&mut self) {
        let clock = self.fleet.parts.writer.clock();
        loop {
            clock.sleep(LOOK).await;
            let Some(key) = self.fleet.later(&self.key) else { continue };
            let query = LogQuery { tail: None, since: None, follow: true };
            if let Ok(lines) = self.fleet.parts.runtime.logs(&key, &query).await {
                (self.key, self.lines, self.ended) = (key, Some(lines), false);
                return;
            }
        }
    }
}

async fn ended(fleet: &FleetService, key: &ContainerKey) {
    while !matches!(fleet.state_of(key), None | Some(ContainerState::Exited(_))) {
        fleet.parts.writer.clock().sleep(LOOK).await;
    }
}
