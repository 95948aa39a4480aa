//! Finds the server, connects to it and runs single commands on it.
//!
//! Invariants: with sentinels, every connection that is made goes to the master that they name at that time and that
//! says of itself that it is one; a command is sent at most once.

use std::{fs, path::Path, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ProtocolVersion, RedisError, RedisResult,
    TlsCertificates, aio::MultiplexedConnection,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::timeout;

use crate::{
    address::Nodes,
    lines::{Lines, PoolError},
    options::{OpenError, Options},
    sentinels::Sentinels,
    translate::{Failure, Server},
};

/// The way to Redis.
pub(crate) struct Connector {
    nodes: Arc<Finder>,
    commands: Lines,
    config: AsyncConnectionConfig,
    answer_timeout: Duration,
    server: Server,
}

/// Knows where the server is.
pub(crate) enum Finder {
    /// Always there.
    Fixed(Box<Client>),
    /// Where these say.
    Sentinels(Sentinels),
}

impl Connector {
    /// Prepares it; nothing is connected yet.
    pub(crate) fn new(nodes: Nodes, options: &Options) -> Result<Self, OpenError> {
        let secrets = [nodes.password().map(str::to_owned), options.sentinel_password.clone()];
        let server = Server::new(nodes.to_string(), secrets.into_iter().flatten());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_timeout))
            .set_response_timeout(Some(options.answer_timeout));
        let tls = nodes.tls();
        if options.ca_file.is_some() && !tls {
            return Err(OpenError::Misplaced { option: "a file of certificates", kind: "rediss://" });
        }
        if tls {
            // The library takes the process's provider. Where one is installed already, that one serves.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let unusable = |_: RedisError| OpenError::Address { what: "the library refuses it" };
        let nodes = match nodes {
            Nodes::One(info) => {
                if options.sentinel_password.is_some() {
                    return Err(OpenError::Misplaced {
                        option: "a password of the sentinels",
                        kind: "sentinels",
                    });
                }
                Finder::Fixed(Box::new(match &options.ca_file {
                    Some(path) => {
                        let certificates =
                            TlsCertificates { client_tls: None, root_cert: Some(authorities(path)?) };
                        Client::build_with_tls(info, certificates).map_err(unusable)?
                    }
                    None => Client::open(info).map_err(unusable)?,
                }))
            }
            Nodes::Master { mut sentinels, name, server } => {
                if let Some(password) = &options.sentinel_password {
                    for sentinel in &mut sentinels {
                        let settings = sentinel.redis_settings().clone().set_password(password);
                        *sentinel = sentinel.clone().set_redis_settings(settings);
                    }
                }
                Finder::Sentinels(Sentinels::new(sentinels, &name, &server).map_err(unusable)?)
            }
        };
        let nodes = Arc::new(nodes);
        // Half of the time for the check of a connection leaves the other half for a new one and the command.
        let commands = Lines::new(nodes.clone(), config.clone(), options.answer_timeout / 2)
            .map_err(|_| OpenError::Address { what: "the library refuses it" })?;
        Ok(Self { nodes, commands, config, answer_timeout: options.answer_timeout, server })
    }

    /// How this Redis is called in messages.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Runs a command on a pooled connection, within the time for an answer.
    pub(crate) async fn run(&self, command: &Cmd) -> Result<(), Failure> {
        // On loan until it is clear whether it goes back. With a failure comes whether the connection may be the cause.
        let mut line = None;
        let running = async {
            let got = self.commands.get().await.map_err(|error| match error {
                PoolError::Backend(error) => (true, self.server.failed(&error)),
                other => (true, self.server.other(&other.to_string())),
            });
            let line = line.insert(got?);
            command.exec_async(&mut line.connection).await.map_err(|error| {
                // A server that refuses a command answers, so the connection is fine.
                (error.is_io_error() || error.is_unrecoverable_error(), self.server.failed(&error))
            })
        };
        let done = timeout(self.answer_timeout, running).await;
        let done = done.unwrap_or_else(|_| Err((true, self.server.silent())));
        if let (Some(line), Err((true, _))) = (&line, &done) {
            self.commands.forget(line.era);
        }
        done.map_err(|(_, failure)| failure)
    }

    /// Lets go of the connections for commands: each of them may lead nowhere.
    pub(crate) fn forget(&self) {
        self.commands.forget_all();
    }

    /// Connects to listen: what the server pushes goes to `on_push`. Gives also where it leads.
    pub(crate) async fn listen(
        &self,
        on_push: impl redis::aio::AsyncPushSender,
    ) -> RedisResult<(MultiplexedConnection, ConnectionAddr)> {
        let info = self.nodes.find().await?.get_connection_info().clone();
        let address = info.addr().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let config = self.config.clone().set_push_sender(Arc::new(on_push));
        Ok((client.get_multiplexed_async_connection_with_config(&config).await?, address))
    }

    /// Whether the master is surely another one than that at `address`.
    pub(crate) async fn has_moved_from(&self, address: &ConnectionAddr) -> bool {
        match &*self.nodes {
            Finder::Fixed(_) => false,
            // Sentinels that are away say nothing about the master.
            Finder::Sentinels(sentinels) => {
                sentinels.find().await.is_ok_and(|client| client.get_connection_info().addr() != address)
            }
        }
    }
}

impl Finder {
    /// Where the server is now.
    pub(crate) async fn find(&self) -> RedisResult<Client> {
        match self {
            Self::Fixed(client) => Ok(Client::clone(client)),
            Self::Sentinels(sentinels) => sentinels.find().await,
        }
    }
}

/// Reads the file, and checks it: the library would take one without certificates and then refuse every server.
fn authorities(path: &Path) -> Result<Vec<u8>, OpenError> {
    let pem = fs::read(path).map_err(|source| OpenError::Unreadable { path: path.to_owned(), source })?;
    let wrong = |what: String| OpenError::Certificates { path: path.to_owned(), what };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(wrong("there is none in PEM form".to_owned()));
    }
    Ok(pem)
}
