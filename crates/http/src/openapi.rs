//! The API's description, OpenAPI 3.1, made from the handlers and wire types, and its page.
//!
//! Invariants: what holds for every operation (its credential, what the guard answers, the headers of every answer)
//! is added here and not repeated beside the handlers; the page is part of the program and asks no other server.

mod examples;

use std::sync::{Arc, OnceLock};

use actix_web::{HttpResponse, http::header, web};
use aito_api::{FieldFault, Problem, ProblemKind, problem};
use serde_json::Value;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, ContentBuilder, Header, HeaderBuilder, Object, ObjectBuilder, Ref, RefOr, Response,
        ResponseBuilder, SchemaFormat, Type,
        path::{Operation, Parameter, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::SwaggerFile;

use crate::{
    problem::ApiError,
    routes::{agents, audit, containers, domains, events, health, mailbox, notes, settings, tasks, tokens},
    sse, ws,
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
        notes::list,
        notes::put,
        mailbox::read,
        mailbox::acknowledge,
        mailbox::send,
        mailbox::broadcast,
        containers::list,
        tasks::list,
        tasks::create,
        tasks::claim,
        tasks::get,
        tasks::edit,
        tasks::complete,
        tasks::fail,
        tasks::cancel,
        domains::list,
        domains::add,
        domains::requests,
        domains::request,
        domains::approve,
        domains::reject,
        domains::check,
        domains::remove,
        settings::list,
        settings::schema,
        settings::write_governance,
        settings::write,
        events::list,
        events::of_agent,
        tokens::list,
        tokens::create,
        tokens::rotate,
        tokens::revoke,
        tokens::ticket,
        audit::list,
        sse::open,
        ws::open,
    ),
    components(schemas(
        aito_api::Frame,
        aito_api::AgentStatusPayload,
        aito_api::ResetPayload,
        Problem
    )),
    tags(
        (name = "health", description = "Whether the server lives, is ready, does well"),
        (name = "agents", description = "Agents: what is wanted of them, how they do, what they say"),
        (name = "events", description = "What happened, and what happens"),
        (name = "tasks", description = "What agents are to do"),
        (name = "messages", description = "What agents are told"),
        (name = "domains", description = "Where agents may go, as advice"),
        (name = "settings", description = "What can be changed while everything runs"),
        (name = "tokens", description = "Operators' credentials"),
        (name = "audit", description = "Who did what"),
        (name = "openapi", description = "This description"),
    ),
    modifiers(&Common)
)]
struct Api;

/// The operations that want no credential (HTTP contract, Roles).
const PUBLIC: [&str; 3] = ["/health", "/ready", "/openapi.json"];
/// By which a creating call can be repeated.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// By which a call is bound to a state.
const IF_MATCH: &str = "If-Match";

/// How operations refuse, unless their handlers say more of it.
const REFUSALS: [(ProblemKind, &str); 14] = [
    (ProblemKind::NotJson, "The body is not JSON, or did not arrive"),
    (ProblemKind::Unauthorized, "No credential, a wrong one, or one of a past incarnation"),
    (
        ProblemKind::Forbidden,
        "The caller may not, or Host or Origin are not this server's; `scope` names what is missing",
    ),
    (ProblemKind::NotFound, "There is nothing of this name"),
    (ProblemKind::Conflict, "The key was used for something else"),
    (ProblemKind::PreconditionFailed, "It is in another state than `If-Match` says"),
    (ProblemKind::PayloadTooLarge, "The body is too large"),
    (ProblemKind::UriTooLong, "Path and query are too long"),
    (ProblemKind::UnsupportedMediaType, "The body is not sent as JSON"),
    (ProblemKind::Invalid, "Values are wrong: `errors` names all of them"),
    (ProblemKind::TooManyRequests, "Too many requests, or more than may be stored a day"),
    (ProblemKind::HeadersTooLarge, "The headers are too large"),
    (ProblemKind::Internal, "The server failed; its log says why"),
    (ProblemKind::Unavailable, "Something that is needed is away; `Retry-After` says when to come back"),
];

