//! A [`Reader`] as a stream.
//!
//! Invariants: files are read on a thread that may block, one block at a time and only when somebody asks; a
//! stream that is dropped leaves nothing behind.

use std::{collections::VecDeque, io, time::Duration};

use aito_domain::ports::runtime::LogLine;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::time::{MissedTickBehavior, interval};

use super::reader::{Batch, Reader};

/// Pause between two looks at a log that is followed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The lines from the reader's place on. An error of the disk ends the stream.
pub(crate) fn lines(reader: Reader, follow: bool) -> BoxStream<'static, LogLine> {
    stream::unfold(Some((reader, VecDeque::new())), move |state| async move {
        let (mut reader, mut ready) = state?;
        loop {
            if let Some(line) = ready.pop_front() {
                return Some((line, Some((reader, ready))));
            }
            let (back, batch) = look(reader, follow).await?;
            reader = back;
            match batch {
                Ok(Batch::Lines(lines)) => ready.extend(lines),
                Ok(Batch::Nothing) if follow => {}
                Ok(Batch::Nothing | Batch::Gone) => return None,
                Err(error) => {
                    tracing::warn!(%error, "a log cannot be read on");
                    return None;
                }
            }
        }
    })
    .boxed()
}

/// The next batch; when following it is waited for.
async fn look(mut reader: Reader, follow: bool) -> Option<(Reader, io::Result<Batch>)> {
    let mut pause = interval(LOOK_AGAIN);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pause.tick().await; // the first one comes at once
        let (back, batch) = tokio::task::spawn_blocking(move || {
            let batch = reader.next();
            (reader, batch)
        })
        .await
        .ok()?;
        if !(follow && matches!(batch, Ok(Batch::Nothing))) {
            return Some((back, batch));
        }
        reader = back;
    }
}
