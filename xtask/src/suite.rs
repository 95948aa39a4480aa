//! Runs test executables one after the other and reads their verdicts.
//!
//! Invariants: an executable that ends without a verdict, with a status that contradicts it, over its time or with a
//! process left behind is a failure; a test that needs what this machine lacks is reported as not run.
//!
//! A test that needs a provision (see `setup`) carries the provision's marker in its name or in that of its module,
//! for example `needs_tmpfs`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::compile::TestBinary;
use crate::report::Report;
use crate::setup::Lacking;
use crate::supervise::{self, Output};
use crate::workspace;

/// How long one test executable may take unless its package says otherwise.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What every test executable of a run is given.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The workspace's root: `AITO_WORKSPACE`.
    pub root: &'a Path,
    /// The built server: `AITO_BIN`.
    pub program: Option<&'a Path>,
    /// Variables that name the run's servers.
    pub servers: &'a [(String, String)],
    /// Only tests whose name contains this run.
    pub filter: Option<&'a str>,
    /// Provisions that tests may want and this machine lacks.
    pub lacking: &'a [Lacking],
}

/// Runs every executable; returns how many tests ran.
pub fn run(binaries: &[TestBinary], around: &Surroundings<'_>, report: &mut Report) -> usize {
    let before = report.ran();
    for binary in binaries {
        let name = format!("{} {}", binary.package, binary.source);
        if let Err(why) = run_one(binary, &name, around, report) {
            println!("    {name}: FAILED: {why}");
            report.fail(format!("{name}: {why}"));
        }
    }
    report.ran() - before
}

