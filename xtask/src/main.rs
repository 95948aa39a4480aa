//! The project's own tool, `cargo xtask`: set up, test, check, bench, make images.
//!
//! Invariants: few dependencies, so it is built in seconds on a machine that has nothing yet; an argument that is not
//! understood ends it with the usage and status 2 before anything has run.

mod api_fuzz;
mod clock;
mod compile;
mod deps;
mod harness;
mod image;
mod licences;
mod openapi;
mod report;
mod servers;
mod setup;
mod suite;
mod supervise;
mod test;
mod tidy;
mod workspace;

use std::path::Path;
use std::process::ExitCode;

use report::Report;
use test::{Options, STEPS, Step};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup                          says what is there and what is missing; installs it where Debian has it and root asks
  test [--only STEP]… [FILTER]   runs every check and test; with FILTER only tests whose name contains it
  test --api-fuzz [ARGUMENTS]…   debug build of the tests, then aito-harness api-fuzz: cases made from the API's
                                 description by schemathesis (Python), --cases N of them
  ci                             the same as test without arguments
  deps                           layer rule, bans, sources, licences
  tidy                           house rules
  openapi [--check]              writes docs/api/openapi.json, or compares it with what the program prints
  bench [ARGUMENTS]…             release build, then aito-harness bench
  chaos [ARGUMENTS]…             debug build of the tests, then aito-harness chaos
  image [--tag-prefix P] [--release|--debug] [--host URL]
                                 makes aito-agent:latest and aito-server:latest with the docker command
";

/// What one call asks for.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Setup,
    Test(Options),
    ApiFuzz(Vec<String>),
    Deps,
    Tidy,
    Openapi { check: bool },
    Bench(Vec<String>),
    Chaos(Vec<String>),
    Image(image::Options),
    Help,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let call = match parse(&arguments) {
        Ok(call) => call,
        Err(why) => {
            let steps: Vec<&str> = STEPS.into_iter().map(Step::name).collect();
            eprint!("error: {why}\n\n{USAGE}\nsteps: {}\n", steps.join(" "));
            return ExitCode::from(2);
        }
    };
    match workspace::root() {
        Ok(root) => run(&root, call),
        Err(why) => failed(&why),
    }
}

fn run(root: &Path, call: Call) -> ExitCode {
    let mut report = Report::default();
    match call {
        Call::Help => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Call::Setup => return ended(setup::run(root)),
        Call::ApiFuzz(arguments) => return ended(api_fuzz::run(root, &arguments)),
        Call::Bench(arguments) => return ended(harness::bench(root, &arguments)),
        Call::Chaos(arguments) => return ended(harness::chaos(root, &arguments)),
        Call::Image(options) => return ended(image::run(root, &options)),
        Call::Test(options) => test::run(root, &options, &mut report),
        Call::Deps => deps::run(root, &mut report),
        Call::Tidy => tidy::run(root, &mut report),
        Call::Openapi { check } => {
            report.step("openapi", |_| {
                let built = compile::workspace(root)?;
                let program = built.program("aito")?;
                if check { openapi::check(root, program) } else { openapi::write(root, program) }
            });
        }
    }
    report.finish()
}

fn ended(outcome: Result<(), String>) -> ExitCode {
    outcome.map_or_else(|why| failed(&why), |()| ExitCode::SUCCESS)
}

fn failed(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

fn parse(arguments: &[String]) -> Result<Call, String> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err("a command is missing".to_owned());
    };
    let call = match command.as_str() {
        "bench" => return Ok(Call::Bench(rest.to_vec())),
        "chaos" => return Ok(Call::Chaos(rest.to_vec())),
        "test" => return parse_test(rest),
        "image" => return parse_image(rest),
        "openapi" if rest == ["--check"] => return Ok(Call::Openapi { check: true }),
        "openapi" => Call::Openapi { check: false },
        "setup" => Call::Setup,
        "ci" => Call::Test(Options::default()),
        "deps" => Call::Deps,
        "tidy" => Call::Tidy,
        "help" | "--help" | "-h" => Call::Help,
        other => return Err(format!("there is no command `{other}`")),
    };
    match rest.first() {
        None => Ok(call),
        Some(other) => Err(format!("`{command}` does not take `{other}`")),
    }
}

