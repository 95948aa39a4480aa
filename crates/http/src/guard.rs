//! Who is calling, and from where: decided once per request, before any handler.
//!
//! Invariants: a credential counts on every listener, an agent's only for its present incarnation; a caller
//! without one is let in only where the listener is open, which is loopback only; Host is always checked on TCP (a
//! page of another site cannot reach a server through a name of its own), Origin on every WebSocket and on every
//! unsafe method; every request is counted, and a wrong credential costs its sender's address; every answer says
//! its request's id and what is left.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use actix_web::{
    HttpMessage as _,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{ConnectionType, Method, header},
    middleware::Next,
    web,
};
use aito_api::ProblemKind;
use aito_application::{
    Attempt,
    audit::NOBODY,
    login::{LoginError, Standing, Text},
};
use aito_domain::{
    audit::Outcome,
    display::{Sink, display_safe},
};
use tracing::Instrument as _;

use crate::{
    limits::{Key, Left, MAX_HEADERS, MAX_URI, Spent, late},
    problem::ApiError,
    state::{Access, AppState},
};

/// What is asked of a server by those who keep it alive.
const PROBES: [&str; 2] = ["/health", "/ready"];

/// What connection a request came over; put into the connection's data when it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// TCP, accepted at the first address from the second.
    Tcp(SocketAddr, SocketAddr),
    /// A Unix socket: for agents.
    Unix,
    /// One that is too many: nothing that was sent over it counts.
    Refused,
}

/// Where a request came from, and its id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    /// `None`: a Unix socket.
    address: Option<IpAddr>,
    pub(crate) request_id: String,
}

impl Source {
    /// For the audit.
    pub(crate) fn source(&self) -> String {
        self.address.map_or_else(|| "unix".to_owned(), |address| address.to_string())
    }
}

/// The outermost middleware: request id, span, what every answer carries, metrics, the audit of what ended.
pub(crate) async fn around(
    state: web::Data<AppState>,
    req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    // What was sent before a connection was closed can still be read from it.
    if !matches!(req.conn_data::<Over>(), Some(Over::Tcp(..) | Over::Unix)) {
        let error = ApiError::new(ProblemKind::Unavailable, "too many connections").retry_after(5);
        let mut answer = error.answer(told_path(req.path()));
        answer.head_mut().set_connection_type(ConnectionType::Close);
        name_request(answer.headers_mut(), &state.ids.uuid().to_string());
        secure(answer.headers_mut());
        return Ok(req.into_response(answer));
    }
    let started = state.clock.monotonic();
    let id = request_id(&req, &state);
    let method = req.method().clone();
    let from = Source { address: address(&state, &req), request_id: id.clone() };
    req.extensions_mut().insert(from.clone());
    // Whatever stands in a path is a caller's: it starts no line of the log and does nothing to a terminal.
    let path = display_safe(told_path(req.path()), Sink::Log).into_owned();
    let span = tracing::info_span!("request", %id, %method, path);
    let answered = async {
        // Before a browser asks for something of another site, it asks whether it may; nobody's credential counts.
        match preflight(&state, &req, &from) {
            Ok(()) => next.call(req).await,
            Err(error) => {
                state.clock.sleep(late(state.ids.bits())).await;
                let response = error.answer(told_path(req.path()));
                Ok(req.into_response(response))
            }
        }
    };
    let mut response = answered.instrument(span).await?;
    let failed = response.response().error().and_then(|error| error.as_error::<ApiError>());
    if let Some(mut answer) = failed.map(|error| error.answer(told_path(response.request().path()))) {
        // What the page of another site was allowed, it may read whole.
        let (told, headers) = (response.headers(), answer.headers_mut());
        let allowed =
            |name: &header::HeaderName| name == header::VARY || name.as_str().starts_with("access-control-");
        told.iter().filter(|(name, _)| allowed(name)).for_each(|(name, value)| {
            headers.append(name.clone(), value.clone());
        });
        response = response.into_response(answer);
    }
    account(&state, &response);
    let left = response.request().extensions().get::<Left>().copied();
    let headers = response.headers_mut();
    name_request(headers, &id);
    if let Some(left) = left {
        left.tell(headers);
    }
    secure(headers);
    let route = response.request().match_pattern().unwrap_or_else(|| "unknown".to_owned());
    let method = if is_usual(&method) { method.as_str() } else { "other" };
    let took = state.clock.monotonic().saturating_sub(started);
    state.metrics.request(method, &route, response.status().as_u16(), took);
    Ok(response)
}

