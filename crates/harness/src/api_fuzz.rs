//! Fuzzes the HTTP API of the real server with schemathesis: by its own description, on every set, in every role.
//!
//! Invariants: every role on every set has a server in a sandbox of its own; the seeds of all of them follow from one,
//! which every failure names; a run ends by itself; fewer cases than asked for, an operation without a case, an
//! unfinished run and a server that is not well afterwards are failures like any other.

mod document;
mod report;
mod roles;
mod schemathesis;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use document::{Document, Operation};
use report::Round;
use roles::{Access, ROLES, Role};
use schemathesis::{Call, Phases};

use crate::{
    Sandbox, Server, Set,
    servers::Servers,
    wait::{self, SOON},
};

/// What every server of a run is told besides.
const ENVIRONMENT: &[(&str, &str)] = &[];
/// The fewest cases that an operation gets from chance, where it can have as many.
const FEWEST_EXAMPLES: u64 = 20;
/// The most that it gets in one round: what a round found is known when it ends.
const MOST_EXAMPLES: u64 = 500;
/// How many seeds one role on one set may use, one a round.
const SEEDS: u64 = 10_000;

/// What to fuzz, and how much.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's binary.
    pub bin: PathBuf,
    /// The program `schemathesis`.
    pub schemathesis: PathBuf,
    /// Where configurations and reports go; what an earlier run left there is removed.
    pub out: PathBuf,
    /// How many cases there must be over all roles and sets, at least 1.
    pub cases: u64,
    /// Where everything random comes from.
    pub seed: u64,
    /// On these sets.
    pub on: Vec<Set>,
    /// In these roles, by [`role_names`]; none: in all that the server knows.
    pub roles: Vec<String>,
    /// How long all of it may take.
    pub time: Duration,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Cases over all roles and sets.
    pub cases: u64,
    /// What was wrong; each has been printed with all that is known of it.
    pub failures: Vec<String>,
}

/// The roles that can be asked for.
pub fn role_names() -> impl Iterator<Item = &'static str> {
    ROLES.iter().map(|role| role.name)
}

/// Fuzzes every wanted role on every wanted set.
///
/// # Errors
/// When it cannot be done at all: a role that this server does not know, a description that cannot be read, a directory
/// that cannot be written.
///
/// # Panics
/// When a server does not start or does not stop.
pub async fn run(options: &Options, servers: Option<&Servers>) -> Result<Summary, String> {
    println!("api-fuzz: seed {}, {} cases", options.seed, options.cases);
    let document = Document::of(&options.bin)?;
    let roles = choose(&options.roles, document.has("POST", "/tokens"))?;
    let share = options.cases.div_ceil((roles.len() * options.on.len()).max(1) as u64);
    let took = wait::stopwatch();
    let mut summary = Summary::default();
    for set in &options.on {
        for role in &roles {
            let run = Run { options, document: &document, set: *set, role, share };
            let left = options.time.saturating_sub(took());
            if left.is_zero() {
                summary.failures.push(format!("{}: not run, the time was over", run.name()));
                continue;
            }
            run.all(servers, left, &mut summary).await?;
        }
    }
    if summary.cases < options.cases {
        summary.failures.push(format!("{} cases ran, {} were asked for", summary.cases, options.cases));
    }
    Ok(summary)
}

/// The wanted roles, in the order of [`ROLES`]. A server without tokens knows one role: everybody may do everything.
fn choose(wanted: &[String], has_tokens: bool) -> Result<Vec<&'static Role>, String> {
    if let Some(unknown) = wanted.iter().find(|name| role_names().all(|known| known != name.as_str())) {
        let known: Vec<_> = role_names().collect();
        return Err(format!("there is no role \"{unknown}\"; there are {}", known.join(", ")));
    }
    let is_wanted = |role: &&Role| wanted.is_empty() || wanted.iter().any(|name| name == role.name);
    let (chosen, others): (Vec<_>, Vec<_>) =
        ROLES.iter().filter(is_wanted).partition(|role| has_tokens || role.access == Access::Open);
    if others.is_empty() {
        return Ok(chosen);
    }
    let names: Vec<_> = others.iter().map(|role| role.name).collect();
    let why = format!("this server makes no tokens (its API has no POST /tokens): {}", names.join(", "));
    if !wanted.is_empty() {
        return Err(why);
    }
    println!("not run: {why}");
    Ok(chosen)
}

/// One role on one set.
struct Run<'a> {
    options: &'a Options,
    document: &'a Document,
    set: Set,
    role: &'a Role,
    /// How many cases it must have.
    share: u64,
}

