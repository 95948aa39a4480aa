//! The store and the bus that the configuration names, opened.
//!
//! Invariants: a store that is away for now is waited for, since servers may come up in any order; one that will never
//! do, such as a foreign database, ends the start with the reason; nothing here shows a password.

use std::{path::Path, sync::Arc, time::Duration};

use aito_domain::{
    installation::Epoch,
    ports::{
        agent_store::AgentStore, audit_store::AuditStore, bus::EventBus, clock::Clock,
        domain_store::DomainStore, event_log::EventLog, heartbeats::Heartbeats, history_store::HistoryStore,
        installation_store::InstallationStore, ledger::Ledger, mailbox_store::MailboxStore,
        quota_store::QuotaStore, settings_store::SettingsStore, state_store::StateStore,
        task_store::TaskStore, token_store::TokenStore,
    },
};
use aito_embedded::{
    bus::LocalBus,
    data_dir::StoreKind,
    sqlite::{self, SqliteStore},
};
use aito_postgres::PgStore;
use aito_redis::RedisBus;
use tracing::warn;

use crate::{
    config::{RedisConfig, RedisServer, masked},
    installation::chain,
};

/// How long the first pause between two tries is, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Every port of one store.
pub(crate) struct Stores {
    pub(crate) kind: StoreKind,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) agents: Arc<dyn AgentStore>,
    pub(crate) history: Arc<dyn HistoryStore>,
    pub(crate) heartbeats: Arc<dyn Heartbeats>,
    pub(crate) installation: Arc<dyn InstallationStore>,
    pub(crate) tokens: Arc<dyn TokenStore>,
    pub(crate) audit: Arc<dyn AuditStore>,
    pub(crate) tasks: Arc<dyn TaskStore>,
    pub(crate) mailbox: Arc<dyn MailboxStore>,
    pub(crate) domains: Arc<dyn DomainStore>,
    pub(crate) settings: Arc<dyn SettingsStore>,
    pub(crate) state: Arc<dyn StateStore>,
    pub(crate) quotas: Arc<dyn QuotaStore>,
    log: Box<dyn Fn(Epoch) -> Arc<dyn EventLog> + Send + Sync>,
    /// One line for people: where it is.
    pub(crate) place: String,
}

impl Stores {
    /// SQLite in the data directory.
    pub(crate) fn sqlite(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let store = SqliteStore::open(sqlite::Options::new(path, clock)).map_err(|why| chain(&why))?;
        Ok(Self {
            kind: StoreKind::Sqlite,
            ledger: store.clone(),
            agents: store.clone(),
            history: store.clone(),
            heartbeats: store.clone(),
            installation: store.clone(),
            tokens: store.clone(),
            audit: store.clone(),
            tasks: store.clone(),
            mailbox: store.clone(),
            domains: store.clone(),
            settings: store.clone(),
            state: store.clone(),
            quotas: store.clone(),
            log: Box::new(move |epoch| store.log(epoch)),
            place: format!("{} (SQLite)", path.display()),
        })
    }

    /// PostgreSQL at a URL; waits until it is there.
    pub(crate) async fn postgres(url: &str, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let mut pause = PAUSES.0;
        loop {
            match PgStore::open(aito_postgres::Options::new(url, clock.clone())).await {
                Ok(store) => return Ok(Self::of_postgres(store, url)),
                Err(why @ aito_postgres::OpenError::Unreachable { .. }) => {
                    warn!(why = chain(&why), database = masked(url), "waiting for the database");
                    clock.sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                Err(why) => return Err(chain(&why)),
            }
        }
    }

    /// PostgreSQL at a URL, if it is there now.
    pub(crate) async fn postgres_now(url: &str, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let store =
            PgStore::open(aito_postgres::Options::new(url, clock)).await.map_err(|why| chain(&why))?;
        Ok(Self::of_postgres(store, url))
    }

    fn of_postgres(store: Arc<PgStore>, url: &str) -> Self {
        Self {
            kind: StoreKind::Postgres,
            ledger: store.clone(),
            agents: store.clone(),
            history: store.clone(),
            heartbeats: store.clone(),
            installation: store.clone(),
            tokens: store.clone(),
            audit: store.clone(),
            tasks: store.clone(),
            mailbox: store.clone(),
            domains: store.clone(),
            settings: store.clone(),
            state: store.clone(),
            quotas: store.clone(),
            log: Box::new(move |epoch| store.log(epoch)),
            place: format!("{} (PostgreSQL)", masked(url)),
        }
    }

    /// The event log of an epoch.
    pub(crate) fn log(&self, epoch: Epoch) -> Arc<dyn EventLog> {
        (self.log)(epoch)
    }

    /// Whether other servers may use it at the same time.
    pub(crate) fn shared(&self) -> bool {
        self.kind == StoreKind::Postgres
    }
}

/// The bus, and one line for people about it. Redis may be down: it is found when it comes.
pub(crate) fn bus(config: Option<&RedisConfig>) -> Result<(Arc<dyn EventBus>, String), String> {
    let Some(config) = config else {
        return Ok((Arc::new(LocalBus::new()), "within this process".to_owned()));
    };
    let (mut options, place) = match &config.server {
        RedisServer::At(url) => (aito_redis::Options::new(url.clone()), masked(url)),
        RedisServer::Sentinels { sentinels, master_name } => (
            aito_redis::Options::sentinel(sentinels.clone(), master_name.clone()),
            format!("\"{master_name}\" by the sentinels {}", sentinels.join(", ")),
        ),
    };
    options.prefix.clone_from(&config.prefix);
    options.user.clone_from(&config.user);
    options.password.clone_from(&config.password);
    options.sentinel_password.clone_from(&config.sentinel_password);
    options.ca_file.clone_from(&config.ca_file);
    let bus = RedisBus::open(options).map_err(|why| format!("redis: {}", chain(&why)))?;
    let prefix = if config.prefix.is_empty() { String::new() } else { format!(", prefix {}", config.prefix) };
    Ok((bus, format!("{place} (Redis{prefix})")))
}
