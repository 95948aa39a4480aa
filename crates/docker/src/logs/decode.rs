//! Frames of the engine's log format to lines.
//!
//! A frame is a byte for the channel (1 standard output, 2 standard error, 3 a failure of the engine), three that are
//! zero, the length as 32 bits big-endian, and that many bytes: a time (RFC 3339, nanoseconds), a blank, and a piece
//! of what was written, without a line break when the line goes on in the channel's next frame. Docker Engine API
//! 1.41, "Attach to a container", and `timestamps=1`.
//!
//! Invariants: what is kept in memory is bounded whatever arrives; bytes that make no sense are an error and never a
//! panic; a line is at most [`LONGEST_LINE`] bytes of text.

use std::collections::VecDeque;

use aito_domain::{
    ports::runtime::{LogChannel, LogLine},
    time::truncate,
};
use chrono::{DateTime, Utc};

/// The longest line, in bytes; a longer one is divided.
pub(crate) const LONGEST_LINE: usize = 64 << 10;

/// What is kept of one frame, in bytes; the engine's own are about 16 KiB.
const LONGEST_FRAME: usize = 1 << 20;

const HEADER: usize = 8;

/// How many channels a container writes on.
pub(crate) const CHANNELS: usize = 2;

/// A line with its time to the nanosecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamped {
    pub(crate) at: DateTime<Utc>,
    pub(crate) line: LogLine,
}

/// Why a log cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// What arrives is not the engine's format.
    #[error("the engine sends something that is no log")]
    NoFrame,
    /// The engine says that it cannot read on.
    #[error("the engine cannot read the log: {0}")]
    Engine(String),
}

/// Collects frames, and lines over frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    header: Vec<u8>,
    /// Of the present frame: its channel, how much of it is still to come, and what has come.
    frame: Option<(Channel, usize, Vec<u8>)>,
    /// What was begun on the two channels.
    begun: [Begun; CHANNELS],
    last: DateTime<Utc>,
    /// How many pieces have come, and the time of the first one.
    pieces: u64,
    first: Option<DateTime<Utc>>,
}

#[derive(Debug, Default)]
struct Begun {
    at: DateTime<Utc>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Of(LogChannel),
    Failure,
}

impl Decoder {
    /// Takes what arrived and appends the lines that are whole.
    ///
    /// # Errors
    /// [`Broken`]; nothing can be read after it.
    pub(crate) fn push(&mut self, mut bytes: &[u8], lines: &mut VecDeque<Stamped>) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let Some((_, left, kept)) = &mut self.frame else {
                let (head, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
                self.header.extend_from_slice(head);
                bytes = rest;
                if self.header.len() == HEADER {
                    self.frame = Some(begin(&self.header)?);
                    self.header.clear();
                    self.take_frame_if_whole(lines)?;
                }
                continue;
            };
            let (part, rest) = bytes.split_at(bytes.len().min(*left));
            let room = LONGEST_FRAME.saturating_sub(kept.len());
            kept.extend_from_slice(&part[..part.len().min(room)]);
            *left -= part.len();
            bytes = rest;
            self.take_frame_if_whole(lines)?;
        }
        Ok(())
    }

    /// Gives what was begun as lines of its own.
    pub(crate) fn flush(&mut self, lines: &mut VecDeque<Stamped>) {
        for channel in [LogChannel::Stdout, LogChannel::Stderr] {
            if self.has_begun(channel) {
                self.emit(channel, lines);
            }
        }
    }

    /// Whether a line was begun and its end has not come yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.has_begun(LogChannel::Stdout) || self.has_begun(LogChannel::Stderr)
    }

    /// How many pieces have come.
    pub(crate) fn pieces(&self) -> u64 {
        self.pieces
    }

    /// Whether what was written at this time may have begun before the first piece: the engine gives all pieces of a
    /// line the time of its beginning.
    pub(crate) fn may_precede(&self, at: DateTime<Utc>) -> bool {
        self.first.is_some_and(|first| at <= first)
    }

    fn take_frame_if_whole(&mut self, lines: &mut VecDeque<Stamped>) -> Result<(), Broken> {
        match self.frame.take() {
            Some((Channel::Of(channel), 0, bytes)) => self.message(channel, &bytes, lines),
            Some((Channel::Failure, 0, bytes)) => {
                return Err(Broken::Engine(String::from_utf8_lossy(&bytes).trim().to_owned()));
            }
            unfinished => self.frame = unfinished,
        }
        Ok(())
    }

    fn message(&mut self, channel: LogChannel, message: &[u8], lines: &mut VecDeque<Stamped>) {
        let (at, mut text) = match stamp(message) {
            Some((at, text)) => (at, text),
            None => (self.last, message),
        };
        self.last = at;
        self.pieces += 1;
        self.first.get_or_insert(at);
        while !text.is_empty() {
            let begun = self.begun(channel);
            if begun.bytes.is_empty() {
                begun.at = at;
            }
            let end = text.iter().position(|byte| *byte == b'\n');
            let room = LONGEST_LINE - begun.bytes.len();
            let take = end.unwrap_or(text.len()).min(room);
            begun.bytes.extend_from_slice(&text[..take]);
            text = &text[take..];
            if text.first() == Some(&b'\n') {
                text = &text[1..];
                self.emit(channel, lines);
            } else if self.begun(channel).bytes.len() == LONGEST_LINE {
                self.divide(channel, lines);
            }
        }
    }

    /// Gives a whole line.
    fn emit(&mut self, channel: LogChannel, lines: &mut VecDeque<Stamped>) {
        let begun = std::mem::take(self.begun(channel));
        let bytes = begun.bytes.strip_suffix(b"\r").unwrap_or(&begun.bytes);
        // A line without a word has a time all the same, unless nothing was ever begun.
        let at = if begun.bytes.is_empty() { self.last } else { begun.at };
        put(at, channel, bytes, lines);
    }

    /// Gives the part of a line that is as long as a line may be; a character is not cut in two.
    fn divide(&mut self, channel: LogChannel, lines: &mut VecDeque<Stamped>) {
        let begun = self.begun(channel);
        let cut = begun.bytes.len() - begun_character(&begun.bytes);
        let rest = begun.bytes.split_off(cut);
        let (at, part) = (begun.at, std::mem::replace(&mut begun.bytes, rest));
        put(at, channel, &part, lines);
    }

    fn begun(&mut self, channel: LogChannel) -> &mut Begun {
        &mut self.begun[index(channel)]
    }

    fn has_begun(&self, channel: LogChannel) -> bool {
        !self.begun[index(channel)].bytes.is_empty()
    }
}

