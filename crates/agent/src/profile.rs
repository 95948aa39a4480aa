//! An agent's profile: a Markdown file, with optional YAML front matter between two lines of `---`.
//!
//! Invariants:
//! - A file is at most 256 KiB and UTF-8.
//! - Front matter is a mapping with text keys; anything else, or one that does not end, is an error that names
//!   the file. It never passes silently as body.

use serde::Serialize;
use serde_json::{Map, Value};
use std::{fs::File, io::Read, path::Path};

const MAX: u64 = 256 << 10;

/// A profile as read.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// The front matter; empty when there is none.
    pub front_matter: Map<String, Value>,
    /// The Markdown after it.
    pub body: String,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read the profile {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a profile.
    #[error("the profile {path} is malformed: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl Profile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ProfileError`], which names the file.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let shown = path.display().to_string();
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX + 1).read_to_end(&mut bytes))
            .map_err(|source| ProfileError::Read { path: shown.clone(), source })?;
        let malformed = |reason: String| ProfileError::Malformed { path: shown.clone(), reason };
        if bytes.len() as u64 > MAX {
            return Err(malformed(format!("it is larger than {MAX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8".to_owned()))?;
        Self::parse(&text).map_err(malformed)
    }

    /// Reads a profile from its text.
    ///
    /// # Errors
    /// The text says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.split_inclusive('\n');
        if lines.next().map(str::trim_end) != Some("---") {
            return Ok(Self { front_matter: Map::new(), body: text.trim().to_owned() });
        }
        let start = text.find('\n').map_or(text.len(), |end| end + 1);
        let mut end = start;
        for line in lines {
            if matches!(line.trim_end(), "---" | "...") {
                return Ok(Self {
                    front_matter: front_matter(&text[start..end])?,
                    body: text[end + line.len()..].trim().to_owned(),
                });
            }
            end += line.len();
        }
        Err("its front matter has no closing line of ---".to_owned())
    }

    /// The `title` of the front matter, or an empty text.
    pub fn title(&self) -> String {
        self.scalar("title").unwrap_or_default()
    }

    /// A value of the front matter as text; `None` when there is none or it is a list or mapping.
    pub fn scalar(&self, key: &str) -> Option<String> {
        match self.front_matter.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

fn front_matter(yaml: &str) -> Result<Map<String, Value>, String> {
    match yaml_serde::from_str::<Value>(yaml) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err("its front matter is not a mapping of keys to values".to_owned()),
        Err(error) => Err(format!("its front matter is not valid YAML: {error}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_front_matter_and_body() {
        for (text, front_matter, body) in [
            ("", json!({}), ""),
            ("# Role\n\nText", json!({}), "# Role\n\nText"),
            (
                "---\ntitle: CEO\nduties:\n  - a\n  - b\n---\n\n# Role\n",
                json!({"title": "CEO", "duties": ["a", "b"]}),
                "# Role",
            ),
            ("\u{feff}---\r\ntitle: CEO\r\n---\r\nBody\r\n", json!({"title": "CEO"}), "Body"),
            ("---\n---\nBody\n---\nmore", json!({}), "Body\n---\nmore"),
            ("---\nn: 3\n...\n", json!({"n": 3}), ""),
            ("----\nno front matter", json!({}), "----\nno front matter"),
        ] {
            let profile = Profile::parse(text).unwrap();
            assert_eq!(Value::Object(profile.front_matter), front_matter, "{text:?}");
            assert_eq!(profile.body, body, "{text:?}");
        }
    }

    #[test]
    fn malformed_front_matter_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd.md");
        for (text, reason) in [
            ("---\ntitle: CEO\n# Role", "no closing line"),
            ("---\n- a\n---\n", "not a mapping"),
            ("---\njust text\n---\n", "not a mapping"),
            ("---\ntitle: [\n---\n", "not valid YAML"),
            ("---\n? [a, b]\n: c\n---\n", "not valid YAML"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Profile::read(&path).unwrap_err().to_string();
            assert!(error.contains("odd.md") && error.contains(reason), "{text:?}: {error}");
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(Profile::read(&path).unwrap_err().to_string().contains("UTF-8"));
        std::fs::write(&path, vec![b'a'; MAX as usize + 1]).unwrap();
        assert!(Profile::read(&path).unwrap_err().to_string().contains("larger"));
        assert!(matches!(Profile::read(&dir.path().join("none.md")), Err(ProfileError::Read { .. })));
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut yaml = String::from("---\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let previous = vec![format!("*a{}", n - 1); 10].join(", ");
            yaml.push_str(&format!("a{n}: &a{n} [{previous}]\n"));
        }
        yaml.push_str("---\n");
        assert!(Profile::parse(&yaml).is_err());
    }

    #[test]
    fn the_shipped_profiles_are_well_formed() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/profiles");
        for name in ["ceo", "cmo", "cto", "cfo", "coo", "cco", "dao"] {
            let profile = Profile::read(&dir.join(format!("{name}.md"))).unwrap();
            for key in ["title", "focus"] {
                assert!(profile.scalar(key).is_some_and(|text| !text.is_empty()), "{name}: no {key}");
            }
            assert!(
                profile.front_matter["responsibilities"].as_array().is_some_and(|list| list.len() >= 3),
                "{name}"
            );
            assert!(profile.body.lines().count() >= 20, "{name}: {} lines", profile.body.lines().count());
        }
    }
}
