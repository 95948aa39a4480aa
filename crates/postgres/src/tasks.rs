//! Tasks, as they are listed and handed out.
//!
//! Invariant: whatever is listed is walked to in one index, in its order, from where the page begins; a statement of a
//! list names the index that it walks by a condition that always holds (see the migration that made them). What an
//! agent sees is two such walks, of what it was given and of what it created, each as long as the page reaches.

use std::sync::Arc;

use aito_domain::{
    id::{AgentId, Incarnation, TaskId},
    ports::{
        EXACT_TOTAL, ReadError, Total,
        task_store::{TaskCursor, TaskQuery, TaskStore},
    },
    task::{Claimable, Task, TaskStatus},
};
use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryResult, SelectableHelper as _,
    sql_types::{BigInt, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::{FutureExt as _, future};
use uuid::Uuid;

use super::{
    PgStore,
    schema::{agents, tasks},
    sql::Sql,
    translate::{AgentRow, TaskRow, Untranslatable, natural, read_error},
};

/// In the order of [`TaskRow`].
macro_rules! columns {
    () => {
        "id, version, title, description, priority, status, state, assigned_to, created_by, actor, due_at, overdue, \
         claims, created_at, updated_at"
    };
}

const NEWEST_FIRST: &str = "ORDER BY created_at DESC, id DESC";

/// Rows of tasks.
pub(super) type TaskSql = Sql<'static, tasks::SqlType>;

#[async_trait]
impl TaskStore for PgStore {
    async fn by_id(&self, id: TaskId) -> Result<Option<Task>, ReadError> {
        let query =
            TaskSql::new(concat!("SELECT ", columns!(), " FROM tasks WHERE id = ?")).bind::<SqlUuid, _>(id.0);
        let mut rows: Vec<TaskRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(TaskRow::into_domain).transpose()?)
    }

    async fn page(
        &self,
        query: &TaskQuery,
        before: Option<TaskCursor>,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<Task>, ReadError> {
        domain(self.pool.read(page(query, before, offset, limit)).await?)
    }

    async fn total(&self, query: &TaskQuery) -> Result<Total, ReadError> {
        let mut answer: Vec<(i64, i64)> = self.pool.read(total(query)).await?;
        let (found, stored) = answer.pop().unwrap_or_default();
        let count = natural("count of tasks", found)?;
        if count <= EXACT_TOTAL {
            return Ok(Total { count, exact: true });
        }
        // What the server believes is there is of use only where nothing is left out, and is -1 at first.
        let stored = if *query == TaskQuery::default() { u64::try_from(stored).unwrap_or(0) } else { 0 };
        Ok(Total { count: count.max(stored), exact: false })
    }

    async fn claimable(&self, agent: AgentId) -> Result<Option<Claimable>, ReadError> {
        let pool = Arc::clone(&self.pool);
        let reading = async move {
            let lease = pool.lease().await.map_err(ReadError::Unavailable)?;
            let read = read_claimable(&lease, agent).await;
            let read = read.map_err(|error| pool.failed(error, read_error))?;
            lease.give_back();
            Ok(read.into_domain()?)
        };
        self.pool.run(reading.boxed()).await.map_err(ReadError::Unavailable)?
    }

    async fn leases(&self) -> Result<Vec<(AgentId, Incarnation)>, ReadError> {
        let rows: Vec<(Uuid, i64)> = self.pool.read(leases()).await?;
        let leases = rows.into_iter().map(|(agent, incarnation)| {
            Ok((AgentId(agent), Incarnation(natural("incarnation", incarnation)?)))
        });
        Ok(leases.collect::<Result<_, Untranslatable>>()?)
    }

    async fn overdue(&self, limit: u32) -> Result<Vec<Task>, ReadError> {
        domain(self.pool.read(overdue(limit)).await?)
    }
}

fn domain(rows: Vec<TaskRow>) -> Result<Vec<Task>, ReadError> {
    Ok(rows.into_iter().map(TaskRow::into_domain).collect::<Result<_, _>>()?)
}

/// What a page reads.
pub(super) fn page(query: &TaskQuery, before: Option<TaskCursor>, offset: u32, limit: u32) -> TaskSql {
    let (offset, limit) = (i64::from(offset), i64::from(limit));
    let is_after = before.is_some();
    match Walk::of(query) {
        (walk, None) => {
            let text = walk.text(columns!(), is_after);
            let statement = walk.bind(TaskSql::new(format!("{text} LIMIT ? OFFSET ?")), before);
            statement.bind::<BigInt, _>(limit).bind::<BigInt, _>(offset)
        }
        (one, Some(other)) => {
            // A task of both walks comes once: its two rows are beside each other.
            let text = format!(
                "SELECT DISTINCT ON (created_at, id) {} FROM (({} LIMIT ?) UNION ALL ({} LIMIT ?)) AS seen
                 {NEWEST_FIRST} LIMIT ? OFFSET ?",
                columns!(),
                one.text(columns!(), is_after),
                other.text(columns!(), is_after),
            );
            let reach = offset + limit;
            let statement = one.bind(TaskSql::new(text), before).bind::<BigInt, _>(reach);
            let statement = other.bind(statement, before).bind::<BigInt, _>(reach);
            statement.bind::<BigInt, _>(limit).bind::<BigInt, _>(offset)
        }
    }
}

/// How many there are, up to one more than is counted exactly, and how many tasks the server believes to be stored.
pub(super) fn total(query: &TaskQuery) -> Sql<'static, (BigInt, BigInt)> {
    let limit = format!("LIMIT {}", EXACT_TOTAL + 1);
    let (one, other) = Walk::of(query);
    let found = match &other {
        None => format!("{} {limit}", one.text("id", false)),
        Some(other) => format!(
            "SELECT DISTINCT ON (created_at, id) id FROM (({} {limit}) UNION ALL ({} {limit})) AS seen
             {NEWEST_FIRST} {limit}",
            one.text("created_at, id", false),
            other.text("created_at, id", false),
        ),
    };
    let text = format!(
        "SELECT count(*), (SELECT reltuples::bigint FROM pg_class WHERE oid = 'tasks'::regclass)
         FROM ({found}) AS found"
    );
    let statement = one.bind(Sql::new(text), None);
    match other {
        None => statement,
        Some(other) => other.bind(statement, None),
    }
}

