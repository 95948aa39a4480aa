//! Writes whole commits, and tells what became of them.
//!
//! Invariant: a commit is one unit of the writer; what refuses a part of it undoes all of it.

use aito_domain::{
    id::CommitId,
    ports::ledger::{Commit, CommitError, Ledger, Settled},
};
use async_trait::async_trait;
use diesel::{prelude::*, result::Error as DieselError, sqlite::SqliteConnection};
use serde_json::Value;

use super::{
    SqliteStore, schema,
    translate::{AgentRow, CommitRows, Meaning, TokenRow, Untranslatable, blob, meaning, value},
    writer::{Stop, WriteError},
};

#[async_trait]
impl Ledger for SqliteStore {
    async fn commit(&self, commit: &Commit) -> Result<(), CommitError> {
        let rows = CommitRows::of(commit).map_err(|error| CommitError::Unavailable(Box::new(error)))?;
        let at = self.clock.now().timestamp_millis();
        self.writer.run(move |connection| apply(connection, &rows, at)).await.map_err(
            |error| match error {
                WriteError::Refused(refusal) => refusal,
                WriteError::Unavailable(cause) => CommitError::Unavailable(cause),
                WriteError::Unknown(cause) => CommitError::Unknown(cause),
            },
        )?;
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn settle(&self, id: CommitId) -> Result<Settled, CommitError> {
        let at = self.clock.now().timestamp_millis();
        self.writer.run(move |connection| bar(connection, id, at)).await.map_err(|error| match error {
            WriteError::Refused(error) => CommitError::Unavailable(Box::new(error)),
            WriteError::Unavailable(cause) => CommitError::Unavailable(cause),
            WriteError::Unknown(cause) => CommitError::Unknown(cause),
        })
    }
}

/// Writes a whole commit, or nothing: whatever this returns but `Ok` is rolled back.
pub(super) fn apply(
    connection: &mut SqliteConnection,
    rows: &CommitRows,
    now: i64,
) -> Result<(), Stop<CommitError>> {
    use schema::{audit, commits, events, history};

    let remembered = diesel::insert_into(commits::table)
        .values((
            commits::id.eq(&rows.id),
            commits::outcome.eq(APPLIED),
            commits::answer.eq(&rows.answer),
            commits::at.eq(now),
        ))
        .execute(connection);
    if let Err(error) = remembered {
        if meaning(&error) != Meaning::Clash {
            return Err(error.into());
        }
        let refusal = match outcome(connection, &rows.id)? {
            Some(Ok(Settled::Applied(answer))) => CommitError::Duplicate(answer),
            Some(Ok(Settled::NotApplied)) => CommitError::Barred,
            Some(Err(error)) => CommitError::Unavailable(Box::new(error)),
            None => return Err(error.into()),
        };
        return Err(Stop::Refused(refusal));
    }

    for (read_at, row) in &rows.agents {
        let written = write_agent(connection, *read_at, row);
        expect_one(written, || format!("agent {}", row.agent_type))?;
    }
    for (read_at, row) in &rows.tokens {
        let written = write_token(connection, *read_at, row);
        expect_one(written, || format!("token {}", row.name))?;
    }
    // One row at a time: a prepared statement each, and the order of positions is plainly that of the commit.
    for row in &rows.events {
        let written = diesel::insert_into(events::table).values(row).execute(connection);
        written.map_err(|error| clash(error, || "the event's id".to_owned()))?;
    }
    for row in &rows.history {
        let written = diesel::insert_into(history::table).values(row).execute(connection);
        written.map_err(|error| clash(error, || "the history row's id or agent".to_owned()))?;
    }
    for row in &rows.audit {
        let written = diesel::insert_into(audit::table).values(row).execute(connection);
        written.map_err(|error| clash(error, || "the audit entry's id".to_owned()))?;
    }
    Ok(())
}

/// Stores a new agent, or the next version of the one that was read; gives how many rows that were.
fn write_agent(connection: &mut SqliteConnection, read_at: i64, row: &AgentRow) -> QueryResult<usize> {
    use schema::agents;
    if read_at == 0 {
        diesel::insert_into(agents::table).values(row).execute(connection)
    } else {
        diesel::update(agents::table.filter(agents::id.eq(&row.id)).filter(agents::version.eq(read_at)))
            .set((
                agents::agent_type.eq(&row.agent_type),
                agents::version.eq(row.version),
                agents::desired.eq(&row.desired),
                agents::incarnation.eq(row.incarnation),
                agents::lifecycle.eq(&row.lifecycle),
                agents::reach.eq(&row.reach),
                agents::focus.eq(&row.focus),
                agents::failures.eq(row.failures),
                agents::restarts.eq(row.restarts),
                agents::last_exit.eq(&row.last_exit),
                agents::created_at.eq(row.created_at),
                agents::updated_at.eq(row.updated_at),
            ))
            .execute(connection)
    }
}

/// As [`write_agent`].
fn write_token(connection: &mut SqliteConnection, read_at: i64, row: &TokenRow) -> QueryResult<usize> {
    use schema::tokens;
    if read_at == 0 {
        return diesel::insert_into(tokens::table).values(row).execute(connection);
    }
    diesel::update(tokens::table.filter(tokens::id.eq(&row.id)).filter(tokens::version.eq(read_at)))
        .set(row)
        .execute(connection)
}

/// None means that another version is stored, a clash that somebody else was first.
fn expect_one(written: QueryResult<usize>, name: impl FnOnce() -> String) -> Result<(), Stop<CommitError>> {
    match written {
        Ok(1) => Ok(()),
        Ok(_) => Err(Stop::Refused(CommitError::Conflict(name()))),
        Err(error) => Err(clash(error, name)),
    }
}

/// A row that clashes with what is stored means that somebody else was first.
fn clash(error: DieselError, name: impl FnOnce() -> String) -> Stop<CommitError> {
    if meaning(&error) == Meaning::Clash {
        Stop::Refused(CommitError::Conflict(name()))
    } else {
        Stop::Failed(error)
    }
}

const APPLIED: &str = "applied";
const BARRED: &str = "barred";

/// Tells what became of a commit; bars it if nothing did. The write lock makes this wait for whoever commits.
fn bar(connection: &mut SqliteConnection, id: CommitId, now: i64) -> Result<Settled, Stop<Untranslatable>> {
    use schema::commits;
    let id = blob(id.0);
    if let Some(settled) = outcome(connection, &id)? {
        return settled.map_err(Stop::Refused);
    }
    diesel::insert_into(commits::table)
        .values((commits::id.eq(&id), commits::outcome.eq(BARRED), commits::at.eq(now)))
        .execute(connection)?;
    Ok(Settled::NotApplied)
}

/// What is remembered of a commit id.
fn outcome(
    connection: &mut SqliteConnection,
    id: &[u8],
) -> QueryResult<Option<Result<Settled, Untranslatable>>> {
    use schema::commits;
    let row: Option<(String, Option<String>)> =
        commits::table.find(id).select((commits::outcome, commits::answer)).first(connection).optional()?;
    Ok(row.map(|(outcome, answer)| {
        if outcome == BARRED {
            return Ok(Settled::NotApplied);
        }
        answer.map(|text| value::<Value>("answer", &text)).transpose().map(Settled::Applied)
    }))
}
