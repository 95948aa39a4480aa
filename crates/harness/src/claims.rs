//! Many clients claim and end the tasks of all agents at once, on one server or two, while incarnations die; what the
//! log tells is then held against a model.
//!
//! Invariants: what chooses is seeded, and every failure names the seed; clients believe nobody, so that each
//! acknowledgement is found again in the log.

pub mod model;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aito_api::{CancelTask, CompleteTask, FailTask, HeartbeatRequest, NewTask, Task, WriteSetting};
use aito_client::{Client, Error, Options, Page, TaskQuery, Token};
use futures_util::future::{join_all, try_join_all};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use rustix::process::Signal;
use serde_json::json;
use uuid::Uuid;

use self::model::{Ending, PRIORITIES, Rules, Said};
use crate::{
    Sandbox, Server, processes,
    sandbox::AGENTS,
    story,
    wait::{self, SOON},
};

/// How many tasks of one agent may be in progress, by default.
const AT_MOST: usize = 2;
/// For how many milliseconds at most a client that got no task pauses: asking in vain should not be all that happens.
const IDLE_MS: u64 = 400;
/// How long everything may take.
const AT_LONGEST: Duration = Duration::from_secs(1200);

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Tasks, created before the first claim.
    pub tasks: u32,
    /// Claims that are at least made; more if tasks are left then.
    pub claims: u32,
    /// Clients that claim at once.
    pub clients: u32,
    /// After how many seconds of waiting a task counts one priority more.
    pub age_step: u32,
}

impl Size {
    /// For every test run.
    pub const SHORT: Self = Self { tasks: 300, claims: 1500, clients: 50, age_step: 1 };
    /// All that is required.
    pub const FULL: Self = Self { tasks: 2000, claims: 10_000, clients: 50, age_step: 5 };
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Claims that were made.
    pub claims: u32,
    /// Those that gave a task.
    pub granted: u32,
    /// Tasks that were completed, failed and cancelled.
    pub ended: [usize; 3],
    /// Calls that were refused because an incarnation had ended, or somebody else ended the task.
    pub refused: u32,
    /// Incarnations that were ended.
    pub deaths: u32,
    /// Leases that were taken back.
    pub releases: u32,
    /// Claims at which waiting decided.
    pub aged: u32,
    /// Claims that filled what their agent may have in progress.
    pub full: u32,
    /// Events in the log at the end.
    pub events: usize,
}

/// Runs on a fresh sandbox, with a second server if `two`; that needs real servers.
///
/// # Panics
/// When anything is not as it must be.
pub async fn run(sandbox: &Sandbox, two: bool, seed: u64, size: Size) -> Report {
    println!("claims: seed {seed}, {size:?}");
    sandbox.configure(&configuration(sandbox));
    let mut servers = vec![sandbox.start().await];
    let second = two.then(|| sandbox.another_server());
    if let Some(second) = &second {
        servers.push(second.start().await);
    }
    let clients: Vec<Client> = servers.iter().map(Server::client).collect();
    set_up(&clients, seed, size).await;
    let shared = Arc::new(Shared {
        addresses: servers.iter().map(|server| server.address().to_owned()).collect(),
        root: sandbox.root().to_owned(),
        is_over: AtomicBool::new(false),
        claims: AtomicU32::new(0),
        refused: AtomicU32::new(0),
        acknowledged: Mutex::default(),
    });
    let working: Vec<_> = (0..size.clients)
        .map(|n| tokio::spawn(Worker::new(shared.clone(), &clients, seed, n).work(size.claims)))
        .collect();
    let worked = async {
        try_join_all(working).await.unwrap_or_else(|why| panic!("seed {seed}: a client found {why}"));
    };
    let watched = over(&clients[0], &shared, size);
    let (deaths, (), ()) = tokio::join!(sabotage(sandbox, &clients, &shared, seed), worked, watched);
    let (claims, refused) = (shared.claims.load(Ordering::Relaxed), shared.refused.load(Ordering::Relaxed));
    let acknowledged = shared.acknowledged.lock().unwrap().clone();
    let mut report = judged(&clients, &acknowledged, seed, size).await;
    (report.claims, report.refused, report.deaths) = (claims, refused, deaths);
    for server in servers {
        assert!(server.stop().await.success(), "seed {seed}: a server did not stop well");
    }
    report
}

/// Agents that hand out their credentials and wait to be ended.
fn configuration(sandbox: &Sandbox) -> String {
    let root = sandbox.root().display();
    AGENTS.map(|agent| {
        let file = format!("{root}/credential-{agent}");
        let say = r#"echo "$AGENT_INCARNATION $(cat "$AGENT_CREDENTIAL_FILE")""#;
        // The first process of a container is ended by no signal that it does not catch.
        let script = format!(
            "{say} > {file}-$AGENT_INCARNATION; mv {file}-$AGENT_INCARNATION {file}; \
             trap \"exit 0\" TERM; sleep 1000 & wait"
        );
        format!(
            "[agents.{agent}]\ngrace = 1\nheartbeat_interval = 3600\ncommand = [\"/bin/sh\", \"-c\", '{script}']\n\
             [agents.{agent}.restart]\ninitial_ms = 20\nmax_ms = 500\n"
        )
    })
    .concat()
}

