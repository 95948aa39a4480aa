//! Live events over WebSocket: the present status of all agents, then what happens, from a position on.
//!
//! Invariants: a listener that asked with `since` gets every later event exactly once, in order, or one
//! `reset`; one that does not answer or keep up is cut, and no other notices; every stream ends when the
//! server stops, and when its credential does; an agent sees what is about itself.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, CloseReason, Message, MessageStream, Session};
use aito_api::{self as api, AgentStatusPayload, Frame, frame_type};
use aito_application::{
    events::Resume,
    feed::{Next, Subscription},
};
use aito_domain::event::Position;
use futures_util::StreamExt as _;
use tracing::debug;

use crate::{
    caller::Caller,
    convert,
    extract::Query,
    frames::{Filter, Frames, Sees, text},
    problem::ApiError,
    standing,
    state::AppState,
};

/// How often a listener is asked whether it lives; one that did not answer until the next time is cut.
const PING: Duration = Duration::from_secs(15);
/// How many messages a listener may send between two pings of ours.
const MESSAGES: u32 = 300;
/// How long one frame may wait for room in a listener's queue.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// How long the farewell may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How many events are taken at once.
const BATCH: usize = 64;

/// Opens a stream of frames (RFC 6455).
///
/// First the present status of every agent, then what happens; with `since` first what was missed. Each message is one `Frame`.
#[utoipa::path(
    get, path = "/ws", tag = "events", operation_id = "openSocket",
    params(
        ("types" = Option<String>, Query, description = "Only these kinds of frame, separated by commas", pattern = "^(agent_status|decision_vote|worker_log|event)(,(agent_status|decision_vote|worker_log|event))*$", example = "agent_status,event"),
        ("since" = Option<String>, Query, description = "Begin after this position", pattern = "^[a-z0-9]{4,16}-[0-9]{1,19}$"),
        ("ticket" = Option<String>, Query, description = "In place of a credential, for browsers: of `POST /ws/tickets`, good once", min_length = 1),
    ),
    responses((status = 101, description = "Frames follow"))
)]
pub(crate) async fn open(
    state: web::Data<AppState>,
    caller: Caller,
    req: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let mut query = Query::of(&req)?;
    let known = format!("one or more of {}, separated by commas", crate::frames::FRAME_TYPES.join(", "));
    let filter = query.parsed("types", &known, Filter::parse).unwrap_or_default();
    let since =
        query.parsed("since", "a position as an event or frame carries it", |t| t.parse::<Position>().ok());
    query.done()?;
    let counted = caller.stream(&state.streams)?;
    let sees = Sees::of(caller.principal());
    let start = prepare(&state, filter.seeing(sees), sees, since).await?;
    let (response, session, messages) = actix_ws::handle(&req, body).map_err(|why| {
        ApiError::fault("Upgrade", format!("must be a WebSocket handshake (RFC 6455): {why}"))
    })?;
    // Not by the handler's own task: that one ends with the answer.
    let ended = standing::ended(state.login.clone(), caller.principal().clone());
    actix_web::rt::spawn(async move {
        serve(state, start, session, messages, ended).await;
        drop(counted);
    });
    Ok(response)
}

/// What a listener gets first, and where it goes on.
struct Start {
    filter: Filter,
    first: Vec<Frame>,
    subscription: Subscription<Frames>,
}

async fn prepare(
    state: &AppState,
    filter: Filter,
    sees: Sees,
    since: Option<Position>,
) -> Result<Start, ApiError> {
    let mut first = Vec::new();
    let now = state.clock.now().into();
    let stateless = |kind: &str, payload| Frame {
        frame_type: kind.to_owned(),
        payload,
        id: None,
        position: None,
        timestamp: now,
        last: false,
    };
    // Subscribed before the statuses are read: what changes in between is told afterwards, never lost.
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
                first.push(stateless(frame_type::RESET, serde_json::to_value(payload).unwrap_or_default()));
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
            first
                .push(stateless(frame_type::AGENT_STATUS, serde_json::to_value(payload).unwrap_or_default()));
        }
    }
    Ok(Start { filter, first, subscription })
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
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

async fn serve(
    state: web::Data<AppState>,
    start: Start,
    mut session: Session,
    messages: MessageStream,
    ended: impl Future<Output = ()>,
) {
    state.metrics.listener_opened();
    // Also while a frame waits for room.
    let end = tokio::select! {
        end = run(&state, start, &mut session, messages) => end,
        () = ended => End::Barred,
    };
    debug!(?end, "listener gone");
    state.metrics.listener_closed(end == End::Slow);
    let (code, why) = match end {
        End::Left => (CloseCode::Normal, ""),
        End::Slow => (CloseCode::Again, "fell behind"),
        End::Unavailable => (CloseCode::Again, "the event log cannot be read"),
        End::Loud => (CloseCode::Policy, "too many messages"),
        End::Barred => (CloseCode::Policy, "the credential counts no more"),
        End::Stopping => (CloseCode::Away, "the server stops"),
    };
    let reason = CloseReason { code, description: Some(why.to_owned()).filter(|why| !why.is_empty()) };
    // Closing waits for room in the queue, which a stalled listener never makes.
    let _ = tokio::time::timeout(CLOSE_LIMIT, session.close(Some(reason))).await;
}

async fn run(state: &AppState, start: Start, session: &mut Session, mut messages: MessageStream) -> End {
    let Start { filter, first, mut subscription } = start;
    for frame in first {
        if let Err(end) = send(session, text(&frame)).await {
            return end;
        }
    }
    let mut ping = tokio::time::interval(PING);
    // After a long wait for room there is one question to ask, not several with no time to answer them.
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.reset();
    let (mut answered, mut heard) = (true, 0_u32);
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return End::Stopping,
            message = messages.next() => match message {
                Some(Ok(_)) if heard >= MESSAGES => return End::Loud,
                Some(Ok(Message::Ping(bytes))) => {
                    if let Err(end) = within_limit(session.pong(&bytes)).await {
                        return end;
                    }
                    (answered, heard) = (true, heard + 1);
                }
                // What a client says is not asked for and means nothing but that it lives.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Left,
                Some(Ok(_)) => (answered, heard) = (true, heard + 1),
            },
            _ = ping.tick() => {
                heard = 0;
                if !std::mem::replace(&mut answered, false) {
                    return End::Slow;
                }
                if let Err(end) = within_limit(session.ping(b"")).await {
                    return end;
                }
            }
            next = subscription.next(BATCH) => {
                let items = match next {
                    Ok(items) => items,
                    Err(Next::Behind(_)) => return End::Slow,
                    Err(Next::Unavailable(_)) => return End::Unavailable,
                };
                for (_, frames) in items {
                    for frame in frames.for_filter(&filter) {
                        if let Err(end) = send(session, frame).await {
                            return end;
                        }
                    }
                }
            }
        }
    }
}

async fn send(session: &mut Session, frame: bytestring::ByteString) -> Result<(), End> {
    within_limit(session.text(frame)).await
}

/// Everything that is sent waits for room in the listener's queue.
async fn within_limit(sent: impl Future<Output = Result<(), actix_ws::Closed>>) -> Result<(), End> {
    match tokio::time::timeout(SEND_LIMIT, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Left),
        Err(_) => Err(End::Slow),
    }
}
