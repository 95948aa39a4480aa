//! What the library's errors mean.
//!
//! Invariant: pure; whatever is not known is a refusal too.

use jsonwebtoken::errors::{Error, ErrorKind};

use crate::refused::JwtRefused;

/// Why the library refused a token whose header was understood and whose algorithm is the key's.
pub(crate) fn refusal(error: &Error) -> JwtRefused {
    match error.kind() {
        ErrorKind::InvalidSignature => JwtRefused::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => JwtRefused::Algorithm,
        // The header was JSON before, so these are the claims.
        ErrorKind::Json(_) | ErrorKind::Utf8(_) => JwtRefused::Claims,
        _ => JwtRefused::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_reason() {
        let json = serde_json::from_str::<bool>("x").unwrap_err();
        for (error, reason) in [
            (ErrorKind::InvalidSignature.into(), JwtRefused::Signature),
            (ErrorKind::InvalidAlgorithm.into(), JwtRefused::Algorithm),
            (ErrorKind::UnsupportedAlgorithm.into(), JwtRefused::Algorithm),
            (json.into(), JwtRefused::Claims),
            (ErrorKind::InvalidToken.into(), JwtRefused::Malformed),
            (ErrorKind::Provider("novel".into()).into(), JwtRefused::Malformed),
        ] {
            assert_eq!(refusal(&error), reason, "{error}");
        }
    }
}
