//! The audit: who did what to which object, from where, with which outcome.
//!
//! Invariant: an entry that is not sealed yet has neither number nor seal; it gets both within seconds.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The words of `outcome`, for the description of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeName {
    /// What was asked for was done.
    Done,
    /// It was allowed, and there was nothing to change.
    Unchanged,
    /// It was not allowed, or was invalid.
    Refused,
    /// The server could not do it.
    Failed,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// Its number in the chain, from 1 without holes; null until it is sealed.
    #[schema(required, minimum = 1)]
    pub n: Option<u64>,
    /// SHA-256 over it and everything before it, as 64 hexadecimal digits; null until it is sealed.
    #[schema(required, pattern = "^[0-9a-f]{64}$")]
    pub seal: Option<String>,
    /// When.
    pub at: Timestamp,
    /// Who: `agent:<type>`, `token:<name>`, `system`, `unauthenticated` or `nobody`.
    #[schema(examples("token:dashboard"))]
    pub actor: String,
    /// By which credential: `token/<id>`, `agent/<id>/<incarnation>`, `jwt/<subject>` or `none`.
    pub credential: String,
    /// What.
    #[schema(examples("agents.start"))]
    pub operation: String,
    /// On what: the path that was called.
    #[schema(examples("/agents/ceo/start"))]
    pub object: String,
    /// From where: an address, `unix`, or `local` for a command on the machine itself.
    #[schema(examples("127.0.0.1"))]
    pub source: String,
    /// The `X-Request-Id` of the call.
    pub request_id: String,
    /// `done`, `unchanged`, `refused` or `failed`.
    #[schema(value_type = OutcomeName)]
    pub outcome: String,
    /// More of the outcome; may be empty.
    pub detail: String,
    /// How many like it this entry stands for: refused attempts that come in numbers are told once.
    #[schema(minimum = 1, examples(1))]
    pub times: u64,
}

/// `GET /audit`: newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditList {
    /// The entries.
    pub audit: Vec<AuditEntry>,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shape_of_a_list() {
        let entry = AuditEntry {
            id: Uuid::nil(),
            n: None,
            seal: None,
            at: "2025-12-20T09:00:00Z".parse().unwrap(),
            actor: "token:ops".to_owned(),
            credential: "token/1".to_owned(),
            operation: "agents.start".to_owned(),
            object: "/agents/ceo/start".to_owned(),
            source: "127.0.0.1".to_owned(),
            request_id: "r1".to_owned(),
            outcome: "done".to_owned(),
            detail: String::new(),
            times: 1,
        };
        assert_eq!(
            serde_json::to_value(AuditList { audit: vec![entry], next_cursor: None }).unwrap(),
            json!({
                "audit": [{
                    "id": "00000000-0000-0000-0000-000000000000",
                    "n": null,
                    "seal": null,
                    "at": "2025-12-20T09:00:00.000Z",
                    "actor": "token:ops",
                    "credential": "token/1",
                    "operation": "agents.start",
                    "object": "/agents/ceo/start",
                    "source": "127.0.0.1",
                    "requestId": "r1",
                    "outcome": "done",
                    "detail": "",
                    "times": 1,
                }],
                "nextCursor": null,
            })
        );
    }
}