fn name_request(headers: &mut header::HeaderMap, id: &str) {
    if let Ok(value) = header::HeaderValue::from_str(id) {
        headers.insert(header::HeaderName::from_static("x-request-id"), value);
    }
}

/// A path as it may be told: that of a notice is a secret, however it is written (paths are matched decoded).
pub(crate) fn told_path(path: &str) -> &str {
    let mut rest = path.as_bytes();
    let mut begins = [0; 3];
    for byte in &mut begins {
        let (first, left) = match rest {
            [b'%', high, low, left @ ..] => {
                let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                (digit(*high).zip(digit(*low)).map_or(0, |(high, low)| high * 16 + low), left)
            }
            [first, left @ ..] => (*first, left),
            [] => return path,
        };
        (*byte, rest) = (first, left);
    }
    if begins == *b"/n/" { "/n/…" } else { path }
}

/// Counts what browsers ask before they call; the answer to it needs no credential.
fn preflight(state: &AppState, req: &ServiceRequest, from: &Source) -> Result<(), ApiError> {
    let asks =
        req.method() == Method::OPTIONS && req.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return Ok(());
    }
    let taken = state.rates.take(&Key::of(from.address));
    taken.map(|left| _ = req.extensions_mut().insert(left)).map_err(|spent| spent_error(req, spent))
}

/// The inner middleware: lets a request in, or not.
pub(crate) async fn admit(
    state: web::Data<AppState>,
    req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    match admitted(&state, &req).await {
        Ok(standing) => {
            if let Some(standing) = standing {
                req.extensions_mut().insert(Rc::new(standing));
            }
            // What handlers and extractors refuse is an answer already; an error here is the framework's own.
            next.call(req).await
        }
        Err(error) => {
            let response = error.answer(told_path(req.path()));
            Ok(req.into_response(response))
        }
    }
}

/// Tells the audit how an attempt ended, when there was one.
fn account(state: &AppState, response: &ServiceResponse<BoxBody>) {
    let attempt = response.request().extensions().get::<Arc<Attempt>>().cloned();
    let Some(attempt) = attempt else { return };
    let status = response.status();
    let outcome = match status.as_u16() {
        101 | 200..=399 => Outcome::Unchanged,
        400..=499 => Outcome::Refused,
        _ => Outcome::Failed,
    };
    let detail = match outcome {
        Outcome::Unchanged | Outcome::Done => String::new(),
        Outcome::Refused | Outcome::Failed => status.as_u16().to_string(),
    };
    state.audit.ended(attempt, outcome, detail);
}

