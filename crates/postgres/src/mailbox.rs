//! Mailboxes: what waits, when it wakes, how much of it was sent, what has expired; and what agents have used up.
//!
//! Invariant: what waits is walked to in one index, the most urgent first, and counted in another, by time; what has
//! expired is passed over there.

use aito_domain::{
    id::{AgentId, MailId},
    mailbox::{MAX_WAITING, Mail},
    ports::{
        ReadError,
        history_store::Written,
        mailbox_store::{Due, MAX_COUNTED, MAX_FIRST, MailCursor, MailboxStore, Sent},
        quota_store::QuotaStore,
    },
    quota::SpentKind,
    time::Timestamp,
};
use async_trait::async_trait;
use diesel::sql_types::{Array, BigInt, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use super::{
    PgStore,
    schema::mailbox,
    sql::Sql,
    translate::{MailRow, natural},
};

/// In the order of [`MailRow`].
macro_rules! columns {
    () => {
        "id, version, agent_id, kind, sender, from_agent, priority, body, created_at, wake_at, expires_at, \
         acknowledged_by, acknowledged_at"
    };
}

/// Rows of messages.
pub(super) type MailSql = Sql<'static, mailbox::SqlType>;

#[async_trait]
impl MailboxStore for PgStore {
    async fn by_id(&self, id: MailId) -> Result<Option<Mail>, ReadError> {
        let query = MailSql::new(concat!("SELECT ", columns!(), " FROM mailbox WHERE id = ?"))
            .bind::<SqlUuid, _>(id.0);
        let mut rows: Vec<MailRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(MailRow::into_domain).transpose()?)
    }

    async fn waiting(
        &self,
        agent: AgentId,
        after: Option<MailCursor>,
        limit: u32,
    ) -> Result<Vec<Mail>, ReadError> {
        let rows: Vec<MailRow> = self.pool.read(waiting(agent, after, limit)).await?;
        Ok(rows.into_iter().map(MailRow::into_domain).collect::<Result<_, _>>()?)
    }

    async fn due(&self, agent: AgentId) -> Result<Due, ReadError> {
        let mut answer: Vec<(i64, i64, Option<Timestamp>, Vec<Uuid>)> = self.pool.read(due(agent)).await?;
        let (due, waiting, next, first) = answer.pop().unwrap_or_default();
        Ok(Due {
            due: natural("count of messages", due)?,
            waiting: natural("count of messages", waiting)?,
            next,
            first: first.into_iter().map(MailId).collect(),
        })
    }

    async fn room(&self, agent: AgentId, sender: Option<AgentId>) -> Result<Sent, ReadError> {
        let mut answer: Vec<(i64, i64)> = self.pool.read(room(agent, sender)).await?;
        let (by_all, by_one) = answer.pop().unwrap_or_default();
        Ok(Sent {
            by_all: natural("count of messages", by_all)?,
            by_one: natural("count of messages", by_one)?,
        })
    }

    async fn forget(&self, limit: u32) -> Result<u64, ReadError> {
        let mut answer: Vec<i64> = self.pool.read(forget(limit)).await?;
        Ok(natural("count of messages", answer.pop().unwrap_or_default())?)
    }
}

#[async_trait]
impl QuotaStore for PgStore {
    async fn spent(&self, agent: AgentId, kind: SpentKind, day: Timestamp) -> Result<Written, ReadError> {
        let query = Sql::<(BigInt, BigInt)>::new(
            "SELECT rows, bytes FROM spent WHERE agent_id = ? AND kind = ? AND day = ?",
        )
        .bind::<SqlUuid, _>(agent.0)
        .bind::<Text, _>(kind.as_str())
        .bind::<Timestamptz, _>(day);
        let mut answer: Vec<(i64, i64)> = self.pool.read(query).await?;
        let (rows, bytes) = answer.pop().unwrap_or_default();
        Ok(Written { rows: natural("count of rows", rows)?, bytes: natural("count of bytes", bytes)? })
    }
}

