//! Domains: which ones agents may visit, and which ones they ask for.
//!
//! Invariants:
//! - A domain in an answer is normalised: lower case, its ASCII form (IDNA), no trailing dot. It covers its subdomains.
//! - The list is advice until something enforces it, and every answer that rests on it says so.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// One domain that agents may visit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainEntry {
    /// Its id.
    #[schema(value_type = String, format = "uuid", examples("019ab1c2-7d3e-7f40-8a51-62c3d4e5f607"))]
    pub id: Uuid,
    /// The domain; it covers itself and its subdomains.
    #[schema(examples("example.com"))]
    pub domain: String,
    /// What it is good for.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", examples("research"))]
    pub category: String,
    /// More about it; null when nothing was said.
    #[schema(required, max_length = 1000)]
    pub description: Option<String>,
    /// Whether the entry counts.
    pub is_active: bool,
    /// When it was added.
    pub created_at: Timestamp,
    /// Names this state of it, for `If-Match`.
    #[schema(examples("\"1\""))]
    pub etag: String,
}

/// `GET /domains/whitelist`: a page of the entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainList {
    /// The entries.
    pub domains: Vec<DomainEntry>,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
    /// Whether the list is advice only, so that nothing stops an agent from visiting other domains.
    pub advisory: bool,
}

/// Body of `POST /domains/whitelist`.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// `domain` and `category` are required; they are optional here so that a missing one is a value fault with a pointer,
// reported together with the others.
pub struct NewDomain {
    /// A registrable domain or one below it: no address, port, wildcard, URL or public suffix; at most 253 characters
    /// in its ASCII form, and a trailing dot.
    #[serde(default)]
    #[schema(
        value_type = String,
        required,
        min_length = 1,
        max_length = 254,
        pattern = r"^[^\u0000-,/:-@\[-`{-\u007f]+$",
        examples("example.com")
    )]
    pub domain: Option<String>,
    /// What it is good for: 1 to 64 of `a-z`, `0-9`, `_` and `-`.
    #[serde(default)]
    #[schema(value_type = String, required, pattern = "^[a-z0-9_-]{1,64}$", examples("research"))]
    pub category: Option<String>,
    /// More about it: at most 1,000 characters, no NUL; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000, pattern = r"^[^\u0000]*$", examples("Market figures"))]
    pub description: Option<String>,
}

impl NewDomain {
    /// An entry without a description.
    pub fn new(domain: impl Into<String>, category: impl Into<String>) -> Self {
        Self { domain: Some(domain.into()), category: Some(category.into()), description: None }
    }
}

/// Answer (201) of `POST /domains/whitelist`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainAnswer {
    /// Always `true`.
    pub success: bool,
    /// The entry.
    pub domain: DomainEntry,
}

/// The words of a domain request's `status`, for the description of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DomainRequestStatusName {
    /// Nobody decided yet.
    Pending,
    /// The domain was added to the list.
    Approved,
    /// It was not.
    Rejected,
}

/// Somebody's wish that a domain be on the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainRequest {
    /// Its id.
    #[schema(value_type = String, format = "uuid", examples("019ab1c2-7d3e-7f40-8a51-62c3d4e5f607"))]
    pub id: Uuid,
    /// The domain.
    #[schema(examples("example.com"))]
    pub domain: String,
    /// The page that was to be visited; null when none was named.
    #[schema(required, max_length = 2048, examples("https://www.example.com/figures"))]
    pub url: Option<String>,
    /// The agent that asks; null when it was none.
    #[schema(value_type = Option<String>, format = "uuid", required)]
    pub requested_by: Option<Uuid>,
    /// Who asks: `agent:<type>`, `token:<name>` or `unauthenticated`.
    #[schema(examples("agent:cmo"))]
    pub actor: String,
    /// What it was working on; null when nothing was said.
    #[schema(required, max_length = 2000)]
    pub task_context: Option<String>,
    /// Why it needs the domain; null when nothing was said.
    #[schema(required, max_length = 2000)]
    pub reason: Option<String>,
    /// The category that is proposed for the entry; null when none is.
    #[schema(required, pattern = "^[a-z0-9_-]{1,64}$", examples("research"))]
    pub category: Option<String>,
    /// `pending`, `approved` or `rejected`.
    #[schema(value_type = DomainRequestStatusName)]
    pub status: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Who decided, as in `actor`; null while it is pending.
    #[schema(required, examples("token:ops"))]
    pub decided_by: Option<String>,
    /// When that was; null while it is pending.
    #[schema(required)]
    pub decided_at: Option<Timestamp>,
    /// Why it was decided so; null when nothing was said.
    #[schema(required, max_length = 2000)]
    pub decision_reason: Option<String>,
}