/// The place of what is kept for a channel.
pub(crate) fn index(channel: LogChannel) -> usize {
    match channel {
        LogChannel::Stdout => 0,
        LogChannel::Stderr => 1,
    }
}

fn begin(header: &[u8]) -> Result<(Channel, usize, Vec<u8>), Broken> {
    let channel = match header {
        [0 | 1, 0, 0, 0, ..] => Channel::Of(LogChannel::Stdout),
        [2, 0, 0, 0, ..] => Channel::Of(LogChannel::Stderr),
        [3, 0, 0, 0, ..] => Channel::Failure,
        _ => return Err(Broken::NoFrame),
    };
    let length = header[4..].iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
    Ok((channel, length, Vec::with_capacity(length.min(LONGEST_LINE))))
}

/// Divides the time from what was written.
fn stamp(message: &[u8]) -> Option<(DateTime<Utc>, &[u8])> {
    let blank = message.iter().take(64).position(|byte| *byte == b' ')?;
    let time = std::str::from_utf8(&message[..blank]).ok()?;
    let at = DateTime::parse_from_rfc3339(time).ok()?.with_timezone(&Utc);
    Some((at, &message[blank + 1..]))
}

/// How many bytes at the end are the beginning of a character that goes on.
fn begun_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(4)..];
    let Some(start) = tail.iter().position(|byte| byte & 0xc0 != 0x80) else { return 0 };
    match std::str::from_utf8(&tail[start..]) {
        Err(error) if error.error_len().is_none() => tail.len() - start - error.valid_up_to(),
        _ => 0,
    }
}

