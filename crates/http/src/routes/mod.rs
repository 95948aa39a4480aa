//! The table of paths: each with its methods, each of those with its operation, by which it is guarded. One file
//! per area; what a path does not know answers 405 with `Allow`, what no path knows 404.

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod containers;
pub(crate) mod domains;
pub(crate) mod events;
pub(crate) mod health;
mod later;
pub(crate) mod mailbox;
pub(crate) mod notes;
pub(crate) mod settings;
pub(crate) mod tasks;
pub(crate) mod tokens;

use actix_web::{
    Handler, HttpResponse, Resource, Responder, Route,
    http::{Method, header},
    web,
};
use aito_api::ProblemKind;
use aito_domain::access::Operation;

use crate::{
    caller::{Guarded, Operations},
    openapi,
    problem::ApiError,
    sse, ws,
};

/// Registers every path.
pub(crate) fn configure(config: &mut web::ServiceConfig) {
    use Operation as O;
    config
        .service(path("/health", [get(O::Health, health::health)]))
        .service(path("/ready", [get(O::Ready, health::ready)]))
        .service(path("/health/full", [get(O::HealthFull, health::full)]))
        .service(path("/metrics", [get(O::Metrics, health::metrics)]))
        .service(path("/openapi.json", [get(O::ApiDescription, openapi::serve)]))
        .service(path("/docs", [get(O::ApiDescription, openapi::to_page)]))
        .service(path("/docs/{file:.*}", [get(O::ApiDescription, openapi::page)]))
        .service(path("/agents", [get(O::ListAgents, agents::list)]))
        .service(path("/agents/{type}", [get(O::ReadAgent, agents::detail)]))
        .service(path("/agents/{type}/start", [post(O::StartAgent, agents::start)]))
        .service(path("/agents/{type}/stop", [post(O::StopAgent, agents::stop)]))
        .service(path("/agents/{type}/restart", [post(O::RestartAgent, agents::restart)]))
        .service(path("/agents/{type}/heartbeat", [post(O::Heartbeat, agents::heartbeat)]))
        .service(path(
            "/agents/{type}/history",
            [get(O::ReadHistory, agents::history), post(O::AddHistory, agents::record)],
        ))
        .service(path("/agents/{type}/events", [get(O::ReadAgentEvents, events::of_agent)]))
        .service(path("/agents/{type}/health", [get(O::ReadAgentHealth, agents::health)]))
        .service(path("/agents/{type}/spec", [get(O::ReadAgentSpec, agents::spec)]))
        .service(path("/agents/{type}/logs", [get(O::ReadAgentLogs, agents::logs)]))
        .service(path("/agents/{type}/stats", [get(O::ReadAgentStats, agents::stats)]))
        .service(path("/agents/{type}/state", [get(O::ReadState, notes::list)]))
        .service(path("/agents/{type}/state/{key}", [put(O::WriteState, notes::put)]))
        .service(path("/agents/{type}/message", [post(O::SendMessage, mailbox::send)]))
        .service(path("/agents/{type}/mailbox", [get(O::ReadMailbox, mailbox::read)]))
        .service(path("/agents/{type}/mailbox/{id}/ack", [post(O::AcknowledgeMessage, mailbox::acknowledge)]))
        .service(path("/broadcast", [post(O::Broadcast, mailbox::broadcast)]))
        .service(path("/tasks", [get(O::ListTasks, tasks::list), post(O::CreateTask, tasks::create)]))
        .service(path("/tasks/claim", [post(O::ClaimTask, tasks::claim)]))
        .service(path("/tasks/{id}", [get(O::ReadTask, tasks::get), patch(O::EditTask, tasks::edit)]))
        .service(path("/tasks/{id}/complete", [post(O::EndTask, tasks::complete)]))
        .service(path("/tasks/{id}/fail", [post(O::EndTask, tasks::fail)]))
        .service(path("/tasks/{id}/cancel", [post(O::EndTask, tasks::cancel)]))
        .service(path(
            "/domains/whitelist",
            [get(O::ListDomains, domains::list), post(O::AddDomain, domains::add)],
        ))
        .service(path(
            "/domains/approval-requests",
            [get(O::ListDomainRequests, domains::requests), post(O::RequestDomain, domains::request)],
        ))
        .service(path(
            "/domains/approval-requests/{id}/approve",
            [post(O::DecideDomainRequest, domains::approve)],
        ))
        .service(path(
            "/domains/approval-requests/{id}/reject",
            [post(O::DecideDomainRequest, domains::reject)],
        ))
        .service(path("/domains/check", [get(O::CheckDomain, domains::check)]))
        .service(path("/domains/{domain}", [delete(O::RemoveDomain, domains::remove)]))
        .service(path("/settings", [get(O::ReadSettings, settings::list)]))
        .service(path("/settings/schema", [get(O::ReadSettings, settings::schema)]))
        .service(path("/settings/governance/{key}", [post(O::WriteGovernance, settings::write_governance)]))
        .service(path("/settings/{category}/{key}", [post(O::WriteSetting, settings::write)]))
        .service(path("/containers", [get(O::ListContainers, containers::list)]))
        .service(path("/events", [get(O::ListEvents, events::list)]))
        .service(path("/events/stream", [get(O::StreamEvents, sse::open)]))
        .service(path("/tokens", [get(O::ListTokens, tokens::list), post(O::CreateToken, tokens::create)]))
        .service(path("/tokens/{id}/rotate", [post(O::RotateToken, tokens::rotate)]))
        .service(path("/tokens/{id}", [delete(O::RevokeToken, tokens::revoke)]))
        .service(path("/audit", [get(O::ReadAudit, audit::list)]))
        .service(path("/ws", [get(O::OpenSocket, ws::open)]))
        .service(path("/ws/tickets", [post(O::CreateTicket, tokens::ticket)]));
    for (pattern, known) in later::PATHS {
        config.service(later::resource(pattern, known));
    }
    config.default_service(web::to(unknown));
}

