//! `cargo xtask test`: every check in one run, with one summary.
//!
//! Invariants: quick checks come first; one build serves lints, tests and the binary; a step that could not run because
//! an earlier one failed is reported as not run; a run in which no test ran has failed; servers are started for the
//! tests of the workspace alone, and ended whatever becomes of those.

use std::path::Path;
use std::process::Stdio;

use crate::compile::{self, Built};
use crate::report::{self, Report};
use crate::servers::Servers;
use crate::setup::{self, Lacking, Purpose};
use crate::suite::{self, Surroundings};
use crate::{deps, openapi, tidy, workspace};

/// The steps, in the order in which they run.
pub const STEPS: [Step; 9] = [
    Step::Setup,
    Step::Fmt,
    Step::Tidy,
    Step::Deps,
    Step::Licences,
    Step::Xtask,
    Step::Build,
    Step::Tests,
    Step::Openapi,
];

/// One step of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What the machine must have.
    Setup,
    /// Formatting.
    Fmt,
    /// House rules.
    Tidy,
    /// Layers, bans, sources.
    Deps,
    /// Licences.
    Licences,
    /// This tool's own lints and tests.
    Xtask,
    /// Lints and build of everything else.
    Build,
    /// The tests of everything else.
    Tests,
    /// The committed description of the HTTP interface.
    Openapi,
}

impl Step {
    /// Its name on the command line and in the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Fmt => "fmt",
            Self::Tidy => "tidy",
            Self::Deps => "deps",
            Self::Licences => "licences",
            Self::Xtask => "xtask",
            Self::Build => "build",
            Self::Tests => "tests",
            Self::Openapi => "openapi",
        }
    }

    /// The step of that name.
    pub fn named(name: &str) -> Option<Self> {
        STEPS.into_iter().find(|step| step.name() == name)
    }

    /// Steps whose outcome this one needs.
    fn needs(self) -> &'static [Self] {
        match self {
            Self::Tests => &[Self::Setup, Self::Build],
            Self::Openapi => &[Self::Build],
            Self::Xtask => &[Self::Setup],
            _ => &[],
        }
    }
}

/// What the caller asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only these steps and what they need; none: all.
    pub only: Vec<Step>,
    /// Only tests whose name contains this; without `only` it leaves just the steps that run tests.
    pub filter: Option<String>,
}

impl Options {
    /// Whether a step is wanted, by itself or for the sake of another.
    fn wants(&self, step: Step) -> bool {
        let asked: &[Step] = match (self.only.is_empty(), &self.filter) {
            (false, _) => &self.only,
            (true, Some(_)) => &[Step::Xtask, Step::Tests],
            (true, None) => return true,
        };
        asked.iter().any(|asked| *asked == step || asked.needs().contains(&step))
    }
}

/// Runs what is wanted and counts it.
pub fn run(root: &Path, options: &Options, report: &mut Report) {
    let mut lacking = Vec::new();
    if options.wants(Step::Setup) {
        let purpose = if options.wants(Step::Tests) { Purpose::Suite } else { Purpose::Own };
        let Some(found) = report.step("setup", |_| setup::provide(root, purpose)) else {
            for step in STEPS.into_iter().filter(|step| *step != Step::Setup && options.wants(*step)) {
                report.skip(format!("{}: the machine is not set up", step.name()));
            }
            return;
        };
        lacking = found;
    }
    if options.wants(Step::Fmt) {
        report.step("fmt", |_| fmt(root));
    }
    if options.wants(Step::Tidy) {
        tidy::run(root, report);
    }
    if options.wants(Step::Deps) {
        deps::layers(root, report);
    }
    if options.wants(Step::Licences) {
        deps::licences(root, report);
    }
    let mut ran = None;
    if options.wants(Step::Xtask)
        && let Some(built) = report.step("xtask", |_| compile::own(root))
    {
        let around = surroundings(root, &built, options, &lacking);
        ran = Some(tests("tests of xtask", &built, &around, report));
    }
    if options.wants(Step::Build)
        && let Some(number) = build_and_test(root, options, &lacking, report)
    {
        ran = Some(ran.unwrap_or(0) + number);
    }
    if ran == Some(0) {
        report.fail(match &options.filter {
            Some(filter) => format!("tests: none has `{filter}` in its name"),
            None => "tests: none ran".to_owned(),
        });
    }
}

