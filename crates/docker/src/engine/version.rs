//! Which version of the engine's API is spoken.
//!
//! Invariant: never an older one than [`OLDEST`]; a newer one than [`NEWEST`] only when the engine knows no older.

use std::fmt;

/// A version of the Docker Engine API, such as 1.41.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u16,
    pub(crate) minor: u16,
}

/// The oldest that has everything this adapter asks for (one-shot statistics); engine 20.10.
pub(crate) const OLDEST: Version = Version { major: 1, minor: 41 };

/// The newest that this adapter was tested with.
pub(crate) const NEWEST: Version = Version { major: 1, minor: 44 };

impl Version {
    /// Reads `1.41`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The newest version that both sides know. An engine that begins above [`NEWEST`] is spoken to in the oldest that it
/// has: versions mostly add to each other, and what it still misunderstands is an error of that one call.
///
/// # Errors
/// A text for people when the engine ends below [`OLDEST`].
pub(crate) fn choose(newest: Version, oldest: Option<Version>) -> Result<Version, String> {
    if newest < OLDEST {
        return Err(format!(
            "the Docker engine speaks API {newest} at most; {OLDEST} (engine 20.10) or later is needed"
        ));
    }
    Ok(newest.min(NEWEST).max(oldest.unwrap_or(OLDEST).min(newest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_both_know_is_spoken() {
        let chosen = |newest: &str, oldest: &str| {
            choose(Version::parse(newest).unwrap(), Version::parse(oldest)).map(|version| version.to_string())
        };
        for (newest, oldest, wanted) in [
            ("1.41", "1.12", "1.41"),
            ("1.43", "1.24", "1.43"),
            ("1.44", "1.44", "1.44"),
            ("1.52", "1.44", "1.44"),
            ("1.52", "", "1.44"),
            ("1.60", "1.50", "1.50"),
            ("2.3", "2.1", "2.1"),
            ("1.42", "9.9", "1.42"),
        ] {
            assert_eq!(chosen(newest, oldest).as_deref(), Ok(wanted), "{newest} from {oldest}");
        }
        let refused = chosen("1.24", "1.12").unwrap_err();
        assert!(refused.contains("1.24") && refused.contains("1.41"), "{refused}");
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in ["", "1", "1.", ".41", "1.x", "v1.41", "1.41.2", "-1.4"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