impl Run<'_> {
    /// Runs rounds until there are enough cases, something is wrong or `time` is over, and tells what they came to.
    async fn all(
        &self,
        servers: Option<&Servers>,
        time: Duration,
        summary: &mut Summary,
    ) -> Result<(), String> {
        let took = wait::stopwatch();
        let mut sandbox = match (self.set, servers) {
            (Set::Servers, Some(servers)) => servers.sandbox(&self.options.bin),
            (set, _) => Sandbox::of(set, &self.options.bin),
        };
        sandbox.env.extend(ENVIRONMENT.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        sandbox.no_auth = self.role.access == Access::Open;
        let server = sandbox.start().await;
        wait::until("the server to be ready", SOON, async || {
            server.client().ready().await.ok().filter(|ready| ready.ready)
        })
        .await;
        let first = roles::first_token(&sandbox, self.role)?;
        roles::start_agents(&server, first.as_deref()).await?;
        let token = roles::token(&server, first.as_deref(), self.role).await?;

        let mut tally = Tally::default();
        while tally.cases < self.share && tally.failures.is_empty() && tally.rounds < SEEDS {
            let left = time.saturating_sub(took());
            self.round(&mut tally, &server, token.as_deref(), left).await?;
        }
        self.judge(&mut tally);
        if let Err(why) = server.client().health().await {
            tally.failures.push(format!("the server does not answer any more: {why}\n{}", server.log()));
        }
        let status = server.stop().await;
        if !status.success() {
            tally.failures.push(format!("the server ended with {status}"));
        }
        self.tell(&tally, took());
        summary.cases += tally.cases;
        summary.failures.extend(
            tally
                .failures
                .iter()
                .map(|failure| format!("{}: {}", self.name(), failure.lines().next().unwrap_or_default())),
        );
        Ok(())
    }

    /// One call of schemathesis, counted.
    async fn round(
        &self,
        tally: &mut Tally,
        server: &Server,
        token: Option<&str>,
        left: Duration,
    ) -> Result<(), String> {
        let call = Call {
            document: self.document,
            excluded: &roles::excluded(self.role, self.document),
            set: self.set,
            token,
            // What is not left to chance is the same in every round.
            phases: if tally.rounds == 0 { Phases::All } else { Phases::Chance },
            examples: self.examples(tally),
            seed: self.seed(tally.rounds),
        };
        let dir =
            self.options.out.join(format!("{}-{}-{}", set_name(self.set), self.role.name, tally.rounds));
        empty(&dir)?;
        let ended = call.run(&self.options.schemathesis, server.address(), &dir, left).await?;
        tally.rounds += 1;
        match ended {
            None => tally.failures.push(format!("the time was over ({} s)", self.options.time.as_secs())),
            Some(status) => {
                let round = Round::read(&dir, status.success())?;
                if round.cases == 0 && round.failures.is_empty() {
                    tally.failures.push("schemathesis made no case".to_owned());
                }
                tally.add(round);
            }
        }
        Ok(())
    }

    /// How many cases chance has to bring each operation. What has no parameters has very few, so that those which
    /// have some must bring more than their part in later rounds.
    fn examples(&self, tally: &Tally) -> u64 {
        let operations = (self.document.operations().len() as u64).max(1);
        self.share.saturating_sub(tally.cases).div_ceil(operations).clamp(FEWEST_EXAMPLES, MOST_EXAMPLES)
    }

    /// The same for a role on a set whichever others run.
    fn seed(&self, round: u64) -> u64 {
        let place = ROLES.iter().position(|role| role.name == self.role.name).unwrap_or_default() as u64;
        let set = if self.set == Set::Embedded { 0 } else { ROLES.len() as u64 };
        self.options.seed.wrapping_add((set + place) * SEEDS + round)
    }

    /// Adds what is missing to the failures.
    fn judge(&self, tally: &mut Tally) {
        // Rounds that were cut short have said why already, and if nothing was counted, nothing can be missed.
        if tally.failures.is_empty() && tally.cases < self.share {
            tally.failures.push(format!(
                "{} cases ran in {} rounds, {} were asked for",
                tally.cases, tally.rounds, self.share
            ));
        }
        if tally.cases == 0 {
            return;
        }
        let excluded = roles::excluded(self.role, self.document);
        for operation in self.document.operations() {
            let is_excluded = excluded.iter().any(|(one, _)| one == operation);
            if !is_excluded && !tally.tried.contains(operation) {
                tally.failures.push(format!("{operation} got no case"));
            }
        }
    }

    fn tell(&self, tally: &Tally, took: Duration) {
        let operations = self.document.operations();
        let covered = operations.iter().filter(|one| tally.tried.contains(*one)).count();
        println!(
            "{}: {} cases in {} rounds, {covered} of {} operations, {} failures ({:.0} s)",
            self.name(),
            tally.cases,
            tally.rounds,
            operations.len(),
            tally.failures.len(),
            took.as_secs_f64()
        );
        for (operation, why) in roles::excluded(self.role, self.document) {
            println!("    not tried: {operation}: {why}");
        }
        let never: Vec<String> = operations
            .iter()
            .filter(|one| tally.tried.contains(*one) && !tally.succeeded.contains(*one))
            .map(ToString::to_string)
            .collect();
        if !never.is_empty() {
            println!("    never answered with 1xx or 2xx: {}", never.join(", "));
        }
        for failure in &tally.failures {
            println!("    FAILED: {}", failure.replace('\n', "\n    "));
        }
        if !tally.failures.is_empty() {
            println!(
                "    again with: cargo xtask test --api-fuzz --seed {} --cases {} --on {} --role {}",
                self.options.seed,
                self.share,
                set_name(self.set),
                self.role.name
            );
        }
    }

    fn name(&self) -> String {
        format!("{}, {}", set_name(self.set), self.role.name)
    }
}

