//! What verification needs to know, and why it may refuse it.
//!
//! Invariant: nothing here shows a secret or a private part of a key.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The longest leeway that may be configured: 5 minutes. More would make a token's expiry a suggestion.
pub const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// The shortest secret for HS256, in bytes (RFC 7518, section 3.2).
const SHORTEST_SECRET: usize = 32;

/// What verification needs to know. Nothing has a default: each part decides who gets in.
#[derive(Debug, Clone)]
pub struct JwtConfig {
    /// What signatures are checked with.
    pub keys: JwtKeys,
    /// What a token's `iss` must equal, byte for byte. Not empty.
    pub issuer: String,
    /// What a token's `aud` must equal or contain, byte for byte. Not empty.
    pub audience: String,
    /// The claim that holds the roles: the name of a claim, which may itself contain dots, or else a path of names
    /// joined by dots, as `realm_access.roles`. Not empty, no empty name in a path.
    pub role_claim: String,
    /// How far the clocks of issuer and server may be apart; at most [`MAX_LEEWAY`].
    pub leeway: Duration,
}

/// What signatures are checked with.
#[derive(Clone)]
pub enum JwtKeys {
    /// A secret shared with the issuer: HS256 and nothing else. At least 32 bytes. The token's `kid` is ignored, since
    /// there is nothing to choose.
    Secret(Vec<u8>),
    /// A file with a JSON Web Key Set (RFC 7517) of public keys, at most 1 MiB: RSA of 2048 to 8192 bits (`alg` RS256 or
    /// PS256, without `alg` RS256), P-256 (ES256) and Ed25519 (EdDSA). Keys of other kinds and keys that are not for
    /// signatures are passed over; a symmetric key or a private part refuses the file. Several keys each need a `kid`.
    ///
    /// It is read at construction and again when it has changed, which is looked at no more often than every 5 s. A
    /// file that cannot be used any more leaves the keys as they were and is warned of.
    Jwks(PathBuf),
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwtConfigError {
    /// The secret is too short to be one.
    #[error("the secret has {bytes} bytes: HS256 needs at least {SHORTEST_SECRET}")]
    SecretTooShort {
        /// How long it is.
        bytes: usize,
    },
    /// A part without which every token of the issuer would be accepted, or none.
    #[error("{what} must not be empty")]
    Empty {
        /// The part.
        what: &'static str,
    },
    /// The path of the role claim has an empty name in it.
    #[error("the role claim {path:?} has an empty name: a path is names joined by single dots")]
    RoleClaim {
        /// The path.
        path: String,
    },
    /// The leeway is too long.
    #[error("the leeway is {} s: at most {} s are allowed", .leeway.as_secs(), MAX_LEEWAY.as_secs())]
    Leeway {
        /// How long it is.
        leeway: Duration,
    },
    /// The file of keys cannot be used.
    #[error("the key set {} cannot be used: {fault}", .path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: KeysFault,
    },
    /// Something else in this process has chosen what the library computes signatures with, which must be ring.
    #[error("another cryptographic provider for tokens is installed in this process")]
    Provider,
}

