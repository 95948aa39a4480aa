//! The loop: deaths and pauses, silence, servers that come and go, and sights that are older than the state.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aito_application::fleet::{ContainerStatus, Supervises};
use aito_contracts::wait;
use aito_domain::{
    agent::{Agent, Exit, Health, Lifecycle, Reach, Status},
    fleet::ContainerKey,
    id::{AgentId, AgentType, Incarnation},
    ports::{
        ReadError,
        agent_store::AgentStore,
        clock::Clock as _,
        runtime::{ContainerRuntime as _, Secret, Start},
    },
    time::{after, between},
};
use async_trait::async_trait;
use tokio::sync::oneshot;

use super::support::{House, Parts, SOON, Server, Trouble, assert_story, operator, policy, spec_of, ty};

const MILLISECOND: Duration = Duration::from_millis(1);

async fn until_running(house: &House, name: &str, incarnation: u64) {
    wait::until(&format!("incarnation {incarnation} of {name}"), SOON, async || {
        (house.running(name).await == [Incarnation(incarnation)]).then_some(())
    })
    .await;
}

/// A house in which `ceo` runs and was heard, with its server's loop.
async fn alive(names: &[&str]) -> (House, Server) {
    let house = House::new();
    let mut server = house.server(names).await;
    for name in names {
        server.fleet.start(&ty(name), &operator()).await.unwrap();
    }
    house.beat(&server).await;
    server.run();
    house.until_looked(&server).await;
    (house, server)
}

async fn kill(house: &House, name: &str, exit: Exit) {
    house.engine.exit_now(&ContainerKey::of(&house.agent(name).await), exit);
}

#[tokio::test]
async fn a_death_is_told_and_followed_by_restarts_whose_pauses_double() {
    let (house, server) = alive(&["ceo"]).await;
    let pauses = [500, 1000, 2000, 4000, 8000, 8000].map(Duration::from_millis);
    for (index, pause) in pauses.into_iter().enumerate() {
        let incarnation = index as u64 + 1;
        kill(&house, "ceo", Exit::Signal(9)).await;
        // Without any time passing: the runtime's hint is enough.
        let agent = house.until_status("ceo", Status::Error).await;
        let Lifecycle::Error { since, retry_at, reason } = agent.lifecycle.clone() else { unreachable!() };
        assert_eq!((between(since, retry_at), reason.as_str()), (pause, "was killed by signal 9"));
        assert_eq!(u64::from(agent.failures), incarnation);
        let view = server.fleet.view(&ty("ceo")).await.unwrap();
        let expected =
            if agent.failures >= policy().crash_loop_after { Health::CrashLoop } else { Health::Unreachable };
        assert_eq!(view.health, expected, "after {incarnation} deaths");

        house.until_asleep().await;
        house.clock.advance(pause - MILLISECOND).await;
        house.until_looked(&server).await;
        house.until_asleep_till(retry_at).await;
        assert_eq!(house.agent("ceo").await.status(), Status::Error, "a millisecond early");
        house.clock.advance(MILLISECOND).await;
        until_running(&house, "ceo", incarnation + 1).await;
        let agent = house.agent("ceo").await;
        assert_eq!((agent.status(), agent.restarts), (Status::Starting, incarnation));
        let kept = [Incarnation(incarnation), Incarnation(incarnation + 1)];
        assert_eq!(house.listed("ceo").await, kept, "the dead one is kept for its log, and none before it");
    }

    // It is heard again; once it has lasted, it is well, and the next death counts anew.
    house.beat(&server).await;
    assert_eq!(server.fleet.view(&ty("ceo")).await.unwrap().health, Health::CrashLoop);
    let told = house.told("ceo").await;
    assert_eq!(told[told.len() - 2..], ["agent_started", "agent_recovered"]);
    for _ in 0..60 {
        house.clock.advance(policy().reset_after / 60).await;
        house.beat(&server).await;
    }
    assert_eq!(server.fleet.view(&ty("ceo")).await.unwrap().health, Health::Ok);
    kill(&house, "ceo", Exit::Code(1)).await;
    assert_eq!(house.until_status("ceo", Status::Error).await.failures, 1);
    assert!(house.runtime.doubles().is_empty());
    assert_story(&house).await;
}

