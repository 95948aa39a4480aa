//! Reads a log across its files, from a chosen line on, and goes on where the writer goes on.
//!
//! Invariants: files are told apart by inode, so a rotation while reading neither skips nor repeats a line that
//! is still kept; at most one block is in memory.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use aito_domain::ports::runtime::{LogLine, LogQuery};

use super::{super::place::present, file, format::read_line};

/// Bytes read at once.
const BLOCK: usize = 64 << 10;

/// Files beyond which nobody looks for rotated ones.
const MOST_FILES: u32 = 64;

/// A place in a log.
pub(crate) struct Reader {
    log: PathBuf,
    query: LogQuery,
    /// The file being read, and those that follow it.
    files: VecDeque<Opened>,
    offset: u64,
    /// The beginning of a line whose end was not there yet.
    open: Vec<u8>,
}

struct Opened {
    file: File,
    inode: u64,
}

/// What one look at the log gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    /// Lines, perhaps none that were asked for, and perhaps more at once.
    Lines(Vec<LogLine>),
    /// Nothing more now.
    Nothing,
    /// Nothing more, ever: the log was removed.
    Gone,
}

impl Reader {
    /// Opens the log at the line from which `query` wants it.
    pub(crate) fn open(log: &Path, query: &LogQuery) -> io::Result<Self> {
        let mut files = snapshot(log)?;
        let mut offset = 0;
        if let Some(tail) = query.tail {
            let (skipped, at) = tail_start(&files, u64::from(tail))?;
            files.drain(..skipped);
            offset = at;
        }
        Ok(Self { log: log.to_owned(), query: query.clone(), files, offset, open: Vec::new() })
    }

    /// The next lines.
    pub(crate) fn next(&mut self) -> io::Result<Batch> {
        loop {
            let Some(current) = self.files.front() else {
                if !self.find_newer(None)? {
                    return Ok(self.at_end());
                }
                continue;
            };
            let mut block = vec![0; BLOCK];
            let read = current.file.read_at(&mut block, self.offset)?;
            if read > 0 {
                self.offset += read as u64;
                return Ok(Batch::Lines(self.lines(&block[..read])));
            }
            let inode = current.inode;
            if self.files.len() == 1 && !(self.query.follow && self.find_newer(Some(inode))?) {
                return Ok(self.at_end());
            }
            // The writer may have added to this file between our last read and its rotation; from the moment
            // a newer one exists it adds nothing any more.
            let mut rest = [0];
            if self.files.front().map(|current| current.file.read_at(&mut rest, self.offset)).transpose()?
                == Some(1)
            {
                continue;
            }
            self.files.pop_front();
            self.offset = 0;
            self.open.clear();
        }
    }

    fn at_end(&self) -> Batch {
        let dir = self.log.parent().unwrap_or(Path::new("/"));
        if dir.exists() { Batch::Nothing } else { Batch::Gone }
    }

    /// Queues the files that are newer than the one with this inode; `false` when there is none.
    fn find_newer(&mut self, than: Option<u64>) -> io::Result<bool> {
        let mut found = snapshot(&self.log)?;
        // An inode that is not there any more was rotated away: all that is kept is newer. The number cannot
        // have been given to a new file, as ours is still open.
        if let Some(ours) = found.iter().position(|opened| Some(opened.inode) == than) {
            found.drain(..=ours);
        }
        let any = !found.is_empty();
        self.files.append(&mut found);
        Ok(any)
    }

    fn lines(&mut self, block: &[u8]) -> Vec<LogLine> {
        let mut found = Vec::new();
        let mut rest = block;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.open.extend_from_slice(&rest[..end]);
            let line = read_line(&self.open);
            found.extend(line.filter(|line| self.query.since.is_none_or(|since| line.at >= since)));
            self.open.clear();
            rest = &rest[end + 1..];
        }
        self.open.extend_from_slice(rest);
        found
    }
}

/// Every file of the log, the oldest first.
fn snapshot(log: &Path) -> io::Result<VecDeque<Opened>> {
    let mut found: VecDeque<Opened> = VecDeque::new();
    let mut missed = 0;
    for age in 0..MOST_FILES {
        // From the newest on: a rotation between two of these shows a file twice, and hides none. A single name
        // may be free for a moment while files are moved up; two in a row are the end.
        let Some(file) = present(File::open(file(log, age)))? else {
            missed += 1;
            if missed > 1 {
                break;
            }
            continue;
        };
        missed = 0;
        let inode = file.metadata()?.ino();
        if found.iter().all(|opened| opened.inode != inode) {
            found.push_front(Opened { file, inode });
        }
    }
    Ok(found)
}