/// What keeps a browser from doing anything with an answer but reading it.
fn secure(headers: &mut header::HeaderMap) {
    let set = |headers: &mut header::HeaderMap, name: header::HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, header::HeaderValue::from_static(value));
        }
    };
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::X_FRAME_OPTIONS, "DENY");
    set(headers, header::REFERRER_POLICY, "no-referrer");
    set(headers, header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    set(headers, header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin");
    set(headers, header::CACHE_CONTROL, "no-store");
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

/// The address that a request came from: the connection's, or what a trusted proxy says of it.
fn address(state: &AppState, req: &ServiceRequest) -> Option<IpAddr> {
    let Some(Over::Tcp(_, peer)) = req.conn_data::<Over>() else { return None };
    let is_proxy =
        |address: IpAddr| state.access.proxies.iter().any(|proxy| proxy.contains(&address.to_canonical()));
    let mut address = peer.ip();
    // Each proxy adds whom it heard at the end; the first from behind that is no proxy is the caller.
    let said = req.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    let said: Vec<&str> = said.flat_map(|value| value.split(',')).collect();
    for next in said.iter().rev() {
        if !is_proxy(address) {
            break;
        }
        let Ok(next) = next.trim().parse() else { break };
        address = next;
    }
    Some(address.to_canonical())
}

/// Lets a request in; `None`: nobody in particular where nobody may do more than look at what is public.
async fn admitted(state: &AppState, req: &ServiceRequest) -> Result<Option<Standing>, ApiError> {
    let over = req.conn_data::<Over>().copied().unwrap_or(Over::Refused);
    let from = req.extensions().get::<Source>().cloned().unwrap_or_default();
    if let Err(error) = check_form(state, req, over) {
        count(state, req, &Key::of(from.address)).await?;
        // Who it was is not looked up for what cannot be.
        if !req.method().is_safe() {
            note(req, &from, "request");
        }
        return Err(error);
    }
    let open = state.access.open && is_open(req, over, &from);
    let value = req.headers().get(header::AUTHORIZATION);
    // Whether it lives and is ready is told whatever credential comes along, also while none can be looked up.
    if let Some(value) = value.filter(|_| !PROBES.contains(&req.path())) {
        let Some(text) = bearer(value) else { return Err(wrong(state, req, &from, None).await) };
        return Ok(Some(login(state, req, &from, text).await?));
    }
    if let Some(ticket) = ticket(req) {
        count(state, req, &Key::of(from.address)).await?;
        return match state.login.redeem(&ticket, open).await {
            Ok(standing) => Ok(Some(standing)),
            Err(LoginError::Failed(error)) => Err(error.into()),
            Err(error) => Err(note_wrong(req, &from, refused(&error))),
        };
    }
    count(state, req, &Key::of(from.address)).await?;
    Ok(open.then(Standing::anonymous))
}

/// Whether it comes from this machine and for nobody else: a proxy that speaks for others says so.
fn is_open(req: &ServiceRequest, over: Over, from: &Source) -> bool {
    let here = |address: IpAddr| address.to_canonical().is_loopback();
    let Over::Tcp(local, peer) = over else { return false };
    let relayed = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
    here(local.ip())
        && here(peer.ip())
        && from.address.is_some_and(here)
        && !relayed.iter().any(|name| req.headers().contains_key(*name))
}

/// What must be right of a request whoever makes it.
fn check_form(state: &AppState, req: &ServiceRequest, over: Over) -> Result<(), ApiError> {
    check_sizes(req)?;
    if let Over::Tcp(local, _) = over {
        check_host(&state.access, req, local)?;
        check_origin(&state.access, req)?;
    }
    Ok(())
}

/// `Bearer <text>`.
fn bearer(value: &header::HeaderValue) -> Option<&str> {
    let (scheme, text) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| text.trim())
}

/// The ticket of a listener, of a WebSocket's handshake or a stream; anywhere else it means nothing.
fn ticket(req: &ServiceRequest) -> Option<String> {
    let opens = match req.path() {
        "/ws" => req.headers().contains_key(header::UPGRADE),
        // As browsers ask for what they read as a stream.
        "/events/stream" => {
            let accepts = req.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
            accepts.is_some_and(|accepts| accepts.contains("text/event-stream"))
        }
        _ => false,
    };
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(req.query_string()).ok()?;
    pairs.into_iter().filter(|_| opens).find(|(name, _)| name == "ticket").map(|(_, value)| value)
}

/// Whose the credential is. Counted are a good one by itself, before anything is looked up for it where that can
/// be, and a bad one by its sender's address.
async fn login(
    state: &AppState,
    req: &ServiceRequest,
    from: &Source,
    text: &str,
) -> Result<Standing, ApiError> {
    let text = match state.login.read(text) {
        Ok(text) => text,
        Err(error) => return Err(wrong(state, req, from, Some(&error)).await),
    };
    let known = match &text {
        Text::Agent(claim) => Some(format!("agent/{}/{}", claim.agent_id, claim.incarnation)),
        // Whoever knows a token's id could spend what is its holder's.
        Text::Token(_) | Text::Other(_) => None,
    };
    if let Some(key) = &known {
        count(state, req, &Key::Credential(key.clone())).await?;
    } else if !state.login.is_cheap(&text) {
        // Looking it up costs the store something, for whatever id.
        count(state, req, &Key::unknown(from.address)).await?;
    }
    match state.login.check(&text).await {
        Ok(standing) => {
            if known.is_none() {
                count(state, req, &Key::Credential(standing.principal.key())).await?;
            }
            Ok(standing)
        }
        Err(LoginError::Failed(error)) => {
            if known.is_none() {
                count(state, req, &Key::unknown(from.address)).await?;
            }
            Err(error.into())
        }
        Err(error) => Err(wrong(state, req, from, Some(&error)).await),
    }
}

/// The answer to a wrong credential, which its sender's address pays for.
async fn wrong(state: &AppState, req: &ServiceRequest, from: &Source, why: Option<&LoginError>) -> ApiError {
    if let Err(error) = count(state, req, &Key::of(from.address)).await {
        return error;
    }
    note_wrong(req, from, why.map_or_else(|| refused(&LoginError::Invalid), refused))
}

/// Notes for the audit that somebody came with a wrong credential.
fn note_wrong(req: &ServiceRequest, from: &Source, error: ApiError) -> ApiError {
    note(req, from, "login");
    error
}

/// Notes for the audit that a stranger tried something that was refused at the door.
fn note(req: &ServiceRequest, from: &Source, operation: &'static str) {
    let (nobody, none) = (NOBODY.to_owned(), "none".to_owned());
    let object = told_path(req.path()).to_owned();
    let attempt = Attempt::new(nobody, none, operation, object, from.source(), from.request_id.clone());
    req.extensions_mut().insert(Arc::new(attempt));
}

fn refused(error: &LoginError) -> ApiError {
    match error {
        LoginError::PastIncarnation { .. } => ApiError::new(ProblemKind::PastIncarnation, error.to_string()),
        LoginError::Invalid | LoginError::Failed(_) => {
            ApiError::new(ProblemKind::Unauthorized, "the credential is not valid")
        }
    }
}

/// Counts the request; one too many is told so, late.
async fn count(state: &AppState, req: &ServiceRequest, key: &Key) -> Result<(), ApiError> {
    match state.rates.take(key) {
        Ok(left) => {
            req.extensions_mut().insert(left);
            Ok(())
        }
        Err(spent) => {
            state.clock.sleep(late(state.ids.bits())).await;
            Err(spent_error(req, spent))
        }
    }
}

fn spent_error(req: &ServiceRequest, spent: Spent) -> ApiError {
    req.extensions_mut().insert(spent.left);
    too_many(spent)
}

fn too_many(spent: Spent) -> ApiError {
    let seconds = spent.wait.as_secs_f64().ceil().max(1.0) as u64;
    ApiError::new(
        ProblemKind::TooManyRequests,
        format!("too many requests: the next one can be in {seconds} s"),
    )
    .retry_after(seconds)
}

fn check_sizes(req: &ServiceRequest) -> Result<(), ApiError> {
    let uri = req.uri().path_and_query().map_or(0, |it| it.as_str().len());
    if uri > MAX_URI {
        let detail = format!("path and query may have at most {MAX_URI} bytes together");
        return Err(ApiError::new(ProblemKind::UriTooLong, detail));
    }
    let headers: usize = req.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers > MAX_HEADERS {
        let detail = format!("the headers may have at most {MAX_HEADERS} bytes together");
        return Err(ApiError::new(ProblemKind::HeadersTooLarge, detail));
    }
    let length = req.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|n| n > crate::extract::MAX_BODY as u64)
    {
        return Err(crate::extract::too_large());
    }
    Ok(())
}

