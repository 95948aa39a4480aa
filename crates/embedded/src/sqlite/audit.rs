//! The audit: pages of it, and its chain of seals.
//!
//! Invariants: who seals moves the head first, from where it was read, so of two that race the later one is
//! refused before it writes; entries get their places and the head its own in one transaction.

use aito_domain::{
    audit::{AuditEntry, Checkpoint, Head, Sealed},
    ports::{
        ReadError,
        audit_store::{AuditQuery, AuditStore, Listed, SealError},
    },
};
use async_trait::async_trait;
use diesel::{
    prelude::*,
    sqlite::{Sqlite, SqliteConnection},
};

use super::{
    SqliteStore, schema,
    translate::{AuditRow, CheckpointRow, PlaceColumns, Untranslatable, blob, head, number},
    writer::{Stop, WriteError},
};

#[async_trait]
impl AuditStore for SqliteStore {
    async fn unsealed(&self, limit: u32) -> Result<Vec<AuditEntry>, ReadError> {
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<AuditRow> = waiting(limit).load(connection)?;
            Ok(rows.into_iter().map(AuditRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        use schema::audit_head;
        let query = |connection: &mut SqliteConnection| {
            let (n, seal): (i64, Vec<u8>) =
                audit_head::table.select((audit_head::n, audit_head::seal)).first(connection)?;
            Ok(head(n, &seal)?)
        };
        self.readers.run(query).await
    }

    async fn seal(&self, head: Head, entries: &[Sealed]) -> Result<(), SealError> {
        // What SQLite cannot count to is not the stored head.
        let Ok(from) = i64::try_from(head.n) else { return Err(SealError::Conflict) };
        let places = (1..).zip(entries).map(|(place, sealed)| {
            let n = number("the number of an entry", head.n.saturating_add(place))?;
            Ok((blob(sealed.entry.id.0), n, sealed.seal.0.to_vec()))
        });
        let places: Vec<Place> = places.collect::<Result<_, _>>().map_err(untold)?;
        let work = move |connection: &mut SqliteConnection| give_places(connection, from, &head, &places);
        self.writer.run(work).await.map_err(seal_error)
    }

    async fn sealed(&self, n: u64, limit: u32) -> Result<Vec<Sealed>, ReadError> {
        // What SQLite cannot count to is beyond the end.
        let Ok(n) = i64::try_from(n) else { return Ok(Vec::new()) };
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<(AuditRow, PlaceColumns)> = chained(n, limit).load(connection)?;
            Ok(rows.into_iter().map(|(row, place)| row.into_sealed(place)).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn page(&self, query: &AuditQuery, limit: u32) -> Result<Vec<Listed>, ReadError> {
        let query = query.clone();
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<(AuditRow, PlaceColumns)> = newest(query, limit).load(connection)?;
            Ok(rows.into_iter().map(|(row, place)| row.into_listed(place)).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn prune(&self, checkpoint: &Checkpoint) -> Result<u64, SealError> {
        let row = CheckpointRow::of(checkpoint).map_err(untold)?;
        let work = move |connection: &mut SqliteConnection| forget(connection, &row);
        self.writer.run(work).await.map_err(seal_error)
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ReadError> {
        use schema::audit_checkpoint;
        let query = |connection: &mut SqliteConnection| {
            let row: Option<CheckpointRow> =
                audit_checkpoint::table.select(CheckpointRow::as_select()).first(connection).optional()?;
            Ok(row.map(CheckpointRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }
}

/// An entry's id, and the number and seal that it gets.
type Place = (Vec<u8>, i64, Vec<u8>);

fn give_places(
    connection: &mut SqliteConnection,
    from: i64,
    head: &Head,
    places: &[Place],
) -> Result<(), Stop<SealError>> {
    use schema::{audit, audit_head};
    let end = places.last().map(|(_, n, seal)| (*n, seal.as_slice()));
    let (n, seal) = end.unwrap_or((from, &head.seal.0));
    let stored =
        audit_head::table.filter(audit_head::n.eq(from)).filter(audit_head::seal.eq(head.seal.0.as_slice()));
    let moved =
        diesel::update(stored).set((audit_head::n.eq(n), audit_head::seal.eq(seal))).execute(connection)?;
    if moved != 1 {
        return Err(Stop::Refused(SealError::Conflict));
    }
    for (id, n, seal) in places {
        let open = audit::table.filter(audit::id.eq(id)).filter(audit::n.is_null());
        let placed = diesel::update(open).set((audit::n.eq(n), audit::seal.eq(seal))).execute(connection)?;
        if placed != 1 {
            return Err(Stop::Refused(SealError::Conflict));
        }
    }
    Ok(())
}

fn forget(connection: &mut SqliteConnection, row: &CheckpointRow) -> Result<u64, Stop<SealError>> {
    use schema::{audit, audit_checkpoint};
    let kept: Option<i64> =
        audit_checkpoint::table.select(audit_checkpoint::n).first(connection).optional()?;
    if kept.is_some_and(|kept| kept > row.n) {
        return Err(Stop::Refused(SealError::Conflict));
    }
    diesel::insert_into(audit_checkpoint::table)
        .values((audit_checkpoint::one.eq(1), row))
        .on_conflict(audit_checkpoint::one)
        .do_update()
        .set(row)
        .execute(connection)?;
    let gone = diesel::delete(audit::table.filter(audit::n.le(row.n))).execute(connection)?;
    Ok(gone as u64)
}

/// A query whose rows are those of `T`.
type Query<T> = diesel::dsl::IntoBoxed<'static, diesel::dsl::Select<schema::audit::table, T>, Sqlite>;
type Entry = diesel::dsl::AsSelect<AuditRow, Sqlite>;
type EntryAndPlace = (Entry, (schema::audit::n, schema::audit::seal));

/// The oldest entries without a place.
fn waiting(limit: u32) -> Query<Entry> {
    use schema::audit;
    let rows = audit::table.select(AuditRow::as_select()).into_boxed();
    rows.filter(audit::n.is_null()).order(audit::id).limit(i64::from(limit))
}

/// The entries with numbers above `n`, in order.
fn chained(n: i64, limit: u32) -> Query<EntryAndPlace> {
    use schema::audit;
    let rows = audit::table.select((AuditRow::as_select(), (audit::n, audit::seal))).into_boxed();
    rows.filter(audit::n.gt(n)).order(audit::n).limit(i64::from(limit))
}

/// The newest entries.
fn newest(query: AuditQuery, limit: u32) -> Query<EntryAndPlace> {
    use schema::audit;
    let AuditQuery { actor, operation, outcome, before } = query;
    let mut rows = audit::table.select((AuditRow::as_select(), (audit::n, audit::seal))).into_boxed();
    if let Some(actor) = actor {
        rows = rows.filter(audit::actor.eq(actor));
    }
    if let Some(operation) = operation {
        rows = rows.filter(audit::operation.eq(operation));
    }
    if let Some(outcome) = outcome {
        rows = rows.filter(audit::outcome.eq(outcome.as_str()));
    }
    if let Some(before) = before {
        rows = rows.filter(audit::id.lt(blob(before.0)));
    }
    rows.order(audit::id.desc()).limit(i64::from(limit))
}

/// What cannot be stored; nothing was.
fn untold(error: Untranslatable) -> SealError {
    SealError::Unavailable(Box::new(error))
}

fn seal_error(error: WriteError<SealError>) -> SealError {
    match error {
        WriteError::Refused(refusal) => refusal,
        WriteError::Unavailable(cause) | WriteError::Unknown(cause) => SealError::Unavailable(cause),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aito_domain::{audit::Outcome, id::AuditId};
    use diesel::{query_builder::QueryFragment, sql_types::Text};
    use uuid::Uuid;

    use super::*;
    use crate::sqlite::open;

    /// How SQLite would go about a query.
    fn plan(connection: &mut SqliteConnection, query: &impl QueryFragment<Sqlite>) -> String {
        #[derive(QueryableByName)]
        struct Step {
            #[diesel(sql_type = Text)]
            detail: String,
        }
        let text = format!("EXPLAIN QUERY PLAN {}", diesel::debug_query::<Sqlite, _>(query));
        let steps: Vec<Step> = diesel::sql_query(text).load(connection).unwrap();
        steps.into_iter().map(|step| step.detail).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn every_query_is_a_walk_through_one_index() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = open::prepare(&dir.path().join("db"), Duration::from_secs(1)).unwrap();
        let mut check = |query: &dyn Fn(&mut SqliteConnection) -> String, index: &str| {
            let plan = query(&mut connection);
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE") && !plan.contains(';'), "{plan}");
        };
        check(&|connection| plan(connection, &waiting(9)), "audit_unsealed");
        check(&|connection| plan(connection, &chained(5, 9)), "audit_by_number (n>?)");
        for before in [None, Some(AuditId(Uuid::max()))] {
            let all = AuditQuery { before, ..AuditQuery::default() };
            let bound = if before.is_some() { " AND id<?)" } else { ")" };
            let by_id =
                if before.is_some() { "sqlite_autoindex_audit_1 (id<?)" } else { "sqlite_autoindex_audit_1" };
            check(&|connection| plan(connection, &newest(all.clone(), 9)), by_id);
            let query = AuditQuery { actor: Some("a".into()), ..all.clone() };
            let index = format!("audit_by_actor (actor=?{bound}");
            check(&|connection| plan(connection, &newest(query.clone(), 9)), &index);
            let query = AuditQuery { operation: Some("a".into()), ..all.clone() };
            let index = format!("audit_by_operation (operation=?{bound}");
            check(&|connection| plan(connection, &newest(query.clone(), 9)), &index);
            let query = AuditQuery { outcome: Some(Outcome::Done), ..all.clone() };
            let index = format!("audit_by_outcome (outcome=?{bound}");
            check(&|connection| plan(connection, &newest(query.clone(), 9)), &index);
            let query = AuditQuery {
                actor: Some("a".into()),
                operation: Some("a".into()),
                outcome: Some(Outcome::Done),
                ..all
            };
            check(&|connection| plan(connection, &newest(query.clone(), 9)), bound);
        }
    }
}
