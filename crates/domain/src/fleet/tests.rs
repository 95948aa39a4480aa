//! What is planned for every place of an agent's life and everything that may be seen of it; and a small world in
//! which plans are carried out under every trouble that a runtime and a server can have.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    agent::{Refused, Transition},
    spec::RestartPolicy,
    time::{between, millis},
};

const SILENCE: Duration = Duration::from_secs(30);

fn at(seconds: i64) -> Timestamp {
    millis(1_766_224_800_000 + seconds * 1000)
}

fn policy() -> RestartPolicy {
    RestartPolicy {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(60),
        ..RestartPolicy::default()
    }
}

fn agent_id(n: u128) -> AgentId {
    AgentId(Uuid::from_u128(n))
}

fn newborn() -> Agent {
    Agent::register(agent_id(7), "ceo".parse().unwrap(), "CEO".to_owned(), at(0)).agent
}

/// An agent of incarnation 2, in that place since second 10.
fn in_place(lifecycle: Lifecycle) -> Agent {
    let stopped = matches!(lifecycle, Lifecycle::Inactive | Lifecycle::Stopping { .. });
    Agent {
        desired: if stopped { Desired::Stopped } else { Desired::Running },
        incarnation: Incarnation(2),
        reach: if matches!(lifecycle, Lifecycle::Active { .. }) { Reach::Ok } else { Reach::Unknown },
        lifecycle,
        ..newborn()
    }
}

fn container(agent: &Agent, incarnation: u64, state: ContainerState) -> Container {
    let key = ContainerKey { incarnation: Incarnation(incarnation), ..ContainerKey::of(agent) };
    Container { key, state }
}

fn planned(agent: &Agent, containers: &[Container], heard: Option<Timestamp>, now: Timestamp) -> AgentPlan {
    plan(&Seen { agent, containers, last_heartbeat: heard }, SILENCE, now)
}

/// A place, what is seen there, what is to be done, and when to look again.
type Row<'a> = (&'a Lifecycle, Option<&'a ContainerState>, Vec<Action>, Option<Timestamp>);

