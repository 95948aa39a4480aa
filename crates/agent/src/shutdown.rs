//! The wish to end, from the system's signals or from a test.
//!
//! Invariant: the first signal asks for a graceful end, every further one forces it.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the agent listens to.
#[derive(Clone, Debug)]
pub struct Shutdown {
    asked: CancellationToken,
    forced: CancellationToken,
}

/// What asks an agent to end.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(Shutdown);

impl Shutdown {
    /// A pair of listener and handle, without signals.
    pub fn manual() -> (Self, ShutdownHandle) {
        let shutdown = Self { asked: CancellationToken::new(), forced: CancellationToken::new() };
        (shutdown.clone(), ShutdownHandle(shutdown))
    }

    /// Listens to SIGTERM and SIGINT, whose default effect ends with this call. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn from_signals() -> std::io::Result<Self> {
        let (shutdown, handle) = Self::manual();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = term.recv() => {}
                    Some(()) = int.recv() => {}
                    else => return,
                }
                handle.signal();
            }
        });
        Ok(shutdown)
    }

    /// Ends when a graceful end is wanted.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Ends when the end must not wait.
    pub async fn forced(&self) {
        self.forced.cancelled().await;
    }
}

impl ShutdownHandle {
    /// What one signal does: asks the first time, forces afterwards.
    pub fn signal(&self) {
        if self.0.asked.is_cancelled() {
            self.0.forced.cancel();
        }
        self.0.asked.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_forces() {
        let (shutdown, handle) = Shutdown::manual();
        handle.signal();
        assert!(shutdown.asked.is_cancelled() && !shutdown.forced.is_cancelled());
        handle.signal();
        assert!(shutdown.forced.is_cancelled());
    }
}
