//! Operators' tokens: their lists, their making and ending; a secret is shown once, where it is made.
//!
//! Invariant: roles and scopes are text here, so that the server can report wrong ones together with all other
//! faults.

use crate::{Timestamp, number::whole};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Its id; the first part of the token's text.
    #[schema(value_type = String, format = "uuid", examples("019ab1c2-7d3e-7f40-8a51-62c3d4e5f607"))]
    pub id: Uuid,
    /// What it is called.
    #[schema(examples("dashboard"))]
    pub name: String,
    /// What it may as a whole: of `viewer`, `operator`, `human`, `admin`.
    #[schema(value_type = Vec<RoleName>, example = json!(["viewer"]))]
    pub roles: Vec<String>,
    /// What it may besides: at most one `seat:<type>`.
    #[schema(value_type = Vec<SeatScope>, example = json!([]))]
    pub scopes: Vec<String>,
    /// Who made it: `token:<name>`, `system` or `unauthenticated`.
    #[schema(examples("token:first"))]
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it got its present secret, if that is not the first one.
    #[schema(required)]
    pub rotated_at: Option<Timestamp>,
    /// When it ends by itself; null: never.
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    /// When it was ended; null: it was not.
    #[schema(required)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to about 5 s; null: never.
    #[schema(required)]
    pub last_used_at: Option<Timestamp>,
    /// Names this state of it, for `If-Match`.
    #[schema(examples("\"3\""))]
    pub etag: String,
}

/// `GET /tokens`: oldest first, ended ones too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenList {
    /// The tokens.
    pub tokens: Vec<Token>,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Body of `POST /tokens`.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// `name` is required; it is optional here so that a missing one is a value fault with a pointer.
pub struct NewToken {
    /// What it is called: 1 to 64 of letters, digits, space and `._-`; no other token that is not revoked has it.
    #[serde(default)]
    #[schema(value_type = String, required, min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]([A-Za-z0-9 ._-]*[A-Za-z0-9._-])?$", examples("dashboard"))]
    pub name: Option<String>,
    /// Of `viewer`, `operator`, `human`, `admin`; none if absent.
    #[serde(default)]
    #[schema(value_type = Vec<RoleName>, example = json!(["viewer"]))]
    pub roles: Vec<String>,
    /// At most one `seat:<type>`; none if absent.
    #[serde(default)]
    #[schema(value_type = Vec<SeatScope>, max_items = 1, example = json!([]))]
    pub scopes: Vec<String>,
    /// When it ends by itself (RFC 3339, in the future); never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time", examples("2030-01-01T00:00:00.000Z"))]
    pub expires_at: Option<String>,
}

/// The words of roles, for the description of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Reads all but secrets, tokens and audit.
    Viewer,
    /// Reads and runs the daily business.
    Operator,
    /// Reads and has the last word on decisions.
    Human,
    /// Tokens, audit, configuration, the fleet's switch.
    Admin,
}

/// One scope, for the description of the interface: the right to vote as a seat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(pattern = "^seat:[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("seat:ceo"))]
pub struct SeatScope(String);

/// Body of `POST /tokens/{id}/rotate`; may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotateToken {
    /// For how many seconds the present secret stays good beside the new one: 0 to 604800; 0 if absent.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 604_800, examples(300))]
    pub overlap: Option<i64>,
}

/// Answer of `POST /tokens` (201) and `POST /tokens/{id}/rotate` (200): the one time that the secret is shown.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecret {
    /// Always `true`.
    pub success: bool,
    /// The token.
    pub token: Token,
    /// What its holder sends: `Authorization: Bearer <secret>`.
    #[schema(examples("aito_019ab1c27d3e7f408a5162c3d4e5f607_<43 characters>"))]
    pub secret: String,
}

impl std::fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSecret").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Answer of calls that have nothing more to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// Always `true`.
    pub success: bool,
}

/// A credential for one WebSocket, good once and for 30 s.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    /// For the address: `/ws?ticket=<ticket>`.
    #[schema(examples("aito-ticket.<content>.<code>"))]
    pub ticket: String,
    /// Until when it can be used.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Answer (201) of `POST /ws/tickets`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TicketCreated {
    /// Always `true`.
    pub success: bool,
    /// The ticket.
    pub ticket: Ticket,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token() -> Token {
        Token {
            id: Uuid::nil(),
            name: "dashboard".to_owned(),
            roles: vec!["viewer".to_owned()],
            scopes: Vec::new(),
            created_by: "token:first".to_owned(),
            created_at: "2025-12-20T09:00:00Z".parse().unwrap(),
            rotated_at: None,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
            etag: "\"1\"".to_owned(),
        }
    }

    #[test]
    fn shape_of_a_token_and_its_secret() {
        let made = TokenSecret { success: true, token: token(), secret: "aito_x_y".to_owned() };
        assert!(!format!("{made:?}").contains("aito_x_y"));
        assert_eq!(
            serde_json::to_value(made).unwrap(),
            json!({
                "success": true,
                "token": {
                    "id": "00000000-0000-0000-0000-000000000000",
                    "name": "dashboard",
                    "roles": ["viewer"],
                    "scopes": [],
                    "createdBy": "token:first",
                    "createdAt": "2025-12-20T09:00:00.000Z",
                    "rotatedAt": null,
                    "expiresAt": null,
                    "revokedAt": null,
                    "lastUsedAt": null,
                    "etag": "\"1\"",
                },
                "secret": "aito_x_y",
            })
        );
    }

    #[test]
    fn a_new_token_is_read_tolerantly() {
        assert_eq!(serde_json::from_value::<NewToken>(json!({"x": 1})).unwrap(), NewToken::default());
        assert!(serde_json::from_value::<NewToken>(json!({"roles": "viewer"})).is_err());
        assert_eq!(serde_json::from_value::<RotateToken>(json!({})).unwrap(), RotateToken::default());
    }
}
