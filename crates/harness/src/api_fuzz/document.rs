//! The server's description of its own API, as far as fuzzing needs it.
//!
//! Invariant: an operation is what the description calls one: a method on a path with its placeholders.

use std::{fmt, path::Path, process::Command};

use serde_json::Value;

/// The methods that OpenAPI knows; whatever else stands beside them in a path is no operation.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// A method on a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operation {
    path: String,
    method: String,
}

impl Operation {
    /// `method` in any case, `path` with its placeholders.
    pub(super) fn new(method: &str, path: &str) -> Self {
        Self { path: path.to_owned(), method: method.to_ascii_uppercase() }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// The description.
#[derive(Debug)]
pub(super) struct Document {
    operations: Vec<Operation>,
    streams: Vec<Operation>,
    text: String,
}

impl Document {
    /// What the server at `bin` prints of itself.
    ///
    /// # Errors
    /// When it prints none, or one without an operation.
    pub(super) fn of(bin: &Path) -> Result<Self, String> {
        let done = Command::new(bin)
            .arg("openapi")
            .output()
            .map_err(|why| format!("cannot run {}: {why}", bin.display()))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(format!("aito openapi ended with {}: {}", done.status, said.trim()));
        }
        Self::read(&String::from_utf8_lossy(&done.stdout))
    }

    /// The same from its text.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let document: Value =
            serde_json::from_str(text).map_err(|why| format!("the description is not JSON: {why}"))?;
        let mut operations = Vec::new();
        let mut streams = Vec::new();
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, about) in methods.as_object().into_iter().flatten() {
                if !METHODS.contains(&method.as_str()) {
                    continue;
                }
                let operation = Operation::new(method, path);
                let mut answers = about["responses"].as_object().into_iter().flatten();
                if answers.any(|(_, answer)| answer["content"]["text/event-stream"].is_object()) {
                    streams.push(operation.clone());
                }
                operations.push(operation);
            }
        }
        if operations.is_empty() {
            return Err("the description has no operation".into());
        }
        Ok(Self { operations, streams, text: text.to_owned() })
    }

    /// As it was printed.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Every operation.
    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Those that may answer with a stream of server-sent events.
    pub(super) fn streams(&self) -> &[Operation] {
        &self.streams
    }

    /// Whether there is such an operation.
    pub(super) fn has(&self, method: &str, path: &str) -> bool {
        self.operations.contains(&Operation::new(method, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_methods_on_paths() {
        let text = r#"{"paths":{"/a/{id}":{"parameters":[],"summary":"x","get":{},"delete":{}},"/b":{"post":
            {"responses":{"200":{"content":{"text/event-stream":{"schema":{}}}}}}}}}"#;
        let document = Document::read(text).unwrap();
        let all: Vec<String> = document.operations().iter().map(ToString::to_string).collect();
        assert_eq!(all.len(), 3);
        assert!(
            ["GET /a/{id}", "DELETE /a/{id}", "POST /b"].iter().all(|one| all.contains(&one.to_string()))
        );
        assert!(document.has("POST", "/b") && !document.has("GET", "/b"));
        assert_eq!(document.streams(), [Operation::new("post", "/b")]);
    }

    #[test]
    fn a_description_that_describes_nothing_is_refused() {
        assert!(Document::read("{").is_err());
        assert!(Document::read("{}").is_err());
        assert!(Document::read(r#"{"paths":{"/a":{"parameters":[]}}}"#).is_err());
    }
}
