//! An issuer: keys that sign, their public sides as JSON Web Keys, tokens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aito_jwt::{Claims, JwtConfig, JwtConfigError, JwtKeys, JwtRefused, JwtVerifier};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use ring::{hmac, rsa};
use serde_json::{Value, json};

pub const ISSUER: &str = "https://issuer.example/realms/aito";
pub const AUDIENCE: &str = "aito";
pub const LEEWAY: Duration = Duration::from_secs(30);

/// A key that is in this repository and so protects nothing: 2048 bits, PKCS#8, base64.
const RSA_TEST_KEY: &str = include_str!("rsa_test_key.b64");

/// What signs.
pub enum Signer {
    Hs256(Vec<u8>),
    Rs256(RsaKeyPair),
    Ps256(RsaKeyPair),
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    pub fn hs256() -> Self {
        Self::Hs256(b"a secret of the tests, 32 bytes long".to_vec())
    }

    pub fn rs256() -> Self {
        Self::Rs256(rsa_test_key())
    }

    pub fn ps256() -> Self {
        Self::Ps256(rsa_test_key())
    }

    pub fn es256() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        Self::Es256(pair.unwrap())
    }

    pub fn eddsa() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::EdDsa(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    /// One of each kind.
    pub fn all() -> [Self; 5] {
        [Self::hs256(), Self::rs256(), Self::ps256(), Self::es256(), Self::eddsa()]
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rs256(_) => "RS256",
            Self::Ps256(_) => "PS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    /// The public side as a JSON Web Key with its algorithm.
    pub fn jwk(&self, kid: &str) -> Value {
        let mut key = match self {
            Self::Hs256(_) => panic!("a secret has no public side"),
            Self::Rs256(pair) | Self::Ps256(pair) => {
                let public = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "n": encoded(public.n), "e": encoded(public.e) })
            }
            Self::Es256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y) })
            }
            Self::EdDsa(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key()) }),
        };
        key["alg"] = self.algorithm().into();
        key["kid"] = kid.into();
        key["use"] = "sig".into();
        key
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Hs256(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
            Self::Rs256(pair) => rsa_signature(pair, &RSA_PKCS1_SHA256, message),
            Self::Ps256(pair) => rsa_signature(pair, &RSA_PSS_SHA256, message),
            Self::Es256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with the header that belongs to this key.
    pub fn token(&self, claims: &Value) -> String {
        self.token_of(&json!({ "typ": "JWT", "alg": self.algorithm() }), claims)
    }

    /// A token that names its key.
    pub fn token_named(&self, kid: &str, claims: &Value) -> String {
        self.token_of(&json!({ "alg": self.algorithm(), "kid": kid }), claims)
    }

    pub fn token_of(&self, header: &Value, claims: &Value) -> String {
        self.token_of_texts(&header.to_string(), &claims.to_string())
    }

    /// A signed token of any header and content.
    pub fn token_of_texts(&self, header: &str, content: &str) -> String {
        let message = format!("{}.{}", encoded(header), encoded(content));
        format!("{message}.{}", encoded(self.sign(message.as_bytes())))
    }

    /// A verifier that trusts this key alone, named `one` in a set.
    pub fn verifier(&self) -> (JwtVerifier, Option<KeySetFile>) {
        match self {
            Self::Hs256(secret) => (verifier(JwtKeys::Secret(secret.clone())).unwrap(), None),
            _ => {
                let file = KeySetFile::of(&[self.jwk("one")]);
                (verifier(file.keys()).unwrap(), Some(file))
            }
        }
    }
}

/// A file of keys in a directory of its own, which goes with it.
pub struct KeySetFile {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl KeySetFile {
    pub fn of(keys: &[Value]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        let file = Self { _dir: dir, path };
        file.replace(&set_of(keys));
        file
    }

    pub fn keys(&self) -> JwtKeys {
        JwtKeys::Jwks(self.path.clone())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts another file in its place, as a careful issuer does.
    pub fn replace(&self, text: &str) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &self.path).unwrap();
    }
}

pub fn set_of(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

pub fn verifier(keys: JwtKeys) -> Result<JwtVerifier, JwtConfigError> {
    JwtVerifier::new(JwtConfig {
        keys,
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        role_claim: "realm_access.roles".into(),
        leeway: LEEWAY,
    })
}

/// The time of the tests.
pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_900_000_000, 0).unwrap()
}

pub fn after(seconds: i64) -> DateTime<Utc> {
    now() + TimeDelta::seconds(seconds)
}

/// Claims that are enough.
pub fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": [AUDIENCE, "account"],
        "exp": after(300).timestamp(),
        "iat": now().timestamp(),
        "nbf": now().timestamp(),
        "sub": "8b0e1c9a",
        "realm_access": { "roles": ["operator", "auditor"] },
    })
}

/// The claims with one of them changed.
pub fn claims_with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

/// The claims without one of them.
pub fn claims_without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

pub fn judged(verifier: &JwtVerifier, token: &str) -> Result<Claims, JwtRefused> {
    verifier.verify(token, now())
}

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa_test_key() -> RsaKeyPair {
    let document = STANDARD.decode(RSA_TEST_KEY.split_whitespace().collect::<String>()).unwrap();
    RsaKeyPair::from_pkcs8(&document).unwrap()
}

fn rsa_signature(pair: &RsaKeyPair, how: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(how, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}
