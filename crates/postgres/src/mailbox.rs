//! Mailboxes, and what agents have used up.
//!
//! Invariant: what waits is walked to in one index, the most urgent first, and counted in another, by time; what has
//! expired is passed over there.

use aito_domain::{
    id::{AgentId, MailId},
    mailbox::Mail,
    ports::{
        ReadError,
        history_store::Written,
        mailbox_store::{Due, MAX_COUNTED, MailCursor, MailboxStore},
        quota_store::QuotaStore,
    },
    quota::SpentKind,
    time::Timestamp,
};
use async_trait::async_trait;
use diesel::sql_types::{BigInt, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid};

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
        let mut answer: Vec<(i64, i64, Option<Timestamp>)> = self.pool.read(due(agent)).await?;
        let (due, waiting, next) = answer.pop().unwrap_or_default();
        Ok(Due {
            due: natural("count of messages", due)?,
            waiting: natural("count of messages", waiting)?,
            next,
        })
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
    ($column:literal, $condition:literal, $limit:literal) => {
        concat!(
            "(SELECT ",
            $column,
            " FROM mailbox WHERE agent_id = ? AND acknowledged_at IS NULL AND expires_at > (SELECT at FROM present)",
            $condition,
            " ORDER BY wake_at LIMIT ",
            $limit,
            ")"
        )
    };
}

/// How many are due, how many wait, and when the next is due; all at one time.
pub(super) fn due(agent: AgentId) -> Sql<'static, (BigInt, BigInt, Nullable<Timestamptz>)> {
    let most = i64::try_from(MAX_COUNTED).unwrap_or(i64::MAX);
    Sql::new(concat!(
        "WITH present AS MATERIALIZED (SELECT aito_now() AS at)
         SELECT (SELECT count(*) FROM ",
        by_time!("1", " AND wake_at <= (SELECT at FROM present)", "?"),
        " AS due), (SELECT count(*) FROM ",
        by_time!("1", "", "?"),
        " AS waiting), ",
        by_time!("wake_at", " AND wake_at > (SELECT at FROM present)", "1"),
    ))
    .bind::<SqlUuid, _>(agent.0)
    .bind::<BigInt, _>(most)
    .bind::<SqlUuid, _>(agent.0)
    .bind::<BigInt, _>(most)
    .bind::<SqlUuid, _>(agent.0)
}
