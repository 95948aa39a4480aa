//! Mailboxes: what waits in one, when it wakes its agent, how much of it was sent, and what has expired.
//!
//! Invariant: a query is a walk through one index. Conditions that a partial index has are written out, because SQLite
//! does not know what will be bound to a parameter.

use std::convert::Infallible;

use aito_domain::{
    id::{AgentId, MailId},
    mailbox::{MAX_WAITING, Mail},
    ports::{
        ReadError,
        mailbox_store::{Due, MAX_COUNTED, MAX_FIRST, MailCursor, MailboxStore, Sent},
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
    translate::{MailRow, Untranslatable, blob, natural, uuid},
    writer::{Stop, WriteError},
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
            // Both see one state.
            let read = connection.transaction(|connection| {
                let counted: Counted = diesel::sql_query(DUE)
                    .bind::<BigInt, _>(now)
                    .bind::<BigInt, _>(now)
                    .bind::<Binary, _>(blob(agent.0))
                    .bind::<BigInt, _>(now)
                    .get_result(connection)?;
                let first: Vec<Named> = diesel::sql_query(FIRST)
                    .bind::<Binary, _>(blob(agent.0))
                    .bind::<BigInt, _>(now)
                    .bind::<BigInt, _>(now)
                    .bind::<BigInt, _>(MAX_FIRST as i64)
                    .load(connection)?;
                QueryResult::Ok((counted, first))
            });
            let (Counted { due, waiting, next }, first) = read?;
            let first = first.into_iter().map(|row| Ok(MailId(uuid("message id", &row.id)?)));
            Ok(Due {
                due: natural("count of messages", due)?.min(MAX_COUNTED),
                waiting: natural("count of messages", waiting)?.min(MAX_COUNTED),
                next: next.map(millis),
                first: first.collect::<Result<_, Untranslatable>>()?,
            })
        };
        self.readers.run(query).await
    }

    async fn room(&self, agent: AgentId, sender: Option<AgentId>) -> Result<Sent, ReadError> {
        let now = self.clock.now().timestamp_millis();
        let query = move |connection: &mut SqliteConnection| {
            let SentColumns { by_all, by_one } = diesel::sql_query(ROOM)
                .bind::<Binary, _>(blob(agent.0))
                .bind::<BigInt, _>(now)
                .bind::<BigInt, _>(MAX_WAITING as i64)
                .bind::<Binary, _>(blob(agent.0))
                .bind::<Nullable<Binary>, _>(sender.map(|sender| blob(sender.0)))
                .bind::<BigInt, _>(now)
                .bind::<BigInt, _>(MAX_WAITING as i64)
                .get_result(connection)?;
            Ok(Sent {
                by_all: natural("count of messages", by_all)?,
                by_one: natural("count of messages", by_one)?,
            })
        };
        self.readers.run(query).await
    }

    async fn forget(&self, limit: u32) -> Result<u64, ReadError> {
        let now = self.clock.now().timestamp_millis();
        let work = move |connection: &mut SqliteConnection| -> Result<u64, Stop<Infallible>> {
            let gone = diesel::sql_query(FORGET)
                .bind::<BigInt, _>(now)
                .bind::<BigInt, _>(i64::from(limit))
                .execute(connection)?;
            Ok(gone as u64)
        };
        self.writer.run(work).await.map_err(|error| match error {
            WriteError::Refused(never) => match never {},
            // What was removed or not will be seen by who looks again.
            WriteError::Unavailable(cause) | WriteError::Unknown(cause) => ReadError::Unavailable(cause),
        })
    }
}

/// What [`MailboxStore::due`] asks for. Few more than are counted ever wait for one agent, and the next time that one
/// wakes it is known only of all of them.
const DUE: &str =
    "SELECT count(*) FILTER (WHERE wake_at <= ? OR wake_at <= created_at) AS due, count(*) AS waiting,
         min(wake_at) FILTER (WHERE wake_at > ? AND wake_at > created_at) AS next
     FROM mailbox WHERE agent_id = ? AND acknowledged_at IS NULL AND expires_at > ?";

