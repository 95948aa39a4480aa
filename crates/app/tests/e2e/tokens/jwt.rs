//! Tokens of an identity provider: what they give, and that each part of them is needed.

use std::fs;

use aito_client::EventSocket;
use aito_harness::{Sandbox, Set, wait};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use super::{guarded, status};
use crate::{get, post, refused};

/// Signs what an identity provider says.
enum Signer {
    Secret(Vec<u8>),
    Key(Ed25519KeyPair),
}

impl Signer {
    fn jwt(&self, claims: &Value) -> String {
        let alg = match self {
            Self::Secret(_) => "HS256",
            Self::Key(_) => "EdDSA",
        };
        self.jwt_as(&json!({ "alg": alg, "typ": "JWT" }), claims)
    }

    fn jwt_as(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = match self {
            Self::Secret(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes()).as_ref().to_vec()
            }
            Self::Key(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A sandbox that believes a provider, with `key` and its value, beside its own tokens.
fn believing(key: &str, value: &str) -> Sandbox {
    let mut sandbox = guarded(Set::Embedded);
    for (name, value) in [
        (key, value),
        ("ISSUER", "https://id.example"),
        ("AUDIENCE", "aito"),
        ("ROLE_CLAIM", "access.roles"),
        ("LEEWAY", "0"),
    ] {
        sandbox.env.insert(format!("AITO_AUTH__JWT__{name}"), value.to_owned());
    }
    sandbox
}

fn claims(roles: Value) -> Value {
    let soon = wait::wall_millis() / 1000 + 600;
    json!({ "iss": "https://id.example", "aud": "aito", "exp": soon, "sub": "kim", "access": { "roles": roles } })
}

/// What holds of a provider's tokens however they are signed; `other` is none that is believed.
async fn words_of_a_provider_are_checked(sandbox: &Sandbox, signer: &Signer, other: &Signer) {
    let server = sandbox.start().await;
    let is = async |token: &str, path: &str| status(&server, token, path).await;
    let viewer = signer.jwt(&claims(json!(["viewer"])));
    assert_eq!(is(&viewer, "/agents").await, 200);
    assert_eq!(is(&viewer, "/tokens").await, 403, "its roles and no others");
    refused(&post(&server.client_with(&viewer), "/agents/ceo/start", "").await, 403);
    let admin = signer.jwt(&claims(json!(["admin"])));
    assert_eq!((is(&admin, "/tokens").await, is(&admin, "/agents").await), (200, 403));
    let both = signer.jwt(&claims(json!(["nothing known", "viewer", "admin"])));
    assert_eq!((is(&both, "/tokens").await, is(&both, "/agents").await), (200, 200));
    assert_eq!(is(&sandbox.first_token(), "/tokens").await, 200, "this installation's own count too");

    // Each part is needed, as it is asked for.
    let good = claims(json!(["viewer", "admin"]));
    let mut bad = Vec::new();
    for (part, wrong) in [
        ("iss", json!("https://id.example/")),
        ("aud", json!("others")),
        ("exp", json!(wait::wall_millis() / 1000 - 1)),
        ("exp", json!("2100-01-01T00:00:00Z")),
        ("access", json!({ "roles": "viewer admin" })),
        ("access", json!({ "roles": [] })),
        ("access", json!("admin")),
        ("sub", json!("")),
    ] {
        let (mut without, mut with) = (good.clone(), good.clone());
        without.as_object_mut().unwrap().remove(part);
        with[part] = wrong.clone();
        bad.push((format!("without {part}"), signer.jwt(&without)));
        bad.push((format!("{part}: {wrong}"), signer.jwt(&with)));
    }
    let mut roles_elsewhere = good.clone();
    roles_elsewhere["access"] = json!({});
    roles_elsewhere["roles"] = json!(["admin"]);
    bad.push(("roles elsewhere".into(), signer.jwt(&roles_elsewhere)));
    bad.push(("another key".into(), other.jwt(&good)));
    for alg in ["none", "HS512", "RS256", "HS384"] {
        bad.push((format!("alg {alg}"), signer.jwt_as(&json!({ "alg": alg }), &good)));
    }
    let whole = signer.jwt(&good);
    let (unsigned, _) = whole.rsplit_once('.').unwrap();
    bad.push(("no signature".into(), format!("{unsigned}.")));
    let (_, signature) = viewer.rsplit_once('.').unwrap();
    bad.push(("another's signature".into(), format!("{unsigned}.{signature}")));
    for (what, token) in &bad {
        for path in ["/agents", "/tokens", "/ws"] {
            assert_eq!(is(token, path).await, 401, "{what} on {path}");
        }
    }

    // A word that is no role gives nothing, and neither a seat nor an agent can be said.
    for roles in [json!("king"), json!(["seat:ceo"]), json!(["agent:ceo", "Viewer", "ADMIN"])] {
        let client = server.client_with(&signer.jwt(&claims(roles.clone())));
        for path in ["/agents", "/events", "/tokens", "/audit", "/metrics", "/ws", "/agents/ceo/history"] {
            refused(&get(&client, path).await, 403);
        }
        for path in ["/agents/ceo/heartbeat", "/agents/ceo/start", "/tokens", "/decisions/x/vote"] {
            refused(&post(&client, path, "{}").await, 403);
        }
        assert_eq!(post(&client, "/ws/tickets", "").await.status, 201, "{roles}");
        let ticket = client.ticket().await.unwrap().ticket;
        let socket = EventSocket::connect_with_ticket(&server.client(), &ticket, &[], None).await;
        assert_eq!(socket.unwrap_err().status(), Some(403), "{roles}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_shares_a_secret_is_believed_in_roles_and_not_without_each_part() {
    let secret = "0123456789abcdef0123456789abcdef";
    let sandbox = believing("SECRET", secret);
    let other = Signer::Secret(b"another0123456789abcdef012345678".to_vec());
    words_of_a_provider_are_checked(&sandbox, &Signer::Secret(secret.into()), &other).await;
    let shown = fs::read_to_string(sandbox.root().join("server.log")).unwrap();
    assert!(!shown.contains(secret), "{shown}");
    let mut short = sandbox.serve();
    short.env("AITO_AUTH__JWT__SECRET", &secret[1..]);
    let (status, _, why) = sandbox.run(short);
    assert!(!status.success() && why.contains("32 bytes") && !why.contains(&secret[1..]), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_publishes_keys_is_believed_in_roles_and_not_without_each_part() {
    let pair = || {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
    };
    let (own, other) = (pair(), pair());
    let public = URL_SAFE_NO_PAD.encode(own.public_key().as_ref());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": public }] });
    fs::write(&file, keys.to_string()).unwrap();
    let sandbox = believing("JWKS_FILE", &file.display().to_string());
    words_of_a_provider_are_checked(&sandbox, &Signer::Key(own), &Signer::Key(other)).await;
    // What everybody can read is no secret to sign with.
    let server = sandbox.start().await;
    for known in [public.clone().into_bytes(), URL_SAFE_NO_PAD.decode(&public).unwrap()] {
        let forged = Signer::Secret(known).jwt(&claims(json!(["admin"])));
        assert_eq!(status(&server, &forged, "/tokens").await, 401);
    }
}
