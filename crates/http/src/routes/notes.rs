//! Agents' notes: `GET /agents/{type}/state`, `PUT /agents/{type}/state/{key}`.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use aito_api as api;
use aito_domain::state::is_key;

use super::agents::speaker;
use crate::{
    caller::Caller,
    convert, cursor,
    extract::{Body, Query, agent_type, etag, if_match},
    problem::ApiError,
    state::AppState,
};

type State = web::Data<AppState>;

/// What an agent has noted, by key.
///
/// Notes outlive the agent's incarnations.
#[utoipa::path(
    get, path = "/agents/{type}/state", tag = "agents", operation_id = "listState",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("limit" = Option<u32>, Query, description = "How many at most; 50 if absent", minimum = 1, maximum = 500, example = 50),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", min_length = 1, max_length = 128, example = "last_seen"),
    ),
    responses((status = 200, description = "Notes", body = api::StateList))
)]
pub(crate) async fn list(
    state: State,
    path: web::Path<String>,
    req: HttpRequest,
) -> Result<web::Json<api::StateList>, ApiError> {
    let agent = state.fleet.agent(&agent_type(&path)?).await?;
    let mut query = Query::of(&req)?;
    let limit = query.limit("limit", 50, 500);
    let after = query.parsed("cursor", cursor::ALLOWED, |text| is_key(text).then(|| text.to_owned()));
    query.done()?;
    let entries = state.notes.list(agent.id, after.as_deref(), limit + 1).await?;
    let (entries, goes_on) = cursor::cut(entries, limit, |entry| cursor::json_size(entry.value.as_ref()));
    let last = entries.last().filter(|_| goes_on);
    let next_cursor = last.map(|entry| entry.key.clone());
    Ok(web::Json(api::StateList {
        state: entries.into_iter().map(convert::state_entry).collect(),
        next_cursor,
    }))
}

/// Notes a value under a key; null removes it.
///
/// For the agent itself. What it may keep, and write a day, is bounded.
#[utoipa::path(
    put, path = "/agents/{type}/state/{key}", tag = "agents", operation_id = "putState",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("key" = String, Path, description = "The note's name", pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "last_seen"),
        ("If-Match" = Option<String>, Header, description = "Only if it is in this state: the `etag` of a note (`\"0\"`: never written), or `*`"),
    ),
    request_body = api::PutState,
    responses(
        (status = 200, description = "Noted", body = api::StateAnswer, headers(("ETag" = String, description = "Its state, for `If-Match`"))),
        (status = 409, description = "The agent was never started, or has as many notes as it may", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn put(
    state: State,
    caller: Caller,
    path: web::Path<(String, String)>,
    req: HttpRequest,
    body: Body<api::PutState>,
) -> Result<HttpResponse, ApiError> {
    let (named, key) = path.into_inner();
    let (agent, _) = speaker(&state, &caller, &named).await?;
    let quotas = caller.agent().map(|_| &*state.quotas);
    let seen = if_match(&req);
    let entry = state.notes.put(&agent, &key, body.0.value, seen.as_ref(), &caller.by(), quotas).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header((header::ETAG, etag(entry.version)));
    Ok(response.json(api::StateAnswer { success: true, state: convert::state_entry(entry) }))
}