/// A header of answers.
struct Told {
    name: &'static str,
    is_text: bool,
    description: &'static str,
    /// Of answers with these statuses; empty: of every answer.
    statuses: &'static [&'static str],
}

impl Told {
    fn has(&self, status: &str) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&status)
    }

    fn build(&self) -> Header {
        let schema = Object::with_type(if self.is_text { Type::String } else { Type::Integer });
        HeaderBuilder::new().schema(Some(schema)).description(Some(self.description)).build()
    }
}

/// The headers that are not a handler's.
const HEADERS: [Told; 6] = [
    Told {
        name: "X-Request-Id",
        is_text: true,
        description: "Names the request, in the server's log too; the caller's own if it sent a fit one",
        statuses: &[],
    },
    Told {
        name: "RateLimit-Limit",
        is_text: false,
        description: "Requests that can be made at once after a pause",
        statuses: &[],
    },
    Told {
        name: "RateLimit-Remaining",
        is_text: false,
        description: "How many of them are left",
        statuses: &[],
    },
    Told {
        name: "RateLimit-Reset",
        is_text: false,
        description: "Seconds until all are there again",
        statuses: &[],
    },
    Told {
        name: "Retry-After",
        is_text: false,
        description: "Seconds after which to come back",
        statuses: &["429", "503"],
    },
    Told { name: "WWW-Authenticate", is_text: true, description: "`Bearer`", statuses: &["401"] },
];

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
        for header in HEADERS {
            components.headers.insert(header.name.to_owned(), RefOr::T(header.build()));
        }
        for (kind, description) in REFUSALS {
            components.responses.insert(kind.slug().to_owned(), RefOr::T(refusal(kind, description)));
        }
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
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            narrow(parameter);
        }
    }
    for kind in REFUSALS.map(|(kind, _)| kind) {
        if !can_refuse(operation, kind) {
            continue;
        }
        let answer = || RefOr::Ref(Ref::new(format!("#/components/responses/{}", kind.slug())));
        operation.responses.responses.entry(kind.status().to_string()).or_insert_with(answer);
    }
    let name = operation.operation_id.clone().unwrap_or_default();
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        exemplify(body.content.values_mut(), &examples::body(&name));
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        tell_headers(status, response);
        for (media_type, content) in &mut response.content {
            let example = match media_type.as_str() {
                problem::MEDIA_TYPE => {
                    let kind = ProblemKind::ALL.into_iter().find(|kind| kind.status().to_string() == *status);
                    kind.and_then(problem_example)
                }
                "text/event-stream" => Some(examples::streamed(&name)),
                _ if status.starts_with('2') => examples::answer(&name),
                _ => None,
            };
            exemplify([content], &example);
        }
    }
}

/// What parameters of many operations are wherever they stand.
fn narrow(parameter: &mut Parameter) {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let schema = match parameter.name.as_str() {
        "type" if parameter.parameter_in == ParameterIn::Path => text
            .pattern(Some("^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$"))
            .min_length(Some(1))
            .max_length(Some(32))
            .examples(["ceo"]),
        "id" if parameter.parameter_in == ParameterIn::Path => text
            .format(Some(SchemaFormat::Custom("uuid".to_owned())))
            .examples(["019ab1c2-7d3e-7f40-8a51-62c3d4e5f607"]),
        IDEMPOTENCY_KEY => text
            .pattern(Some(r"^[\x21-\x7e]+$"))
            .min_length(Some(1))
            .max_length(Some(255))
            .examples(["2025-12-20-campaign"]),
        IF_MATCH => text.examples(["\"1\""]),
        _ => return,
    };
    parameter.schema = Some(schema.into());
}