/// `GET /domains/approval-requests`: the pending ones, if no other status is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainRequestList {
    /// The requests.
    pub requests: Vec<DomainRequest>,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Body of `POST /domains/approval-requests`.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// `domain` is required; it is optional here so that a missing one is a value fault with a pointer.
pub struct NewDomainRequest {
    /// A registrable domain or one below it: no address, port, wildcard, URL or public suffix; at most 253 characters
    /// in its ASCII form, and a trailing dot.
    #[serde(default)]
    #[schema(
        value_type = String,
        required,
        min_length = 1,
        max_length = 254,
        pattern = r"^[^\u0000-,/:-@\[-`{-\u007f]+$",
        examples("example.com")
    )]
    pub domain: Option<String>,
    /// The page that was to be visited: `http` or `https`, at most 2,048 characters, of a host that the domain covers;
    /// null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 2048,
        pattern = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\u0000-\u0020\u007f]+$",
        examples("https://www.example.com/figures")
    )]
    pub url: Option<String>,
    /// What the agent is working on: at most 2,000 characters, no NUL; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000, pattern = r"^[^\u0000]*$", examples("Quarterly report"))]
    pub task_context: Option<String>,
    /// Why the domain is needed: at most 2,000 characters, no NUL; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000, pattern = r"^[^\u0000]*$", examples("Has the market figures"))]
    pub reason: Option<String>,
    /// The category that is proposed for the entry, 1 to 64 of `a-z`, `0-9`, `_` and `-`; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", examples("research"))]
    pub category: Option<String>,
}

impl NewDomainRequest {
    /// A request that names the domain only.
    pub fn new(domain: impl Into<String>) -> Self {
        Self { domain: Some(domain.into()), ..Self::default() }
    }
}

/// Answer of `POST /domains/approval-requests` (201, or 200 when the same wish stands already) and of its `approve` and
/// `reject` (200).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainRequestAnswer {
    /// Always `true`.
    pub success: bool,
    /// The request.
    pub request: DomainRequest,
}

/// Body of `POST /domains/approval-requests/{id}/approve` and `reject`; may be left out.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecideDomainRequest {
    /// Why: at most 2,000 characters, no NUL; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000, pattern = r"^[^\u0000]*$", examples("A known source"))]
    pub reason: Option<String>,
    /// The entry's category, 1 to 64 of `a-z`, `0-9`, `_` and `-`; if null or absent
    /// the proposed one, else `requested`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", examples("research"))]
    pub category: Option<String>,
}