/// What the rounds of one role on one set came to.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    cases: u64,
    tried: BTreeSet<Operation>,
    succeeded: BTreeSet<Operation>,
    failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, round: Round) {
        self.cases += round.cases;
        self.tried.extend(round.tried);
        self.succeeded.extend(round.succeeded);
        self.failures.extend(round.failures);
    }
}

/// The set's name on the command line and in what is told.
fn set_name(set: Set) -> &'static str {
    match set {
        Set::Embedded => "embedded",
        Set::Servers => "servers",
    }
}

fn empty(dir: &Path) -> Result<(), String> {
    match fs::remove_dir_all(dir) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {why}", dir.display()))
        }
        _ => fs::create_dir_all(dir).map_err(|why| format!("cannot make {}: {why}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(cases: u64) -> Options {
        Options {
            bin: "aito".into(),
            schemathesis: "schemathesis".into(),
            out: "out".into(),
            cases,
            seed: 7,
            on: vec![Set::Embedded, Set::Servers],
            roles: Vec::new(),
            time: Duration::from_secs(1),
        }
    }

    fn document() -> Document {
        Document::read(r#"{"paths":{"/a":{"get":{},"post":{}},"/b":{"get":{}}}}"#).unwrap()
    }

    fn names(wanted: &[&str], has_tokens: bool) -> Result<Vec<&'static str>, String> {
        let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
        Ok(choose(&wanted, has_tokens)?.iter().map(|role| role.name).collect())
    }

    #[test]
    fn a_server_without_tokens_is_fuzzed_without_them() {
        assert_eq!(names(&[], false).unwrap(), ["open"]);
        assert_eq!(names(&["open"], false).unwrap(), ["open"]);
        assert!(names(&["viewer"], false).unwrap_err().contains("no POST /tokens"));
    }

    #[test]
    fn a_server_with_tokens_is_fuzzed_in_every_role_or_in_those_that_were_asked_for() {
        assert_eq!(names(&[], true).unwrap().len(), ROLES.len());
        assert_eq!(names(&["admin", "viewer"], true).unwrap(), ["viewer", "admin"]);
        assert!(names(&["king"], true).unwrap_err().contains("there is no role \"king\""));
    }

    #[test]
    fn no_two_rounds_share_a_seed_and_none_depends_on_what_else_runs() {
        let (options, document) = (options(10), document());
        let mut seen = BTreeSet::new();
        for set in [Set::Embedded, Set::Servers] {
            for role in ROLES {
                let run = Run { options: &options, document: &document, set, role, share: 5 };
                for round in [0, 1, SEEDS - 1] {
                    assert!(seen.insert(run.seed(round)));
                }
            }
        }
    }

    #[test]
    fn what_is_missing_is_shared_by_the_operations() {
        let (options, document) = (options(6000), document());
        let run =
            Run { options: &options, document: &document, set: Set::Embedded, role: &ROLES[0], share: 3000 };
        assert_eq!(run.examples(&Tally::default()), MOST_EXAMPLES);
        assert_eq!(run.examples(&Tally { cases: 2001, ..Tally::default() }), 333);
        assert_eq!(run.examples(&Tally { cases: 2999, ..Tally::default() }), FEWEST_EXAMPLES);
    }

    #[test]
    fn too_few_cases_and_operations_without_any_are_failures() {
        let (options, document) = (options(20), document());
        let run =
            Run { options: &options, document: &document, set: Set::Embedded, role: &ROLES[0], share: 10 };
        let tried = [Operation::new("GET", "/a"), Operation::new("GET", "/b")];
        let mut tally = Tally { cases: 9, rounds: 8, tried: tried.into(), ..Tally::default() };
        run.judge(&mut tally);
        assert_eq!(
            tally.failures,
            ["9 cases ran in 8 rounds, 10 were asked for", "POST /a got no case"].map(String::from)
        );
        let mut tally = Tally { failures: vec!["the time was over".into()], ..Tally::default() };
        run.judge(&mut tally);
        assert_eq!(tally.failures, ["the time was over"]);
        let mut tally = Tally { cases: 10, ..Tally::default() };
        tally.tried.extend(document.operations().iter().cloned());
        run.judge(&mut tally);
        assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    }
}
