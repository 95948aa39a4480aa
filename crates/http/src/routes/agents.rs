//! Agents: lists and details, start, stop, restart, heartbeats, history, logs, use.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use aito_api as api;
use aito_api::ProblemKind;
use aito_application::{Error, heartbeat::Beat, history::NewEntry};
use aito_domain::{
    agent::{Agent, Status},
    history::HistoryEntry,
    id::{AgentType, HistoryId, Incarnation},
    ports::{history_store::HistoryCursor, runtime::LogQuery},
    time::{Timestamp, truncate},
};
use futures_util::{StreamExt as _, stream};

use crate::{
    caller::Caller,
    convert, cursor,
    extract::{Body, Query, agent_type},
    problem::ApiError,
    standing,
    state::AppState,
};

type State = web::Data<AppState>;

/// The most lines of a log in one answer.
const MAX_TAIL: u32 = 5000;
/// How often an open caller speaks for another incarnation when the one before has just ended.
const SPEAK_TRIES: u32 = 3;
/// How often a followed log that is silent says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Every agent, those of the first start in their documented order, then the others by type.
///
/// What they are, not what they do: `GET /agents/{type}` tells more of one.
#[utoipa::path(
    get, path = "/agents", tag = "agents", operation_id = "listAgents",
    params(
        ("status" = Option<String>, Query, description = "Only agents of this status", pattern = "^(inactive|starting|active|stopping|error)$", example = "active"),
        ("limit" = Option<u32>, Query, description = "How many at most; 500 if absent", minimum = 1, maximum = 500, example = 500),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", example = "ceo"),
    ),
    responses((status = 200, description = "Agents", body = api::AgentList))
)]
pub(crate) async fn list(state: State, req: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::of(&req)?;
    let limit = query.limit("limit", 500, 500) as usize;
    let status = query.parsed("status", "one of inactive, starting, active, stopping, error", |text| {
        text.parse::<Status>().ok()
    });
    let after = query.parsed("cursor", "the nextCursor of an answer", |text| text.parse::<AgentType>().ok());
    query.done()?;
    let asking = state.clone();
    state
        .answers
        .json(&req, "", move || {
            let (state, after) = (asking.clone(), after.clone());
            async move {
                let mut views = state.fleet.views().await?;
                views.sort_by_key(|view| order(&view.agent.agent_type));
                views.retain(|view| status.is_none_or(|wanted| view.agent.status() == wanted));
                views.retain(|view| {
                    after.as_ref().is_none_or(|after| order(&view.agent.agent_type) > order(after))
                });
                let next_cursor =
                    (views.len() > limit).then(|| views[limit - 1].agent.agent_type.to_string());
                let agents = views.iter().take(limit).map(convert::agent_summary).collect();
                Ok(api::AgentList { agents, next_cursor })
            }
        })
        .await
}

/// The built-in types first, in the contract's order, then the others by name.
fn order(agent_type: &AgentType) -> (usize, String) {
    let built_in = AgentType::BUILT_IN.iter().position(|name| *name == agent_type.as_str());
    (built_in.unwrap_or(usize::MAX), agent_type.to_string())
}

/// One agent.
///
/// What it is, what is wanted of it, how it does, and what it says of itself.
#[utoipa::path(
    get, path = "/agents/{type}", tag = "agents", operation_id = "getAgent",
    params(("type" = String, Path, description = "The agent's type")),
    responses((status = 200, description = "The agent", body = api::AgentDetail))
)]
pub(crate) async fn detail(
    state: State,
    path: web::Path<String>,
) -> Result<web::Json<api::AgentDetail>, ApiError> {
    let view = state.fleet.view(&agent_type(&path)?).await?;
    Ok(web::Json(convert::agent_detail(&view)))
}

/// How one agent does.
///
/// What the server makes of its heartbeats and of what the runtime says, with the next restart if one is due.
#[utoipa::path(
    get, path = "/agents/{type}/health", tag = "agents", operation_id = "getAgentHealth",
    params(("type" = String, Path, description = "The agent's type")),
    responses((status = 200, description = "How it does", body = api::AgentHealthAnswer))
)]
pub(crate) async fn health(
    state: State,
    path: web::Path<String>,
) -> Result<web::Json<api::AgentHealthAnswer>, ApiError> {
    let view = state.fleet.view(&agent_type(&path)?).await?;
    Ok(web::Json(api::AgentHealthAnswer { success: true, health: convert::agent_health(&view) }))
}