/// What is wrong with a file of keys. A `key` is named by its place in the set, from 1, and its `kid` if it has one.
#[derive(Debug, thiserror::Error)]
pub enum KeysFault {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(std::io::Error),
    /// It is a directory, a pipe or the like.
    #[error("it is no regular file")]
    NoFile,
    /// It is longer than a set of keys can be.
    #[error("it is longer than {most} bytes")]
    TooLong {
        /// How long it may be.
        most: u64,
    },
    /// It is no JSON object with a list `keys`, or names something twice.
    #[error("it is no JSON Web Key Set: {0}")]
    NoKeySet(String),
    /// It holds a symmetric key: whoever reads the file could sign.
    #[error("{key} is symmetric: a key set holds public keys only")]
    Symmetric {
        /// The key.
        key: String,
    },
    /// It holds a private part of a key: whoever reads the file could sign.
    #[error("{key} has the private part `{member}`: a key set holds public keys only, replace this key")]
    Private {
        /// The key.
        key: String,
        /// The name of the part.
        member: &'static str,
    },
    /// An RSA key is shorter or longer than what is accepted.
    #[error("{key} has {bits} bits: RSA keys need 2048 to 8192")]
    Size {
        /// The key.
        key: String,
        /// The length of its modulus.
        bits: usize,
    },
    /// A key is none.
    #[error("{key} is malformed: {what}")]
    Malformed {
        /// The key.
        key: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A key among several could never be chosen.
    #[error("{key} has no `kid`, which each of several keys needs")]
    Unnamed {
        /// The key.
        key: String,
    },
    /// Two keys have one name.
    #[error("{key} has the `kid` of another one")]
    Twice {
        /// The second of them.
        key: String,
    },
    /// No key is left that a signature could be checked with.
    #[error("it holds no key that can be used{}", passed_over(.0))]
    NoKey(Vec<String>),
}

impl JwtConfig {
    /// Whether everything but the keys can be used.
    pub(crate) fn check(&self) -> Result<(), JwtConfigError> {
        for (what, value) in [
            ("the issuer", &self.issuer),
            ("the audience", &self.audience),
            ("the role claim", &self.role_claim),
        ] {
            if value.is_empty() {
                return Err(JwtConfigError::Empty { what });
            }
        }
        if self.role_claim.split('.').any(str::is_empty) {
            return Err(JwtConfigError::RoleClaim { path: self.role_claim.clone() });
        }
        if self.leeway > MAX_LEEWAY {
            return Err(JwtConfigError::Leeway { leeway: self.leeway });
        }
        match &self.keys {
            JwtKeys::Secret(secret) if secret.len() < SHORTEST_SECRET => {
                Err(JwtConfigError::SecretTooShort { bytes: secret.len() })
            }
            JwtKeys::Secret(_) | JwtKeys::Jwks(_) => Ok(()),
        }
    }
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret(***)"),
            Self::Jwks(path) => f.debug_tuple("Jwks").field(path).finish(),
        }
    }
}

fn passed_over(keys: &[String]) -> String {
    if keys.is_empty() { String::new() } else { format!("; passed over: {}", keys.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> JwtConfig {
        JwtConfig {
            keys: JwtKeys::Secret(b"0123456789abcdef0123456789abcdef".to_vec()),
            issuer: "https://issuer.example".into(),
            audience: "aito".into(),
            role_claim: "realm_access.roles".into(),
            leeway: MAX_LEEWAY,
        }
    }

    fn refused(change: impl FnOnce(&mut JwtConfig)) -> String {
        let mut config = good();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn good_configuration_is_accepted() {
        good().check().unwrap();
    }

    #[test]
    fn short_secret_is_refused_with_what_it_needs() {
        let told = refused(|config| config.keys = JwtKeys::Secret(vec![7; 31]));
        assert_eq!(told, "the secret has 31 bytes: HS256 needs at least 32");
    }

    #[test]
    fn nothing_that_decides_who_gets_in_may_be_empty() {
        assert!(refused(|config| config.issuer.clear()).contains("issuer"));
        assert!(refused(|config| config.audience.clear()).contains("audience"));
        assert!(refused(|config| config.role_claim.clear()).contains("role claim"));
        for path in [".", "a.", ".a", "a..b"] {
            assert!(refused(|config| config.role_claim = path.into()).contains("empty name"), "{path}");
        }
    }

    #[test]
    fn leeway_has_a_limit() {
        let told = refused(|config| config.leeway = MAX_LEEWAY + Duration::from_secs(1));
        assert_eq!(told, "the leeway is 301 s: at most 300 s are allowed");
    }

    #[test]
    fn secret_is_not_shown() {
        let config =
            JwtConfig { keys: JwtKeys::Secret(b"correct horse battery staple ....".to_vec()), ..good() };
        let shown = format!("{config:?}");
        assert!(shown.contains("Secret(***)") && !shown.contains("99, 111"), "{shown}");
    }
}
