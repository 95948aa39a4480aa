//! Brings the database to this binary's schema.
//!
//! Invariants: a database that is not ours, or that needs a later binary, is refused before anything in it
//! changes; looking and migrating is one transaction under one lock, so of servers that meet a new database at the
//! same time one does the work, and one that dies half-way has done nothing.

use std::{path::PathBuf, time::Duration};

use aito_domain::Cause;
use diesel::{
    ExpressionMethods as _, QueryDsl as _,
    result::Error as DieselError,
    sql_types::{BigInt, Bool, Text},
};
use diesel_async::{
    AnsiTransactionManager, AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _,
    SimpleAsyncConnection as _, TransactionManager as _,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::{
    connect::{ConnectError, Connector, MIGRATION_LOCK_WAIT, Role},
    schema::schema_info,
    sql::Sql,
    translate::{Meaning, meaning},
};

/// The schema that this binary knows. It opens every store whose `min_reader_version` is not above it.
pub const SCHEMA_VERSION: u32 = 4;

/// How long a server that answers may take to be looked at: the wait for the lock, and a little.
const CHECKED_WITHIN: Duration = MIGRATION_LOCK_WAIT.saturating_add(Duration::from_secs(10));

/// The advisory lock under which a database is migrated.
const MIGRATION_LOCK: i64 = 0x6169_746f_0001;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not understood, or asks for what is not given.
    #[error("the database's URL cannot be used: {0}")]
    BadUrl(String),
    /// The certificate authorities of `sslrootcert` cannot be read.
    #[error("{} cannot be used as sslrootcert", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The server is not reached, or not by TLS as asked for, or not in time; trying later may help.
    #[error("the database {server} cannot be reached")]
    Unreachable {
        /// Database and server, without the password.
        server: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The server answers and refuses: user, password, no such database.
    #[error("the database {server} refuses the connection")]
    Denied {
        /// Database and server, without the password.
        server: String,
        /// What the server says.
        #[source]
        source: Cause,
    },
    /// The database belongs to something else; nothing in it was changed.
    #[error("the database {server} is not a store of aito: {what}")]
    Foreign {
        /// Database and server, without the password.
        server: String,
        /// What it is instead.
        what: String,
    },
    /// Its commits are not on the disk when they return (`synchronous_commit` is off).
    #[error(
        "the database {server} has synchronous_commit = off: what it acknowledges may be lost, and positions given twice"
    )]
    NotDurable {
        /// Database and server, without the password.
        server: String,
    },
    /// A later version wrote the database and says that this one cannot read it; nothing in it was changed.
    #[error(
        "the database {server} needs a version of aito that knows schema {needs}; this one knows {knows} \
         (it was last migrated by aito {written_by})"
    )]
    TooNew {
        /// Database and server, without the password.
        server: String,
        /// The lowest schema version that may read it.
        needs: u64,
        /// [`SCHEMA_VERSION`].
        knows: u32,
        /// The version of the binary that migrated it last.
        written_by: String,
    },
    /// The schema could not be looked at or brought up to date; nothing was changed.
    #[error("the database {server} cannot be prepared")]
    Unprepared {
        /// Database and server, without the password.
        server: String,
        /// What the server says.
        #[source]
        source: Cause,
    },
    /// The operating system gives no threads.
    #[error("no threads for connections can be started")]
    NoThreads(#[source] std::io::Error),
}

