//! Where a server listens.
//!
//! Invariants:
//! - A TCP endpoint is plain `http` without path, query or user; there is no TLS here.
//! - Over a Unix socket the requests name the host `localhost`, as the server's host check expects.

use reqwest::Url;
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://host:port`.
    Tcp(Url),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// A text that is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address of a server: {0} (allowed: http://host:port or the path of a Unix socket)")]
pub struct EndpointError(String);

impl Endpoint {
    /// The server behind the Unix socket at `path`.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::Unix(path.as_ref().to_owned())
    }

    /// The address that requests are written against.
    pub(crate) fn base(&self) -> Url {
        match self {
            Self::Tcp(url) => url.clone(),
            Self::Unix(_) => LOCALHOST.parse().unwrap_or_else(|_| unreachable!("the constant is a URL")),
        }
    }
}

const LOCALHOST: &str = "http://localhost/";

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Reads `http://host[:port]`, `unix:PATH` or an absolute path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::unix(path));
        }
        if text.starts_with('/') {
            return Ok(Self::unix(text));
        }
        let refused = || EndpointError(text.to_owned());
        let url: Url = text.parse().map_err(|_| refused())?;
        let plain = url.scheme() == "http"
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if plain { Ok(Self::Tcp(url)) } else { Err(refused()) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_allowed() {
        for (text, shown) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080/", "http://[::1]:8080"),
            ("/run/aito/a.sock", "unix:/run/aito/a.sock"),
            ("unix:a.sock", "unix:a.sock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "unix:",
            "localhost:8080",
            "https://a",
            "http://a/path",
            "http://a/?b",
            "http://u:p@a",
            "ftp://a",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("http://host:port"), "{text}: {error}");
        }
    }
}
