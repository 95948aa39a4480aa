//! The agent's log: plain lines on standard output, which the runtime keeps.
//!
//! Invariants:
//! - One event is one line; line breaks and control characters in a text become spaces, so that no text can
//!   pass for another line.
//! - A line holds at most 4096 bytes of text.
//! - A log that cannot be written stops nothing.

use std::{fmt, io::Write, sync::Arc};

const MAX_LINE: usize = 4096;

/// Where lines go.
#[derive(Clone)]
pub struct Log(Arc<dyn Fn(&str) + Send + Sync>);

impl Log {
    /// Standard output.
    pub fn stdout() -> Self {
        Self::to(|line| {
            // Nobody reads any more, or the disk is full: the agent lives on.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        })
    }

    /// Any other place.
    pub fn to(write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    /// Writes one line.
    pub fn line(&self, text: impl AsRef<str>) {
        (self.0)(&one_line(text.as_ref(), MAX_LINE));
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// `text` without line breaks and control characters, cut to at most `max` bytes.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let line: String =
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    cap(line.trim().to_owned(), max)
}

/// `text`, cut at a character's end to at most `max` bytes, with an ellipsis in place of what is missing.
pub(crate) fn cap(mut text: String, max: usize) -> String {
    const MARK: &str = "…";
    if text.len() > max {
        let mut end = max.saturating_sub(MARK.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn one_event_is_one_line() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        let log = Log::to(move |line| kept.lock().unwrap().push(line.to_owned()));
        log.line("  a\nb\r\u{1b}[31mc\u{0}\n");
        log.line("ä".repeat(MAX_LINE));
        let lines = lines.lock().unwrap();
        assert_eq!(lines[0], "a b  [31mc");
        assert!(lines[1].len() <= MAX_LINE && lines[1].ends_with("ä…"), "{}", lines[1].len());
    }
}