#[test]
fn every_place_and_every_sight_have_their_actions() {
    let since = at(10);
    let inactive = Lifecycle::Inactive;
    let starting = Lifecycle::Starting { since };
    let active = Lifecycle::Active { since };
    let stopping = Lifecycle::Stopping { since };
    let error = |retry_at| Lifecycle::Error { since, reason: "x".to_owned(), retry_at };
    let (waiting, due) = (error(at(100)), error(at(11)));
    let (creating, running) = (ContainerState::Creating, ContainerState::Running);
    let exit = Exit::Code(3);
    let exited = ContainerState::Exited(exit.clone());
    let lost = || Action::RecordEnd(Exit::Lost("its container is gone".to_owned()));
    let start = || Action::Start(ContainerKey::of(&in_place(Lifecycle::Inactive)));
    let stop = || Action::Stop(ContainerKey::of(&in_place(Lifecycle::Inactive)));
    let end = || Action::RecordEnd(exit.clone());
    // The silence of incarnation 2 is due at second 40; the plan is made in second 12.
    let silence = Some(at(40));
    let table: [Row<'_>; 24] = [
        (&inactive, None, vec![], None),
        (&inactive, Some(&creating), vec![stop()], None),
        (&inactive, Some(&running), vec![stop()], None),
        (&inactive, Some(&exited), vec![], None),
        (&starting, None, vec![start()], None),
        (&starting, Some(&creating), vec![start()], silence),
        (&starting, Some(&running), vec![], silence),
        (&starting, Some(&exited), vec![end()], None),
        (&active, None, vec![lost()], None),
        (&active, Some(&creating), vec![start()], silence),
        (&active, Some(&running), vec![], silence),
        (&active, Some(&exited), vec![end()], None),
        (&stopping, None, vec![Action::RecordGone], None),
        (&stopping, Some(&creating), vec![stop()], None),
        (&stopping, Some(&running), vec![stop()], None),
        (&stopping, Some(&exited), vec![end()], None),
        (&waiting, None, vec![], Some(at(100))),
        (&waiting, Some(&creating), vec![stop()], None),
        (&waiting, Some(&running), vec![stop()], None),
        (&waiting, Some(&exited), vec![], Some(at(100))),
        (&due, None, vec![Action::Retry], None),
        (&due, Some(&creating), vec![stop()], None),
        (&due, Some(&running), vec![stop()], None),
        (&due, Some(&exited), vec![Action::Retry], None),
    ];
    for (lifecycle, state, actions, look_again) in table {
        let agent = in_place(lifecycle.clone());
        let present: Vec<_> = state.map(|state| container(&agent, 2, state.clone())).into_iter().collect();
        let expected = AgentPlan { actions, look_again };
        assert_eq!(planned(&agent, &present, None, at(12)), expected, "{lifecycle:?} with {state:?}");

        // Past incarnations go first, whatever state they are in, and change nothing else: the last one ends
        // and is kept, those before it are removed.
        for past_state in [&creating, &running, &exited] {
            let (past, older) =
                (container(&agent, 1, past_state.clone()), container(&agent, 0, past_state.clone()));
            let mut both = present.clone();
            both.extend([past.clone(), older.clone()]);
            let mut actions = Vec::new();
            if *past_state != exited {
                actions.push(Action::Stop(past.key));
            }
            actions.push(Action::Discard(older.key));
            actions.extend(expected.actions.clone());
            let found = planned(&agent, &both, None, at(12));
            assert_eq!(found.actions, actions, "{lifecycle:?} with {state:?} and a past one");
            assert_eq!(found.look_again, expected.look_again);
        }

        // A later one than the stored: its number first, and nothing but that.
        let mut seen = present.clone();
        seen.push(container(&agent, 5, exited.clone()));
        seen.push(container(&agent, 9, creating.clone()));
        seen.push(container(&agent, 1, running.clone()));
        let expected = AgentPlan { actions: vec![Action::Renumber(Incarnation(9))], look_again: None };
        assert_eq!(
            planned(&agent, &seen, None, at(12)),
            expected,
            "{lifecycle:?} with {state:?} and later ones"
        );
    }
}

#[test]
fn containers_of_other_agents_are_not_looked_at() {
    let agent = in_place(Lifecycle::Starting { since: at(10) });
    let other = Agent { id: agent_id(8), ..agent.clone() };
    let foreign: Vec<_> =
        (1..9).map(|incarnation| container(&other, incarnation, ContainerState::Running)).collect();
    assert_eq!(planned(&agent, &foreign, None, at(12)).actions, [Action::Start(ContainerKey::of(&agent))]);
}

#[test]
fn silence_counts_from_the_last_heartbeat_or_the_start_whichever_is_later() {
    for lifecycle in [Lifecycle::Starting { since: at(10) }, Lifecycle::Active { since: at(10) }] {
        let agent = in_place(lifecycle);
        let running = [container(&agent, 2, ContainerState::Running)];
        for (heard, due) in [(None, at(40)), (Some(at(5)), at(40)), (Some(at(25)), at(55))] {
            let early = planned(&agent, &running, heard, millis(due.timestamp_millis() - 1));
            assert_eq!(early, AgentPlan { actions: vec![], look_again: Some(due) }, "heard {heard:?}");
            let late = planned(&agent, &running, heard, due);
            assert_eq!(late.actions, [Action::RecordSilence], "heard {heard:?}");
        }
        let known = Agent { reach: Reach::Unreachable { since: at(40) }, ..agent };
        assert_eq!(planned(&known, &running, None, at(9999)), AgentPlan::default(), "told once");
    }
    assert_eq!(silence_bound(Duration::from_secs(10), Duration::ZERO), SILENCE);
    let relayed = Duration::from_secs(4);
    assert_eq!(silence_bound(Duration::from_secs(10), relayed), SILENCE + relayed);
    assert_eq!(silence_bound(Duration::MAX, relayed), Duration::MAX);
}

