//! An agent's own notes: values by key that outlive its incarnations.
//!
//! Invariants: a key belongs to one agent; what is removed is gone, and its key may be used again.

use serde_json::Value;

use crate::{
    id::{AgentId, Version},
    time::Timestamp,
};

/// The longest key, in characters.
pub const MAX_KEY: usize = 128;
/// The most that one value may take as JSON text, in bytes.
pub const MAX_VALUE: usize = 65_536;
/// How many keys one agent may have.
pub const MAX_KEYS: u64 = 1000;

/// Whether a text is a key: 1 to [`MAX_KEY`] of `A-Z`, `a-z`, `0-9`, `.`, `_`, `:` and `-`, and not `.`
/// or `..`, which no path can end with.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct StateEntry {
    /// Whose.
    pub agent_id: AgentId,
    /// Under which key; see [`is_key`].
    pub key: String,
    /// The version that was read; a commit writes the next. A removed key keeps counting, so that no version of it
    /// comes twice.
    pub version: Version,
    /// The value, at most [`MAX_VALUE`] bytes as JSON text; `None` once it was removed.
    pub value: Option<Value>,
    /// When it was last written.
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_plain() {
        for good in ["a", "last.seen:2025-12", "A_B"] {
            assert!(is_key(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"a".repeat(129)] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}
