//! Writes whole commits, and tells what became of them.
//!
//! Invariants: a commit is one unit of the writer; what refuses a part of it undoes all of it. There is one writer, so
//! what a unit reads stands until its end: neither a speaker nor a pick needs a lock of its own.

use aito_domain::{
    id::CommitId,
    ports::ledger::{Commit, CommitError, Ledger, Settled},
    task::{Picked, TaskPick},
};
use async_trait::async_trait;
use diesel::{prelude::*, sqlite::SqliteConnection};
use serde_json::Value;

use super::{
    SqliteStore,
    changes::{add_spent, clash, shown, write},
    readers::Failed,
    schema,
    tasks::claimable,
    translate::{
        ChangeRow, CommitRows, MailRow, Meaning, NewEventRow, TaskRow, Untranslatable, blob, meaning, number,
        value,
    },
    writer::{Stop, WriteError},
};

#[async_trait]
impl Ledger for SqliteStore {
    async fn commit(&self, commit: &Commit) -> Result<Option<Value>, CommitError> {
        let rows = CommitRows::of(commit).map_err(|error| CommitError::Unavailable(Box::new(error)))?;
        let (at, given) = (self.clock.now().timestamp_millis(), commit.answer.clone());
        let picked = self.writer.run(move |connection| apply(connection, &rows, at)).await.map_err(
            |error| match error {
                WriteError::Refused(refusal) => refusal,
                WriteError::Unavailable(cause) => CommitError::Unavailable(cause),
                WriteError::Unknown(cause) => CommitError::Unknown(cause),
            },
        )?;
        self.commits.send_modify(|count| *count += 1);
        Ok(picked.or(given))
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

/// Writes a whole commit, or nothing: whatever this returns but `Ok` is rolled back. With a pick it gives the answer that
/// stands in place of the commit's own.
pub(super) fn apply(
    connection: &mut SqliteConnection,
    rows: &CommitRows,
    now: i64,
) -> Result<Option<Value>, Stop<CommitError>> {
    use schema::{audit, commits, history};

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

    if let Some((agent, incarnation)) = &rows.speaker {
        heed_speaker(connection, agent, *incarnation)?;
    }
    // It is decided on what is stored, before this commit's own changes are.
    let picked = rows.pick.as_ref().map(|pick| decide(connection, pick)).transpose()?;
    for (read_at, row) in &rows.changes {
        write(connection, *read_at, row)?;
    }
    // One row at a time: a prepared statement each, and the order of positions is plainly that of the commit.
    for row in &rows.events {
        write_event(connection, row)?;
    }
    for row in &rows.history {
        let written = diesel::insert_into(history::table).values(row).execute(connection);
        written.map_err(|error| clash(error, || "the history row's id or agent".to_owned()))?;
    }
    for row in &rows.audit {
        let written = diesel::insert_into(audit::table).values(row).execute(connection);
        written.map_err(|error| clash(error, || "the audit entry's id".to_owned()))?;
    }
    for row in &rows.spent {
        add_spent(connection, row)?;
    }
    picked.map(|picked| write_picked(connection, &rows.id, &picked)).transpose()
}

fn write_event(connection: &mut SqliteConnection, row: &NewEventRow) -> Result<(), Stop<CommitError>> {
    let written = diesel::insert_into(schema::events::table).values(row).execute(connection);
    written.map(drop).map_err(|error| clash(error, || "the event's id".to_owned()))
}

/// Refuses what an incarnation says that is not the present one.
fn heed_speaker(
    connection: &mut SqliteConnection,
    agent: &[u8],
    incarnation: i64,
) -> Result<(), Stop<CommitError>> {
    use schema::agents;
    let present: Option<i64> =
        agents::table.find(agent).select(agents::incarnation).first(connection).optional()?;
    if present == Some(incarnation) {
        return Ok(());
    }
    Err(Stop::Refused(CommitError::Conflict(format!("agent {}'s incarnation", shown(agent)))))
}

/// Reads what a pick is decided on, and decides it.
fn decide(connection: &mut SqliteConnection, pick: &TaskPick) -> Result<Picked, Stop<CommitError>> {
    match claimable(connection, pick.agent) {
        Ok(Some(read)) => Ok(pick.decide(&read)),
        Ok(None) => Err(Stop::Refused(CommitError::Conflict(format!("agent {}", pick.agent)))),
        Err(Failed::Query(error)) => Err(Stop::Failed(error)),
        Err(Failed::Row(error)) => Err(untold(error)),
    }
}

/// Writes what was picked; gives the answer, which is kept.
fn write_picked(
    connection: &mut SqliteConnection,
    id: &[u8],
    picked: &Picked,
) -> Result<Value, Stop<CommitError>> {
    use schema::commits;
    for task in &picked.tasks {
        let read_at = number("a version", task.version.0).map_err(untold)?;
        let row = TaskRow::next_of(task).map_err(untold)?;
        write(connection, read_at, &ChangeRow::Task(row))?;
    }
    for mail in &picked.mails {
        let read_at = number("a version", mail.version.0).map_err(untold)?;
        write(connection, read_at, &ChangeRow::Mail(MailRow::next_of(mail).map_err(untold)?))?;
    }
    for event in &picked.events {
        write_event(connection, &NewEventRow::of(event))?;
    }
    let answer = serde_json::to_value(&picked.outcome)
        .map_err(|error| untold(Untranslatable::NoJson("the outcome of a pick", error.to_string())))?;
    diesel::update(commits::table.find(id))
        .set(commits::answer.eq(answer.to_string()))
        .execute(connection)?;
    Ok(answer)
}

/// What cannot be told between the domain and the rows; nothing is written.
fn untold(error: Untranslatable) -> Stop<CommitError> {
    Stop::Refused(CommitError::Unavailable(Box::new(error)))
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
