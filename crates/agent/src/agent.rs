//! An agent from its start to its end.
//!
//! Invariants:
//! - Nothing is called before everything that was configured has been looked at: a wrong profile, rules file or
//!   credential ends the agent with [`Outcome::Misconfigured`] before its first heartbeat.
//! - Whatever ends it, thinking ends first.

use crate::{
    config::{Config, ServerAddress, Thinking},
    credential, descriptors,
    heartbeat::{self, Control, Ended, Vitals},
    log::Log,
    looping::{Looping, Progress, Refused},
    mailbox::{self, Mailbox},
    outbox::Outbox,
    profile::Profile,
    server::Server,
    shutdown::Shutdown,
    think::{AgentContext, Think, command::CommandThinker, rules::Rules},
    time,
};
use aito_api::Activity;
use aito_client::{Options, Token};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Asked to, by signal or by the server: exit code 0.
    Stopped,
    /// Its credential was refused, so another incarnation speaks for it: 77.
    Refused,
    /// Its configuration cannot be used: 78.
    Misconfigured,
    /// A defect: 70.
    Failed,
    /// It was not given the time to end well: 143.
    Forced,
}

impl Outcome {
    /// The exit code of the process. 70, 77 and 78 are those of `sysexits.h` for internal software error,
    /// permission denied and configuration error.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Refused => 77,
            Self::Misconfigured => 78,
            Self::Failed => 70,
            Self::Forced => 143,
        }
    }
}

/// What is constant, except in tests.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Without an answered heartbeat for so long the agent stops thinking: 10 min.
    pub silence_limit: Duration,
    /// How long one call to one server may take: 5 s.
    pub call_timeout: Duration,
    /// How long the last heartbeat may take, at most half of the grace: 2 s.
    pub farewell: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            silence_limit: Duration::from_secs(600),
            call_timeout: Duration::from_secs(5),
            farewell: Duration::from_secs(2),
        }
    }
}

/// An agent that can be run.
pub struct Agent {
    config: Config,
    tuning: Tuning,
    log: Log,
    think: Option<Box<dyn Think>>,
}

/// Runs the configured agent, logging to standard output. Must be called within a tokio runtime.
pub async fn run(config: Config, shutdown: Shutdown) -> Outcome {
    Agent::new(config).run(shutdown).await
}

impl Agent {
    /// An agent as configured.
    pub fn new(config: Config) -> Self {
        Self { config, tuning: Tuning::default(), log: Log::stdout(), think: None }
    }

    /// With other constants.
    #[must_use]
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// With another log.
    #[must_use]
    pub fn log(mut self, log: Log) -> Self {
        self.log = log;
        self
    }

    /// With another thinker than the configured one.
    #[must_use]
    pub fn think(mut self, think: Box<dyn Think>) -> Self {
        self.think = Some(think);
        self
    }

    /// Runs until there is a reason to end.
    pub async fn run(self, shutdown: Shutdown) -> Outcome {
        let log = self.log.clone();
        match self.prepare() {
            Ok(ready) => ready.run(shutdown).await,
            Err(reason) => {
                log.line(format!("cannot start: {reason}"));
                Outcome::Misconfigured
            }
        }
    }

    fn prepare(self) -> Result<Ready, String> {
        let Self { config, tuning, log, think } = self;
        log.line(format!(
            "agent {} {}, incarnation {}, aito-agent {}",
            config.agent_type,
            config.agent_id,
            config.incarnation,
            env!("CARGO_PKG_VERSION")
        ));
        // In this order: once the process is not dumpable, its own /proc may be closed to it.
        if matches!(config.thinking, Thinking::Command(_)) {
            descriptors::close_on_exec()
                .map_err(|error| format!("cannot keep descriptors from children: {error}"))?;
        }
        if config.in_container || std::process::id() == 1 {
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
                .map_err(|error| format!("cannot protect this process's memory: {error}"))?;
        }
        let token = match &config.credential_file {
            Some(path) => Some(credential::take(path).map_err(|error| error.to_string())?),
            None => None,
        };
        log.line(match token {
            Some(_) => "credential taken, its file removed",
            None => "no credential",
        });
        if let Some(path) = &config.profile {
            Profile::read(path).map_err(|error| error.to_string())?;
        }
        let think = match think {
            Some(think) => think,
            None => thinker(&config, token.as_ref(), &log)?,
        };
        log.line(format!(
            "profile {}",
            config.profile.as_ref().map_or("none".into(), |path| path.to_string_lossy())
        ));
        log.line(format!("thinks by {}", think.describe()));
        log.line(format!(
            "server {}; loop every {} s, heartbeat every {} s",
            match &config.server {
                ServerAddress::SocketDir(dir) => format!("any of {}/*.sock", dir.display()),
                ServerAddress::Endpoint(endpoint) => endpoint.to_string(),
            },
            config.loop_interval.as_secs(),
            config.heartbeat_interval.as_secs()
        ));
        let options = Options {
            token,
            connect_timeout: tuning.call_timeout.min(Duration::from_secs(2)),
            timeout: tuning.call_timeout,
            ..Options::default()
        };
        let server =
            Server::new(&config.server, &config.agent_type, options).map_err(|error| error.to_string())?;
        Ok(Ready { config, tuning, log, think, server: Arc::new(server) })
    }
}

