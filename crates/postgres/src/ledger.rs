//! Writes whole commits, and remembers for a day what became of each.
//!
//! Invariants: one transaction per commit, in two round trips: everything, then COMMIT; a pick takes two more before
//! them. It begins with the locks of the agents whose word it is or that it changes, before it holds anything else, and
//! all that it reads afterwards is as it was committed before those were granted. They are granted in the order in which
//! they were asked for: locks of rows are not, and whoever shares one would pass who waits to change it. Until COMMIT is
//! sent every failure is certain; from then on only what the server refuses beyond doubt is. Of what it writes the row of
//! its id is first, so that the same id a second time, and a settle, wait for the first and then see its outcome.

mod pick;
mod work;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aito_domain::{
    Cause,
    id::CommitId,
    ports::{
        clock::Clock,
        ledger::{Commit, CommitError, Ledger, Settled},
    },
    task::TaskPick,
    time::Timestamp,
};
use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult,
    result::Error as DieselError,
    sql_types::{Array, BigInt, Json, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::{FutureExt as _, future, future::BoxFuture};
use serde_json::Value;
use uuid::Uuid;

use super::{
    PgStore,
    audit::add_entries,
    pool::{Lease, Pool},
    schema::{agents, commits},
    sql::{Kept, Sql},
    tokens::change_tokens,
    translate::{
        AgentRow, CommitRows, Meaning, NewEvents, NewHistory, Untranslatable, commit_certainly_failed,
        meaning,
    },
};

/// How long it is remembered what became of a commit. A caller that is told `Unknown` settles within seconds.
const COMMITS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often one looks for commit ids that need not be remembered any more.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// How many of them one statement removes at most.
const FORGET_AT_ONCE: i64 = 1000;

/// The first key of agents' locks. Locks of two keys never clash with those of one, such as the numberer's.
pub(super) const AGENT_LOCKS: i32 = i32::from_be_bytes(*b"aito");

const APPLIED: &str = "applied";
const BARRED: &str = "barred";

#[async_trait]
impl Ledger for PgStore {
    async fn commit(&self, commit: &Commit) -> Result<Option<Value>, CommitError> {
        let rows = CommitRows::of(commit).map_err(|error| CommitError::Unavailable(Box::new(error)))?;
        let is_committing = Arc::new(AtomicBool::new(false));
        let (pool, now, flag) = (Arc::clone(&self.pool), self.clock.now(), Arc::clone(&is_committing));
        let pick = commit.pick.clone();
        // Late or not, what is dropped there takes its connection along.
        let applying = async move { apply(&pool, rows, pick, now, &flag).await }.boxed();
        let applied = match self.pool.run(applying).await {
            Ok(applied) => applied?,
            Err(late) if AtomicBool::load(&is_committing, Ordering::Acquire) => {
                return Err(CommitError::Unknown(late));
            }
            Err(late) => return Err(CommitError::Unavailable(late)),
        };
        if !applied.events.ids.is_empty() {
            self.numberer.wake();
        }
        Ok(applied.answer)
    }

    async fn settle(&self, id: CommitId) -> Result<Settled, CommitError> {
        let (pool, now) = (Arc::clone(&self.pool), self.clock.now());
        let asking = async move { bar(&pool, id.0, now).await }.boxed();
        self.pool.run(asking).await.flatten().map_err(CommitError::Unavailable)
    }
}

/// Writes a whole commit, or nothing; gives what was written. `is_committing` is true from the moment when the end is
/// out of hand.
async fn apply(
    pool: &Pool,
    mut rows: CommitRows,
    pick: Option<TaskPick>,
    now: Timestamp,
    is_committing: &AtomicBool,
) -> Result<CommitRows, CommitError> {
    let mut lease = pool.lease().await.map_err(CommitError::Unavailable)?;
    let written = match pick {
        None => write(&lease, &rows, now).await,
        Some(pick) => pick::write(&lease, &mut rows, &pick, now).await,
    };
    match written {
        Ok(()) => {}
        Err(Stop::Conflict(what)) => {
            if lease.batch_execute("ROLLBACK").await.is_ok() {
                lease.give_back();
            }
            return Err(CommitError::Conflict(what));
        }
        Err(Stop::Known) => return Err(first_outcome(pool, lease, rows.id).await),
        Err(Stop::Failed(error)) => {
            return Err(pool.failed(error, |error| CommitError::Unavailable(Box::new(error))));
        }
        Err(Stop::Strange(error)) => return Err(CommitError::Unavailable(Box::new(error))),
    }
    is_committing.store(true, Ordering::Release);
    match lease.batch_execute("COMMIT").await {
        Ok(()) => {
            lease.give_back();
            Ok(rows)
        }
        Err(error) if commit_certainly_failed(&error) => {
            let is_clash = meaning(&error) == Meaning::Clash;
            Err(pool.failed(error, |error| {
                if is_clash {
                    CommitError::Conflict(error.to_string())
                } else {
                    CommitError::Unavailable(Box::new(error))
                }
            }))
        }
        Err(error) => Err(CommitError::Unknown(Box::new(error))),
    }
}

/// Why a commit is not written to its end.
enum Stop {
    /// Somebody else was first.
    Conflict(String),
    /// Its id was used, or barred.
    Known,
    /// By the database.
    Failed(DieselError),
    /// A pick cannot be decided on what is stored, or what came out cannot be stored.
    Strange(Untranslatable),
}

/// How one part of a commit was written.
struct Part {
    /// What somebody else has changed if it was not.
    what: String,
    /// How many rows it is.
    rows: usize,
    /// How many of them were written: those of which another version is stored are not.
    written: QueryResult<usize>,
}

impl Part {
    fn of(what: impl Into<String>, rows: usize, written: QueryResult<usize>) -> Self {
        Self { what: what.into(), rows, written }
    }

    fn one(what: impl Into<String>, written: QueryResult<usize>) -> Self {
        Self::of(what, 1, written)
    }
}

/// Begins a transaction and writes everything into it, in one round trip.
async fn write(connection: &AsyncPgConnection, rows: &CommitRows, now: Timestamp) -> Result<(), Stop> {
    let (begun, parts) = future::join(begin(connection, rows, now), write_parts(connection, rows)).await;
    begun?;
    judge(parts)
}

/// Begins a transaction with the row of the commit's id.
async fn begin(connection: &AsyncPgConnection, rows: &CommitRows, now: Timestamp) -> Result<(), Stop> {
    let (mut begin, mut remember) = (connection, connection);
    // In one message, which goes out before any statement that the connection has to prepare.
    let beginning = format!("BEGIN; {}", locks(rows));
    let remembering = diesel::insert_into(commits::table)
        .values((
            commits::id.eq(rows.id),
            commits::outcome.eq(APPLIED),
            commits::answer.eq(&rows.answer),
            commits::at.eq(now),
        ))
        .on_conflict_do_nothing()
        .execute(&mut remember);
    let (begun, remembered) = future::join(begin.batch_execute(&beginning), remembering).await;
    begun.map_err(Stop::Failed)?;
    if remembered.map_err(Stop::Failed)? == 0 { Err(Stop::Known) } else { Ok(()) }
}

/// The locks of agents: exclusive for each that is changed, shared for the one that speaks; in the order of their keys,
/// so that no two commits wait for each other.
fn locks(rows: &CommitRows) -> String {
    let mut keys: BTreeMap<i32, bool> =
        rows.speaker.iter().map(|(agent, _)| (agent_key(*agent), false)).collect();
    let changed = rows.agents.iter().filter(|(read_at, _)| *read_at > 0);
    keys.extend(changed.map(|(_, row)| (agent_key(row.id), true)));
    let lock = |(key, is_changed): (i32, bool)| {
        let kind = if is_changed { "" } else { "_shared" };
        format!("SELECT pg_advisory_xact_lock{kind}({AGENT_LOCKS}, {key}); ")
    };
    keys.into_iter().map(lock).collect()
}

/// The number of an agent's lock among [`AGENT_LOCKS`]. Two agents may have the same, and then wait for each other.
pub(super) fn agent_key(agent: Uuid) -> i32 {
    let [a, b, c, d] = [0, 4, 8, 12].map(|at| agent.as_u128().rotate_right(8 * at) as u32);
    (a ^ b ^ c ^ d) as i32
}

/// Writes everything else, in one round trip.
async fn write_parts(connection: &AsyncPgConnection, rows: &CommitRows) -> Vec<Part> {
    let ((agents, tokens, work), (told, noted, audited)) = future::join(
        future::join3(
            future::join_all(change_agents(connection, rows)),
            change_tokens(connection, &rows.tokens, &rows.new_tokens),
            work::change(connection, &rows.work),
        ),
        future::join3(
            add_events(connection, &rows.events),
            add_history(connection, &rows.history),
            add_entries(connection, &rows.audit),
        ),
    )
    .await;
    let mut parts = agents;
    parts.extend(tokens.into_iter().map(|(name, changed)| Part::one(format!("token {name}"), changed)));
    parts.extend(work);
    parts.push(Part::of("the event's id", rows.events.ids.len(), told));
    parts.push(Part::of("the history row's id or agent", rows.history.ids.len(), noted));
    parts.push(Part::of("the audit entry's id", rows.audit.ids.len(), audited));
    parts
}

/// Looks at what became of each part. After the first failure the server refuses the rest, and a statement that a
/// connection does not know yet is sent after others: so a part that says what is wrong goes before one that failed.
fn judge(parts: Vec<Part>) -> Result<(), Stop> {
    let mut failed = None;
    for Part { what, rows, written } in parts {
        match written {
            Ok(count) if count == rows => {}
            Ok(_) => return Err(Stop::Conflict(what)),
            Err(error) if meaning(&error) == Meaning::Clash => return Err(Stop::Conflict(what)),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), |error| Err(Stop::Failed(error)))
}

/// Changes agents and listens to the one that speaks.
fn change_agents<'a>(connection: &'a AsyncPgConnection, rows: &'a CommitRows) -> Vec<BoxFuture<'a, Part>> {
    let mut unheard = rows.speaker;
    let mut changes = Vec::new();
    for (read_at, row) in &rows.agents {
        let own = unheard.take_if(|(speaker, _)| *speaker == row.id && *read_at > 0);
        changes.push(change(connection, *read_at, row, own.map(|(_, incarnation)| incarnation)));
    }
    let heard = unheard.map(|(speaker, incarnation)| hear(connection, speaker, incarnation));
    heard.into_iter().chain(changes).collect()
}

/// 1 row, or none when it is another incarnation; the agent's lock keeps it as it is until the commit has ended.
fn hear(connection: &AsyncPgConnection, speaker: Uuid, incarnation: i64) -> BoxFuture<'_, Part> {
    let mut asked = connection;
    async move {
        let heard = Sql::<()>::new("SELECT 1 FROM agents WHERE id = ? AND incarnation = ?")
            .bind::<SqlUuid, _>(speaker)
            .bind::<BigInt, _>(incarnation)
            .execute(&mut asked)
            .await;
        Part::one(format!("agent {speaker}'s incarnation"), heard)
    }
    .boxed()
}