#[test]
fn names_are_stable_well_formed_and_differ_by_everything() {
    let name = |installation: u128, agent: u128, incarnation: u64| {
        let key = ContainerKey {
            agent_id: agent_id(agent),
            agent_type: "risk-officer".parse().unwrap(),
            incarnation: Incarnation(incarnation),
        };
        key.name(InstallationId(Uuid::from_u128(installation)))
    };
    // Running containers carry this name: another function would lose them at an upgrade.
    assert_eq!(name(1, 7, 1), "aito-risk-officer-gyn4vr");
    let mut all = BTreeSet::new();
    for installation in 1..6 {
        for agent in 1..8 {
            for incarnation in (1..20).chain([u64::MAX]) {
                let name = name(installation, agent, incarnation);
                let code = name.strip_prefix("aito-risk-officer-").unwrap();
                assert!(
                    code.len() == 6 && code.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')),
                    "{name}"
                );
                assert!(all.insert(name.clone()), "{name} came twice");
            }
        }
    }
}

/// What a world's runtime and engine may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    /// What it was asked for has happened, or shows as being made, when it is listed the next time.
    Prompt,
    /// A start whose answer was lost may happen unseen, later.
    Late,
    /// As `Late`, and it refuses an incarnation while another one of the agent lives.
    LateExclusive,
}

/// How an effect or a commit goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luck {
    Good,
    /// Nothing happens, and that is said.
    Refused,
    /// It happens, and nobody hears of it.
    Unheard,
    /// The server dies on the way: a start may still happen, the rest has half happened.
    Died,
}

/// What happens in a world while a server looks after it.
#[derive(Debug, Clone)]
enum Incident {
    Pass(Vec<Luck>),
    WantRunning,
    WantRestart,
    WantStopped,
    /// Every container that runs ends.
    Crash(Exit),
    /// Every container disappears, however it is.
    Lost,
    Beats,
    Ripen,
    Wait(i64),
    /// The store goes back to what it was so many incidents ago.
    Restore(usize),
}

struct World {
    engine: Engine,
    now: Timestamp,
    agent: Agent,
    before: Vec<Agent>,
    containers: BTreeMap<Incarnation, ContainerState>,
    /// Starts under way that nobody sees.
    unseen: BTreeSet<Incarnation>,
    heard: Option<(Incarnation, Timestamp)>,
    /// Starts that the engine refused because another incarnation lived.
    refusals: u32,
}

/// The server has to look anew.
struct Broken;

impl World {
    fn new(engine: Engine) -> Self {
        Self {
            engine,
            now: at(0),
            agent: newborn(),
            before: Vec::new(),
            containers: BTreeMap::new(),
            unseen: BTreeSet::new(),
            heard: None,
            refusals: 0,
        }
    }

    fn alive(&self) -> usize {
        self.containers.values().filter(|state| !matches!(state, ContainerState::Exited(_))).count()
    }

    fn list(&self) -> Vec<Container> {
        self.containers.iter().map(|(n, state)| container(&self.agent, n.0, state.clone())).collect()
    }

    fn plan(&self, agent: &Agent, containers: &[Container]) -> AgentPlan {
        let heard = self.heard.filter(|(n, _)| *n == agent.incarnation).map(|(_, at)| at);
        planned(agent, containers, heard, self.now)
    }