fn thinker(config: &Config, token: Option<&Token>, log: &Log) -> Result<Box<dyn Think>, String> {
    match &config.thinking {
        Thinking::Rules { path } => {
            let rules = Rules::load(path.as_deref()).map_err(|error| error.to_string())?;
            Ok(Box::new(rules))
        }
        Thinking::Command(command) => {
            let leak = |text: &String| token.is_some_and(|token| token.is_within(text));
            if let Some((name, _)) = command.env.0.iter().find(|(_, value)| leak(value)) {
                return Err(format!("{name} would hand the credential to the thinking command"));
            }
            if command.argv.iter().any(leak) {
                return Err("THINKING_COMMAND would hand the credential to the thinking command".to_owned());
            }
            Ok(Box::new(CommandThinker::new(command.clone(), log.clone())))
        }
    }
}

/// An agent whose configuration was found good.
struct Ready {
    config: Config,
    tuning: Tuning,
    log: Log,
    think: Box<dyn Think>,
    server: Arc<Server>,
}

/// What ended the work.
enum End {
    Asked,
    StopWanted,
    Refused(String),
    Defect(String),
    Forced,
}

impl Ready {
    async fn run(self, shutdown: Shutdown) -> Outcome {
        let Self { config, tuning, log, think, server } = self;
        let (vitals, told) = watch::channel(Vitals::default());
        let (said, control) =
            watch::channel(Control { loop_interval: config.loop_interval, answered_at: None });
        let beating = heartbeat::run(server.clone(), config.heartbeat_interval, told, said, log.clone());
        let mut heartbeat = AbortOnDropHandle::new(tokio::spawn(beating));
        let mailbox = Mailbox::new();
        let watching = mailbox::run(
            server.clone(),
            mailbox.clone(),
            config.heartbeat_interval,
            control.clone(),
            log.clone(),
        );
        let mut watcher = AbortOnDropHandle::new(tokio::spawn(watching));
        let agent = AgentContext {
            id: config.agent_id,
            agent_type: config.agent_type,
            incarnation: config.incarnation,
        };
        let mut looping = Looping {
            outbox: Outbox::new(&agent, log.clone()),
            agent,
            profile: config.profile,
            think,
            server: server.clone(),
            vitals,
            control,
            mailbox,
            log: log.clone(),
            tuning,
            progress: Progress::default(),
        };
        // The loop's future is dropped at the end of this statement, and with it what thinks.
        let end = tokio::select! {
            biased;
            () = shutdown.forced() => End::Forced,
            () = shutdown.asked() => End::Asked,
            ended = &mut heartbeat => match ended {
                Ok(Ended::Refused(reason)) => End::Refused(reason),
                Ok(Ended::StopWanted) => End::StopWanted,
                Err(error) => End::Defect(format!("the heartbeat failed: {error}")),
            },
            ended = &mut watcher => match ended {
                Ok(reason) => End::Refused(reason),
                Err(error) => End::Defect(format!("watching the mailbox failed: {error}")),
            },
            Refused(reason) = looping.run() => End::Refused(reason),
        };
        drop((heartbeat, watcher));
        if looping.unsent() > 0 {
            log.line(format!(
                "ends with {} entries (history, tasks, messages) that no server took: dropped",
                looping.unsent()
            ));
        }
        let outcome = match end {
            End::Asked => {
                log.line("asked to stop");
                farewell(&looping, &server, tuning.farewell.min(config.grace / 2), &shutdown).await
            }
            End::StopWanted => {
                log.line("the server wants this agent to stop");
                farewell(&looping, &server, tuning.farewell.min(config.grace / 2), &shutdown).await
            }
            End::Refused(reason) => {
                log.line(format!("the server does not accept this agent any more: {reason}"));
                Outcome::Refused
            }
            End::Defect(reason) => {
                log.line(reason);
                Outcome::Failed
            }
            End::Forced => Outcome::Forced,
        };
        log.line(format!("ends with exit code {}", outcome.exit_code()));
        outcome
    }
}

/// Tells the server once more how things stand. Whether it hears it does not matter.
async fn farewell(looping: &Looping, server: &Server, limit: Duration, shutdown: &Shutdown) -> Outcome {
    looping.vitals.send_modify(|vitals| vitals.activity = Activity::Idle);
    let request = looping.vitals.borrow().request();
    tokio::select! {
        () = shutdown.forced() => Outcome::Forced,
        _ = time::within(limit, server.heartbeat(&request)) => Outcome::Stopped,
    }
}
