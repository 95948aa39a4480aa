//! The API's description, OpenAPI 3.1, made from the handlers and wire types, and its page.
//!
//! Invariants: what holds for every operation (its credential, what the guard answers, the headers of every answer)
//! is added here and not repeated beside the handlers; the page is part of the program and asks no other server.

use std::sync::{Arc, OnceLock};

use actix_web::{HttpResponse, http::header, web};
use aito_api::{ProblemKind, problem};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, HeaderBuilder, Object, Ref, RefOr, Response, ResponseBuilder, Type,
        path::Operation,
        schema::SchemaType,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::{
    problem::ApiError,
    routes::{agents, audit, containers, events, health, tokens},
    ws,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "aito",
        description = "Control plane for a company of autonomous AI agents.\n\nEvery call but those of `health` and `openapi` wants a credential: `Authorization: Bearer …` with an operator's token, a JSON Web Token where that is configured, or an agent's own credential. Errors are problem documents (RFC 9457).",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        contact()
    ),
    paths(
        health::health,
        health::ready,
        health::full,
        health::metrics,
        serve,
        agents::list,
        agents::detail,
        agents::health,
        agents::spec,
        agents::start,
        agents::stop,
        agents::restart,
        agents::heartbeat,
        agents::history,
        agents::record,
        agents::logs,
        agents::stats,
        containers::list,
        events::list,
        events::of_agent,
        tokens::list,
        tokens::create,
        tokens::rotate,
        tokens::revoke,
        tokens::ticket,
        audit::list,
        ws::open,
    ),
    components(schemas(
        aito_api::Frame,
        aito_api::AgentStatusPayload,
        aito_api::ResetPayload,
        aito_api::Problem
    )),
    tags(
        (name = "health", description = "Whether the server lives, is ready, does well"),
        (name = "agents", description = "Agents: what is wanted of them, how they do, what they say"),
        (name = "events", description = "What happened, and what happens"),
        (name = "tokens", description = "Operators' credentials"),
        (name = "audit", description = "Who did what"),
        (name = "openapi", description = "This description"),
    ),
    modifiers(&Common)
)]
struct Api;

/// The operations that want no credential (HTTP contract, Roles).
const PUBLIC: [&str; 3] = ["/health", "/ready", "/openapi.json"];

/// What holds for every operation.
struct Common;

impl Modify for Common {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An operator's token, an agent's credential, or a JSON Web Token"))
            .build();
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        for (path, item) in &mut api.paths.paths {
            let all = [
                &mut item.get,
                &mut item.put,
                &mut item.post,
                &mut item.delete,
                &mut item.patch,
                &mut item.head,
            ];
            for operation in all.into_iter().flatten() {
                complete(path, operation);
            }
        }
    }
}

fn complete(path: &str, operation: &mut Operation) {
    let public = PUBLIC.contains(&path);
    operation.security = (!public).then(|| vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    let has_query_or_body =
        operation.request_body.is_some() || operation.parameters.as_ref().is_some_and(|all| !all.is_empty());
    let mut answers = vec![
        (ProblemKind::UriTooLong, "Path and query are too long"),
        (ProblemKind::TooManyRequests, "Too many requests, or more than may be stored a day"),
        (ProblemKind::HeadersTooLarge, "The headers are too large"),
        (
            ProblemKind::Forbidden,
            "The caller may not, or Host or Origin are not this server's; `scope` names what is missing",
        ),
        (ProblemKind::Unauthorized, "No credential, a wrong one, or one of a past incarnation"),
        (ProblemKind::PayloadTooLarge, "The body is too large"),
        (ProblemKind::Internal, "The server failed; its log says why"),
        (ProblemKind::Unavailable, "Something that is needed is away; `Retry-After` says when to come back"),
    ];
    if has_query_or_body {
        answers.push((ProblemKind::Invalid, "Values are wrong: `errors` names all of them"));
    }
    if operation.request_body.is_some() {
        answers.push((ProblemKind::NotJson, "The body is not JSON, or did not arrive"));
        answers.push((ProblemKind::UnsupportedMediaType, "The body is not sent as JSON"));
    }
    for (kind, description) in answers {
        let status = kind.status().to_string();
        operation.responses.responses.entry(status).or_insert_with(|| RefOr::T(refusal(description)));
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            tell_headers(status, response);
        }
    }
}

fn refusal(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content(problem::MEDIA_TYPE, content).build()
}

/// The headers of every answer, and those that a status has.
fn tell_headers(status: &str, response: &mut Response) {
    let mut tell = |name: &str, kind: Type, description: &str| {
        let schema = Object::with_type(SchemaType::new(kind));
        let header = HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build();
        response.headers.entry(name.to_owned()).or_insert(RefOr::T(header));
    };
    tell(
        "X-Request-Id",
        Type::String,
        "Names the request, in the server's log too; the caller's own if it sent a fit one",
    );
    tell("RateLimit-Limit", Type::Integer, "Requests that can be made at once after a pause");
    tell("RateLimit-Remaining", Type::Integer, "How many of them are left");
    tell("RateLimit-Reset", Type::Integer, "Seconds until all are there again");
    if matches!(status, "429" | "503") {
        tell("Retry-After", Type::Integer, "Seconds after which to come back");
    }
    if status == "401" {
        tell("WWW-Authenticate", Type::String, "`Bearer`");
    }
}

/// The document as JSON text.
///
/// # Errors
/// When it cannot be written, which is a defect.
pub fn document() -> Result<String, serde_json::Error> {
    Api::openapi().to_pretty_json().map(|text| text + "\n")
}

/// This description, as JSON.
///
/// It is made from the code that serves the interface; `/docs/` shows it as a page.
#[utoipa::path(
    get, path = "/openapi.json", tag = "openapi", operation_id = "getDescription",
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"))
)]
pub(crate) async fn serve() -> Result<HttpResponse, ApiError> {
    // Made once: it is the same for everybody.
    static DOCUMENT: OnceLock<Result<String, String>> = OnceLock::new();
    let text = DOCUMENT.get_or_init(|| document().map_err(|why| why.to_string()));
    let text = text.as_ref().map_err(|why| aito_application::Error::Internal(why.clone().into()))?;
    Ok(HttpResponse::Ok().content_type("application/json").body(text.as_str()))
}

/// To the page's own folder, below which its files lie.
pub(crate) async fn to_page() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish()
}

/// A file of the page.
pub(crate) async fn page(path: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let config = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json"));
    let file = utoipa_swagger_ui::serve(&path, config)
        .map_err(|why| aito_application::Error::Internal(why.to_string().into()))?
        .ok_or_else(|| ApiError::new(ProblemKind::NotFound, "there is no such file"))?;
    Ok(HttpResponse::Ok()
        .content_type(file.content_type)
        // Its own files only; its styles stand in its elements, its pictures in its styles.
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
             connect-src 'self'; frame-ancestors 'none'",
        ))
        .body(file.bytes.into_owned()))
}
