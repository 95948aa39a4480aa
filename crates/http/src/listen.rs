//! What listeners of both kinds, WebSockets and server-sent events, have in common.
//!
//! Invariant: a listener is subscribed before what it gets first is read: what changes in between is told afterwards,
//! never lost.

use std::time::Duration;

use actix_web::HttpRequest;
use aito_api::{self as api, AgentStatusPayload, Frame, frame_type};
use aito_application::{events::Resume, feed::Subscription};
use aito_domain::event::Position;

use crate::{
    convert,
    extract::Query,
    frames::{FRAME_TYPES, Filter, Frames, Sees, Sent, text},
    problem::ApiError,
    state::AppState,
};

/// How often a listener is asked whether it lives, or shown that the server does.
pub(crate) const PING: Duration = Duration::from_secs(15);
/// How long what is sent may wait for room in a listener's queue.
pub(crate) const SEND_LIMIT: Duration = Duration::from_secs(10);
/// How many events are taken at once.
pub(crate) const BATCH: usize = 64;

/// Which kinds of frame somebody asks for, and from after which position on.
pub(crate) fn wanted(req: &HttpRequest) -> Result<(Filter, Option<Position>), ApiError> {
    let mut query = Query::of(req)?;
    let known = format!("one or more of {}, separated by commas", FRAME_TYPES.join(", "));
    let filter = query.parsed("types", &known, Filter::parse).unwrap_or_default();
    let since = query.parsed("since", "a position as an event or frame carries it", |text| text.parse().ok());
    query.done()?;
    Ok((filter, since))
}

/// What a listener gets first, and where it goes on.
pub(crate) struct Start {
    pub(crate) filter: Filter,
    pub(crate) first: Vec<Sent>,
    pub(crate) subscription: Subscription<Frames>,
}

/// Where a listener begins: with the present statuses, or after `since`, or with a `reset`.
pub(crate) async fn prepare(
    state: &AppState,
    filter: Filter,
    sees: Sees,
    since: Option<Position>,
) -> Result<Start, ApiError> {
    let mut first = Vec::new();
    let now = state.clock.now().into();
    let stateless = |kind: &'static str, payload, at: Option<Position>| {
        let frame = Frame {
            frame_type: kind.to_owned(),
            payload,
            id: None,
            position: None,
            timestamp: now,
            last: false,
        };
        Sent { kind, text: text(&frame), position: at.map(|at| at.to_string().into()) }
    };
    let subscription = match since {
        None => state.feed.subscribe(state.feed.head()),
        Some(since) => match state.events.resume(&since).await? {
            Resume::From(n) => state.feed.subscribe(n),
            Resume::Reset { reason, bounds, newest } => {
                let name = |n| state.events.position(n).to_string();
                let payload = api::ResetPayload {
                    reason,
                    oldest: bounds.map(|bounds| name(bounds.oldest)),
                    newest: bounds.map(|bounds| name(bounds.newest)),
                };
                let payload = serde_json::to_value(payload).unwrap_or_default();
                // Who comes back goes on from here and is not told a second time.
                first.push(stateless(frame_type::RESET, payload, Some(state.events.position(newest))));
                state.feed.subscribe(newest)
            }
        },
    };
    if filter.passes(frame_type::AGENT_STATUS) {
        for view in state.fleet.views().await?.into_iter().filter(|view| sees.agent(view.agent.id)) {
            let payload = AgentStatusPayload {
                agent_type: view.agent.agent_type.to_string(),
                status: convert::status(view.agent.status()),
                health: Some(convert::health(view.health)),
            };
            let payload = serde_json::to_value(payload).unwrap_or_default();
            first.push(stateless(frame_type::AGENT_STATUS, payload, None));
        }
    }
    Ok(Start { filter, first, subscription })
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side went.
    Left,
    /// It fell behind or does not answer.
    Slow,
    /// The log cannot be read.
    Unavailable,
    /// It says more than a listener has to say.
    Loud,
    /// It may not listen any more.
    Barred,
    /// The server stops.
    Stopping,
}
