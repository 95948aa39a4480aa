//! `aito watch`: prints what happens as it happens, one frame of the WebSocket a line.
//!
//! Invariants:
//! - Once an event was printed, every later one is, exactly once, also across restarts of the server.
//! - A line is JSON, and nothing in it makes a terminal act, whoever wrote it.
//! - The token comes from a file or the environment, never from the command line, and is never printed.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aito_client::{Client, Error, Item, Options, ResumingEvents, Token};
use aito_domain::display::{Sink, display_safe};
use clap::Args;

/// The token, for who has no file for it.
pub(crate) const TOKEN_VARIABLE: &str = "AITO_TOKEN";

/// The most bytes read of a token's file.
const MAX_TOKEN_FILE: u64 = 8192;

/// What to print, and from where.
#[derive(Args, Debug, Clone)]
pub(crate) struct WatchArgs {
    /// The server: http://host:port, or the path of a Unix socket
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A file of yours alone (mode 600) whose first line is the token [default: the variable AITO_TOKEN, if set]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Only these kinds of frame, separated by commas: agent_status, decision_vote, worker_log, event
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    types: Vec<String>,
    /// Begin after this position, as an event carries it
    #[arg(long, value_name = "POSITION")]
    since: Option<String>,
}

pub(crate) fn run(args: &WatchArgs) -> Result<(), String> {
    // What the server says stands in errors too; each is one line.
    watch(args).map_err(|why| display_safe(&why, Sink::Log).into_owned())
}

fn watch(args: &WatchArgs) -> Result<(), String> {
    let endpoint = args.url.parse().map_err(|why| format!("--url: {why}"))?;
    let token = token(args.token_file.as_deref(), std::env::var_os(TOKEN_VARIABLE))?;
    let known = token.is_some();
    let options = Options { token, ..Options::default() };
    let client = Client::new(endpoint, options).map_err(|why| why.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let followed = runtime.map_err(|why| why.to_string())?.block_on(follow(client, args));
    followed.map_err(|why| match why {
        Failure::Server(why) if why.status() == Some(401) && !known => {
            format!("{why}; a token is given with --token-file or in {TOKEN_VARIABLE}")
        }
        Failure::Server(why) => why.to_string(),
        Failure::Other(why) => why,
    })
}

/// Why a watch ended that was not meant to.
enum Failure {
    Server(Error),
    Other(String),
}

async fn follow(client: Client, args: &WatchArgs) -> Result<(), Failure> {
    // A server that is not there is said at once; one that goes away later is waited for.
    client.health().await.map_err(|why| match why {
        why @ Error::Unavailable { .. } => Failure::Other(format!("{} does not answer: {why}", args.url)),
        why => Failure::Server(why),
    })?;
    let types: Vec<&str> = args.types.iter().map(String::as_str).collect();
    let mut events = ResumingEvents::new(client, &types, args.since.clone());
    loop {
        let line = match events.next().await.map_err(Failure::Server)? {
            Item::Frame(frame) => serde_json::to_string(&frame),
            Item::Reset(reset) => {
                eprintln!("aito: events were missed: {}", display_safe(&reset.reason, Sink::Log));
                continue;
            }
        };
        let line = line.map_err(|why| Failure::Other(why.to_string()))?;
        let line = display_safe(&line, Sink::Json);
        // Whoever reads may go away; that ends the watch and is no failure.
        if writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush()).is_err() {
            return Ok(());
        }
    }
}

/// The token of the file, else of the variable; none if neither is given. Set and empty is a common way to unset.
fn token(file: Option<&Path>, variable: Option<OsString>) -> Result<Option<Token>, String> {
    if let Some(path) = file {
        return of_file(path).map(Some).map_err(|why| format!("--token-file {}: {why}", path.display()));
    }
    let Some(text) = variable.filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.into_string().unwrap_or_default();
    Token::new(text.trim()).map(Some).map_err(|why| format!("{TOKEN_VARIABLE}: {why}"))
}

fn of_file(path: &Path) -> Result<Token, String> {
    let file = File::open(path).map_err(|why| why.to_string())?;
    // Of the file that is open: the name may lead to another one by now.
    let mode = file.metadata().map_err(|why| why.to_string())?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err("it holds a token but is open to others; run `chmod 600` on it".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_TOKEN_FILE).read_to_end(&mut bytes).map_err(|why| why.to_string())?;
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(first).unwrap_or_default();
    Token::new(text.trim()).map_err(|why| format!("its first line is {why}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir, text: &[u8], mode: u32) -> PathBuf {
        let path = dir.path().join("token");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_token_is_the_first_line_of_its_file_before_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Token::new("aito_file").unwrap();
        for text in ["aito_file", "aito_file\n", "aito_file\r\n# of the dashboard\n"] {
            let path = file(&dir, text.as_bytes(), 0o600);
            assert_eq!(
                token(Some(&path), Some("aito_variable".into())),
                Ok(Some(wanted.clone())),
                "{text:?}"
            );
        }
        assert_eq!(token(None, Some("aito_variable".into())), Ok(Some(Token::new("aito_variable").unwrap())));
        assert_eq!(token(None, Some(OsString::new())), Ok(None));
        assert_eq!(token(None, None), Ok(None));
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        for text in [&b"\naito_s3cret"[..], b"aito s3cret", b"s3cret\xff", b"", &[b's'; 9000]] {
            let path = file(&dir, text, 0o600);
            let why = token(Some(&path), None).unwrap_err();
            assert!(
                why.contains("--token-file") && !why.contains("s3cret") && !why.contains("ssss"),
                "{why}"
            );
        }
        let why = token(None, Some("aito s3cret".into())).unwrap_err();
        assert!(why.contains("AITO_TOKEN") && !why.contains("s3cret"), "{why}");
        assert!(token(Some(&dir.path().join("none")), Some("aito_variable".into())).is_err());
    }

    #[test]
    fn a_file_that_is_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o620] {
            let path = file(&dir, b"aito_s3cret\n", mode);
            let why = token(Some(&path), None).unwrap_err();
            assert!(why.contains("chmod 600") && !why.contains("s3cret"), "{why}");
        }
        assert!(token(Some(&file(&dir, b"aito_s3cret\n", 0o400)), None).is_ok());
    }
}
