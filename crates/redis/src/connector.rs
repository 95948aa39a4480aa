//! Finds the server, connects to it and runs single commands on it.
//!
//! Invariants: with sentinels, every connection that is made goes to the master that they name at that time and that
//! says of itself that it is one; a command is sent at most once; a connection on which one failed is not used again.

use std::{fs, path::Path, sync::Arc, time::Duration};

use deadpool_redis::{
    Manager, Pool, PoolError,
    sentinel::{Manager as SentinelManager, Pool as SentinelPool, PoolError as SentinelPoolError},
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ProtocolVersion, RedisError, RedisResult,
    TlsCertificates,
    aio::MultiplexedConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::sync::Mutex;

use crate::{
    address::Nodes,
    options::{OpenError, Options},
    translate::{Failure, Server},
};

/// How many commands are under way at once; more of them wait.
const POOL: usize = 4;

/// The way to Redis.
pub(crate) struct Connector {
    nodes: Finder,
    commands: Commands,
    config: AsyncConnectionConfig,
    answer_timeout: Duration,
    server: Server,
}

enum Finder {
    Fixed(Client),
    /// Looking for the master needs it exclusively.
    Sentinels(Mutex<SentinelClient>),
}

enum Commands {
    Fixed(Pool),
    Sentinels(SentinelPool),
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
        let (nodes, commands) = match nodes {
            Nodes::One(info) => {
                if options.sentinel_password.is_some() {
                    return Err(OpenError::Misplaced {
                        option: "a password of the sentinels",
                        kind: "sentinels",
                    });
                }
                let client = match &options.ca_file {
                    Some(path) => {
                        let certificates =
                            TlsCertificates { client_tls: None, root_cert: Some(authorities(path)?) };
                        Client::build_with_tls(info, certificates).map_err(unusable)?
                    }
                    None => Client::open(info).map_err(unusable)?,
                };
                let manager = Manager::new_with_config(client.get_connection_info().clone(), config.clone())
                    .map_err(unusable)?;
                let pool = Pool::builder(manager).max_size(POOL).build().map_err(no_pool)?;
                (Finder::Fixed(client), Commands::Fixed(pool))
            }
            Nodes::Master { mut sentinels, name, server } => {
                if let Some(password) = &options.sentinel_password {
                    for sentinel in &mut sentinels {
                        let settings = sentinel.redis_settings().clone().set_password(password);
                        *sentinel = sentinel.clone().set_redis_settings(settings);
                    }
                }
                // The pool's own form of the same.
                let pooled = deadpool_redis::sentinel::SentinelNodeConnectionInfo {
                    tls_mode: None,
                    redis_connection_info: Some(deadpool_redis::RedisConnectionInfo {
                        username: server.username().map(str::to_owned),
                        password: server.password().map(str::to_owned),
                        ..Default::default()
                    }),
                };
                let manager = SentinelManager::new(
                    sentinels.clone(),
                    name.clone(),
                    Some(pooled),
                    deadpool_redis::sentinel::SentinelServerType::Master,
                )
                .map_err(unusable)?;
                let pool = SentinelPool::builder(manager).max_size(POOL).build().map_err(no_pool)?;
                let node = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(server)
                    .set_tcp_settings(TcpSettings::default().set_nodelay(true));
                let client = SentinelClient::build(sentinels, name, Some(node), SentinelServerType::Master)
                    .map_err(unusable)?;
                (Finder::Sentinels(Mutex::new(client)), Commands::Sentinels(pool))
            }
        };
        Ok(Self { nodes, commands, config, answer_timeout: options.answer_timeout, server })
    }

    /// How this Redis is called in messages.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Runs a command on a pooled connection.
    pub(crate) async fn run(&self, command: &Cmd) -> Result<(), Failure> {
        let done = match &self.commands {
            Commands::Fixed(pool) => match pool.get().await {
                Ok(mut connection) => command.exec_async(&mut connection).await,
                Err(PoolError::Backend(error)) => Err(error),
                Err(other) => return Err(self.server.other(&other.to_string())),
            },
            Commands::Sentinels(pool) => match pool.get().await {
                Ok(mut connection) => {
                    // This kind of pool cannot be told beforehand.
                    connection.set_response_timeout(self.answer_timeout);
                    command.exec_async(&mut connection).await
                }
                Err(SentinelPoolError::Backend(error)) => Err(error),
                Err(other) => return Err(self.server.other(&other.to_string())),
            },
        };
        done.map_err(|error| self.server.failed(&error))
    }

    /// Lets go of the pooled connections that nobody uses at the moment: after a failure, or when the master is
    /// another one, each of them may lead nowhere.
    pub(crate) fn forget(&self) {
        match &self.commands {
            Commands::Fixed(pool) => {
                pool.retain(|_, _| false);
            }
            Commands::Sentinels(pool) => {
                pool.retain(|_, _| false);
            }
        }
    }

    /// Connects to listen: what the server pushes goes to `on_push`. Gives also where it leads.
    pub(crate) async fn listen(
        &self,
        on_push: impl redis::aio::AsyncPushSender,
    ) -> RedisResult<(MultiplexedConnection, ConnectionAddr)> {
        let info = self.find().await?.get_connection_info().clone();
        let address = info.addr().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let config = self.config.clone().set_push_sender(Arc::new(on_push));
        Ok((client.get_multiplexed_async_connection_with_config(&config).await?, address))
    }

    /// Whether the master is surely another one than that at `address`.
    pub(crate) async fn has_moved_from(&self, address: &ConnectionAddr) -> bool {
        match &self.nodes {
            Finder::Fixed(_) => false,
            // Sentinels that are away say nothing about the master.
            Finder::Sentinels(_) => {
                self.find().await.is_ok_and(|client| client.get_connection_info().addr() != address)
            }
        }
    }

    async fn find(&self) -> RedisResult<Client> {
        match &self.nodes {
            Finder::Fixed(client) => Ok(client.clone()),
            Finder::Sentinels(client) => client.lock().await.async_get_client().await,
        }
    }
}

fn no_pool(_: deadpool_redis::BuildError) -> OpenError {
    OpenError::Address { what: "the library refuses it" }
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