/// `GET /domains/check`: whether agents may visit a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainCheck {
    /// The domain, normalised.
    #[schema(examples("www.example.com"))]
    pub domain: String,
    /// Whether an entry covers it.
    pub allowed: bool,
    /// The domain of the entry that covers it; null when none does.
    #[schema(required, examples("example.com"))]
    pub matched_by: Option<String>,
    /// Whether this is advice only, so that nothing stops an agent from visiting it all the same.
    pub advisory: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    fn schema<T: PartialSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap()
    }

    #[test]
    fn shape_of_a_list() {
        let entry = DomainEntry {
            id: Uuid::nil(),
            domain: "example.com".to_owned(),
            category: "research".to_owned(),
            description: None,
            is_active: true,
            created_at: "2025-12-20T09:00:00Z".parse().unwrap(),
            etag: "\"1\"".to_owned(),
        };
        assert_eq!(
            serde_json::to_value(DomainList { domains: vec![entry], next_cursor: None, advisory: true })
                .unwrap(),
            json!({
                "domains": [{
                    "id": "00000000-0000-0000-0000-000000000000",
                    "domain": "example.com",
                    "category": "research",
                    "description": null,
                    "isActive": true,
                    "createdAt": "2025-12-20T09:00:00.000Z",
                    "etag": "\"1\"",
                }],
                "nextCursor": null,
                "advisory": true,
            })
        );
    }

    #[test]
    fn shape_of_a_request() {
        let request = DomainRequest {
            id: Uuid::nil(),
            domain: "example.com".to_owned(),
            url: None,
            requested_by: Some(Uuid::nil()),
            actor: "agent:cmo".to_owned(),
            task_context: None,
            reason: Some("figures".to_owned()),
            category: None,
            status: "pending".to_owned(),
            created_at: "2025-12-20T09:00:00Z".parse().unwrap(),
            decided_by: None,
            decided_at: None,
            decision_reason: None,
        };
        assert_eq!(
            serde_json::to_value(DomainRequestAnswer { success: true, request }).unwrap(),
            json!({
                "success": true,
                "request": {
                    "id": "00000000-0000-0000-0000-000000000000",
                    "domain": "example.com",
                    "url": null,
                    "requestedBy": "00000000-0000-0000-0000-000000000000",
                    "actor": "agent:cmo",
                    "taskContext": null,
                    "reason": "figures",
                    "category": null,
                    "status": "pending",
                    "createdAt": "2025-12-20T09:00:00.000Z",
                    "decidedBy": null,
                    "decidedAt": null,
                    "decisionReason": null,
                },
            })
        );
    }

    #[test]
    fn shape_of_a_check() {
        let check =
            DomainCheck { domain: "a.org".to_owned(), allowed: false, matched_by: None, advisory: true };
        assert_eq!(
            serde_json::to_value(check).unwrap(),
            json!({"domain": "a.org", "allowed": false, "matchedBy": null, "advisory": true})
        );
    }

    #[test]
    fn what_callers_send_is_read_tolerantly() {
        let odd: NewDomain = serde_json::from_value(json!({"domain": "http://x", "y": 1})).unwrap();
        assert_eq!((odd.domain.as_deref(), odd.category), (Some("http://x"), None));
        assert!(serde_json::from_value::<NewDomain>(json!({"category": 3})).is_err());
        assert_eq!(
            serde_json::to_value(NewDomain::new("a.org", "x")).unwrap(),
            json!({"domain": "a.org", "category": "x"})
        );
        assert_eq!(serde_json::to_value(NewDomainRequest::new("a.org")).unwrap(), json!({"domain": "a.org"}));
        let none: DecideDomainRequest = serde_json::from_value(json!({"reason": null})).unwrap();
        assert_eq!(none, DecideDomainRequest::default());
    }

    #[test]
    fn the_schema_says_what_the_server_accepts() {
        assert_eq!(schema::<NewDomain>()["required"], json!(["domain", "category"]));
        assert_eq!(schema::<NewDomainRequest>()["required"], json!(["domain"]));
        assert_eq!(schema::<DecideDomainRequest>().get("required"), None);
        assert_eq!(schema::<DomainRequestStatusName>()["enum"], json!(["pending", "approved", "rejected"]));
        for always in ["url", "decidedBy", "decisionReason", "requestedBy"] {
            assert!(schema::<DomainRequest>()["required"].as_array().unwrap().contains(&json!(always)));
        }
    }
}
