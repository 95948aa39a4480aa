//! The table of paths. One file per area; what a path does not know answers 405 with `Allow`, what no path
//! knows 404.

pub(crate) mod agents;
pub(crate) mod containers;
pub(crate) mod events;
pub(crate) mod health;
mod later;

use actix_web::{HttpResponse, Resource, Route, http::Method, web};
use aito_api::ProblemKind;

use crate::{openapi, problem::ApiError, ws};

/// Registers every path.
pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(path("/health", [get(health::health)]))
        .service(path("/ready", [get(health::ready)]))
        .service(path("/health/full", [get(health::full)]))
        .service(path("/metrics", [get(health::metrics)]))
        .service(path("/openapi.json", [get(openapi::serve)]))
        .service(path("/agents", [get(agents::list)]))
        .service(path("/agents/{type}", [get(agents::detail)]))
        .service(path("/agents/{type}/start", [post(agents::start)]))
        .service(path("/agents/{type}/stop", [post(agents::stop)]))
        .service(path("/agents/{type}/restart", [post(agents::restart)]))
        .service(path("/agents/{type}/heartbeat", [post(agents::heartbeat)]))
        .service(path("/agents/{type}/history", [get(agents::history), post(agents::record)]))
        .service(path("/agents/{type}/events", [get(events::of_agent)]))
        .service(path("/agents/{type}/health", [get(agents::health)]))
        .service(path("/agents/{type}/spec", [get(agents::spec)]))
        .service(path("/agents/{type}/logs", [get(agents::logs)]))
        .service(path("/agents/{type}/stats", [get(agents::stats)]))
        .service(path("/containers", [get(containers::list)]))
        .service(path("/events", [get(events::list)]))
        .service(path("/ws", [get(ws::open)]));
    for (pattern, allow) in later::PATHS {
        config.service(later::resource(pattern, allow));
    }
    config.default_service(web::to(unknown));
}

type Known = (Method, Route);

fn get<F, Args>(handler: F) -> Known
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    (Method::GET, web::to(handler))
}

fn post<F, Args>(handler: F) -> Known
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    (Method::POST, web::to(handler))
}

/// A path with what it knows; GET answers HEAD too (RFC 9110, section 9.1).
fn path<const N: usize>(pattern: &str, known: [Known; N]) -> Resource {
    let mut allow = Vec::new();
    let mut resource = web::resource(pattern);
    for (method, route) in known {
        allow.push(method.to_string());
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
    resource.default_service(web::to(move || {
        let error = ApiError::method_not_allowed(&allow);
        async move { Err::<HttpResponse, _>(error) }
    }))
}

async fn unknown() -> Result<HttpResponse, ApiError> {
    Err(ApiError::new(ProblemKind::NotFound, "there is no such path"))
}
