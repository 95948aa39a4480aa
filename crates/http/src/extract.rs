//! Reads requests: bodies, queries, path parts; each failure says where and what is allowed.
//!
//! Invariants: unknown fields and parameters are ignored, wrong types are not; value faults of a query are
//! collected, not reported one by one.

use std::time::Duration;

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web};
use aito_api::ProblemKind;
use aito_application::{Fault, Seen};
use aito_domain::{
    display::{Sink, display_safe},
    id::{AgentType, Version},
};
use futures_util::{StreamExt as _, future::LocalBoxFuture};
use serde::de::DeserializeOwned;

use crate::problem::ApiError;

/// The largest body, in bytes.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// How deep lists and objects may lie within each other.
const MAX_DEPTH: usize = 64;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let is_json = req
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(is_json);
        let payload = payload.take();
        Box::pin(async move {
            if !is_json {
                let detail = "the body must be JSON, sent as Content-Type: application/json";
                return Err(ApiError::new(ProblemKind::UnsupportedMediaType, detail));
            }
            let bytes = whole(payload, BODY_LIMIT).await?;
            parse(&bytes).map(Self)
        })
    }
}

/// The whole body; without a limit of time a client that stalls would keep its connection for ever.
async fn whole(payload: Payload, limit: Duration) -> Result<web::BytesMut, ApiError> {
    tokio::time::timeout(limit, collect(payload)).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} s", limit.as_secs());
        Err(ApiError::new(ProblemKind::NotJson, detail))
    })
}

async fn collect(mut payload: Payload) -> Result<web::BytesMut, ApiError> {
    let mut bytes = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|_| ApiError::new(ProblemKind::NotJson, "the body did not arrive whole"))?;
        if bytes.len() + chunk.len() > MAX_BODY {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(crate) fn too_large() -> ApiError {
    ApiError::new(ProblemKind::PayloadTooLarge, format!("the body may have at most {MAX_BODY} bytes"))
}

/// A JSON body that may be left out; null is one that is.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default + 'static> FromRequest for OptionalBody<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let headers = req.headers();
        let length = headers.get(header::CONTENT_LENGTH).map(|value| value.as_bytes() == b"0");
        let none = length.unwrap_or(!headers.contains_key(header::TRANSFER_ENCODING));
        if none {
            return Box::pin(async { Ok(Self(T::default())) });
        }
        let body = Body::<Option<T>>::from_request(req, payload);
        Box::pin(async { body.await.map(|body| Self(body.0.unwrap_or_default())) })
    }
}

/// The states that `If-Match` names (RFC 9110, section 13.1.1); `None`: there is no such header. A weak tag, or one that
/// is none of this server's, matches nothing.
pub(crate) fn if_match(req: &HttpRequest) -> Option<Seen> {
    let mut values = req.headers().get_all(header::IF_MATCH).peekable();
    values.peek()?;
    let tags: Vec<&str> = values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).collect();
    if tags.iter().any(|tag| tag.trim() == "*") {
        return Some(Seen::Any);
    }
    let read = |tag: &&str| {
        let digits = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
        digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit())).map(Version)
    };
    Some(Seen::In(tags.iter().filter_map(read).collect()))
}

