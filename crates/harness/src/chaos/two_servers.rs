//! Two servers of one installation under calls from all sides while either is killed again and again; what the engine
//! itself says of its containers is the witness.
//!
//! Invariant: everything random comes from the seed, which every failure names.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_api::DesiredState;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;

use super::{Report, call, converged};
use crate::{
    Sandbox,
    engine::escaped,
    sandbox::AGENTS,
    story,
    wait::{self, SOON},
};

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
    // Each runs once more, so that the witness has heard of the last incarnation of each.
    for agent in AGENTS {
        if clients[0].agent(agent).await.unwrap().desired == DesiredState::Stopped {
            let started = clients[0].start(agent).await;
            started.unwrap_or_else(|why| panic!("seed {seed}: {agent} cannot be started: {why}"));
        }
    }
    converged(first, &clients[1], &format!("seed {seed}, all started")).await;
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
    let mut last = Vec::new();
    for agent in AGENTS {
        last.push((agent.to_owned(), clients[0].agent(agent).await.unwrap().incarnation));
    }
    let seen = witness.verdict(&last, SOON).await;
    seen.unwrap_or_else(|what| panic!("seed {seed}: the engine's own story: {what}"));
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
    told: Arc<Mutex<Told>>,
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
        Self::hear(stream)
    }

    /// Hears an answer of the engine, which must not end before the verdict.
    fn hear(answer: impl Read + Send + 'static) -> Self {
        let told: Arc<Mutex<Told>> = Arc::default();
        let kept = told.clone();
        std::thread::spawn(move || {
            let ended = read(answer, &kept).err().map(|error| format!(" ({error})")).unwrap_or_default();
            kept.lock().unwrap().wrong(format!("it ended before the witness was asked{ended}"));
        });
        Self { told }
    }

    /// What is not as it must be, asked when every container has ended and of each agent the last incarnation, which
    /// has run, is known. What the engine said of the last ones may still be on its way, for at most `within`.
    async fn verdict(&self, last: &[(String, u64)], within: Duration) -> Result<(), String> {
        let passed = wait::stopwatch();
        wait::until("the engine to have told everything", within + SOON, async || {
            let told = self.told.lock().unwrap();
            match told.check_complete(last) {
                Err(_) if told.wrong.is_none() && passed() < within => None,
                complete => {
                    let wrong = told.wrong.clone().map_or(Ok(()), Err);
                    Some(wrong.and(complete).and_then(|()| told.check_overlaps()))
                }
            }
        })
        .await
    }
}

/// What the engine said up to now.
#[derive(Default)]
struct Told {
    lives: BTreeMap<(String, u64), Life>,
    /// The first that could not be, or not be heard.
    wrong: Option<String>,
}

impl Told {
    fn wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    fn hear(&mut self, event: &Value) {
        let labels = &event["Actor"]["Attributes"];
        let (Some(agent), Some(incarnation), Some(at)) = (
            labels["aito.type"].as_str(),
            labels["aito.incarnation"].as_str().and_then(|n| n.parse().ok()),
            event["timeNano"].as_i64(),
        ) else {
            return self.wrong(format!("it says what cannot be understood: {event}"));
        };
        let life = self.lives.entry((agent.to_owned(), incarnation)).or_default();
        let (moment, what) = match event["Action"].as_str() {
            Some("start") => (&mut life.began, "began"),
            Some("die") => (&mut life.ended, "ended"),
            _ => return,
        };
        if moment.replace(at).is_some() {
            self.wrong(format!("incarnation {incarnation} of {agent} {what} twice"));
        }
    }

    /// Every life has its beginning and its end, and the last incarnations are among them.
    fn check_complete(&self, last: &[(String, u64)]) -> Result<(), String> {
        for ((agent, incarnation), life) in &self.lives {
            let missing = match (life.began, life.ended) {
                (Some(_), Some(_)) => continue,
                (None, _) => "beginning",
                (_, None) => "end",
            };
            return Err(format!("incarnation {incarnation} of {agent} has no {missing}"));
        }
        match last.iter().find(|one| !self.lives.contains_key(one)) {
            Some((agent, incarnation)) => Err(format!("there was no incarnation {incarnation} of {agent}")),
            None => Ok(()),
        }
    }

