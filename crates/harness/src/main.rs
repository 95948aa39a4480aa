//! `aito-harness`: measures the server, kills it again and again, fuzzes its API, or holds the servers of a test run.
//!
//! Invariants: whatever ends it, also a signal, no process of a sandbox and no server is left behind; a failed run of
//! chance names its seed.

use std::{panic::AssertUnwindSafe, path::PathBuf, process::ExitCode, time::Duration};

use aito_harness::{Sandbox, Set, api_fuzz, bench, chaos, claims, servers::Servers};
use clap::{Args, Parser, Subcommand};
use futures_util::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};

/// Measures the server, or kills it again and again; usually called by `cargo xtask bench` and `cargo xtask chaos`.
#[derive(Parser)]
#[command(name = "aito-harness", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure against references, in turn, and report medians, spreads and ratios
    Bench(BenchArgs),
    /// Kill the server, or agents at work, at random moments and check that everything stays as it must
    Chaos(ChaosArgs),
    /// Call every operation of the API with cases made from its description, and hold each answer to it
    ApiFuzz(ApiFuzzArgs),
    /// Start PostgreSQL, Redis and a Docker engine for tests and hold them until standard input ends
    Servers(ServersArgs),
    /// Pass connections on to a Unix socket, for containers that reach servers by name
    Relay(RelayArgs),
}

#[derive(Args)]
struct BenchArgs {
    /// The server's binary
    #[arg(long, value_name = "PATH", required_unless_present = "list")]
    bin: Option<PathBuf>,
    /// Only this scenario; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Pairs that count; one more warms up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// How long one measurement takes, 0.1 to 600 seconds
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// The larger sizes, where a scenario has them, and the scenarios that have no others
    #[arg(long)]
    large: bool,
    /// Where bench.json and bench.md go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// End with status 1 when a target is missed
    #[arg(long)]
    strict: bool,
    /// Print the scenarios and end
    #[arg(long)]
    list: bool,
}

#[derive(Args)]
struct ChaosArgs {
    /// The server's binary
    #[arg(long, value_name = "PATH")]
    bin: PathBuf,
    /// Where everything random comes from [default: the system, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What runs, and on which adapters
    #[arg(long, value_enum, default_value = "embedded")]
    on: On,
    /// What happens
    #[arg(long, value_enum, default_value = "fleet")]
    story: Story,
    /// How often a server is killed, in the story of the fleet [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Story {
    /// Servers die while agents are started, stopped and restarted
    Fleet,
    /// Agents die while 50 clients claim and end 2,000 tasks, with 10,000 claims
    Claims,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum On {
    /// One server on SQLite and local processes
    Embedded,
    /// One server on private PostgreSQL, Redis and Docker engine
    Servers,
    /// Two servers of one installation on these, either killed
    TwoServers,
}

#[derive(Args)]
struct ApiFuzzArgs {
    /// The server's binary
    #[arg(long, value_name = "PATH")]
    bin: PathBuf,
    /// The program schemathesis
    #[arg(long, value_name = "PATH")]
    schemathesis: PathBuf,
    /// How many cases there must be over all roles and sets
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    cases: u32,
    /// Where everything random comes from [default: the system, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Only on this set; both if absent
    #[arg(long, value_enum)]
    on: Option<OneSet>,
    /// Only in this role; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(api_fuzz::role_names()))]
    role: Vec<String>,
    /// How long all of it may take, in minutes
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1440))]
    minutes: u32,
    /// Where configurations and reports go
    #[arg(long, value_name = "DIR", default_value = "target/api-fuzz")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum OneSet {
    /// SQLite and local processes
    Embedded,
    /// Private PostgreSQL, Redis and Docker engine
    Servers,
}

#[derive(Args)]
struct RelayArgs {
    /// Where to listen, `address:port`
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    /// The socket
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
}