/// Changes 1 row, or none when another version is stored, or another incarnation than that which speaks.
fn change<'a>(
    mut connection: &'a AsyncPgConnection,
    read_at: i64,
    row: &'a AgentRow,
    said_by: Option<i64>,
) -> BoxFuture<'a, Part> {
    async move {
        let stored = agents::table.filter(agents::id.eq(row.id)).filter(agents::version.eq(read_at));
        let changed = match said_by {
            _ if read_at == 0 => {
                let adding = diesel::insert_into(agents::table).values(row).on_conflict_do_nothing();
                adding.execute(&mut connection).await
            }
            None => Kept(diesel::update(stored).set(row)).execute(&mut connection).await,
            Some(incarnation) => {
                let stored = stored.filter(agents::incarnation.eq(incarnation));
                Kept(diesel::update(stored).set(row)).execute(&mut connection).await
            }
        };
        Part::one(format!("agent {}", row.agent_type), changed)
    }
    .boxed()
}

/// Adds events in their order, each with its row for the numberer.
async fn add_events(mut connection: &AsyncPgConnection, rows: &NewEvents) -> QueryResult<usize> {
    if rows.ids.is_empty() {
        return Ok(0);
    }
    Sql::<()>::new(
        "WITH written AS (
             INSERT INTO events (id, event_type, source_agent, actor, body, created_at)
             SELECT id, event_type, source_agent, actor, body, created_at
             FROM unnest(?, ?, ?, ?, ?, ?) WITH ORDINALITY
                 AS new (id, event_type, source_agent, actor, body, created_at, place)
             ORDER BY place
             RETURNING seq
         )
         INSERT INTO event_pending (seq) SELECT seq FROM written",
    )
    .bind::<Array<SqlUuid>, _>(&rows.ids)
    .bind::<Array<Text>, _>(&rows.event_types)
    .bind::<Array<Nullable<SqlUuid>>, _>(&rows.source_agents)
    .bind::<Array<Text>, _>(&rows.actors)
    .bind::<Array<Json>, _>(&rows.bodies)
    .bind::<Array<Timestamptz>, _>(&rows.created_at)
    .execute(&mut connection)
    .await
}

