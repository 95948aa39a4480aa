//! Who is calling, and from where: decided once per request, before any handler.
//!
//! Invariants: an agent's credential counts on every listener and only for the present incarnation; a caller
//! without one is let in only where the listener is open, which is loopback only; Host is always checked on
//! TCP (a page of another site cannot reach a loopback server through a name of its own), Origin on every
//! WebSocket and on every unsafe method.

use std::{net::SocketAddr, rc::Rc};

use actix_web::{
    HttpMessage as _, HttpRequest,
    body::BoxBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::{Method, header},
    middleware::Next,
    web,
};
use aito_api::ProblemKind;
use aito_domain::agent::Agent;
use aito_domain::event::Actor;
use futures_util::future::{Ready, ready};
use tracing::Instrument as _;

use crate::{problem::ApiError, state::AppState};

/// What connection a request came over; put into the connection's data when it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// TCP, accepted at this address.
    Tcp(SocketAddr),
    /// A Unix socket: for agents.
    Unix,
}

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Nobody in particular, on an open listener.
    Anonymous,
    /// The present incarnation of an agent, as stored a moment ago.
    Agent(Rc<Agent>),
}

impl Caller {
    pub(crate) fn actor(&self) -> Actor {
        match self {
            Self::Anonymous => Actor::Unauthenticated,
            Self::Agent(agent) => Actor::Agent(agent.agent_type.clone()),
        }
    }
}

/// A caller that acts for people: anybody but an agent.
pub(crate) struct Operator(pub(crate) Caller);

impl actix_web::FromRequest for Operator {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match caller(req) {
            Ok(Caller::Agent(agent)) => Err(ApiError::new(
                ProblemKind::Forbidden,
                format!("agent {} may not: it lacks the role operator or viewer", agent.agent_type),
            )),
            Ok(caller) => Ok(Self(caller)),
            Err(error) => Err(error),
        })
    }
}

/// Any caller that was let in.
impl actix_web::FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(caller(req))
    }
}

fn caller(req: &HttpRequest) -> Result<Caller, ApiError> {
    req.extensions().get::<Caller>().cloned().ok_or_else(|| {
        ApiError::new(ProblemKind::Unauthorized, "a credential is needed: Authorization: Bearer …")
    })
}

/// The middleware around everything: request id, span, checks, metrics.
pub(crate) async fn around(
    state: web::Data<AppState>,
    req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = state.clock.monotonic();
    let id = request_id(&req, &state);
    let method = req.method().clone();
    let span = tracing::info_span!("request", %id, %method, path = req.path());
    let answered = async {
        match admit(&state, &req).await {
            Ok(caller) => {
                if let Some(caller) = caller {
                    req.extensions_mut().insert(caller);
                }
                // What handlers and extractors refuse is an answer already; an error here is the framework's own.
                next.call(req).await
            }
            Err(error) => {
                let response = error.answer(req.path());
                Ok(req.into_response(response))
            }
        }
    };
    let mut response = answered.instrument(span).await?;
    let failed = response.response().error().and_then(|error| error.as_error::<ApiError>());
    if let Some(answer) = failed.map(|error| error.answer(response.request().path())) {
        response = response.into_response(answer);
    }
    if let Ok(value) = header::HeaderValue::from_str(&id) {
        response.headers_mut().insert(header::HeaderName::from_static("x-request-id"), value);
    }
    let route = response.request().match_pattern().unwrap_or_else(|| "unknown".to_owned());
    let method = if is_usual(&method) { method.as_str() } else { "other" };
    let took = state.clock.monotonic().saturating_sub(started);
    state.metrics.request(method, &route, response.status().as_u16(), took);
    Ok(response)
}

fn is_usual(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method)
}

/// The caller's own id when it is fit to be logged and sent back, else a new one.
fn request_id(req: &ServiceRequest, state: &AppState) -> String {
    let given = req.headers().get("x-request-id").and_then(|value| value.to_str().ok());
    given
        .filter(|id| {
            (1..=128).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        })
        .map_or_else(|| state.ids.uuid().to_string(), ToOwned::to_owned)
}

