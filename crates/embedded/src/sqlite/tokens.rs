//! Tokens, and when each was last used.

use aito_domain::{
    id::TokenId,
    ports::{ReadError, token_store::TokenStore},
    time::{Timestamp, millis},
    token::Token,
};
use async_trait::async_trait;
use diesel::{
    prelude::*,
    sql_types::{BigInt, Binary},
    sqlite::SqliteConnection,
};

use super::{
    SqliteStore, schema,
    translate::{TokenRow, Untranslatable, blob, uuid},
    writer::{Stop, WriteError},
};

#[async_trait]
impl TokenStore for SqliteStore {
    async fn by_id(&self, id: TokenId) -> Result<Option<Token>, ReadError> {
        use schema::tokens;
        let query = move |connection: &mut SqliteConnection| {
            let row: Option<TokenRow> =
                tokens::table.find(blob(id.0)).select(TokenRow::as_select()).first(connection).optional()?;
            Ok(row.map(TokenRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }

    async fn list(&self) -> Result<Vec<Token>, ReadError> {
        use schema::tokens;
        let query = |connection: &mut SqliteConnection| {
            let rows: Vec<TokenRow> =
                tokens::table.order(tokens::id).select(TokenRow::as_select()).load(connection)?;
            Ok(rows.into_iter().map(TokenRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn used(&self, uses: &[(TokenId, Timestamp)]) -> Result<(), ReadError> {
        if uses.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = uses.iter().map(|(id, at)| (blob(id.0), at.timestamp_millis())).collect();
        let work = move |connection: &mut SqliteConnection| {
            rows.iter()
                .try_for_each(|(id, at)| keep_if_later(connection, id, *at))
                .map_err(Stop::<Untranslatable>::from)
        };
        self.writer.run(work).await.map_err(|error| match error {
            WriteError::Refused(error) => error.into(),
            // A use that is noted again changes nothing, so an unknown end needs no question.
            WriteError::Unavailable(cause) | WriteError::Unknown(cause) => ReadError::Unavailable(cause),
        })
    }

    async fn last_uses(&self) -> Result<Vec<(TokenId, Timestamp)>, ReadError> {
        use schema::token_uses;
        let query = |connection: &mut SqliteConnection| {
            let rows: Vec<(Vec<u8>, i64)> = token_uses::table.order(token_uses::id).load(connection)?;
            let uses = rows.into_iter().map(|(id, at)| Ok((TokenId(uuid("token id", &id)?), millis(at))));
            Ok(uses.collect::<Result<_, Untranslatable>>()?)
        };
        self.readers.run(query).await
    }
}

fn keep_if_later(connection: &mut SqliteConnection, id: &[u8], at: i64) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO token_uses (id, at) VALUES (?, ?)
         ON CONFLICT (id) DO UPDATE SET at = excluded.at WHERE excluded.at > token_uses.at",
    )
    .bind::<Binary, _>(id)
    .bind::<BigInt, _>(at)
    .execute(connection)
    .map(drop)
}