async fn add_history(mut connection: &AsyncPgConnection, rows: &NewHistory) -> QueryResult<usize> {
    if rows.ids.is_empty() {
        return Ok(0);
    }
    Sql::<()>::new(
        "INSERT INTO history (id, agent_id, incarnation, action_type, summary, details, created_at)
         SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?)",
    )
    .bind::<Array<SqlUuid>, _>(&rows.ids)
    .bind::<Array<SqlUuid>, _>(&rows.agent_ids)
    .bind::<Array<BigInt>, _>(&rows.incarnations)
    .bind::<Array<Text>, _>(&rows.action_types)
    .bind::<Array<Text>, _>(&rows.summaries)
    .bind::<Array<Nullable<Json>>, _>(&rows.details)
    .bind::<Array<Timestamptz>, _>(&rows.created_at)
    .execute(&mut connection)
    .await
}

/// Rolls back, and tells what became of this id when it was used first.
async fn first_outcome(pool: &Pool, lease: Lease, id: Uuid) -> CommitError {
    let (mut ending, asking): (&AsyncPgConnection, &AsyncPgConnection) = (&lease, &lease);
    let (ended, asked) = future::join(ending.batch_execute("ROLLBACK"), outcome(asking, id)).await;
    let found = match ended.and(asked) {
        Ok(found) => found,
        Err(error) => return pool.failed(error, |error| CommitError::Unavailable(Box::new(error))),
    };
    lease.give_back();
    match found {
        Some(Settled::Applied(answer)) => CommitError::Duplicate(answer),
        Some(Settled::NotApplied) => CommitError::Barred,
        None => CommitError::Unavailable("the commit's id was forgotten just now".into()),
    }
}

