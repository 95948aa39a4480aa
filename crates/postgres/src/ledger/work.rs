//! Writes a commit's tasks, mail, domains, settings and notes, and adds what was spent.
//!
//! Invariants: of each kind, rows are changed before new ones are added, so that what a change frees (a domain, an
//! open request) can be taken in the same commit; only a commit with both waits for an answer in between. What was
//! spent comes last: many commits of an agent wait for that row.

use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryResult,
    sql_types::{Array, BigInt, Json, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::{FutureExt as _, future, future::BoxFuture};

use super::Part;
use crate::{
    schema::{agent_state, domain_requests, domains, mailbox, settings, tasks},
    sql::{Kept, Sql},
    translate::{
        Changed, DomainRequestRow, DomainRow, MailRow, NewMail, NewSpent, SettingRow, StateRow, TaskRow,
        WorkRows,
    },
};

/// Tells of every row, or rows, how it was written.
pub(super) async fn change(connection: &AsyncPgConnection, rows: &WorkRows) -> Vec<Part> {
    let ((tasks, mail, new_mail), (domains, requests), (settings, states), spent) = future::join4(
        future::join3(
            each(connection, &rows.tasks),
            future::join_all(rows.mail.iter().map(|(read_at, row)| row.replace(connection, *read_at))),
            add_mail(connection, &rows.new_mail),
        ),
        future::join(each(connection, &rows.domains), each(connection, &rows.requests)),
        future::join(each(connection, &rows.settings), each(connection, &rows.states)),
        add_spent(connection, &rows.spent),
    )
    .await;
    let mut parts: Vec<Part> =
        [tasks, mail, domains, requests, settings, states].into_iter().flatten().collect();
    parts.push(Part::of("the message's id", rows.new_mail.ids.len(), new_mail));
    parts.push(Part::of("what was spent", rows.spent.kinds.len(), spent));
    parts
}

async fn each<Row: New>(connection: &AsyncPgConnection, rows: &Changed<Row>) -> Vec<Part> {
    let changing = rows.stored.iter().map(|(read_at, row)| row.replace(connection, *read_at));
    let mut parts = future::join_all(changing).await;
    parts.extend(future::join_all(rows.new.iter().map(|row| row.add(connection))).await);
    parts
}

/// A row that is written over the one of a version.
trait Stored: Sync {
    /// What it is, for who is told that somebody else changed it.
    fn what(&self) -> String;
    /// Changes 1 row, or none when another version is stored.
    fn replace<'a>(&'a self, connection: &'a AsyncPgConnection, read_at: i64) -> BoxFuture<'a, Part>;
}

/// A row that is added.
trait New: Stored {
    /// Adds 1 row, or none when there is one with its key or of its kind.
    fn add<'a>(&'a self, connection: &'a AsyncPgConnection) -> BoxFuture<'a, Part>;
}

macro_rules! stored {
    ($row:ty, $table:ident by $($key:ident),+; $what:expr) => {
        impl Stored for $row {
            fn what(&self) -> String {
                let what: fn(&Self) -> String = $what;
                what(self)
            }

            fn replace<'a>(&'a self, connection: &'a AsyncPgConnection, read_at: i64) -> BoxFuture<'a, Part> {
                let mut connection = connection;
                async move {
                    let stored = $table::table
                        $( .filter($table::$key.eq(&self.$key)) )+
                        .filter($table::version.eq(read_at));
                    let replacing = Kept(diesel::update(stored).set(self));
                    Part::one(self.what(), replacing.execute(&mut connection).await)
                }
                .boxed()
            }
        }
    };
}

macro_rules! new {
    ($row:ty, $table:ident) => {
        impl New for $row {
            fn add<'a>(&'a self, connection: &'a AsyncPgConnection) -> BoxFuture<'a, Part> {
                let mut connection = connection;
                async move {
                    let adding = diesel::insert_into($table::table).values(self).on_conflict_do_nothing();
                    Part::one(self.what(), adding.execute(&mut connection).await)
                }
                .boxed()
            }
        }
    };
}

stored!(TaskRow, tasks by id; |row| format!("task {}", row.id));
stored!(MailRow, mailbox by id; |row| format!("message {}", row.id));
stored!(DomainRow, domains by id; |row| format!("the entry of {}", row.domain));
stored!(DomainRequestRow, domain_requests by id; |row| format!("the request for {}", row.domain));
stored!(SettingRow, settings by category, key; |row| format!("setting {}.{}", row.category, row.key));
stored!(StateRow, agent_state by agent_id, key; |row| format!("note {}", row.key));
new!(TaskRow, tasks);
new!(DomainRow, domains);
new!(DomainRequestRow, domain_requests);
new!(SettingRow, settings);
new!(StateRow, agent_state);

async fn add_mail(mut connection: &AsyncPgConnection, rows: &NewMail) -> QueryResult<usize> {
    if rows.ids.is_empty() {
        return Ok(0);
    }
    Sql::<()>::new(
        "INSERT INTO mailbox (id, version, agent_id, kind, sender, from_agent, priority, body, created_at, wake_at,
             expires_at, acknowledged_by, acknowledged_at)
         SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING",
    )
    .bind::<Array<SqlUuid>, _>(&rows.ids)
    .bind::<Array<BigInt>, _>(&rows.versions)
    .bind::<Array<SqlUuid>, _>(&rows.agent_ids)
    .bind::<Array<Text>, _>(&rows.kinds)
    .bind::<Array<Text>, _>(&rows.senders)
    .bind::<Array<Nullable<SqlUuid>>, _>(&rows.from_agents)
    .bind::<Array<SmallInt>, _>(&rows.priorities)
    .bind::<Array<Json>, _>(&rows.bodies)
    .bind::<Array<Timestamptz>, _>(&rows.created_at)
    .bind::<Array<Timestamptz>, _>(&rows.wake_at)
    .bind::<Array<Timestamptz>, _>(&rows.expires_at)
    .bind::<Array<Nullable<BigInt>>, _>(&rows.acknowledged_by)
    .bind::<Array<Nullable<Timestamptz>>, _>(&rows.acknowledged_at)
    .execute(&mut connection)
    .await
}

async fn add_spent(mut connection: &AsyncPgConnection, rows: &NewSpent) -> QueryResult<usize> {
    if rows.kinds.is_empty() {
        return Ok(0);
    }
    Sql::<()>::new(
        "INSERT INTO spent (agent_id, kind, day, rows, bytes) SELECT * FROM unnest(?, ?, ?, ?, ?)
         ON CONFLICT (agent_id, kind, day)
         DO UPDATE SET rows = spent.rows + excluded.rows, bytes = spent.bytes + excluded.bytes",
    )
    .bind::<Array<SqlUuid>, _>(&rows.agent_ids)
    .bind::<Array<Text>, _>(&rows.kinds)
    .bind::<Array<Timestamptz>, _>(&rows.days)
    .bind::<Array<BigInt>, _>(&rows.rows)
    .bind::<Array<BigInt>, _>(&rows.bytes)
    .execute(&mut connection)
    .await
}