/// Whether any test would run.
pub fn has_tests(binaries: &[TestBinary], around: &Surroundings<'_>) -> Result<bool, String> {
    for binary in binaries {
        if names(binary, around)?.iter().any(|test| around.lacking.iter().all(|l| !test.contains(l.marker))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A verdict of libtest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    passed: usize,
    failed: usize,
    ignored: usize,
}

fn run_one(
    binary: &TestBinary,
    name: &str,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Result<(), String> {
    skip_what_lacks(binary, name, around, report)?;
    let mut command = command(binary, around);
    command.args(around.filter);
    for lacking in around.lacking {
        command.args(["--skip", lacking.marker]);
    }
    let threads = binary.threads.map_or_else(processors, |threads| threads.to_string());
    command.args(["--test-threads", &threads]);

    let limit = binary.limit.map_or(LIMIT, Duration::from_secs);
    let mut verdict = None;
    let mut named = false;
    let mut failures = Vec::new();
    let ended = supervise::run(&mut command, limit, |output, line| {
        if output == Output::Error {
            eprintln!("{line}");
            return;
        }
        if let Some(read) = parse_verdict(line) {
            verdict = Some(read);
        }
        if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            failures.push(test.to_owned());
        }
        if is_noise(line) {
            return;
        }
        if !named {
            named = true;
            println!("--- {name}");
        }
        println!("{line}");
    })
    .map_err(|e| format!("does not start: {e}"))?;

    let Some(verdict) = verdict else {
        return Err(match ended.status {
            _ if ended.timed_out => format!("was killed after {} s without a verdict", limit.as_secs()),
            Some(status) => format!("ended without a verdict ({status})"),
            None => "was lost without a verdict".to_owned(),
        });
    };
    report.add(verdict.passed, verdict.ignored);
    for number in 0..verdict.failed {
        let test = failures.get(number).map_or("a test", String::as_str);
        report.fail(format!("{name}: {test}"));
    }
    if ended.timed_out {
        return Err(format!("did not end within {} s", limit.as_secs()));
    }
    if verdict.failed == 0 && !ended.status.is_some_and(|status| status.success()) {
        return Err(format!("ended badly after its verdict ({:?})", ended.status));
    }
    if ended.left_behind {
        return Err("left a process behind that holds its output".to_owned());
    }
    Ok(())
}

/// Names each test that is not run for want of a provision.
fn skip_what_lacks(
    binary: &TestBinary,
    name: &str,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Result<(), String> {
    if around.lacking.is_empty() {
        return Ok(());
    }
    for test in names(binary, around)? {
        if let Some(lacking) = around.lacking.iter().find(|lacking| test.contains(lacking.marker)) {
            report.skip(format!("{name}: {test}: {}", lacking.why));
        }
    }
    Ok(())
}

/// The names of an executable's tests that the filter leaves.
fn names(binary: &TestBinary, around: &Surroundings<'_>) -> Result<Vec<String>, String> {
    let mut command = command(binary, around);
    let list = workspace::output(command.args(around.filter).args(["--list", "--format", "terse"]))?;
    Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

fn command(binary: &TestBinary, around: &Surroundings<'_>) -> Command {
    let mut command = Command::new(&binary.executable);
    workspace::clean(&mut command);
    command
        .current_dir(&binary.dir)
        .env("CARGO_MANIFEST_DIR", &binary.dir)
        .env("CARGO_PKG_NAME", &binary.package)
        .env("CARGO_PKG_VERSION", &binary.version)
        .env("AITO_WORKSPACE", around.root)
        .envs(around.servers.iter().map(|(name, value)| (name, value)));
    for (program, path) in &binary.programs {
        command.env(format!("CARGO_BIN_EXE_{program}"), path);
    }
    if let Some(path) = around.program {
        command.env("AITO_BIN", path);
    }
    command
}

fn processors() -> String {
    std::thread::available_parallelism().map_or(1, usize::from).to_string()
}

/// Lines that say nothing: blanks, the count announced before the tests, the verdict of an executable without tests.
fn is_noise(line: &str) -> bool {
    let announcement = line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test"));
    let nothing = parse_verdict(line) == Some(Verdict { passed: 0, failed: 0, ignored: 0 });
    line.trim().is_empty() || announcement || nothing
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
fn parse_verdict(line: &str) -> Option<Verdict> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |label: &str| {
        let part = counts.split(';').map(str::trim).find_map(|part| part.strip_suffix(label))?;
        part.trim().parse().ok()
    };
    Some(Verdict { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::process::ExitCode;

    #[test]
    fn verdicts_are_read() {
        let line =
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s";
        assert_eq!(parse_verdict(line), Some(Verdict { passed: 3, failed: 0, ignored: 1 }));
        let line = "test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.5s";
        assert_eq!(parse_verdict(line), Some(Verdict { passed: 12, failed: 2, ignored: 0 }));
    }

    #[test]
    fn other_lines_are_no_verdicts() {
        for line in
            ["test result: ok.", "test a::b ... ok", "", "test result: ok. x passed; 0 failed; 0 ignored"]
        {
            assert_eq!(parse_verdict(line), None, "{line}");
        }
    }

    /// A stand-in for a test executable, gone when dropped.
    struct Script(PathBuf);

    impl Script {
        fn new(name: &str, body: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("xtask-suite-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            // Written by another process: a descriptor open for writing here could slip into a program that another
            // test starts at this moment, and the script would be busy.
            let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod +x \"$0\"";
            let written =
                Command::new("sh").args(["-c", write]).arg(dir.join("test")).arg(body).status().unwrap();
            assert!(written.success());
            Self(dir)
        }

        fn binary(&self, limit: u64) -> TestBinary {
            TestBinary {
                package: "p".into(),
                source: "tests/t.rs".into(),
                executable: self.0.join("test"),
                dir: self.0.clone(),
                version: "0.1.0".into(),
                programs: vec![("prog".into(), "/bin/prog".into())],
                threads: Some(1),
                limit: Some(limit),
            }
        }

        fn run(&self, limit: u64, lacking: &[Lacking]) -> (usize, Report) {
            let around = Surroundings {
                root: Path::new("/w"),
                program: Some(Path::new("/t/aito")),
                servers: &[("AITO_TEST_X".into(), "a=b".into())],
                filter: None,
                lacking,
            };
            let mut report = Report::default();
            let ran = run(&[self.binary(limit)], &around, &mut report);
            (ran, report)
        }
    }

    impl Drop for Script {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const GOOD: &str =
        "echo 'test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; in 0s'";

    #[test]
    fn good_executable_is_counted() {
        let (ran, report) = Script::new("good", GOOD).run(30, &[]);
        assert_eq!(ran, 2);
        assert_eq!(report.finish(), ExitCode::SUCCESS);
    }

    #[test]
    fn executable_sees_what_cargo_and_this_tool_promise() {
        let check = "[ \"$AITO_BIN\" = /t/aito ] && [ \"$AITO_WORKSPACE\" = /w ] && [ \"$CARGO_MANIFEST_DIR\" = \"$PWD\" ] \
                     && [ \"$CARGO_BIN_EXE_prog\" = /bin/prog ] && [ \"$AITO_TEST_X\" = a=b ] && [ \"$*\" = '--test-threads 1' ] || exit 9";
        let (ran, report) = Script::new("env", &format!("{check}\n{GOOD}")).run(30, &[]);
        assert_eq!((ran, report.finish()), (2, ExitCode::SUCCESS));
    }

    #[test]
    fn crash_without_a_verdict_is_a_failure() {
        let (ran, report) = Script::new("crash", "kill -s SEGV $$").run(30, &[]);
        assert_eq!((ran, report.finish()), (1, ExitCode::FAILURE));
    }

    #[test]
    fn bad_end_after_a_good_verdict_is_a_failure() {
        let (ran, report) = Script::new("late", &format!("{GOOD}\nexit 7")).run(30, &[]);
        assert_eq!((ran, report.finish()), (3, ExitCode::FAILURE));
    }

    #[test]
    fn silence_over_the_time_limit_is_a_failure() {
        let (ran, report) = Script::new("hang", "sleep 50").run(1, &[]);
        assert_eq!((ran, report.finish()), (1, ExitCode::FAILURE));
    }

    #[test]
    fn tests_that_need_what_is_not_there_are_not_run_and_named() {
        let body = "case \"$*\" in *--list*) echo 'full::needs_tmpfs_a: test'; echo 'b: test'; exit;; \
                    *'--skip needs_tmpfs'*) ;; *) exit 9;; esac";
        let lacking = [Lacking { marker: "needs_tmpfs", why: "no tmpfs here".into() }];
        let (ran, report) = Script::new("lack", &format!("{body}\n{GOOD}")).run(30, &lacking);
        assert_eq!(ran, 2);
        assert!(format!("{report:?}").contains("full::needs_tmpfs_a: no tmpfs here"), "{report:?}");
        assert!(format!("{report:?}").contains("skipped: 2"), "{report:?}");
    }

    #[test]
    fn executables_are_asked_whether_a_filter_leaves_any_of_their_tests() {
        let body =
            "case \"$*\" in *none*) ;; *) echo 'a::vote_needs_tmpfs: test'; echo 'bench: benchmark';; esac";
        let (script, lacking) =
            (Script::new("list", body), [Lacking { marker: "needs_tmpfs", why: "".into() }]);
        let has = |filter, lacking| {
            let around = Surroundings { root: Path::new("/w"), program: None, servers: &[], filter, lacking };
            has_tests(&[script.binary(30), script.binary(30)], &around)
        };
        assert_eq!(has(Some("vote"), &[]), Ok(true));
        assert_eq!(has(Some("none"), &[]), Ok(false));
        assert_eq!(has(Some("vote"), &lacking), Ok(false), "it would not be run");
    }
}
