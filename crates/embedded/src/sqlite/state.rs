//! Agents' notes.
//!
//! Invariant: pages and counts walk through the index of the notes that are not removed.

use aito_domain::{
    id::AgentId,
    ports::{ReadError, state_store::StateStore},
    state::StateEntry,
};
use async_trait::async_trait;
use diesel::{
    dsl::IntoBoxed,
    prelude::*,
    sqlite::{Sqlite, SqliteConnection},
};

use super::{
    SqliteStore, schema,
    translate::{StateRow, blob, natural},
};

#[async_trait]
impl StateStore for SqliteStore {
    async fn page(
        &self,
        agent: AgentId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StateEntry>, ReadError> {
        let after = after.map(str::to_owned);
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<StateRow> =
                present(agent, after, limit).select(StateRow::as_select()).load(connection)?;
            Ok(rows.into_iter().map(StateRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn by_key(&self, agent: AgentId, key: &str) -> Result<Option<StateEntry>, ReadError> {
        use schema::agent_state;
        let key = (blob(agent.0), key.to_owned());
        let query = move |connection: &mut SqliteConnection| {
            let row: Option<StateRow> =
                agent_state::table.find(key).select(StateRow::as_select()).first(connection).optional()?;
            Ok(row.map(StateRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }

    async fn count(&self, agent: AgentId) -> Result<u64, ReadError> {
        use schema::agent_state;
        let query = move |connection: &mut SqliteConnection| {
            let count: i64 = agent_state::table
                .filter(agent_state::agent_id.eq(blob(agent.0)))
                .filter(agent_state::value.is_not_null())
                .count()
                .get_result(connection)?;
            Ok(natural("count of notes", count)?)
        };
        self.readers.run(query).await
    }
}

/// An agent's notes that are not removed, by key.
fn present(
    agent: AgentId,
    after: Option<String>,
    limit: u32,
) -> IntoBoxed<'static, schema::agent_state::table, Sqlite> {
    use schema::agent_state;
    let mut rows = agent_state::table
        .into_boxed()
        .filter(agent_state::agent_id.eq(blob(agent.0)))
        .filter(agent_state::value.is_not_null());
    if let Some(after) = after {
        rows = rows.filter(agent_state::key.gt(after));
    }
    rows.order(agent_state::key.asc()).limit(i64::from(limit))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::sqlite::tests::Planner;

    #[test]
    fn every_query_is_a_walk_through_one_index() {
        let mut planner = Planner::new();
        let agent = AgentId(Uuid::from_u128(1));
        planner.expect_walk(&present(agent, None, 9), &["agent_state_present (agent_id=?)"]);
        let after = Some("last".to_owned());
        planner.expect_walk(&present(agent, after, 9), &["agent_state_present (agent_id=? AND key>?)"]);
    }
}
