//! Two servers of one installation under calls from all sides while either is killed again and again; what the engine
//! itself says of its containers is the witness.
//!
//! Invariant: everything random comes from the seed, which every failure names.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;

use super::{Report, call, converged};
use crate::{Sandbox, engine::escaped, sandbox::AGENTS, story, wait};

/// How long a container of a past incarnation may live beside a later one.
const LATE: Duration = Duration::from_secs(5);
/// How many calls are made for each kill.
const CALLS_PER_ROUND: u32 = 4;

/// Runs `rounds` rounds, each with a kill of one of the two, on a fresh sandbox with real servers.
///
/// # Panics
/// When anything is not as it must be.
pub async fn run(first: &Sandbox, seed: u64, rounds: u32) -> Report {
    println!("chaos of two servers: seed {seed}, {rounds} rounds");
    let mut random = StdRng::seed_from_u64(seed);
    let mut report = Report::default();
    let one = first.start().await;
    let second = first.another_server();
    let two = second.start().await;
    let sandboxes = [first, &second];
    let installation = first.installation().expect("a server was started");
    let witness = Witness::listen(&first.places().engine, &installation);
    let mut servers = [Some(one), Some(two)];
    for round in 0..rounds {
        for (server, sandbox) in servers.iter_mut().zip(sandboxes) {
            if server.is_none() {
                *server = Some(sandbox.start().await);
            }
        }
        let calls: Vec<_> = (0..CALLS_PER_ROUND)
            .map(|_| {
                let client = servers.choose(&mut random).unwrap().as_ref().unwrap().client();
                let agent = AGENTS[random.random_range(0..AGENTS.len())];
                let after = Duration::from_millis(random.random_range(0..200));
                tokio::spawn(call(client, agent, random.random_range(0..4), after))
            })
            .collect();
        wait::pass(Duration::from_millis(random.random_range(0..600))).await;
        let victim = random.random_range(0..2);
        if let Some(server) = servers[victim].take() {
            server.kill();
            report.kills += 1;
        }
        for answered in futures_util::future::join_all(calls).await {
            *(if answered.unwrap() { &mut report.acknowledged } else { &mut report.unanswered }) += 1;
        }
        if round % 10 == 9 {
            let alive = servers.iter().flatten().next().unwrap().client();
            converged(first, &alive, &format!("seed {seed}, round {round}")).await;
        }
    }
    for (server, sandbox) in servers.iter_mut().zip(sandboxes) {
        if server.is_none() {
            *server = Some(sandbox.start().await);
        }
    }
    let clients: Vec<_> = servers.iter().flatten().map(crate::Server::client).collect();
    converged(first, &clients[0], &format!("seed {seed}, at the end")).await;
    for (n, agent) in AGENTS.into_iter().enumerate() {
        let stopped = clients[n % 2].stop(agent).await;
        stopped.unwrap_or_else(|why| panic!("seed {seed}: {agent} cannot be stopped: {why}"));
    }
    converged(first, &clients[1], &format!("seed {seed}, stopped")).await;
    let log = story::whole_log(&clients[0]).await;
    story::check(&log);
    report.events = log.len();
    // Each server's view of the log is the same.
    let other = story::whole_log(&clients[1]).await;
    assert_eq!(log.len(), other.len(), "seed {seed}: two servers show two logs");
    witness.check(seed);
    for server in servers.into_iter().flatten() {
        assert!(server.stop().await.success(), "seed {seed}: a server did not stop well");
    }
    report
}

/// What the engine said of one container: when it began and when it ended, in nanoseconds since 1970.
#[derive(Debug, Clone, Default)]
struct Life {
    began: Option<i64>,
    ended: Option<i64>,
}

/// Listens to the engine's events of one installation.
struct Witness {
    lives: Arc<Mutex<BTreeMap<(String, u64), Life>>>,
}

impl Witness {
    fn listen(engine: &Path, installation: &str) -> Self {
        let filters = serde_json::json!({
            "type": ["container"],
            "event": ["start", "die"],
            "label": [format!("aito.installation={installation}")],
        });
        let mut stream = UnixStream::connect(engine).unwrap();
        let path = format!("/events?filters={}", escaped(&filters.to_string()));
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes()).unwrap();
        let lives: Arc<Mutex<BTreeMap<(String, u64), Life>>> = Arc::default();
        let kept = lives.clone();
        std::thread::spawn(move || {
            // Ends with the engine, or with the test's process.
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                let labels = &event["Actor"]["Attributes"];
                let (Some(agent), Some(incarnation), Some(at)) = (
                    labels["aito.type"].as_str(),
                    labels["aito.incarnation"].as_str().and_then(|n| n.parse().ok()),
                    event["timeNano"].as_i64(),
                ) else {
                    continue;
                };
                let mut lives = kept.lock().unwrap();
                let life = lives.entry((agent.to_owned(), incarnation)).or_default();
                match event["Action"].as_str() {
                    Some("start") => {
                        assert!(life.began.is_none(), "incarnation {incarnation} of {agent} began twice");
                        life.began = Some(at);
                    }
                    Some("die") => life.ended = Some(at),
                    _ => {}
                }
            }
        });
        Self { lives }
    }

    /// Every pair of incarnations of one agent: the earlier one is gone soon after both lived.
    fn check(&self, seed: u64) {
        let lives = self.lives.lock().unwrap().clone();
        assert!(!lives.is_empty(), "seed {seed}: the engine told of no container");
        let limit = i64::try_from(LATE.as_nanos()).unwrap();
        for ((agent, incarnation), life) in &lives {
            let Some(began) = life.began else { continue };
            for ((_, later), next) in
                lives.range((agent.clone(), incarnation + 1)..=(agent.clone(), u64::MAX))
            {
                let Some(next_began) = next.began else { continue };
                let both = began.max(next_began);
                let ended = life.ended.unwrap_or(i64::MAX);
                assert!(
                    ended.saturating_sub(both) <= limit,
                    "seed {seed}: incarnation {incarnation} of {agent} lived on for {:?} beside {later}",
                    Duration::from_nanos(u64::try_from(ended.saturating_sub(both)).unwrap_or(u64::MAX))
                );
            }
        }
    }
}
