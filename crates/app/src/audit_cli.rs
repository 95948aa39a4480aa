//! The audit on the machine itself: the file that heads are exported to, and `aito audit verify`.
//!
//! Invariant: a head is appended, never rewritten; the file can be copied elsewhere at any time, and a copy that
//! nobody here can change is what proves that the chain was not made anew.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aito_application::audit::{HeadSink, verify};
use aito_domain::{
    audit::{AuditKey, Checkpoint, Head, unhex},
    time::millis,
};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{ServeArgs, config::Config, credentials};

/// The file's name within the data directory.
pub(crate) const HEADS: &str = "audit-heads.jsonl";

/// A signed head as a line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    n: u64,
    seal: String,
    /// Milliseconds since 1970.
    at: i64,
    signature: String,
}

/// Appends heads to a file.
pub(crate) struct HeadFile(pub(crate) PathBuf);

impl HeadSink for HeadFile {
    fn export(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let line = Line {
            n: checkpoint.head.n,
            seal: checkpoint.head.seal.to_string(),
            at: checkpoint.at.timestamp_millis(),
            signature: checkpoint.signature_text(),
        };
        let mut text = serde_json::to_string(&line).map_err(|why| why.to_string())?;
        text.push('\n');
        append(&self.0, text).map_err(|why| format!("{}: {why}", self.0.display()))
    }
}

/// Adds a line, on a line of its own also after one that a crash cut off.
fn append(path: &Path, mut line: String) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            line.insert(0, '\n');
        }
    }
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

/// What `aito audit verify` takes.
#[derive(Args, Debug, Clone)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    /// A file of exported heads, best a copy that was kept elsewhere [default: the data directory's own]
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
}

/// Gives what was found, or what is broken.
pub(crate) fn run(config: Config, args: &VerifyArgs) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| format!("cannot start: {why}"))?;
    runtime.block_on(async {
        let (stores, file) = credentials::opened(&config).await?;
        let path = args.heads.clone().unwrap_or_else(|| config.data_dir.join(HEADS));
        let (heads, torn) = read(&path, args.heads.is_some())?;
        let public = AuditKey::new(&file.key).public();
        let found = verify(&*stores.audit, &public, &heads).await.map_err(|why| why.to_string())?;
        let begins = match found.after {
            0 => "from the first one on".to_owned(),
            n => format!("after {n}, up to which a signed checkpoint stands for what was forgotten"),
        };
        let torn = match torn {
            0 => String::new(),
            n => format!("; {n} lines are cut off"),
        };
        Ok(format!(
            "the audit is whole: {} entries {begins}\nhead        {} {}\nexported    {} of {} heads in {} lie in it \
             and agree{torn}\nunsealed    {} entries, of which nothing is proven yet\nkey         {public}",
            found.entries,
            found.head.n,
            found.head.seal,
            found.exported,
            heads.len(),
            path.display(),
            found.unsealed,
        ))
    })
}

/// The heads of a file, and how many of its lines are none: what a crash has cut off.
fn read(path: &Path, must_exist: bool) -> Result<(Vec<Checkpoint>, usize), String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound && !must_exist => String::new(),
        Err(why) => return Err(format!("{}: {why}", path.display())),
    };
    let (mut heads, mut torn) = (Vec::new(), 0);
    for (n, line) in text.lines().enumerate() {
        match checkpoint(line) {
            Some(head) => heads.push(head),
            // The beginning of one: a crash has cut it off.
            None if line.starts_with("{\"n\":") && !line.ends_with('}') => torn += 1,
            None => return Err(format!("{}: line {} is no head", path.display(), n + 1)),
        }
    }
    Ok((heads, torn))
}

fn checkpoint(line: &str) -> Option<Checkpoint> {
    let line: Line = serde_json::from_str(line).ok()?;
    let head = Head { n: line.n, seal: line.seal.parse().ok()? };
    Some(Checkpoint { head, at: millis(line.at), signature: unhex(&line.signature)? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use aito_domain::{audit::Seal, installation::InstallationKey};

    #[test]
    fn exported_heads_are_read_back_and_a_torn_line_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(HEADS);
        let key = AuditKey::new(&InstallationKey::new([7; 32]));
        let heads = [1, 2].map(|n| key.sign(Head { n, seal: Seal([3; 32]) }, millis(5)));
        for head in &heads {
            HeadFile(path.clone()).export(head).unwrap();
        }
        assert_eq!(read(&path, true).unwrap(), (heads.to_vec(), 0));
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(read(&path, true).unwrap(), (heads[..1].to_vec(), 1));
        // What comes after a torn line stands on a line of its own.
        HeadFile(path.clone()).export(&heads[1]).unwrap();
        assert_eq!(read(&path, true).unwrap(), (heads.to_vec(), 1));
        std::fs::write(&path, format!("{whole}x\n")).unwrap();
        assert!(read(&path, true).unwrap_err().contains("line 3"));
        assert!(read(&dir.path().join("none"), true).is_err());
        assert_eq!(read(&dir.path().join("none"), false).unwrap(), (vec![], 0));
    }
}