/// In which file, and where in it, the last `lines` lines begin.
fn tail_start(files: &VecDeque<Opened>, lines: u64) -> io::Result<(usize, u64)> {
    let mut missing = lines;
    for (index, opened) in files.iter().enumerate().rev() {
        let mut end = opened.file.metadata()?.len();
        if missing == 0 {
            return Ok((index, end));
        }
        // The break that ends the last line begins none.
        let mut breaks_wanted = missing + 1;
        let mut block = vec![0; BLOCK];
        while end > 0 {
            let size = BLOCK.min(usize::try_from(end).unwrap_or(BLOCK));
            let start = end - size as u64;
            opened.file.read_exact_at(&mut block[..size], start)?;
            for (at, byte) in block[..size].iter().enumerate().rev() {
                if *byte == b'\n' {
                    breaks_wanted -= 1;
                    if breaks_wanted == 0 {
                        return Ok((index, start + at as u64 + 1));
                    }
                }
            }
            end = start;
        }
        // All breaks of this file end a line of it.
        missing = breaks_wanted - 1;
        if missing == 0 {
            return Ok((index, 0));
        }
    }
    Ok((0, 0))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::record::LogLimits, writer::Writer},
        *,
    };
    use aito_domain::{ports::runtime::LogChannel, time::millis};

    fn write(writer: &mut Writer, from: i64, to: i64) {
        for n in from..to {
            writer.line(millis(n), LogChannel::Stdout, format!("{n}").as_bytes());
            writer.commit(millis(n));
        }
    }

    fn drain(reader: &mut Reader) -> Vec<i64> {
        let mut all = Vec::new();
        while let Batch::Lines(lines) = reader.next().unwrap() {
            all.extend(lines.iter().map(|line| line.text.parse::<i64>().unwrap()));
        }
        all
    }

    fn log(file_bytes: u64, files: u32) -> (tempfile::TempDir, PathBuf, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let writer = Writer::open(log.clone(), LogLimits { file_bytes, files }).unwrap();
        (dir, log, writer)
    }

    #[test]
    fn the_tail_is_found_across_files_and_blocks() {
        for file_bytes in [100, 1000, 1 << 20] {
            let (_dir, log, mut writer) = log(file_bytes, 60);
            write(&mut writer, 0, 150);
            for tail in [0_u32, 1, 2, 3, 4, 7, 149, 150, 151, 5000] {
                let query = LogQuery { tail: Some(tail), ..LogQuery::default() };
                let got = drain(&mut Reader::open(&log, &query).unwrap());
                let wanted: Vec<i64> = (0..150).skip(150_usize.saturating_sub(tail as usize)).collect();
                assert_eq!(got, wanted, "{tail} of files of {file_bytes}");
            }
        }
    }

    #[test]
    fn lines_before_since_are_left_out() {
        let (_dir, log, mut writer) = log(100, 60);
        write(&mut writer, 0, 20);
        let query = LogQuery { since: Some(millis(15)), ..LogQuery::default() };
        assert_eq!(drain(&mut Reader::open(&log, &query).unwrap()), [15, 16, 17, 18, 19]);
        let query = LogQuery { tail: Some(2), ..query };
        assert_eq!(drain(&mut Reader::open(&log, &query).unwrap()), [18, 19]);
    }

    #[test]
    fn following_survives_rotation_and_goes_on_after_lost_files() {
        let (dir, log, mut writer) = log(100, 3);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut reader = Reader::open(&log, &query).unwrap();
        assert_eq!(reader.next().unwrap(), Batch::Nothing);
        write(&mut writer, 0, 1);
        assert_eq!(drain(&mut reader), [0]);
        // Three lines fill a file: one rotation, then several between two looks.
        write(&mut writer, 1, 5);
        assert_eq!(drain(&mut reader), [1, 2, 3, 4]);
        write(&mut writer, 5, 8);
        assert_eq!(drain(&mut reader), [5, 6, 7]);
        write(&mut writer, 8, 30);
        let late = drain(&mut reader);
        assert_eq!(late.last(), Some(&29));
        assert!(late.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() <= 1, "{late:?}");
        dir.close().unwrap();
        assert_eq!(reader.next().unwrap(), Batch::Gone);
    }

    #[test]
    fn a_line_written_in_two_parts_is_read_once_whole() {
        let (_dir, log, _writer) = log(100, 3);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut reader = Reader::open(&log, &query).unwrap();
        std::fs::write(&log, "1970-01-01T00:00:00.000Z o 4").unwrap();
        assert_eq!(reader.next().unwrap(), Batch::Lines(vec![]));
        std::fs::write(&log, "1970-01-01T00:00:00.000Z o 42\n").unwrap();
        assert_eq!(drain(&mut reader), [42]);
    }
}
