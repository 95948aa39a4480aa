//! Agents, histories, heartbeats and the installation's record.
//!
//! Invariant: every call is one statement, or statements that each stand alone, so that none leaves a transaction
//! open.

use aito_domain::{
    agent::Agent,
    history::HistoryEntry,
    id::{AgentId, AgentType},
    installation::InstallationRecord,
    ports::{
        ReadError,
        agent_store::AgentStore,
        heartbeats::{FlushError, Heartbeat, Heartbeats},
        history_store::{HistoryCursor, HistoryStore, Written},
        installation_store::InstallationStore,
    },
    time::Timestamp,
};
use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _, QueryResult, SelectableHelper as _,
    pg::Pg,
    sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::{
    FutureExt as _,
    future::{self, BoxFuture},
};

use super::{
    PgStore,
    schema::{agents, heartbeats, history, installation},
    sql::Sql,
    translate::{AgentRow, HeartbeatRow, HistoryRow, InstallationRow, NewHeartbeats, natural, read_error},
};

#[async_trait]
impl AgentStore for PgStore {
    async fn list(&self) -> Result<Vec<Agent>, ReadError> {
        let query = agents::table.order(agents::agent_type).select(AgentRow::as_select());
        let rows: Vec<AgentRow> = self.pool.read(query).await?;
        Ok(rows.into_iter().map(AgentRow::into_domain).collect::<Result<_, _>>()?)
    }

    async fn by_type(&self, agent_type: &AgentType) -> Result<Option<Agent>, ReadError> {
        let query = agents::table
            .filter(agents::agent_type.eq(agent_type.as_str().to_owned()))
            .select(AgentRow::as_select());
        let mut rows: Vec<AgentRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(AgentRow::into_domain).transpose()?)
    }

    async fn by_id(&self, id: AgentId) -> Result<Option<Agent>, ReadError> {
        let query = agents::table.filter(agents::id.eq(id.0)).select(AgentRow::as_select());
        let mut rows: Vec<AgentRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(AgentRow::into_domain).transpose()?)
    }
}

#[async_trait]
impl HistoryStore for PgStore {
    async fn page(
        &self,
        agent: AgentId,
        before: Option<HistoryCursor>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, ReadError> {
        use history::{agent_id, created_at, id, table};
        let mut query = table.filter(agent_id.eq(agent.0)).select(HistoryRow::as_select()).into_boxed::<Pg>();
        if let Some(before) = before {
            // The first condition alone bounds the walk through the index; the second is exact.
            query = query
                .filter(created_at.le(before.at))
                .filter(created_at.lt(before.at).or(id.lt(before.id.0)));
        }
        let query = query.order((created_at.desc(), id.desc())).limit(i64::from(limit));
        let rows: Vec<HistoryRow> = self.pool.read(query).await?;
        Ok(rows.into_iter().map(HistoryRow::into_domain).collect::<Result<_, _>>()?)
    }

    async fn written(&self, agent: AgentId, from: Timestamp) -> Result<Written, ReadError> {
        let query = Sql::<(BigInt, BigInt)>::new(
            "SELECT count(*),
                 coalesce(sum(octet_length(summary) + coalesce(octet_length(details::text), 0)), 0)::bigint
             FROM history WHERE agent_id = ? AND created_at >= ?",
        )
        .bind::<SqlUuid, _>(agent.0)
        .bind::<Timestamptz, _>(from);
        let mut answer: Vec<(i64, i64)> = self.pool.read(query).await?;
        let (rows, bytes) = answer.pop().unwrap_or_default();
        Ok(Written { rows: natural("count of rows", rows)?, bytes: natural("count of bytes", bytes)? })
    }
}

#[async_trait]
impl Heartbeats for PgStore {
    async fn flush(&self, rows: &[Heartbeat]) -> Result<(), FlushError> {
        let rows = NewHeartbeats::of(rows).map_err(|error| FlushError(Box::new(error)))?;
        if rows.agent_ids.is_empty() {
            return Ok(());
        }
        let writing = async {
            let mut lease = self.pool.lease().await.map_err(FlushError)?;
            keep_newer(&mut lease, &rows)
                .await
                .map_err(|error| self.pool.failed(error, |error| FlushError(Box::new(error))))?;
            lease.give_back();
            Ok(())
        };
        // A row that is stored again changes nothing, so an unknown end needs no question.
        let answer = tokio::time::timeout(self.pool.timeout(), writing).await;
        answer.map_err(|late| FlushError(Box::new(late)))?
    }

