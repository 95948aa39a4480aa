//! The event log, newest first.

use actix_web::{HttpRequest, HttpResponse, web};
use aito_api as api;
use aito_domain::{event::Position, id::AgentId};

use crate::{
    caller::Caller,
    convert, cursor,
    extract::{Query, agent_type},
    problem::ApiError,
    state::AppState,
};

type State = web::Data<AppState>;

/// The newest events of the whole company.
///
/// Everything that changed, newest first. Events about tokens are for who may see tokens.
#[utoipa::path(
    get, path = "/events", tag = "events", operation_id = "listEvents",
    params(
        ("limit" = Option<u32>, Query, description = "How many at most; 100 if absent", minimum = 1, maximum = 500, example = 100),
        ("type" = Option<String>, Query, description = "Events of this type only", pattern = "^[a-z0-9_]{1,64}$", example = "agent_started"),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", pattern = "^[a-z0-9]{4,16}-[0-9]{1,19}$"),
    ),
    responses((status = 200, description = "Events, newest first", body = api::EventList))
)]
pub(crate) async fn list(state: State, caller: Caller, req: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::of(&req)?;
    let event_type = query.parsed("type", "an event type: 1 to 64 of a-z and _", |text| {
        let form = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        form.then(|| text.to_owned())
    });
    page(&state, &caller, &req, query, event_type, None).await
}

/// The newest events about or from one agent.
///
/// The same events as in `GET /events`, without those of others.
#[utoipa::path(
    get, path = "/agents/{type}/events", tag = "events", operation_id = "listAgentEvents",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("limit" = Option<u32>, Query, description = "How many at most; 100 if absent", minimum = 1, maximum = 500, example = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", pattern = "^[a-z0-9]{4,16}-[0-9]{1,19}$"),
    ),
    responses((status = 200, description = "Events, newest first", body = api::EventList))
)]
pub(crate) async fn of_agent(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let agent = state.fleet.agent(&agent_type(&path)?).await?;
    page(&state, &caller, &req, Query::of(&req)?, None, Some(agent.id)).await
}

async fn page(
    state: &State,
    caller: &Caller,
    req: &HttpRequest,
    mut query: Query,
    event_type: Option<String>,
    agent: Option<AgentId>,
) -> Result<HttpResponse, ApiError> {
    let limit = query.limit("limit", 100, 500);
    let cursor = query.parsed("cursor", "the nextCursor of an answer", |text| text.parse::<Position>().ok());
    query.done()?;
    let sees_tokens = caller.principal().sees_tokens();
    let sees = if sees_tokens { "tokens" } else { "" };
    let asking = state.clone();
    state
        .answers
        .json(req, sees, move || {
            let (state, event_type, cursor) = (asking.clone(), event_type.clone(), cursor.clone());
            async move {
                let events = state.events.list(event_type, agent, sees_tokens, cursor, limit + 1).await?;
                // Their payloads are small.
                let (events, goes_on) = cursor::cut(events, limit, |_| 0);
                let last = events.last().filter(|_| goes_on);
                let next_cursor = last.map(|event| event.position.to_string());
                let events = events.into_iter().map(convert::event).collect();
                Ok(api::EventList { events, next_cursor })
            }
        })
        .await
}