#[tokio::test]
async fn a_container_that_somebody_removed_is_a_death_too() {
    let (house, _server) = alive(&["ceo"]).await;
    house.engine.vanish(&ContainerKey::of(&house.agent("ceo").await));
    let agent = house.until_status("ceo", Status::Error).await;
    assert!(matches!(agent.last_exit.unwrap().exit, Exit::Lost(_)));
    house.until_asleep_till(after(agent.updated_at, policy().initial)).await;
    house.clock.advance(policy().initial).await;
    until_running(&house, "ceo", 2).await;
}

#[tokio::test]
async fn silence_is_told_once_and_so_is_its_end() {
    let (house, server) = alive(&["ceo", "cmo"]).await;
    let silence = Duration::from_secs(30);
    // Up to the last millisecond nothing is wrong; cmo goes on talking.
    house.clock.advance(silence / 2).await;
    let cmo = house.agent("cmo").await;
    server.heartbeats.heard(cmo.clone(), Incarnation(1), Default::default()).await.unwrap();
    house.clock.advance(silence / 2 - MILLISECOND).await;
    house.until_looked(&server).await;
    house.until_asleep_till(after(house.clock.now(), MILLISECOND)).await;
    assert_eq!(house.agent("ceo").await.reach, Reach::Ok);
    house.clock.advance(MILLISECOND).await;
    wait::until("the silence", SOON, async || {
        matches!(house.agent("ceo").await.reach, Reach::Unreachable { .. }).then_some(())
    })
    .await;
    house.until_looked(&server).await;
    assert_eq!(server.fleet.view(&ty("ceo")).await.unwrap().health, Health::Unreachable);
    assert_eq!(house.agent("ceo").await.status(), Status::Active, "it runs, and is not restarted for that");
    house.beat(&server).await;
    house.beat(&server).await;
    assert_eq!(server.fleet.view(&ty("ceo")).await.unwrap().health, Health::Ok);
    let expected = ["agent_starting", "agent_started", "agent_unreachable", "agent_recovered"];
    assert_eq!(house.told("ceo").await, expected);
    assert_eq!(house.told("cmo").await, expected[..2]);
}

#[tokio::test]
async fn an_agent_that_never_speaks_is_told_of_too() {
    let house = House::new();
    let mut server = house.server(&["ceo"]).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    server.run();
    house.until_looked(&server).await;
    house.until_asleep().await;
    house.clock.advance(Duration::from_secs(30)).await;
    wait::until("the silence", SOON, async || (house.told("ceo").await.len() == 2).then_some(())).await;
    house.beat(&server).await;
    let told = ["agent_starting", "agent_unreachable", "agent_started", "agent_recovered"];
    assert_eq!(house.told("ceo").await, told);
    assert_story(&house).await;
}

#[tokio::test]
async fn a_new_server_counts_silence_from_its_own_beginning() {
    let (house, mut server) = alive(&["ceo", "cmo"]).await;
    server.heartbeats.flush().await.unwrap();
    server.stop().await;
    drop(server);
    house.clock.advance(Duration::from_secs(8 * 3600)).await;

    let mut server = house.server(&["ceo", "cmo"]).await;
    server.run();
    house.until_looked(&server).await;
    house.until_asleep().await;
    house.clock.advance(Duration::from_secs(30) - MILLISECOND).await;
    house.until_looked(&server).await;
    house.until_asleep_till(after(house.clock.now(), MILLISECOND)).await;
    for name in ["ceo", "cmo"] {
        assert_eq!(
            house.told(name).await,
            ["agent_starting", "agent_started"],
            "nobody could be heard meanwhile"
        );
    }
    house.clock.advance(MILLISECOND).await;
    wait::until("the silence of both", SOON, async || {
        let told = (house.told("ceo").await.len(), house.told("cmo").await.len());
        (told == (3, 3)).then_some(())
    })
    .await;
}