/// Whether an operation may answer so, whatever its handler says, by what it takes.
fn can_refuse(operation: &Operation, kind: ProblemKind) -> bool {
    let takes = |wanted: &dyn Fn(&Parameter) -> bool| {
        let all = operation.parameters.iter().flatten();
        all.filter_map(|one| if let RefOr::T(one) = one { Some(one) } else { None }).any(wanted)
    };
    let has_body = operation.request_body.is_some();
    let has_key = || takes(&|one| one.name == IDEMPOTENCY_KEY);
    match kind {
        ProblemKind::NotJson | ProblemKind::UnsupportedMediaType => has_body,
        ProblemKind::Invalid => has_body || has_key() || takes(&|one| one.parameter_in == ParameterIn::Query),
        ProblemKind::NotFound => takes(&|one| one.parameter_in == ParameterIn::Path),
        ProblemKind::Conflict => has_key(),
        ProblemKind::PreconditionFailed => takes(&|one| one.name == IF_MATCH),
        _ => true,
    }
}

fn refusal(kind: ProblemKind, description: &str) -> Response {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .example(problem_example(kind))
        .build();
    let mut response =
        ResponseBuilder::new().description(description).content(problem::MEDIA_TYPE, content).build();
    tell_headers(&kind.status().to_string(), &mut response);
    response
}

/// What a problem looks like.
fn problem_example(kind: ProblemKind) -> Option<Value> {
    let problem = match kind {
        ProblemKind::Invalid => {
            Problem::invalid(vec![FieldFault::new("?limit", "must be a whole number from 1 to 500")])
        }
        ProblemKind::Forbidden => {
            Problem::new(kind, "token:dashboard may not: it lacks operator").with("scope", "operator")
        }
        _ => Problem::new(kind, kind.title().to_lowercase()),
    };
    serde_json::to_value(problem.at("/agents/ceo")).ok()
}

fn exemplify<'a>(contents: impl IntoIterator<Item = &'a mut RefOr<Content>>, example: &Option<Value>) {
    for content in contents {
        if let RefOr::T(content) = content {
            content.example.clone_from(example);
        }
    }
}

