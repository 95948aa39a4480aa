//! Who is let in: agents by their credential, operators on loopback; nobody else.

use aito_api::{AgentStatus, ProblemKind};
use aito_client::{Client, Endpoint, Options};
use aito_harness::Set;

use crate::{as_agent, credential, get, post, refused, sandbox, sandbox_with_leaky_ceo, until_status};

pub(crate) async fn only_the_present_incarnation_speaks_and_only_for_itself(set: Set) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let first = as_agent(&sandbox, &credential(&sandbox, 1).await);
    assert_eq!(post(&first, "/agents/ceo/heartbeat", "{}").await.status, 200);
    until_status(&client, "ceo", AgentStatus::Active).await;
    // Another agent's places, and what is for operators.
    for path in ["/agents/cmo/heartbeat", "/agents/cmo/history"] {
        refused(&post(&first, path, "{\"actionType\":\"idea\",\"summary\":\"s\"}").await, 403);
    }
    for path in ["/agents/ceo/start", "/agents/ceo/stop", "/agents/cmo/restart"] {
        refused(&post(&first, path, "").await, 403);
    }
    for path in ["/agents", "/events", "/agents/ceo", "/agents/ceo/logs", "/metrics", "/health/full"] {
        refused(&get(&first, path).await, 403);
    }
    assert_eq!(get(&first, "/agents/ceo/history").await.status, 200);
    refused(&get(&first, "/agents/cmo/history").await, 403);

    client.restart("ceo").await.unwrap();
    let past = post(&first, "/agents/ceo/heartbeat", "{}").await;
    refused(&past, 401);
    assert_eq!(past.json().unwrap()["type"], ProblemKind::PastIncarnation.type_uri());
    refused(&post(&first, "/agents/ceo/history", "{\"actionType\":\"idea\",\"summary\":\"s\"}").await, 401);
    let second = as_agent(&sandbox, &credential(&sandbox, 2).await);
    assert_eq!(post(&second, "/agents/ceo/heartbeat", "{}").await.status, 200);
    // The same over TCP: a credential counts wherever it is shown.
    let token = format!("Bearer {}", credential(&sandbox, 1).await);
    let answer = client.raw("GET", "/agents", &[("authorization", &token)], None).await.unwrap();
    refused(&answer, 401);
}

pub(crate) async fn a_credential_of_another_installation_or_changed_is_refused(set: Set) {
    let other = sandbox_with_leaky_ceo(set);
    let other_server = other.start().await;
    other_server.client().start("ceo").await.unwrap();
    let foreign = credential(&other, 1).await;
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    server.client().start("ceo").await.unwrap();
    let own = credential(&sandbox, 1).await;
    let forged = own.replacen(".1.", ".2.", 1);
    assert_ne!(forged, own);
    for bad in [foreign.as_str(), forged.as_str(), &own[..own.len() - 1], "aito-agent.x.1.y", "nonsense"] {
        refused(&post(&as_agent(&sandbox, bad), "/agents/ceo/heartbeat", "{}").await, 401);
    }
    let basic =
        server.client().raw("GET", "/agents", &[("authorization", "Basic eDp5")], None).await.unwrap();
    refused(&basic, 401);
}

pub(crate) async fn the_agents_socket_wants_a_credential_for_all_but_what_is_public(set: Set) {
    let sandbox = sandbox(set);
    let _server = sandbox.start().await;
    let nobody = Client::new(Endpoint::unix(sandbox.socket()), Options::default()).unwrap();
    for path in ["/health", "/ready", "/openapi.json"] {
        assert_eq!(get(&nobody, path).await.status, 200, "{path}");
    }
    for path in ["/agents", "/events", "/metrics", "/health/full", "/agents/ceo/history", "/ws"] {
        refused(&get(&nobody, path).await, 401);
    }
    refused(&post(&nobody, "/agents/ceo/start", "").await, 401);
    refused(&post(&nobody, "/agents/ceo/heartbeat", "{}").await, 401);
}

pub(crate) async fn pages_of_other_sites_reach_nothing(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1"] {
        refused(&client.raw("GET", "/agents", &[("host", host)], None).await.unwrap(), 403);
    }
    let origin = [("origin", "http://evil.example")];
    refused(&client.raw("POST", "/agents/ceo/start", &origin, None).await.unwrap(), 403);
    refused(&client.raw("GET", "/ws", &origin, None).await.unwrap(), 403);
    refused(&client.raw("POST", "/agents/ceo/start", &[("origin", "null")], None).await.unwrap(), 403);
    // Reading without effect is what the browser itself keeps from other sites.
    assert_eq!(client.raw("GET", "/agents", &origin, None).await.unwrap().status, 200);
    let own = server.address().to_owned();
    assert_eq!(client.raw("POST", "/agents/ceo/start", &[("origin", &own)], None).await.unwrap().status, 200);
}

pub(crate) async fn request_ids_are_kept_when_they_are_fit(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    let kept = client.raw("GET", "/health", &[("x-request-id", "abc-1")], None).await.unwrap();
    assert_eq!(kept.header("x-request-id"), Some("abc-1"));
    let replaced = client.raw("GET", "/health", &[("x-request-id", "a b;<script>")], None).await.unwrap();
    assert_ne!(replaced.header("x-request-id"), Some("a b;<script>"));
}
