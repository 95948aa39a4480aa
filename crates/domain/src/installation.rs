//! What an installation is: an id, a log epoch, a key, and where its state and its agents live.
//!
//! Invariant: the key is never shown, stored in the store or logged; only its fingerprint is.

use std::{fmt, str::FromStr};

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::id::InstallationId;

/// The secret that every other secret of the installation derives from.
#[derive(Clone, PartialEq, Eq)]
pub struct InstallationKey([u8; 32]);

impl InstallationKey {
    /// Takes 256 random bits.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one file that keeps them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key of its own for one purpose (HKDF-SHA256, RFC 5869, `purpose` as info).
    #[must_use]
    pub fn subkey(&self, purpose: &str) -> [u8; 32] {
        let mut out = [0; 32];
        // 32 bytes are far below HKDF's bound of 255 blocks, the only reason for which expanding can fail.
        if Hkdf::<Sha256>::new(None, &self.0).expand(purpose.as_bytes(), &mut out).is_err() {
            unreachable!("32 bytes are within HKDF's bound");
        }
        out
    }

    /// 16 hexadecimal digits by which a key is recognised without being shown.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.subkey("aito fingerprint v1")[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for InstallationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstallationKey({})", self.fingerprint())
    }
}

/// Names one life of the event log: another one begins when a backup is restored, so that positions of the
/// old one are recognised as such. 4 to 16 of `a-z` and `0-9`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(String);

impl Epoch {
    /// A new epoch's name from 40 random bits.
    #[must_use]
    pub fn from_random(bytes: [u8; 5]) -> Self {
        Self(base32(&bytes))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no [`Epoch`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an epoch is 4 to 16 of a-z and 0-9")]
pub struct BadEpoch;

impl FromStr for Epoch {
    type Err = BadEpoch;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (4..=16).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if good { Ok(Self(text.to_owned())) } else { Err(BadEpoch) }
    }
}

impl TryFrom<String> for Epoch {
    type Error = BadEpoch;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Epoch> for String {
    fn from(value: Epoch) -> Self {
        value.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which runtime an installation keeps its agents in; chosen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// Local processes of the server's own user.
    Process,
    /// Containers of a Docker engine.
    Docker,
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Docker => "docker",
        })
    }
}

/// What the store knows of its installation. Written once, at the first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallationRecord {
    /// Who.
    pub id: InstallationId,
    /// The present life of the event log.
    pub epoch: Epoch,
    /// [`InstallationKey::fingerprint`].
    pub key_fingerprint: String,
    /// Where agents run.
    pub runtime: RuntimeKind,
    /// The engine that they run on, as the runtime names it; empty until one has answered.
    pub engine_id: String,
}

/// RFC 4648 base 32 in lower case, without padding: fit for names.
pub(crate) fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut out = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut buffer, mut bits) = (0_u32, 0);
    for &byte in bytes {
        buffer = (buffer << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subkeys_differ_by_purpose_and_the_key_is_not_printed() {
        let key = InstallationKey::new([7; 32]);
        assert_ne!(key.subkey("a"), key.subkey("b"));
        assert_ne!(key.fingerprint(), InstallationKey::new([8; 32]).fingerprint());
        assert!(!format!("{key:?}").contains("7, 7"));
        assert_eq!(key.fingerprint().len(), 16);
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        for (plain, coded) in
            [("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("fooba", "mzxw6ytb"), ("foobar", "mzxw6ytboi")]
        {
            assert_eq!(base32(plain.as_bytes()), coded);
        }
        assert_eq!(Epoch::from_random([255; 5]).as_str(), "77777777");
        assert!("UP".parse::<Epoch>().is_err() && "abc-1".parse::<Epoch>().is_err());
    }
}