/// The entity tag of a version.
pub(crate) fn etag(version: Version) -> String {
    format!("\"{}\"", version.0)
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if is_too_deep(bytes) {
        let detail = format!("the body may be nested at most {MAX_DEPTH} deep");
        return Err(ApiError::new(ProblemKind::NotJson, detail));
    }
    // The reader takes a list for a struct, field by field; no body of this API is one.
    if bytes.trim_ascii_start().first() == Some(&b'[')
        && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
    {
        return Err(ApiError::fault("", "must be an object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data => ApiError::fault(&pointer, type_fault(&inner)),
            _ => ApiError::new(ProblemKind::NotJson, format!("the body is not JSON: {inner}")),
        }
    })?;
    reader
        .end()
        .map_err(|error| ApiError::new(ProblemKind::NotJson, format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// Whether lists and objects lie within each other deeper than [`MAX_DEPTH`].
fn is_too_deep(bytes: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// What was expected, in the reader's words: neither its line and column, which mean nothing to most callers, nor what
/// was found, which may be a secret that was put into the wrong place.
fn type_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    match text.rsplit_once(", expected ") {
        // Types of this program mean nothing to a caller either.
        Some((_, expected)) => {
            let expected = match expected {
                "i64" | "u64" | "i32" | "u32" => "a whole number",
                "f64" | "f32" => "a number",
                "a sequence" => "a list",
                "a map" => "an object",
                other if other.starts_with("struct ") => "an object",
                other => other,
            };
            format!("must be {expected}")
        }
        None => "is not what is expected here".to_owned(),
    }
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

/// The query: taken apart once, its faults collected until [`Query::done`].
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

impl Query {
    pub(crate) fn of(req: &HttpRequest) -> Result<Self, ApiError> {
        let pairs = serde_urlencoded::from_str(req.query_string())
            .map_err(|_| ApiError::fault("?", "the query cannot be read"))?;
        Ok(Self { pairs, faults: Vec::new() })
    }

    /// A parameter as text; given twice is a fault.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let mut values = self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone());
        let first = values.next();
        if values.next().is_some() {
            self.fault(name, "may be given once only");
        }
        first
    }

    /// A parameter as something that `read` makes of it; `allowed` completes "must be …".
    pub(crate) fn parsed<T>(
        &mut self,
        name: &str,
        allowed: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let value = read(&text);
        if value.is_none() {
            self.fault(name, format!("must be {allowed}"));
        }
        value
    }

    /// A whole number from 1 to `max`, else `default` (HTTP contract, Conventions: lists are bounded).
    pub(crate) fn limit(&mut self, name: &str, default: u32, max: u32) -> u32 {
        let allowed = format!("a whole number from 1 to {max}");
        self.parsed(name, &allowed, |text| text.parse().ok().filter(|n| (1..=max).contains(n)))
            .unwrap_or(default)
    }

    /// A whole number from 0 to `max`, else 0.
    pub(crate) fn number(&mut self, name: &str, max: u32) -> u32 {
        let allowed = format!("a whole number from 0 to {max}");
        self.parsed(name, &allowed, |text| text.parse().ok().filter(|n| *n <= max)).unwrap_or(0)
    }

    pub(crate) fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.faults.push(Fault::new(format!("?{name}"), detail));
    }

    /// Refuses when anything was wrong.
    pub(crate) fn done(self) -> Result<(), ApiError> {
        if self.faults.is_empty() { Ok(()) } else { Err(ApiError::invalid(self.faults)) }
    }
}

/// The agent type in the path; a text that can be no type is an unknown one.
pub(crate) fn agent_type(text: &str) -> Result<AgentType, ApiError> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        let shown = display_safe(&shown, Sink::Log);
        ApiError::new(ProblemKind::NotFound, format!("there is no agent \"{shown}\""))
    })
}

