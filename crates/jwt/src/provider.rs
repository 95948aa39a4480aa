//! What jsonwebtoken computes with: ring, which TLS uses too, so that no other cryptography comes into the tree.
//!
//! Invariants: it verifies and never signs; HS256, RS256, PS256, ES256 and EdDSA, each with its own kind of key;
//! anything else is an error, never a panic.

use std::sync::OnceLock;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    // What only the making of keys and thumbprints asks for.
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(unsupported()),
        rsa_pub_components_from_public_key: |_| Err(unsupported()),
        ec_pub_components_from_private_key: |_, _| Err(unsupported()),
        ed_pub_components_from_private_key: |_, _| Err(unsupported()),
        compute_digest: |_, _| Err(unsupported()),
    },
};

/// Makes ring what the library computes with in this process. Whether it is: something else may have been first.
pub(crate) fn install() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| PROVIDER.install_default().is_ok())
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(unsupported())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let check = match (algorithm, key.family(), key.kind()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(secret)) => {
            Check::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret))
        }
        (Algorithm::RS256, AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Check::Rsa(&RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
        }
        (Algorithm::PS256, AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Check::Rsa(&RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
        }
        (Algorithm::ES256, AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => {
            Check::Point(&ECDSA_P256_SHA256_FIXED, point.clone())
        }
        (Algorithm::EdDSA, AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) => {
            Check::Point(&ED25519, point.clone())
        }
        _ => return Err(unsupported()),
    };
    Ok(Box::new(RingVerifier { algorithm: *algorithm, check }))
}

fn unsupported() -> Error {
    ErrorKind::UnsupportedAlgorithm.into()
}

struct RingVerifier {
    algorithm: Algorithm,
    check: Check,
}

enum Check {
    Secret(hmac::Key),
    Rsa(&'static ring::signature::RsaParameters, RsaPublicKeyComponents<Vec<u8>>),
    Point(&'static dyn VerificationAlgorithm, Vec<u8>),
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        match &self.check {
            Check::Secret(key) => hmac::verify(key, message, signature),
            Check::Rsa(how, key) => key.verify(how, message, signature),
            Check::Point(how, key) => UnparsedPublicKey::new(*how, key).verify(message, signature),
        }
        .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_algorithms_of_different_kinds_do_not_go_together() {
        let secret = DecodingKey::from_secret(&[7; 32]);
        let rsa = DecodingKey::from_rsa_raw_components(&[0xff; 256], &[1, 0, 1]);
        let der = DecodingKey::from_rsa_der(&[0x30; 64]);
        let ec = DecodingKey::from_ec_der(&[4; 65]);
        let ed = DecodingKey::from_ed_der(&[9; 32]);
        let all = [
            Algorithm::HS256,
            Algorithm::HS384,
            Algorithm::HS512,
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
            Algorithm::ES256,
            Algorithm::ES384,
            Algorithm::EdDSA,
        ];
        let fit = |key: &DecodingKey| -> Vec<Algorithm> {
            all.into_iter().filter(|algorithm| verifier(algorithm, key).is_ok()).collect()
        };
        assert_eq!(fit(&secret), [Algorithm::HS256]);
        assert_eq!(fit(&rsa), [Algorithm::RS256, Algorithm::PS256]);
        assert_eq!(fit(&der), []);
        assert_eq!(fit(&ec), [Algorithm::ES256]);
        assert_eq!(fit(&ed), [Algorithm::EdDSA]);
    }

    #[test]
    fn nothing_is_signed_here() {
        let key = EncodingKey::from_secret(&[7; 32]);
        assert!(no_signer(&Algorithm::HS256, &key).is_err());
    }

    #[test]
    fn installing_twice_is_fine() {
        assert!(install());
        assert!(install());
    }
}
