//! Lines of an agent's output: `GET /agents/{type}/logs`, as a list or, when following, as SSE `data`.
//!
//! Invariant: a line holds no line break; what was one line of output is one [`LogLine`].

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// When the runtime took it.
    pub at: Timestamp,
    /// Where the agent wrote it.
    pub stream: LogStream,
    /// The text without its line break; bytes that are not UTF-8 are replaced.
    pub message: String,
}

/// An output stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One server-sent event of a log that is followed, for the description of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEvent {
    /// A `LogLine` as JSON.
    #[schema(content_media_type = "application/json")]
    pub data: String,
}

/// `GET /agents/{type}/logs`: oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogList {
    /// The lines.
    pub logs: Vec<LogLine>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shape_of_a_list() {
        let line = LogLine {
            at: "2025-12-20T10:00:00Z".parse().unwrap(),
            stream: LogStream::Stderr,
            message: "hello".to_owned(),
        };
        assert_eq!(
            serde_json::to_value(LogList { logs: vec![line] }).unwrap(),
            json!({"logs": [{"at": "2025-12-20T10:00:00.000Z", "stream": "stderr", "message": "hello"}]})
        );
    }
}