/// An id in the path; a text that can be no id is one of nothing.
pub(crate) fn known_id<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        let shown = display_safe(&shown, Sink::Log);
        ApiError::new(ProblemKind::NotFound, format!("there is no {what} \"{shown}\""))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use actix_web::ResponseError as _;
    use aito_api::{HeartbeatRequest, Problem};

    async fn problem(error: ApiError) -> Problem {
        let body = actix_web::body::to_bytes(error.error_response().into_body()).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[actix_web::test]
    async fn wrong_types_name_their_place_and_garbage_is_400() {
        let wrong = problem(parse::<HeartbeatRequest>(br#"{"loopCount":"x"}"#).unwrap_err()).await;
        assert_eq!((wrong.status, wrong.errors[0].pointer.as_str()), (422, "/loopCount"));
        assert_eq!(wrong.errors[0].detail, "must be a whole number");
        for hidden in ["hunter2", "hunter2, expected x", "hunter2 at line 1, expected \\\"x"] {
            let body = format!("{{\"loopCount\":\"{hidden}\"}}");
            let wrong = problem(parse::<HeartbeatRequest>(body.as_bytes()).unwrap_err()).await;
            assert!(!wrong.errors[0].detail.contains("hunter2"), "{}", wrong.errors[0].detail);
        }
        for garbage in [&b""[..], b"{", b"{} x", b"\xff"] {
            assert_eq!(problem(parse::<HeartbeatRequest>(garbage).unwrap_err()).await.status, 400);
        }
        assert!(parse::<HeartbeatRequest>(br#"{"unknown":1}"#).is_ok());
        for other in [&b"[]"[..], b"1", b"null", b"\"x\""] {
            let refused = problem(parse::<HeartbeatRequest>(other).unwrap_err()).await;
            assert_eq!(refused.status, 422);
            assert_eq!(refused.errors[0].detail, "must be an object");
        }
    }

    #[actix_web::test]
    async fn a_body_that_may_be_left_out_may_be_null_and_nothing_else() {
        let read = async |body: &'static str| {
            let request = actix_web::test::TestRequest::default()
                .insert_header((header::CONTENT_TYPE, "application/json"))
                .insert_header((header::CONTENT_LENGTH, body.len()));
            let (request, mut payload) = request.set_payload(body).to_http_parts();
            OptionalBody::<HeartbeatRequest>::from_request(&request, &mut payload).await
        };
        for none in ["", "null", "{}"] {
            assert_eq!(read(none).await.unwrap().0, HeartbeatRequest::default(), "{none}");
        }
        assert_eq!(read(r#"{"loopCount":3.0}"#).await.unwrap().0.loop_count, Some(3));
        for bad in ["[]", "1", "\"x\""] {
            assert_eq!(problem(read(bad).await.err().unwrap()).await.status, 422, "{bad}");
        }
    }

    #[test]
    fn depth_is_counted_outside_of_texts() {
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(!is_too_deep(nested(MAX_DEPTH - 1).as_bytes()));
        assert!(is_too_deep(nested(MAX_DEPTH).as_bytes()));
        assert!(!is_too_deep(format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(100)).as_bytes()));
        assert!(!is_too_deep("[]".repeat(100).as_bytes()));
    }

    #[test]
    fn entity_tags_are_compared_strongly() {
        let of = |values: &[&str]| {
            let mut request = actix_web::test::TestRequest::default();
            for value in values {
                request = request.append_header((header::IF_MATCH, *value));
            }
            if_match(&request.to_http_request())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["*"]), Some(Seen::Any));
        assert_eq!(of(&["\"3\""]), Some(Seen::In(vec![Version(3)])));
        assert_eq!(of(&["\"3\", \"4\"", "\"5\""]), Some(Seen::In(vec![Version(3), Version(4), Version(5)])));
        for none in ["W/\"3\"", "3", "\"+3\"", "\"\"", "\"x\"", "\"3"] {
            assert_eq!(of(&[none]), Some(Seen::In(vec![])), "{none}");
        }
        assert_eq!(etag(Version(3)), "\"3\"");
    }

    #[actix_web::test]
    async fn a_body_that_does_not_come_is_given_up() {
        type Chunk = Result<web::Bytes, actix_web::error::PayloadError>;
        let silence = futures_util::stream::pending::<Chunk>().boxed_local();
        let payload = Payload::Stream { payload: silence };
        let refused = problem(whole(payload, Duration::ZERO).await.unwrap_err()).await;
        assert_eq!(refused.status, 400);
        assert!(refused.detail.contains("did not arrive within"), "{}", refused.detail);
    }

    #[test]
    fn json_is_recognised_by_its_media_type() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["", "text/plain", "application/jsonp", "text/json+x"] {
            assert!(!is_json(bad), "{bad}");
        }
    }

    #[test]
    fn all_faults_of_a_query_are_collected() {
        let req = actix_web::test::TestRequest::with_uri("/x?limit=501&status=odd&limit2=abc&type=a&type=b")
            .to_http_request();
        let mut query = Query::of(&req).unwrap();
        assert_eq!(query.limit("limit", 50, 500), 50);
        assert_eq!(query.limit("limit2", 50, 500), 50);
        assert_eq!(query.limit("absent", 50, 500), 50);
        query.text("type");
        let pointers: Vec<_> = query.faults.iter().map(|fault| fault.pointer.clone()).collect();
        assert_eq!(pointers, ["?limit", "?limit2", "?type"]);
        assert!(query.done().is_err());
    }
}
