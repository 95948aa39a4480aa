//! What the log says of the file of keys.
//!
//! Invariant: one test in a process of its own, since a log is the process's.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aito_jwt::{JwtConfig, JwtKeys, JwtVerifier};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta};
use serde_json::json;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The lines since the last call.
    fn lines(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn file_that_cannot_be_used_any_more_is_warned_of_once_per_reason_without_its_content() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": URL_SAFE_NO_PAD.encode([9; 32]) });
    let good = json!({ "keys": [key.clone(), { "kty": "EC", "crv": "P-384", "kid": "two" }] }).to_string();
    std::fs::write(&path, &good).unwrap();
    let verifier = JwtVerifier::new(JwtConfig {
        keys: JwtKeys::Jwks(path.clone()),
        issuer: "https://issuer.example".into(),
        audience: "aito".into(),
        role_claim: "role".into(),
        leeway: Duration::ZERO,
    })
    .unwrap();
    let said = log.lines();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("INFO") && said[0].contains("key 2 (\"two\") is of no kind that is used here"));

    let mut looks = 0;
    let mut said_when_looked_at = || {
        looks += 1;
        let now = DateTime::from_timestamp(1_900_000_000, 0).unwrap() + TimeDelta::seconds(5 * looks);
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "EdDSA" }).to_string());
        assert!(verifier.verify(&format!("{header}.e30.AAAA"), now).is_err());
        log.lines()
    };
    assert_eq!(said_when_looked_at(), Vec::<String>::new());

    std::fs::remove_file(&path).unwrap();
    let said = said_when_looked_at();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("WARN") && said[0].contains(&path.display().to_string()), "{said:?}");
    assert_eq!(said_when_looked_at(), Vec::<String>::new());

    let mut private = key;
    private["d"] = "cHJpdmF0ZQ".into();
    std::fs::write(&path, json!({ "keys": [private] }).to_string()).unwrap();
    let said = said_when_looked_at();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("WARN") && said[0].contains("has the private part `d`"), "{said:?}");
    assert!(!said[0].contains("cHJpdmF0ZQ"), "{said:?}");
    assert_eq!(said_when_looked_at(), Vec::<String>::new());

    std::fs::write(&path, &good).unwrap();
    let said = said_when_looked_at();
    assert!(said.iter().any(|line| line.contains("were read again")), "{said:?}");
    assert!(said.iter().all(|line| line.contains("INFO")), "{said:?}");
}
