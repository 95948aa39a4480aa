//! Benchmarks: what the server does against a reference that does the least that could be called the same work.
//!
//! Invariants: subject and reference are measured in turn, in the same run, by the same load generator, and
//! compared pair by pair; the first pair warms up and is dropped; every load is bounded in time and number and
//! stays in a sandbox on this machine; a scenario that fails is told as failed and the others go on.

mod bare;
mod container_start;
mod fanout;
mod flood;
mod heartbeat;
mod large_lists;
mod large_rows;
mod load;
mod machine;
mod pg_reads;
mod pg_writes;
mod pgbench;
mod reads;
mod report;
mod scenario;
mod servers;
mod start;
mod stats;
mod websocket;
mod writes;

use std::{
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::FutureExt as _;

use machine::Machine;
use report::{Compared, Report, Row};
use scenario::{About, Context};
use servers::Lazy;

use crate::wait;

/// Every scenario, in the order in which they run. What is added here is listed, run and reported.
const ALL: [&About; 14] = [
    &reads::AGENTS,
    &reads::EVENTS,
    &writes::DURABLE_WRITE,
    &start::AGENT_START,
    &fanout::WS_FANOUT,
    &heartbeat::HEARTBEAT,
    &flood::ADDRESS,
    &flood::AGENT,
    &container_start::CONTAINER_START,
    &pg_reads::AGENTS,
    &pg_reads::EVENTS,
    &pg_writes::COMMIT,
    &pg_writes::ORDER,
    &large_lists::LARGE_LISTS,
];

/// What to measure, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's binary.
    pub bin: PathBuf,
    /// Names of the scenarios; when there are none, all that there are in this size.
    pub only: Vec<String>,
    /// Pairs that count, 1 to 1000; one more runs before them.
    pub repeats: u32,
    /// How long one measurement takes, 100 ms to 10 min.
    pub time: Duration,
    /// The larger sizes, where a scenario has them, and scenarios that have no others.
    pub large: bool,
    /// Where `bench.json` and `bench.md` go; made if it is not there.
    pub out: PathBuf,
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Scenarios that could not be measured.
    pub failed: usize,
    /// Scenarios whose servers this machine cannot have.
    pub not_run: usize,
    /// Targets that were missed.
    pub missed: usize,
}

/// Name and one line of every scenario.
pub fn list() -> Vec<(&'static str, String)> {
    let what = |about: &About| {
        if about.only_large { format!("{} (needs --large)", about.what) } else { about.what.to_owned() }
    };
    ALL.iter().map(|about| (about.name, what(about))).collect()
}

/// Measures, prints the report as Markdown and writes it to files.
///
/// # Errors
/// A name that there is not, or not in this size, or a report that cannot be written.
pub async fn run(options: &Options) -> Result<Summary, String> {
    let chosen = choose(&options.only, options.large)?;
    fs::create_dir_all(&options.out)
        .map_err(|why| format!("cannot make {}: {why}", options.out.display()))?;
    let before = Machine::look(&std::env::temp_dir());
    let mut rows = Vec::new();
    let context = Context { bin: options.bin.clone(), large: options.large, servers: Lazy::default() };
    for about in chosen {
        eprintln!("{}: {}", about.name, about.what);
        if about.on_servers
            && let Err(why) = context.servers.get(&context.bin).await
        {
            eprintln!("{}: not run: {why}", about.name);
            rows.push(Row::NotRun { name: about.name.to_owned(), why });
            continue;
        }
        // A sandbox panics when the server does not do as it must; that fails this scenario, not the others.
        let one = AssertUnwindSafe(measure(about, &context, options)).catch_unwind().await;
        let result = one.unwrap_or_else(|panic| Err(words(&*panic)));
        rows.push(match result {
            Ok(compared) => Row::Compared(Box::new(compared)),
            Err(why) => {
                eprintln!("{}: failed: {why}", about.name);
                Row::Failed { name: about.name.to_owned(), why }
            }
        });
    }
    let report = Report {
        at_unix_ms: wait::wall_millis(),
        bin: options.bin.clone(),
        repeats: options.repeats,
        seconds: options.time.as_secs_f64(),
        large: options.large,
        load_after: machine::load_average(),
        machine: before,
        rows,
    };
    let text = report.markdown();
    write(&options.out, "bench.md", text.as_bytes())?;
    let json = serde_json::to_vec_pretty(&report).map_err(|why| why.to_string())?;
    write(&options.out, "bench.json", &json)?;
    print!("{text}");
    println!("\nwritten to {}/bench.md and bench.json", options.out.display());
    Ok(report.summary())
}

