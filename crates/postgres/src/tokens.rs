//! Operators' tokens, and when each was last used.
//!
//! Invariants: a token is written by a commit alone, and of those that are not revoked an index lets no second one
//! have a name; a use is kept apart from its token, and only if it is the latest.

use aito_domain::{
    id::TokenId,
    ports::{ReadError, token_store::TokenStore},
    time::Timestamp,
    token::Token,
};
use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryResult, SelectableHelper as _,
    sql_types::{Array, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::{FutureExt as _, future};
use uuid::Uuid;

use super::{
    PgStore,
    schema::{token_uses, tokens},
    sql::{Kept, Sql},
    translate::{NewUses, TokenRow, read_error},
};

#[async_trait]
impl TokenStore for PgStore {
    async fn by_id(&self, id: TokenId) -> Result<Option<Token>, ReadError> {
        let query = tokens::table.filter(tokens::id.eq(id.0)).select(TokenRow::as_select());
        let mut rows: Vec<TokenRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(TokenRow::into_domain).transpose()?)
    }

    async fn list(&self) -> Result<Vec<Token>, ReadError> {
        let query = tokens::table.order(tokens::id).select(TokenRow::as_select());
        let rows: Vec<TokenRow> = self.pool.read(query).await?;
        Ok(rows.into_iter().map(TokenRow::into_domain).collect::<Result<_, _>>()?)
    }

    async fn used(&self, uses: &[(TokenId, Timestamp)]) -> Result<(), ReadError> {
        let rows = NewUses::of(uses);
        if rows.ids.is_empty() {
            return Ok(());
        }
        let writing = async {
            let mut lease = self.pool.lease().await.map_err(ReadError::Unavailable)?;
            keep_latest(&mut lease, &rows).await.map_err(|error| self.pool.failed(error, read_error))?;
            lease.give_back();
            Ok(())
        };
        // A use that is stored again changes nothing, so an unknown end needs no question.
        let answer = tokio::time::timeout(self.pool.timeout(), writing).await;
        answer.map_err(|late| ReadError::Unavailable(Box::new(late)))?
    }

    async fn last_uses(&self) -> Result<Vec<(TokenId, Timestamp)>, ReadError> {
        let query = token_uses::table.order(token_uses::id).select((token_uses::id, token_uses::at));
        let rows: Vec<(Uuid, Timestamp)> = self.pool.read(query).await?;
        Ok(rows.into_iter().map(|(id, at)| (TokenId(id), at)).collect())
    }
}

async fn keep_latest(connection: &mut AsyncPgConnection, rows: &NewUses) -> QueryResult<usize> {
    Sql::<()>::new(
        "INSERT INTO token_uses (id, at) SELECT * FROM unnest(?, ?)
         ON CONFLICT (id) DO UPDATE SET at = excluded.at WHERE excluded.at > token_uses.at",
    )
    .bind::<Array<SqlUuid>, _>(&rows.ids)
    .bind::<Array<Timestamptz>, _>(&rows.at)
    .execute(connection)
    .await
}

/// Writes a commit's tokens; gives each one's name and how many rows changed: 1, or 0 when another version or
/// another token of the name is stored. Names are freed before they are taken: only a commit with tokens of both
/// kinds waits for an answer in between.
pub(super) async fn change_tokens<'a>(
    connection: &'a AsyncPgConnection,
    changed: &'a [(i64, TokenRow)],
    new: &'a [TokenRow],
) -> Vec<(&'a str, QueryResult<usize>)> {
    let change = |(read_at, row): &'a (i64, TokenRow)| {
        let mut connection = connection;
        async move {
            let stored = tokens::table.filter(tokens::id.eq(row.id)).filter(tokens::version.eq(*read_at));
            (row.name.as_str(), Kept(diesel::update(stored).set(row)).execute(&mut connection).await)
        }
        .boxed()
    };
    let add = |row: &'a TokenRow| {
        let mut connection = connection;
        async move {
            let adding = diesel::insert_into(tokens::table).values(row).on_conflict_do_nothing();
            (row.name.as_str(), adding.execute(&mut connection).await)
        }
        .boxed()
    };
    let mut all = future::join_all(changed.iter().map(change)).await;
    all.extend(future::join_all(new.iter().map(add)).await);
    all
}
