//! In which roles the API is fuzzed, how a token of each is made, and what a role cannot be let do.
//!
//! Invariant: roles and exclusions are data; a new one is one more row.

use std::fs;

use aito_client::{Client, Options, Token};
use serde_json::{Value, json};

use super::document::{Document, Operation};
use crate::{Sandbox, Server, sandbox::AGENTS};

/// Who calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Role {
    /// On the command line and in what is told.
    pub(super) name: &'static str,
    /// How it is let in.
    pub(super) access: Access,
}

/// How a caller is let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// By a server that asks for no credential and lets everybody do everything.
    Open,
    /// By a token with these roles and, besides, these scopes.
    Token { roles: &'static [&'static str], scopes: &'static [&'static str] },
}

/// Every role, in the order in which they run.
pub(super) const ROLES: &[Role] = &[
    Role { name: "open", access: Access::Open },
    Role { name: "viewer", access: Access::Token { roles: &["viewer"], scopes: &[] } },
    Role { name: "operator", access: Access::Token { roles: &["operator"], scopes: &[] } },
    Role { name: "human", access: Access::Token { roles: &["human"], scopes: &[] } },
    Role { name: "admin", access: Access::Token { roles: &["admin"], scopes: &[] } },
    Role { name: "operator-human", access: Access::Token { roles: &["operator", "human"], scopes: &[] } },
    Role { name: "human-of-a-seat", access: Access::Token { roles: &["human"], scopes: &["seat:ceo"] } },
];

/// What would harm the run itself.
struct Exclusion {
    method: &'static str,
    path: &'static str,
    /// Only who has one of these roles could do it, so only they are kept from it.
    roles: &'static [&'static str],
    why: &'static str,
}

const EXCLUDED: &[Exclusion] = &[
    Exclusion {
        method: "DELETE",
        path: "/tokens/{id}",
        roles: &["admin"],
        why: "ids stand in answers, and one of them is that of the token in use",
    },
    Exclusion {
        method: "POST",
        path: "/tokens/{id}/rotate",
        roles: &["admin"],
        why: "ids stand in answers, and one of them is that of the token in use",
    },
];

/// What a role is kept from, with the reason; only what the description has.
pub(super) fn excluded(role: &Role, document: &Document) -> Vec<(Operation, &'static str)> {
    let Access::Token { roles, .. } = role.access else { return Vec::new() };
    EXCLUDED
        .iter()
        .filter(|one| one.roles.iter().any(|role| roles.contains(role)))
        .filter(|one| document.has(one.method, one.path))
        .map(|one| (Operation::new(one.method, one.path), one.why))
        .collect()
}

/// A new token of a role; none where none is asked for. `first` is the installation's own.
///
/// # Errors
/// When the server makes none.
pub(super) async fn token(
    server: &Server,
    first: Option<&str>,
    role: &Role,
) -> Result<Option<String>, String> {
    match (wish(role), first) {
        (Some(wish), Some(first)) => make(server, first, &wish).await.map(Some),
        _ => Ok(None),
    }
}

/// The token that a server leaves at its first start; none where none is asked for.
///
/// # Errors
/// When there is none.
pub(super) fn first_token(sandbox: &Sandbox, role: &Role) -> Result<Option<String>, String> {
    if role.access == Access::Open {
        return Ok(None);
    }
    let file = sandbox.data_dir().join("first-token");
    let text = fs::read_to_string(&file).map_err(|why| format!("cannot read {}: {why}", file.display()))?;
    Ok(Some(text.trim().to_owned()))
}

/// Starts every agent once, in whose name nothing can be done before.
///
/// # Errors
/// When one does not start.
pub(super) async fn start_agents(server: &Server, first: Option<&str>) -> Result<(), String> {
    let token = match first {
        Some(first) => {
            Some(make(server, first, &json!({"name": "fuzz-start", "roles": ["operator"]})).await?)
        }
        None => None,
    };
    let client = client(server, token.as_deref())?;
    for agent in AGENTS {
        client.start(agent).await.map_err(|why| format!("cannot start {agent}: {why}"))?;
    }
    Ok(())
}

async fn make(server: &Server, first: &str, wish: &Value) -> Result<String, String> {
    let answer = client(server, Some(first))?
        .raw("POST", "/tokens", &[("content-type", "application/json")], Some(wish.to_string().into_bytes()))
        .await
        .map_err(|why| format!("no token for {wish}: {why}"))?;
    let given = answer.json().ok().and_then(|body| Some(body["secret"].as_str()?.to_owned()));
    match given {
        Some(token) if answer.status == 201 => Ok(token),
        // Not the body of a success: a token may stand in it.
        _ if answer.status < 300 => Err(format!("no token for {wish}: {} without one", answer.status)),
        _ => {
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            Err(format!("no token for {wish}: {} {said}", answer.status))
        }
    }
}

fn client(server: &Server, token: Option<&str>) -> Result<Client, String> {
    let endpoint = server.address().parse().map_err(|why| format!("{}: {why}", server.address()))?;
    let token = token.map(Token::new).transpose().map_err(|why| why.to_string())?;
    Client::new(endpoint, Options { token, ..Options::default() }).map_err(|why| why.to_string())
}

/// The body of `POST /tokens` for a role.
fn wish(role: &Role) -> Option<Value> {
    let Access::Token { roles, scopes } = &role.access else { return None };
    Some(json!({"name": format!("fuzz-{}", role.name), "roles": roles, "scopes": scopes}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> &'static Role {
        ROLES.iter().find(|role| role.name == name).unwrap()
    }

    #[test]
    fn names_are_unique() {
        for (place, one) in ROLES.iter().enumerate() {
            assert!(ROLES[..place].iter().all(|other| other.name != one.name), "{}", one.name);
        }
    }

    #[test]
    fn a_token_is_asked_for_by_roles_and_scopes() {
        assert_eq!(wish(role("open")), None);
        assert_eq!(
            wish(role("viewer")),
            Some(json!({"name": "fuzz-viewer", "roles": ["viewer"], "scopes": []}))
        );
        assert_eq!(
            wish(role("human-of-a-seat")),
            Some(json!({"name": "fuzz-human-of-a-seat", "roles": ["human"], "scopes": ["seat:ceo"]}))
        );
    }

    #[test]
    fn only_who_could_harm_the_run_is_kept_from_it_and_only_where_it_is_possible() {
        let with = Document::read(r#"{"paths":{"/tokens/{id}":{"delete":{}},"/a":{"get":{}}}}"#).unwrap();
        let without = Document::read(r#"{"paths":{"/a":{"get":{}}}}"#).unwrap();
        let kept: Vec<_> = excluded(role("admin"), &with).into_iter().map(|(one, _)| one).collect();
        assert_eq!(kept, [Operation::new("DELETE", "/tokens/{id}")]);
        assert!(excluded(role("viewer"), &with).is_empty());
        assert!(excluded(role("open"), &with).is_empty());
        assert!(excluded(role("admin"), &without).is_empty());
    }
}
