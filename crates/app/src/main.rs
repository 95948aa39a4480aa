//! `aito`: the one binary. Reads the command line, runs what it names.
//!
//! Invariant: this crate alone knows adapters by name; no rule of the business lives here.

mod accept_engine;
mod agents_config;
mod audit_cli;
mod config;
mod credentials;
mod domains;
mod guard_config;
mod installation;
mod profiles;
mod runtimes;
mod serve;
mod sockets;
mod stores;
mod system;
mod watch;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use aito_domain::display::{Sink, display_safe};
use clap::{Args, Parser, Subcommand};

/// Control plane for a company of autonomous AI agents.
#[derive(Parser)]
#[command(name = "aito", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API and keep the agents alive
    Serve(ServeArgs),
    /// Print every setting with its source, secrets masked
    Config(ServeArgs),
    /// What belongs to the installation as a whole
    #[command(subcommand)]
    Installation(InstallationCommand),
    /// Operators' tokens, on the machine itself
    #[command(subcommand)]
    Token(TokenCommand),
    /// The audit, on the machine itself
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print what happens as it happens: one frame of the WebSocket a line, across restarts of the server
    Watch(watch::WatchArgs),
    /// Print the description of the HTTP API (OpenAPI 3.1)
    Openapi,
    /// The program inside an agent's container; configured by its environment
    #[command(hide = true)]
    Agent,
    /// Holds one local agent process; started by the server
    #[command(hide = true)]
    Shim,
}

#[derive(Subcommand)]
enum InstallationCommand {
    /// Take the Docker engine that answers now for the installation's own, after the one before was replaced
    AcceptEngine(ServeArgs),
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token with the roles admin, operator and human, for who lost theirs; it is put into a file
    Recover(ServeArgs),
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Check that no sealed entry was changed, removed or put in; needs no server
    Verify(audit_cli::VerifyArgs),
}

/// What `serve` and `config` take; each stands above environment and file.
#[derive(Args, Debug, Default, Clone)]
struct ServeArgs {
    /// Where to listen for operators, `address:port` [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where everything is kept [default: the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where agents run: auto, process or docker [default: auto]
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    /// Let callers on loopback in without a credential
    #[arg(long)]
    no_auth: bool,
    /// A configuration file [default: aito.toml in the working directory, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Before anything else: the shim must stay single-threaded and small.
    if std::env::args_os().nth(1) == Some(OsString::from("shim")) {
        return aito_embedded::process::shim::main();
    }
    match Cli::parse().command {
        Command::Serve(args) => report(load(&args).and_then(serve::run)),
        Command::Config(args) => report(load(&args).map(|config| print!("{}", config.describe()))),
        Command::Installation(InstallationCommand::AcceptEngine(args)) => {
            report(load(&args).and_then(accept_engine::run).map(|said| println!("{said}")))
        }
        Command::Token(TokenCommand::Recover(args)) => {
            report(load(&args).and_then(credentials::recover).map(|said| println!("{said}")))
        }
        Command::Audit(AuditCommand::Verify(args)) => report(
            load(&args.serve).and_then(|config| audit_cli::run(config, &args)).map(|said| println!("{said}")),
        ),
        Command::Watch(args) => report(watch::run(&args)),
        Command::Openapi => {
            report(aito_http::document().map(|text| print!("{text}")).map_err(|e| e.to_string()))
        }
        Command::Agent => agent(),
        Command::Shim => aito_embedded::process::shim::main(),
    }
}

fn load(args: &ServeArgs) -> Result<config::Config, String> {
    config::Config::load(args, &config::environment())
}

fn report(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("aito: {}", display_safe(&why, Sink::Terminal));
            ExitCode::FAILURE
        }
    }
}

/// Runs the reference agent in the same binary, so that one image holds both.
fn agent() -> ExitCode {
    let vars = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let config = match aito_agent::Config::from_env(vars) {
        Ok(config) => config,
        Err(why) => {
            eprintln!("aito agent: {why}");
            return ExitCode::from(aito_agent::Outcome::Misconfigured.exit_code());
        }
    };
    // One thread: an agent waits nearly all the time, and there may be many on one machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|why| why.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            let shutdown = aito_agent::Shutdown::from_signals().map_err(|why| why.to_string())?;
            Ok(aito_agent::run(config, shutdown).await)
        })
    });
    match outcome {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(why) => {
            eprintln!("aito agent: cannot start: {why}");
            ExitCode::from(aito_agent::Outcome::Failed.exit_code())
        }
    }
}
