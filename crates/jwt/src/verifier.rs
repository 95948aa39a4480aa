//! A token from its text to its claims.
//!
//! Invariants: the header chooses among the configured keys and nothing else; claims are looked at only after the
//! signature was right; every token ends as claims or as a refusal, none as a panic.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use crate::claims::{Claims, Expected};
use crate::config::{JwtConfig, JwtConfigError, JwtKeys};
use crate::file::KeyFile;
use crate::json::Unique;
use crate::keys::KeySet;
use crate::provider;
use crate::refused::JwtRefused;
use crate::translate;

/// The longest token that is looked at, in bytes: 8 KiB.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What a header may call its token (`typ`), in lower case; without `typ` it is the first.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// Verifies tokens; any number of threads may at once.
pub struct JwtVerifier {
    expected: Expected,
    keys: Keys,
}

enum Keys {
    Secret(Arc<KeySet>),
    File(KeyFile),
}

impl JwtVerifier {
    /// A verifier; a file of keys is read here, which blocks.
    ///
    /// # Errors
    /// When the configuration cannot be used, with what is wrong.
    pub fn new(config: JwtConfig) -> Result<Self, JwtConfigError> {
        config.check()?;
        if !provider::install() {
            return Err(JwtConfigError::Provider);
        }
        let keys = match config.keys {
            JwtKeys::Secret(secret) => Keys::Secret(Arc::new(KeySet::secret(&secret))),
            JwtKeys::Jwks(path) => Keys::File(KeyFile::open(path)?),
        };
        let expected = Expected {
            issuer: config.issuer,
            audience: config.audience,
            role_claim: config.role_claim,
            leeway: config.leeway,
        };
        Ok(Self { expected, keys })
    }

    /// The claims of a token at a time, without `Bearer` or white space around it.
    ///
    /// It only computes, except that with a file of keys one call in 5 s of `now` asks for the file's state, and reads
    /// it if it has changed, which blocks; calls at the same time go on with the keys there are.
    ///
    /// # Errors
    /// [`JwtRefused`], one text for callers, a reason for the log.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, JwtRefused> {
        let header = Header::of(token)?;
        let keys = match &self.keys {
            Keys::Secret(keys) => Arc::clone(keys),
            Keys::File(file) => file.keys(now),
        };
        let key = keys.choose(header.key.as_deref())?;
        if header.algorithm.parse::<Algorithm>().ok() != Some(key.algorithm) {
            return Err(JwtRefused::Algorithm);
        }
        let signed = jsonwebtoken::decode::<Unique>(token, &key.key, &signature_only(key.algorithm))
            .map_err(|error| translate::refusal(&error))?;
        let claims = signed.claims.into_members().ok_or(JwtRefused::Claims)?;
        self.expected.claims(&claims, now)
    }
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// What is needed of a header to choose the key, and whether the key may be used at all.
struct Header {
    algorithm: String,
    key: Option<String>,
}

impl Header {
    fn of(token: &str) -> Result<Self, JwtRefused> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtRefused::TooLong);
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, _, _] = parts[..] else { return Err(JwtRefused::Malformed) };
        if !parts.iter().all(|part| is_base64url(part)) {
            return Err(JwtRefused::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(header).map_err(|_| JwtRefused::Malformed)?;
        let read: Unique = serde_json::from_slice(&bytes).map_err(|_| JwtRefused::Malformed)?;
        let members = read.into_members().ok_or(JwtRefused::Malformed)?;
        if members.contains_key("crit") {
            return Err(JwtRefused::Critical);
        }
        if let Some(kind) = text(&members, "typ")?
            && !TYPES.contains(&kind.to_ascii_lowercase().as_str())
        {
            return Err(JwtRefused::Type);
        }
        let algorithm = text(&members, "alg")?.ok_or(JwtRefused::Malformed)?;
        Ok(Self { algorithm, key: text(&members, "kid")? })
    }
}

fn is_base64url(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A header's member that is a text if it is there.
fn text(members: &Map<String, Value>, name: &str) -> Result<Option<String>, JwtRefused> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(JwtRefused::Malformed),
    }
}

/// The library checks the signature under this one algorithm. What is claimed is checked here, since the library asks
/// the system's clock and accepts missing and listed issuers.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}