    async fn all(&self) -> Result<Vec<Heartbeat>, ReadError> {
        let query = heartbeats::table.order(heartbeats::agent_id).select(HeartbeatRow::as_select());
        let rows: Vec<HeartbeatRow> = self.pool.read(query).await?;
        Ok(rows.into_iter().map(HeartbeatRow::into_domain).collect::<Result<_, _>>()?)
    }
}

async fn keep_newer(connection: &mut AsyncPgConnection, rows: &NewHeartbeats) -> QueryResult<usize> {
    Sql::<()>::new(
        "INSERT INTO heartbeats (agent_id, incarnation, at, loop_count, last_loop_at, activity)
         SELECT * FROM unnest(?, ?, ?, ?, ?, ?)
         ON CONFLICT (agent_id) DO UPDATE SET
             incarnation = excluded.incarnation, at = excluded.at, loop_count = excluded.loop_count,
             last_loop_at = excluded.last_loop_at, activity = excluded.activity
         WHERE (excluded.incarnation, excluded.at) > (heartbeats.incarnation, heartbeats.at)",
    )
    .bind::<Array<SqlUuid>, _>(&rows.agent_ids)
    .bind::<Array<BigInt>, _>(&rows.incarnations)
    .bind::<Array<Timestamptz>, _>(&rows.at)
    .bind::<Array<BigInt>, _>(&rows.loop_counts)
    .bind::<Array<Nullable<Timestamptz>>, _>(&rows.last_loops_at)
    .bind::<Array<Nullable<Text>>, _>(&rows.activities)
    .execute(connection)
    .await
}

#[async_trait]
impl InstallationStore for PgStore {
    async fn load(&self) -> Result<Option<InstallationRecord>, ReadError> {
        let query = installation::table.select(InstallationRow::as_select());
        let mut rows: Vec<InstallationRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(InstallationRow::into_domain).transpose()?)
    }

    async fn create(&self, record: &InstallationRecord) -> Result<InstallationRecord, ReadError> {
        let row = InstallationRow::of(record);
        let stands = self
            .change_installation(|mut connection| {
                let adding = diesel::insert_into(installation::table)
                    .values((installation::one.eq(1), row))
                    .on_conflict_do_nothing();
                async move { adding.execute(&mut connection).await }.boxed()
            })
            .await?;
        stands.ok_or_else(|| ReadError::Unavailable("the record is gone again".into()))
    }

    async fn set_engine(&self, from: &str, to: &str) -> Result<Option<InstallationRecord>, ReadError> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.change_installation(|mut connection| {
            let naming = diesel::update(installation::table.filter(installation::engine_id.eq(from)))
                .set(installation::engine_id.eq(to));
            async move { naming.execute(&mut connection).await }.boxed()
        })
        .await
    }
}

impl PgStore {
    /// Changes the record, if that is to be, and reads what stands then. When the end is not known, asking again
    /// finds what was written.
    async fn change_installation(
        &self,
        change: impl for<'c> FnOnce(&'c AsyncPgConnection) -> BoxFuture<'c, QueryResult<usize>> + Send,
    ) -> Result<Option<InstallationRecord>, ReadError> {
        let changing = async {
            let lease = self.pool.lease().await.map_err(ReadError::Unavailable)?;
            let mut connection: &AsyncPgConnection = &lease;
            let reading = installation::table.select(InstallationRow::as_select()).load(&mut connection);
            let (changed, stands) = future::join(change(&lease), reading).await;
            let mut rows: Vec<InstallationRow> =
                changed.and(stands).map_err(|error| self.pool.failed(error, read_error))?;
            lease.give_back();
            Ok(rows.pop().map(InstallationRow::into_domain).transpose()?)
        };
        let answer = tokio::time::timeout(self.pool.timeout(), changing).await;
        answer.map_err(|late| ReadError::Unavailable(Box::new(late)))?
    }
}
