//! Appends lines to a log and rotates its files.
//!
//! Invariants: never blocks on anything but the disk and never fails: what cannot be written is dropped, counted,
//! and the count is written once there is room; a line is in the file whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use aito_domain::{ports::runtime::LogChannel, time::Timestamp};

use super::{super::record::LogLimits, file, format::write_line};

/// Writes one log.
pub(crate) struct Writer {
    log: PathBuf,
    limits: LogLimits,
    file: Option<File>,
    len: u64,
    /// Lines that could not be written since the last one that could.
    dropped: u64,
    /// Lines that wait for [`Writer::commit`], and how many they are.
    batch: Vec<u8>,
    lines: u64,
}

impl Writer {
    /// Opens the log, which must be possible once for an agent to be started.
    pub(crate) fn open(log: PathBuf, limits: LogLimits) -> io::Result<Self> {
        let mut writer = Self { log, limits, file: None, len: 0, dropped: 0, batch: Vec::new(), lines: 0 };
        writer.reopen()?;
        Ok(writer)
    }

    /// Adds a line to what the next [`Writer::commit`] writes.
    pub(crate) fn line(&mut self, at: Timestamp, channel: LogChannel, text: &[u8]) {
        write_line(&mut self.batch, at, channel, text);
        self.lines += 1;
    }

    /// Writes what was added, or counts it as dropped.
    pub(crate) fn commit(&mut self, now: Timestamp) {
        if self.lines == 0 {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        if self.dropped > 0 {
            let note =
                format!("{} lines before this one were lost: the log could not be written", self.dropped);
            let mut noted = Vec::with_capacity(batch.len() + 128);
            write_line(&mut noted, now, LogChannel::Stderr, note.as_bytes());
            noted.append(&mut batch);
            batch = noted;
        }
        match self.append(&batch) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += self.lines,
        }
        self.lines = 0;
        batch.clear();
        self.batch = batch;
    }

    fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.len > 0 && self.len + batch.len() as u64 > self.limits.file_bytes {
            self.rotate();
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let written = file.write_all(batch);
        if written.is_err() {
            // What was written of it would run into the next line.
            let _ = file.set_len(self.len);
            return written;
        }
        self.len += batch.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) {
        for age in (1..self.limits.files).rev() {
            // A file that is not there yet, or a directory that was removed: nothing to move.
            let _ = fs::rename(file(&self.log, age - 1), file(&self.log, age));
        }
        if self.limits.files <= 1 {
            let _ = fs::remove_file(&self.log);
        }
        self.file = None;
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.log)?;
        self.len = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aito_domain::time::millis;

    fn write(writer: &mut Writer, text: &str) {
        writer.line(millis(0), LogChannel::Stdout, text.as_bytes());
        writer.commit(millis(0));
    }

    #[test]
    fn files_are_rotated_and_the_oldest_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let limits = LogLimits { file_bytes: 64, files: 3 };
        let mut writer = Writer::open(log.clone(), limits).unwrap();
        // A line is 24 + 3 + 1 + 1 bytes: two to a file.
        for n in 0..8 {
            write(&mut writer, &n.to_string());
        }
        let text = |age| fs::read_to_string(file(&log, age)).unwrap();
        assert!(text(0).contains("o 6\n") && text(0).ends_with("o 7\n"));
        assert!(text(1).contains("o 4\n") && text(2).contains("o 2\n"));
        assert!(!file(&log, 3).exists());
    }

    #[test]
    fn lost_lines_are_counted_and_told_when_there_is_room_again() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let mut writer = Writer::open(inner.join("log"), LogLimits { file_bytes: 1, files: 2 }).unwrap();
        write(&mut writer, "first");
        // Every line needs a new file, and there is no place for one.
        fs::remove_dir_all(&inner).unwrap();
        write(&mut writer, "lost");
        write(&mut writer, "lost");
        fs::create_dir(&inner).unwrap();
        write(&mut writer, "back");
        let text = fs::read_to_string(inner.join("log")).unwrap();
        let texts: Vec<_> = text.lines().map(|line| &line[27..]).collect();
        assert_eq!(texts, ["2 lines before this one were lost: the log could not be written", "back"]);
    }

    #[test]
    fn a_full_device_neither_blocks_nor_fails() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::os::unix::fs::symlink("/dev/full", &log).unwrap();
        let mut writer = Writer::open(log, LogLimits::default()).unwrap();
        for _ in 0..3 {
            write(&mut writer, "x");
        }
        assert_eq!(writer.dropped, 3);
    }
}