fn parse_test(arguments: &[String]) -> Result<Call, String> {
    // The harness understands the rest.
    if let Some((first, rest)) = arguments.split_first()
        && first == "--api-fuzz"
    {
        return Ok(Call::ApiFuzz(rest.to_vec()));
    }
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let step = match argument.strip_prefix("--only") {
            Some("") => Some(rest.next().ok_or("`--only` needs a step")?.as_str()),
            Some(value) => value.strip_prefix('='),
            None => None,
        };
        match step {
            Some(name) => {
                options.only.push(Step::named(name).ok_or_else(|| format!("there is no step `{name}`"))?)
            }
            None if argument.starts_with('-') => return Err(format!("`test` does not take `{argument}`")),
            None if options.filter.is_some() => return Err(format!("a second filter: `{argument}`")),
            None => options.filter = Some(argument.clone()),
        }
    }
    Ok(Call::Test(options))
}

fn parse_image(arguments: &[String]) -> Result<Call, String> {
    let mut options = image::Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (name, value) = argument.split_once('=').map_or((argument.as_str(), None), |(n, v)| (n, Some(v)));
        match (name, value) {
            ("--release", None) => options.debug = false,
            ("--debug", None) => options.debug = true,
            ("--tag-prefix" | "--host", value) => {
                let value =
                    value.or_else(|| rest.next().map(String::as_str)).filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| format!("`{name}` needs a value"))?.to_owned();
                *(if name == "--host" { &mut options.host } else { &mut options.tag_prefix }) = Some(value);
            }
            _ => return Err(format!("`image` does not take `{argument}`")),
        }
    }
    Ok(Call::Image(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Call, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn good_lines() {
        let test = |only: &[Step], filter: Option<&str>| {
            Ok(Call::Test(Options { only: only.to_vec(), filter: filter.map(str::to_owned) }))
        };
        assert_eq!(parsed("test"), test(&[], None));
        assert_eq!(parsed("ci"), test(&[], None));
        assert_eq!(parsed("test vote"), test(&[], Some("vote")));
        assert_eq!(
            parsed("test --only tests --only=fmt vote"),
            test(&[Step::Tests, Step::Fmt], Some("vote"))
        );
        assert_eq!(
            parsed("test --api-fuzz --cases 50"),
            Ok(Call::ApiFuzz(["--cases", "50"].map(String::from).to_vec()))
        );
        assert_eq!(parsed("openapi"), Ok(Call::Openapi { check: false }));
        assert_eq!(parsed("openapi --check"), Ok(Call::Openapi { check: true }));
        assert_eq!(
            parsed("chaos --rounds 10 -v"),
            Ok(Call::Chaos(["--rounds", "10", "-v"].map(String::from).to_vec()))
        );
        assert_eq!(parsed("--help"), Ok(Call::Help));
        assert_eq!(parsed("image"), Ok(Call::Image(image::Options::default())));
        assert_eq!(
            parsed("image --debug --host unix:///d.sock --tag-prefix=r.example/x/"),
            Ok(Call::Image(image::Options {
                debug: true,
                host: Some("unix:///d.sock".into()),
                tag_prefix: Some("r.example/x/".into())
            }))
        );
    }

    #[test]
    fn lines_that_are_not_understood() {
        for line in [
            "",
            "tset",
            "test --fast",
            "test --only",
            "test --only nonsense",
            "test a b",
            "test --onlyfmt",
            "test vote --api-fuzz",
            "deps x",
            "openapi --chek",
            "openapi --check more",
            "setup --check",
            "ci vote",
            "image --tag-prefix",
            "image --host=",
            "image --debug=yes",
            "image aito",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
