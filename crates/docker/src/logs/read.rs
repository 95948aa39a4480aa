//! Reads a log from the engine, and goes on while it is followed.
//!
//! A followed log outlives what the engine calls its end: it goes on when the container has ended, when the engine was
//! away, and when the engine's own follower has lost the file in a rotation. Each time it is asked for again from the
//! last line that was given, by its time in nanoseconds.
//!
//! Invariants: nothing runs but when somebody asks for the next line; no line is given twice because it was asked for
//! again; a stream that is dropped leaves nothing behind.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use aito_domain::{
    ports::runtime::{LogLine, LogQuery, RuntimeError},
    time::Timestamp,
};
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::decode::{CHANNELS, Decoder, LONGEST_LINE, Stamped, index};
use crate::{
    engine::{Chunks, Engine, Fault, LogPart},
    translate::{Phase, looking, phase},
};

/// So many pieces at most make the longest line: the engine divides after 16 KiB.
const PIECES: u64 = (LONGEST_LINE as u64).div_ceil(16 << 10);

/// More pieces than a log can have that is kept, which is 20 MiB at most.
const MOST_PIECES: u64 = 1 << 20;

/// Pause between two looks at a container that writes nothing any more.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// How long a begun line waits for its end before it is shown as it is.
const BEGUN: Duration = Duration::from_millis(300);

/// How long a followed log may be silent before the engine is asked whether it really is.
const SILENCE: Duration = Duration::from_secs(2);

/// Opens a container's log.
///
/// # Errors
/// `NotFound` when there is no such container, `Unavailable` when the engine does not answer.
pub(crate) async fn open(
    engine: Arc<Engine>,
    id: String,
    query: &LogQuery,
) -> Result<BoxStream<'static, LogLine>, RuntimeError> {
    let since = query.since;
    let mut reader = Reader::new(engine, id);
    if let Some(tail) = query.tail {
        reader.read_last(tail).await?;
        if !query.follow {
            reader.phase = Reading::Done;
        }
    } else {
        reader.ask(&LogPart { tail: None, since, follow: query.follow }).await?;
    }
    let follow = query.follow;
    let lines = stream::unfold(reader, move |mut reader| async move {
        let line = if follow { reader.followed().await } else { reader.kept().await };
        line.map(|line| (line, reader))
    });
    Ok(lines.filter(move |line| std::future::ready(wanted(line, since))).boxed())
}

fn wanted(line: &LogLine, since: Option<Timestamp>) -> bool {
    since.is_none_or(|since| line.at >= since)
}

enum Reading {
    /// The engine sends.
    Open(Chunks),
    /// It is to be asked for more, from the last line on.
    Again,
    /// The container has ended and everything of it was read: it may be removed, or started by hand.
    Waiting,
    /// There is no more.
    Done,
}

struct Reader {
    engine: Arc<Engine>,
    id: String,
    phase: Reading,
    decoder: Decoder,
    /// Decoded and not looked at.
    raw: VecDeque<Stamped>,
    /// The last line that was given.
    last: Option<DateTime<Utc>>,
    /// Lines up to this were given before the engine was asked the last time.
    given: Option<DateTime<Utc>>,
    /// Whether everything was asked for since the container was seen at its end.
    caught_up: bool,
    /// Whether it was said that the log cannot be read on.
    warned: bool,
}

impl Reader {
    fn new(engine: Arc<Engine>, id: String) -> Self {
        Self {
            engine,
            id,
            phase: Reading::Again,
            decoder: Decoder::default(),
            raw: VecDeque::new(),
            last: None,
            given: None,
            caught_up: false,
            warned: false,
        }
    }

    /// Asks for a part and forgets what was begun before.
    async fn ask(&mut self, part: &LogPart) -> Result<(), RuntimeError> {
        let chunks = self.engine.log(&self.id, part).await.map_err(looking)?.ok_or(RuntimeError::NotFound)?;
        self.decoder = Decoder::default();
        self.phase = Reading::Open(chunks);
        Ok(())
    }

    /// Reads the last lines whole; what comes after them is to be asked for.
    async fn read_last(&mut self, count: u32) -> Result<(), RuntimeError> {
        // One line more of each channel: the beginning of the first one may be cut.
        let asked = ((u64::from(count) + CHANNELS as u64) * PIECES).min(MOST_PIECES);
        self.ask(&LogPart { tail: Some(asked), since: None, follow: false }).await?;
        let (mut kept, mut is_first) = (VecDeque::new(), [true; CHANNELS]);
        while let Some(line) = self.next_kept().await {
            self.last = Some(line.at);
            let is_first = std::mem::take(&mut is_first[index(line.line.channel)]);
            let may_be_cut = is_first && self.decoder.may_precede(line.at);
            if kept.len() == count as usize + CHANNELS {
                kept.pop_front();
            }
            kept.push_back((line, may_be_cut));
        }
        if self.decoder.pieces() >= asked {
            kept.retain(|(_, may_be_cut)| !may_be_cut);
        }
        let spare = kept.len().saturating_sub(count as usize);
        self.raw = kept.into_iter().skip(spare).map(|(line, _)| line).collect();
        self.given = None;
        self.phase = Reading::Again;
        Ok(())
    }