fn check_host(access: &Access, req: &ServiceRequest, local: SocketAddr) -> Result<(), ApiError> {
    let host = req.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = host_name(host);
    let known = is_loopback(name)
        || name.parse().is_ok_and(|ip: IpAddr| ip == local.ip())
        || access.hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
    if known {
        Ok(())
    } else {
        Err(ApiError::new(ProblemKind::Forbidden, "the Host header names another server"))
    }
}

fn check_origin(access: &Access, req: &ServiceRequest) -> Result<(), ApiError> {
    // By the header that every WebSocket needs and not by its path, which can be written in several ways.
    let upgrades = req.headers().contains_key(header::UPGRADE);
    let safe = req.method().is_safe() && req.path() != "/ws" && !upgrades;
    let Some(origin) = req.headers().get(header::ORIGIN).filter(|_| !safe) else {
        return check_site(req, safe);
    };
    let host = req.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let origin = origin.to_str().unwrap_or_default();
    let same = origin.split_once("://").is_some_and(|(_, authority)| authority == host);
    if same || access.origins.iter().any(|allowed| allowed == origin) {
        Ok(())
    } else {
        Err(ApiError::new(ProblemKind::Forbidden, "the Origin is neither this server nor an allowed one"))
    }
}

/// What a browser says of itself where it sends no Origin (Fetch Metadata): a request from another site is none
/// that a page of this server made.
fn check_site(req: &ServiceRequest, safe: bool) -> Result<(), ApiError> {
    let site = req.headers().get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if safe || site.is_none_or(|site| matches!(site, "same-origin" | "none")) {
        Ok(())
    } else {
        Err(ApiError::new(ProblemKind::Forbidden, "a page of another site may not call this server"))
    }
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
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
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
                check_origin(&Access::default(), &request.to_srv_request()).is_ok()
            };
            assert!(!from("http://evil.example"), "{path}");
            assert!(from("http://127.0.0.1:8080"), "{path}");
        }
    }

    #[test]
    fn allowed_sites_and_hosts_are_let_in_and_no_others() {
        let access = Access {
            hosts: vec!["aito.example".into()],
            origins: vec!["https://board.example".into()],
            ..Access::default()
        };
        let request = |host: &str, origin: Option<&str>, site: Option<&str>| {
            let mut request =
                TestRequest::post().uri("/agents/ceo/start").insert_header((header::HOST, host));
            if let Some(origin) = origin {
                request = request.insert_header((header::ORIGIN, origin));
            }
            if let Some(site) = site {
                request = request.insert_header(("sec-fetch-site", site));
            }
            request.to_srv_request()
        };
        let local = "10.0.0.1:80".parse().unwrap();
        for (host, good) in
            [("aito.example", true), ("10.0.0.1", true), ("localhost:80", true), ("x.example", false)]
        {
            assert_eq!(check_host(&access, &request(host, None, None), local).is_ok(), good, "{host}");
        }
        for (origin, site, good) in [
            (None, None, true),
            (None, Some("same-origin"), true),
            (None, Some("none"), true),
            (None, Some("cross-site"), false),
            (None, Some("same-site"), false),
            (Some("https://aito.example"), Some("same-origin"), true),
            (Some("https://board.example"), Some("cross-site"), true),
            (Some("http://board.example"), Some("cross-site"), false),
            (Some("https://evil.example"), Some("cross-site"), false),
            (Some("null"), Some("cross-site"), false),
        ] {
            let request = request("aito.example", origin, site);
            assert_eq!(check_origin(&access, &request).is_ok(), good, "{origin:?} {site:?}");
        }
    }

    #[test]
    fn the_path_of_a_notice_is_not_told_however_it_is_written() {
        for secret in ["/n/abc", "/%6e/abc", "/%6E%2fabc", "%2Fn/abc", "/n/"] {
            assert_eq!(told_path(secret), "/n/…", "{secret}");
        }
        for other in ["", "/", "/n", "/no/abc", "/%", "/%zz/x", "/agents/n/x"] {
            assert_eq!(told_path(other), other);
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
