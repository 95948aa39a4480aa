//! How bytes become lines, and how a line looks in a log file: `2025-12-20T10:00:00.000Z o text`.
//!
//! Invariants: nothing that the agent wrote is lost here, only divided: an endless line becomes several of at
//! most [`MAX_TEXT`] bytes; bytes that are no UTF-8 become U+FFFD; a line break is `\n` or `\r\n`.

use aito_domain::{
    ports::runtime::{LogChannel, LogLine},
    time::{Timestamp, millis, truncate},
};
use chrono::{DateTime, SecondsFormat};

/// The longest text of one line, in bytes before replacement.
pub(crate) const MAX_TEXT: usize = 16 << 10;

/// Length of a time in a log file: `2025-12-20T10:00:00.000Z`.
const TIME: usize = 24;

/// Writes one line, its end included.
pub(crate) fn write_line(out: &mut Vec<u8>, at: Timestamp, channel: LogChannel, text: &[u8]) {
    out.extend_from_slice(at.to_rfc3339_opts(SecondsFormat::Millis, true).as_bytes());
    out.extend_from_slice(match channel {
        LogChannel::Stdout => b" o ",
        LogChannel::Stderr => b" e ",
    });
    out.extend_from_slice(String::from_utf8_lossy(text).as_bytes());
    out.push(b'\n');
}

/// Reads one line, given without its end; `None` for one that was not written whole.
pub(crate) fn read_line(line: &[u8]) -> Option<LogLine> {
    let text = std::str::from_utf8(line).ok()?;
    let (time, rest) = (text.get(..TIME)?, text.get(TIME..)?);
    let at = DateTime::parse_from_rfc3339(time).ok()?;
    let (channel, text) = if let Some(text) = rest.strip_prefix(" o ") {
        (LogChannel::Stdout, text)
    } else {
        (LogChannel::Stderr, rest.strip_prefix(" e ")?)
    };
    Some(LogLine { at: truncate(millis(at.timestamp_millis())), channel, text: text.to_owned() })
}

/// Divides what one channel gives into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The beginning of a line whose end has not come; shorter than [`MAX_TEXT`].
    open: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands on every line that is complete or too long.
    pub(crate) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.extend(&rest[..end], &mut line);
            let whole = self.open.strip_suffix(b"\r").unwrap_or(&self.open);
            line(whole);
            self.open.clear();
            rest = &rest[end + 1..];
        }
        self.extend(rest, &mut line);
    }

    /// Hands on what there is of a line whose end has not come.
    pub(crate) fn flush(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.open.is_empty() {
            line(&self.open);
            self.open.clear();
        }
    }

    /// Whether a line waits for its end.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    fn extend(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while self.open.len() + bytes.len() > MAX_TEXT {
            let (head, tail) = bytes.split_at(MAX_TEXT - self.open.len());
            self.open.extend_from_slice(head);
            let cut = character_boundary(&self.open);
            line(&self.open[..cut]);
            self.open.drain(..cut);
            bytes = tail;
        }
        self.open.extend_from_slice(bytes);
    }
}

/// Where to cut so that no character is divided, unless the bytes are no text anyway.
fn character_boundary(bytes: &[u8]) -> usize {
    let lead = (1..=4.min(bytes.len())).find(|back| bytes[bytes.len() - back] & 0xC0 != 0x80);
    let Some(back) = lead else { return bytes.len() };
    let width = match bytes[bytes.len() - back] {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF7 => 4,
        _ => 1,
    };
    if width > back { bytes.len() - back } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |line| out.push(String::from_utf8_lossy(line).into_owned()));
        }
        lines.flush(|line| out.push(format!("{}…", String::from_utf8_lossy(line))));
        out
    }

    #[test]
    fn lines_are_divided_at_breaks_wherever_chunks_end() {
        assert_eq!(cut(&[b"a\nb", b"c\r", b"\n\nlast"]), ["a", "bc", "", "last…"]);
        assert_eq!(cut(&[b""]), Vec::<String>::new());
    }

    #[test]
    fn an_endless_line_is_divided_without_loss_and_without_growing() {
        let long = vec![b'x'; 3 * MAX_TEXT + 5];
        let mut lines = Lines::default();
        let mut sizes = Vec::new();
        for chunk in long.chunks(1000) {
            lines.push(chunk, |line| sizes.push(line.len()));
            assert!(lines.open.len() <= MAX_TEXT);
        }
        lines.push(b"\n", |line| sizes.push(line.len()));
        assert_eq!(sizes, [MAX_TEXT, MAX_TEXT, MAX_TEXT, 5]);
    }

    #[test]
    fn no_character_is_divided() {
        let text = "é".repeat(MAX_TEXT) + "€𝄞";
        let odd = format!("x{text}");
        for text in [text, odd] {
            let mut got = String::new();
            let mut lines = Lines::default();
            let mut take = |line: &[u8]| got.push_str(std::str::from_utf8(line).unwrap());
            lines.push(text.as_bytes(), &mut take);
            lines.flush(&mut take);
            assert_eq!(got, text);
        }
        assert_eq!(character_boundary(&[0x80; 8]), 8);
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let at = millis(1_766_224_800_123);
        let mut out = Vec::new();
        write_line(&mut out, at, LogChannel::Stderr, b" two  words ");
        assert_eq!(out, b"2025-12-20T10:00:00.123Z e  two  words \n");
        let read = read_line(out.strip_suffix(b"\n").unwrap());
        assert_eq!(read, Some(LogLine { at, channel: LogChannel::Stderr, text: " two  words ".into() }));

        out.clear();
        write_line(&mut out, at, LogChannel::Stdout, b"\xff ok");
        assert_eq!(read_line(&out[..out.len() - 1]).unwrap().text, "\u{fffd} ok");
    }

    #[test]
    fn torn_lines_are_none() {
        for torn in ["", "2025-12-20T10:00:00.123Z", "2025-12-20T10:00:00.123Z x a", "0Z o text", "ä2025"] {
            assert_eq!(read_line(torn.as_bytes()), None, "{torn}");
        }
    }
}
