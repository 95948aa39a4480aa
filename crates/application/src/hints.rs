//! Waiting for a hint to look: shared by the loops.
//!
//! Invariant: hints only make a loop look sooner; a stream of them that ends is dropped and asked for again at
//! the next look, not at once for ever.

use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};

/// Waits for the next hint, and takes with it all that are ready: one look answers them all. Without a stream,
/// or when it ends, this waits for ever and leaves `None`.
pub(crate) async fn next<T>(hints: &mut Option<BoxStream<'static, T>>) {
    if let Some(stream) = hints.as_mut()
        && stream.next().await.is_some()
    {
        // A stream that has ended is noticed the next time.
        while let Some(Some(_)) = stream.next().now_or_never() {}
        return;
    }
    *hints = None;
    std::future::pending().await
}
