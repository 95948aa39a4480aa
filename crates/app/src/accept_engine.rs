//! `aito installation accept-engine`: names the engine on which an installation's agents run from now on.
//!
//! Invariants: it changes that name and nothing else, and only to that of an engine that answers; what is away it does
//! not wait for; servers that run find it by themselves at their next look.

use std::sync::Arc;

use aito_domain::{installation::RuntimeKind, ports::clock::Clock};

use crate::{config::Config, installation::chain, runtimes, stores::Stores, system::SystemClock};

/// Gives one line that says what was done.
pub(crate) fn run(config: Config) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| format!("cannot start: {why}"))?;
    runtime.block_on(accept(&config))
}

async fn accept(config: &Config) -> Result<String, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let stores = match &config.database_url {
        Some(url) => Stores::postgres_now(url, clock.clone()).await?,
        None => {
            let db = config.data_dir.join("aito.sqlite3");
            if !db.is_file() {
                return Err(format!(
                    "{} is not there: no server was ever started with this configuration",
                    db.display()
                ));
            }
            Stores::sqlite(&db, clock.clone())?
        }
    };
    let store = &*stores.installation;
    let record = store.load().await.map_err(|why| chain(&why))?;
    let Some(record) = record else { return Err("the store holds no installation".into()) };
    let engine = match record.runtime {
        RuntimeKind::Docker => runtimes::engine_id(config).await?,
        // Where other servers could come, the machine is compared like an engine.
        RuntimeKind::Process if stores.shared() => aito_embedded::process::engine_id(),
        RuntimeKind::Process => {
            return Err(
                "this installation runs its agents as local processes, held by the lock on its data \
                        directory; it has no engine to accept"
                    .into(),
            );
        }
    };
    let stands = store.set_engine(&record.engine_id, &engine).await.map_err(|why| chain(&why))?;
    match stands {
        Some(stands) if stands.engine_id == engine => Ok(format!(
            "installation {}: the engine is {engine}, it was {}",
            record.id,
            if record.engine_id.is_empty() { "not known" } else { &record.engine_id }
        )),
        _ => Err("somebody else has changed the engine just now; look again".into()),
    }
}
