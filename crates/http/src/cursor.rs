//! Cursors of lists that are ordered by time and id: opaque to callers, checked when they come back.
//!
//! Invariant: what is read was written by [`write`], or is refused; its time is one that every store can hold.

use aito_domain::time::{Timestamp, is_storable, millis};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use uuid::Uuid;

/// What a cursor must be.
pub(crate) const ALLOWED: &str = "the nextCursor of an answer";

/// After so many bytes a page ends, however few rows it has.
const PAGE_BYTES: usize = 8 << 20;

/// A page of rows of which one more than `limit` were read, if there are so many; true: there are more than it has. `size`
/// is about how many bytes a row takes.
pub(crate) fn cut<T>(mut rows: Vec<T>, limit: u32, size: impl Fn(&T) -> usize) -> (Vec<T>, bool) {
    let mut bytes = 0_usize;
    let fits = rows.iter().take(limit as usize).take_while(|row| {
        let fits = bytes < PAGE_BYTES;
        bytes = bytes.saturating_add(size(row));
        fits
    });
    let fits = fits.count();
    let goes_on = rows.len() > fits;
    rows.truncate(fits);
    (rows, goes_on)
}

/// About how many bytes JSON takes.
pub(crate) fn json_size(value: Option<&Value>) -> usize {
    match value {
        None | Some(Value::Null | Value::Bool(_) | Value::Number(_)) => 8,
        Some(Value::String(text)) => text.len() + 2,
        Some(Value::Array(items)) => items.iter().map(|item| json_size(Some(item)) + 1).sum(),
        Some(Value::Object(members)) => {
            members.iter().map(|(key, value)| key.len() + 4 + json_size(Some(value))).sum()
        }
    }
}

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
    fn a_page_ends_at_its_rows_or_its_bytes_and_says_whether_more_follow() {
        let rows = |count: usize| vec![3 << 20; count];
        let small = |count| cut(vec![1; count], 3, |size| *size);
        assert_eq!(small(0), (vec![], false));
        assert_eq!(small(3), (vec![1; 3], false), "exactly full, and nothing follows");
        assert_eq!(small(4), (vec![1; 3], true));
        assert_eq!(cut(rows(5), 10, |size| *size), (rows(3), true), "nine of eight MiB");
        assert_eq!(cut(vec![9 << 20; 2], 10, |size| *size), (vec![9 << 20], true), "never none");
        let value = serde_json::json!({"a": ["text", 1, null], "b": {"c": true}});
        let (about, is) = (json_size(Some(&value)), value.to_string().len());
        assert!((is..2 * is).contains(&about), "{about} {is}");
    }

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
