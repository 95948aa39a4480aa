//! What people ask of agents: the wish first and then the effect, one container, and the truth about what was done.

use std::sync::Arc;

use aito_application::{Error, fleet::ContainerStatus, heartbeat::Beat};
use aito_contracts::{runtime::Behaviour, wait};
use aito_domain::{
    agent::{Agent, Desired, Exit, Health, Status},
    event::Actor,
    fleet::ContainerKey,
    id::Incarnation,
    ports::{clock::Clock as _, installation_store::InstallationStore as _, runtime::LogQuery},
    spec::{AgentSpec, SecretRef},
    time::after,
};
use futures_util::StreamExt as _;

use super::support::{
    House, Next, SOON, Scripted, Trouble, assert_story, installation, operator, policy, spec_of, ty,
};

fn key(agent: &Agent) -> ContainerKey {
    ContainerKey::of(agent)
}

/// The text of an unavailability.
fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unavailable { detail, .. }) => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_wish_is_stored_before_the_effect_is_tried() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let held = house.runtime.hold_next_start();
    let starting = tokio::spawn({
        let fleet = server.fleet.clone();
        async move { fleet.start(&ty("ceo"), &operator()).await }
    });
    held.reached.await.unwrap();
    let agent = house.agent("ceo").await;
    assert_eq!(
        (agent.status(), agent.desired, agent.incarnation),
        (Status::Starting, Desired::Running, Incarnation(1))
    );
    assert_eq!(house.told("ceo").await, ["agent_starting"]);
    assert_eq!(house.running("ceo").await, []);
    held.open.send(()).unwrap();
    let name = starting.await.unwrap().unwrap();
    assert_eq!(name, key(&agent).name(installation()));
    assert_eq!(house.running("ceo").await, [Incarnation(1)]);
    let view = server.fleet.view(&ty("ceo")).await.unwrap();
    assert_eq!(
        (view.container, view.container_id, view.health),
        (ContainerStatus::Running, Some(name), Health::Unknown)
    );
}