/// How one agent is configured.
///
/// It comes from the configuration alone; a secret is shown as the reference to where it is taken from.
#[utoipa::path(
    get, path = "/agents/{type}/spec", tag = "agents", operation_id = "getAgentSpec",
    params(("type" = String, Path, description = "The agent's type")),
    responses(
        (status = 200, description = "The specification", body = api::AgentSpecAnswer),
        (status = 409, description = "It is not configured any more", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn spec(
    state: State,
    path: web::Path<String>,
) -> Result<web::Json<api::AgentSpecAnswer>, ApiError> {
    let agent_type = agent_type(&path)?;
    state.fleet.agent(&agent_type).await?;
    let spec = convert::agent_spec(state.fleet.spec(&agent_type)?);
    Ok(web::Json(api::AgentSpecAnswer { success: true, spec }))
}

/// Starts an agent.
///
/// One that runs already is a success, with the container that it has. Where the runtime is away nothing changes.
#[utoipa::path(
    post, path = "/agents/{type}/start", tag = "agents", operation_id = "startAgent",
    params(("type" = String, Path, description = "The agent's type")),
    responses(
        (status = 200, description = "Started, or running already", body = api::Started),
        (status = 409, description = "It is not configured any more, or just being changed by somebody else", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "It cannot start as configured; nothing changed", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "Runtime or database away; the text says whether it will be tried again", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn start(
    state: State,
    caller: Caller,
    path: web::Path<String>,
) -> Result<web::Json<api::Started>, ApiError> {
    let container_id = state.fleet.start(&agent_type(&path)?, &caller.by()).await?;
    Ok(web::Json(api::Started { success: true, message: format!("Agent {path} started"), container_id }))
}

/// Stops an agent, gracefully and then by force.
///
/// One that does not run is a success. It stays stopped until somebody starts it.
#[utoipa::path(
    post, path = "/agents/{type}/stop", tag = "agents", operation_id = "stopAgent",
    params(("type" = String, Path, description = "The agent's type")),
    responses(
        (status = 200, description = "Stopped", body = api::Stopped),
        (status = 409, description = "It is not configured any more, or just being changed by somebody else", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "Runtime or database away; the text says whether it will be tried again", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn stop(
    state: State,
    caller: Caller,
    path: web::Path<String>,
) -> Result<web::Json<api::Stopped>, ApiError> {
    state.fleet.stop(&agent_type(&path)?, &caller.by()).await?;
    Ok(web::Json(api::Stopped { success: true, message: format!("Agent {path} stopped") }))
}

/// Restarts an agent; one that does not run is started.
///
/// The new incarnation has a new container and a new credential; those of the old one end.
#[utoipa::path(
    post, path = "/agents/{type}/restart", tag = "agents", operation_id = "restartAgent",
    params(("type" = String, Path, description = "The agent's type")),
    responses(
        (status = 200, description = "Restarted", body = api::Started),
        (status = 409, description = "It is not configured any more, or just being changed by somebody else", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "It cannot start as configured; nothing changed", body = api::Problem, content_type = "application/problem+json"),
        (status = 503, description = "Runtime or database away; the text says whether it will be tried again", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn restart(
    state: State,
    caller: Caller,
    path: web::Path<String>,
) -> Result<web::Json<api::Started>, ApiError> {
    let container_id = state.fleet.restart(&agent_type(&path)?, &caller.by()).await?;
    Ok(web::Json(api::Started { success: true, message: format!("Agent {path} restarted"), container_id }))
}

/// The agent that a caller speaks for: itself, which the guard has seen to, or, on an open listener, any agent's
/// present incarnation.
pub(super) async fn speaker(
    state: &AppState,
    caller: &Caller,
    path: &str,
) -> Result<(Agent, Incarnation), ApiError> {
    if let Some(agent) = caller.agent() {
        return Ok((agent.clone(), agent.incarnation));
    }
    let wanted = agent_type(path)?;
    let agent = state.fleet.agent(&wanted).await?;
    if agent.incarnation == Incarnation::default() {
        return Err(ApiError::new(ProblemKind::Conflict, format!("agent {wanted} was never started")));
    }
    let incarnation = agent.incarnation;
    Ok((agent, incarnation))
}

/// Does something for the agent that a caller speaks for, as [`speaker`] gives it. Who needs no credential has named no
/// incarnation: when the present one ends meanwhile, it speaks for the next.
pub(super) async fn speaking<T>(
    state: &AppState,
    caller: &Caller,
    path: &str,
    act: impl AsyncFn(Agent, Incarnation) -> Result<T, Error>,
) -> Result<T, ApiError> {
    for _ in 0..SPEAK_TRIES {
        let (agent, incarnation) = speaker(state, caller, path).await?;
        match act(agent, incarnation).await {
            Err(Error::PastIncarnation { .. }) if caller.agent().is_none() => {}
            done => return Ok(done?),
        }
    }
    Err(ApiError::new(ProblemKind::Conflict, "the agent is being restarted all the time"))
}

/// Hears an agent and answers what is wanted of it.
///
/// For the agent itself, every heartbeat interval, apart from its loop. A field that is absent or null leaves what was known.
#[utoipa::path(
    post, path = "/agents/{type}/heartbeat", tag = "agents", operation_id = "sendHeartbeat",
    params(("type" = String, Path, description = "The agent's type")),
    request_body = api::HeartbeatRequest,
    responses(
        (status = 200, description = "The control channel", body = api::HeartbeatAnswer),
        (status = 409, description = "The agent was never started, so there is nobody to hear", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn heartbeat(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    body: Body<api::HeartbeatRequest>,
) -> Result<web::Json<api::HeartbeatAnswer>, ApiError> {
    let beat = Beat {
        loop_count: body.0.loop_count,
        focus: body.0.current_focus.map(|focus| Some(focus).filter(|text| !text.is_empty())),
        last_loop_at: body.0.last_loop_at,
        activity: body.0.status,
    };
    let control = speaking(&state, &caller, &path, async |agent, incarnation| {
        state.heartbeats.heard(agent, incarnation, beat.clone()).await
    })
    .await?;
    Ok(web::Json(api::HeartbeatAnswer {
        success: true,
        loop_interval: control.loop_interval.as_secs(),
        settings_version: control.settings_version,
        desired: convert::desired(control.desired),
        mailbox: control.mailbox,
    }))
}

/// An agent's history, newest first.
///
/// What it says that it did. `nextCursor` leads to older rows.
#[utoipa::path(
    get, path = "/agents/{type}/history", tag = "agents", operation_id = "listHistory",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("limit" = Option<u32>, Query, description = "How many at most; 50 if absent", minimum = 1, maximum = 500, example = 50),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", min_length = 1, pattern = "^[A-Za-z0-9_-]+$"),
    ),
    responses((status = 200, description = "Rows, newest first", body = api::HistoryList))
)]
pub(crate) async fn history(
    state: State,
    path: web::Path<String>,
    req: HttpRequest,
) -> Result<web::Json<api::HistoryList>, ApiError> {
    let agent = state.fleet.agent(&agent_type(&path)?).await?;
    let mut query = Query::of(&req)?;
    let limit = query.limit("limit", 50, 500);
    let before = query.parsed("cursor", cursor::ALLOWED, |text| {
        cursor::read(text).map(|(at, id)| HistoryCursor { at, id: HistoryId(id) })
    });
    query.done()?;
    let rows = state.history.list(agent.id, before, limit + 1).await?;
    let size = |row: &HistoryEntry| row.summary.len() + cursor::json_size(row.details.as_ref());
    let (rows, goes_on) = cursor::cut(rows, limit, size);
    let last = rows.last().filter(|_| goes_on);
    let next_cursor = last.map(|row| cursor::write(row.created_at, row.id.0));
    Ok(web::Json(api::HistoryList { history: rows.into_iter().map(convert::history).collect(), next_cursor }))
}

/// Adds a row to an agent's history.
///
/// For the agent itself. Rows are never changed; what it may add a day is bounded.
#[utoipa::path(
    post, path = "/agents/{type}/history", tag = "agents", operation_id = "addHistory",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repetition with the same key within 24 h stores nothing and gets the first answer"),
    ),
    request_body = api::NewHistory,
    responses(
        (status = 201, description = "Added", body = api::HistoryCreated, headers(("Location" = String, description = "The row's path"))),
        (status = 409, description = "The agent was never started, or the key was used for another row", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn record(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
    body: Body<api::NewHistory>,
) -> Result<HttpResponse, ApiError> {
    let once = caller.once(&req)?;
    let (agent, incarnation) = speaker(&state, &caller, &path).await?;
    let new = NewEntry {
        action_type: body.0.action_type.unwrap_or_default(),
        summary: body.0.summary.unwrap_or_default(),
        details: body.0.details,
    };
    let quotas = caller.agent().map(|_| &*state.quotas);
    let entry = state.history.record(&agent, incarnation, new, &caller.by(), once.as_ref(), quotas).await?;
    let created = api::HistoryCreated { success: true, history: convert::history(entry) };
    let location = format!("/agents/{path}/history/{}", created.history.id);
    Ok(HttpResponse::Created().insert_header((header::LOCATION, location)).json(created))
}

/// What an agent wrote to its output.
///
/// With `follow=true` it goes on as server-sent events, one line each, also with the incarnations that come; else it is a list, oldest first.
#[utoipa::path(
    get, path = "/agents/{type}/logs", tag = "agents", operation_id = "getAgentLogs",
    params(
        ("type" = String, Path, description = "The agent's type"),
        ("tail" = Option<u32>, Query, description = "The last so many lines; 100 if absent", minimum = 1, maximum = 5000, example = 100),
        ("since" = Option<String>, Query, description = "Lines from this time on (RFC 3339)", format = "date-time", example = "2025-12-20T10:00:00.000Z"),
        ("follow" = Option<bool>, Query, description = "Go on, as server-sent events", example = false),
        ("previous" = Option<bool>, Query, description = "Of the incarnation before the present one, as long as it is kept", example = false),
    ),
    responses(
        (status = 200, description = "Lines, oldest first", content((api::LogList = "application/json"), (api::LogEvent = "text/event-stream"))),
        (status = 404, description = "No such agent, or it has no container", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn logs(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (mut query, previous) = log_query(&req)?;
    // What only asks for the head of the answer wants no stream.
    query.follow &= req.method() == actix_web::http::Method::GET;
    let lines = state.fleet.logs(&agent_type(&path)?, &query, previous).await?;
    if !query.follow {
        let logs = lines.map(convert::log_line).collect().await;
        return Ok(HttpResponse::Ok().json(api::LogList { logs }));
    }
    let data = lines.map(|line| {
        format!("data: {}\n\n", serde_json::to_string(&convert::log_line(line)).unwrap_or_default())
    });
    let counted = caller.stream(&state.streams)?;
    // Whoever may not any more gets no more.
    let ended = Box::pin(standing::ended(state.login.clone(), caller.principal().clone()));
    let stop = state.stop.clone();
    let frames = stream::unfold(
        (Box::pin(data), stop, ended, counted),
        |(mut data, stop, mut ended, counted)| async move {
            let next = tokio::select! {
                () = stop.cancelled() => None,
                () = &mut ended => None,
                next = tokio::time::timeout(KEEP_ALIVE, data.next()) => next.unwrap_or_else(|_| Some(":\n\n".to_owned())),
            };
            next.map(|text| (Ok::<_, actix_web::Error>(web::Bytes::from(text)), (data, stop, ended, counted)))
        },
    );
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_ENCODING, "identity"));
    Ok(response.content_type("text/event-stream").streaming(frames))
}

fn log_query(req: &HttpRequest) -> Result<(LogQuery, bool), ApiError> {
    let mut query = Query::of(req)?;
    let tail = query.limit("tail", 100, MAX_TAIL);
    let since = query.parsed("since", "a time as RFC 3339 writes it", |text| {
        chrono::DateTime::parse_from_rfc3339(text).ok().map(|at| truncate(Timestamp::from(at)))
    });
    let follow = query.parsed("follow", "true or false", |text| text.parse().ok()).unwrap_or(false);
    let previous = query.parsed("previous", "true or false", |text| text.parse().ok()).unwrap_or(false);
    query.done()?;
    Ok((LogQuery { tail: Some(tail), since, follow }, previous))
}

/// What an agent's container uses at the moment.
///
/// Read from the runtime for this answer; it takes about a second where two readings are compared.
#[utoipa::path(
    get, path = "/agents/{type}/stats", tag = "agents", operation_id = "getAgentStats",
    params(("type" = String, Path, description = "The agent's type")),
    responses(
        (status = 200, description = "What it uses", body = api::AgentStatsAnswer),
        (status = 409, description = "It does not run", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn stats(
    state: State,
    path: web::Path<String>,
) -> Result<web::Json<api::AgentStatsAnswer>, ApiError> {
    let usage = state.fleet.usage(&agent_type(&path)?).await?;
    let usage =
        (usage.ok_or_else(|| ApiError::new(ProblemKind::Conflict, format!("agent {path} does not run"))))?;
    Ok(web::Json(api::AgentStatsAnswer { success: true, stats: convert::agent_stats(usage) }))
}