/// Tells what became of a commit; bars it if nothing did. The insertion waits for a commit of this id that is under
/// way, and the question after it sees how that ended.
async fn bar(pool: &Pool, id: Uuid, now: Timestamp) -> Result<Settled, Cause> {
    let lease = pool.lease().await?;
    let (mut barring, asking): (&AsyncPgConnection, &AsyncPgConnection) = (&lease, &lease);
    let tombstone = diesel::insert_into(commits::table)
        .values((commits::id.eq(id), commits::outcome.eq(BARRED), commits::at.eq(now)))
        .on_conflict_do_nothing()
        .execute(&mut barring);
    let (barred, asked) = future::join(tombstone, outcome(asking, id)).await;
    let found = barred.and(asked).map_err(|error| pool.failed(error, |error| Box::new(error) as Cause))?;
    lease.give_back();
    found.ok_or_else(|| "the commit's id was forgotten just now".into())
}

/// What is remembered of a commit id.
async fn outcome(mut connection: &AsyncPgConnection, id: Uuid) -> QueryResult<Option<Settled>> {
    let found: Option<(String, Option<Value>)> = commits::table
        .find(id)
        .select((commits::outcome, commits::answer))
        .first(&mut connection)
        .await
        .optional()?;
    Ok(found.map(
        |(outcome, answer)| {
            if outcome == BARRED { Settled::NotApplied } else { Settled::Applied(answer) }
        },
    ))
}