fn choose(only: &[String], large: bool) -> Result<Vec<&'static About>, String> {
    for name in only {
        match ALL.iter().find(|about| about.name == name) {
            Some(about) if about.only_large && !large => return Err(format!("{name} needs --large")),
            Some(_) => {}
            None => {
                let names: Vec<_> = ALL.iter().map(|about| about.name).collect();
                return Err(format!("there is no scenario \"{name}\"; there are {}", names.join(", ")));
            }
        }
    }
    Ok(ALL
        .into_iter()
        .filter(|about| large || !about.only_large)
        .filter(|about| only.is_empty() || only.iter().any(|name| name == about.name))
        .collect())
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), String> {
    let path = dir.join(name);
    fs::write(&path, bytes).map_err(|why| format!("cannot write {}: {why}", path.display()))
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}

async fn measure(about: &About, context: &Context, options: &Options) -> Result<Compared, String> {
    let mut scenario = (about.set_up)(context).await?;
    let mut pairs = Vec::new();
    for round in 0..=options.repeats {
        let subject =
            scenario.measure_subject(options.time).await.map_err(|why| format!("subject: {why}"))?;
        let reference =
            scenario.measure_reference(options.time).await.map_err(|why| format!("reference: {why}"))?;
        let dropped = if round == 0 { " (warm-up, dropped)" } else { "" };
        let (this, that) = (report::figure(subject.value), report::figure(reference.value));
        eprintln!("  {round}/{}  {this} against {that} {}{dropped}", options.repeats, about.unit);
        if round > 0 {
            pairs.push((subject, reference));
        }
    }
    let facts = scenario.facts().await.map_err(|why| format!("afterwards: {why}"))?;
    Ok(Compared::new(about, &pairs, facts))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_unknown_ones_are_refused_with_the_known() {
        let names: BTreeSet<_> = list().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(choose(&[], true).unwrap().len(), ALL.len());
        let two = choose(&["heartbeat".into(), "read_agents".into()], false).unwrap();
        assert_eq!(two.iter().map(|about| about.name).collect::<Vec<_>>(), ["read_agents", "heartbeat"]);
        let why = choose(&["fast".into()], true).err().unwrap();
        assert!(why.contains("\"fast\"") && why.contains("durable_write"), "{why}");
    }

    #[test]
    fn what_has_only_a_large_size_runs_and_is_listed_with_that() {
        let usual = choose(&[], false).unwrap();
        assert!(!usual.is_empty() && usual.iter().all(|about| !about.only_large));
        assert_eq!(choose(&["large_lists".into()], false).err().unwrap(), "large_lists needs --large");
        assert_eq!(choose(&["large_lists".into()], true).unwrap().len(), 1);
        for (about, (name, what)) in ALL.iter().zip(list()) {
            assert_eq!(what.contains("(needs --large)"), about.only_large, "{name}");
        }
    }

    #[tokio::test]
    async fn a_server_that_cannot_run_is_a_failed_scenario_that_is_told() {
        let out = tempfile::tempdir().unwrap();
        let options = Options {
            bin: "/nowhere/aito".into(),
            only: vec!["read_agents".into()],
            repeats: 1,
            time: Duration::from_millis(100),
            large: false,
            out: out.path().join("deep/er"),
        };
        assert_eq!(run(&options).await.unwrap(), Summary { failed: 1, not_run: 0, missed: 0 });
        let text = fs::read_to_string(options.out.join("bench.md")).unwrap();
        assert!(text.contains("/nowhere/aito") && text.contains("failed"), "{text}");
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(options.out.join("bench.json")).unwrap()).unwrap();
        assert_eq!(json["rows"][0]["failed"]["name"], "read_agents");
    }
}
