//! Counts what passed, failed and was not run, and prints it.
//!
//! Invariants: what was not run is never counted as passed; the summary's last line is literally
//! `N passed, N failed, N skipped`, and nothing is printed after it.

use std::process::ExitCode;

use crate::clock::Stopwatch;

/// The tally of one run of this tool.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<String>,
    skips: Vec<String>,
}

impl Report {
    /// Runs one named step, prints its outcome and counts it as one passed or one failed.
    /// Returns what the step made, or nothing when it failed.
    pub fn step<T>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<T, String>) -> Option<T> {
        let watch = heading(name);
        match run(self) {
            Ok(value) => {
                self.passed += 1;
                println!("    {name}: ok ({:.1} s)", watch.elapsed().as_secs_f64());
                Some(value)
            }
            Err(why) => {
                println!("    {name}: FAILED ({:.1} s): {why}", watch.elapsed().as_secs_f64());
                self.fail(format!("{name}: {}", why.lines().next().unwrap_or_default()));
                None
            }
        }
    }

    /// Adds the counts of a test binary.
    pub fn add(&mut self, passed: usize, skipped: usize) {
        self.passed += passed;
        self.skipped += skipped;
    }

    /// Counts one failure and repeats it in the summary.
    pub fn fail(&mut self, what: String) {
        self.failed += 1;
        self.failures.push(what);
    }

    /// Counts one thing that was not run, with the reason.
    pub fn skip(&mut self, what: String) {
        println!("    not run: {what}");
        self.skipped += 1;
        self.skips.push(what);
    }

    /// How many tests and steps have passed or failed so far.
    pub fn ran(&self) -> usize {
        self.passed + self.failed
    }

    /// Prints the summary and says how the process ends: 0 when nothing failed, else 1.
    pub fn finish(self) -> ExitCode {
        println!();
        for line in &self.skips {
            println!("not run: {line}");
        }
        for line in &self.failures {
            println!("FAILED: {line}");
        }
        println!("{}", self.last_line());
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn last_line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Prints a step's heading and starts its stopwatch.
pub fn heading(name: &str) -> Stopwatch {
    println!("==> {name}");
    Stopwatch::start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_has_the_promised_form() {
        let mut report = Report::default();
        report.add(3, 1);
        report.skip("tests that need a tmpfs".into());
        report.step("fmt", |_| Ok(()));
        assert_eq!(report.last_line(), "4 passed, 0 failed, 2 skipped");
        assert_eq!(report.finish(), ExitCode::SUCCESS);
    }

    #[test]
    fn failed_step_makes_the_run_fail() {
        let mut report = Report::default();
        let made = report.step("deps", |_| Err::<(), _>("2 findings\ndetail".into()));
        assert!(made.is_none());
        assert_eq!(report.failures, ["deps: 2 findings"]);
        assert_eq!(report.last_line(), "0 passed, 1 failed, 0 skipped");
        assert_eq!(report.finish(), ExitCode::FAILURE);
    }
}