/// Starts the agents, sets how tasks age, and creates all tasks.
async fn set_up(clients: &[Client], seed: u64, size: Size) {
    let mut random = StdRng::seed_from_u64(seed);
    for started in join_all(AGENTS.map(|agent| clients[0].start(agent))).await {
        started.unwrap();
    }
    let setting = WriteSetting::new(size.age_step);
    clients[0].write_setting("tasks", "age_step", &setting).await.unwrap();
    for client in clients {
        wait::until("the setting to be heeded", SOON, async || {
            let answer = client.heartbeat("ceo", &HeartbeatRequest::default()).await.ok()?;
            (answer.settings_version > 0).then_some(())
        })
        .await;
    }
    let tasks: Vec<NewTask> = (0..size.tasks)
        .map(|n| {
            let (agent, priority) =
                (AGENTS.choose(&mut random).unwrap(), PRIORITIES.choose(&mut random).unwrap());
            NewTask::new(format!("Task {n}"), *agent, *priority)
        })
        .collect();
    // Several at once, so that they are created in no certain order.
    let portions = tasks.chunks(tasks.len().div_ceil(8)).zip(clients.iter().cycle());
    let creating = portions.map(async |(portion, client)| {
        for task in portion {
            client.create_task(task, None).await.unwrap();
        }
    });
    join_all(creating).await;
}

/// What all clients share.
struct Shared {
    addresses: Vec<String>,
    root: std::path::PathBuf,
    is_over: AtomicBool,
    claims: AtomicU32,
    refused: AtomicU32,
    acknowledged: Mutex<Vec<(Uuid, Said)>>,
}

/// An agent's incarnation, for which a client speaks by its credential.
struct Speaker {
    incarnation: u64,
    client: Client,
}

/// One client: every second one speaks as agents do, the others as callers of whom nothing is asked.
struct Worker {
    shared: Arc<Shared>,
    open: Vec<Client>,
    random: StdRng,
    has_credentials: bool,
    /// Those for which it speaks, by the place in [`AGENTS`], until they are refused.
    speakers: [Option<Speaker>; AGENTS.len()],
}

impl Worker {
    fn new(shared: Arc<Shared>, open: &[Client], seed: u64, n: u32) -> Self {
        Self {
            shared,
            open: open.to_vec(),
            random: StdRng::seed_from_u64(seed.wrapping_add(u64::from(n) + 1)),
            has_credentials: n % 2 == 1,
            speakers: Default::default(),
        }
    }

    async fn work(mut self, at_least: u32) {
        while !(self.shared.is_over.load(Ordering::Acquire)
            && self.shared.claims.load(Ordering::Relaxed) >= at_least)
        {
            let agent = self.random.random_range(0..AGENTS.len());
            let (client, own) = self.client(agent);
            self.shared.claims.fetch_add(1, Ordering::Relaxed);
            match client.claim_task(AGENTS[agent]).await {
                Ok(claimed) => match claimed.task {
                    Some(task) => self.handle(agent, &client, own, &task).await,
                    None => {
                        let reason = claimed.reason.unwrap_or_default();
                        assert!(["nothing_waits", "at_limit"].contains(&reason.as_str()), "{reason}");
                        self.pause(IDLE_MS).await;
                    }
                },
                Err(why) => {
                    self.refused(agent, own, &why);
                    self.pause(IDLE_MS).await;
                }
            }
        }
    }

    /// Whom to ask, and the incarnation that this speaks for, if it has a credential.
    fn client(&mut self, agent: usize) -> (Client, Option<u64>) {
        if self.has_credentials && self.speakers[agent].is_none() {
            self.speakers[agent] = self.speaker(agent);
        }
        match &self.speakers[agent] {
            Some(speaker) => (speaker.client.clone(), Some(speaker.incarnation)),
            None => (self.open.choose(&mut self.random).unwrap().clone(), None),
        }
    }

    fn speaker(&mut self, agent: usize) -> Option<Speaker> {
        let file = self.shared.root.join(format!("credential-{}", AGENTS[agent]));
        let text = std::fs::read_to_string(file).ok()?;
        let (incarnation, credential) = text.trim().split_once(' ')?;
        let options = Options { token: Some(Token::new(credential).unwrap()), ..Options::default() };
        let address = self.shared.addresses.choose(&mut self.random).unwrap();
        let client = Client::new(address.parse().unwrap(), options).unwrap();
        Some(Speaker { incarnation: incarnation.parse().unwrap(), client })
    }

