//! Reads the event log.
//!
//! Invariants: only events that have a position are read. What a commit that returned has written is found, though
//! commits do not wait for positions: each read but that of a follower asks in the same round trip, and before it
//! looks, whether events without a position are visible, and if so waits for a numbering pass and looks again.

use std::{sync::Arc, time::Duration};

use aito_domain::{
    event::Event,
    installation::Epoch,
    ports::{
        ReadError,
        event_log::{Bounds, EventLog, EventQuery},
    },
};
use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, JoinOnDsl as _, QueryDsl as _, QueryResult, SelectableHelper as _,
    dsl::{max, min},
    pg::Pg,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use uuid::Uuid;

use super::{
    PgStore,
    numberer::is_pending,
    pool::Pool,
    schema::{event_order, events},
    translate::{EventRow, natural, read_error},
};

/// How often a listener is told to look, whatever was heard.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);

/// The event log of one epoch, from [`PgStore::log`].
pub struct PgEventLog {
    store: Arc<PgStore>,
    epoch: Epoch,
}

impl PgEventLog {
    pub(super) fn new(store: Arc<PgStore>, epoch: Epoch) -> Self {
        Self { store, epoch }
    }

    fn events(&self, rows: Vec<EventRow>) -> Result<Vec<Event>, ReadError> {
        Ok(rows.into_iter().map(|row| row.into_domain(&self.epoch)).collect::<Result<_, _>>()?)
    }
}

#[async_trait]
impl EventLog for PgEventLog {
    fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    async fn after(&self, n: u64, limit: u32) -> Result<Vec<Event>, ReadError> {
        // What PostgreSQL cannot count to is beyond the end.
        let Ok(n) = i64::try_from(n) else { return Ok(Vec::new()) };
        self.events(self.store.read_log(Page { after: Some(n), limit, ..Page::default() }).await?)
    }

    async fn tail(&self, n: u64, limit: u32) -> Result<Vec<Event>, ReadError> {
        let Ok(n) = i64::try_from(n) else { return Ok(Vec::new()) };
        self.events(self.store.read_numbered(Page { after: Some(n), limit, ..Page::default() }).await?)
    }

    async fn latest(&self, query: &EventQuery, limit: u32) -> Result<Vec<Event>, ReadError> {
        let EventQuery { event_type, hidden, agent, before } = query.clone();
        let before = before.and_then(|n| i64::try_from(n).ok());
        let page = Page { after: None, before, event_type, hidden, agent: agent.map(|id| id.0), limit };
        self.events(self.store.read_log(page).await?)
    }

    async fn bounds(&self) -> Result<Option<Bounds>, ReadError> {
        let (Some(oldest), Some(newest)) = self.store.read_log(Ends).await? else { return Ok(None) };
        Ok(Some(Bounds { oldest: natural("position", oldest)?, newest: natural("position", newest)? }))
    }

    /// At once for what this server numbers, soon for what others do, and now and then without a reason.
    fn hints(&self) -> BoxStream<'static, ()> {
        let state = (self.store.changes.subscribe(), tokio::time::interval(LOOK_ANYWAY));
        stream::unfold(state, |(mut changes, mut tick)| async move {
            tokio::select! {
                Ok(()) = changes.changed() => {}
                _ = tick.tick() => {}
            }
            Some(((), (changes, tick)))
        })
        .boxed()
    }
}

impl PgStore {
    /// Asks the log something that sees every commit that has returned.
    async fn read_log<Q: Question>(&self, question: Q) -> Result<Q::Answer, ReadError> {
        let (pool, numberer) = (Arc::clone(&self.pool), Arc::clone(&self.numberer));
        let reading = async move {
            let lease = pool.lease().await.map_err(ReadError::Unavailable)?;
            // In this order: what is not pending any more when the first looks, the second sees in its place.
            let (pending, answer) = future::join(is_pending(&lease), question.ask(&lease)).await;
            let is_behind = pending.map_err(|error| pool.failed(error, read_error))?;
            let answer = answer.map_err(|error| pool.failed(error, read_error))?;
            lease.give_back();
            if !is_behind {
                return Ok(answer);
            }
            numberer.caught_up().await.map_err(ReadError::Unavailable)?;
            ask_numbered(&pool, &question).await
        };
        self.pool.run(reading.boxed()).await.map_err(ReadError::Unavailable)?
    }

    /// Asks the log something of what is numbered already.
    async fn read_numbered<Q: Question>(&self, question: Q) -> Result<Q::Answer, ReadError> {
        let pool = Arc::clone(&self.pool);
        let reading = async move { ask_numbered(&pool, &question).await };
        self.pool.run(reading.boxed()).await.map_err(ReadError::Unavailable)?
    }
}

async fn ask_numbered<Q: Question>(pool: &Pool, question: &Q) -> Result<Q::Answer, ReadError> {
    let lease = pool.lease().await.map_err(ReadError::Unavailable)?;
    let answer = question.ask(&lease).await.map_err(|error| pool.failed(error, read_error))?;
    lease.give_back();
    Ok(answer)
}

/// Something that can be asked of the numbered events, more than once.
trait Question: Send + Sync + 'static {
    type Answer: Send + 'static;
    fn ask<'a>(&'a self, connection: &'a AsyncPgConnection) -> BoxFuture<'a, QueryResult<Self::Answer>>;
}

/// Events above `after` in order, or without it the newest first.
#[derive(Default)]
struct Page {
    after: Option<i64>,
    before: Option<i64>,
    event_type: Option<String>,
    /// None of these types.
    hidden: Vec<String>,
    agent: Option<Uuid>,
    limit: u32,
}

impl Question for Page {
    type Answer = Vec<EventRow>;

    fn ask<'a>(&'a self, mut connection: &'a AsyncPgConnection) -> BoxFuture<'a, QueryResult<Vec<EventRow>>> {
        let mut rows = event_order::table
            .inner_join(events::table.on(events::seq.eq(event_order::seq)))
            .select(EventRow::as_select())
            .limit(i64::from(self.limit))
            .into_boxed::<Pg>();
        rows = match self.after {
            Some(after) => rows.filter(event_order::position.gt(after)).order(event_order::position.asc()),
            None => rows.order(event_order::position.desc()),
        };
        if let Some(before) = self.before {
            rows = rows.filter(event_order::position.lt(before));
        }
        if let Some(event_type) = &self.event_type {
            rows = rows.filter(event_order::event_type.eq(event_type));
        }
        if !self.hidden.is_empty() {
            rows = rows.filter(event_order::event_type.ne_all(&self.hidden));
        }
        if let Some(agent) = self.agent {
            rows = rows.filter(event_order::source_agent.eq(agent));
        }
        async move { rows.load(&mut connection).await }.boxed()
    }
}

/// The lowest and the highest position.
struct Ends;

impl Question for Ends {
    type Answer = (Option<i64>, Option<i64>);

    fn ask<'a>(&'a self, mut connection: &'a AsyncPgConnection) -> BoxFuture<'a, QueryResult<Self::Answer>> {
        // Two sub-queries of one statement: each is one step in the index, and they see one state.
        let ends = diesel::select((
            event_order::table.select(min(event_order::position)).single_value(),
            event_order::table.select(max(event_order::position)).single_value(),
        ));
        async move { ends.get_result(&mut connection).await }.boxed()
    }
}
