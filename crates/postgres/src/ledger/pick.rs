//! Writes a commit with a pick: what only the transaction can choose.
//!
//! Invariants: the lock of the agent's claims is held before anything is read for the decision, and each statement
//! sees (READ COMMITTED) all that was committed before it began; so picks of one agent are decided one after another,
//! each on all that those before it wrote. Four round trips: lock, read, write, and COMMIT.

use aito_domain::{task::TaskPick, time::Timestamp};
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryResult, sql_types::Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::future;
use uuid::Uuid;

use super::{Part, Stop, begin, judge, write_parts};
use crate::{
    schema::commits,
    sql::{Kept, Sql},
    tasks::read_claimable,
    translate::CommitRows,
};

/// Begins a transaction, decides in it, and writes everything; `rows` are then what was written.
pub(super) async fn write(
    connection: &AsyncPgConnection,
    rows: &mut CommitRows,
    pick: &TaskPick,
    now: Timestamp,
) -> Result<(), Stop> {
    let agent = pick.agent;
    let (begun, locked) = future::join(begin(connection, rows, now), lock(connection, agent.0)).await;
    begun?;
    if locked.map_err(Stop::Failed)? == 0 {
        return Err(Stop::Conflict(format!("the claims of agent {agent}")));
    }
    let read = read_claimable(connection, agent).await.map_err(Stop::Failed)?;
    let Some(read) = read.into_domain().map_err(Stop::Strange)? else {
        return Err(Stop::Conflict(format!("agent {agent}")));
    };
    rows.add(&pick.decide(&read)).map_err(Stop::Strange)?;
    let (answered, mut parts) = future::join(answer(connection, rows), write_parts(connection, rows)).await;
    parts.insert(0, Part::one("the commit's id", answered));
    judge(parts)
}

/// Waits for every other pick of this agent to end. Gives 1 or 2; 0 if the row was not there to be locked.
async fn lock(connection: &AsyncPgConnection, agent: Uuid) -> QueryResult<usize> {
    let (mut adding, mut locking) = (connection, connection);
    let add = Sql::<()>::new("INSERT INTO task_claims (agent_id) VALUES (?) ON CONFLICT DO NOTHING")
        .bind::<SqlUuid, _>(agent);
    let lock =
        Sql::<()>::new("SELECT 1 FROM task_claims WHERE agent_id = ? FOR UPDATE").bind::<SqlUuid, _>(agent);
    let (added, locked) = future::join(add.execute(&mut adding), lock.execute(&mut locking)).await;
    Ok(added? + locked?)
}

/// Keeps the outcome where a repetition finds it.
async fn answer(mut connection: &AsyncPgConnection, rows: &CommitRows) -> QueryResult<usize> {
    let stored = commits::table.filter(commits::id.eq(rows.id));
    Kept(diesel::update(stored).set(commits::answer.eq(&rows.answer))).execute(&mut connection).await
}