    /// Of every pair of incarnations of one agent the earlier one is gone soon after both lived.
    fn check_overlaps(&self) -> Result<(), String> {
        let limit = i64::try_from(LATE.as_nanos()).unwrap();
        for ((agent, incarnation), life) in &self.lives {
            for ((_, later), next) in
                self.lives.range((agent.clone(), incarnation + 1)..=(agent.clone(), u64::MAX))
            {
                let (Some(began), Some(ended), Some(next_began)) = (life.began, life.ended, next.began)
                else {
                    continue;
                };
                let beside = ended.saturating_sub(began.max(next_began));
                if beside > limit {
                    let beside = Duration::from_nanos(beside.unsigned_abs());
                    return Err(format!(
                        "incarnation {incarnation} of {agent} lived on for {beside:?} beside {later}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Reads to the end what the engine says, an event a line.
fn read(answer: impl Read, told: &Mutex<Told>) -> std::io::Result<()> {
    let mut lines = BufReader::new(answer).lines();
    let status = lines.next().transpose()?.unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(std::io::Error::other(format!("it answers {status:?}")));
    }
    // To the end of the head.
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    for line in lines {
        told.lock().unwrap().hear(&serde_json::from_str(&line?)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const HEAD: &str = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n";
    /// For what was said long ago.
    const AT_ONCE: Duration = Duration::ZERO;
    const SECOND: i64 = 1_000_000_000;

    fn event(action: &str, incarnation: u64, at: i64) -> String {
        let event = serde_json::json!({
            "Action": action,
            "Actor": {"Attributes": {"aito.type": "ceo", "aito.incarnation": incarnation.to_string()}},
            "timeNano": at,
        });
        format!("{event}\n")
    }

    /// The verdict on a story that goes on, when its last line was heard.
    async fn on(story: &[String], last: u64) -> Result<(), String> {
        let (mut engine, heard) = UnixStream::pair().unwrap();
        engine.write_all(HEAD.as_bytes()).unwrap();
        engine.write_all(story.concat().as_bytes()).unwrap();
        engine.write_all(event("start", 99, 0).as_bytes()).unwrap();
        let witness = Witness::hear(heard);
        let end = ("ceo".to_owned(), 99);
        wait::until("the story to be heard", SOON, async || {
            witness.told.lock().unwrap().lives.remove(&end).map(|_| ())
        })
        .await;
        witness.verdict(&[("ceo".to_owned(), last)], AT_ONCE).await
    }

    #[tokio::test]
    async fn a_story_that_is_as_it_must_be_is_believed() {
        let story = [
            event("start", 1, SECOND),
            event("start", 2, 2 * SECOND),
            event("die", 1, 6 * SECOND),
            event("die", 2, 8 * SECOND),
        ];
        assert_eq!(on(&story, 2).await, Ok(()));
    }

    #[tokio::test]
    async fn a_story_that_cannot_be_is_told_by_the_witness() {
        let (start, die) = (event("start", 1, SECOND), event("die", 1, 2 * SECOND));
        let late = [start.clone(), event("start", 2, 2 * SECOND), event("die", 1, 8 * SECOND)];
        let late = [&late[..], &[event("die", 2, 9 * SECOND)]].concat();
        for (story, what) in [
            (vec![start.clone(), start.clone(), die.clone()], "incarnation 1 of ceo began twice"),
            (vec![start.clone(), die.clone(), die.clone()], "incarnation 1 of ceo ended twice"),
            (vec![start.clone()], "incarnation 1 of ceo has no end"),
            (vec![die], "incarnation 1 of ceo has no beginning"),
            (late, "incarnation 1 of ceo lived on for 6s beside 2"),
            (vec![], "there was no incarnation 1 of ceo"),
        ] {
            assert_eq!(on(&story, 1).await, Err(what.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_witness_that_went_deaf_is_not_believed() {
        let whole = [HEAD, &event("start", 1, 1), &event("die", 1, 2)].concat();
        for (heard, what) in [
            (whole.clone(), "it ended before the witness was asked"),
            (whole.clone() + "{\"Action\":\"sta", "it ended before the witness was asked (EOF"),
            ("HTTP/1.0 400 Bad Request\r\n\r\n".to_owned(), "it answers \"HTTP/1.0 400 Bad Request\""),
            (String::new(), "it answers \"\""),
        ] {
            let witness = Witness::hear(io::Cursor::new(heard));
            wait::until("the end", SOON, async || witness.told.lock().unwrap().wrong.clone()).await;
            let verdict = witness.verdict(&[("ceo".to_owned(), 1)], AT_ONCE).await.unwrap_err();
            assert!(verdict.contains(what), "{verdict}");
        }
    }

    #[tokio::test]
    async fn what_is_still_on_its_way_is_waited_for() {
        let (mut engine, heard) = UnixStream::pair().unwrap();
        engine.write_all([HEAD, &event("start", 1, 1)].concat().as_bytes()).unwrap();
        let witness = Witness::hear(heard);
        let last = [("ceo".to_owned(), 1)];
        let (verdict, sent) = tokio::join!(witness.verdict(&last, SOON), async {
            wait::pass(Duration::from_millis(30)).await;
            engine.write_all(event("die", 1, 2).as_bytes())
        });
        sent.unwrap();
        assert_eq!(verdict, Ok(()));
    }
}
