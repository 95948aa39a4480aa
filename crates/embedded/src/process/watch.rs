//! Notices the ends of supervisors, and reaps those that are children of this server.
//!
//! Invariants: a hint is only a reason to look, so any number of them that nobody has read yet are one; a
//! supervisor that this server started never stays a zombie.

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aito_domain::ports::runtime::Hint;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::{runtime::Handle, sync::watch};

use super::{
    ended::ended,
    os::{self, ProcessId},
};

/// Everybody who watches and everything that is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    changes: watch::Sender<u64>,
    watched: Mutex<HashSet<ProcessId>>,
}

impl Watch {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { changes: watch::Sender::new(0), watched: Mutex::default() })
    }

    /// Hints from now on.
    pub(crate) fn hints(&self) -> BoxStream<'static, Hint> {
        let changes = self.changes.subscribe();
        stream::unfold(changes, |mut changes| async move {
            changes.changed().await.ok()?;
            Some((Hint, changes))
        })
        .boxed()
    }

    /// Watches a supervisor, once, until it ends.
    pub(crate) fn follow(self: &Arc<Self>, runtime: &Handle, shim: ProcessId) {
        if !self.set().insert(shim) {
            return;
        }
        match os::open(shim) {
            Ok(Some(descriptor)) => self.spawn(runtime, descriptor, Some(shim), None),
            // It stays in the set, so that this is told once only: what it left may take long to end, and a hint at
            // every look at that would be a reason to look again at once, without end.
            Ok(None) => self.hint(),
            Err(error) => {
                self.set().remove(&shim);
                tracing::warn!(pid = shim.pid, %error, "an agent's end will be noticed by the timer only");
            }
        }
    }

    /// Takes a supervisor that was just started by this process, so that it is reaped.
    pub(crate) fn adopt(self: &Arc<Self>, runtime: &Handle, child: Child) {
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let opened = pid.map(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
        if let Some(Ok(descriptor)) = opened {
            self.spawn(runtime, descriptor, None, Some(child));
        } else {
            tracing::warn!(pid = child.id(), "no descriptor for a supervisor: a thread waits for its end");
            let watch = Arc::clone(self);
            runtime.spawn_blocking(move || watch.ended(None, Some(child)));
        }
    }

    fn spawn(
        self: &Arc<Self>,
        runtime: &Handle,
        descriptor: OwnedFd,
        shim: Option<ProcessId>,
        child: Option<Child>,
    ) {
        let watch = Arc::clone(self);
        runtime.spawn(async move {
            if let Err(error) = ended(descriptor).await {
                tracing::warn!(%error, "an agent's end will be noticed by the timer only");
                if child.is_some() {
                    tokio::task::spawn_blocking(move || watch.ended(shim, child));
                    return;
                }
            }
            watch.ended(shim, child);
        });
    }

    fn ended(&self, shim: Option<ProcessId>, child: Option<Child>) {
        if let Some(Err(error)) = child.map(|mut child| child.wait()) {
            tracing::warn!(%error, "a supervisor was not reaped");
        }
        if let Some(shim) = shim {
            self.set().remove(&shim);
        }
        self.hint();
    }

    fn hint(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn set(&self) -> MutexGuard<'_, HashSet<ProcessId>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_supervisor_that_is_gone_is_told_once_however_often_it_is_asked_for() {
        let own = os::own_id().unwrap();
        let gone = ProcessId { start: own.start + 1, ..own };
        let watch = Watch::new();
        let mut hints = watch.hints();
        watch.follow(&Handle::current(), gone);
        assert_eq!(hints.next().now_or_never(), Some(Some(Hint)));
        watch.follow(&Handle::current(), gone);
        assert_eq!(hints.next().now_or_never(), None);
    }
}
