//! Server-sent events, decoded as they arrive (WHATWG HTML, section 9.2.6).
//!
//! Invariants:
//! - The decoder is pure: bytes in, events out, at whatever places the bytes were cut.
//! - An event larger than 1 MiB is an error, so that a server cannot make a client grow without end.

use crate::Error;
use reqwest::Response;
use std::{collections::VecDeque, mem, time::Duration};

const MAX_EVENT: usize = 1 << 20;

/// One dispatched event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The `event` field; empty means `message`.
    pub(crate) name: String,
    /// The `data` lines, joined by line feeds.
    pub(crate) data: String,
    /// The last `id` that came with it or before; empty when none did.
    pub(crate) id: String,
}

/// The state between two chunks.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    after_cr: bool,
    event: Event,
    id: String,
    has_data: bool,
}

impl Decoder {
    /// Takes the next bytes and returns the events that they complete.
    ///
    /// # Errors
    /// The text says which limit was passed.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    let line = mem::take(&mut self.line);
                    events.extend(self.line_ended(&String::from_utf8_lossy(&line)));
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.event.data.len() > MAX_EVENT {
                return Err(format!("an event is longer than {MAX_EVENT} bytes"));
            }
        }
        Ok(events)
    }

    fn line_ended(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = Event { id: self.id.clone(), ..mem::take(&mut self.event) };
            return mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event.name),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // Comments have an empty field name; `retry` matters to those who reconnect by themselves.
            _ => {}
        }
        None
    }
}

/// The events of an answer, as they come.
#[derive(Debug)]
pub(crate) struct Events {
    response: Response,
    decoder: Decoder,
    ready: VecDeque<Event>,
    ended: bool,
    idle: Duration,
}

impl Events {
    /// Of an answer that is silent for at most `idle`.
    pub(crate) fn of(response: Response, idle: Duration) -> Self {
        Self { response, decoder: Decoder::default(), ready: VecDeque::new(), ended: false, idle }
    }

    /// The next one; `None` when the server ended the stream. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let chunk = crate::time::within(self.idle, self.response.chunk())
                .await
                .ok_or_else(|| Error::timed_out("a sign of life", self.idle, true))?
                .map_err(Error::from_transport)?;
            match chunk {
                Some(chunk) => self.ready.extend(self.decoder.feed(&chunk).map_err(Error::Protocol)?),
                None => self.ended = true,
            }
        }
    }

    /// Nothing more is wanted.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.ready.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned(), id: String::new() }
    }

    #[test]
    fn any_cut_gives_the_same_events() {
        let text = ": hi\r\n\r\ndata: one\ndata:two\r\revent: end\ndata\n\nid: 4\nevent: x\n\ndata: \u{e4}\n\ndata: open";
        let last = Event { id: "4".to_owned(), ..event("", "\u{e4}") };
        let wanted = vec![event("", "one\ntwo"), event("end", ""), last];
        for size in 1..text.len() {
            let mut decoder = Decoder::default();
            let events: Vec<_> =
                text.as_bytes().chunks(size).flat_map(|chunk| decoder.feed(chunk).unwrap()).collect();
            assert_eq!(events, wanted, "chunks of {size}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut decoder = Decoder::default();
        let mut fed = 0;
        let refused = loop {
            match decoder.feed(b"data: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n") {
                Ok(_) => fed += 1,
                Err(error) => break error,
            }
            assert!(fed < MAX_EVENT, "never refused");
        };
        assert!(refused.contains("1048576"), "{refused}");
    }
}
