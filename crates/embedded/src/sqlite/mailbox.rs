//! Mailboxes: what waits in one, and when it wakes its agent.
//!
//! Invariant: a query is a walk through the index of what is not acknowledged.

use aito_domain::{
    id::{AgentId, MailId},
    mailbox::Mail,
    ports::{
        ReadError,
        mailbox_store::{Due, MAX_COUNTED, MailCursor, MailboxStore},
    },
    time::millis,
};
use async_trait::async_trait;
use diesel::{
    prelude::*,
    sql_types::{BigInt, Binary, Nullable},
    sqlite::{Sqlite, SqliteConnection},
};

use super::{
    SqliteStore, schema,
    translate::{MailRow, blob, natural},
};

#[async_trait]
impl MailboxStore for SqliteStore {
    async fn by_id(&self, id: MailId) -> Result<Option<Mail>, ReadError> {
        use schema::mailbox;
        let query = move |connection: &mut SqliteConnection| {
            let row: Option<MailRow> =
                mailbox::table.find(blob(id.0)).select(MailRow::as_select()).first(connection).optional()?;
            Ok(row.map(MailRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }

    async fn waiting(
        &self,
        agent: AgentId,
        after: Option<MailCursor>,
        limit: u32,
    ) -> Result<Vec<Mail>, ReadError> {
        let now = self.clock.now().timestamp_millis();
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<MailRow> =
                pressing(agent, after, now, limit).select(MailRow::as_select()).load(connection)?;
            Ok(rows.into_iter().map(MailRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn due(&self, agent: AgentId) -> Result<Due, ReadError> {
        let now = self.clock.now().timestamp_millis();
        let query = move |connection: &mut SqliteConnection| {
            let Counted { due, waiting, next } = diesel::sql_query(DUE)
                .bind::<BigInt, _>(now)
                .bind::<BigInt, _>(now)
                .bind::<Binary, _>(blob(agent.0))
                .bind::<BigInt, _>(now)
                .get_result(connection)?;
            Ok(Due {
                due: natural("count of messages", due)?.min(MAX_COUNTED),
                waiting: natural("count of messages", waiting)?.min(MAX_COUNTED),
                next: next.map(millis),
            })
        };
        self.readers.run(query).await
    }
}

/// What [`MailboxStore::due`] asks for. Few more than are counted ever wait for one agent, and the next time that one
/// wakes it is known only of all of them.
const DUE: &str = "SELECT count(*) FILTER (WHERE wake_at <= ?) AS due, count(*) AS waiting,
         min(wake_at) FILTER (WHERE wake_at > ?) AS next
     FROM mailbox WHERE agent_id = ? AND acknowledged_at IS NULL AND expires_at > ?";

/// The answer to [`DUE`].
#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    due: i64,
    #[diesel(sql_type = BigInt)]
    waiting: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    next: Option<i64>,
}

/// What waits for an agent at `now` (milliseconds), the most urgent first.
fn pressing(
    agent: AgentId,
    after: Option<MailCursor>,
    now: i64,
    limit: u32,
) -> diesel::dsl::IntoBoxed<'static, schema::mailbox::table, Sqlite> {
    use schema::mailbox;
    let mut rows = mailbox::table
        .into_boxed()
        .filter(mailbox::agent_id.eq(blob(agent.0)))
        .filter(mailbox::acknowledged_at.is_null())
        .filter(mailbox::expires_at.gt(now));
    if let Some(after) = after {
        let (priority, id) = (i64::from(after.priority.rank()), blob(after.id.0));
        // The first condition alone bounds the walk through the index; the second is exact.
        rows = rows
            .filter(mailbox::priority.le(priority))
            .filter(mailbox::priority.lt(priority).or(mailbox::id.gt(id)));
    }
    rows.order((mailbox::priority.desc(), mailbox::id.asc())).limit(i64::from(limit))
}

#[cfg(test)]
mod tests {
    use aito_domain::task::Priority;
    use uuid::Uuid;

    use super::*;
    use crate::sqlite::tests::Planner;

    #[test]
    fn every_query_is_a_walk_through_one_index() {
        let mut planner = Planner::new();
        let agent = AgentId(Uuid::from_u128(1));
        planner.expect_walk(&pressing(agent, None, 5, 9), &["mailbox_waiting (agent_id=?)"]);
        let cursor = MailCursor { priority: Priority::High, id: MailId(Uuid::max()) };
        planner.expect_walk(
            &pressing(agent, Some(cursor), 5, 9),
            &["mailbox_waiting (agent_id=? AND priority<?)"],
        );
        let plan = planner.plan(DUE);
        assert!(plan.contains("mailbox_waiting (agent_id=?)"), "{plan}");
    }
}
