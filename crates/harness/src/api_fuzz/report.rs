//! What schemathesis reported of one call.
//!
//! Invariants: cases are counted one by one from its events, never taken from its word; a call that did not come to its
//! end, or failed without saying what, is a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
};

use serde::Deserialize;

use super::document::Operation;

/// The summary's name in the directory of a call.
pub(super) const SUMMARY: &str = "summary.json";
/// The events' name there, one a line.
pub(super) const EVENTS: &str = "events.ndjson";
/// The name of what it printed.
pub(super) const OUTPUT: &str = "output.txt";

/// How many lines are told of a call that failed and did not say why in the usual form.
const LAST_LINES: usize = 40;

/// One call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) cases: u64,
    /// What got a case.
    pub(super) tried: BTreeSet<Operation>,
    /// What answered one with 1xx or 2xx.
    pub(super) succeeded: BTreeSet<Operation>,
    /// What was wrong: operation by operation, with the commands that repeat it.
    pub(super) failures: Vec<String>,
}

impl Round {
    /// Reads what a call left in `dir`; `success` is what its status said.
    ///
    /// # Errors
    /// When a report is missing or has another form.
    pub(super) fn read(dir: &Path, success: bool) -> Result<Self, String> {
        let output = text(&dir.join(OUTPUT))?;
        let mut round = Self::default();
        let summary = match text(&dir.join(SUMMARY)) {
            Ok(summary) => summary,
            // It died of something before it reported anything.
            Err(_) => {
                round.failures.push(format!("schemathesis reported nothing\n{}", last_lines(&output)));
                return Ok(round);
            }
        };
        let summary: Summary =
            serde_json::from_str(&summary).map_err(|why| format!("{SUMMARY} has another form: {why}"))?;
        round.count(&dir.join(EVENTS))?;
        round.failures.extend(failures(&output));
        if round.failures.is_empty() && !(success && summary.complete) {
            let ended = if summary.complete { "failed" } else { "did not come to its end" };
            round.failures.push(format!("schemathesis {ended}\n{}", last_lines(&output)));
        }
        if summary.test_cases.generated != round.cases {
            round.failures.push(format!(
                "schemathesis says that it made {} cases, and told of {}",
                summary.test_cases.generated, round.cases
            ));
        }
        Ok(round)
    }

    fn count(&mut self, path: &Path) -> Result<(), String> {
        let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let file = fs::File::open(path).map_err(|why| wrong(&why))?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|why| wrong(&why))?;
            let event: Event = serde_json::from_str(&line).map_err(|why| wrong(&why))?;
            if let Some(scenario) = event.scenario {
                self.add(scenario.recorder);
            }
        }
        Ok(())
    }

    fn add(&mut self, recorder: Recorder) {
        for (id, Recorded { value }) in recorder.cases {
            self.cases += 1;
            let operation = Operation::new(&value.method, &value.path);
            let answer = recorder.interactions.get(&id).and_then(|one| one.response.as_ref());
            if answer.is_some_and(|answer| (100..300).contains(&answer.status_code)) {
                self.succeeded.insert(operation.clone());
            }
            self.tried.insert(operation);
        }
    }
}

#[derive(Deserialize)]
struct Summary {
    complete: bool,
    test_cases: TestCases,
}

#[derive(Deserialize)]
struct TestCases {
    generated: u64,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "ScenarioFinished")]
    scenario: Option<Scenario>,
}

#[derive(Deserialize)]
struct Scenario {
    recorder: Recorder,
}

#[derive(Deserialize)]
struct Recorder {
    #[serde(default)]
    cases: BTreeMap<String, Recorded>,
    #[serde(default)]
    interactions: BTreeMap<String, Interaction>,
}

#[derive(Deserialize)]
struct Recorded {
    value: Case,
}

#[derive(Deserialize)]
struct Case {
    method: String,
    path: String,
}

#[derive(Deserialize)]
struct Interaction {
    response: Option<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    status_code: u16,
}

/// The parts of what it printed that tell of failures and errors, one for each operation.
fn failures(output: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in output.lines().map(str::trim_end) {
        if let Some(heading) = heading(line, '=') {
            inside = matches!(heading, "FAILURES" | "ERRORS");
        } else if !inside || line.is_empty() {
        } else if let Some(operation) = heading(line, '_') {
            found.push(operation.to_owned());
        } else if let Some(last) = found.last_mut() {
            last.push('\n');
            last.push_str(line);
        } else {
            // What stands before the first heading is told too.
            found.push(line.to_owned());
        }
    }
    found
}