/// Heartbeats are refused while the agent's state cannot be read: that is nobody's silence.
#[tokio::test]
async fn nobody_is_silent_while_the_store_is_away() {
    let house = House::new();
    let store = Arc::new(Away { inner: house.store.clone(), is_away: AtomicBool::new(false) });
    let parts = Parts {
        ledger: house.store.clone(),
        heartbeats: house.store.clone(),
        agents: store.clone(),
        supervises: Supervises::Here,
    };
    let mut server = house.server_on([spec_of("ceo")], parts).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    server.run();
    house.until_looked(&server).await;
    store.is_away.store(true, Ordering::SeqCst);
    for _ in 0..40 {
        house.until_asleep().await;
        house.clock.advance(Duration::from_secs(2)).await;
    }
    store.is_away.store(false, Ordering::SeqCst);
    house.until_looked(&server).await;
    house.until_asleep().await;
    house.clock.advance(Duration::from_secs(29)).await;
    house.until_looked(&server).await;
    let told = ["agent_starting", "agent_started"];
    assert_eq!(house.told("ceo").await, told, "it could not be heard, and has time to speak now");
    house.until_asleep().await;
    house.clock.advance(Duration::from_secs(1)).await;
    wait::until("the silence", SOON, async || (house.told("ceo").await.len() == 3).then_some(())).await;
}

/// An agent store that can be away.
struct Away {
    inner: Arc<dyn AgentStore>,
    is_away: AtomicBool,
}

impl Away {
    fn there(&self) -> Result<&dyn AgentStore, ReadError> {
        if self.is_away.load(Ordering::SeqCst) {
            Err(ReadError::Unavailable("away".into()))
        } else {
            Ok(&*self.inner)
        }
    }
}

#[async_trait]
impl AgentStore for Away {
    async fn list(&self) -> Result<Vec<Agent>, ReadError> {
        self.there()?.list().await
    }

    async fn by_type(&self, agent_type: &AgentType) -> Result<Option<Agent>, ReadError> {
        self.there()?.by_type(agent_type).await
    }

    async fn by_id(&self, id: AgentId) -> Result<Option<Agent>, ReadError> {
        self.there()?.by_id(id).await
    }
}

#[tokio::test]
async fn the_next_server_completes_what_the_last_one_began_and_doubles_nothing() {
    let house = House::new();
    let names = ["ceo", "cmo", "cto", "cfo"];
    let server = house.server(&names).await;
    for name in names {
        server.fleet.start(&ty(name), &operator()).await.unwrap();
    }
    house.beat(&server).await;
    // Killed after the wish and before its effect: of a stop, a restart and a start.
    let wish =
        async |name: &str,
               wish: fn(Agent, aito_domain::time::Timestamp) -> aito_domain::agent::Transition| {
            let id = house.agent(name).await.id;
            server.writer.agent(id, &operator(), |agent, now| Ok(wish(agent, now))).await.unwrap();
        };
    wish("cmo", Agent::want_stopped).await;
    wish("cto", Agent::want_restart).await;
    server.fleet.stop(&ty("cfo"), &operator()).await.unwrap();
    wish("cfo", Agent::want_running).await;
    drop(server);

    let mut server = house.server(&names).await;
    server.run();
    house.until_status("cmo", Status::Inactive).await;
    until_running(&house, "cto", 2).await;
    until_running(&house, "cfo", 2).await;
    house.until_looked(&server).await;
    assert_eq!(house.running("ceo").await, [Incarnation(1)], "adopted");
    assert_eq!(house.engine.starts(&ContainerKey::of(&house.agent("ceo").await)), 1);
    assert_eq!(house.agent("ceo").await.status(), Status::Active);
    house.beat(&server).await;
    assert!(house.runtime.doubles().is_empty());
    assert_story(&house).await;
}

