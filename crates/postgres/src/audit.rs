//! The audit and its chain.
//!
//! Invariants: who gives places moves the head first, from where it was read: that locks it, so that of servers
//! which seal at the same time one goes on and the others find it moved. An entry gets its place once; a number is
//! given once. What is forgotten, goes together with the checkpoint that covers it.

use std::sync::Arc;

use aito_domain::{
    Cause,
    audit::{AuditEntry, Checkpoint, Head, Sealed},
    ports::{
        ReadError,
        audit_store::{AuditQuery, AuditStore, Listed, SealError},
    },
};
use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryResult, SelectableHelper as _,
    pg::Pg,
    result::Error as DieselError,
    sql_types::{Array, BigInt, Bytea, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::{FutureExt as _, future};

use super::{
    PgStore,
    pool::Pool,
    schema::{audit, audit_checkpoint, audit_head},
    sql::{Kept, Sql},
    translate::{AuditRow, CheckpointRow, HeadRow, Meaning, NewAudit, NewPlaces, meaning, natural},
};

#[async_trait]
impl AuditStore for PgStore {
    async fn unsealed(&self, limit: u32) -> Result<Vec<AuditEntry>, ReadError> {
        let query = audit::table
            .filter(audit::n.is_null())
            .order(audit::id)
            .limit(i64::from(limit))
            .select(AuditRow::as_select());
        let rows: Vec<AuditRow> = self.pool.read(query).await?;
        Ok(rows.into_iter().map(|row| Ok(row.listed()?.entry)).collect::<Result<_, ReadError>>()?)
    }

    async fn head(&self) -> Result<Head, ReadError> {
        let rows: Vec<HeadRow> = self.pool.read(audit_head::table.select(HeadRow::as_select())).await?;
        let Some(row) = rows.into_iter().next() else {
            return Err(ReadError::Corrupt("the head of the audit is gone".into()));
        };
        Ok(row.into_domain()?)
    }

    async fn seal(&self, head: Head, entries: &[Sealed]) -> Result<(), SealError> {
        let places = NewPlaces::of(head, entries).map_err(unavailable)?;
        let pool = Arc::clone(&self.pool);
        let sealing = async move { give_places(&pool, &places).await }.boxed();
        self.pool.run(sealing).await.map_err(SealError::Unavailable)?
    }

    async fn sealed(&self, n: u64, limit: u32) -> Result<Vec<Sealed>, ReadError> {
        let Ok(n) = i64::try_from(n) else { return Ok(Vec::new()) };
        let query = audit::table
            .filter(audit::n.gt(n))
            .order(audit::n)
            .limit(i64::from(limit))
            .select(AuditRow::as_select());
        let rows: Vec<AuditRow> = self.pool.read(query).await?;
        Ok(rows.into_iter().map(AuditRow::sealed).collect::<Result<_, _>>()?)
    }

    async fn page(&self, query: &AuditQuery, limit: u32) -> Result<Vec<Listed>, ReadError> {
        let AuditQuery { actor, operation, outcome, before } = query.clone();
        let mut query = audit::table.select(AuditRow::as_select()).into_boxed::<Pg>();
        if let Some(actor) = actor {
            query = query.filter(audit::actor.eq(actor));
        }
        if let Some(operation) = operation {
            query = query.filter(audit::operation.eq(operation));
        }
        if let Some(outcome) = outcome {
            query = query.filter(audit::outcome.eq(outcome.as_str()));
        }
        if let Some(before) = before {
            query = query.filter(audit::id.lt(before.0));
        }
        let query = query.order(audit::id.desc()).limit(i64::from(limit));
        let rows: Vec<AuditRow> = self.pool.read(query).await?;
        Ok(rows.into_iter().map(AuditRow::listed).collect::<Result<_, _>>()?)
    }

    async fn prune(&self, checkpoint: &Checkpoint) -> Result<u64, SealError> {
        let row = CheckpointRow::of(checkpoint).map_err(unavailable)?;
        let pool = Arc::clone(&self.pool);
        let pruning = async move { forget(&pool, &row).await }.boxed();
        self.pool.run(pruning).await.map_err(SealError::Unavailable)?
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ReadError> {
        let query = audit_checkpoint::table.select(CheckpointRow::as_select());
        let mut rows: Vec<CheckpointRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(CheckpointRow::into_domain).transpose()?)
    }
}

/// Adds a commit's entries, without places.
pub(super) async fn add_entries(mut connection: &AsyncPgConnection, rows: &NewAudit) -> QueryResult<usize> {
    if rows.ids.is_empty() {
        return Ok(0);
    }
    Sql::<()>::new(
        "INSERT INTO audit
             (id, at, actor, credential, operation, object, source, request_id, outcome, detail, times)
         SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind::<Array<SqlUuid>, _>(&rows.ids)
    .bind::<Array<Timestamptz>, _>(&rows.at)
    .bind::<Array<Text>, _>(&rows.actors)
    .bind::<Array<Text>, _>(&rows.credentials)
    .bind::<Array<Text>, _>(&rows.operations)
    .bind::<Array<Text>, _>(&rows.objects)
    .bind::<Array<Text>, _>(&rows.sources)
    .bind::<Array<Text>, _>(&rows.request_ids)
    .bind::<Array<Text>, _>(&rows.outcomes)
    .bind::<Array<Text>, _>(&rows.details)
    .bind::<Array<BigInt>, _>(&rows.times)
    .execute(&mut connection)
    .await
}

/// Moves the head and gives every entry its place, or does nothing. Each statement takes its snapshot (READ
/// COMMITTED) when those before it are done: with the head's lock held, the second sees all that earlier holders did.
/// Who did not move the head locks no entry, for which the one who did would have to wait.
async fn give_places(pool: &Pool, places: &NewPlaces) -> Result<(), SealError> {
    let mut lease = pool.lease().await.map_err(SealError::Unavailable)?;
    let connection: &AsyncPgConnection = &lease;
    let (mut begin, mut place) = (connection, connection);
    let placing = Sql::<()>::new(
        "UPDATE audit SET n = place.n, seal = place.seal FROM unnest(?, ?, ?) AS place (id, n, seal)
         WHERE audit.id = place.id AND audit.n IS NULL
             AND EXISTS (SELECT FROM audit_head AS head WHERE head.n = ? AND head.seal = ?)",
    )
    .bind::<Array<SqlUuid>, _>(&places.ids)
    .bind::<Array<BigInt>, _>(&places.numbers)
    .bind::<Array<Bytea>, _>(&places.seals)
    .bind::<BigInt, _>(places.to.n)
    .bind::<Bytea, _>(&places.to.seal);
    let (begun, moved, placed) = future::join3(
        begin.batch_execute("BEGIN"),
        move_head(connection, places),
        placing.execute(&mut place),
    )
    .await;
    let (moved, placed) =
        begun.and_then(|()| Ok((moved?, placed?))).map_err(|error| pool.failed(error, seal_error))?;
    if moved != 1 || placed != places.ids.len() {
        if lease.batch_execute("ROLLBACK").await.is_ok() {
            lease.give_back();
        }
        return Err(SealError::Conflict);
    }
    lease.batch_execute("COMMIT").await.map_err(|error| pool.failed(error, seal_error))?;
    lease.give_back();
    Ok(())
}

/// Gives 1, or 0 when the head is not where it was read.
async fn move_head(mut connection: &AsyncPgConnection, places: &NewPlaces) -> QueryResult<usize> {
    let stored = audit_head::table
        .filter(audit_head::n.eq(places.from.n))
        .filter(audit_head::seal.eq(&places.from.seal));
    Kept(diesel::update(stored).set(&places.to)).execute(&mut connection).await
}

/// Keeps the checkpoint and forgets what it covers; gives how many entries went. One statement, and so all or none.
async fn forget(pool: &Pool, row: &CheckpointRow) -> Result<u64, SealError> {
    let mut lease = pool.lease().await.map_err(SealError::Unavailable)?;
    let (kept, gone): (i64, i64) = Sql::<(BigInt, BigInt)>::new(
        "WITH kept AS (
             INSERT INTO audit_checkpoint (one, n, seal, at, signature) VALUES (1, ?, ?, ?, ?)
             ON CONFLICT (one) DO UPDATE SET
                 n = excluded.n, seal = excluded.seal, at = excluded.at, signature = excluded.signature
             WHERE excluded.n >= audit_checkpoint.n
             RETURNING n
         ), gone AS (
             DELETE FROM audit WHERE n <= (SELECT n FROM kept) RETURNING n
         )
         SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM gone)",
    )
    .bind::<BigInt, _>(row.n)
    .bind::<Bytea, _>(&row.seal)
    .bind::<Timestamptz, _>(row.at)
    .bind::<Bytea, _>(&row.signature)
    .get_result(&mut *lease)
    .await
    .map_err(|error| pool.failed(error, seal_error))?;
    lease.give_back();
    if kept == 0 {
        return Err(SealError::Conflict);
    }
    natural("count of entries", gone).map_err(unavailable)
}

/// Whatever is no clash may have been done: who asks reads again in either case.
fn seal_error(error: DieselError) -> SealError {
    if meaning(&error) == Meaning::Clash { SealError::Conflict } else { unavailable(error) }
}

fn unavailable(error: impl Into<Cause>) -> SealError {
    SealError::Unavailable(error.into())
}