#[derive(Args)]
struct ServersArgs {
    /// The program in the engine's test image
    #[arg(long, value_name = "PATH")]
    bin: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return failed(&format!("cannot start: {why}")),
    };
    // Dropping the future ends what runs in sandboxes, which a signal alone would not.
    let status = runtime.block_on(async {
        tokio::select! {
            status = run(cli.command) => status,
            number = interrupted() => {
                eprintln!("aito-harness: ended by a signal");
                ExitCode::from(128 + number)
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    status
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Bench(args) if args.list => {
            for (name, what) in bench::list() {
                println!("{name:<16}{what}");
            }
            ExitCode::SUCCESS
        }
        Command::Bench(args) => run_bench(args).await,
        Command::Chaos(args) => run_chaos(args).await,
        Command::ApiFuzz(args) => run_api_fuzz(args).await,
        Command::Servers(args) => run_servers(args).await,
        Command::Relay(args) => relay(args).await,
    }
}

async fn run_bench(args: BenchArgs) -> ExitCode {
    let Some(bin) = args.bin else { return failed("--bin is missing") };
    let options = bench::Options {
        bin,
        only: args.only,
        repeats: args.repeats,
        time: args.seconds,
        large: args.large,
        out: args.out,
    };
    match bench::run(&options).await {
        Err(why) => failed(&why),
        Ok(summary) => {
            let bad = summary.failed > 0 || (args.strict && summary.missed > 0);
            println!("{} scenarios failed, {} targets missed", summary.failed, summary.missed);
            if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

async fn run_chaos(args: ChaosArgs) -> ExitCode {
    let rounds = match (args.story, args.rounds) {
        (Story::Fleet, rounds) => rounds.unwrap_or(100),
        (Story::Claims, None) => 0,
        (Story::Claims, Some(_)) => return failed("--rounds is for the story of the fleet"),
    };
    let seed = match args.seed.map_or_else(getrandom::u64, Ok) {
        Ok(seed) => seed,
        Err(why) => return failed(&format!("the system gives no seed: {why}")),
    };
    let bin = args.bin.clone();
    let servers = match args.on {
        On::Embedded => None,
        On::Servers | On::TwoServers => match tokio::task::spawn_blocking(move || Servers::start(&bin)).await
        {
            Ok(Ok(servers)) => Some(servers),
            Ok(Err(why)) => return failed(&why),
            Err(why) => return failed(&why.to_string()),
        },
    };
    let two = args.on == On::TwoServers;
    let run = async {
        let sandbox = match &servers {
            Some(servers) => servers.sandbox(&args.bin),
            None => Sandbox::new(&args.bin),
        };
        match args.story {
            Story::Claims => format!("{:?}", claims::run(&sandbox, two, seed, claims::Size::FULL).await),
            Story::Fleet => {
                let report = match two {
                    true => chaos::two_servers::run(&sandbox, seed, rounds).await,
                    false => chaos::run(&sandbox, seed, rounds).await,
                };
                format!(
                    "{} kills, {} calls answered, {} not, {} events",
                    report.kills, report.acknowledged, report.unanswered, report.events
                )
            }
        }
    };
    match AssertUnwindSafe(run).catch_unwind().await {
        Ok(report) => {
            println!("chaos: seed {seed}: {report}; everything as it must be");
            ExitCode::SUCCESS
        }
        // What was wrong has been printed by the panic.
        Err(_) => {
            let mut again = format!("--on {} --seed {seed}", word(&args.on));
            match args.story {
                Story::Claims => again += &format!(" --story {}", word(&args.story)),
                Story::Fleet => again += &format!(" --rounds {rounds}"),
            }
            failed(&format!("chaos failed; again with: chaos {again}"))
        }
    }
}

/// What a value is called on the command line.
fn word(value: &impl clap::ValueEnum) -> String {
    clap::ValueEnum::to_possible_value(value).map_or_else(String::new, |value| value.get_name().to_owned())
}

async fn run_api_fuzz(args: ApiFuzzArgs) -> ExitCode {
    let seed = match args.seed.map_or_else(getrandom::u32, Ok) {
        Ok(seed) => seed,
        Err(why) => return failed(&format!("the system gives no seed: {why}")),
    };
    let on = match args.on {
        None => vec![Set::Embedded, Set::Servers],
        Some(OneSet::Embedded) => vec![Set::Embedded],
        Some(OneSet::Servers) => vec![Set::Servers],
    };
    let bin = args.bin.clone();
    let servers = match on.contains(&Set::Servers) {
        false => None,
        true => match tokio::task::spawn_blocking(move || Servers::start(&bin)).await {
            Ok(Ok(servers)) => Some(servers),
            Ok(Err(why)) => return failed(&why),
            Err(why) => return failed(&why.to_string()),
        },
    };
    let options = api_fuzz::Options {
        bin: args.bin,
        schemathesis: args.schemathesis,
        out: args.out,
        cases: args.cases.into(),
        seed: seed.into(),
        on,
        roles: args.role,
        time: Duration::from_secs(u64::from(args.minutes) * 60),
    };
    match AssertUnwindSafe(api_fuzz::run(&options, servers.as_ref())).catch_unwind().await {
        Ok(Ok(summary)) if summary.failures.is_empty() => {
            println!("api-fuzz: seed {seed}: {} cases, everything as it must be", summary.cases);
            ExitCode::SUCCESS
        }
        Ok(Ok(summary)) => {
            for failure in &summary.failures {
                println!("FAILED: {failure}");
            }
            failed(&format!(
                "api-fuzz: seed {seed}: {} cases, {} failures; reports in {}",
                summary.cases,
                summary.failures.len(),
                options.out.display()
            ))
        }
        Ok(Err(why)) => failed(&why),
        // What was wrong has been printed by the panic.
        Err(_) => failed(&format!("api-fuzz failed; again with: --seed {seed} --cases {}", options.cases)),
    }
}

/// Prints `NAME=value` for each server, then `ready`.
async fn run_servers(args: ServersArgs) -> ExitCode {
    // Servers that are still starting when a signal ends this process are ended by their guards.
    let servers = match tokio::task::spawn_blocking(move || Servers::start(&args.bin)).await {
        Ok(Ok(servers)) => servers,
        Ok(Err(why)) => return failed(&why),
        Err(why) => return failed(&why.to_string()),
    };
    for (name, value) in servers.variables() {
        println!("{name}={value}");
    }
    println!("ready");
    input_ends().await;
    ExitCode::SUCCESS
}

/// Passes every connection on, until it is ended by a signal.
async fn relay(args: RelayArgs) -> ExitCode {
    let listener = match tokio::net::TcpListener::bind(&args.listen).await {
        Ok(listener) => listener,
        Err(why) => return failed(&format!("cannot listen on {}: {why}", args.listen)),
    };
    loop {
        let Ok((mut from, _)) = listener.accept().await else { continue };
        let to = args.to.clone();
        tokio::spawn(async move {
            // Either end may go at any time, which ends the other.
            if let Ok(mut to) = tokio::net::UnixStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

/// Waits until whoever started this process closes its standard input, or is gone. The thread that reads it is not the
/// runtime's: a signal must not wait for it.
async fn input_ends() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // Nobody waits for it after a signal.
        let _ = ended.send(());
    });
    // That the thread is gone means the same.
    let _ = end.await;
}

/// Waits for SIGINT or SIGTERM and gives its number.
async fn interrupted() -> u8 {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("0.1 to 600".into()),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("aito-harness: {why}");
    ExitCode::FAILURE
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lines_that_are_understood() {
        let Command::Bench(args) =
            parsed("x bench --bin b --only a --only c --repeats 3 --seconds 0.5 --large").unwrap().command
        else {
            panic!("not bench")
        };
        assert_eq!((args.only, args.repeats), (vec!["a".to_owned(), "c".to_owned()], 3));
        assert_eq!((args.seconds, args.large, args.strict), (Duration::from_millis(500), true, false));
        assert_eq!(args.out, PathBuf::from("target/bench"));
        assert!(parsed("x bench --list").is_ok());
        let Command::Chaos(args) = parsed("x chaos --bin b").unwrap().command else { panic!("not chaos") };
        assert!((args.seed, args.rounds) == (None, None) && args.on == On::Embedded);
        assert_eq!(args.story, Story::Fleet);
        let line = "x chaos --bin b --on two-servers --story claims";
        let Command::Chaos(args) = parsed(line).unwrap().command else { panic!("not chaos") };
        assert!(args.on == On::TwoServers && args.story == Story::Claims);
        let Command::ApiFuzz(args) =
            parsed("x api-fuzz --bin b --schemathesis s --on servers --role open").unwrap().command
        else {
            panic!("not api-fuzz")
        };
        assert_eq!((args.cases, args.seed, args.on), (10_000, None, Some(OneSet::Servers)));
        assert_eq!((args.role, args.minutes), (vec!["open".to_owned()], 60));
        assert!(parsed("x servers --bin b").is_ok());
    }

    #[test]
    fn lines_that_are_refused() {
        for line in [
            "x",
            "x bench",
            "x bench --bin b --repeats 0",
            "x bench --bin b --seconds 0",
            "x bench --bin b --seconds x",
            "x bench --bin b --seconds nan",
            "x chaos",
            "x chaos --bin b --rounds 0",
            "x chaos --bin b --seed -1",
            "x chaos --bin b --on nothing",
            "x chaos --bin b --story nothing",
            "x api-fuzz --bin b",
            "x api-fuzz --schemathesis s",
            "x api-fuzz --bin b --schemathesis s --cases 0",
            "x api-fuzz --bin b --schemathesis s --on two-servers",
            "x api-fuzz --bin b --schemathesis s --role king",
            "x servers",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
