//! The error document: RFC 9457 problem details with the fields that existing clients read.
//!
//! Invariants:
//! - `type` is `urn:aito:problem:<slug>`, and the slug alone decides title and usual status.
//! - `success` is `false` in every problem, `error` repeats the detail as one human line.
//! - No stack trace, SQL or path belongs in any of the texts.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};
use utoipa::ToSchema;

/// The media type of a problem document (RFC 9457, section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What every problem's `type` starts with.
pub const TYPE_PREFIX: &str = "urn:aito:problem:";

/// The slugs of the problem types, as they stand after [`TYPE_PREFIX`].
pub mod slug {
    /// The body is not JSON: 400.
    pub const NOT_JSON: &str = "not-json";
    /// No or a bad credential: 401.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// The credential of an incarnation that another one has replaced: 401.
    pub const PAST_INCARNATION: &str = "past-incarnation";
    /// The credential lacks a scope: 403.
    pub const FORBIDDEN: &str = "forbidden";
    /// No such object or path: 404.
    pub const NOT_FOUND: &str = "not-found";
    /// The path knows other methods: 405 with `Allow`.
    pub const METHOD_NOT_ALLOWED: &str = "method-not-allowed";
    /// The state does not allow it: 409.
    pub const CONFLICT: &str = "conflict";
    /// The object is in another state than `If-Match` names: 412.
    pub const PRECONDITION_FAILED: &str = "precondition-failed";
    /// The body is too large: 413.
    pub const PAYLOAD_TOO_LARGE: &str = "payload-too-large";
    /// The address is too long: 414.
    pub const URI_TOO_LONG: &str = "uri-too-long";
    /// The body is not sent as JSON: 415.
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "unsupported-media-type";
    /// Well-formed but invalid: 422.
    pub const INVALID: &str = "invalid";
    /// Too many calls: 429 with `Retry-After`.
    pub const TOO_MANY_REQUESTS: &str = "too-many-requests";
    /// The headers are too large: 431.
    pub const HEADERS_TOO_LARGE: &str = "headers-too-large";
    /// Known, but not offered by this installation: 501.
    pub const NOT_IMPLEMENTED: &str = "not-implemented";
    /// A dependency is down: 503 with `Retry-After`.
    pub const UNAVAILABLE: &str = "unavailable";
    /// A fault of the server: 500.
    pub const INTERNAL: &str = "internal";
}

/// The closed set of problem types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// [`slug::NOT_JSON`]
    NotJson,
    /// [`slug::UNAUTHORIZED`]
    Unauthorized,
    /// [`slug::PAST_INCARNATION`]
    PastIncarnation,
    /// [`slug::FORBIDDEN`]
    Forbidden,
    /// [`slug::NOT_FOUND`]
    NotFound,
    /// [`slug::METHOD_NOT_ALLOWED`]
    MethodNotAllowed,
    /// [`slug::CONFLICT`]
    Conflict,
    /// [`slug::PRECONDITION_FAILED`]
    PreconditionFailed,
    /// [`slug::PAYLOAD_TOO_LARGE`]
    PayloadTooLarge,
    /// [`slug::URI_TOO_LONG`]
    UriTooLong,
    /// [`slug::UNSUPPORTED_MEDIA_TYPE`]
    UnsupportedMediaType,
    /// [`slug::INVALID`]
    Invalid,
    /// [`slug::TOO_MANY_REQUESTS`]
    TooManyRequests,
    /// [`slug::HEADERS_TOO_LARGE`]
    HeadersTooLarge,
    /// [`slug::NOT_IMPLEMENTED`]
    NotImplemented,
    /// [`slug::UNAVAILABLE`]
    Unavailable,
    /// [`slug::INTERNAL`]
    Internal,
}

impl ProblemKind {
    /// Every kind, in order of declaration.
    pub const ALL: [Self; 17] = [
        Self::NotJson,
        Self::Unauthorized,
        Self::PastIncarnation,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::PayloadTooLarge,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::TooManyRequests,
        Self::HeadersTooLarge,
        Self::NotImplemented,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The slug after [`TYPE_PREFIX`].
    pub const fn slug(self) -> &'static str {
        match self {
            Self::NotJson => slug::NOT_JSON,
            Self::Unauthorized => slug::UNAUTHORIZED,
            Self::PastIncarnation => slug::PAST_INCARNATION,
            Self::Forbidden => slug::FORBIDDEN,
            Self::NotFound => slug::NOT_FOUND,
            Self::MethodNotAllowed => slug::METHOD_NOT_ALLOWED,
            Self::Conflict => slug::CONFLICT,
            Self::PreconditionFailed => slug::PRECONDITION_FAILED,
            Self::UriTooLong => slug::URI_TOO_LONG,
            Self::HeadersTooLarge => slug::HEADERS_TOO_LARGE,
            Self::PayloadTooLarge => slug::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => slug::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid => slug::INVALID,
            Self::TooManyRequests => slug::TOO_MANY_REQUESTS,
            Self::NotImplemented => slug::NOT_IMPLEMENTED,
            Self::Unavailable => slug::UNAVAILABLE,
            Self::Internal => slug::INTERNAL,
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::NotJson => 400,
            Self::Unauthorized | Self::PastIncarnation => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::PreconditionFailed => 412,
            Self::PayloadTooLarge => 413,
            Self::UriTooLong => 414,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::HeadersTooLarge => 431,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
        }
    }