/// Forgets old commit ids, at the start and then every hour, as long as the store lives. Every server does; none
/// waits for another.
pub(super) async fn forget_old(pool: Arc<Pool>, clock: Arc<dyn Clock>) {
    loop {
        let before = clock.now() - COMMITS_KEPT;
        match forget(&pool, before).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(error = &*error as &dyn std::error::Error, "commit ids are not tidied")
            }
        }
        clock.sleep(FORGET_EVERY).await;
    }
}

/// Forgets the commits of before `before`, in small batches.
pub(super) async fn forget(pool: &Pool, before: Timestamp) -> Result<(), Cause> {
    loop {
        let batch = async {
            let mut lease = pool.lease().await?;
            let gone = Sql::<()>::new(
                "DELETE FROM commits WHERE id IN
                     (SELECT id FROM commits WHERE at < ? ORDER BY at LIMIT ? FOR UPDATE SKIP LOCKED)",
            )
            .bind::<Timestamptz, _>(before)
            .bind::<BigInt, _>(FORGET_AT_ONCE)
            .execute(&mut *lease)
            .await
            .map_err(|error| pool.failed(error, |error| Box::new(error) as Cause))?;
            lease.give_back();
            Ok::<_, Cause>(gone)
        };
        let gone = tokio::time::timeout(pool.timeout(), batch).await??;
        if (gone as u64) < FORGET_AT_ONCE.unsigned_abs() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use aito_domain::{
        agent::Agent,
        id::{AgentId, Incarnation, Version},
        ports::ledger::{Change, Speaker},
        time::millis,
    };

    use super::*;

    /// What a commit locks that changes agents of these ids and versions, and that this one speaks.
    fn locked(changed: &[(u128, u64)], speaker: Option<u128>) -> String {
        let id = |id: u128| AgentId(Uuid::from_u128(id));
        let changes = changed.iter().map(|(n, version)| {
            let agent = Agent::register(id(*n), "ceo".parse().unwrap(), String::new(), millis(1)).agent;
            Change::Agent(Box::new(Agent { version: Version(*version), ..agent }))
        });
        let speaker = speaker.map(|n| Speaker { agent: id(n), incarnation: Incarnation(1) });
        let commit = Commit { changes: changes.collect(), speaker, ..Commit::new(CommitId(Uuid::nil())) };
        let text = locks(&CommitRows::of(&commit).unwrap());
        text.replace("SELECT pg_advisory_xact_lock", "").replace(&format!("{AGENT_LOCKS}, "), "")
    }

    #[test]
    fn who_is_changed_is_locked_and_who_speaks_is_shared_in_the_order_of_their_keys() {
        assert_eq!(locked(&[(3, 1), (7, 0), (1, 9)], Some(2)), "(1); _shared(2); (3); ");
        assert_eq!(locked(&[(3, 1), (1, 9)], Some(3)), "(1); (3); ", "both is the one lock");
        assert_eq!(locked(&[(1, 1), (1 << 32, 1)], Some(1 << 64)), "(1); ", "of one key");
        assert_eq!(locked(&[(u128::from(u32::MAX), 1)], None), "(-1); ");
        assert_eq!(locked(&[(7, 0)], None), "", "nobody knows it yet");
    }

    #[test]
    fn every_bit_of_an_id_counts() {
        for bit in 0..128 {
            assert_eq!(agent_key(Uuid::from_u128(1 << bit)), (1_u32 << (bit % 32)) as i32);
        }
    }
}