/// A method of a path: what it does, and what serves it.
struct Known {
    method: Method,
    operation: Operation,
    route: Route,
}

fn known<F, Args>(method: Method, operation: Operation, handler: F) -> Known
where
    F: Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Known { method, operation, route: web::to(Guarded(handler)) }
}

macro_rules! methods {
    ($($name:ident = $method:ident),*) => {$(
        fn $name<F, Args>(operation: Operation, handler: F) -> Known
        where
            F: Handler<Args>,
            Args: actix_web::FromRequest + 'static,
            F::Output: Responder + 'static,
        {
            known(Method::$method, operation, handler)
        }
    )*};
}

methods!(get = GET, post = POST, put = PUT, patch = PATCH, delete = DELETE);

/// A path with what it knows; GET answers HEAD too (RFC 9110, section 9.1).
fn path(pattern: &str, known: impl IntoIterator<Item = Known>) -> Resource {
    let (mut allow, mut operations) = (Vec::new(), Vec::new());
    let mut resource = web::resource(pattern);
    for Known { method, operation, route } in known {
        allow.push(method.to_string());
        operations.push((method.clone(), operation));
        if method == Method::GET {
            allow.push(Method::HEAD.to_string());
            resource = resource.route(
                route.guard(actix_web::guard::Any(actix_web::guard::Get()).or(actix_web::guard::Head())),
            );
        } else {
            resource = resource.route(route.method(method));
        }
    }
    let allow = allow.join(", ");
    resource.app_data(Operations(operations)).default_service(web::to(move |method: Method| {
        let answer = other_method(&method, &allow);
        async move { answer }
    }))
}

/// What a path answers to a method that it does not know: what it does know.
fn other_method(method: &Method, allow: &str) -> Result<HttpResponse, ApiError> {
    if method == Method::OPTIONS {
        return Ok(HttpResponse::NoContent().insert_header((header::ALLOW, allow)).finish());
    }
    Err(ApiError::method_not_allowed(allow))
}

async fn unknown() -> Result<HttpResponse, ApiError> {
    Err(ApiError::new(ProblemKind::NotFound, "there is no such path"))
}