/// What a page reads.
pub(super) fn waiting(agent: AgentId, after: Option<MailCursor>, limit: u32) -> MailSql {
    let text = if after.is_some() {
        concat!(
            "SELECT ",
            columns!(),
            " FROM mailbox
             WHERE agent_id = ? AND acknowledged_at IS NULL AND expires_at > (SELECT aito_now())
                 AND (- priority, id) > (?, ?)
             ORDER BY - priority, id LIMIT ?"
        )
    } else {
        concat!(
            "SELECT ",
            columns!(),
            " FROM mailbox
             WHERE agent_id = ? AND acknowledged_at IS NULL AND expires_at > (SELECT aito_now())
             ORDER BY - priority, id LIMIT ?"
        )
    };
    let mut statement = MailSql::new(text).bind::<SqlUuid, _>(agent.0);
    if let Some(after) = after {
        statement =
            statement.bind::<SmallInt, _>(-i16::from(after.priority.rank())).bind::<SqlUuid, _>(after.id.0);
    }
    statement.bind::<BigInt, _>(i64::from(limit))
}

/// What waits for an agent and has not expired, by when it wakes it, to be counted or looked at.
macro_rules! by_time {
    ($column:literal, $condition:expr, $limit:literal) => {
        concat!(
            "(SELECT ",
            $column,
            " FROM mailbox WHERE agent_id = ? AND acknowledged_at IS NULL AND expires_at > (SELECT at FROM present)",
            $condition,
            " ORDER BY wake_at, id LIMIT ",
            $limit,
            ")"
        )
    };
}

/// One that had no delay is due whatever the clocks say.
macro_rules! is_due {
    () => {
        " AND (wake_at <= (SELECT at FROM present) OR wake_at <= created_at)"
    };
}

/// How many are due, how many wait, when the next is due, and which are; all at one time.
pub(super) fn due(agent: AgentId) -> Sql<'static, (BigInt, BigInt, Nullable<Timestamptz>, Array<SqlUuid>)> {
    let most = i64::try_from(MAX_COUNTED).unwrap_or(i64::MAX);
    Sql::new(concat!(
        "WITH present AS MATERIALIZED (SELECT aito_now() AS at)
         SELECT (SELECT count(*) FROM ",
        by_time!("1", is_due!(), "?"),
        " AS due), (SELECT count(*) FROM ",
        by_time!("1", "", "?"),
        " AS waiting), ",
        by_time!("wake_at", " AND wake_at > (SELECT at FROM present) AND wake_at > created_at", "1"),
        ", ARRAY",
        by_time!("id", is_due!(), "?"),
    ))
    .bind::<SqlUuid, _>(agent.0)
    .bind::<BigInt, _>(most)
    .bind::<SqlUuid, _>(agent.0)
    .bind::<BigInt, _>(most)
    .bind::<SqlUuid, _>(agent.0)
    .bind::<SqlUuid, _>(agent.0)
    .bind::<BigInt, _>(MAX_FIRST as i64)
}

/// What people and agents sent.
macro_rules! sent {
    ($condition:literal) => {
        concat!(
            "(SELECT count(*) FROM (SELECT FROM mailbox WHERE agent_id = ? AND acknowledged_at IS NULL
                 AND kind IN ('message', 'broadcast')",
            $condition,
            " AND expires_at > (SELECT at FROM present) LIMIT ?) AS sent)"
        )
    };
}

/// How much of that waits, and how much of it one agent sent.
pub(super) fn room(agent: AgentId, sender: Option<AgentId>) -> Sql<'static, (BigInt, BigInt)> {
    let most = i64::try_from(MAX_WAITING).unwrap_or(i64::MAX);
    Sql::new(concat!(
        "WITH present AS MATERIALIZED (SELECT aito_now() AS at) SELECT ",
        sent!(""),
        ", ",
        sent!(" AND from_agent = ?"),
    ))
    .bind::<SqlUuid, _>(agent.0)
    .bind::<BigInt, _>(most)
    .bind::<SqlUuid, _>(agent.0)
    // No agent has this id.
    .bind::<SqlUuid, _>(sender.map_or(Uuid::nil(), |sender| sender.0))
    .bind::<BigInt, _>(most)
}

/// Removes what has expired, as far as nobody else is about to change it; gives how many. It waits for no lock. (What it
/// removes is looked up once: a join could do that for each row, and then find others each time.)
pub(super) fn forget(limit: u32) -> Sql<'static, BigInt> {
    Sql::new(
        "WITH gone AS (
             DELETE FROM mailbox WHERE id = ANY(ARRAY(
                 SELECT id FROM mailbox WHERE sender <> '#expiring' AND expires_at <= (SELECT aito_now())
                 ORDER BY expires_at LIMIT ? FOR UPDATE SKIP LOCKED
             )) RETURNING 1
         )
         SELECT count(*) FROM gone",
    )
    .bind::<BigInt, _>(i64::from(limit))
}
