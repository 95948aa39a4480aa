//! Cursors of lists that are ordered by time and id: opaque to callers, checked when they come back.
//!
//! Invariant: what is read was written by [`write`], or is refused; its time is one that every store can hold.

use aito_domain::time::{Timestamp, is_storable, millis};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

/// What a cursor must be.
pub(crate) const ALLOWED: &str = "the nextCursor of an answer";

/// The place after a row.
pub(crate) fn write(at: Timestamp, id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{id}", at.timestamp_millis()))
}

/// The row before a place.
pub(crate) fn read(text: &str) -> Option<(Timestamp, Uuid)> {
    let (at, id) = parts(text)?;
    let at = at.parse().ok().map(millis).filter(|at| is_storable(*at))?;
    Some((at, id))
}

/// The place after something that is ordered by a small number and then by id.
pub(crate) fn write_rank(rank: u8, id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(format!("{rank}.{id}"))
}

/// What [`write_rank`] wrote.
pub(crate) fn read_rank(text: &str) -> Option<(u8, Uuid)> {
    let (rank, id) = parts(text)?;
    Some((rank.parse().ok()?, id))
}

fn parts(text: &str) -> Option<(String, Uuid)> {
    let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (first, id) = plain.split_once('.')?;
    Some((first.to_owned(), id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let id = Uuid::from_u128(7);
        assert_eq!(read(&write(millis(42), id)), Some((millis(42), id)));
        assert_eq!(read_rank(&write_rank(4, id)), Some((4, id)));
        let garbage = [String::new(), "x".to_owned(), write(millis(-1), id), write(millis(i64::MAX), id)];
        for text in garbage {
            assert_eq!(read(&text), None, "{text}");
        }
    }
}