/// Bytes as one line, or as several where replacing what is no text made them too long.
fn put(at: DateTime<Utc>, channel: LogChannel, bytes: &[u8], lines: &mut VecDeque<Stamped>) {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = &*text;
    loop {
        let mut cut = rest.len().min(LONGEST_LINE);
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        let (part, more) = rest.split_at(cut);
        lines.push_back(Stamped { at, line: LogLine { at: truncate(at), channel, text: part.to_owned() } });
        rest = more;
        if rest.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-25T19:33:33.473925276Z";

    fn frame(channel: u8, text: &[u8]) -> Vec<u8> {
        let mut out = vec![channel, 0, 0, 0];
        out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        out.extend(text);
        out
    }

    fn piece(channel: u8, text: &[u8]) -> Vec<u8> {
        frame(channel, &[format!("{TIME} ").as_bytes(), text].concat())
    }

    fn lines(bytes: &[u8], step: usize) -> Vec<(LogChannel, String)> {
        let (mut decoder, mut out) = (Decoder::default(), VecDeque::new());
        for part in bytes.chunks(step) {
            decoder.push(part, &mut out).unwrap();
        }
        decoder.flush(&mut out);
        out.into_iter().map(|stamped| (stamped.line.channel, stamped.line.text)).collect()
    }

    #[test]
    fn pieces_become_lines_however_they_are_cut() {
        let bytes = [
            piece(1, b"one\n"),
            piece(2, b"half "),
            piece(1, b"two\r\n"),
            piece(2, b"whole\n"),
            piece(1, b"\n"),
            frame(1, b""),
            piece(1, b"a\nb\nno end"),
        ]
        .concat();
        let wanted = [(1, "one"), (1, "two"), (2, "half whole"), (1, ""), (1, "a"), (1, "b"), (1, "no end")]
            .map(|(channel, text)| {
                (if channel == 1 { LogChannel::Stdout } else { LogChannel::Stderr }, text.to_owned())
            });
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(lines(&bytes, step), wanted, "{step}");
        }
    }

    #[test]
    fn times_are_kept_to_the_nanosecond_beside_the_line_and_to_the_millisecond_in_it() {
        let (mut decoder, mut out) = (Decoder::default(), VecDeque::new());
        decoder.push(&piece(1, b"x\n"), &mut out).unwrap();
        let first = out.pop_front().unwrap();
        assert_eq!(first.at.timestamp_subsec_nanos(), 473_925_276);
        assert_eq!(first.line.at.timestamp_subsec_nanos(), 473_000_000);
        // A piece without a time has that of the one before.
        decoder.push(&frame(2, b"no time\n"), &mut out).unwrap();
        let second = out.pop_front().unwrap();
        assert_eq!((second.at, second.line.text.as_str()), (first.at, "no time"));
    }

    #[test]
    fn endless_lines_are_divided_and_memory_is_bounded() {
        let mut bytes: Vec<u8> = std::iter::repeat_n(piece(1, &[b'x'; 16 << 10]), 9).flatten().collect();
        bytes.extend(piece(1, b"end\n"));
        let got = lines(&bytes, 4096);
        assert_eq!(got.iter().map(|(_, text)| text.len()).collect::<Vec<_>>(), [65536, 65536, 16387]);
        // A frame that is far too long is cut, and the next one is read.
        let huge = [frame(1, &vec![b'y'; 5 << 20]), piece(1, b"\nnext\n")].concat();
        let got = lines(&huge, 1 << 20);
        assert_eq!(got.iter().map(|(_, text)| text.len()).sum::<usize>(), LONGEST_FRAME + 4);
        // One that says that it is, and is not, reserves nothing of that.
        let mut decoder = Decoder::default();
        decoder.push(&[1, 0, 0, 0, 255, 255, 255, 255, b'x'], &mut VecDeque::new()).unwrap();
        assert!(decoder.frame.unwrap().2.capacity() <= LONGEST_LINE);
    }

    #[test]
    fn what_is_no_text_is_replaced_and_stays_within_the_length() {
        assert_eq!(lines(&piece(1, b"\xff\xfe ok\n"), 99)[0].1, "\u{fffd}\u{fffd} ok");
        let got = lines(&piece(1, &[&[0xff; 60_000][..], b"\n"].concat()), 99);
        assert!(got.iter().all(|(_, text)| text.len() <= LONGEST_LINE) && got.len() == 3, "{}", got.len());
        // A character at the place where a line is divided stays whole.
        for shift in 0..4 {
            let text = "a".repeat(shift) + &"\u{20ac}\u{1f980}".repeat(20_000);
            let got = lines(&piece(1, text.as_bytes()), 999);
            assert_eq!(got.into_iter().map(|(_, part)| part).collect::<String>(), text, "{shift}");
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let mut out = VecDeque::new();
        for bad in [&b"plain text of a terminal"[..], &[4, 0, 0, 0, 0, 0, 0, 1, 0], &[1, 1, 0, 0, 0, 0, 0, 1]]
        {
            assert_eq!(Decoder::default().push(bad, &mut out), Err(Broken::NoFrame));
        }
        let failure = Decoder::default().push(&frame(3, b"disk is broken\n"), &mut out);
        assert_eq!(failure, Err(Broken::Engine("disk is broken".to_owned())));
        assert!(out.is_empty());
    }
}
