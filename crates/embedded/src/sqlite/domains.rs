//! The list of domains, and the requests for more.
//!
//! Invariant: a query is a walk through one index. Conditions that a partial index has are written out, because SQLite
//! does not know what will be bound to a parameter.

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
use diesel::{
    dsl::{IntoBoxed, exists, not, sql},
    prelude::*,
    sql_types::Bool,
    sqlite::{Sqlite, SqliteConnection},
};

use super::{
    SqliteStore, schema,
    translate::{DomainRequestRow, DomainRow, blob},
};

#[async_trait]
impl DomainStore for SqliteStore {
    async fn page(&self, after: Option<&DomainName>, limit: u32) -> Result<Vec<DomainEntry>, ReadError> {
        let after = after.cloned();
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<DomainRow> =
                listed(after.as_ref(), limit).select(DomainRow::as_select()).load(connection)?;
            Ok(rows.into_iter().map(DomainRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn standing(&self, domains: &[DomainName]) -> Result<Vec<DomainEntry>, ReadError> {
        if domains.is_empty() {
            return Ok(Vec::new());
        }
        let domains = domains.to_vec();
        let query = move |connection: &mut SqliteConnection| {
            let mut rows: Vec<DomainRow> = Vec::new();
            for names in domains.chunks(NAMES) {
                rows.extend(named(names).select(DomainRow::as_select()).load(connection)?);
            }
            Ok(rows.into_iter().map(DomainRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn is_untouched(&self) -> Result<bool, ReadError> {
        use schema::domains;
        let query = |connection: &mut SqliteConnection| {
            Ok(diesel::select(not(exists(domains::table.select(domains::id)))).get_result(connection)?)
        };
        self.readers.run(query).await
    }

    async fn requests(
        &self,
        status: RequestStatus,
        before: Option<RequestCursor>,
        limit: u32,
    ) -> Result<Vec<DomainRequest>, ReadError> {
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<DomainRequestRow> =
                newest(status, before, limit).select(DomainRequestRow::as_select()).load(connection)?;
            Ok(rows.into_iter().map(DomainRequestRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn request(&self, id: DomainRequestId) -> Result<Option<DomainRequest>, ReadError> {
        use schema::domain_requests;
        let query = move |connection: &mut SqliteConnection| {
            let row: Option<DomainRequestRow> = domain_requests::table
                .find(blob(id.0))
                .select(DomainRequestRow::as_select())
                .first(connection)
                .optional()?;
            Ok(row.map(DomainRequestRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }

    async fn open_request(
        &self,
        domain: &DomainName,
        asker: &Actor,
    ) -> Result<Option<DomainRequest>, ReadError> {
        let (domain, asker) = (domain.clone(), asker.clone());
        let query = move |connection: &mut SqliteConnection| {
            let row: Option<DomainRequestRow> = open(&domain)
                .filter(schema::domain_requests::actor.eq(asker.to_string()))
                .select(DomainRequestRow::as_select())
                .first(connection)
                .optional()?;
            Ok(row.map(DomainRequestRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }

    async fn open_requests(&self, domain: &DomainName, limit: u32) -> Result<Vec<DomainRequest>, ReadError> {
        let domain = domain.clone();
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<DomainRequestRow> = open(&domain)
                .limit(i64::from(limit))
                .select(DomainRequestRow::as_select())
                .load(connection)?;
            Ok(rows.into_iter().map(DomainRequestRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }
}

/// How many domains are asked for at once: far below the most parameters that a statement may have.
const NAMES: usize = 500;

/// Entries that stand, by domain.
fn listed(after: Option<&DomainName>, limit: u32) -> IntoBoxed<'static, schema::domains::table, Sqlite> {
    use schema::domains;
    // The empty text is below every name, and with a bound the walk is a search.
    let after = after.map_or_else(String::new, |after| after.as_str().to_owned());
    let rows = domains::table.into_boxed().filter(domains::removed_at.is_null());
    rows.filter(domains::domain.gt(after)).order(domains::domain.asc()).limit(i64::from(limit))
}

/// Entries that stand of these domains.
fn named(names: &[DomainName]) -> IntoBoxed<'static, schema::domains::table, Sqlite> {
    use schema::domains;
    let names: Vec<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
    domains::table.into_boxed().filter(domains::removed_at.is_null()).filter(domains::domain.eq_any(names))
}

/// Requests of a status, the newest first.
fn newest(
    status: RequestStatus,
    before: Option<RequestCursor>,
    limit: u32,
) -> IntoBoxed<'static, schema::domain_requests::table, Sqlite> {
    use schema::domain_requests::dsl::{created_at, domain_requests, id, status as word};
    let mut rows = domain_requests.into_boxed().filter(word.eq(status.as_str()));
    if let Some(before) = before {
        let at = before.at.timestamp_millis();
        // The first condition alone bounds the walk through the index; the second is exact.
        rows = rows.filter(created_at.le(at)).filter(created_at.lt(at).or(id.lt(blob(before.id.0))));
    }
    rows.order((created_at.desc(), id.desc())).limit(i64::from(limit))
}

/// The open requests for a domain.
fn open(domain: &DomainName) -> IntoBoxed<'static, schema::domain_requests::table, Sqlite> {
    use schema::domain_requests;
    let rows = domain_requests::table.into_boxed().filter(sql::<Bool>("status = 'pending'"));
    rows.filter(domain_requests::domain.eq(domain.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use aito_domain::time::millis;
    use uuid::Uuid;

    use super::*;
    use crate::sqlite::tests::Planner;

    #[test]
    fn every_query_is_a_walk_through_one_index() {
        let mut planner = Planner::new();
        let name: DomainName = "example.com".parse().unwrap();
        planner.expect_walk(&listed(None, 9), &["domains_by_name (domain>?)"]);
        planner.expect_walk(&listed(Some(&name), 9), &["domains_by_name (domain>?)"]);
        planner.expect_walk(&named(&[name.clone(), name.clone()]), &["domains_by_name (domain=?)"]);
        planner.expect_walk(&open(&name), &["domain_requests_open (domain=?)"]);
        let of_one = open(&name).filter(schema::domain_requests::actor.eq("system"));
        planner.expect_walk(&of_one, &["domain_requests_open (domain=? AND actor=?)"]);
        let cursor = RequestCursor { at: millis(5), id: DomainRequestId(Uuid::max()) };
        for status in RequestStatus::ALL {
            let index = "domain_requests_by_status (status=?";
            planner.expect_walk(&newest(status, None, 9), &[index]);
            planner.expect_walk(&newest(status, Some(cursor), 9), &[index, "created_at<?"]);
        }
    }
}
