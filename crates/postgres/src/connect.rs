//! Opens connections: what the URL says, and TLS that never falls back.
//!
//! Invariants: a connection that leaves this machine is encrypted, and the server's certificate and name are
//! verified, unless the URL says `sslmode=disable`; a mode that would silently do with less is refused. Every
//! connection has the settings of this module, given as it is opened; nothing is set on one later. None goes to a
//! server that takes no changes: what a standby shows may be old. The password is in no text that is shown.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio_postgres::{
    Config, NoTls,
    config::{Host, SslMode, TargetSessionAttrs},
    error::SqlState,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{OpenError, Options};

/// Silence on a connection after which the kernel asks whether the other side is there; three answers that do not
/// come, [`KEEPALIVE_INTERVAL`] apart, end it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Within how many milliseconds the server notices that a caller has gone away in the middle of a statement.
const GONE_AFTER: u32 = 1000;

/// What a connection is for, which decides its time limits on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Calls of the ports.
    Call,
    /// Migrations: they take their time, but wait for nobody's lock for long.
    Migrate,
    /// Numbering of events.
    Number,
    /// Notifications. They are no more than hints, so none waits for the disk.
    Signal,
}

/// Longest wait for the lock of migrations: another server may be migrating just now. Who holds it and stands still for
/// as long loses it.
pub(super) const MIGRATION_LOCK_WAIT: Duration = Duration::from_secs(60);