/// Connects for the first time, checks that the database is ours, migrates it. Must run on a runtime of several
/// threads: migrating blocks one.
pub(super) async fn prepare(connector: &Connector) -> Result<(), OpenError> {
    let server = connector.server();
    let mut connection = match connector.open(Role::Migrate).await {
        Ok(connection) => connection,
        Err(ConnectError::Denied(source)) => {
            return Err(OpenError::Denied { server, source: Box::new(source) });
        }
        Err(other) => return Err(OpenError::Unreachable { server, source: Box::new(other) }),
    };
    // Whatever ends this early closes the connection, and so rolls back.
    let unprepared = |source| failed(&server, source);
    let late = |late| OpenError::Unreachable { server: server.clone(), source: Box::new(late) };
    let checking = async {
        AnsiTransactionManager::begin_transaction(&mut connection).await.map_err(unprepared)?;
        Sql::<()>::new("SELECT pg_advisory_xact_lock(?)")
            .bind::<BigInt, _>(MIGRATION_LOCK)
            .execute(&mut connection)
            .await
            .map_err(unprepared)?;
        // From here on somebody else's lock is one of a reader or writer, who would wait behind this.
        connection.batch_execute("SET LOCAL lock_timeout = '2s'").await.map_err(unprepared)?;
        check_ownership(&mut connection, &server).await
    };
    tokio::time::timeout(CHECKED_WITHIN, checking).await.map_err(late)??;
    let mut harness = AsyncMigrationHarness::new(connection);
    let done = harness
        .run_pending_migrations(MIGRATIONS)
        .map_err(|source| OpenError::Unprepared { server: server.clone(), source })?
        .len();
    let mut connection = harness.into_inner();
    if done > 0 {
        diesel::update(schema_info::table)
            .set(schema_info::written_by.eq(env!("CARGO_PKG_VERSION")))
            .execute(&mut connection)
            .await
            .map_err(unprepared)?;
    }
    let ending = AnsiTransactionManager::commit_transaction(&mut connection);
    tokio::time::timeout(CHECKED_WITHIN, ending).await.map_err(late)?.map_err(unprepared)
}

/// A failure that passes by itself is told as that of a server that is not reached.
fn failed(server: &str, source: DieselError) -> OpenError {
    let (server, passes) = (server.to_owned(), matches!(meaning(&source), Meaning::Lost | Meaning::ReadOnly));
    let source = Box::new(source);
    if passes { OpenError::Unreachable { server, source } } else { OpenError::Unprepared { server, source } }
}

async fn check_ownership(connection: &mut AsyncPgConnection, server: &str) -> Result<(), OpenError> {
    let unprepared = |source| failed(server, source);
    let foreign = |what: String| OpenError::Foreign { server: server.to_owned(), what };
    let durability: String = Sql::<Text>::new("SELECT current_setting('synchronous_commit')")
        .get_result(connection)
        .await
        .map_err(unprepared)?;
    if durability == "off" {
        return Err(OpenError::NotDurable { server: server.to_owned() });
    }
    let is_ours: bool = Sql::<Bool>::new("SELECT to_regclass('schema_info') IS NOT NULL")
        .get_result(connection)
        .await
        .map_err(unprepared)?;
    if !is_ours {
        // Tables that an extension brought belong to nobody.
        let tables: Vec<String> = Sql::<Text>::new(
            "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema'
                 AND n.nspname NOT LIKE 'pg\\_%'
                 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
             ORDER BY c.relname LIMIT 3",
        )
        .load(connection)
        .await
        .map_err(unprepared)?;
        return if tables.is_empty() {
            Ok(())
        } else {
            Err(foreign(format!("it holds tables of something else ({})", tables.join(", "))))
        };
    }
    let columns: i64 = Sql::<BigInt>::new(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('schema_info') AND NOT attisdropped
             AND attname IN ('one', 'min_reader_version', 'written_by')",
    )
    .get_result(connection)
    .await
    .map_err(unprepared)?;
    if columns != 3 {
        return Err(foreign("its table schema_info is not ours".to_owned()));
    }
    let (needs, written_by): (i64, String) = schema_info::table
        .select((schema_info::min_reader_version, schema_info::written_by))
        .first(connection)
        .await
        .map_err(|error| match error {
            DieselError::NotFound | DieselError::DeserializationError(_) => {
                foreign("its table schema_info is not ours".to_owned())
            }
            other => unprepared(other),
        })?;
    if needs > i64::from(SCHEMA_VERSION) {
        return Err(OpenError::TooNew {
            server: server.to_owned(),
            needs: needs.unsigned_abs(),
            knows: SCHEMA_VERSION,
            written_by,
        });
    }
    Ok(())
}