/// Who works on tasks. One agent's at a time, so that it is a walk.
pub(super) fn leases() -> Sql<'static, (SqlUuid, BigInt)> {
    Sql::new(
        "SELECT DISTINCT assigned_to, incarnation FROM (
             SELECT assigned_to, (state->>'incarnation')::bigint AS incarnation
             FROM tasks WHERE status = 'in_progress' ORDER BY assigned_to, id
         ) AS held",
    )
}

pub(super) fn overdue(limit: u32) -> TaskSql {
    TaskSql::new(concat!(
        "SELECT ",
        columns!(),
        " FROM tasks
         WHERE due_at IS NOT NULL AND NOT overdue AND status IN ('pending', 'in_progress')
             AND due_at <= (SELECT aito_now())
         ORDER BY due_at, id LIMIT ?"
    ))
    .bind::<BigInt, _>(i64::from(limit))
}

/// What is in progress, by id, and the oldest that waits of each priority; in one statement, which sees one state.
pub(super) fn held_and_oldest(agent: AgentId) -> TaskSql {
    TaskSql::new(concat!(
        "(SELECT ",
        columns!(),
        " FROM tasks WHERE assigned_to = ? AND status = 'in_progress' ORDER BY id)
         UNION ALL
         SELECT oldest.* FROM unnest(ARRAY[0, 1, 2, 3, 4]::smallint[]) AS of (priority) CROSS JOIN LATERAL (
             SELECT ",
        columns!(),
        " FROM tasks WHERE assigned_to = ? AND status = 'pending' AND priority = of.priority
             ORDER BY created_at, id LIMIT 1
         ) AS oldest"
    ))
    .bind::<SqlUuid, _>(agent.0)
    .bind::<SqlUuid, _>(agent.0)
}

/// A [`Claimable`] in rows.
pub(super) struct ClaimableRows {
    agent: Option<AgentRow>,
    tasks: Vec<TaskRow>,
}

