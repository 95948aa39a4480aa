//! Tokens, tickets, audit and description against a server that the test scripts: method, path, headers, body and
//! answer of every call, and what a refusal means.
#![allow(clippy::unwrap_used)]

mod support;

use aito_api::{NewToken, ProblemKind, RotateToken};
use aito_client::{AuditQuery, Client, Error, Options, Page, Token};
use serde_json::{Value, json};
use std::time::Duration;
use support::{Reply, Request, Server};
use uuid::Uuid;

const AT: &str = "2025-12-20T10:00:00.000Z";
const ID: Uuid = Uuid::from_u128(0x0193_6f1e_5f3a_7c3c_9a51_0d2d_5f9a_1b2c);
const PATH: &str = "/tokens/01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c";
const SECRET: &str = "aito_01936f1e5f3a7c3c9a510d2d5f9a1b2c_c2VjcmV0";

fn client(server: &Server) -> Client {
    let options = Options {
        token: Some(Token::new("t0ken").unwrap()),
        timeout: Duration::from_secs(5),
        ..Options::default()
    };
    Client::new(server.endpoint.clone(), options).unwrap()
}

fn token() -> Value {
    json!({"id": ID, "name": "dashboard", "roles": ["viewer"], "scopes": ["seat:ceo"],
        "createdBy": "token:first", "createdAt": AT, "rotatedAt": null, "expiresAt": null, "revokedAt": null,
        "lastUsedAt": AT, "etag": "\"3\""})
}

/// What a call sent: method and target, `If-Match`, `Idempotency-Key` and body.
fn sent(server: &Server) -> (String, Option<String>, Option<String>, Option<Value>) {
    let request = server.requests().pop().unwrap();
    assert_eq!(request.header("authorization"), Some("Bearer t0ken"));
    let header = |name| request.header(name).map(str::to_owned);
    let body = (!request.body.is_empty()).then(|| {
        assert_eq!(request.header("content-type"), Some("application/json"));
        request.json()
    });
    (format!("{} {}", request.method, request.target), header("if-match"), header("idempotency-key"), body)
}

#[tokio::test]
async fn tokens_are_listed_a_page_at_a_time() {
    let server = Server::tcp(|_| Reply::Json(200, json!({"tokens": [token()], "nextCursor": "b"}))).await;
    let page = Page { limit: Some(1), cursor: Some("a".to_owned()) };
    let list = client(&server).tokens(&page).await.unwrap();
    assert_eq!((list.tokens[0].id, list.tokens[0].etag.as_str()), (ID, "\"3\""));
    assert_eq!(list.next_cursor.as_deref(), Some("b"));
    assert_eq!(sent(&server), ("GET /tokens?limit=1&cursor=a".to_owned(), None, None, None));
}

#[tokio::test]
async fn a_token_is_made_and_its_secret_is_told() {
    let made = json!({"success": true, "token": token(), "secret": SECRET});
    let server = Server::tcp(move |_| Reply::Json(201, made.clone())).await;
    let wanted = NewToken {
        name: Some("dashboard".to_owned()),
        roles: vec!["viewer".to_owned()],
        scopes: vec!["seat:ceo".to_owned()],
        expires_at: Some(AT.to_owned()),
    };
    let body = json!({"name": "dashboard", "roles": ["viewer"], "scopes": ["seat:ceo"], "expiresAt": AT});
    let answer = client(&server).create_token(&wanted).await.unwrap();
    assert_eq!((answer.secret.as_str(), answer.token.name.as_str()), (SECRET, "dashboard"));
    assert!(Token::new(answer.secret).is_ok(), "the secret is a credential");
    assert_eq!(sent(&server), ("POST /tokens".to_owned(), None, None, Some(body.clone())));
    client(&server).create_token_once(&wanted, "key-1").await.unwrap();
    assert_eq!(sent(&server), ("POST /tokens".to_owned(), None, Some("key-1".to_owned()), Some(body)));
}

#[tokio::test]
async fn a_token_is_rotated_in_the_state_that_was_seen() {
    let made = json!({"success": true, "token": token(), "secret": SECRET});
    let server = Server::tcp(move |_| Reply::Json(200, made.clone())).await;
    let rotation = RotateToken { overlap: Some(300) };
    let answer = client(&server).rotate_token(ID, &rotation, Some("\"3\"")).await.unwrap();
    assert_eq!(answer.secret, SECRET);
    let call = format!("POST {PATH}/rotate");
    assert_eq!(sent(&server), (call.clone(), Some("\"3\"".to_owned()), None, Some(json!({"overlap": 300}))));
    client(&server).rotate_token(ID, &RotateToken::default(), None).await.unwrap();
    assert_eq!(sent(&server), (call, None, None, Some(json!({}))));
}

#[tokio::test]
async fn a_token_is_ended_in_the_state_that_was_seen() {
    let server = Server::tcp(|_| Reply::Json(200, json!({"success": true}))).await;
    assert!(client(&server).revoke_token(ID, Some("\"3\"")).await.unwrap().success);
    assert_eq!(sent(&server), (format!("DELETE {PATH}"), Some("\"3\"".to_owned()), None, None));
    assert!(client(&server).revoke_token(ID, None).await.unwrap().success);
    assert_eq!(sent(&server), (format!("DELETE {PATH}"), None, None, None));
}

