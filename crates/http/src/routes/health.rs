//! Whether the server lives, is ready, does well; and what it counts.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use aito_api as api;
use aito_application::health::Check;
use aito_domain::agent::Desired;

use crate::{convert, extract::Query, problem::ApiError, state::AppState};

type State = web::Data<AppState>;

/// Whether the process answers.
///
/// It touches nothing else: who wants to know whether it can work asks `/ready`.
#[utoipa::path(
    get, path = "/health", tag = "health", operation_id = "getHealth",
    responses((status = 200, description = "It lives", body = api::Health))
)]
pub(crate) async fn health(state: State) -> web::Json<api::Health> {
    web::Json(api::Health::ok(state.clock.now().into()))
}

/// Whether database and bus answer, 2 s each at the most.
///
/// With `?scope=core` the database only, which is what load balancers want to know.
#[utoipa::path(
    get, path = "/ready", tag = "health", operation_id = "getReady",
    params(("scope" = Option<String>, Query, description = "`core`: the database only", pattern = "^core$", example = "core")),
    responses(
        (status = 200, description = "Ready", body = api::Ready),
        (status = 503, description = "Something does not answer", body = api::Ready),
    )
)]
pub(crate) async fn ready(state: State, req: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::of(&req)?;
    let core = query.parsed("scope", "core", |text| (text == "core").then_some(())).is_some();
    query.done()?;
    let checks = if core {
        api::ReadyChecks { database: check(state.health.database().await), redis: None }
    } else {
        let (database, bus) = tokio::join!(state.health.database(), state.health.bus());
        api::ReadyChecks { database: check(database), redis: Some(check(bus)) }
    };
    let ready = api::Ready::new(checks);
    Ok(HttpResponse::build(status_for(ready.ready)).json(ready))
}

/// How everything does.
///
/// `degraded`: an agent that should run cannot be reached, or the runtime cannot; `unhealthy`: the database or the bus is down.
#[utoipa::path(
    get, path = "/health/full", tag = "health", operation_id = "getHealthFull",
    responses(
        (status = 200, description = "Healthy or degraded", body = api::HealthFull),
        (status = 503, description = "Unhealthy: the database or the bus is down", content((api::HealthFull = "application/json"), (api::Problem = "application/problem+json"))),
    )
)]
pub(crate) async fn full(state: State) -> Result<HttpResponse, ApiError> {
    let (checks, views) = tokio::join!(state.health.all(), state.fleet.views());
    // Without the database there are no agents to show, and the answer says that it is down.
    let views = views.unwrap_or_default();
    let mut agents = BTreeMap::new();
    let mut all_reachable = true;
    for view in &views {
        let health = convert::health(view.health);
        let lost = matches!(health, api::HealthState::Unreachable | api::HealthState::CrashLoop);
        all_reachable &= !(view.agent.desired == Desired::Running && lost);
        let last_heartbeat = view.heartbeat.as_ref().map(|row| row.at.into());
        let entry =
            api::AgentComponent { status: convert::status(view.agent.status()), last_heartbeat, health };
        agents.insert(view.agent.agent_type.to_string(), entry);
    }
    let up = checks.database.ok && checks.bus.ok;
    let runtime = checks.runtime.ok && state.fleet.may_supervise();
    let status = match (up, runtime && all_reachable) {
        (false, _) => api::SystemStatus::Unhealthy,
        (true, false) => api::SystemStatus::Degraded,
        (true, true) => api::SystemStatus::Healthy,
    };
    let components = api::Components {
        database: component(checks.database),
        redis: component(checks.bus),
        runtime: component(Check { ok: runtime, ..checks.runtime }),
        agents,
    };
    let full = api::HealthFull { status, uptime: state.health.uptime().as_secs(), components };
    Ok(HttpResponse::build(status_for(up)).json(full))
}

/// What this process counts, as OpenMetrics text.
///
/// For Prometheus and what reads like it; the numbers begin anew when the server does.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "getMetrics",
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(state: State) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(state.metrics.render(state.health.uptime()))
}

fn status_for(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn check(check: Check) -> api::Check {
    if check.ok { api::Check::Ok } else { api::Check::Error }
}

fn component(check: Check) -> api::Component {
    let status = if check.ok { api::ComponentStatus::Healthy } else { api::ComponentStatus::Unhealthy };
    api::Component { status, latency: u64::try_from(check.latency.as_millis()).unwrap_or(u64::MAX) }
}
