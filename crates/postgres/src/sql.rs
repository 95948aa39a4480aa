//! Statements that diesel's builder cannot say, written out, and those that it says but does not keep.
//!
//! Invariant: each connection prepares a text once. Diesel's own `sql_query`, and every UPDATE of its builder, is
//! prepared anew every time, which costs a round trip and breaks a pipeline.

use std::{borrow::Cow, marker::PhantomData};

use diesel::{
    QueryResult,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    serialize::ToSql,
    sql_types::HasSqlType,
};

/// A statement with `?` where a value goes; `Row` is the SQL type of what it gives. The text must not change with the
/// values, or connections would keep many.
pub(super) struct Sql<'a, Row = ()> {
    text: Cow<'static, str>,
    binds: Vec<Box<dyn Bind + Send + 'a>>,
    row: PhantomData<fn() -> Row>,
}

impl<'a, Row> Sql<'a, Row> {
    pub(super) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.into(), binds: Vec::new(), row: PhantomData }
    }

    /// The value of the next `?`.
    pub(super) fn bind<ST, T>(mut self, value: T) -> Self
    where
        ST: 'a,
        T: ToSql<ST, Pg> + Send + 'a,
        Pg: HasSqlType<ST>,
    {
        self.binds.push(Box::new(Bound::<ST, T> { value, as_type: PhantomData }));
        self
    }
}

/// A statement of diesel's builder that a connection keeps, known by its text; which must not change with its values,
/// or connections would keep many.
pub(super) struct Kept<Q>(pub(super) Q);

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Kept<Q> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }

    fn is_safe_to_cache_prepared(&self, _: &Pg) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q> QueryId for Kept<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

trait Bind {
    fn push<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()>;
}

struct Bound<ST, T> {
    value: T,
    as_type: PhantomData<fn() -> ST>,
}

impl<ST, T> Bind for Bound<ST, T>
where
    T: ToSql<ST, Pg>,
    Pg: HasSqlType<ST>,
{
    fn push<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<ST, T>(&self.value)
    }
}

impl<Row> QueryFragment<Pg> for Sql<'_, Row> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut pieces = self.text.split('?');
        out.push_sql(pieces.next().unwrap_or_default());
        for (piece, bind) in pieces.zip(&self.binds) {
            bind.push(out.reborrow())?;
            out.push_sql(piece);
        }
        Ok(())
    }
}

/// Known by its text.
impl<Row> QueryId for Sql<'_, Row> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Row> Query for Sql<'_, Row> {
    type SqlType = Row;
}

#[cfg(test)]
mod tests {
    use diesel::{
        ExpressionMethods as _, debug_query,
        sql_types::{BigInt, Text},
    };

    use super::*;

    #[test]
    fn values_take_their_places_and_the_statement_may_be_kept() {
        let statement: Sql<'_> =
            Sql::new("UPDATE t SET a = ? WHERE b = ?").bind::<Text, _>("x").bind::<BigInt, _>(7_i64);
        let shown = debug_query::<Pg, _>(&statement).to_string();
        assert_eq!(shown, r#"UPDATE t SET a = $1 WHERE b = $2 -- binds: ["x", 7]"#);
        assert!(statement.is_safe_to_cache_prepared(&Pg).unwrap());
        assert!(<Sql<'_> as QueryId>::query_id().is_none());
    }
    #[test]
    fn an_update_may_be_kept_and_says_the_same() {
        use crate::schema::audit_head;
        let update = || diesel::update(audit_head::table).set(audit_head::n.eq(7));
        assert!(!update().is_safe_to_cache_prepared(&Pg).unwrap(), "or there is no need any more");
        assert!(Kept(update()).is_safe_to_cache_prepared(&Pg).unwrap());
        let (kept, plain) = (Kept(update()), update());
        assert_eq!(debug_query::<Pg, _>(&kept).to_string(), debug_query::<Pg, _>(&plain).to_string());
    }
}
