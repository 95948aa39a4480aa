//! Everything at once: many callers, many agents, a store and a runtime that fail by seed, a loop, agents that speak
//! and die. In the end all is as it was last wanted, and the log tells one story.

use std::{sync::Arc, time::Duration};

use aito_application::Error;
use aito_contracts::{
    faults::{FaultyLedger, Rates},
    wait,
};
use aito_domain::{
    agent::{Desired, Exit, Reach, Status},
    id::AgentType,
    ports::runtime::ContainerRuntime as _,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::{House, SOON, assert_story, operator, spec_of, ty};

const CALLERS: u64 = 16;
const CALLS: usize = 6;

async fn storm(seed: u64, troubled: u32, rates: Rates) {
    println!("seed {seed}");
    let house = Arc::new(House::new());
    let specs: Vec<_> = AgentType::BUILT_IN.iter().map(|name| spec_of(name)).collect();
    let faulty = Arc::new(FaultyLedger::new(house.store.clone(), seed, rates));
    let _passing = house.passing(Duration::from_millis(40));
    let mut server = house.server_of(specs.clone(), faulty, house.store.clone()).await;
    house.runtime.trouble_all(seed, troubled);
    server.run();

    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (house, fleet) = (house.clone(), server.fleet.clone());
            let mut random = StdRng::seed_from_u64(seed * 1000 + caller);
            tokio::spawn(async move {
                for _ in 0..CALLS {
                    let agent_type = ty(AgentType::BUILT_IN[random.random_range(0..7)]);
                    let result = match random.random_range(0..4) {
                        0 => fleet.stop(&agent_type, &operator()).await,
                        1 => fleet.restart(&agent_type, &operator()).await.map(drop),
                        _ => fleet.start(&agent_type, &operator()).await.map(drop),
                    };
                    match result {
                        Ok(()) | Err(Error::Unavailable { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                    if random.random_bool(0.2) {
                        let all = house.engine.list().await.unwrap();
                        if let Some(victim) = all.get(random.random_range(0..all.len().max(1))) {
                            house.engine.exit_now(&victim.key, Exit::Signal(9));
                        }
                    }
                }
            })
        })
        .collect();
    // Agents speak all the time.
    let mut calling = callers;
    while !calling.is_empty() {
        house.beat(&server).await;
        let (over, still): (Vec<_>, Vec<_>) =
            calling.into_iter().partition(tokio::task::JoinHandle::is_finished);
        for caller in over {
            caller.await.unwrap();
        }
        calling = still;
        tokio::task::yield_now().await;
    }

    // The server is killed in the middle of whatever it does; the next one finds a world that works again.
    drop(server);
    house.runtime.trouble_all(seed, 0);
    let mut server = house.server_of(specs, house.store.clone(), house.store.clone()).await;
    server.run();
    wait::until("everybody to be as wanted", SOON, async || {
        house.beat(&server).await;
        for agent in house.store_of_agents().await {
            let running = house.running(agent.agent_type.as_str()).await;
            let good = match agent.desired {
                Desired::Running => {
                    agent.status() == Status::Active
                        && agent.reach == Reach::Ok
                        && running == [agent.incarnation]
                }
                Desired::Stopped => agent.status() == Status::Inactive && running.is_empty(),
            };
            if !good {
                return None;
            }
        }
        Some(())
    })
    .await;
    server.stop().await;
    assert_eq!(house.runtime.doubles(), Vec::<String>::new(), "seed {seed}");
    assert_eq!(house.runtime.conflicts(), 0, "seed {seed}");
    assert_story(&house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calm_ports_and_many_callers() {
    storm(1, 0, Rates::NONE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_store_and_a_flaky_runtime_and_many_callers() {
    for seed in 2..5 {
        storm(seed, 20, Rates { conflict: 0.05, ..Rates::ROUGH }).await;
    }
}