/// Lets a request in; `None`: nobody in particular where nobody may do more than look at what is public.
async fn admit(state: &AppState, req: &ServiceRequest) -> Result<Option<Caller>, ApiError> {
    // Without connection data (which only a test harness leaves out) a caller counts as one on a Unix socket.
    let over = req.conn_data::<Over>().copied().unwrap_or(Over::Unix);
    if let Over::Tcp(local) = over {
        check_host(req, local)?;
        check_origin(req)?;
    }
    if let Some(value) = req.headers().get(header::AUTHORIZATION) {
        return agent(state, value).await.map(Some);
    }
    match (over, state.access) {
        (Over::Tcp(local), crate::Access::Open) if local.ip().is_loopback() => Ok(Some(Caller::Anonymous)),
        _ => Ok(None),
    }
}

async fn agent(state: &AppState, value: &header::HeaderValue) -> Result<Caller, ApiError> {
    let refused = || ApiError::new(ProblemKind::Unauthorized, "the credential is not valid");
    let text = value.to_str().map_err(|_| refused())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(refused)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refused());
    }
    let claim = state.credentials.verify(token.trim()).ok_or_else(refused)?;
    let agent = state.fleet.agent_by_id(claim.agent_id).await?.ok_or_else(refused)?;
    agent
        .present(claim.incarnation)
        .map_err(|past| ApiError::new(ProblemKind::PastIncarnation, past.to_string()))?;
    Ok(Caller::Agent(Rc::new(agent)))
}

fn check_host(req: &ServiceRequest, local: SocketAddr) -> Result<(), ApiError> {
    let host = req.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = host_name(host);
    let known = is_loopback(name) || name.parse().is_ok_and(|ip: std::net::IpAddr| ip == local.ip());
    if known {
        Ok(())
    } else {
        Err(ApiError::new(ProblemKind::Forbidden, "the Host header names another server"))
    }
}

fn check_origin(req: &ServiceRequest) -> Result<(), ApiError> {
    // By the header that every WebSocket needs and not by its path, which can be written in several ways.
    let upgrades = req.headers().contains_key(header::UPGRADE);
    let safe = req.method().is_safe() && req.path() != "/ws" && !upgrades;
    let Some(origin) = req.headers().get(header::ORIGIN).filter(|_| !safe) else { return Ok(()) };
    let host = req.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let same = origin
        .to_str()
        .ok()
        .and_then(|o| o.split_once("://"))
        .is_some_and(|(_, authority)| authority == host);
    if same { Ok(()) } else { Err(ApiError::new(ProblemKind::Forbidden, "the Origin is not this server")) }
}

/// `host[:port]` without the port, `[::1]` without its brackets; empty when it is neither.
fn host_name(host: &str) -> &str {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or_default(),
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    let digits = port.strip_prefix(':').unwrap_or_default();
    let plain = port.is_empty() || (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    if plain { name } else { "" }
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_web_socket_is_one_however_its_path_is_written() {
        for path in ["/ws", "/%77s", "/w%73", "/ws?types=event"] {
            let from = |origin: &str| {
                let request = TestRequest::with_uri(path)
                    .insert_header((header::HOST, "127.0.0.1:8080"))
                    .insert_header((header::UPGRADE, "websocket"))
                    .insert_header((header::ORIGIN, origin));
                check_origin(&request.to_srv_request()).is_ok()
            };
            assert!(!from("http://evil.example"), "{path}");
            assert!(from("http://127.0.0.1:8080"), "{path}");
        }
    }

    #[actix_web::test]
    async fn paths_are_matched_decoded() {
        // Why the check above cannot go by the path alone.
        let app = actix_web::App::new().route("/ws", web::get().to(async || "reached"));
        let app = actix_web::test::init_service(app).await;
        let request = TestRequest::with_uri("/%77s").to_request();
        assert_eq!(actix_web::test::call_service(&app, request).await.status(), 200);
    }

    #[test]
    fn hosts_lose_port_and_brackets() {
        for (host, name) in [
            ("localhost:8080", "localhost"),
            ("[::1]:80", "::1"),
            ("127.0.0.1", "127.0.0.1"),
            ("a.b", "a.b"),
            ("", ""),
            ("127.0.0.1:80@evil.example", ""),
            ("localhost:", ""),
            ("[::1", ""),
        ] {
            assert_eq!(host_name(host), name);
        }
        for good in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "evil.example"] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
