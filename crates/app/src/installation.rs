//! Finds out which installation this is: made once, recognised ever after, never mixed up.
//!
//! Invariants: the file in the data directory and the record in the store name the same installation, epoch
//! and key, or the server does not start; the store is opened before the file is written, so a file beside no
//! store means that the store was lost, and nothing is begun anew over that.

use std::path::{Path, PathBuf};

use aito_domain::{
    id::InstallationId,
    installation::{Epoch, InstallationKey, InstallationRecord, RuntimeKind},
    ports::{clock::IdSource, installation_store::InstallationStore},
};
use aito_embedded::data_dir::{DataDir, InstallationFile, StoreKind};
use tracing::warn;

use crate::{sockets, system};

/// What the runtime of a new installation is, and the name of its engine.
pub(crate) struct Engine {
    pub(crate) runtime: RuntimeKind,
    pub(crate) engine_id: String,
}

/// Refuses to go on when there was a store and it is gone; to be asked before the store is opened, which would
/// make a new one.
pub(crate) fn check_store_file(data: &DataDir, db: &Path) -> Result<(), String> {
    if data.installation_file().exists() && !db.exists() {
        return Err(format!(
            "{} says that this installation keeps its state in {}, which is not there; restore it, or remove \
             {} to begin a new installation",
            data.installation_file().display(),
            db.display(),
            data.installation_file().display()
        ));
    }
    Ok(())
}

/// The installation that data directory and store belong to; a new one if neither holds any.
pub(crate) async fn settle(
    data: &DataDir,
    store: &dyn InstallationStore,
    ids: &dyn IdSource,
    engine: Engine,
    socket_dir: Option<PathBuf>,
) -> Result<InstallationFile, String> {
    let path = data.installation_file();
    let file = data.read_installation().map_err(|why| why.to_string())?;
    let record = store.load().await.map_err(|why| format!("the store cannot be read: {}", chain(&why)))?;
    let mut file = match (file, record) {
        (None, Some(record)) => {
            return Err(format!(
                "the store belongs to installation {} (key {}), whose file {} is missing: put it back",
                record.id,
                record.key_fingerprint,
                path.display()
            ));
        }
        (Some(file), Some(record)) => {
            check(&file, &record, &path)?;
            file
        }
        (Some(_), None) if ran_before(&data.agents()) => {
            return Err(format!(
                "{} is empty, but agents were started in this data directory: restore it, or remove {} and {} to \
                 begin a new installation",
                data.db().display(),
                path.display(),
                data.agents().display()
            ));
        }
        (Some(mut file), None) => {
            // A first start that was cut short between the two, or an emptied store: positions that anybody
            // may have seen mean nothing in it.
            warn!("the store holds no installation: beginning a new epoch of the event log");
            file.epoch = new_epoch()?;
            data.write_installation(&file).map_err(|why| why.to_string())?;
            record_in(store, &file).await?;
            file
        }
        (None, None) => {
            let id = InstallationId(ids.uuid());
            let file = InstallationFile {
                id,
                epoch: new_epoch()?,
                key: InstallationKey::new(system::random()?),
                runtime: engine.runtime,
                engine_id: engine.engine_id,
                store: StoreKind::Sqlite,
                socket_dir: socket_dir.clone().unwrap_or_else(|| sockets::choose(id)),
            };
            data.write_installation(&file).map_err(|why| why.to_string())?;
            record_in(store, &file).await?;
            file
        }
    };
    if let Some(dir) = socket_dir.filter(|dir| *dir != file.socket_dir) {
        warn!(from = %file.socket_dir.display(), to = %dir.display(), "socket_dir was changed: agents that run must be restarted to find it");
        file.socket_dir = dir;
        data.write_installation(&file).map_err(|why| why.to_string())?;
    }
    Ok(file)
}

/// Whether any agent was ever started: each that was has a directory.
fn ran_before(agents: &Path) -> bool {
    let entries = std::fs::read_dir(agents).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn new_epoch() -> Result<Epoch, String> {
    system::random().map(Epoch::from_random)
}

async fn record_in(store: &dyn InstallationStore, file: &InstallationFile) -> Result<(), String> {
    let record = InstallationRecord {
        id: file.id,
        epoch: file.epoch.clone(),
        key_fingerprint: file.key.fingerprint(),
        runtime: file.runtime,
        engine_id: file.engine_id.clone(),
    };
    let stands =
        store.create(&record).await.map_err(|why| format!("the store cannot be written: {}", chain(&why)))?;
    if stands == record {
        Ok(())
    } else {
        Err("another server has just made an installation in this store".into())
    }
}

fn check(file: &InstallationFile, record: &InstallationRecord, path: &Path) -> Result<(), String> {
    let differs = if file.id != record.id {
        format!("installation {} and the store {}", file.id, record.id)
    } else if file.key.fingerprint() != record.key_fingerprint {
        format!("key {} and the store {}", file.key.fingerprint(), record.key_fingerprint)
    } else if file.epoch != record.epoch {
        format!("epoch {} and the store {}", file.epoch, record.epoch)
    } else if file.runtime != record.runtime {
        format!("runtime {} and the store {}", file.runtime, record.runtime)
    } else {
        return Ok(());
    };
    Err(format!("{} names {differs}: they do not belong together", path.display()))
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
