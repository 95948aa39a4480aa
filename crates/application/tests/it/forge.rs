//! Changes a store's SQLite file as somebody does who can write to it, past the store and past SQLite, which checks
//! nothing of it (sqlite.org/fileformat2.html).
//!
//! Invariants: only bytes of a file that nobody has open; a row that is removed is gone from the table and from the
//! index that the chain is read by, so that the file is a sound one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aito_contracts::{clock::ManualClock, wait};
use aito_embedded::sqlite::{Options, SqliteStore};
use tempfile::TempDir;

use super::support::SOON;

/// The type of a page that holds rows of a table, and of one that holds entries of an index.
const TABLE_LEAF: u8 = 0x0d;
const INDEX_LEAF: u8 = 0x0a;

/// A store that nobody has open.
#[derive(Clone)]
pub struct Closed {
    bytes: Vec<u8>,
}

impl Closed {
    /// What is in the file when the last of those who have it open is gone and has put everything into it.
    pub async fn of(path: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        wait::until("everything to be in the file", SOON, async || {
            if beside("-wal").exists() {
                drop(open(path));
                return None;
            }
            Some(())
        })
        .await;
        Self { bytes: std::fs::read(path).unwrap() }
    }

    /// The store as it is opened again, and where it is.
    pub fn reopened(&self) -> (Arc<SqliteStore>, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        std::fs::write(&path, &self.bytes).unwrap();
        (open(&path), dir)
    }

    /// Puts other bytes of the same length in the place of some.
    #[must_use]
    pub fn with(mut self, old: &[u8], new: &[u8]) -> Self {
        assert_eq!(old.len(), new.len());
        let places: Vec<_> = places(&self.bytes, old).collect();
        assert!(!places.is_empty(), "it is not in the file");
        for at in places {
            self.bytes[at..at + new.len()].copy_from_slice(new);
        }
        self
    }

    /// Without the row at a place of the audit, 0 for the first; all rows are sealed and were stored in order.
    #[must_use]
    pub fn without_row(mut self, place: usize) -> Self {
        self.remove("tableauditaudit", TABLE_LEAF, place);
        self.remove("indexaudit_by_numberaudit", INDEX_LEAF, place);
        self
    }

    /// With another head, of a number from 0 to 127; the one that is there has one from 2 to 127.
    #[must_use]
    pub fn with_head(mut self, old_seal: &[u8; 32], n: u8, seal: &[u8; 32]) -> Self {
        let page = self.page("tableaudit_headaudit_head");
        let found = places(&self.bytes[page..page + self.page_size()], old_seal).last();
        let at = page + found.expect("it is the head's");
        // The number takes the byte before the seal.
        self.bytes[at - 1] = n;
        self.bytes[at..at + 32].copy_from_slice(seal);
        self
    }

    fn page_size(&self) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[16], self.bytes[17]]))
    }

    /// Where the only page of a table or index is: the schema has a row of type, name, table, page and text.
    fn page(&self, named: &str) -> usize {
        let row = places(&self.bytes, named.as_bytes()).find(|at| {
            let after = at + named.len() + 1;
            self.bytes[after..].starts_with(b"CREATE ")
        });
        let page = self.bytes[row.expect("it is in the schema") + named.len()];
        (usize::from(page) - 1) * self.page_size()
    }

    /// Takes one of the pointers to cells out of a page.
    fn remove(&mut self, named: &str, kind: u8, place: usize) {
        let page = self.page(named);
        assert_eq!(self.bytes[page], kind, "{named} has one page");
        let count = usize::from(u16::from_be_bytes([self.bytes[page + 3], self.bytes[page + 4]]));
        assert!(place < count, "{count} rows in {named}");
        let pointers = page + 8;
        self.bytes.copy_within(pointers + 2 * (place + 1)..pointers + 2 * count, pointers + 2 * place);
        let left = u16::try_from(count - 1).unwrap();
        self.bytes[page + 3..page + 5].copy_from_slice(&left.to_be_bytes());
    }
}

pub fn open(path: &Path) -> Arc<SqliteStore> {
    SqliteStore::open(Options::new(path, Arc::new(ManualClock::new()))).unwrap()
}

fn places<'a>(bytes: &'a [u8], what: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    bytes.windows(what.len()).enumerate().filter(move |(_, window)| *window == what).map(|(at, _)| at)
}
