//! Opens connections and brings the file to this binary's schema.
//!
//! Invariants: a file that is not ours, or that needs a later binary, is refused before a byte of it changes;
//! migrations run under the exclusive lock, so of two servers that open a new file one does the work; every
//! connection has the settings of this module, and there is no way to give it others. The file is never
//! opened other than through SQLite: closing any descriptor of it would drop the locks of the whole process.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use aito_domain::Cause;
use diesel::{
    connection::SimpleConnection as _,
    dsl::sql,
    prelude::*,
    result::Error as DieselError,
    sql_types::{BigInt, Text},
    sqlite::SqliteConnection,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::{
    schema,
    translate::{Meaning, meaning},
};

/// The schema that this binary knows. It opens every store whose `min_reader_version` is not above it.
pub const SCHEMA_VERSION: u32 = 4;

/// Bytes to which the write-ahead log is cut after a checkpoint.
const WAL_SIZE_LIMIT: u64 = 16 * 1024 * 1024;
/// Pages in the write-ahead log (4 KiB each) from which a commit moves them into the file.
const WAL_CHECKPOINT_PAGES: u32 = 1000;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system or SQLite refuses the file: no such directory, no right, no room.
    #[error("{} cannot be opened as a store", path.display())]
    Unopenable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The file belongs to something else; nothing of it was changed.
    #[error("{} is not a store of aito: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// A later version wrote the file and says that this one cannot read it; nothing of it was changed.
    #[error(
        "{} needs a version of aito that knows schema {needs}; this one knows {knows} \
         (the file was last migrated by aito {written_by})", path.display()
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The lowest schema version that may read it.
        needs: u64,
        /// [`SCHEMA_VERSION`].
        knows: u32,
        /// The version of the binary that migrated it last.
        written_by: String,
    },
    /// SQLite finds the file damaged.
    #[error("{} is damaged", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: Cause,
    },
    /// Somebody else holds the file's lock for longer than the configured time.
    #[error("{} is locked by another program", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: Cause,
    },
}

/// Opens the file for the first time in this process: checks that it is ours, migrates it, and gives the
/// connection that writes.
pub(super) fn prepare(path: &Path, busy_timeout: Duration) -> Result<SqliteConnection, OpenError> {
    let failed = |error: DieselError| classify(path, error);
    let is_new = !path.exists();
    let mut connection = establish(path, "rwc")
        .map_err(|source| OpenError::Unopenable { path: path.to_owned(), source: Box::new(source) })?;
    if is_new {
        // SQLite makes files that all may read; those it adds beside take this one's mode. A file system
        // without modes is served as well.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    }
    wait_for_locks(&mut connection, busy_timeout).map_err(failed)?;
    check_ownership(&mut connection, path)?;
    configure_writer(&mut connection).map_err(failed)?;
    connection
        .exclusive_transaction(|connection| {
            let done =
                connection.run_pending_migrations(MIGRATIONS).map_err(DieselError::QueryBuilderError)?;
            if !done.is_empty() {
                diesel::update(schema::schema_info::table)
                    .set(schema::schema_info::written_by.eq(env!("CARGO_PKG_VERSION")))
                    .execute(connection)?;
            }
            Ok(())
        })
        .map_err(failed)?;
    Ok(connection)
}

/// Opens another connection that writes, to a file that [`prepare`] has accepted before.
pub(super) fn writer(path: &Path, busy_timeout: Duration) -> Result<SqliteConnection, Cause> {
    let mut connection = establish(path, "rw")?;
    wait_for_locks(&mut connection, busy_timeout)?;
    configure_writer(&mut connection)?;
    Ok(connection)
}

/// Opens a connection that only reads, to a file that [`prepare`] has accepted before.
pub(super) fn reader(path: &Path, busy_timeout: Duration) -> Result<SqliteConnection, Cause> {
    let mut connection = establish(path, "ro")?;
    wait_for_locks(&mut connection, busy_timeout)?;
    // Sorting in memory: on a full disk there is no room for temporary files, and reads must go on.
    connection
        .batch_execute("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;")?;
    // The first read opens the log and its index, which a full disk might refuse later.
    let _: i64 = sql::<BigInt>("SELECT count(*) FROM schema_info").get_result(&mut connection)?;
    Ok(connection)
}

fn establish(path: &Path, mode: &str) -> ConnectionResult<SqliteConnection> {
    SqliteConnection::establish(&uri(path, mode))
}

/// The path as an SQLite URI (sqlite.org/uri.html): every byte that could mean something is escaped, so any
/// path works, also one that is not UTF-8.
fn uri(path: &Path, mode: &str) -> String {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_') {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri.push_str("?mode=");
    uri.push_str(mode);
    uri
}

fn wait_for_locks(connection: &mut SqliteConnection, at_most: Duration) -> QueryResult<()> {
    connection.batch_execute(&format!("PRAGMA busy_timeout = {};", at_most.as_millis().min(i32::MAX as u128)))
}

fn configure_writer(connection: &mut SqliteConnection) -> QueryResult<()> {
    let mode: String = sql::<Text>("PRAGMA journal_mode = WAL").get_result(connection)?;
    if mode != "wal" {
        let text = format!("the file system does not allow a write-ahead log (journal mode is {mode})");
        return Err(DieselError::QueryBuilderError(text.into()));
    }
    connection.batch_execute(&format!(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF;
         PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES};
         PRAGMA journal_size_limit = {WAL_SIZE_LIMIT};"
    ))
}