    /// One pass of a server: looks, and acts on what it saw until nothing is left to do or something breaks.
    fn pass(&mut self, luck: &[Luck]) -> Option<Timestamp> {
        let mut agent = self.agent.clone();
        let mut containers = self.list();
        let mut luck = luck.iter().copied().chain(std::iter::repeat(Luck::Good));
        for _ in 0..12 {
            let plan = self.plan(&agent, &containers);
            let Some(action) = plan.actions.into_iter().next() else { return plan.look_again };
            let luck = luck.next().unwrap_or(Luck::Good);
            match self.act(agent, action, luck, &mut containers) {
                Ok(after) => agent = after,
                Err(Broken) => return None,
            }
        }
        panic!("twelve actions in one go did not settle {:?} with {:?}", self.agent, self.containers);
    }

    fn act(
        &mut self,
        agent: Agent,
        action: Action,
        luck: Luck,
        containers: &mut Vec<Container>,
    ) -> Result<Agent, Broken> {
        let now = self.now;
        if luck == Luck::Refused {
            return Err(Broken);
        }
        let effect_is_heard = |agent| if luck == Luck::Good { Ok(agent) } else { Err(Broken) };
        match action {
            Action::Discard(key) => {
                assert!(key.incarnation < self.agent.incarnation, "only past ones are discarded");
                if luck == Luck::Died {
                    // Ended, and not removed.
                    self.containers.entry(key.incarnation).and_modify(end);
                } else {
                    self.containers.remove(&key.incarnation);
                }
                containers.retain(|container| container.key != key);
                effect_is_heard(agent)
            }
            Action::Stop(key) => {
                let state = self.containers.get_mut(&key.incarnation);
                let state = state.map(|state| {
                    end(state);
                    state.clone()
                });
                put(containers, &key, state);
                effect_is_heard(agent)
            }
            Action::Start(key) => match self.start(key.incarnation, luck) {
                Ok(state) => {
                    put(containers, &key, Some(state));
                    effect_is_heard(agent)
                }
                Err(why) => {
                    let n = key.incarnation;
                    self.record(&agent, |agent| agent.start_failed(n, why, &policy(), now), luck)
                }
            },
            Action::Renumber(seen) => self.record(&agent, |agent| agent.renumber(seen, now), luck),
            Action::RecordEnd(exit) => {
                let n = agent.incarnation;
                self.record(&agent, |agent| agent.ended(n, exit, &policy(), now), luck)
            }
            Action::RecordGone => self.record(&agent, |agent| agent.gone(now), luck),
            Action::Retry => self.record(&agent, |agent| agent.retry(now), luck),
            Action::RecordSilence => self.record(&agent, |agent| agent.silent(now), luck),
        }
    }

    fn start(&mut self, n: Incarnation, luck: Luck) -> Result<ContainerState, String> {
        if let Some(state) = self.containers.get_mut(&n) {
            if *state == ContainerState::Creating {
                *state = ContainerState::Running;
            }
            return Ok(state.clone());
        }
        if self.engine == Engine::LateExclusive && self.alive() > 0 {
            self.refusals += 1;
            return Err("another incarnation lives".to_owned());
        }
        let state = match (luck, self.engine) {
            (Luck::Died, Engine::Prompt) => ContainerState::Creating,
            (Luck::Died, _) => {
                self.unseen.insert(n);
                return Ok(ContainerState::Creating);
            }
            _ => ContainerState::Running,
        };
        self.containers.insert(n, state.clone());
        Ok(state)
    }

    /// A commit. What was to be recorded may have become moot, because the store moved on.
    fn record<F>(&mut self, read: &Agent, decide: F, luck: Luck) -> Result<Agent, Broken>
    where
        F: FnOnce(Agent) -> Result<Transition, Refused>,
    {
        if luck == Luck::Died || read.incarnation != self.agent.incarnation {
            return Err(Broken);
        }
        let moved = decide(self.agent.clone()).map_err(|_| Broken)?;
        self.agent = moved.agent;
        if luck == Luck::Good { Ok(self.agent.clone()) } else { Err(Broken) }
    }

