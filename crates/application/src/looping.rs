//! Loops that look now and then, and say once that they cannot.

use std::time::Duration;

use aito_domain::ports::clock::Clock;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::error::Error;

/// Makes a pass, and another one each time that `every` is over, until `stop`; a pass that has begun ends. Of failures in a
/// row the first is said, as `what`.
pub(crate) async fn pass_every<Pass>(
    every: Duration,
    clock: &dyn Clock,
    stop: &CancellationToken,
    what: &str,
    mut pass: impl FnMut() -> Pass,
) where
    Pass: Future<Output = Result<(), Error>>,
{
    let mut failing = false;
    loop {
        match pass().await {
            Ok(()) => failing = false,
            Err(why) => {
                if !failing {
                    warn!(%why, "{what}");
                }
                failing = true;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = clock.sleep(every) => {}
        }
    }
}