#[tokio::test]
async fn a_listing_from_before_a_start_is_no_evidence_against_it() {
    let house = House::new();
    let mut server = house.server(&["ceo"]).await;
    // The loop has listed nothing and is slow to hear of it; meanwhile the agent is started and heard.
    let held = house.runtime.hold_next_list();
    server.run();
    held.reached.await.unwrap();
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    assert_eq!(house.agent("ceo").await.status(), Status::Active);
    assert_eq!(server.fleet.view(&ty("ceo")).await.unwrap().container, ContainerStatus::Running);

    let next = house.runtime.hold_next_list();
    held.open.send(()).unwrap();
    server.fleet.look();
    next.reached.await.unwrap();
    // The slow pass is over, and what it saw is older than what is known.
    let view = server.fleet.view(&ty("ceo")).await.unwrap();
    assert_eq!(
        view.container,
        ContainerStatus::Running,
        "an old listing does not hide what was started since"
    );
    next.open.send(()).unwrap();
    house.until_looked(&server).await;
    assert_eq!(house.told("ceo").await, ["agent_starting", "agent_started"]);
    assert_eq!(house.running("ceo").await, [Incarnation(1)]);
}

#[tokio::test]
async fn a_listing_from_before_a_restart_is_no_evidence_either() {
    let (house, server) = alive(&["ceo"]).await;
    let held = house.runtime.hold_next_list();
    server.fleet.look();
    held.reached.await.unwrap();
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    server.fleet.stop(&ty("ceo"), &operator()).await.unwrap();
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    held.open.send(()).unwrap();
    house.until_looked(&server).await;
    assert_eq!(house.running("ceo").await, [Incarnation(3)]);
    assert_eq!(house.agent("ceo").await.status(), Status::Active);
    assert!(!house.told("ceo").await.iter().any(|told| told == "agent_error"));
    assert_story(&house).await;
}

#[tokio::test]
async fn a_start_that_was_overtaken_is_not_made_up_for() {
    let house = House::new();
    let mut server = house.server(&["ceo"]).await;
    house.runtime.trouble_starts(Some(Trouble::Unavailable));
    assert!(server.fleet.start(&ty("ceo"), &operator()).await.is_err());
    house.runtime.trouble_starts(None);
    // The loop is about to complete the start of incarnation 1; before it comes to that, 2 is asked for.
    let held = house.runtime.hold_next_list();
    server.run();
    held.reached.await.unwrap();
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    held.open.send(()).unwrap();
    house.until_looked(&server).await;
    assert_eq!(house.running("ceo").await, [Incarnation(2)]);
    assert_eq!((house.runtime.doubles(), house.listed("ceo").await), (vec![], vec![Incarnation(2)]));
}

#[tokio::test]
async fn effects_of_one_agent_wait_for_each_other_and_others_do_not_wait() {
    let house = House::new();
    let mut server = house.server(&["ceo", "cmo"]).await;
    let held = house.runtime.hold_next_start();
    let call = |restart: bool| {
        let fleet = server.fleet.clone();
        tokio::spawn(async move {
            let ceo = ty("ceo");
            if restart {
                fleet.restart(&ceo, &operator()).await
            } else {
                fleet.start(&ceo, &operator()).await
            }
        })
    };
    let starting = call(false);
    held.reached.await.unwrap();
    let restarting = call(true);
    wait::until("the second wish", SOON, async || {
        (house.agent("ceo").await.incarnation.0 == 2).then_some(())
    })
    .await;
    server.run();
    house.until_looked(&server).await;
    server.fleet.start(&ty("cmo"), &operator()).await.unwrap();
    assert_eq!(house.running("ceo").await, [], "neither the second call nor the loop goes ahead");
    held.open.send(()).unwrap();
    starting.await.unwrap().unwrap();
    restarting.await.unwrap().unwrap();
    house.until_looked(&server).await;
    assert_eq!(house.running("ceo").await, [Incarnation(2)]);
    assert_eq!(house.runtime.doubles(), Vec::<String>::new());
}