fn check_ownership(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let tables: Vec<String> =
        sql::<Text>("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name")
            .get_results(connection)
            .map_err(|error| classify(path, error))?;
    if tables.is_empty() {
        return Ok(());
    }
    let foreign = |what: String| OpenError::Foreign { path: path.to_owned(), what };
    if !tables.iter().any(|name| name == "schema_info") {
        let shown: Vec<&str> = tables.iter().take(3).map(String::as_str).collect();
        return Err(foreign(format!("it holds tables of something else ({})", shown.join(", "))));
    }
    let (needs, written_by): (i64, String) = schema::schema_info::table
        .select((schema::schema_info::min_reader_version, schema::schema_info::written_by))
        .first(connection)
        .map_err(|error| match meaning(&error) {
            Meaning::Corrupt | Meaning::Busy => classify(path, error),
            _ => foreign("its table schema_info is not ours".to_owned()),
        })?;
    if needs > i64::from(SCHEMA_VERSION) {
        return Err(OpenError::TooNew {
            path: path.to_owned(),
            needs: needs.unsigned_abs(),
            knows: SCHEMA_VERSION,
            written_by,
        });
    }
    Ok(())
}

fn classify(path: &Path, error: DieselError) -> OpenError {
    let path = path.to_owned();
    match meaning(&error) {
        Meaning::NotADatabase => OpenError::Foreign { path, what: "it is not an SQLite database".to_owned() },
        Meaning::Corrupt => OpenError::Corrupt { path, source: Box::new(error) },
        Meaning::Busy => OpenError::Busy { path, source: Box::new(error) },
        Meaning::Clash | Meaning::Full | Meaning::Other => {
            OpenError::Unopenable { path, source: Box::new(error) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(200);

    #[test]
    fn a_path_cannot_smuggle_in_parameters() {
        assert_eq!(
            uri(Path::new("/a b/c?mode=memory#x%.db"), "ro"),
            "file:/a%20b/c%3Fmode%3Dmemory%23x%25.db?mode=ro"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd ?#% name.sqlite3");
        drop(prepare(&path, WAIT).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn only_the_owner_may_read_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let connection = prepare(&dir.path().join("db"), WAIT).unwrap();
        let modes: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().permissions().mode() & 0o777))
            .collect();
        assert_eq!(modes.len(), 3, "the store, its log and the log's index: {modes:?}");
        assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
        drop(connection);
    }

    #[test]
    fn every_connection_has_its_settings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let pragma = |connection: &mut SqliteConnection, name: &str| -> i64 {
            sql::<BigInt>(&format!("PRAGMA {name}")).get_result(connection).unwrap()
        };
        let prepared = prepare(&path, WAIT).unwrap();
        for mut connection in [prepared, writer(&path, WAIT).unwrap()] {
            assert_eq!(pragma(&mut connection, "synchronous"), 2, "FULL");
            assert_eq!(pragma(&mut connection, "foreign_keys"), 1);
            assert_eq!(pragma(&mut connection, "temp_store"), 2, "MEMORY");
            assert_eq!(pragma(&mut connection, "busy_timeout"), 200);
            let mode: String = sql::<Text>("PRAGMA journal_mode").get_result(&mut connection).unwrap();
            assert_eq!(mode, "wal");
        }
        let mut reading = reader(&path, WAIT).unwrap();
        assert!(reading.batch_execute("DELETE FROM events").is_err(), "readers cannot write");
    }

    #[test]
    fn opening_again_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let count = |connection: &mut SqliteConnection| -> i64 {
            sql::<BigInt>("SELECT count(*) FROM __diesel_schema_migrations").get_result(connection).unwrap()
        };
        let first = count(&mut prepare(&path, WAIT).unwrap());
        assert!(first > 0);
        assert_eq!(count(&mut prepare(&path, WAIT).unwrap()), first);
    }

    #[test]
    fn servers_that_open_a_new_file_at_once_migrate_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        std::thread::scope(|scope| {
            let openers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| prepare(&path, Duration::from_secs(20)).map(drop))).collect();
            for opener in openers {
                opener.join().unwrap().unwrap();
            }
        });
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("notes.txt");
        fs::write(&text, "no database, whatever its name says; long enough to hold a header: ".repeat(40))
            .unwrap();
        assert!(
            matches!(prepare(&text, WAIT), Err(OpenError::Foreign { what, .. }) if what.contains("not an SQLite"))
        );

        let other = dir.path().join("other.db");
        let mut connection = SqliteConnection::establish(other.to_str().unwrap()).unwrap();
        connection.batch_execute("CREATE TABLE songs (title TEXT); CREATE TABLE users (name TEXT);").unwrap();
        drop(connection);
        let before = fs::read(&other).unwrap();
        assert!(
            matches!(prepare(&other, WAIT), Err(OpenError::Foreign { what, .. }) if what.contains("songs, users"))
        );
        assert_eq!(fs::read(&other).unwrap(), before, "journal mode and tables are as they were");
    }

    #[test]
    fn a_store_that_needs_a_later_binary_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut connection = prepare(&path, WAIT).unwrap();
        connection
            .batch_execute("UPDATE schema_info SET min_reader_version = 7, written_by = '9.8.7';")
            .unwrap();
        drop(connection);
        let error = prepare(&path, WAIT).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::TooNew { needs: 7, knows: SCHEMA_VERSION, .. }));
        let (text, knows) = (error.to_string(), format!("knows {SCHEMA_VERSION}"));
        assert!(text.contains("schema 7") && text.contains(&knows) && text.contains("9.8.7"), "{text}");
    }

    #[test]
    fn a_store_of_a_version_before_gains_what_it_lacks_and_stays_readable_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut connection = prepare(&path, WAIT).unwrap();
        for down in [
            include_str!("../../../../migrations/sqlite/0310_mailbox/down.sql"),
            include_str!("../../../../migrations/sqlite/0300_work/down.sql"),
            include_str!("../../../../migrations/sqlite/0200_guard/down.sql"),
        ] {
            connection.batch_execute(down).unwrap();
        }
        connection
            .batch_execute(
                "DELETE FROM __diesel_schema_migrations WHERE version IN ('0200', '0300', '0310');
                 INSERT INTO commits (id, outcome, at) VALUES (zeroblob(16), 'applied', 1);",
            )
            .unwrap();
        drop(connection);
        let mut connection = prepare(&path, WAIT).unwrap();
        let number = |connection: &mut SqliteConnection, query: &str| -> i64 {
            sql::<BigInt>(query).get_result(connection).unwrap()
        };
        assert_eq!(number(&mut connection, "SELECT n FROM audit_head"), 0);
        assert_eq!(number(&mut connection, "SELECT count(*) FROM tasks"), 0);
        assert_eq!(number(&mut connection, "SELECT count(*) FROM commits"), 1);
        assert_eq!(number(&mut connection, "SELECT min_reader_version FROM schema_info"), 1);
    }

    #[test]
    fn later_migrations_are_no_reason_to_refuse() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut connection = prepare(&path, WAIT).unwrap();
        connection
            .batch_execute(
                "INSERT INTO __diesel_schema_migrations (version) VALUES ('9999');
                 ALTER TABLE agents ADD COLUMN mood TEXT; CREATE TABLE moods (name TEXT) STRICT;",
            )
            .unwrap();
        drop(connection);
        prepare(&path, WAIT).unwrap();
    }

    #[test]
    fn damage_and_locks_and_missing_directories_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        drop(prepare(&path, WAIT).unwrap());
        let mut bytes = fs::read(&path).unwrap();
        for byte in &mut bytes[100..200] {
            *byte = 0xff;
        }
        fs::write(&path, bytes).unwrap();
        assert!(matches!(prepare(&path, WAIT), Err(OpenError::Corrupt { .. })));

        let path = dir.path().join("locked");
        let mut holder = prepare(&path, WAIT).unwrap();
        holder.batch_execute("BEGIN IMMEDIATE").unwrap();
        assert!(matches!(prepare(&path, WAIT), Err(OpenError::Busy { .. })));

        let nowhere = dir.path().join("missing/db");
        assert!(matches!(prepare(&nowhere, WAIT), Err(OpenError::Unopenable { .. })));
    }
}
