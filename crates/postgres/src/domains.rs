//! The list of domains and the requests for more.
//!
//! Invariants: of entries that stand an index lets no two have one domain, of open requests no two one domain and one
//! asker; lists are walks through these indexes.

use aito_domain::{
    allowlist::{DomainEntry, DomainRequest, RequestStatus},
    domain_name::DomainName,
    event::Actor,
    id::DomainRequestId,
    ports::{
        ReadError,
        domain_store::{DomainStore, RequestCursor},
    },
};
use async_trait::async_trait;
use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz, Uuid as SqlUuid};

use super::{
    PgStore,
    schema::{domain_requests, domains},
    sql::Sql,
    translate::{DomainRequestRow, DomainRow},
};

/// In the order of [`DomainRow`].
macro_rules! entries {
    ($rest:literal) => {
        concat!(
            "SELECT id, version, domain, category, description, actor, created_at, removed_at
             FROM domains WHERE removed_at IS NULL",
            $rest
        )
    };
}

/// In the order of [`DomainRequestRow`].
macro_rules! requests {
    ($rest:literal) => {
        concat!(
            "SELECT id, version, domain, url, requested_by, actor, task_context, reason, category, status, decided_by,
                 decided_at, decision_reason, created_at
             FROM domain_requests",
            $rest
        )
    };
}

/// Rows of entries.
pub(super) type DomainSql = Sql<'static, domains::SqlType>;
/// Rows of requests.
pub(super) type RequestSql = Sql<'static, domain_requests::SqlType>;

#[async_trait]
impl DomainStore for PgStore {
    async fn page(&self, after: Option<&DomainName>, limit: u32) -> Result<Vec<DomainEntry>, ReadError> {
        domain(self.pool.read(page(after, limit)).await?)
    }

    async fn standing(&self, domains: &[DomainName]) -> Result<Vec<DomainEntry>, ReadError> {
        let names: Vec<String> = domains.iter().map(|domain| domain.as_str().to_owned()).collect();
        let query = DomainSql::new(entries!(" AND domain = ANY(?)")).bind::<Array<Text>, _>(names);
        domain(self.pool.read(query).await?)
    }

    async fn is_untouched(&self) -> Result<bool, ReadError> {
        let query = Sql::<Bool>::new("SELECT NOT EXISTS (SELECT FROM domains)");
        let mut answer: Vec<bool> = self.pool.read(query).await?;
        answer.pop().ok_or_else(|| ReadError::Corrupt("no answer to a question of yes or no".into()))
    }

    async fn requests(
        &self,
        status: RequestStatus,
        before: Option<RequestCursor>,
        limit: u32,
    ) -> Result<Vec<DomainRequest>, ReadError> {
        let rows: Vec<DomainRequestRow> = self.pool.read(requests(status, before, limit)).await?;
        Ok(rows.into_iter().map(DomainRequestRow::into_domain).collect::<Result<_, _>>()?)
    }

    async fn request(&self, id: DomainRequestId) -> Result<Option<DomainRequest>, ReadError> {
        let query = RequestSql::new(requests!(" WHERE id = ?")).bind::<SqlUuid, _>(id.0);
        let mut rows: Vec<DomainRequestRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(DomainRequestRow::into_domain).transpose()?)
    }

    async fn open_request(
        &self,
        domain: &DomainName,
        asker: &Actor,
    ) -> Result<Option<DomainRequest>, ReadError> {
        let query = RequestSql::new(requests!(" WHERE domain = ? AND actor = ? AND status = 'pending'"))
            .bind::<Text, _>(domain.as_str().to_owned())
            .bind::<Text, _>(asker.to_string());
        let mut rows: Vec<DomainRequestRow> = self.pool.read(query).await?;
        Ok(rows.pop().map(DomainRequestRow::into_domain).transpose()?)
    }

    async fn open_requests(&self, domain: &DomainName, limit: u32) -> Result<Vec<DomainRequest>, ReadError> {
        let rows: Vec<DomainRequestRow> = self.pool.read(open_requests(domain, limit)).await?;
        Ok(rows.into_iter().map(DomainRequestRow::into_domain).collect::<Result<_, _>>()?)
    }
}

fn domain(rows: Vec<DomainRow>) -> Result<Vec<DomainEntry>, ReadError> {
    Ok(rows.into_iter().map(DomainRow::into_domain).collect::<Result<_, _>>()?)
}

/// What a page of entries reads.
pub(super) fn page(after: Option<&DomainName>, limit: u32) -> DomainSql {
    let statement = match after {
        None => DomainSql::new(entries!(" ORDER BY domain LIMIT ?")),
        Some(after) => DomainSql::new(entries!(" AND domain > ? ORDER BY domain LIMIT ?"))
            .bind::<Text, _>(after.as_str().to_owned()),
    };
    statement.bind::<BigInt, _>(i64::from(limit))
}

/// What a page of requests reads.
pub(super) fn requests(status: RequestStatus, before: Option<RequestCursor>, limit: u32) -> RequestSql {
    let statement = match before {
        None => RequestSql::new(requests!(" WHERE status = ? ORDER BY created_at DESC, id DESC LIMIT ?"))
            .bind::<Text, _>(status.as_str()),
        Some(before) => RequestSql::new(requests!(
            " WHERE status = ? AND (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?"
        ))
        .bind::<Text, _>(status.as_str())
        .bind::<Timestamptz, _>(before.at)
        .bind::<SqlUuid, _>(before.id.0),
    };
    statement.bind::<BigInt, _>(i64::from(limit))
}

/// What is open for a domain.
pub(super) fn open_requests(domain: &DomainName, limit: u32) -> RequestSql {
    RequestSql::new(requests!(" WHERE domain = ? AND status = 'pending' LIMIT ?"))
        .bind::<Text, _>(domain.as_str().to_owned())
        .bind::<BigInt, _>(i64::from(limit))
}