/// Which are due, the longest first.
const FIRST: &str = "SELECT id FROM mailbox
     WHERE agent_id = ? AND acknowledged_at IS NULL AND expires_at > ? AND (wake_at <= ? OR wake_at <= created_at)
     ORDER BY wake_at, id LIMIT ?";

/// What people and agents sent.
macro_rules! sent {
    ($condition:literal) => {
        concat!(
            "(SELECT count(*) FROM (SELECT 1 FROM mailbox WHERE agent_id = ? AND acknowledged_at IS NULL
                  AND kind IN ('message', 'broadcast')",
            $condition,
            " AND expires_at > ? LIMIT ?))"
        )
    };
}

/// What [`MailboxStore::room`] asks for.
const ROOM: &str = concat!("SELECT ", sent!(""), " AS by_all, ", sent!(" AND from_agent = ?"), " AS by_one");

const FORGET: &str = "DELETE FROM mailbox WHERE id IN
     (SELECT id FROM mailbox WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)";

/// A row of [`FIRST`].
#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Binary)]
    id: Vec<u8>,
}

/// The answer to [`ROOM`].
#[derive(QueryableByName)]
struct SentColumns {
    #[diesel(sql_type = BigInt)]
    by_all: i64,
    #[diesel(sql_type = BigInt)]
    by_one: i64,
}

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
    use std::{sync::Arc, time::Duration};

    use aito_contracts::clock::{ManualClock, SeqIds};
    use aito_domain::{
        event::Actor,
        id::{CommitId, Version},
        mailbox::MailKind,
        ports::{
            clock::{Clock as _, IdSource as _},
            ledger::{Change, Commit, Ledger as _},
        },
        task::Priority,
        time::after,
    };
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::sqlite::{Options, tests::Planner};

    #[tokio::test]
    async fn a_message_wakes_and_expires_to_the_millisecond() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new());
        let ids = SeqIds::new(clock.clone(), 1);
        let store = SqliteStore::open(Options::new(dir.path().join("db"), clock.clone())).unwrap();
        let (tick, agent_id) = (Duration::from_millis(1), AgentId(ids.uuid()));
        let mail = Mail {
            id: MailId(ids.uuid()),
            version: Version::default(),
            agent_id,
            kind: MailKind::Message,
            sender: Actor::System,
            from_agent: None,
            priority: Priority::Low,
            body: Value::Null,
            created_at: clock.now(),
            wake_at: after(clock.now(), 2 * tick),
            expires_at: after(clock.now(), 4 * tick),
            acknowledged: None,
        };
        let changes = vec![Change::Mail(Box::new(mail.clone()))];
        store.commit(&Commit { changes, ..Commit::new(CommitId(ids.uuid())) }).await.unwrap();
        for (due, waits, forgotten) in [(0, 1, 0), (0, 1, 0), (1, 1, 0), (1, 1, 0), (0, 0, 1), (0, 0, 0)] {
            let found = store.due(agent_id).await.unwrap();
            assert_eq!((found.due, found.waiting, found.first.len() as u64), (due, waits, due));
            assert_eq!(found.next, (due < waits).then_some(mail.wake_at));
            assert_eq!(store.room(agent_id, None).await.unwrap().by_all, waits);
            assert_eq!(store.waiting(agent_id, None, 9).await.unwrap().len() as u64, waits);
            assert_eq!(store.forget(9).await.unwrap(), forgotten);
            clock.advance_at_once(tick);
        }
        assert_eq!(store.by_id(mail.id).await.unwrap(), None);
    }

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
        assert!(plan.starts_with("SEARCH mailbox USING INDEX mailbox_wa") && !plan.contains(';'), "{plan}");
        assert!(plan.contains("(agent_id=?)"), "{plan}");
        let plan = planner.plan(FIRST);
        assert!(plan.contains("mailbox_waking (agent_id=?)") && !plan.contains("TEMP B-TREE"), "{plan}");
        let plan = planner.plan(ROOM);
        assert!(plan.contains("mailbox_sent (agent_id=? AND from_agent=? AND expires_at>?)"), "{plan}");
        assert_eq!(plan.matches("SEARCH mailbox USING").count(), 2, "{plan}");
        let plan = planner.plan(FORGET);
        assert!(plan.contains("mailbox_expiring (expires_at<?)") && !plan.contains("SCAN"), "{plan}");
    }
}