/// An agent store of which one read can be held back before it is made.
struct HeldReads {
    inner: Arc<dyn AgentStore>,
    /// Reads that still pass before the one that is held.
    passing: AtomicUsize,
    gate: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

impl HeldReads {
    fn hold_after(&self, passing: usize) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let ((reached, was_reached), (open, opened)) = (oneshot::channel(), oneshot::channel());
        self.passing.store(passing, Ordering::SeqCst);
        *self.gate.lock().unwrap() = Some((reached, opened));
        (was_reached, open)
    }
}

#[async_trait]
impl AgentStore for HeldReads {
    async fn list(&self) -> Result<Vec<Agent>, ReadError> {
        self.inner.list().await
    }

    async fn by_type(&self, agent_type: &AgentType) -> Result<Option<Agent>, ReadError> {
        self.inner.by_type(agent_type).await
    }

    async fn by_id(&self, id: AgentId) -> Result<Option<Agent>, ReadError> {
        let held = {
            let mut gate = self.gate.lock().unwrap();
            let due = gate.is_some()
                && self
                    .passing
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_err();
            if due { gate.take() } else { None }
        };
        if let Some((reached, open)) = held {
            let _ = reached.send(());
            let _ = open.await;
        }
        self.inner.by_id(id).await
    }
}

#[tokio::test]
async fn what_was_seen_of_one_incarnation_is_not_recorded_of_the_next() {
    let house = House::new();
    let agents =
        Arc::new(HeldReads { inner: house.store.clone(), passing: 0.into(), gate: Mutex::default() });
    let (ledger, heartbeats) = (house.store.clone(), house.store.clone());
    let parts = Parts { ledger, heartbeats, agents: agents.clone(), supervises: Supervises::Here };
    let mut server = house.server_on([spec_of("ceo")], parts).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    house.clock.advance(Duration::from_secs(30)).await;
    // The loop has decided that incarnation 1 is silent, and reads it once more to record that.
    let (reached, open) = agents.hold_after(1);
    server.run();
    reached.await.unwrap();
    let restart = tokio::spawn({
        let fleet = server.fleet.clone();
        async move { fleet.restart(&ty("ceo"), &operator()).await }
    });
    wait::until("the wish", SOON, async || (house.agent("ceo").await.incarnation.0 == 2).then_some(())).await;
    open.send(()).unwrap();
    restart.await.unwrap().unwrap();
    house.until_looked(&server).await;
    assert_eq!(house.running("ceo").await, [Incarnation(2)]);
    let told = ["agent_starting", "agent_started", "agent_stopping", "agent_starting"];
    assert_eq!(house.told("ceo").await, told, "incarnation 2 has just begun and is not silent");
}

#[tokio::test]
async fn a_runtime_that_fails_quickly_is_not_asked_without_end() {
    for trouble in [Trouble::Unavailable, Trouble::UnknownNotDone] {
        let house = House::new();
        let mut server = house.server(&["ceo"]).await;
        house.runtime.trouble_starts(Some(trouble));
        assert!(server.fleet.start(&ty("ceo"), &operator()).await.is_err());
        server.run();
        for _ in 0..10 {
            house.until_looked(&server).await;
        }
        // Time stands still, so however often the loop is told to look, it pauses.
        assert!(house.runtime.starts() <= 3, "{} starts with {trouble:?}", house.runtime.starts());

        // As time passes it goes on trying, ever less often, and at least every two seconds.
        let before = house.runtime.starts();
        for _ in 0..100 {
            house.clock.advance(Duration::from_millis(100)).await;
            house.until_looked(&server).await;
        }
        let tries = house.runtime.starts() - before;
        assert!((5..=25).contains(&tries), "{tries} in 10 s with {trouble:?}");
        house.runtime.trouble_starts(None);
        house.clock.advance(Duration::from_secs(2)).await;
        until_running(&house, "ceo", 1).await;
    }
}