#[tokio::test]
async fn the_audit_is_filtered() {
    let server = Server::tcp(|_| {
        let entry = json!({"id": ID, "n": 7, "seal": "00", "at": AT, "actor": "token:a b",
            "credential": "token/1", "operation": "agents.start", "object": "/agents/ceo/start",
            "source": "unix", "requestId": "r", "outcome": "refused", "detail": "", "times": 2});
        Reply::Json(200, json!({"audit": [entry], "nextCursor": null}))
    })
    .await;
    let wanted = AuditQuery {
        actor: Some("token:a b".to_owned()),
        operation: Some("agents.start".to_owned()),
        outcome: Some("refused".to_owned()),
        page: Page { limit: Some(2), cursor: Some("c".to_owned()) },
    };
    let list = client(&server).audit(&wanted).await.unwrap();
    assert_eq!((list.audit[0].n, list.audit[0].times, list.next_cursor), (Some(7), 2, None));
    let target = "/audit?actor=token%3Aa+b&operation=agents.start&outcome=refused&limit=2&cursor=c";
    assert_eq!(sent(&server), (format!("GET {target}"), None, None, None));
    client(&server).audit(&AuditQuery::default()).await.unwrap();
    assert_eq!(sent(&server).0, "GET /audit");
}

#[tokio::test]
async fn a_ticket_is_fetched() {
    let made = json!({"success": true, "ticket": {"ticket": "aito-ticket.a.b", "expiresAt": AT}});
    let server = Server::tcp(move |_| Reply::Json(201, made.clone())).await;
    let ticket = client(&server).ticket().await.unwrap();
    assert_eq!((ticket.ticket.as_str(), ticket.expires_at), ("aito-ticket.a.b", AT.parse().unwrap()));
    assert_eq!(sent(&server), ("POST /ws/tickets".to_owned(), None, None, None));
}

#[tokio::test]
async fn the_description_comes_as_it_is() {
    let server = Server::tcp(|_| Reply::Json(200, json!({"openapi": "3.1.0", "x": [1]}))).await;
    assert_eq!(client(&server).openapi().await.unwrap(), json!({"openapi": "3.1.0", "x": [1]}));
    assert_eq!(sent(&server), ("GET /openapi.json".to_owned(), None, None, None));
}

/// Answers with the problem of the kind, as the server words it.
async fn refusing(kind: ProblemKind) -> Server {
    let refusal = move |request: &Request| {
        let body = json!({"type": kind.type_uri(), "title": kind.title(), "status": kind.status(),
            "detail": format!("lacks the role admin for {}", request.method), "success": false, "error": "no"});
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {} X\r\nretry-after: 9\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n",
            kind.status(),
            body.len()
        );
        Reply::Raw((head + &body).into_bytes())
    };
    Server::tcp(refusal).await
}

#[tokio::test]
async fn a_refusal_says_what_helps() {
    use ProblemKind::{
        Conflict, Forbidden, HeadersTooLarge, PreconditionFailed, TooManyRequests, Unauthorized, UriTooLong,
    };
    for kind in
        [Unauthorized, Forbidden, Conflict, PreconditionFailed, UriTooLong, TooManyRequests, HeadersTooLarge]
    {
        let server = refusing(kind).await;
        let error = client(&server).revoke_token(ID, Some("\"2\"")).await.unwrap_err();
        assert_eq!((error.problem_kind(), error.status()), (Some(kind), Some(kind.status())));
        assert_eq!(error.is_outdated(), kind == PreconditionFailed, "{kind:?}");
        assert_eq!(error.helps_to_wait(), kind == TooManyRequests, "{kind:?}");
        assert_eq!(error.is_refused_credential(), [Unauthorized, Forbidden].contains(&kind), "{kind:?}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
        let Error::Problem(problem) = error else { panic!("{kind:?} is no problem") };
        assert_eq!(problem.detail, "lacks the role admin for DELETE");
        assert_eq!(server.requests().len(), 1, "{kind:?} was sent again");
    }
}

#[tokio::test]
async fn a_secret_in_an_answer_of_another_shape_is_not_repeated() {
    let server =
        Server::tcp(|_| Reply::Json(200, json!({"success": true, "token": SECRET, "ticket": SECRET}))).await;
    let client = client(&server);
    let made = client.create_token(&NewToken::default()).await.unwrap_err();
    let rotated = client.rotate_token(ID, &RotateToken::default(), None).await.unwrap_err();
    let ticket = client.ticket().await.unwrap_err();
    for error in [made, rotated, ticket] {
        assert!(matches!(error, Error::Protocol(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("c2VjcmV0"), "{error:?}");
    }
}

#[tokio::test]
async fn a_state_that_no_header_can_carry_is_not_sent() {
    let server = Server::tcp(|_| Reply::Json(200, json!({"success": true}))).await;
    let error = client(&server).revoke_token(ID, Some("\"3\"\r\nx: y")).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    assert!(server.requests().is_empty());
}
