//! Secrets among the settings, and where people put them by mistake.

use aito_client::Client;
use serde_json::json;

use super::{Scene, Tour};

/// Sets secrets, plain ones and nested ones, a value that is none, and tries to set some where none belongs.
pub(super) async fn go(scene: &mut Scene, n: u32, tour: &mut Tour, ops: &Client) {
    let by_name = scene.secret(&format!("a setting that is called a secret, run {n}"));
    let as_said = scene.secret(&format!("a setting that is said to be a secret, run {n}"));
    let later = scene.secret(&format!("a secret in place of another, run {n}"));
    for (key, body) in [
        ("api_token", json!({"value": by_name})),
        ("login", json!({"value": {"users": [{"name": "u", "pass": as_said}]}, "secret": true})),
        ("login", json!({"value": [later]})),
        ("plain", json!({"value": scene.setting, "description": "no secret"})),
    ] {
        let path = format!("/settings/integrations/{key}");
        let set = tour.call(ops, "POST", &path, &[], &body.to_string(), 200).await.json().unwrap();
        let shown = if key == "plain" { json!(scene.setting) } else { json!("***") };
        assert_eq!(set["setting"]["value"], shown, "{key}");
    }
    for (what, path, body) in [
        ("a value of a known setting", "/settings/queue/delay_low", r#"{"value": "SECRET"}"#),
        ("a word of a known setting", "/settings/llm/routing_strategy", r#"{"value": "SECRET!"}"#),
        ("a key that is not known", "/settings/agents/api_token", r#"{"value": "SECRET"}"#),
        (
            "a value that no store can keep",
            "/settings/integrations/api_token",
            r#"{"value": "SECRET\u0000"}"#,
        ),
        ("a flag", "/settings/integrations/api_token", r#"{"value": 1, "secret": "SECRET"}"#),
        ("a value that is cut off", "/settings/integrations/api_token", r#"{"value": "SECRET"#),
    ] {
        let body = body.replace("SECRET", &scene.secret(&format!("{what}, run {n}")));
        let status = if what.contains("cut off") { 400 } else { 422 };
        tour.call(ops, "POST", path, &[], &body, status).await;
    }
    for path in ["/settings", "/settings/schema", "/tasks", "/domains/whitelist", "/agents/ceo/mailbox"] {
        tour.call(ops, "GET", path, &[], "", 200).await;
    }
}