#[tokio::test]
async fn hints_that_end_are_asked_for_again_with_the_next_look_only() {
    let house = House::new();
    house.runtime.end_watches();
    let mut server = house.server(&["ceo"]).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    let before = house.runtime.lists();
    server.run();
    house.until_asleep().await;
    house.clock.advance(Duration::from_secs(2)).await;
    wait::until("the second look", SOON, async || (house.runtime.lists() >= before + 2).then_some(())).await;
    house.until_asleep().await;
    assert_eq!((house.runtime.lists(), house.runtime.watches()), (before + 2, 2));
    // Without hints the timer finds a death.
    kill(&house, "ceo", Exit::Code(1)).await;
    house.clock.advance(Duration::from_secs(2)).await;
    house.until_status("ceo", Status::Error).await;
}

#[tokio::test]
async fn a_shutdown_lets_steps_under_way_finish() {
    let house = House::new();
    let mut server = house.server(&["ceo"]).await;
    let id = house.agent("ceo").await.id;
    server.writer.agent(id, &operator(), |agent, now| Ok(agent.want_running(now))).await.unwrap();
    let held = house.runtime.hold_next_start();
    server.run();
    held.reached.await.unwrap();
    server.stop().await;
    held.open.send(()).unwrap();
    until_running(&house, "ceo", 1).await;
}

#[tokio::test]
async fn a_runtime_that_is_away_changes_nobodys_state() {
    let (house, server) = alive(&["ceo"]).await;
    house.engine.set_unavailable(true);
    house.until_looked(&server).await;
    house.clock.advance(Duration::from_secs(25)).await;
    house.until_looked(&server).await;
    let view = server.fleet.view(&ty("ceo")).await.unwrap();
    assert!(view.stale && server.fleet.is_stale());
    assert_eq!((view.agent.status(), view.container), (Status::Active, ContainerStatus::Running));
    house.engine.set_unavailable(false);
    house.clock.advance(Duration::from_secs(2)).await;
    house.until_looked(&server).await;
    assert!(!server.fleet.is_stale());
    assert_eq!(house.told("ceo").await, ["agent_starting", "agent_started"]);
}

#[tokio::test]
async fn what_runs_beyond_what_is_stored_is_numbered_over_and_ended() {
    let house = House::new();
    let mut server = house.server(&["ceo", "cmo"]).await;
    // As after a restored backup: both ran up to incarnation 5, and the store knows of 1 and of none.
    for name in ["ceo", "cmo"] {
        let agent = house.agent(name).await;
        let key = ContainerKey { incarnation: Incarnation(5), ..ContainerKey::of(&agent) };
        let start = Start {
            key,
            spec: spec_of(name),
            env: Vec::new(),
            credential: Secret(String::new()),
            socket_dir: std::env::temp_dir(),
        };
        house.engine.ensure_started(&start).await.unwrap();
    }
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    assert_eq!(house.running("ceo").await, [Incarnation(6)]);
    server.run();
    let cmo = house.until_status("cmo", Status::Inactive).await;
    wait::until("the end of what ran", SOON, async || house.running("cmo").await.is_empty().then_some(()))
        .await;
    house.until_looked(&server).await;
    assert_eq!(house.agent("cmo").await.status(), Status::Inactive);
    assert!(cmo.incarnation <= Incarnation(5));
    server.fleet.start(&ty("cmo"), &operator()).await.unwrap();
    assert_eq!(house.running("cmo").await, [Incarnation(6)]);
    assert!(house.runtime.doubles().is_empty());
}
