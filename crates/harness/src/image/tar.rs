//! An archive in the ustar format (POSIX.1-1988), as far as images need it: directories, programs, links,
//! pipes.
//!
//! Invariants: its size is known before it is written; owners are root, times are zero, so equal files make an equal
//! archive.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

const BLOCK: u64 = 512;

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: String,
    mode: u32,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Directory,
    File(PathBuf, u64),
    Link(String),
    Pipe,
}

impl Entry {
    /// A directory; one that other entries only lie in is made by the engine anyway, with mode 0755.
    pub fn directory(path: &str, mode: u32) -> Self {
        Self { path: format!("{path}/"), mode, content: Content::Directory }
    }

    /// A copy of the file at `source` that may be executed.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn program(path: &str, source: &Path) -> Self {
        let metadata = fs::metadata(source).unwrap_or_else(|why| panic!("{}: {why}", source.display()));
        assert!(metadata.is_file(), "{} is not a file", source.display());
        Self { path: path.to_owned(), mode: 0o755, content: Content::File(source.to_owned(), metadata.len()) }
    }

    /// A symbolic link.
    pub fn link(path: &str, target: &str) -> Self {
        Self { path: path.to_owned(), mode: 0o777, content: Content::Link(target.to_owned()) }
    }

    /// A named pipe.
    pub fn pipe(path: &str, mode: u32) -> Self {
        Self { path: path.to_owned(), mode, content: Content::Pipe }
    }

    fn length(&self) -> u64 {
        match &self.content {
            Content::File(_, length) => *length,
            Content::Directory | Content::Link(_) | Content::Pipe => 0,
        }
    }

    fn header(&self) -> [u8; BLOCK as usize] {
        let (kind, target) = match &self.content {
            Content::Directory => (b'5', ""),
            Content::File(..) => (b'0', ""),
            Content::Link(target) => (b'2', target.as_str()),
            Content::Pipe => (b'6', ""),
        };
        assert!(self.path.len() <= 100 && target.len() <= 100, "{}: more than 100 bytes", self.path);
        let mut header = [0; BLOCK as usize];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, self.path.as_bytes());
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, b"0000000\x000000000\0");
        put(124, format!("{:011o}\0{:011o}\0", self.length(), 0).as_bytes());
        // The sum is made with blanks in its own place.
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }
}

/// How many bytes [`write`] will write.
pub fn size(files: &[Entry]) -> u64 {
    let of_entries: u64 = files.iter().map(|file| BLOCK + file.length().next_multiple_of(BLOCK)).sum();
    of_entries + 2 * BLOCK
}

/// Writes the archive.
pub fn write(files: &[Entry], sink: &mut dyn Write) -> io::Result<()> {
    for file in files {
        sink.write_all(&file.header())?;
        if let Content::File(source, length) = &file.content {
            // No more than was announced, and not less.
            let copied = io::copy(&mut File::open(source)?.take(*length), sink)?;
            if copied != *length {
                return Err(io::Error::other(format!("{} has become shorter", source.display())));
            }
            let padding = length.next_multiple_of(BLOCK) - length;
            io::copy(&mut io::repeat(0).take(padding), sink)?;
        }
    }
    io::copy(&mut io::repeat(0).take(2 * BLOCK), sink).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::fs::{FileTypeExt as _, MetadataExt as _},
        process::{Command, Stdio},
    };

    #[test]
    fn another_program_unpacks_what_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        // Neither empty nor a whole number of blocks.
        fs::write(&source, vec![7; 1_000_001]).unwrap();
        let files = [
            Entry::directory("deep", 0o1777),
            Entry::program("deep/program", &source),
            Entry::link("deep/link", "program"),
            Entry::pipe("pipe", 0o622),
        ];
        let mut archive = Vec::new();
        write(&files, &mut archive).unwrap();
        assert_eq!(archive.len() as u64, size(&files));

        let mut tar = Command::new("tar");
        tar.args(["-x", "-p", "-C"]).arg(dir.path()).stdin(Stdio::piped());
        let mut tar = tar.spawn().unwrap();
        tar.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(tar.wait().unwrap().success());
        let mode = |path: &str| fs::symlink_metadata(dir.path().join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("deep"), mode("deep/program")), (0o1777, 0o755));
        assert!(fs::symlink_metadata(dir.path().join("pipe")).unwrap().file_type().is_fifo());
        assert_eq!(mode("pipe"), 0o622);
        assert_eq!(fs::read(dir.path().join("deep/link")).unwrap(), fs::read(&source).unwrap());
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let source = tempfile::NamedTempFile::new().unwrap();
        fs::write(source.path(), "long").unwrap();
        let files = [Entry::program("a", source.path())];
        fs::write(source.path(), "l").unwrap();
        assert!(write(&files, &mut io::sink()).is_err());
    }
}