/// Returns how many tests ran; nothing if none were to run or the build failed.
fn build_and_test(root: &Path, options: &Options, lacking: &[Lacking], report: &mut Report) -> Option<usize> {
    let built = report.step("build", |_| compile::workspace(root));
    let later = [Step::Tests, Step::Openapi].into_iter().filter(|step| options.wants(*step));
    let mut ran = None;
    for step in later {
        match (&built, step) {
            (None, _) => report.skip(format!("{}: the build failed", step.name())),
            (Some(built), Step::Tests) => {
                ran = with_servers(built, surroundings(root, built, options, lacking), report);
            }
            (Some(built), _) => {
                report.step("openapi", |_| openapi::check(root, built.program("aito")?));
            }
        }
    }
    ran
}

/// Returns how many tests ran; nothing if servers that they need did not start.
fn with_servers(built: &Built, around: Surroundings<'_>, report: &mut Report) -> Option<usize> {
    match suite::has_tests(&built.tests, &around) {
        Ok(true) => {}
        Ok(false) => return Some(tests("tests", built, &around, report)),
        Err(why) => {
            report.fail(format!("tests: {why}"));
            return None;
        }
    }
    let started = report.step("servers", |_| {
        Servers::start(built.program("aito-harness")?, built.program("aito")?, around.root)
    });
    let Some(servers) = started else {
        report.skip("tests: their servers did not start".to_owned());
        return None;
    };
    let around = Surroundings { servers: &servers.variables, ..around };
    let ran = tests("tests", built, &around, report);
    if let Err(why) = servers.stop() {
        println!("    servers: FAILED: {why}");
        report.fail(format!("servers: {}", why.lines().next().unwrap_or_default()));
    }
    Some(ran)
}

fn surroundings<'a>(
    root: &'a Path,
    built: &'a Built,
    options: &'a Options,
    lacking: &'a [Lacking],
) -> Surroundings<'a> {
    Surroundings {
        root,
        program: built.program("aito").ok(),
        servers: &[],
        filter: options.filter.as_deref(),
        lacking,
    }
}

fn tests(name: &str, built: &Built, around: &Surroundings<'_>, report: &mut Report) -> usize {
    let watch = report::heading(name);
    let ran = suite::run(&built.tests, around, report);
    println!("    {name}: {ran} ran ({:.1} s)", watch.elapsed().as_secs_f64());
    ran
}

fn fmt(root: &Path) -> Result<(), String> {
    let mut command = workspace::cargo(root);
    let status = command.args(["fmt", "--all", "--check"]).stderr(Stdio::inherit()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("not formatted: cargo fmt --all".to_owned()),
        Err(e) => Err(format!("cargo fmt does not start: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(options: &Options) -> Vec<&'static str> {
        STEPS.into_iter().filter(|step| options.wants(*step)).map(Step::name).collect()
    }

    #[test]
    fn everything_is_wanted_by_default() {
        assert_eq!(wanted(&Options::default()).len(), STEPS.len());
    }

    #[test]
    fn one_step_brings_what_it_needs() {
        let only = |step| Options { only: vec![step], filter: None };
        assert_eq!(wanted(&only(Step::Fmt)), ["fmt"]);
        assert_eq!(wanted(&only(Step::Tests)), ["setup", "build", "tests"]);
        assert_eq!(wanted(&only(Step::Openapi)), ["build", "openapi"]);
    }

    #[test]
    fn filter_leaves_the_steps_that_run_tests() {
        let options = Options { only: vec![], filter: Some("vote".into()) };
        assert_eq!(wanted(&options), ["setup", "xtask", "build", "tests"]);
    }

    #[test]
    fn names_and_steps_match() {
        for step in STEPS {
            assert_eq!(Step::named(step.name()), Some(step));
        }
        assert_eq!(Step::named("nonsense"), None);
    }
}
