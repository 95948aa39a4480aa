//! Why a token is refused.
//!
//! Invariant: the text for callers is one for all reasons, so that nobody learns from it how far a forged token came;
//! the reason is for the log, and nothing of the token is in it.

use std::fmt;

/// Why a token is refused. Shown as text it says nothing but that; the log gets [`JwtRefused::reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtRefused {
    /// It is longer than [`crate::MAX_TOKEN_BYTES`].
    TooLong,
    /// It is not three parts of base64url, or its header is no JSON object with a text `alg`, or names something twice.
    Malformed,
    /// Its header says that it is a token for something else (`typ`; RFC 8725, section 3.11).
    Type,
    /// Its header demands extensions to be understood (`crit`); none is.
    Critical,
    /// It names no key (`kid`), and there are several.
    KeyNotNamed,
    /// It names a key (`kid`) that is not there.
    UnknownKey,
    /// Its algorithm is not the key's; `none` never is.
    Algorithm,
    /// The signature is not the key's.
    Signature,
    /// It is signed, but what is signed is no JSON object, or names something twice.
    Claims,
    /// `exp` is missing, or is no time.
    Expiry,
    /// Its time is over.
    Expired,
    /// `nbf` or `iat` is there and is no time.
    Times,
    /// Its time has not come (`nbf`).
    NotYet,
    /// It says that it was issued in the future (`iat`).
    IssuedLater,
    /// `iss` is missing, or another one.
    Issuer,
    /// `aud` is missing, or does not name this installation.
    Audience,
    /// `sub` is missing, or is no text of 1 to 200 characters without control characters.
    Subject,
    /// The claim of the roles is missing, empty, or neither a role nor a list of roles.
    Roles,
}

impl JwtRefused {
    /// The reason, a fixed text per variant, for the log.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "too long",
            Self::Malformed => "malformed",
            Self::Type => "another type of token",
            Self::Critical => "critical header",
            Self::KeyNotNamed => "no key named",
            Self::UnknownKey => "unknown key",
            Self::Algorithm => "not the key's algorithm",
            Self::Signature => "wrong signature",
            Self::Claims => "malformed claims",
            Self::Expiry => "no usable expiry",
            Self::Expired => "expired",
            Self::Times => "malformed time",
            Self::NotYet => "not yet valid",
            Self::IssuedLater => "issued in the future",
            Self::Issuer => "another issuer",
            Self::Audience => "another audience",
            Self::Subject => "no usable subject",
            Self::Roles => "no usable role",
        }
    }
}

impl fmt::Display for JwtRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the token is not accepted")
    }
}

impl std::error::Error for JwtRefused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_the_same_whatever_the_reason() {
        let told =
            [JwtRefused::Signature, JwtRefused::Expired, JwtRefused::UnknownKey].map(|why| why.to_string());
        assert_eq!(told[0], told[1]);
        assert_eq!(told[1], told[2]);
        assert_ne!(JwtRefused::Signature.reason(), JwtRefused::Expired.reason());
    }
}
