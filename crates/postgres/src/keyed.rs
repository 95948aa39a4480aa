//! Settings and agents' notes: what is known by its key.
//!
//! Invariant: a removed note keeps its row, and lists walk past none: they have an index of those that are there.

use aito_domain::{
    id::AgentId,
    ports::{ReadError, settings_store::SettingsStore, state_store::StateStore},
    setting::Setting,
    state::StateEntry,
};
use async_trait::async_trait;
use diesel::sql_types::{BigInt, Text, Uuid as SqlUuid};

use super::{
    PgStore,
    schema::{agent_state, settings},
    sql::Sql,
    translate::{SettingRow, StateRow, natural},
};

/// In the order of [`StateRow`].
macro_rules! notes {
    ($rest:literal) => {
        concat!("SELECT agent_id, key, version, value, updated_at FROM agent_state WHERE agent_id = ?", $rest)
    };
}

/// Rows of settings.
pub(super) type SettingSql = Sql<'static, settings::SqlType>;
/// Rows of notes.
pub(super) type StateSql = Sql<'static, agent_state::SqlType>;

#[async_trait]
impl SettingsStore for PgStore {
    async fn all(&self) -> Result<Vec<Setting>, ReadError> {
        let rows: Vec<SettingRow> = self.pool.read(all_settings()).await?;
        Ok(rows.into_iter().map(SettingRow::into_domain).collect::<Result<_, _>>()?)
    }

    async fn version(&self) -> Result<u64, ReadError> {
        let query = Sql::<BigInt>::new("SELECT COALESCE(sum(version), 0)::bigint FROM settings");
        let mut answer: Vec<i64> = self.pool.read(query).await?;
        Ok(natural("count of changes", answer.pop().unwrap_or_default())?)
    }
}

#[async_trait]
impl StateStore for PgStore {
    async fn page(
        &self,
        agent: AgentId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StateEntry>, ReadError> {
        let rows: Vec<StateRow> = self.pool.read(notes(agent, after, limit)).await?;
        Ok(rows.into_iter().map(StateRow::into_domain).collect::<Result<_, _>>()?)
    }

    async fn by_key(&self, agent: AgentId, key: &str) -> Result<Option<StateEntry>, ReadError> {
        let query =
            StateSql::new(notes!(" AND key = ?")).bind::<SqlUuid, _>(agent.0).bind::<Text, _>(key.to_owned());
        let mut rows: Vec<StateRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(StateRow::into_domain).transpose()?)
    }

    async fn count(&self, agent: AgentId) -> Result<u64, ReadError> {
        let mut answer: Vec<i64> = self.pool.read(count(agent)).await?;
        Ok(natural("count of notes", answer.pop().unwrap_or_default())?)
    }
}

pub(super) fn all_settings() -> SettingSql {
    SettingSql::new(
        "SELECT category, key, version, value, sealed, description, updated_by, updated_at
         FROM settings ORDER BY category, key",
    )
}

/// What a page of notes reads.
pub(super) fn notes(agent: AgentId, after: Option<&str>, limit: u32) -> StateSql {
    let statement = match after {
        None => {
            StateSql::new(notes!(" AND value IS NOT NULL ORDER BY key LIMIT ?")).bind::<SqlUuid, _>(agent.0)
        }
        Some(after) => StateSql::new(notes!(" AND value IS NOT NULL AND key > ? ORDER BY key LIMIT ?"))
            .bind::<SqlUuid, _>(agent.0)
            .bind::<Text, _>(after.to_owned()),
    };
    statement.bind::<BigInt, _>(i64::from(limit))
}

pub(super) fn count(agent: AgentId) -> Sql<'static, BigInt> {
    Sql::new("SELECT count(*) FROM agent_state WHERE agent_id = ? AND value IS NOT NULL")
        .bind::<SqlUuid, _>(agent.0)
}
