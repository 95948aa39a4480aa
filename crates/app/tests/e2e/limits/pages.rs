//! What pages in a browser may do: those of other sites nothing, unless they are allowed to, and by no name but the
//! server's own.

use std::collections::BTreeSet;

use aito_client::{Client, RawAnswer};
use aito_harness::Set;

use super::with;
use crate::{refused, sandbox, tokens::guarded};

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_read_nothing_unless_their_origin_is_allowed() {
    let asks = |origin: &str| {
        let method = "access-control-request-method";
        [
            ("origin", origin.to_owned()),
            (method, "POST".into()),
            ("access-control-request-headers", "authorization".into()),
        ]
    };
    let preflight = async |client: &Client, origin: &str| {
        let asks = asks(origin);
        let headers: Vec<_> = asks.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.raw("OPTIONS", "/agents/ceo/start", &headers, None).await.unwrap()
    };
    let allowed = |answer: &RawAnswer| answer.header("access-control-allow-origin").map(ToOwned::to_owned);
    let (board, evil) = ("https://board.example", "https://evil.example");

    let none = guarded(Set::Embedded);
    let server = none.start().await;
    let client = server.client_with(&none.first_token());
    for origin in [board, "null", server.address()] {
        let answer = client.raw("GET", "/agents", &[("origin", origin)], None).await.unwrap();
        assert_eq!((answer.status, allowed(&answer)), (200, None), "{origin}");
        assert_eq!(allowed(&preflight(&server.client(), origin).await), None, "{origin}");
    }
    refused(&client.raw("POST", "/agents/ceo/stop", &[("origin", board)], None).await.unwrap(), 403);

    let some = with(guarded(Set::Embedded), &[("CORS_ORIGINS", "https://board.example,http://b.example:81")]);
    let server = some.start().await;
    let client = server.client_with(&some.first_token());
    for origin in [board, "http://b.example:81"] {
        for path in ["/agents", "/tokens"] {
            let answer = client.raw("GET", path, &[("origin", origin)], None).await.unwrap();
            assert_eq!((answer.status, allowed(&answer).as_deref()), (200, Some(origin)), "{path}");
            assert!(answer.header("access-control-allow-credentials").is_none());
        }
        // Asking beforehand needs no credential.
        let answer = preflight(&server.client(), origin).await;
        assert_eq!((answer.status, allowed(&answer).as_deref()), (200, Some(origin)), "{answer:?}");
        let list = |name: &str| {
            let value = answer.header(name).unwrap_or_default().to_ascii_lowercase();
            value.split(',').map(|part| part.trim().to_owned()).collect::<BTreeSet<_>>()
        };
        assert!(list("access-control-allow-methods").contains("post"), "{answer:?}");
        assert!(list("access-control-allow-headers").contains("authorization"), "{answer:?}");
        let headers = [("origin", origin), ("sec-fetch-site", "cross-site")];
        let answer = client.raw("POST", "/agents/ceo/stop", &headers, None).await.unwrap();
        assert_eq!((answer.status, allowed(&answer).as_deref()), (200, Some(origin)));
    }
    for origin in
        [evil, "http://board.example", "https://board.example:8443", "https://sub.board.example", "null"]
    {
        let answer = client.raw("GET", "/agents", &[("origin", origin)], None).await.unwrap();
        assert_eq!(allowed(&answer), None, "{origin}");
        assert_eq!(allowed(&preflight(&server.client(), origin).await), None, "{origin}");
        for (method, path) in [("POST", "/agents/ceo/stop"), ("DELETE", "/tokens/x"), ("GET", "/ws")] {
            let answer = client.raw(method, path, &[("origin", origin)], None).await.unwrap();
            refused(&answer, 403);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_can_be_read_by_pages_of_an_allowed_origin() {
    let board = "https://board.example";
    let sandbox = with(guarded(Set::Embedded), &[("CORS_ORIGINS", board)]);
    let server = sandbox.start().await;
    let first = format!("Bearer {}", sandbox.first_token());
    for (status, method, path, token) in [
        (401, "GET", "/agents", "Bearer x"),
        (403, "POST", "/agents/ceo/heartbeat", first.as_str()),
        (404, "GET", "/agents/nobody", &first),
        (404, "GET", "/nowhere", &first),
        (405, "DELETE", "/agents", &first),
        (415, "POST", "/tokens", &first),
        (422, "GET", "/tokens?limit=0", &first),
    ] {
        let headers = [("origin", board), ("authorization", token)];
        let answer = server.client().raw(method, path, &headers, None).await.unwrap();
        refused(&answer, status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(board), "{status} {method} {path}");
        let varies = answer.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("origin"));
        assert!(varies, "{answer:?}");
        let readable = answer.header("access-control-expose-headers").unwrap_or_default();
        assert!(readable.contains("x-request-id") && readable.contains("retry-after"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_says_it_comes_from_another_site_changes_nothing() {
    // Where nobody needs a credential it is the only guard against a page that somebody visits.
    for sandbox in [sandbox(Set::Embedded), guarded(Set::Embedded)] {
        let server = sandbox.start().await;
        let client = server.client_with(&sandbox.first_token());
        let open = server.client();
        let callers = if sandbox.no_auth { vec![&client, &open] } else { vec![&client] };
        for caller in callers {
            for site in ["cross-site", "same-site"] {
                let headers = [("sec-fetch-site", site)];
                refused(&caller.raw("POST", "/agents/ceo/stop", &headers, None).await.unwrap(), 403);
                refused(&caller.raw("DELETE", "/tokens/x", &headers, None).await.unwrap(), 403);
                refused(&caller.raw("GET", "/ws", &headers, None).await.unwrap(), 403);
                assert_eq!(caller.raw("GET", "/agents", &headers, None).await.unwrap().status, 200);
            }
            for site in ["same-origin", "none"] {
                let answer =
                    caller.raw("POST", "/agents/ceo/stop", &[("sec-fetch-site", site)], None).await.unwrap();
                assert_eq!(answer.status, 200, "{site}");
            }
            let origin = [("origin", "https://evil.example")];
            refused(&caller.raw("POST", "/agents/ceo/stop", &origin, None).await.unwrap(), 403);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_to_its_own_names_only() {
    let plain = guarded(Set::Embedded);
    let server = plain.start().await;
    let client = server.client_with(&plain.first_token());
    let named = async |client: &Client, host: &str| {
        client.raw("GET", "/agents", &[("host", host)], None).await.unwrap()
    };
    for host in ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]"] {
        assert_eq!(named(&client, host).await.status, 200, "{host}");
    }
    for host in
        ["aito.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "x@localhost"]
    {
        // With a credential, without, and where it would need none.
        refused(&named(&client, host).await, 403);
        refused(&named(&server.client(), host).await, 403);
        refused(&client.raw("GET", "/health", &[("host", host)], None).await.unwrap(), 403);
    }
    drop(server);
    let told = with(guarded(Set::Embedded), &[("HOSTS", "aito.example,aito.internal")]);
    let server = told.start().await;
    let client = server.client_with(&told.first_token());
    for host in ["aito.example", "AITO.example:443", "aito.internal", "localhost"] {
        assert_eq!(named(&client, host).await.status, 200, "{host}");
    }
    for host in ["sub.aito.example", "aito.example.evil.example", "evil.example"] {
        refused(&named(&client, host).await, 403);
    }
    let own = [("host", "aito.example"), ("origin", "https://aito.example")];
    assert_eq!(client.raw("POST", "/agents/ceo/stop", &own, None).await.unwrap().status, 200);
}
