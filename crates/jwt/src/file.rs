//! The file of keys, read again when it has changed.
//!
//! Invariants: there are always keys; a file that cannot be used leaves the last good ones and is warned of once per
//! reason; the file is looked at by one caller at a time, no more often than every 5 s, and nobody waits for that one.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::{JwtConfigError, KeysFault};
use crate::keys::KeySet;

/// How often the file is looked at.
const EVERY: TimeDelta = TimeDelta::seconds(5);

/// How long the file may be, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// The keys of a file.
pub(crate) struct KeyFile {
    path: PathBuf,
    keys: RwLock<Arc<KeySet>>,
    watch: Mutex<Watch>,
}

struct Watch {
    /// The file's state when it was last read well. One in which it could not be used is not kept: it may have been read
    /// while it was written, so it is read again.
    stamp: Stamp,
    looked: Option<DateTime<Utc>>,
    warned: Option<String>,
}

/// What changes when a file does: device, inode, length, and the times of change in seconds and nanoseconds. Length and
/// modification alone would miss a file that was put in its place by renaming with both kept.
#[derive(PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl KeyFile {
    /// Reads the file.
    pub(crate) fn open(path: PathBuf) -> Result<Self, JwtConfigError> {
        match read(&path) {
            Ok((stamp, keys)) => {
                let watch = Watch { stamp, looked: None, warned: None };
                Ok(Self { path, keys: RwLock::new(Arc::new(keys)), watch: Mutex::new(watch) })
            }
            Err(fault) => Err(JwtConfigError::Keys { path, fault }),
        }
    }

    /// The keys at a time.
    pub(crate) fn keys(&self, now: DateTime<Utc>) -> Arc<KeySet> {
        let watch = match self.watch.try_lock() {
            Ok(watch) => Some(watch),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        // Also a clock that was set back is no reason to stop looking.
        if let Some(mut watch) = watch
            && watch.looked.is_none_or(|looked| (now - looked).abs() >= EVERY)
        {
            watch.looked = Some(now);
            self.look(&mut watch);
        }
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn look(&self, watch: &mut Watch) {
        let unchanged = fs::metadata(&self.path).is_ok_and(|metadata| watch.stamp == Stamp::of(&metadata));
        if unchanged {
            watch.warned = None;
            return;
        }
        match read(&self.path) {
            Ok((stamp, keys)) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                watch.stamp = stamp;
                watch.warned = None;
                tracing::info!(path = %self.path.display(), "the keys of tokens were read again");
            }
            Err(fault) => {
                let fault = fault.to_string();
                if watch.warned.as_ref() != Some(&fault) {
                    tracing::warn!(
                        path = %self.path.display(), fault,
                        "the changed keys of tokens cannot be used, the ones before are kept"
                    );
                    watch.warned = Some(fault);
                }
            }
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn read(path: &Path) -> Result<(Stamp, KeySet), KeysFault> {
    // Opening a pipe would wait for somebody who writes.
    if !fs::metadata(path).map_err(KeysFault::Unreadable)?.is_file() {
        return Err(KeysFault::NoFile);
    }
    let file = File::open(path).map_err(KeysFault::Unreadable)?;
    // Before reading, so that a change meanwhile is seen the next time.
    let stamp = Stamp::of(&file.metadata().map_err(KeysFault::Unreadable)?);
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(KeysFault::Unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(KeysFault::TooLong { most: LONGEST });
    }
    let text = String::from_utf8(bytes).map_err(|_| KeysFault::NoKeySet("it is no UTF-8".to_owned()))?;
    let (keys, passed_over) = KeySet::parse(&text)?;
    for why in passed_over {
        tracing::info!(path = %path.display(), "passed over: {why}");
    }
    Ok((stamp, keys))
}
