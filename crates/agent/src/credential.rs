//! Taking the credential: read the file, unlink it, keep the token in memory.
//!
//! Invariants:
//! - After [`take`] returns a token, the file is gone; if it cannot be unlinked there is no token.
//! - No error text holds any of the file's content.

use aito_client::Token;
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

const MAX: u64 = 8192;

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("cannot read the credential file {0}: {1}")]
    Read(String, io::Error),
    #[error("cannot unlink the credential file {0}: {1}")]
    Unlink(String, io::Error),
    #[error("the credential file {0} holds no token (allowed: 1 to 4096 visible ASCII characters)")]
    NotAToken(String),
}

/// Reads the token and unlinks its file. A symbolic link is refused: it would be unlinked in place of the file.
pub(crate) fn take(path: &Path) -> Result<Token, CredentialError> {
    let shown = path.display().to_string();
    let read = || -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| CredentialError::Read(shown.clone(), error))?;
    std::fs::remove_file(path).map_err(|error| CredentialError::Unlink(shown.clone(), error))?;
    let text = String::from_utf8(bytes).map_err(|_| CredentialError::NotAToken(shown.clone()))?;
    Token::new(text.trim()).map_err(|_| CredentialError::NotAToken(shown))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_gone_afterwards_also_when_it_holds_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credential");
        std::fs::write(&path, "s3cret\n").unwrap();
        assert_eq!(take(&path).unwrap(), Token::new("s3cret").unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "s3 cret").unwrap();
        let error = take(&path).unwrap_err().to_string();
        assert!(!path.exists() && !error.contains("cret\"") && !error.contains("s3 cret"), "{error}");
        assert!(matches!(take(&path), Err(CredentialError::Read(..))));
    }

    #[test]
    fn a_link_is_refused_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "s3cret").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(take(&link), Err(CredentialError::Read(..))));
        assert!(target.exists());
    }
}