#[tokio::test]
async fn what_cannot_work_changes_nothing() {
    let house = House::automatic();
    let with_secret = |name: &str, secret: &str| AgentSpec {
        secrets: [("API_KEY".to_owned(), SecretRef::Env(secret.to_owned()))].into(),
        ..spec_of(name)
    };
    let specs = [spec_of("ceo"), spec_of("cmo"), with_secret("cto", "MISSING"), with_secret("cfo", "THERE")];
    let server = house.server_of(specs, house.store.clone(), house.store.clone()).await;
    house.engine.script(&ty("cmo"), Behaviour::NoSuchProgram);
    let before = (house.store_of_agents().await, house.events().await.len());
    let (ceo, cmo, cto) = (ty("ceo"), ty("cmo"), ty("cto"));

    for (agent_type, named) in [(&cmo, "no such file"), (&cto, "API_KEY")] {
        for result in [
            server.fleet.start(agent_type, &operator()).await,
            server.fleet.restart(agent_type, &operator()).await,
        ] {
            let Err(Error::Invalid(faults)) = result else { panic!("{agent_type} cannot start") };
            assert!(faults[0].detail.contains(named), "{faults:?}");
        }
    }
    house.engine.set_unavailable(true);
    assert!(unavailable(server.fleet.start(&ceo, &operator()).await).contains("nothing was done"));
    assert!(unavailable(server.fleet.restart(&ceo, &operator()).await).contains("nothing was done"));
    house.engine.set_unavailable(false);
    assert!(matches!(server.fleet.start(&ty("nobody"), &operator()).await, Err(Error::NotFound(_))));
    assert_eq!((house.store_of_agents().await, house.events().await.len()), before);
    assert_eq!(house.runtime.starts(), 0);

    server.fleet.start(&ty("cfo"), &operator()).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_is_not_configured_any_more_is_shown_and_not_started() {
    let house = House::automatic();
    house.server(&["ceo", "cmo"]).await;
    let server = house.server(&["ceo"]).await;
    let result = server.fleet.start(&ty("cmo"), &operator()).await;
    assert!(matches!(result, Err(Error::Conflict(why)) if why.contains("not in the configuration")));
    let views = server.fleet.views().await.unwrap();
    let shown: Vec<_> =
        views.iter().map(|view| (view.agent.agent_type.as_str(), view.spec.is_some())).collect();
    assert_eq!(shown, [("ceo", true), ("cmo", false)]);
}

#[tokio::test]
async fn a_store_that_is_away_leaves_the_runtime_alone() {
    let house = House::automatic();
    let ledger = Scripted::new(house.store.clone(), []);
    let server = house.server_of([spec_of("ceo")], ledger.clone(), house.store.clone()).await;
    ledger.then([Next::Unavailable]);
    assert!(unavailable(server.fleet.start(&ty("ceo"), &operator()).await).contains("nothing was done"));
    assert_eq!((house.runtime.starts(), house.agent("ceo").await.status()), (0, Status::Inactive));
}

#[tokio::test]
async fn a_start_that_fails_after_the_wish_says_so_and_the_loop_completes_it() {
    let house = House::new();
    let mut server = house.server(&["ceo"]).await;
    house.runtime.trouble_starts(Some(Trouble::Unavailable));
    let detail = unavailable(server.fleet.start(&ty("ceo"), &operator()).await);
    assert!(detail.contains("it will be tried again"), "{detail}");
    assert_eq!(house.agent("ceo").await.status(), Status::Starting);

    server.run();
    house.until_looked(&server).await;
    house.runtime.trouble_starts(None);
    let _passing = house.passing(std::time::Duration::from_millis(50));
    wait::until("the loop to start it", SOON, async || {
        (house.running("ceo").await == [Incarnation(1)]).then_some(())
    })
    .await;
    assert_eq!(house.told("ceo").await, ["agent_starting"]);
}

#[tokio::test]
async fn an_effect_whose_outcome_is_unknown_is_looked_at_and_never_doubled() {
    for trouble in [Trouble::UnknownDone, Trouble::UnknownNotDone] {
        let house = House::new();
        let mut server = house.server(&["ceo"]).await;
        house.runtime.trouble_starts(Some(trouble));
        let detail = unavailable(server.fleet.start(&ty("ceo"), &operator()).await);
        assert!(detail.contains("it will be tried again"), "{detail}");
        let agent = house.agent("ceo").await;
        assert_eq!(house.engine.starts(&key(&agent)), u32::from(trouble == Trouble::UnknownDone));

        house.runtime.trouble_starts(None);
        server.run();
        wait::until("the loop to find or start it", SOON, async || {
            let view = server.fleet.view(&ty("ceo")).await.unwrap();
            (view.container == ContainerStatus::Running).then_some(())
        })
        .await;
        house.until_looked(&server).await;
        assert_eq!(house.engine.starts(&key(&agent)), 1, "{trouble:?}");
        assert_eq!(house.running("ceo").await, [Incarnation(1)]);
        assert_eq!(house.told("ceo").await, ["agent_starting"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_at_once_give_one_container_and_one_event() {
    for round in 0..10 {
        let house = Arc::new(House::new());
        let server = house.server(&["ceo"]).await;
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let fleet = server.fleet.clone();
                tokio::spawn(async move { fleet.start(&ty("ceo"), &operator()).await })
            })
            .collect();
        let _passing = house.passing(std::time::Duration::from_millis(1));
        let mut names = std::collections::BTreeSet::new();
        for caller in callers {
            names.insert(caller.await.unwrap().unwrap());
        }
        assert_eq!(names.len(), 1, "round {round}: {names:?}");
        assert_eq!(house.told("ceo").await, ["agent_starting"]);
        assert_eq!(house.engine.starts(&key(&house.agent("ceo").await)), 1);
    }
}

#[tokio::test]
async fn a_restart_leaves_one_container_with_a_new_name() {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    let first = server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    assert_eq!(server.fleet.start(&ty("ceo"), &operator()).await.unwrap(), first, "running already");
    let second = server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(house.running("ceo").await, [Incarnation(2)]);
    let third = server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    assert_ne!(second, third);
    assert_eq!(house.running("ceo").await, [Incarnation(3)]);
    assert_eq!(
        house.listed("ceo").await,
        [Incarnation(2), Incarnation(3)],
        "only the last one before is kept"
    );
    assert_eq!(
        house.told("ceo").await,
        [
            "agent_starting",
            "agent_started",
            "agent_stopping",
            "agent_starting",
            "agent_stopping",
            "agent_starting"
        ]
    );
    assert!(house.runtime.doubles().is_empty());
    assert_story(&house).await;
}

#[tokio::test]
async fn a_stop_ends_the_agent_and_a_second_one_changes_nothing() {
    let house = House::automatic();
    let server = house.server(&["ceo", "cmo"]).await;
    server.fleet.stop(&ty("ceo"), &operator()).await.unwrap();
    assert!(house.told("ceo").await.is_empty(), "it did not run");
    house.engine.script(&ty("cmo"), Behaviour::IgnoresTerm);
    for (name, exit) in [("ceo", Exit::Signal(15)), ("cmo", Exit::Signal(9))] {
        server.fleet.start(&ty(name), &operator()).await.unwrap();
        house.beat(&server).await;
        server.fleet.stop(&ty(name), &operator()).await.unwrap();
        let agent = house.agent(name).await;
        assert_eq!((agent.status(), agent.last_exit.unwrap().exit), (Status::Inactive, exit));
        assert_eq!(house.running(name).await, []);
        let stops = house.runtime.stops();
        server.fleet.stop(&ty(name), &operator()).await.unwrap();
        assert_eq!(house.runtime.stops(), stops, "the runtime is not asked for what is done");
        assert_eq!(
            house.told(name).await,
            ["agent_starting", "agent_started", "agent_stopping", "agent_stopped"]
        );
    }
    // What it wrote can still be read.
    assert!(server.fleet.logs(&ty("ceo"), &LogQuery::default(), false).await.is_ok());
    assert_story(&house).await;
}

#[tokio::test]
async fn a_stop_while_the_runtime_is_away_is_stored_and_done_later() {
    let house = House::new();
    let mut server = house.server(&["ceo"]).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.engine.set_unavailable(true);
    let detail = unavailable(server.fleet.stop(&ty("ceo"), &operator()).await);
    assert!(detail.contains("it will be tried again"), "{detail}");
    let agent = house.agent("ceo").await;
    assert_eq!((agent.status(), agent.desired), (Status::Stopping, Desired::Stopped));
    server.run();
    house.until_looked(&server).await;
    assert!(server.fleet.view(&ty("ceo")).await.unwrap().stale);
    house.engine.set_unavailable(false);
    let _passing = house.passing(std::time::Duration::from_millis(50));
    house.until_status("ceo", Status::Inactive).await;
    assert!(!server.fleet.view(&ty("ceo")).await.unwrap().stale);
    assert_eq!(house.told("ceo").await, ["agent_starting", "agent_stopping", "agent_stopped"]);
}

#[tokio::test]
async fn a_name_that_something_foreign_holds_is_left_for_the_next_incarnation() {
    let house = House::new();
    let mut server = house.server(&["ceo"]).await;
    let mut taken = key(&house.agent("ceo").await);
    taken.incarnation = Incarnation(1);
    house.engine.occupy(&taken);
    let detail = unavailable(server.fleet.start(&ty("ceo"), &operator()).await);
    assert!(detail.contains("it will be tried again") && detail.contains("taken"), "{detail}");
    let agent = house.agent("ceo").await;
    assert_eq!((agent.status(), agent.failures), (Status::Error, 1));
    server.run();
    house.until_asleep_till(after(agent.updated_at, policy().initial)).await;
    house.clock.advance(policy().initial).await;
    wait::until("the next incarnation", SOON, async || {
        (house.running("ceo").await == [Incarnation(2)]).then_some(())
    })
    .await;
    assert_eq!(house.told("ceo").await, ["agent_starting", "agent_error", "agent_starting"]);
}

#[tokio::test]
async fn a_server_that_does_not_supervise_says_so_and_touches_nothing() {
    let house = House::automatic();
    house.server(&["ceo"]).await.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let mut server = house.supervisor_of(&["ceo"], "another engine").await;
    let before = house.events().await.len();
    for detail in [
        unavailable(server.fleet.start(&ty("ceo"), &operator()).await),
        unavailable(server.fleet.restart(&ty("ceo"), &operator()).await),
        unavailable(server.fleet.stop(&ty("ceo"), &operator()).await),
    ] {
        assert!(detail.contains("another engine") && detail.contains("nothing was done"), "{detail}");
    }
    house.engine.exit_now(&key(&house.agent("ceo").await), Exit::Code(1));
    server.run();
    house.until_looked(&server).await;
    assert_eq!(house.events().await.len(), before, "it looks and does not act");
    let view = server.fleet.view(&ty("ceo")).await.unwrap();
    assert_eq!((view.container, view.stale), (ContainerStatus::Unknown, true), "it is not the engine to ask");
    unavailable(server.fleet.usage(&ty("ceo")).await.map(|_| String::new()));
    unavailable(server.fleet.containers().await.map(|_| String::new()));
    // Accepted, without a restart of the server: the loop goes on where it could not.
    house.store.set_engine("another engine", "fake:1").await.unwrap();
    server.fleet.look();
    wait::until("the death to be told", SOON, async || {
        house.told("ceo").await.contains(&"agent_error".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_first_engine_that_is_seen_becomes_the_installations_own() {
    let house = House::automatic();
    let server = house.supervisor_of(&["ceo"], "").await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let record = house.store.load().await.unwrap().unwrap();
    assert_eq!(record.engine_id, "fake:1");
}

#[tokio::test]
async fn what_an_agent_uses_is_compared_with_the_reading_before() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    assert_eq!(server.fleet.usage(&ty("ceo")).await.unwrap(), None);
    let name = server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let first = server.fleet.usage(&ty("ceo")).await.unwrap().unwrap();
    assert_eq!((first.container_id, first.cpu_percent), (name, None));
    house.clock.advance(std::time::Duration::from_secs(2)).await;
    let second = server.fleet.usage(&ty("ceo")).await.unwrap().unwrap();
    assert_eq!(
        (second.cpu_percent, second.stats.at),
        (Some(0.0), after(first.stats.at, std::time::Duration::from_secs(2)))
    );
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    let third = server.fleet.usage(&ty("ceo")).await.unwrap().unwrap();
    assert_eq!(third.cpu_percent, None, "another container");
}

#[tokio::test]
async fn logs_are_those_of_the_present_incarnation() {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    let none = server.fleet.logs(&ty("ceo"), &LogQuery::default(), false).await.map(|_| ());
    assert!(matches!(none, Err(Error::NotFound(_))));
    for text in ["first", "second"] {
        server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
        house.engine.write(
            &key(&house.agent("ceo").await),
            aito_domain::ports::runtime::LogChannel::Stdout,
            text,
        );
        let lines: Vec<_> =
            server.fleet.logs(&ty("ceo"), &LogQuery::default(), false).await.unwrap().collect().await;
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), [text]);
    }
    house.engine.set_unavailable(true);
    let away = server.fleet.logs(&ty("ceo"), &LogQuery::default(), false).await.map(|_| ());
    assert!(matches!(away, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn registering_again_or_beside_another_server_makes_nobody_twice() {
    let house = House::automatic();
    let (first, second) = tokio::join!(house.server(&["ceo", "cmo"]), house.server(&["ceo", "cmo", "cto"]));
    first.fleet.register_configured().await.unwrap();
    second.fleet.register_configured().await.unwrap();
    let types: Vec<_> =
        house.store_of_agents().await.into_iter().map(|agent| agent.agent_type.to_string()).collect();
    assert_eq!(types, ["ceo", "cmo", "cto"]);
    let events = house.events().await;
    assert_eq!(events.len(), 3);
    assert!(
        events.iter().all(|event| event.event_type == "agent_registered" && event.actor == Actor::System)
    );
}

#[tokio::test]
async fn an_agent_that_changes_while_it_is_looked_at_is_stopped_before_that_is_said() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    let held = house.runtime.hold_next_list();
    let stopping = tokio::spawn({
        let fleet = server.fleet.clone();
        async move { fleet.stop(&ty("ceo"), &operator()).await }
    });
    held.reached.await.unwrap();
    let agent = house.agent("ceo").await;
    let (incarnation, focus) = (agent.incarnation, Some(Some("something else".to_owned())));
    server.heartbeats.heard(agent, incarnation, Beat { focus, ..Beat::default() }).await.unwrap();
    held.open.send(()).unwrap();
    stopping.await.unwrap().unwrap();
    assert_eq!(house.agent("ceo").await.status(), Status::Inactive);
    assert_eq!(house.running("ceo").await, []);
    assert_story(&house).await;
}

#[tokio::test]
async fn a_registration_that_always_collides_is_given_up_for_now() {
    let house = House::new();
    let ledger = Scripted::new(house.store.clone(), [Next::Conflict; 20]);
    let before = house.clock.now();
    // Whoever makes a server tries again after a pause, on this clock, when the registration fails.
    let server = house.server_of([spec_of("ceo")], ledger.clone(), house.store.clone()).await;
    assert!(house.clock.now() > before, "it was tried {} times without a pause", ledger.commits());
    assert_eq!(server.fleet.view(&ty("ceo")).await.unwrap().agent.status(), Status::Inactive);
}
