//! Tasks: pages of them, how many there are, and what a claim decides on.
//!
//! Invariants: a page is a walk through one index from its newest end, or two such walks that are merged where an agent
//! sees what it was given and what comes from it; counting stops at a bound. Conditions that a partial index has are
//! written out, because SQLite does not know what will be bound to a parameter.

use aito_domain::{
    agent::Agent,
    id::{AgentId, Incarnation, TaskId},
    ports::{
        EXACT_TOTAL, ReadError, Total,
        task_store::{TaskCursor, TaskQuery, TaskStore},
    },
    task::{Claimable, Priority, Task, TaskStatus},
};
use async_trait::async_trait;
use diesel::{
    dsl::sql,
    expression::SqlLiteral,
    prelude::*,
    sql_types::{BigInt, Binary, Bool, Text},
    sqlite::{Sqlite, SqliteConnection},
};

use super::{
    SqliteStore,
    readers::Failed,
    schema,
    translate::{AgentRow, TaskRow, Untranslatable, blob, natural, uuid},
};

#[async_trait]
impl TaskStore for SqliteStore {
    async fn by_id(&self, id: TaskId) -> Result<Option<Task>, ReadError> {
        use schema::tasks;
        let query = move |connection: &mut SqliteConnection| {
            let row: Option<TaskRow> =
                tasks::table.find(blob(id.0)).select(TaskRow::as_select()).first(connection).optional()?;
            Ok(row.map(TaskRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }

    async fn page(
        &self,
        query: &TaskQuery,
        before: Option<TaskCursor>,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<Task>, ReadError> {
        let (status, views) = (query.status, views(query));
        let query = move |connection: &mut SqliteConnection| {
            // Two walks see one state.
            let rows = connection.transaction(|connection| match views.as_slice() {
                [view] => newest(*view, status, before)
                    .select(TaskRow::as_select())
                    .offset(i64::from(offset))
                    .limit(i64::from(limit))
                    .load(connection),
                views => merged(connection, views, status, before, offset, limit),
            });
            domain(rows?)
        };
        self.readers.run(query).await
    }

    async fn total(&self, query: &TaskQuery) -> Result<Total, ReadError> {
        let (text, binds) = counting(query);
        let query = move |connection: &mut SqliteConnection| {
            let mut query = diesel::sql_query(text).into_boxed::<Sqlite>();
            for bind in binds {
                query = match bind {
                    Bind::Id(id) => query.bind::<Binary, _>(id),
                    Bind::Status(word) => query.bind::<Text, _>(word),
                };
            }
            let Counted { count } = query.get_result(connection)?;
            let count = natural("count of tasks", count)?;
            Ok(Total { count, exact: count <= EXACT_TOTAL })
        };
        self.readers.run(query).await
    }

    async fn claimable(&self, agent: AgentId) -> Result<Option<Claimable>, ReadError> {
        let query = move |connection: &mut SqliteConnection| {
            connection.transaction(|connection| claimable(connection, agent))
        };
        self.readers.run(query).await
    }

    async fn leases(&self) -> Result<Vec<(AgentId, Incarnation)>, ReadError> {
        let query = |connection: &mut SqliteConnection| {
            let rows: Vec<LeaseColumns> = diesel::sql_query(LEASES).load(connection)?;
            let leases = rows.into_iter().map(|row| {
                let agent = AgentId(uuid("agent id", &row.agent)?);
                Ok((agent, Incarnation(natural("incarnation", row.incarnation)?)))
            });
            Ok(leases.collect::<Result<_, Untranslatable>>()?)
        };
        self.readers.run(query).await
    }

    async fn overdue(&self, limit: u32) -> Result<Vec<Task>, ReadError> {
        let now = self.clock.now().timestamp_millis();
        let query = move |connection: &mut SqliteConnection| {
            domain(due(now, limit).select(TaskRow::as_select()).load(connection)?)
        };
        self.readers.run(query).await
    }
}

/// What a claim of an agent decides on; the caller's transaction makes it one state.
pub(super) fn claimable(
    connection: &mut SqliteConnection,
    agent: AgentId,
) -> Result<Option<Claimable>, Failed> {
    use schema::agents;
    let row: Option<AgentRow> =
        agents::table.find(blob(agent.0)).select(AgentRow::as_select()).first(connection).optional()?;
    let Some(row) = row else { return Ok(None) };
    let stored: Agent = row.into_domain()?;
    let held = held(agent).select(TaskRow::as_select()).load(connection)?;
    let mut oldest: Vec<TaskRow> = Vec::new();
    for priority in Priority::ALL {
        oldest.extend(oldest_waiting(agent, priority).select(TaskRow::as_select()).load(connection)?);
    }
    Ok(Some(Claimable { agent: stored, held: domain(held)?, oldest: domain(oldest)? }))
}

fn domain(rows: Vec<TaskRow>) -> Result<Vec<Task>, Failed> {
    Ok(rows.into_iter().map(TaskRow::into_domain).collect::<Result<_, Untranslatable>>()?)
}

/// Of which agents' tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    assigned_to: Option<AgentId>,
    created_by: Option<AgentId>,
}

/// The views whose tasks together are those of a query.
fn views(query: &TaskQuery) -> Vec<View> {
    let given = View { assigned_to: query.assigned_to, created_by: None };
    match query.seen_by {
        None => vec![given],
        Some(who) if query.assigned_to == Some(who) => vec![given],
        Some(who) if query.assigned_to.is_some() => vec![View { created_by: Some(who), ..given }],
        Some(who) => vec![
            View { assigned_to: Some(who), created_by: None },
            View { assigned_to: None, created_by: Some(who) },
        ],
    }
}

/// A query of tasks whose columns are yet to be chosen.
type Query = diesel::dsl::IntoBoxed<'static, schema::tasks::table, Sqlite>;

/// The tasks of a view, the newest first.
fn newest(view: View, status: Option<TaskStatus>, before: Option<TaskCursor>) -> Query {
    use schema::tasks;
    let mut rows = tasks::table.into_boxed();
    if let Some(agent) = view.assigned_to {
        rows = rows.filter(tasks::assigned_to.eq(blob(agent.0)));
    }
    if let Some(agent) = view.created_by {
        rows = rows.filter(tasks::created_by.eq(blob(agent.0)));
    }
    if let Some(status) = status {
        rows = rows.filter(tasks::status.eq(status.as_str()));
    }
    if let Some(before) = before {
        let (at, id) = (before.at.timestamp_millis(), blob(before.id.0));
        // The first condition alone bounds the walk through the index; the second is exact.
        rows = rows.filter(tasks::created_at.le(at)).filter(tasks::created_at.lt(at).or(tasks::id.lt(id)));
    }
    rows.order((tasks::created_at.desc(), tasks::id.desc()))
}

/// A page of what several views show together, each task once.
fn merged(
    connection: &mut SqliteConnection,
    views: &[View],
    status: Option<TaskStatus>,
    before: Option<TaskCursor>,
    offset: u32,
    limit: u32,
) -> QueryResult<Vec<TaskRow>> {
    use schema::tasks;
    let mut keys: Vec<(i64, Vec<u8>)> = Vec::new();
    for view in views {
        // What comes first of all of them comes first of one of them.
        let reach = i64::from(offset) + i64::from(limit);
        let walk = newest(*view, status, before).select((tasks::created_at, tasks::id)).limit(reach);
        keys.extend(walk.load::<(i64, Vec<u8>)>(connection)?);
    }
    keys.sort_unstable_by(|one, other| other.cmp(one));
    keys.dedup();
    let page = keys.into_iter().skip(offset as usize).take(limit as usize);
    page.map(|(_, id)| tasks::table.find(id).select(TaskRow::as_select()).first(connection)).collect()
}

/// Who works on tasks, in the order of its index; SQLite would rather sort.
const LEASES: &str =
    "SELECT DISTINCT assigned_to AS agent, json_extract(state, '$.incarnation') AS incarnation
     FROM tasks INDEXED BY tasks_leases WHERE status = 'in_progress'";

/// A row of [`LEASES`].
#[derive(QueryableByName)]
struct LeaseColumns {
    #[diesel(sql_type = Binary)]
    agent: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    incarnation: i64,
}

/// What is bound to a place of a query.
enum Bind {
    Id(Vec<u8>),
    Status(&'static str),
}

/// A count, as a query tells it.
#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Counts what a query finds, up to one more than is counted exactly.
fn counting(query: &TaskQuery) -> (String, Vec<Bind>) {
    let (mut parts, mut binds, mut before) = (Vec::new(), Vec::new(), None);
    for view in views(query) {
        let mut conditions = Vec::new();
        if let Some(agent) = view.assigned_to {
            conditions.push("assigned_to = ?");
            binds.push(Bind::Id(blob(agent.0)));
        }
        if let Some(agent) = view.created_by {
            conditions.push("created_by = ?");
            binds.push(Bind::Id(blob(agent.0)));
        }
        if let Some(status) = query.status {
            conditions.push("status = ?");
            binds.push(Bind::Status(status.as_str()));
        }
        // What the view before has counted; it is left out here no more often than it was counted there.
        if let Some(agent) = before {
            conditions.push("assigned_to <> ?");
            binds.push(Bind::Id(agent));
        }
        before = view.assigned_to.map(|agent| blob(agent.0));
        let conditions = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        parts.push(format!("SELECT 1 FROM tasks{conditions}"));
    }
    let (parts, most) = (parts.join(" UNION ALL "), EXACT_TOTAL + 1);
    (format!("SELECT count(*) AS count FROM ({parts} LIMIT {most})"), binds)
}

/// An agent's tasks in progress, by id.
fn held(agent: AgentId) -> Query {
    use schema::tasks;
    let rows = tasks::table.into_boxed().filter(tasks::assigned_to.eq(blob(agent.0)));
    rows.filter(written("status = 'in_progress'")).order(tasks::id.asc())
}

/// An agent's oldest waiting task of a priority.
fn oldest_waiting(agent: AgentId, priority: Priority) -> Query {
    use schema::tasks;
    let rows = tasks::table.into_boxed().filter(tasks::assigned_to.eq(blob(agent.0)));
    rows.filter(tasks::priority.eq(i64::from(priority.rank())))
        .filter(written("status = 'pending'"))
        .order((tasks::created_at.asc(), tasks::id.asc()))
        .limit(1)
}

/// Open tasks that are due at `now` (milliseconds) and of which that was not told, the longest due first.
fn due(now: i64, limit: u32) -> Query {
    use schema::tasks;
    let rows = tasks::table.into_boxed().filter(tasks::due_at.le(now));
    rows.filter(written(OPEN_AND_UNTOLD))
        .order((tasks::due_at.asc(), tasks::id.asc()))
        .limit(i64::from(limit))
}

/// Of the index of what may become overdue.
const OPEN_AND_UNTOLD: &str =
    "due_at IS NOT NULL AND NOT overdue AND status NOT IN ('completed', 'failed', 'cancelled')";

/// A condition as it stands in a partial index.
fn written(condition: &'static str) -> SqlLiteral<Bool> {
    sql::<Bool>(condition)
}

#[cfg(test)]
mod tests {
    use aito_domain::time::millis;
    use uuid::Uuid;

    use super::*;
    use crate::sqlite::tests::Planner;

    const ALL: View = View { assigned_to: None, created_by: None };

    fn agent(n: u128) -> AgentId {
        AgentId(Uuid::from_u128(n))
    }

    #[test]
    fn a_query_is_one_view_or_two() {
        let [one, two] = [agent(1), agent(2)];
        let query = |assigned_to, seen_by| TaskQuery { assigned_to, seen_by, ..TaskQuery::default() };
        let view = |assigned_to, created_by| View { assigned_to, created_by };
        for (query, expected) in [
            (query(None, None), vec![ALL]),
            (query(Some(one), None), vec![view(Some(one), None)]),
            (query(Some(one), Some(one)), vec![view(Some(one), None)]),
            (query(Some(one), Some(two)), vec![view(Some(one), Some(two))]),
            (query(None, Some(two)), vec![view(Some(two), None), view(None, Some(two))]),
        ] {
            assert_eq!(views(&query), expected, "{query:?}");
        }
    }

    #[test]
    fn every_query_is_a_walk_through_one_index() {
        let mut planner = Planner::new();
        let cursor = TaskCursor { at: millis(5), id: TaskId(Uuid::max()) };
        for before in [None, Some(cursor)] {
            let bound = if before.is_some() { "created_at<?)" } else { "" };
            let given = View { assigned_to: Some(agent(1)), created_by: None };
            let made = View { assigned_to: None, created_by: Some(agent(1)) };
            let both = View { created_by: Some(agent(2)), ..given };
            for (view, status, index) in [
                (ALL, Some(TaskStatus::Pending), "tasks_by_status (status=?"),
                (ALL, Some(TaskStatus::InProgress), "tasks_by_status (status=?"),
                (given, None, "tasks_by_agent (assigned_to=?"),
                (given, Some(TaskStatus::Failed), "tasks_by_agent_and_status (assigned_to=? AND status=?"),
                (made, None, "tasks_by_creator (created_by=?"),
                (made, Some(TaskStatus::Failed), "tasks_by_creator_and_status (created_by=? AND status=?"),
                (both, None, "tasks_by_"),
                (both, Some(TaskStatus::Failed), "AND status=?"),
            ] {
                planner.expect_walk(&newest(view, status, before).limit(9).offset(3), &[index, bound]);
            }
            let index = if before.is_some() {
                "tasks_by_time (created_at<?)"
            } else {
                "SCAN tasks USING INDEX tasks_by_time"
            };
            planner.expect_steps(&newest(ALL, None, before).limit(9), &[index]);
        }
        planner.expect_walk(&held(agent(1)), &["tasks_held (assigned_to=?)"]);
        for priority in Priority::ALL {
            planner.expect_walk(
                &oldest_waiting(agent(1), priority),
                &["tasks_waiting (assigned_to=? AND priority=?)"],
            );
        }
        planner.expect_walk(&due(5, 9), &["tasks_due (due_at>? AND due_at<?)"]);
    }

    #[test]
    fn counting_walks_indexes_alone() {
        let mut planner = Planner::new();
        assert_eq!(
            planner.plan(LEASES),
            "SCAN tasks USING INDEX tasks_leases",
            "in its order, so without sorting"
        );
        for status in [None, Some(TaskStatus::Pending)] {
            for (assigned_to, seen_by) in
                [(Some(agent(1)), None), (Some(agent(1)), Some(agent(2))), (None, Some(agent(2)))]
            {
                let (text, _) = counting(&TaskQuery { status, assigned_to, seen_by });
                let plan = planner.plan(&text);
                assert!(!plan.contains("SCAN tasks") && !plan.contains("TEMP B-TREE"), "{text}: {plan}");
            }
        }
        let (text, _) = counting(&TaskQuery { status: Some(TaskStatus::Pending), ..TaskQuery::default() });
        assert!(planner.plan(&text).contains("COVERING INDEX tasks_by_status"));
    }
}