    /// The next line of what is kept.
    async fn kept(&mut self) -> Option<LogLine> {
        self.next_kept().await.map(|stamped| stamped.line)
    }

    async fn next_kept(&mut self) -> Option<Stamped> {
        loop {
            if let Some(line) = self.raw.pop_front() {
                return Some(line);
            }
            let Reading::Open(chunks) = &mut self.phase else { return None };
            let chunk = timeout(self.engine.limits().call, chunks.next()).await;
            match chunk.unwrap_or_else(|_too_long| Some(Err(Fault::too_late()))) {
                Some(chunk) => self.take(chunk),
                None => self.end(),
            }
        }
    }

    /// The next line, waited for; `None` when the container is removed.
    async fn followed(&mut self) -> Option<LogLine> {
        loop {
            while let Some(line) = self.raw.pop_front() {
                if self.given.is_none_or(|given| line.at > given) {
                    self.last = self.last.max(Some(line.at));
                    return Some(line.line);
                }
            }
            match &mut self.phase {
                Reading::Done => return None,
                Reading::Open(chunks) => {
                    let patience = if self.decoder.is_waiting() { BEGUN } else { SILENCE };
                    match timeout(patience, chunks.next()).await {
                        Ok(Some(chunk)) => self.take(chunk),
                        Ok(None) => self.end(),
                        Err(_silent) if self.decoder.is_waiting() => self.decoder.flush(&mut self.raw),
                        Err(_silent) => self.look_at_silence().await,
                    }
                }
                Reading::Again => self.ask_again().await,
                Reading::Waiting => self.wait().await,
            }
        }
    }

    fn take(&mut self, chunk: Result<bytes::Bytes, Fault>) {
        let failure = match chunk {
            Ok(bytes) => match self.decoder.push(&bytes, &mut self.raw) {
                Ok(()) => return,
                Err(broken) => broken.to_string(),
            },
            Err(fault) => format!("{fault:?}"),
        };
        // A log that is broken for good is tried again and again while it is followed.
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(container = %self.id, why = %failure, "a log cannot be read on");
        }
        self.end();
    }

    fn end(&mut self) {
        self.decoder.flush(&mut self.raw);
        self.phase = Reading::Waiting;
    }

    async fn ask_again(&mut self) {
        self.given = self.last;
        let part = LogPart { tail: None, since: self.last, follow: true };
        match self.ask(&part).await {
            Ok(()) => {}
            Err(RuntimeError::NotFound) => self.phase = Reading::Done,
            Err(_away) => self.phase = Reading::Waiting,
        }
    }

    /// Waits until there is more to ask for, or the container is gone.
    async fn wait(&mut self) {
        let mut pause = interval(LOOK_AGAIN);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pause.tick().await; // the first one comes at once
        loop {
            pause.tick().await;
            let ended = match self.engine.inspect(&self.id).await {
                Ok(None) => {
                    self.phase = Reading::Done;
                    return;
                }
                Ok(Some(found)) => phase(&found.status) != Phase::Running,
                // Away: it may come back, and with it the container.
                Err(_) => continue,
            };
            if !ended || !self.caught_up {
                // What was written right before the end may not have been sent.
                self.caught_up = ended;
                self.phase = Reading::Again;
                return;
            }
        }
    }

    /// Asks whether the log really ends with the last line that was sent.
    async fn look_at_silence(&mut self) {
        let part = LogPart { tail: Some(1), since: None, follow: false };
        let newest = match self.engine.log(&self.id, &part).await {
            Ok(Some(chunks)) => self.newest(chunks).await,
            Ok(None) => {
                self.phase = Reading::Done;
                return;
            }
            Err(_away) => return,
        };
        if newest > self.last {
            self.phase = Reading::Again;
        }
    }

    async fn newest(&self, mut chunks: Chunks) -> Option<DateTime<Utc>> {
        let (mut decoder, mut lines) = (Decoder::default(), VecDeque::new());
        let whole = async {
            while let Some(Ok(bytes)) = chunks.next().await {
                if decoder.push(&bytes, &mut lines).is_err() {
                    break;
                }
            }
        };
        timeout(self.engine.limits().call, whole).await.ok()?;
        decoder.flush(&mut lines);
        lines.back().map(|line| line.at)
    }
}