    /// Does something about a claimed task, or leaves it to be taken back.
    async fn handle(&mut self, agent: usize, client: &Client, own: Option<u64>, task: &Task) {
        let lease = task.lease.as_ref().map(|lease| lease.incarnation);
        assert_eq!(
            (task.assigned_to.as_str(), task.status.as_str()),
            (AGENTS[agent], "in_progress"),
            "{task:?}"
        );
        let incarnation = lease.unwrap_or_else(|| panic!("it was claimed by nobody: {task:?}"));
        assert!(own.is_none_or(|own| own == incarnation), "{own:?} was given the task of another: {task:?}");
        self.acknowledge(task.id, Said::Claimed(incarnation));
        self.pause(15).await;
        let (ended, said) = match self.random.random_range(0..100) {
            0..70 => {
                let outcome = CompleteTask { result: Some(json!({ "by": incarnation })) };
                (client.complete_task(task.id, &outcome).await, Said::Completed)
            }
            70..85 => {
                let outcome = FailTask { error: Some("it cannot be done".to_owned()) };
                (client.fail_task(task.id, &outcome).await, Said::Failed)
            }
            85..92 => (client.cancel_task(task.id, &CancelTask::default()).await, Said::Cancelled),
            _ => return,
        };
        match ended {
            Ok(_) => self.acknowledge(task.id, said),
            Err(why) => self.refused(agent, own, &why),
        }
    }

    /// A refusal is fine when an incarnation has ended: of an agent that does not run nobody claims, and what was taken
    /// back may have been claimed or ended by others. Nothing else is.
    fn refused(&mut self, agent: usize, own: Option<u64>, why: &Error) {
        let as_agent = why.status() == Some(401) && own.is_some();
        assert!(as_agent || why.status() == Some(409), "{}, as {own:?}: {why}", AGENTS[agent]);
        if as_agent {
            self.speakers[agent] = None;
        }
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn acknowledge(&self, task: Uuid, said: Said) {
        self.shared.acknowledged.lock().unwrap().push((task, said));
    }

    async fn pause(&mut self, at_most_ms: u64) {
        wait::pass(Duration::from_millis(self.random.random_range(0..=at_most_ms))).await;
    }
}

/// Ends incarnations, by a restart or a signal, until everything is over; how many. It is after those that hold tasks.
async fn sabotage(sandbox: &Sandbox, clients: &[Client], shared: &Shared, seed: u64) -> u32 {
    let mut random = StdRng::seed_from_u64(seed ^ u64::MAX);
    let mut deaths = 0;
    let query = TaskQuery { status: Some("in_progress".to_owned()), ..TaskQuery::default() };
    while !shared.is_over.load(Ordering::Acquire) {
        wait::pass(Duration::from_millis(random.random_range(50..500))).await;
        let client = clients.choose(&mut random).unwrap();
        let held = client.tasks(&query).await.unwrap().tasks;
        let Some(Task { assigned_to: agent, .. }) = held.choose(&mut random) else { continue };
        if random.random_bool(0.4) {
            let restarted = client.restart(agent).await;
            restarted.unwrap_or_else(|why| panic!("seed {seed}: {agent} cannot be restarted: {why}"));
            deaths += 1;
        } else if let Some((_, _, pid)) = sandbox.agents().iter().find(|(name, ..)| name == agent) {
            processes::signal(*pid, Signal::KILL);
            deaths += 1;
        }
    }
    deaths
}

/// Waits until no task is open, and says so.
async fn over(client: &Client, shared: &Shared, size: Size) {
    let limit = Page { limit: Some(1), cursor: None };
    wait::until("all tasks to end", AT_LONGEST, async || {
        let mut open = 0;
        for status in ["pending", "in_progress"] {
            // Looking costs something, too.
            wait::pass(Duration::from_millis(100)).await;
            let query =
                TaskQuery { status: Some(status.to_owned()), page: limit.clone(), ..TaskQuery::default() };
            open += client.tasks(&query).await.ok()?.total;
        }
        (open == 0 && shared.claims.load(Ordering::Relaxed) >= size.claims).then_some(())
    })
    .await;
    shared.is_over.store(true, Ordering::Release);
}

/// Holds the log, and what the servers show, against the rules and what was acknowledged.
async fn judged(clients: &[Client], acknowledged: &[(Uuid, Said)], seed: u64, size: Size) -> Report {
    let log = story::whole_log(&clients[0]).await;
    story::check(&log);
    let rules = Rules { at_most: AT_MOST, age_step_ms: i64::from(size.age_step) * 1000 };
    let told = model::check(&log, rules).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    told.confirm(acknowledged).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    assert_eq!((told.open, told.endings.len()), (0, size.tasks as usize), "seed {seed}: each task ends once");
    let ended = [Ending::Completed, Ending::Failed, Ending::Cancelled].map(|ending| told.ended(ending));
    for client in clients {
        let mut shown = Vec::new();
        for status in ["completed", "failed", "cancelled"] {
            let query = TaskQuery { status: Some(status.to_owned()), ..TaskQuery::default() };
            shown.push(client.tasks(&query).await.unwrap().total as usize);
        }
        assert_eq!(shown, ended, "seed {seed}: the log and the list of tasks differ");
    }
    Report {
        granted: told.claims.values().sum(),
        ended,
        releases: told.releases,
        aged: told.aged,
        full: told.full,
        events: log.len(),
        ..Report::default()
    }
}
