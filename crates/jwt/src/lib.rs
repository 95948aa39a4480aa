//! JSON Web Tokens (RFC 7519) as an optional way for operators to authenticate: verification only, nothing is issued.
//!
//! Invariants: a right signature alone is never enough, the token must also name the configured issuer and audience, an
//! expiry that has not passed, a subject and a role; which algorithm is used is fixed by the key, never by the token;
//! no key is taken from a token or fetched from where a token points; time is an argument; what a caller is told about
//! a refusal is always the same text; no secret is in any text that this crate makes. What a role may do is decided by
//! whoever asks: roles are plain strings here.

mod claims;
mod config;
mod file;
mod json;
mod keys;
mod provider;
mod refused;
mod translate;
mod verifier;

pub use claims::Claims;
pub use config::{JwtConfig, JwtConfigError, JwtKeys, KeysFault, MAX_LEEWAY};
pub use refused::JwtRefused;
pub use verifier::{JwtVerifier, MAX_TOKEN_BYTES};