/// Why no connection could be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The server is not reached, or not by TLS, or does not answer in time.
    #[error("the server cannot be reached")]
    Unreachable(#[source] tokio_postgres::Error),
    /// The server answers, and refuses.
    #[error("the server refuses the connection")]
    Denied(#[source] tokio_postgres::Error),
    /// No answer in time.
    #[error("the server does not answer in time")]
    Late(#[source] tokio::time::error::Elapsed),
    /// The connection was lost before it could be used.
    #[error("the connection cannot be set up")]
    Unusable(#[source] ConnectionError),
}

/// Everything that is needed to open connections.
pub(super) struct Connector {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    options: String,
    connect_timeout: Duration,
    statement_timeout: Duration,
    idle_in_transaction_timeout: Duration,
    numbering_timeout: Duration,
}

impl Connector {
    /// Reads the URL and the certificates; opens nothing.
    pub(super) fn new(options: &Options) -> Result<Self, OpenError> {
        let (url, asked) = split(&options.url)?;
        let mut config: Config =
            url.parse().map_err(|error: tokio_postgres::Error| OpenError::BadUrl(told(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(OpenError::BadUrl("it names no host".to_owned()));
        }
        let tls = match asked.security(is_local(&config))? {
            Security::Plain => None,
            Security::Verified { roots } => Some(MakeRustlsConnect::new(client_config(roots)?)),
        };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        if config.get_application_name().is_none() {
            config.application_name("aito");
        }
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        // Servers are tried one after the other: one that is silent leaves time for the next.
        let places = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
        config.connect_timeout(options.connect_timeout / u32::try_from(places).unwrap_or(1));
        config.keepalives_idle(KEEPALIVE_IDLE);
        config.keepalives_interval(KEEPALIVE_INTERVAL);
        config.keepalives_retries(3);
        config.tcp_user_timeout(options.timeout);
        Ok(Self {
            tls,
            options: config.get_options().unwrap_or_default().to_owned(),
            config,
            connect_timeout: options.connect_timeout,
            statement_timeout: options.statement_timeout,
            idle_in_transaction_timeout: options.idle_in_transaction_timeout,
            numbering_timeout: options.numbering_timeout,
        })
    }

    /// Opens one. Must run on the runtime that is to drive it.
    pub(super) async fn open(&self, role: Role) -> Result<AsyncPgConnection, ConnectError> {
        let mut config = self.config.clone();
        config.options(self.settings(role));
        let opening = async {
            match &self.tls {
                None => {
                    let (client, connection) = config.connect(NoTls).await.map_err(sort)?;
                    AsyncPgConnection::try_from_client_and_connection(client, connection).await
                }
                Some(tls) => {
                    let (client, connection) = config.connect(tls.clone()).await.map_err(sort)?;
                    AsyncPgConnection::try_from_client_and_connection(client, connection).await
                }
            }
            .map_err(ConnectError::Unusable)
        };
        tokio::time::timeout(self.connect_timeout, opening).await.map_err(ConnectError::Late)?
    }

    /// The server's name for messages, without user and password.
    pub(super) fn server(&self) -> String {
        let database = self.config.get_dbname().unwrap_or("?");
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate().map(|(n, host)| {
            let port = ports.get(n).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        });
        format!("\"{database}\" at {}", hosts.collect::<Vec<_>>().join(","))
    }

    /// Options as the server reads them (`-c name=value`), after those of the URL, so that these hold. The
    /// isolation is named because numbering relies on it, and a database may have another default. No statement here
    /// is worth compiling; where the planner guesses too high (new tables), that took a second each time.
    fn settings(&self, role: Role) -> String {
        let none = Duration::ZERO;
        let (statement, idle, lock) = match role {
            Role::Call => (self.statement_timeout, self.idle_in_transaction_timeout, none),
            Role::Migrate => (none, MIGRATION_LOCK_WAIT, MIGRATION_LOCK_WAIT),
            // Whoever stands still with the lock must lose it before others give up waiting.
            Role::Number => (self.statement_timeout, self.numbering_timeout / 2, self.numbering_timeout),
            Role::Signal => (self.statement_timeout, self.idle_in_transaction_timeout, none),
        };
        let mut settings = format!(
            "{} -c default_transaction_isolation=read\\ committed -c jit=off \
             -c client_connection_check_interval={GONE_AFTER} -c statement_timeout={} -c idle_in_transaction_session_timeout={} -c lock_timeout={}",
            self.options,
            statement.as_millis(),
            idle.as_millis(),
            lock.as_millis(),
        );
        match role {
            // Every list walks through an index in its order. A planner that does not know how short a page is (a
            // generic plan) would rather read all that fits and sort it.
            Role::Call => settings.push_str(" -c enable_sort=off"),
            Role::Signal => settings.push_str(" -c synchronous_commit=off"),
            Role::Migrate | Role::Number => {}
        }
        settings.trim_start().to_owned()
    }
}

/// Sorts a failed attempt by what the operator can do about it.
fn sort(error: tokio_postgres::Error) -> ConnectError {
    let passing = [
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::INSUFFICIENT_RESOURCES,
        SqlState::OUT_OF_MEMORY,
        SqlState::DISK_FULL,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
    ];
    match error.code() {
        Some(code) if !passing.contains(code) => ConnectError::Denied(error),
        _ => ConnectError::Unreachable(error),
    }
}

/// What the URL says of TLS, which [`Config`] does not understand.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    mode: Option<String>,
    root_cert: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
enum Security {
    /// Unencrypted.
    Plain,
    /// Encrypted, with certificate and name verified, by the authorities of this file or by the usual ones.
    Verified { roots: Option<PathBuf> },
}

impl Asked {
    /// `is_local`: the server is on this machine, so that nobody listens in between.
    fn security(self, is_local: bool) -> Result<Security, OpenError> {
        match self.mode.as_deref() {
            Some("disable") if self.root_cert.is_some() => {
                Err(OpenError::BadUrl("sslrootcert has no use with sslmode=disable".to_owned()))
            }
            Some("disable") => Ok(Security::Plain),
            Some("require" | "verify-ca" | "verify-full") => Ok(Security::Verified { roots: self.root_cert }),
            Some(mode @ ("prefer" | "allow")) => Err(OpenError::BadUrl(format!(
                "sslmode={mode} silently goes on without encryption; say disable or verify-full"
            ))),
            Some(other) => Err(OpenError::BadUrl(format!(
                "sslmode={other} is none of disable, require, verify-ca, verify-full"
            ))),
            None if is_local && self.root_cert.is_none() => Ok(Security::Plain),
            None => Ok(Security::Verified { roots: self.root_cert }),
        }
    }
}

/// Takes `sslmode` and `sslrootcert` out of the URL.
fn split(url: &str) -> Result<(String, Asked), OpenError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(OpenError::BadUrl("it must begin with postgres:// or postgresql://".to_owned()));
    }
    let Some((place, query)) = url.split_once('?') else { return Ok((url.to_owned(), Asked::default())) };
    let (mut asked, mut kept) = (Asked::default(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let again = match name {
            "sslmode" => asked.mode.replace(decoded(value)?).is_some(),
            "sslrootcert" => asked.root_cert.replace(PathBuf::from(decoded(value)?)).is_some(),
            "connect_timeout"
            | "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "keepalives_retries"
            | "tcp_user_timeout"
            | "target_session_attrs" => {
                return Err(OpenError::BadUrl(format!("{name} is set by aito itself: leave it out")));
            }
            _ => {
                kept.push(pair);
                false
            }
        };
        if again {
            return Err(OpenError::BadUrl(format!("{name} is given twice")));
        }
    }
    let url = if kept.is_empty() { place.to_owned() } else { format!("{place}?{}", kept.join("&")) };
    Ok((url, asked))
}

/// Percent-decoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Result<String, OpenError> {
    let bad = || OpenError::BadUrl(format!("\"{text}\" is not well encoded"));
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let digits = piece.get(..2).ok_or_else(bad)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Whether every server that the URL names is on this machine.
fn is_local(config: &Config) -> bool {
    let addresses = config.get_hostaddrs();
    if !addresses.is_empty() {
        return addresses.iter().all(IpAddr::is_loopback);
    }
    config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    })
}

fn client_config(roots: Option<PathBuf>) -> Result<ClientConfig, OpenError> {
    let store = match roots {
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        Some(path) => {
            let unusable = |source| OpenError::Certificates { path: path.clone(), source };
            let mut store = RootCertStore::empty();
            for certificate in
                CertificateDer::pem_file_iter(&path).map_err(|error| unusable(Box::new(error)))?
            {
                let certificate = certificate.map_err(|error| unusable(Box::new(error)))?;
                store.add(certificate).map_err(|error| unusable(Box::new(error)))?;
            }
            if store.is_empty() {
                return Err(unusable("it holds no certificate".into()));
            }
            store
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::BadUrl(format!("TLS is not to be had: {error}")))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(config)
}

/// An error with its cause, which says what is wrong in the URL; it names keys, never values.
fn told(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use aito_contracts::clock::ManualClock;

    use super::*;

    fn connector(url: &str) -> Result<Connector, OpenError> {
        Connector::new(&Options::new(url, Arc::new(ManualClock::new())))
    }

    fn security(url: &str) -> Result<Security, OpenError> {
        let (rest, asked) = split(url)?;
        asked.security(is_local(&rest.parse().unwrap()))
    }

    #[test]
    fn what_leaves_the_machine_is_verified_unless_that_is_switched_off() {
        for plain in [
            "postgres://u@localhost/d",
            "postgresql://u@127.0.0.1:5433/d",
            "postgres://u@[::1]/d",
            "postgres://u@%2Frun%2Fpostgresql/d",
            "postgres://u@db.example/d?sslmode=disable",
            "postgres://u@db.example/d?hostaddr=127.0.0.1",
        ] {
            assert_eq!(security(plain).unwrap(), Security::Plain, "{plain}");
        }
        for verified in [
            "postgres://u@db.example/d",
            "postgres://u@localhost,db.example/d",
            "postgres://u@localhost/d?hostaddr=192.0.2.1",
            "postgres://u@localhost/d?sslmode=require",
            "postgres://u@db.example/d?sslmode=verify-ca",
            "postgres://u@db.example/d?application_name=x&sslmode=verify-full",
        ] {
            assert_eq!(security(verified).unwrap(), Security::Verified { roots: None }, "{verified}");
        }
        let roots = Security::Verified { roots: Some("/etc/my ca.pem".into()) };
        assert_eq!(security("postgres://u@localhost/d?sslrootcert=/etc/my%20ca.pem").unwrap(), roots);
    }

    #[test]
    fn a_url_that_asks_for_less_or_for_nonsense_is_refused_with_the_reason() {
        for (url, reason) in [
            ("postgres://u@db/d?sslmode=prefer", "silently goes on without encryption"),
            ("postgres://u@db/d?sslmode=allow", "silently goes on without encryption"),
            ("postgres://u@db/d?sslmode=on", "none of disable"),
            ("postgres://u@db/d?sslmode=disable&sslrootcert=/x", "no use"),
            ("postgres://u@db/d?sslmode=disable&sslmode=require", "given twice"),
            ("postgres://u@db/d?sslrootcert=%zz", "not well encoded"),
            ("mysql://u@db/d", "must begin with postgres://"),
            ("host=db user=u", "must begin with postgres://"),
            ("postgres://u@localhost/d?colour=red", "unknown option"),
            ("postgres://u@localhost/d?connect_timeout=3", "is set by aito itself"),
            ("postgres://u@a,b/d?target_session_attrs=any", "is set by aito itself"),
            ("postgres:///d?user=u", "names no host"),
        ] {
            let error = connector(url).err().unwrap_or_else(|| panic!("{url} was taken")).to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
        let missing = connector("postgres://u@db/d?sslrootcert=/nowhere/ca.pem").err().unwrap();
        assert!(missing.to_string().contains("/nowhere/ca.pem"), "{missing}");
    }

    #[test]
    fn the_password_is_not_shown() {
        let named = connector("postgres://u:secret@localhost:5433/books").unwrap().server();
        assert_eq!(named, "\"books\" at localhost:5433");
        for url in ["postgres://u:secret@localhost/d?x=1", "postgres://u:secret@localhost:port/d"] {
            let error = connector(url).err().unwrap();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn every_connection_is_given_its_limits_after_those_of_the_url() {
        let connector = connector("postgres://u@localhost/d?options=-c%20statement_timeout%3D1").unwrap();
        assert_eq!(
            connector.settings(Role::Call),
            "-c statement_timeout=1 -c default_transaction_isolation=read\\ committed -c jit=off \
             -c client_connection_check_interval=1000 -c statement_timeout=10000 -c idle_in_transaction_session_timeout=15000 -c lock_timeout=0 \
             -c enable_sort=off"
        );
        let idle = "-c idle_in_transaction_session_timeout";
        assert!(connector.settings(Role::Number).ends_with(&format!("{idle}=2500 -c lock_timeout=5000")));
        assert!(connector.settings(Role::Migrate).contains(&format!("-c statement_timeout=0 {idle}=60000")));
        assert!(connector.settings(Role::Signal).ends_with("-c synchronous_commit=off"));
    }
}
