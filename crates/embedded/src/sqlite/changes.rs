//! Writes the rows of a commit's changes, each only onto the version that it was read at.
//!
//! Invariant: a row that is not there in that version, or that clashes with what is stored, means that somebody else was
//! first.

use aito_domain::ports::ledger::CommitError;
use diesel::{
    prelude::*,
    result::Error as DieselError,
    sql_types::{BigInt, Binary, Text},
    sqlite::SqliteConnection,
};
use uuid::Uuid;

use super::{
    schema,
    translate::{ChangeRow, Meaning, SpentRow, meaning},
    writer::Stop,
};

/// Stores a new aggregate (`read_at` 0), or the next version of the one that was read.
pub(super) fn write(
    connection: &mut SqliteConnection,
    read_at: i64,
    row: &ChangeRow,
) -> Result<(), Stop<CommitError>> {
    use schema::{agent_state, agents, domain_requests, domains, mailbox, settings, tasks, tokens};
    // Inserts, or updates the row of that key and version; gives how many rows that were.
    macro_rules! write {
        ($table:ident, $row:ident, $($key:ident),+) => {
            if read_at == 0 {
                diesel::insert_into($table::table).values($row).execute(connection)
            } else {
                let stored = $table::table$(.filter($table::$key.eq(&$row.$key)))+;
                diesel::update(stored.filter($table::version.eq(read_at))).set($row).execute(connection)
            }
        };
    }
    let written = match row {
        ChangeRow::Agent(row) => write!(agents, row, id),
        ChangeRow::Token(row) => write!(tokens, row, id),
        ChangeRow::Task(row) => write!(tasks, row, id),
        ChangeRow::Mail(row) => write!(mailbox, row, id),
        ChangeRow::Domain(row) => write!(domains, row, id),
        ChangeRow::DomainRequest(row) => write!(domain_requests, row, id),
        ChangeRow::Setting(row) => write!(settings, row, category, key),
        ChangeRow::State(row) => write!(agent_state, row, agent_id, key),
    };
    match written {
        Ok(1) => Ok(()),
        Ok(_) => Err(Stop::Refused(CommitError::Conflict(name(row)))),
        Err(error) => Err(clash(error, || name(row))),
    }
}

/// Adds to what an agent has used up.
pub(super) fn add_spent(connection: &mut SqliteConnection, row: &SpentRow) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO spent (agent_id, kind, day, rows, bytes) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (agent_id, kind, day) DO UPDATE SET
             rows = spent.rows + excluded.rows, bytes = spent.bytes + excluded.bytes",
    )
    .bind::<Binary, _>(&row.agent_id)
    .bind::<Text, _>(row.kind)
    .bind::<BigInt, _>(row.day)
    .bind::<BigInt, _>(row.rows)
    .bind::<BigInt, _>(row.bytes)
    .execute(connection)
    .map(drop)
}

/// A row that clashes with what is stored means that somebody else was first.
pub(super) fn clash(error: DieselError, name: impl FnOnce() -> String) -> Stop<CommitError> {
    if meaning(&error) == Meaning::Clash {
        Stop::Refused(CommitError::Conflict(name()))
    } else {
        Stop::Failed(error)
    }
}

/// A stored id as people read it.
pub(super) fn shown(id: &[u8]) -> Uuid {
    Uuid::from_slice(id).unwrap_or_default()
}

/// What a change is about.
fn name(row: &ChangeRow) -> String {
    match row {
        ChangeRow::Agent(row) => format!("agent {}", row.agent_type),
        ChangeRow::Token(row) => format!("token {}", row.name),
        ChangeRow::Task(row) => format!("task {}", shown(&row.id)),
        ChangeRow::Mail(row) => format!("message {}", shown(&row.id)),
        ChangeRow::Domain(row) => format!("domain {}", row.domain),
        ChangeRow::DomainRequest(row) => format!("the request for {}", row.domain),
        ChangeRow::Setting(row) => format!("setting {}.{}", row.category, row.key),
        ChangeRow::State(row) => format!("note {} of agent {}", row.key, shown(&row.agent_id)),
    }
}
