//! Kills the server at random moments while agents are started, stopped and restarted, and checks after each
//! recovery that what runs is what is wanted, and at the end that the log and a listener tell the same.
//!
//! Invariant: everything random comes from the seed, which every failure names.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_api::{AgentStatus, DesiredState};
use aito_client::{Client, Item, ResumingEvents};
use futures_util::future::join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use rustix::process::Signal;

use crate::{
    Sandbox, processes,
    sandbox::AGENTS,
    story,
    wait::{self, SOON},
};

pub mod two_servers;

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How often the server was killed.
    pub kills: u32,
    /// How often an agent or its supervisor was killed.
    pub agents_killed: u32,
    /// Calls that were answered with success before a kill.
    pub acknowledged: u32,
    /// Calls whose answer did not come, or was a failure.
    pub unanswered: u32,
    /// Events in the log at the end.
    pub events: usize,
}

/// Runs `rounds` rounds on a fresh sandbox.
///
/// # Panics
/// When anything is not as it must be.
pub async fn run(sandbox: &Sandbox, seed: u64, rounds: u32) -> Report {
    println!("chaos: seed {seed}, {rounds} rounds");
    let mut random = StdRng::seed_from_u64(seed);
    let mut report = Report::default();
    let listener = Listener::default();
    for round in 0..rounds {
        let server = sandbox.start().await;
        let listening = tokio::spawn(listener.clone().follow(server.client()));
        // Before it is killed again, a server has always brought everything to what is wanted.
        converged(sandbox, &server.client(), &format!("seed {seed}, round {round}")).await;
        let calls = (0..random.random_range(1..=6)).map(|_| {
            let agent = AGENTS[random.random_range(0..AGENTS.len())];
            let what = random.random_range(0..4);
            let after = Duration::from_millis(random.random_range(0..150));
            call(server.client(), agent, what, after)
        });
        let calls: Vec<_> = calls.map(tokio::spawn).collect();
        // Now and then an agent, or what holds it, dies in the same moments.
        if random.random_bool(0.4)
            && let Some((_, _, pid)) = sandbox.agents().choose(&mut random).cloned()
        {
            // What holds a container is the engine's affair.
            let holder =
                || processes::one(pid).filter(|_| !sandbox.has_containers()).map(|process| process.parent);
            let victim = if random.random_bool(0.5) { Some(pid) } else { holder() };
            if let Some(victim) = victim {
                processes::signal(victim, Signal::KILL);
                report.agents_killed += 1;
            }
        }
        wait::pass(Duration::from_millis(random.random_range(0..400))).await;
        server.kill();
        report.kills += 1;
        for answered in join_all(calls).await {
            *(if answered.unwrap() { &mut report.acknowledged } else { &mut report.unanswered }) += 1;
        }
        listening.abort();
    }
    let server = sandbox.start().await;
    let client = server.client();
    let listening = tokio::spawn(listener.clone().follow(server.client()));
    converged(sandbox, &client, &format!("seed {seed}, at the end")).await;
    for agent in AGENTS {
        client
            .stop(agent)
            .await
            .unwrap_or_else(|why| panic!("seed {seed}: {agent} cannot be stopped: {why}"));
    }
    converged(sandbox, &client, &format!("seed {seed}, stopped")).await;
    let log = story::whole_log(&client).await;
    let told = story::check(&log);
    for agent in client.agents(None).await.unwrap().agents {
        if let Some(last) = told.get(&agent.agent_type) {
            let status = serde_json::to_value(agent.status).unwrap();
            assert_eq!(
                status.as_str(),
                Some(last.as_str()),
                "seed {seed}: the log and {} differ",
                agent.agent_type
            );
        }
    }
    let newest = log.len() as u64;
    wait::until("the listener to see the last event", SOON, async || {
        (listener.seen() >= newest).then_some(())
    })
    .await;
    listening.abort();
    listener.check(&log, seed);
    report.events = log.len();
    assert!(server.stop().await.success(), "seed {seed}: the server did not stop well");
    report
}

async fn call(client: Client, agent: &'static str, what: u32, after: Duration) -> bool {
    wait::pass(after).await;
    match what {
        0 | 1 => client.start(agent).await.is_ok(),
        2 => client.stop(agent).await.is_ok(),
        _ => client.restart(agent).await.is_ok(),
    }
}

/// Waits until each agent is as it is wanted, with one process or none; never is there more than one.
async fn converged(sandbox: &Sandbox, client: &Client, context: &str) {
    let within = Duration::from_secs(60);
    let mut seen = String::new();
    let what = format!("the fleet to be as wanted ({context})");
    let settled = async || {
        let mut alive: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (agent, incarnation, _) in sandbox.agents() {
            alive.entry(agent).or_default().push(incarnation);
        }
        let mut settled = true;
        for (agent, incarnations) in &alive {
            // Two incarnations of a local process never live at once; a container of a past one may come late and
            // has to go.
            assert!(
                incarnations.len() == 1 || sandbox.has_containers(),
                "{context}: {agent} runs {} times: {incarnations:?}",
                incarnations.len()
            );
            settled &= incarnations.len() == 1;
        }
        let mut now = String::new();
        for agent in AGENTS {
            let detail = client.agent(agent).await.ok()?;
            let wanted = match detail.desired {
                DesiredState::Running => (AgentStatus::Active, Some(detail.incarnation)),
                DesiredState::Stopped => (AgentStatus::Inactive, None),
            };
            let is = (detail.status, alive.get(agent).map(|incarnations| incarnations[0]));
            if is != wanted {
                settled = false;
                now += &format!("{agent}: is {is:?}, wanted {wanted:?}\n");
            }
        }
        if now != seen {
            seen.clone_from(&now);
        }
        settled.then_some(())
    };
    wait::until(&what, within, settled).await;
}

/// A listener that survives the servers: it resumes where it was.
#[derive(Clone, Default)]
struct Listener {
    positions: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    async fn follow(self, client: Client) {
        let since = self.positions.lock().unwrap().last().cloned();
        // The first time it begins with the log: everything above the place before the first event.
        let since = match since {
            Some(since) => since,
            None => match first(&client).await {
                Some(position) => position,
                None => return,
            },
        };
        let mut events = ResumingEvents::new(client, &["event"], Some(since));
        loop {
            match events.next().await {
                Ok(Item::Frame(frame)) => {
                    if let Some(position) = frame.position {
                        self.positions.lock().unwrap().push(position);
                    }
                }
                Ok(Item::Reset(reset)) => panic!("the listener was reset: {reset:?}"),
                Err(why) => panic!("the listener failed: {why}"),
            }
        }
    }

    fn seen(&self) -> u64 {
        self.positions.lock().unwrap().last().map_or(0, |position| story::number(position))
    }

    fn check(&self, log: &[aito_api::Event], seed: u64) {
        let positions = self.positions.lock().unwrap();
        let logged: Vec<&str> = log.iter().map(|event| event.position.as_str()).collect();
        let heard: Vec<&str> = positions.iter().map(String::as_str).collect();
        assert_eq!(heard, logged, "seed {seed}: the listener has not exactly the log");
    }
}

/// The position before the first event.
async fn first(client: &Client) -> Option<String> {
    let newest = client.events(&aito_client::EventQuery::default()).await.ok()?.events;
    let (epoch, _) = newest.first()?.position.rsplit_once('-')?;
    Some(format!("{epoch}-0"))
}
