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

/// What a new installation would be, and what this server brings to one that exists.
pub(crate) struct Proposal {
    /// Where its agents run.
    pub(crate) runtime: RuntimeKind,
    /// Their engine; empty when it does not answer yet.
    pub(crate) engine_id: String,
    /// Where its state lies.
    pub(crate) store: StoreKind,
    /// `None`: chosen by the installation's id.
    pub(crate) socket_dir: Option<PathBuf>,
    /// What this server was given to join; `None`: a new installation gets a fresh key.
    pub(crate) given: Option<Given>,
}

/// What `key_file` holds.
pub(crate) struct Given {
    key: InstallationKey,
    /// Where the server that it was taken from has its sockets, if that is on this machine.
    socket_dir: Option<PathBuf>,
}

/// Refuses to go on when there was a store and it is gone; to be asked before the store is opened, which would
/// make a new one.
pub(crate) fn check_store_file(data: &DataDir, db: &Path) -> Result<(), String> {
    check_store_kind(data, StoreKind::Sqlite)?;
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

/// How the agents of the installation that data directory or store belong to are run; `None` before its first start.
pub(crate) async fn runtime_of(
    data: &DataDir,
    store: &dyn InstallationStore,
) -> Result<Option<RuntimeKind>, String> {
    if let Some(file) = data.read_installation().map_err(|why| why.to_string())? {
        return Ok(Some(file.runtime));
    }
    let record = store.load().await.map_err(|why| format!("the store cannot be read: {}", chain(&why)))?;
    Ok(record.map(|record| record.runtime))
}

/// Refuses another kind of store than the installation keeps its state in: nothing of it would be there.
pub(crate) fn check_store_kind(data: &DataDir, now: StoreKind) -> Result<(), String> {
    let before = data.read_installation().map_err(|why| why.to_string())?.map(|file| file.store);
    match (before, now) {
        (Some(StoreKind::Sqlite), StoreKind::Postgres) => Err(format!(
            "database_url is set, and this installation keeps its state in SQLite ({}); unset it, or use another data_dir",
            data.db().display()
        )),
        (Some(StoreKind::Postgres), StoreKind::Sqlite) => Err(
            "this installation keeps its state in PostgreSQL; set database_url (DATABASE_URL), or use another data_dir"
                .into(),
        ),
        _ => Ok(()),
    }
}

/// Reads an installation's key from a file: 64 hexadecimal digits, or the installation.json of another server.
pub(crate) fn read_key(path: &Path) -> Result<Given, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let wrong = |what: &str| format!("key_file: {}: {what}", path.display());
    let found = std::fs::metadata(path).map_err(|why| wrong(&why.to_string()))?;
    if found.permissions().mode() & 0o077 != 0 {
        return Err(wrong("it holds the installation's key but is open to others; run `chmod 600` on it"));
    }
    let text = std::fs::read_to_string(path).map_err(|why| wrong(&why.to_string()))?;
    let text = text.trim();
    if let Ok(file) = serde_json::from_str::<InstallationFile>(text) {
        let socket_dir = Some(file.socket_dir).filter(|dir| dir.is_dir());
        return Ok(Given { key: file.key, socket_dir });
    }
    let pairs = text.as_bytes().chunks(2);
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = pairs.map(digits).collect();
    let key = bytes.filter(|_| text.len() == 64).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    key.map(|key| Given { key: InstallationKey::new(key), socket_dir: None }).ok_or_else(|| {
        wrong("must hold 64 hexadecimal digits, or be the installation.json of another server")
    })
}

