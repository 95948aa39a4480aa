//! What the bus needs to know, and why it may refuse it.
//!
//! Invariant: nothing here shows a password.

use std::{fmt, path::PathBuf, time::Duration};

use crate::address::{self, Nodes};

/// What the bus needs to know. [`Options::new`] and [`Options::sentinel`] say where Redis is; the rest has defaults.
#[derive(Clone)]
pub struct Options {
    /// Where Redis is.
    pub place: Place,
    /// Put before the name of every channel, so that two installations share one Redis: channels ignore the database
    /// number. Letters, digits, `-`, `_` and `:`; may be empty, which is the default. End it with `:`.
    pub prefix: String,
    /// The user of the servers, in place of the one in the URL.
    pub user: Option<String>,
    /// The password of the servers, in place of the one in the URL.
    pub password: Option<String>,
    /// The password of the sentinels themselves, which the one of the servers is not; only for sentinels.
    pub sentinel_password: Option<String>,
    /// Certificates (PEM) of the authorities that may have signed the server's, in place of the public ones; only for
    /// `rediss://`.
    pub ca_file: Option<PathBuf>,
    /// How long making a connection may take, from the look-up of the name to the accepted password. Default 2 s.
    pub connect_timeout: Duration,
    /// How long publishing, subscribing and a ping may take, a connection included where it is needed. The connection
    /// that listens is asked for an answer this often, so its death in silence is noticed after twice this time.
    /// Default 2 s.
    pub answer_timeout: Duration,
}

/// Where Redis is.
#[derive(Clone)]
pub enum Place {
    /// A URL; see [`Options::new`].
    Url(String),
    /// What sentinels know; see [`Options::sentinel`].
    Sentinels {
        /// Where the sentinels are, `host[:port]` each.
        sentinels: Vec<String>,
        /// The name under which they watch the master.
        master: String,
    },
}

impl Options {
    /// Redis at a URL: `redis://[user:password@]host[:port][/database]`, `rediss://…` with TLS,
    /// `redis+unix:///path[?db=…&user=…&pass=…]`, or
    /// `redis-sentinel://[user:password@]host[:port][,host[:port]…]/master` (user and password are the servers').
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self::at(Place::Url(url.into()))
    }

    /// The master of this name, as those sentinels (`host[:port]`, port 26379 unless given) know it.
    #[must_use]
    pub fn sentinel(sentinels: Vec<String>, master: impl Into<String>) -> Self {
        Self::at(Place::Sentinels { sentinels, master: master.into() })
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            prefix: String::new(),
            user: None,
            password: None,
            sentinel_password: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(2),
        }
    }
}

impl Place {
    pub(crate) fn nodes(&self) -> Result<Nodes, &'static str> {
        match self {
            Self::Url(url) => address::parse_url(url),
            Self::Sentinels { sentinels, master } => {
                address::parse_sentinels(sentinels.iter().map(String::as_str), master)
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nodes() {
            Ok(nodes) => write!(f, "{nodes}"),
            Err(what) => write!(f, "unusable: {what}"),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("place", &self.place)
            .field("prefix", &self.prefix)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("sentinel_password", &self.sentinel_password.as_ref().map(|_| "***"))
            .field("ca_file", &self.ca_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("answer_timeout", &self.answer_timeout)
            .finish()
    }
}

/// Why a bus cannot be opened: the options are wrong. That Redis does not answer is no reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL or the list of sentinels. It is not repeated here, since it may hold a password.
    #[error("the address of Redis cannot be used: {what}; allowed are {}", address::ALLOWED)]
    Address {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The prefix.
    #[error("`{prefix}` cannot be a prefix of Redis channels: allowed are letters, digits, `-`, `_` and `:`")]
    Prefix {
        /// As it was given.
        prefix: String,
    },
    /// An option that this kind of address does not have.
    #[error("{option} is only for {kind}")]
    Misplaced {
        /// The option.
        option: &'static str,
        /// What it is for.
        kind: &'static str,
    },
    /// The file of certificates cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file has no usable certificates.
    #[error("{} holds no certificates that can be used: {what}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}