    /// The short text that is the same for every problem of this kind.
    pub const fn title(self) -> &'static str {
        match self {
            Self::NotJson => "Not JSON",
            Self::Unauthorized => "Unauthorized",
            Self::PastIncarnation => "Past incarnation",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Conflict => "Conflict",
            Self::PreconditionFailed => "Precondition failed",
            Self::UriTooLong => "URI too long",
            Self::HeadersTooLarge => "Headers too large",
            Self::PayloadTooLarge => "Payload too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "Too many requests",
            Self::NotImplemented => "Not implemented",
            Self::Unavailable => "Unavailable",
            Self::Internal => "Internal error",
        }
    }

    /// The value of `type`.
    pub fn type_uri(self) -> String {
        format!("{TYPE_PREFIX}{}", self.slug())
    }

    /// The kind that a `type` value names; `None` for one of a newer or foreign server.
    pub fn from_type_uri(uri: &str) -> Option<Self> {
        let slug = uri.strip_prefix(TYPE_PREFIX)?;
        Self::ALL.into_iter().find(|kind| kind.slug() == slug)
    }
}

/// One value that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldFault {
    /// Where: a JSON pointer into the body (RFC 6901), or `?name` for a query parameter.
    #[schema(examples("/title"))]
    pub pointer: String,
    /// What is wrong and what is allowed.
    pub detail: String,
}

impl FieldFault {
    /// A fault at `pointer`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// An error answer, sent as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The problem type: `urn:aito:problem:<slug>`.
    #[serde(rename = "type", default = "about_blank")]
    #[schema(examples("urn:aito:problem:not-found"))]
    pub type_uri: String,
    /// The same short text for every problem of this type.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What happened this time, for a human.
    #[serde(default)]
    pub detail: String,
    /// The path that was called.
    #[serde(default)]
    pub instance: String,
    /// Always `false`.
    #[serde(default)]
    pub success: bool,
    /// One human line, for clients that read no problem documents.
    #[serde(default)]
    pub error: String,
    /// All value faults, for validation; left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldFault>,
    /// Further members of this problem type (RFC 9457, section 3.2), for example `scope` or `currentRound`.
    #[serde(flatten)]
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub extensions: BTreeMap<String, serde_json::Value>,
}

impl Problem {
    /// A problem of `kind` with its usual status and title; `detail` is also the `error` line.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            type_uri: kind.type_uri(),
            title: kind.title().to_owned(),
            status: kind.status(),
            error: detail.clone(),
            detail,
            instance: String::new(),
            success: false,
            errors: Vec::new(),
            extensions: BTreeMap::new(),
        }
    }

    /// A validation problem (422) with all its faults; the `error` line names the first.
    pub fn invalid(errors: Vec<FieldFault>) -> Self {
        let detail = match errors.as_slice() {
            [] => "invalid request".to_owned(),
            // The empty pointer is the whole body (RFC 6901).
            [only] if only.pointer.is_empty() => format!("the body {}", only.detail),
            [only] => format!("{}: {}", only.pointer, only.detail),
            [first, rest @ ..] => format!("{}: {} (and {} more)", first.pointer, first.detail, rest.len()),
        };
        Self { errors, ..Self::new(ProblemKind::Invalid, detail) }
    }

    /// Sets the path that was called.
    #[must_use]
    pub fn at(mut self, instance: impl Into<String>) -> Self {
        self.instance = instance.into();
        self
    }

    /// Adds a further member.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.extensions.insert(name.into(), value.into());
        self
    }

    /// The kind, if this version knows the type.
    pub fn kind(&self) -> Option<ProblemKind> {
        ProblemKind::from_type_uri(&self.type_uri)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = [&self.error, &self.detail, &self.title].into_iter().find(|text| !text.is_empty());
        write!(f, "{} ({})", text.map_or("problem", String::as_str), self.status)
    }
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shape_of_a_problem() {
        let problem = Problem::new(ProblemKind::NotFound, "unknown agent type xyz").at("/agents/xyz");
        assert_eq!(
            serde_json::to_value(&problem).unwrap(),
            json!({
                "type": "urn:aito:problem:not-found",
                "title": "Not found",
                "status": 404,
                "detail": "unknown agent type xyz",
                "instance": "/agents/xyz",
                "success": false,
                "error": "unknown agent type xyz",
            })
        );
    }

    #[test]
    fn shape_of_a_validation_problem_with_an_extension() {
        let problem = Problem::invalid(vec![
            FieldFault::new("/loopCount", "must be 0 or more"),
            FieldFault::new("/status", "must be idle, working or blocked"),
        ])
        .with("scope", "operator");
        let value = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            value["errors"][1],
            json!({"pointer": "/status", "detail": "must be idle, working or blocked"})
        );
        assert_eq!(value["error"], "/loopCount: must be 0 or more (and 1 more)");
        assert_eq!(value["scope"], "operator");
        assert_eq!(value["status"], 422);
        assert_eq!(serde_json::from_value::<Problem>(value).unwrap(), problem);
    }

    #[test]
    fn a_bare_problem_of_another_server_is_read() {
        let problem: Problem = serde_json::from_value(json!({"title": "Bad Gateway"})).unwrap();
        assert_eq!(problem.type_uri, "about:blank");
        assert_eq!(problem.kind(), None);
    }

    #[test]
    fn every_kind_is_found_by_its_uri() {
        let mut slugs = std::collections::BTreeSet::new();
        for kind in ProblemKind::ALL {
            assert_eq!(ProblemKind::from_type_uri(&kind.type_uri()), Some(kind));
            assert!(slugs.insert(kind.slug()), "{} twice", kind.slug());
        }
        assert_eq!(ProblemKind::from_type_uri("not-found"), None);
    }
}
