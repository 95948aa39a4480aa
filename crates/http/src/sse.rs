//! Live events as server-sent events (WHATWG HTML, section 9.2): what a WebSocket carries, for who would rather read.
//!
//! Invariants: as in [`crate::ws`]; a message has an id when an event is whole with it, so who comes back with the last id
//! gets every later event exactly once, or one `reset`.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    web,
};
use aito_api as api;
use aito_application::feed::Next;
use aito_domain::event::Position;
use futures_util::stream;
use tokio::sync::mpsc;
use tracing::debug;

use crate::{
    caller::Caller,
    frames::{Sees, Sent},
    listen::{BATCH, End, PING, SEND_LIMIT, Start, prepare, wanted},
    problem::ApiError,
    standing,
    state::AppState,
};

/// Pieces of text that wait for a listener's connection, each of a whole batch.
const QUEUE: usize = 16;
/// After how many milliseconds who lost the connection should come back.
const RETRY_MS: u32 = 1000;
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// Goes on with events, as server-sent events.
///
/// First the present status of every agent, then what happens. The `data` of each message is a `Frame` as on `/ws`, its
/// `event` the frame's type, its `id` the position with which to come back (`Last-Event-ID`, as browsers do by
/// themselves, or `since`). A ticket is good once: who came with one needs another to come back.
#[utoipa::path(
    get, path = "/events/stream", tag = "events", operation_id = "streamEvents",
    params(
        ("types" = Option<String>, Query, description = "Only these kinds of frame, separated by commas", pattern = "^(agent_status|decision_vote|worker_log|event)(,(agent_status|decision_vote|worker_log|event))*$", example = "agent_status,event"),
        ("since" = Option<String>, Query, description = "Begin after this position", pattern = "^[a-z0-9]{4,16}-[0-9]{1,19}$"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last message; it counts before `since`", pattern = "^[a-z0-9]{4,16}-[0-9]{1,19}$"),
        ("ticket" = Option<String>, Query, description = "In place of a credential, for browsers: of `POST /ws/tickets`, good once", min_length = 1),
    ),
    responses((status = 200, description = "Messages follow", body = api::StreamMessage, content_type = "text/event-stream"))
)]
pub(crate) async fn open(
    state: web::Data<AppState>,
    caller: Caller,
    req: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (filter, since) = wanted(&req)?;
    let since = last_event_id(&req)?.or(since);
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_ENCODING, "identity"));
    // What only asks for the head of the answer wants no stream.
    if req.method() != Method::GET {
        return Ok(response.finish());
    }
    let counted = caller.stream(&state.streams)?;
    let sees = Sees::of(caller.principal());
    let start = prepare(&state, filter.seeing(sees), sees, since).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let ended = standing::ended(state.login.clone(), caller.principal().clone());
    // Not by the handler's own task: that one ends with the answer's head.
    actix_web::rt::spawn(async move {
        serve(state, start, sender, ended).await;
        drop(counted);
    });
    let pieces = stream::unfold(receiver, |mut receiver: mpsc::Receiver<String>| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<_, actix_web::Error>(web::Bytes::from(piece)), receiver))
    });
    Ok(response.streaming(pieces))
}

/// Where the last message that a listener has read leads.
fn last_event_id(req: &HttpRequest) -> Result<Option<Position>, ApiError> {
    let Some(value) = req.headers().get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let position = value.to_str().ok().and_then(|text| text.parse().ok());
    position
        .map(Some)
        .ok_or_else(|| ApiError::fault(LAST_EVENT_ID, "must be the id of a message of this stream"))
}

async fn serve(
    state: web::Data<AppState>,
    start: Start,
    sender: mpsc::Sender<String>,
    ended: impl Future<Output = ()>,
) {
    state.metrics.listener_opened();
    // Also while something waits for room.
    let end = tokio::select! {
        end = run(&state, start, &sender) => end,
        () = ended => End::Barred,
    };
    debug!(?end, "listener gone");
    state.metrics.listener_closed(end == End::Slow);
}

async fn run(state: &AppState, start: Start, sender: &mpsc::Sender<String>) -> End {
    let Start { filter, first, mut subscription } = start;
    let mut beginning = format!("retry: {RETRY_MS}\n\n");
    first.iter().for_each(|frame| write(&mut beginning, frame));
    if let Err(end) = send(sender, beginning).await {
        return end;
    }
    let mut ping = tokio::time::interval(PING);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.reset();
    loop {
        let piece = tokio::select! {
            () = state.stop.cancelled() => return End::Stopping,
            () = sender.closed() => return End::Left,
            _ = ping.tick() => ":\n\n".to_owned(),
            next = subscription.next(BATCH) => {
                let items = match next {
                    Ok(items) => items,
                    Err(Next::Behind(_)) => return End::Slow,
                    Err(Next::Unavailable(_)) => return End::Unavailable,
                };
                let mut piece = String::new();
                for (_, frames) in items {
                    frames.for_filter(&filter).for_each(|frame| write(&mut piece, &frame));
                }
                piece
            }
        };
        if !piece.is_empty()
            && let Err(end) = send(sender, piece).await
        {
            return end;
        }
    }
}

/// A frame as a message. Its JSON has no line breaks, since texts in it have theirs escaped.
fn write(piece: &mut String, frame: &Sent) {
    if let Some(position) = &frame.position {
        piece.extend(["id: ", position, "\n"]);
    }
    piece.extend(["event: ", frame.kind, "\ndata: ", &frame.text, "\n\n"]);
}

async fn send(sender: &mpsc::Sender<String>, piece: String) -> Result<(), End> {
    match tokio::time::timeout(SEND_LIMIT, sender.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Left),
        Err(_) => Err(End::Slow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_an_id_when_an_event_is_whole_with_it() {
        let mut piece = String::new();
        let text = "{\"payload\":\"two\\nlines\"}";
        let mut frame = Sent { kind: "agent_status", text: text.into(), position: None };
        write(&mut piece, &frame);
        frame = Sent { kind: "event", position: Some("abcd-7".into()), ..frame };
        write(&mut piece, &frame);
        assert_eq!(
            piece,
            format!("event: agent_status\ndata: {text}\n\nid: abcd-7\nevent: event\ndata: {text}\n\n")
        );
    }
}
