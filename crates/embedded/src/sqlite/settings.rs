//! Settings that were set, and what agents have used up.

use aito_domain::{
    id::AgentId,
    ports::{ReadError, history_store::Written, quota_store::QuotaStore, settings_store::SettingsStore},
    quota::SpentKind,
    setting::Setting,
    time::Timestamp,
};
use async_trait::async_trait;
use diesel::{dsl::sql, prelude::*, sql_types::BigInt, sqlite::SqliteConnection};

use super::{
    SqliteStore, schema,
    translate::{SettingRow, blob, natural},
};

#[async_trait]
impl SettingsStore for SqliteStore {
    async fn all(&self) -> Result<Vec<Setting>, ReadError> {
        use schema::settings;
        let query = |connection: &mut SqliteConnection| {
            let rows: Vec<SettingRow> = settings::table
                .order((settings::category, settings::key))
                .select(SettingRow::as_select())
                .load(connection)?;
            Ok(rows.into_iter().map(SettingRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn version(&self) -> Result<u64, ReadError> {
        let query = |connection: &mut SqliteConnection| {
            let sum: i64 = diesel::select(sql::<BigInt>("(SELECT COALESCE(sum(version), 0) FROM settings)"))
                .get_result(connection)?;
            Ok(natural("count of changes", sum)?)
        };
        self.readers.run(query).await
    }
}

#[async_trait]
impl QuotaStore for SqliteStore {
    async fn spent(&self, agent: AgentId, kind: SpentKind, day: Timestamp) -> Result<Written, ReadError> {
        use schema::spent;
        let key = (blob(agent.0), kind.as_str(), day.timestamp_millis());
        let query = move |connection: &mut SqliteConnection| {
            let stored: Option<(i64, i64)> =
                spent::table.find(key).select((spent::rows, spent::bytes)).first(connection).optional()?;
            let Some((rows, bytes)) = stored else { return Ok(Written::default()) };
            Ok(Written { rows: natural("count of rows", rows)?, bytes: natural("count of bytes", bytes)? })
        };
        self.readers.run(query).await
    }
}