/// The installation that data directory and store belong to; a new one if neither holds any; the store's, if this
/// server has its key.
pub(crate) async fn settle(
    data: &DataDir,
    store: &dyn InstallationStore,
    ids: &dyn IdSource,
    proposal: Proposal,
) -> Result<InstallationFile, String> {
    let Proposal { runtime, engine_id, store: kind, socket_dir, given } = proposal;
    let (key, beside) = given.map_or((None, None), |given| (Some(given.key), given.socket_dir));
    let path = data.installation_file();
    let file = data.read_installation().map_err(|why| why.to_string())?;
    let record = store.load().await.map_err(|why| format!("the store cannot be read: {}", chain(&why)))?;
    let mut file = match (file, record) {
        // Agents of one machine look for all its servers in one place.
        (None, Some(record)) => join(&record, kind, key, socket_dir.as_deref().or(beside.as_deref()), &path)?,
        (Some(file), Some(record)) => {
            check(&file, &record, &path)?;
            if key.is_some_and(|key| key != file.key) {
                return Err(format!("key_file holds another key than {}", path.display()));
            }
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
        (Some(file), None) if file.recorded && kind == StoreKind::Postgres => {
            return Err(format!(
                "the database holds no installation, but this server's is {}: restore the database, or remove {} to \
                 begin a new installation",
                file.id,
                path.display()
            ));
        }
        (Some(mut file), None) => {
            // A first start that was cut short between the two, or an emptied store: positions that anybody
            // may have seen mean nothing in it.
            warn!("the store holds no installation: beginning a new epoch of the event log");
            file.epoch = new_epoch()?;
            data.write_installation(&file).map_err(|why| why.to_string())?;
            begin(store, file, kind, socket_dir.as_deref(), &path).await?
        }
        (None, None) => {
            let id = InstallationId(ids.uuid());
            let file = InstallationFile {
                id,
                epoch: new_epoch()?,
                key: match key {
                    Some(key) => key,
                    None => InstallationKey::new(system::random()?),
                },
                runtime,
                engine_id,
                store: kind,
                recorded: false,
                socket_dir: socket_dir.clone().unwrap_or_else(|| sockets::choose(id)),
            };
            data.write_installation(&file).map_err(|why| why.to_string())?;
            let begun = begin(store, file, kind, socket_dir.as_deref(), &path).await;
            begun.inspect_err(|_| {
                // It names an installation that does not exist.
                let _ = std::fs::remove_file(&path);
            })?
        }
    };
    if let Some(dir) = socket_dir.filter(|dir| *dir != file.socket_dir) {
        warn!(from = %file.socket_dir.display(), to = %dir.display(), "socket_dir was changed: agents that run must be restarted to find it");
        file.socket_dir = dir;
    }
    file.recorded = true;
    if data.read_installation().map_err(|why| why.to_string())?.as_ref() != Some(&file) {
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

/// Records a new installation in the store; if another server was faster, this one joins its installation.
async fn begin(
    store: &dyn InstallationStore,
    file: InstallationFile,
    kind: StoreKind,
    socket_dir: Option<&Path>,
    path: &Path,
) -> Result<InstallationFile, String> {
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
        return Ok(file);
    }
    join(&stands, kind, Some(file.key), socket_dir, path)
}

/// What a server keeps of an installation that others have made.
fn join(
    record: &InstallationRecord,
    kind: StoreKind,
    key: Option<InstallationKey>,
    socket_dir: Option<&Path>,
    path: &Path,
) -> Result<InstallationFile, String> {
    let whose = format!("the store belongs to installation {} (key {})", record.id, record.key_fingerprint);
    if kind == StoreKind::Sqlite {
        return Err(format!("{whose}, whose file {} is missing: put it back", path.display()));
    }
    if record.runtime == RuntimeKind::Process {
        return Err(format!(
            "{whose}, whose agents are local processes of one server: put its file {} back; several servers need \
             the docker runtime",
            path.display()
        ));
    }
    let Some(key) = key else {
        return Err(format!(
            "{whose}, and this server has no key: set key_file to a copy of that key, or put {} back",
            path.display()
        ));
    };
    if key.fingerprint() != record.key_fingerprint {
        return Err(format!("{whose}, and this server has the key {}", key.fingerprint()));
    }
    Ok(InstallationFile {
        id: record.id,
        epoch: record.epoch.clone(),
        key,
        runtime: record.runtime,
        engine_id: record.engine_id.clone(),
        store: kind,
        recorded: true,
        socket_dir: socket_dir.map_or_else(|| sockets::choose(record.id), Path::to_owned),
    })
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