/// The headers of every answer, and those that a status has.
fn tell_headers(status: &str, response: &mut Response) {
    for header in HEADERS.iter().filter(|header| header.has(status)) {
        let there = RefOr::Ref(Ref::new(format!("#/components/headers/{}", header.name)));
        response.headers.entry(header.name.to_owned()).or_insert(there);
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

fn page_file(path: &str) -> Result<Option<SwaggerFile<'static>>, Box<dyn std::error::Error>> {
    // Nobody else is asked whether the description is a good one.
    let config = utoipa_swagger_ui::Config::from("/openapi.json").validator_url("none");
    utoipa_swagger_ui::serve(path, Arc::new(config))
}

/// A file of the page.
pub(crate) async fn page(path: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let file = page_file(&path)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every operation: `GET /path`, and what is said of it, with the answers that it shares with others.
    fn operations() -> Vec<(String, Value)> {
        let document: Value = serde_json::from_str(&document().unwrap()).unwrap();
        let mut all = Vec::new();
        let there = |answer: &Value| match answer["$ref"].as_str() {
            Some(place) => document.pointer(place.trim_start_matches('#')).unwrap().clone(),
            None => answer.clone(),
        };
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let mut operation = operation.clone();
                for answer in operation["responses"].as_object_mut().unwrap().values_mut() {
                    *answer = there(answer);
                }
                all.push((format!("{} {path}", method.to_uppercase()), operation));
            }
        }
        assert!(all.len() >= 27, "{}", all.len());
        all
    }

    fn is_public(name: &str) -> bool {
        PUBLIC.iter().any(|path| name == format!("GET {path}"))
    }

    /// The media types of contents with whether each has an example.
    fn exemplified(content: &Value) -> Vec<(&str, bool)> {
        let all = content.as_object().into_iter().flatten();
        all.map(|(media_type, content)| (media_type.as_str(), !content["example"].is_null())).collect()
    }

    #[test]
    fn every_operation_says_what_it_is() {
        let mut names = BTreeSet::new();
        for (name, operation) in operations() {
            for text in ["summary", "description", "operationId"] {
                assert!(operation[text].as_str().is_some_and(|text| !text.is_empty()), "{name}: {text}");
            }
            assert!(names.insert(operation["operationId"].to_string()), "{name}: another one is called so");
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name}");
        }
    }

    #[test]
    fn every_operation_wants_a_credential_or_is_public() {
        for (name, operation) in operations() {
            let wanted = if is_public(&name) { Value::Null } else { serde_json::json!([{"bearer": []}]) };
            assert_eq!(operation["security"], wanted, "{name}");
        }
        let public = operations().into_iter().filter(|(name, _)| is_public(name)).count();
        assert_eq!(public, PUBLIC.len());
    }

    #[test]
    fn every_operation_says_what_the_guard_answers() {
        for (name, operation) in operations() {
            for status in ["401", "403", "413", "414", "429", "431", "500", "503"] {
                let answer = &operation["responses"][status];
                assert!(answer["description"].is_string(), "{name}: {status}");
                assert!(answer["headers"]["X-Request-Id"].is_object(), "{name}: {status}");
            }
            assert!(operation["responses"]["429"]["headers"]["Retry-After"].is_object(), "{name}");
            let answers = &operation["responses"];
            assert_eq!(name.contains('{'), answers["404"].is_object(), "{name}: 404");
            let has_body = operation["requestBody"].is_object();
            for status in ["400", "415"] {
                assert_eq!(has_body, answers[status].is_object(), "{name}: {status}");
            }
            assert!(!has_body || answers["422"].is_object(), "{name}: 422");
        }
    }

    #[test]
    fn every_body_and_every_answer_is_shown_by_an_example() {
        for (name, operation) in operations() {
            for (media_type, shown) in exemplified(&operation["requestBody"]["content"]) {
                assert!(shown, "{name}: body, {media_type}");
            }
            let mut successes = 0;
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let success = status.starts_with('2') || status == "101";
                successes += usize::from(success);
                for (media_type, shown) in exemplified(&answer["content"]) {
                    let other = !success && media_type != problem::MEDIA_TYPE;
                    assert!(shown || other, "{name}: {status}, {media_type}");
                }
            }
            // One, or one more for what was there already.
            assert!((1..=2).contains(&successes), "{name}");
        }
    }

    #[test]
    fn every_parameter_is_told_and_bounded() {
        for (name, operation) in operations() {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let (place, schema) = (format!("{name}: {}", parameter["name"]), &parameter["schema"]);
                assert!(parameter["description"].is_string(), "{place}");
                if parameter["in"] == "path" {
                    assert!(schema["pattern"].is_string() || schema["format"] == "uuid", "{place}");
                }
                if schema["type"] == "integer" {
                    assert!(schema["minimum"].is_number() && schema["maximum"].is_number(), "{place}");
                }
            }
        }
    }

    #[test]
    fn the_page_is_made_of_its_own_files_and_has_nothing_to_run_in_itself() {
        let text = |path: &str| {
            let file = page_file(path).unwrap().unwrap();
            // As it is sent, without a content encoding.
            assert!(!file.gzpipped, "{path}");
            String::from_utf8(file.bytes.into_owned()).unwrap()
        };
        let index = text("");
        let mut files = 0;
        for name in ["src=\"", "href=\""] {
            for rest in index.split(name).skip(1) {
                let file = rest.split('"').next().unwrap().trim_start_matches("./");
                assert!(page_file(file).unwrap().is_some(), "{file}");
                files += 1;
            }
        }
        assert!(files >= 5, "{index}");
        // The policy that it is sent with lets no script run that stands in the page.
        for script in index.split("<script").skip(1) {
            let (attributes, rest) = script.split_once('>').unwrap();
            let content = rest.split("</script>").next().unwrap();
            assert!(attributes.contains("src=") && content.trim().is_empty(), "{script}");
        }
        let start = text("swagger-initializer.js");
        assert!(start.contains(r#""url": "/openapi.json""#), "{start}");
        assert!(start.contains(r#""validatorUrl": "none""#), "{start}");
        assert!(!start.contains("://"), "{start}");
        assert!(page_file("../Cargo.toml").unwrap().is_none());
    }

    #[test]
    fn everything_that_is_referred_to_is_there() {
        let text = document().unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        for rest in text.split("\"#/").skip(1) {
            let pointer = format!("/{}", rest.split('"').next().unwrap());
            assert!(document.pointer(&pointer).is_some(), "{pointer}");
        }
    }
}
