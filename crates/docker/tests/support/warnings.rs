//! What is said as a warning on a test's own thread.
//!
//! Invariant: one subscriber for the whole process, for one of a thread alone may miss what another thread was first
//! to come by.

use std::{cell::RefCell, fmt, sync::Once};

use tracing::{
    Event, Level, Metadata,
    callsite::rebuild_interest_cache,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::{Subscriber, set_global_default},
};

thread_local! {
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Collects the messages of warnings of this thread from now on.
pub fn collect() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        set_global_default(Collector).unwrap();
        rebuild_interest_cache();
    });
    SAID.take();
}

/// How many of the collected ones contain this text.
pub fn count(text: &str) -> usize {
    SAID.with_borrow(|said| said.iter().filter(|message| message.contains(text)).count())
}

struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        SAID.with_borrow_mut(|said| said.push(message.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