/// The text of a heading: in the middle of a line of such marks.
fn heading(line: &str, mark: char) -> Option<&str> {
    let text = line.strip_prefix(mark)?.strip_suffix(mark)?.trim_matches(mark);
    text.strip_prefix(' ')?.strip_suffix(' ').map(str::trim)
}

fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

fn text(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|why| format!("cannot read {}: {why}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"ScenarioFinished":{"phase":"coverage","recorder":{"label":"GET /a/{id}",
        "cases":{"x":{"value":{"method":"GET","path":"/a/{id}"}},"y":{"value":{"method":"TRACE","path":"/a/{id}"}},
                 "z":{"value":{"method":"GET","path":"/b"}}},
        "interactions":{"x":{"response":{"status_code":200}},"y":{"response":{"status_code":405}},
                        "z":{"response":null}}}}}"#;
    const PRINTED: &str = "Schemathesis\n=== FAILURES ====\n___ GET /a/{id} ___\n1. Test Case ID: x\n\n\
        Reproduce with:\n    curl -X GET http://h/a/1\n\n__ POST /b __\n1. Test Case ID: y\n\
        === WARNINGS ===\n  - GET /c\n==== SUMMARY ====\nFailures:\n";

    fn read(summary: &str, output: &str, success: bool) -> Round {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SUMMARY), summary).unwrap();
        fs::write(dir.path().join(OUTPUT), output).unwrap();
        let skipped = r#"{"ScenarioFinished":{"recorder":{"label":"GET /c"}}}"#;
        let events = format!("{{\"EngineStarted\":{{}}}}\n{}\n{skipped}\n", EVENT.replace('\n', ""));
        fs::write(dir.path().join(EVENTS), events).unwrap();
        Round::read(dir.path(), success).unwrap()
    }

    fn summary(cases: u64, complete: bool) -> String {
        format!(r#"{{"complete":{complete},"test_cases":{{"generated":{cases}}}}}"#)
    }

    #[test]
    fn cases_are_counted_and_operations_told_by_what_was_really_sent() {
        let round = read(&summary(3, true), "", true);
        assert_eq!(round.cases, 3);
        assert_eq!(
            round.tried,
            ["GET /a/{id}", "TRACE /a/{id}", "GET /b"]
                .map(|one| {
                    let (method, path) = one.split_once(' ').unwrap();
                    Operation::new(method, path)
                })
                .into()
        );
        assert_eq!(round.succeeded, [Operation::new("GET", "/a/{id}")].into());
        assert!(round.failures.is_empty(), "{:?}", round.failures);
    }

    #[test]
    fn failures_are_told_by_operation_with_their_commands() {
        let round = read(&summary(3, true), PRINTED, false);
        assert_eq!(round.failures.len(), 2);
        assert!(round.failures[0].starts_with("GET /a/{id}\n1. Test Case ID: x\n"), "{:?}", round.failures);
        assert!(round.failures[0].ends_with("curl -X GET http://h/a/1"), "{:?}", round.failures);
        assert_eq!(round.failures[1], "POST /b\n1. Test Case ID: y");
    }

    #[test]
    fn a_call_that_fails_without_a_reason_or_before_its_end_is_a_failure() {
        let round = read(&summary(3, true), "it broke", false);
        assert_eq!(round.failures, ["schemathesis failed\nit broke"]);
        let round = read(&summary(3, false), "stopped", true);
        assert_eq!(round.failures, ["schemathesis did not come to its end\nstopped"]);
    }

    #[test]
    fn a_call_that_reports_nothing_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(OUTPUT), "Error: no such option").unwrap();
        let round = Round::read(dir.path(), false).unwrap();
        assert_eq!(round.failures, ["schemathesis reported nothing\nError: no such option"]);
    }

    #[test]
    fn a_count_that_is_not_borne_out_is_a_failure() {
        let round = read(&summary(4, true), "", true);
        assert_eq!(round.failures, ["schemathesis says that it made 4 cases, and told of 3"]);
    }
}