/// Reads what a pick decides on, in one round trip.
pub(super) async fn read_claimable(
    connection: &AsyncPgConnection,
    agent: AgentId,
) -> QueryResult<ClaimableRows> {
    let (mut of_agent, mut of_tasks) = (connection, connection);
    let asking = agents::table.filter(agents::id.eq(agent.0)).select(AgentRow::as_select());
    let (agents, tasks) = future::join(
        asking.load::<AgentRow>(&mut of_agent),
        held_and_oldest(agent).load::<TaskRow>(&mut of_tasks),
    )
    .await;
    Ok(ClaimableRows { agent: agents?.pop(), tasks: tasks? })
}

impl ClaimableRows {
    pub(super) fn into_domain(self) -> Result<Option<Claimable>, Untranslatable> {
        let Some(agent) = self.agent else { return Ok(None) };
        let tasks: Vec<Task> = self.tasks.into_iter().map(TaskRow::into_domain).collect::<Result<_, _>>()?;
        let (mut held, mut oldest): (Vec<Task>, Vec<Task>) =
            tasks.into_iter().partition(|task| task.lease().is_some());
        held.sort_by_key(|task| task.id);
        oldest.sort_by_key(|task| task.priority);
        Ok(Some(Claimable { agent: agent.into_domain()?, held, oldest }))
    }
}

/// One walk through one index.
#[derive(Debug, Clone, Copy)]
struct Walk {
    status: Option<TaskStatus>,
    assigned_to: Option<AgentId>,
    created_by: Option<AgentId>,
}

impl Walk {
    /// One or two.
    fn of(query: &TaskQuery) -> (Self, Option<Self>) {
        let walk = Self { status: query.status, assigned_to: query.assigned_to, created_by: None };
        match (query.seen_by, query.assigned_to) {
            (None, _) => (walk, None),
            // What it was given it sees, whoever created it.
            (Some(seen_by), Some(assigned_to)) if seen_by == assigned_to => (walk, None),
            (Some(seen_by), Some(_)) => (Self { created_by: Some(seen_by), ..walk }, None),
            (Some(seen_by), None) => (
                Self { assigned_to: Some(seen_by), ..walk },
                Some(Self { created_by: Some(seen_by), ..walk }),
            ),
        }
    }

    /// The statement up to its limit; `is_after`: it begins after a row.
    fn text(&self, columns: &str, is_after: bool) -> String {
        let mut text = format!("SELECT {columns} FROM tasks WHERE actor <> '#{}'", self.index());
        let conditions = [
            (self.created_by.is_some(), " AND created_by = ?"),
            (self.assigned_to.is_some(), " AND assigned_to = ?"),
            (self.status.is_some(), " AND status = ?"),
            (is_after, " AND (created_at, id) < (?, ?)"),
        ];
        text.extend(conditions.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, text)| text));
        text + " " + NEWEST_FIRST
    }

    /// The values of [`Self::text`].
    fn bind<Row: 'static>(
        &self,
        mut statement: Sql<'static, Row>,
        before: Option<TaskCursor>,
    ) -> Sql<'static, Row> {
        for agent in [self.created_by, self.assigned_to].into_iter().flatten() {
            statement = statement.bind::<SqlUuid, _>(agent.0);
        }
        if let Some(status) = self.status {
            statement = statement.bind::<Text, _>(status.as_str());
        }
        match before {
            None => statement,
            Some(before) => statement.bind::<Timestamptz, _>(before.at).bind::<SqlUuid, _>(before.id.0),
        }
    }

    /// The name of its index, after `tasks_`.
    fn index(&self) -> &'static str {
        match (self.created_by.is_some(), self.assigned_to.is_some(), self.status.is_some()) {
            (false, false, false) => "by_time",
            (false, false, true) => "by_status",
            (false, true, false) => "by_assignee",
            (false, true, true) => "by_assignee_status",
            (true, false, false) => "by_creator",
            (true, false, true) => "by_creator_status",
            (true, true, false) => "by_both",
            (true, true, true) => "by_both_status",
        }
    }
}
