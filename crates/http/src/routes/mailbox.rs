//! Mailboxes and messages.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use aito_api as api;
use aito_api::ProblemKind;
use aito_application::mailbox::{LONGEST_WAIT, MAX_KNOWN, NewMessage};
use aito_domain::{
    id::{AgentId, MailId},
    ports::mailbox_store::MailCursor,
    task::Priority,
};

use super::agents::speaker;
use crate::{
    caller::Caller,
    convert, cursor,
    extract::{Body, Query, agent_type, known_id},
    problem::ApiError,
    standing,
    state::AppState,
};

type State = web::Data<AppState>;

/// What waits for an agent, the most urgent first, then the oldest.
///
/// It waits until the agent acknowledges it, or for 7 days; reading changes nothing. With `wait` the answer comes when a
/// message is due that is none of the `known` ones, or empty when the time is over; without it everything is there that
/// waits, due or not.
#[utoipa::path(
    get, path = "/agents/{type}/mailbox", tag = "messages", operation_id = "readMailbox",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("limit" = Option<u32>, Query, description = "How many at most; 50 if absent", minimum = 1, maximum = 500, example = 50),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", min_length = 1, pattern = "^[A-Za-z0-9_-]+$"),
        ("known" = Option<String>, Query, description = "Ids of messages that the caller has read and not acknowledged yet, up to 64 with commas between them: they end no `wait`", min_length = 36, max_length = 2367, pattern = "^[0-9a-fA-F-]{36}(,[0-9a-fA-F-]{36}){0,63}$"),
        ("wait" = Option<u32>, Query, description = "For how many seconds to wait until a message is due; 0 if absent", minimum = 0, maximum = 60, example = 0),
    ),
    responses((status = 200, description = "Messages", body = api::MailList))
)]
pub(crate) async fn read(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
) -> Result<web::Json<api::MailList>, ApiError> {
    let mut query = Query::of(&req)?;
    let limit = query.limit("limit", 50, 500);
    let after = query.parsed("cursor", cursor::ALLOWED, |text| {
        let (rank, id) = cursor::read_rank(text)?;
        Some(MailCursor { priority: Priority::of_rank(rank.into())?, id: MailId(id) })
    });
    let wait = query.number("wait", LONGEST_WAIT.as_secs() as u32);
    let known = query.parsed("known", "up to 64 ids of messages, with commas between them", |text| {
        let ids: Option<Vec<MailId>> = text.split(',').map(|id| id.parse().ok()).collect();
        ids.filter(|ids| ids.len() <= MAX_KNOWN)
    });
    let known = known.unwrap_or_default();
    query.done()?;
    let agent = state.fleet.agent(&agent_type(&path)?).await?;
    if wait > 0 && !waited(&state, &caller, agent.id, &known, Duration::from_secs(wait.into())).await? {
        return Ok(web::Json(api::MailList { messages: Vec::new(), next_cursor: None }));
    }
    let mails = state.mail.list(agent.id, after, limit + 1).await?;
    let (mails, goes_on) = cursor::cut(mails, limit, |mail| cursor::json_size(Some(&mail.body)));
    let last = mails.last().filter(|_| goes_on);
    let next_cursor = last.map(|mail| cursor::write_rank(mail.priority.rank(), mail.id.0));
    Ok(web::Json(api::MailList { messages: mails.into_iter().map(convert::mail).collect(), next_cursor }))
}

/// Waits until a message is due, as long as the caller may; a stopping server lets nobody wait.
async fn waited(
    state: &AppState,
    caller: &Caller,
    agent: AgentId,
    known: &[MailId],
    limit: Duration,
) -> Result<bool, ApiError> {
    let _counted = caller.stream(&state.streams)?;
    tokio::select! {
        due = state.mail.wait(agent, known, limit) => Ok(due?),
        () = standing::ended(state.login.clone(), caller.principal().clone()) => {
            Err(ApiError::new(ProblemKind::Unauthorized, "the credential has ended"))
        }
        () = state.stop.cancelled() => Ok(false),
    }
}

/// Says that an agent has heard a message.
///
/// For the agent itself. It is not handed out again; heard already is a success.
#[utoipa::path(
    post, path = "/agents/{type}/mailbox/{id}/ack", tag = "messages", operation_id = "acknowledgeMessage",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("id" = String, Path, description = "The message's id"),
    ),
    responses(
        (status = 200, description = "Heard", body = api::MailAnswer),
        (status = 409, description = "The agent was never started, so nobody can have heard it", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn acknowledge(
    state: State,
    caller: Caller,
    path: web::Path<(String, String)>,
) -> Result<web::Json<api::MailAnswer>, ApiError> {
    let (named, id) = path.into_inner();
    let id = known_id(&id, "message")?;
    let (agent, incarnation) = speaker(&state, &caller, &named).await?;
    let mail = state.mail.acknowledge(&agent, incarnation, id, &caller.by()).await?;
    Ok(web::Json(api::MailAnswer { success: true, message: convert::mail(mail) }))
}

/// Sends a message to an agent.
///
/// When it wakes the agent depends on its priority (settings `queue.delay_*`).
#[utoipa::path(
    post, path = "/agents/{type}/message", tag = "messages", operation_id = "sendMessage",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repetition with the same key within 24 h sends nothing and gets the first answer"),
    ),
    request_body = api::NewMessage,
    responses(
        (status = 201, description = "Sent", body = api::MailAnswer, headers(("Location" = String, description = "The message's path"))),
        (status = 409, description = "The mailbox is full, or the key was used for another message", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn send(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
    body: Body<api::NewMessage>,
) -> Result<HttpResponse, ApiError> {
    let once = caller.once(&req)?;
    let to = state.fleet.agent(&agent_type(&path)?).await?;
    let new = NewMessage {
        text: body.0.message.unwrap_or_default(),
        priority: body.0.priority.unwrap_or_default(),
    };
    let from = caller.agent();
    let quotas = from.map(|_| &*state.quotas);
    let mail = state.mail.send(&to, new, from, &caller.by(), once.as_ref(), quotas).await?;
    let location = format!("/agents/{path}/mailbox/{}", mail.id);
    let answer = api::MailAnswer { success: true, message: convert::mail(mail) };
    Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).json(answer))
}

/// Sends a message to every agent.
///
/// `skipped` names those whose mailbox is full. Without a priority it is normal.
#[utoipa::path(
    post, path = "/broadcast", tag = "messages", operation_id = "broadcast",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition with the same key within 24 h sends nothing and gets the first answer")),
    request_body = api::NewBroadcast,
    responses(
        (status = 201, description = "Sent", body = api::BroadcastSent, headers(("Location" = String, description = "Where broadcasts are listed"))),
        (status = 409, description = "Every mailbox is full, or the key was used for another message", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn broadcast(
    state: State,
    caller: Caller,
    req: HttpRequest,
    body: Body<api::NewMessage>,
) -> Result<HttpResponse, ApiError> {
    let once = caller.once(&req)?;
    let new = NewMessage {
        text: body.0.message.unwrap_or_default(),
        priority: body.0.priority.unwrap_or_else(|| Priority::Normal.as_str().to_owned()),
    };
    let sent = state.mail.broadcast(new, &caller.by(), once.as_ref()).await?;
    let answer = api::BroadcastSent { success: true, broadcast: convert::broadcast(sent) };
    Ok(HttpResponse::Created().insert_header((header::LOCATION, "/events?type=broadcast")).json(answer))
}