    /// Everything under way comes to its end, as far as it can.
    fn ripen(&mut self) {
        for n in std::mem::take(&mut self.unseen) {
            let shut = self.engine == Engine::LateExclusive && self.alive() > 0;
            if !shut {
                self.containers.entry(n).or_insert(ContainerState::Running);
            }
        }
        for state in self.containers.values_mut() {
            if *state == ContainerState::Creating {
                *state = ContainerState::Running;
            }
        }
    }

    /// Every living agent reports; one that is told that it is past ends by itself.
    fn beats(&mut self) {
        for (n, state) in &mut self.containers {
            if *state != ContainerState::Running {
                continue;
            }
            match self.agent.clone().heard(*n, None, self.now) {
                Ok(moved) => {
                    self.agent = moved.agent;
                    self.heard = Some((*n, self.now));
                }
                Err(_) => *state = ContainerState::Exited(Exit::Code(0)),
            }
        }
    }

    fn happen(&mut self, incident: &Incident) {
        self.before.push(self.agent.clone());
        let (agent, now) = (self.agent.clone(), self.now);
        match incident {
            Incident::Pass(luck) => {
                self.pass(luck);
            }
            Incident::WantRunning => self.agent = agent.want_running(now).agent,
            Incident::WantRestart => self.agent = agent.want_restart(now).agent,
            Incident::WantStopped => self.agent = agent.want_stopped(now).agent,
            Incident::Crash(exit) => {
                for state in self.containers.values_mut().filter(|state| **state == ContainerState::Running) {
                    *state = ContainerState::Exited(exit.clone());
                }
            }
            Incident::Lost => self.containers.clear(),
            Incident::Beats => self.beats(),
            Incident::Ripen => self.ripen(),
            Incident::Wait(seconds) => self.now = after(now, Duration::from_secs(seconds.unsigned_abs())),
            Incident::Restore(back) => {
                let index = self.before.len().saturating_sub(back + 1);
                self.agent = self.before[index].clone();
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.plan(&self.agent, &self.list()).actions.is_empty()
    }

    fn is_as_wanted(&self) -> bool {
        let running: Vec<_> = self
            .containers
            .iter()
            .filter(|(_, s)| !matches!(s, ContainerState::Exited(_)))
            .map(|(n, _)| *n)
            .collect();
        match self.agent.desired {
            Desired::Running => {
                matches!(self.agent.lifecycle, Lifecycle::Active { .. })
                    && self.agent.reach == Reach::Ok
                    && running == [self.agent.incarnation]
                    // The last one before it is kept for its log, and no other.
                    && self.containers.len() <= 2
            }
            Desired::Stopped => self.agent.lifecycle == Lifecycle::Inactive && running.is_empty(),
        }
    }
}

fn end(state: &mut ContainerState) {
    if !matches!(state, ContainerState::Exited(_)) {
        *state = ContainerState::Exited(Exit::Signal(15));
    }
}

fn put(containers: &mut Vec<Container>, key: &ContainerKey, state: Option<ContainerState>) {
    containers.retain(|container| container.key != *key);
    containers.extend(state.map(|state| Container { key: key.clone(), state }));
}

fn incidents() -> impl Strategy<Value = Incident> {
    let luck = prop_oneof![5 => Just(Luck::Good), 1 => Just(Luck::Refused), 1 => Just(Luck::Unheard), 1 => Just(Luck::Died)];
    let exit = prop_oneof![Just(Exit::Code(1)), Just(Exit::Signal(9))];
    prop_oneof![
        8 => proptest::collection::vec(luck, 0..8).prop_map(Incident::Pass),
        3 => Just(Incident::WantRunning),
        2 => Just(Incident::WantRestart),
        2 => Just(Incident::WantStopped),
        2 => exit.prop_map(Incident::Crash),
        1 => Just(Incident::Lost),
        3 => Just(Incident::Beats),
        2 => Just(Incident::Ripen),
        3 => (0..90_i64).prop_map(Incident::Wait),
        1 => (0..6_usize).prop_map(Incident::Restore),
    ]
}

/// The most passes that a calm world may take to become as wanted.
const PASSES: usize = 12;

proptest! {
    #![proptest_config(crate::tests::cases(1024))]

    #[test]
    fn whatever_happened_a_calm_world_becomes_as_wanted(
        engine in prop_oneof![Just(Engine::Prompt), Just(Engine::Late), Just(Engine::LateExclusive)],
        story in proptest::collection::vec(incidents(), 1..60),
    ) {
        let mut world = World::new(engine);
        for incident in &story {
            world.happen(incident);
            if engine != Engine::Late {
                prop_assert!(world.alive() <= 1, "{:?} live after {incident:?}", world.containers);
            }
        }
        if engine == Engine::Prompt {
            prop_assert_eq!(world.refusals, 0);
        }
        let wanted = world.agent.desired;
        world.ripen();
        let mut passes = 0;
        while !world.is_as_wanted() || world.has_work() {
            prop_assert!(passes < PASSES, "not after {passes} passes: {:?} with {:?}", world.agent, world.containers);
            passes += 1;
            let look_again = world.pass(&[]);
            prop_assert!(world.alive() <= 1, "{:?} live after a whole pass", world.containers);
            world.beats();
            // A loop looks every 2 s at the latest; here it goes straight to what is due.
            let pause = look_again.map_or(Duration::from_secs(2), |due| between(world.now, due));
            world.now = after(world.now, pause);
        }
        prop_assert_eq!(world.agent.desired, wanted);

        // And it stays so: nothing is left to do as long as nothing happens.
        for _ in 0..3 {
            world.beats();
            prop_assert!(world.is_as_wanted() && !world.has_work(), "{:?} with {:?}", world.agent, world.containers);
            world.now = after(world.now, Duration::from_secs(10));
        }
    }

    #[test]
    fn the_same_sight_gives_the_same_plan_in_any_order(
        story in proptest::collection::vec(incidents(), 1..40),
        more in proptest::collection::btree_map(0..12_u64, any::<bool>(), 0..5),
    ) {
        let mut world = World::new(Engine::Late);
        for incident in &story {
            world.happen(incident);
        }
        for (n, runs) in more {
            let state = if runs { ContainerState::Running } else { ContainerState::Exited(Exit::Code(0)) };
            world.containers.insert(Incarnation(n), state);
        }
        let listed = world.list();
        let backwards: Vec<_> = listed.iter().rev().cloned().collect();
        let (one, other) = (world.plan(&world.agent, &listed), world.plan(&world.agent, &backwards));
        prop_assert_eq!(&one, &world.plan(&world.agent, &listed));
        prop_assert_eq!(sorted(&one), sorted(&other));
        prop_assert_eq!(one.look_again, other.look_again);
        // Nothing of the present incarnation is done before the past ones are gone.
        let present = world.agent.incarnation;
        let is_past = |action: &Action| match action {
            Action::Discard(key) | Action::Stop(key) => key.incarnation < present,
            _ => false,
        };
        let first_present = one.actions.iter().position(|action| !is_past(action));
        let last_past = one.actions.iter().rposition(is_past);
        prop_assert!(last_past.is_none_or(|last| first_present.is_none_or(|first| last < first)), "{:?}", one);
    }
}

fn sorted(plan: &AgentPlan) -> Vec<String> {
    let mut actions: Vec<_> = plan.actions.iter().map(|action| format!("{action:?}")).collect();
    actions.sort();
    actions
}

#[test]
fn a_pause_does_not_outlast_a_clock_that_was_set_back() {
    let failed = Lifecycle::Error { since: at(7200), reason: "x".into(), retry_at: at(7260) };
    let agent = in_place(failed);
    assert_eq!(planned(&agent, &[], None, at(7200)).actions, []);
    assert_eq!(planned(&agent, &[], None, at(12)).actions, [Action::Retry]);
}
