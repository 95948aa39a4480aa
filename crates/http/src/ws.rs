//! Live events over WebSocket: the present status of all agents, then what happens, from a position on.
//!
//! Invariants: a listener that asked with `since` gets every later event exactly once, in order, or one
//! `reset`; one that does not answer or keep up is cut, and no other notices; every stream ends when the
//! server stops, and when its credential does; an agent sees what is about itself.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, CloseReason, Message, MessageStream, Session};
use aito_application::feed::Next;
use futures_util::StreamExt as _;
use tracing::debug;

use crate::{
    caller::Caller,
    frames::Sees,
    listen::{BATCH, End, PING, SEND_LIMIT, Start, prepare, wanted},
    problem::ApiError,
    standing,
    state::AppState,
};

/// How many messages a listener may send between two pings of ours.
const MESSAGES: u32 = 300;
/// How long the farewell may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

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
    let (filter, since) = wanted(&req)?;
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
        if let Err(end) = send(session, frame.text).await {
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
                        if let Err(end) = send(session, frame.text).await {
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
