//! Reading the log: pages, and where a reader can go on.

use aito_application::{
    Error,
    events::{EventService, Resume},
};
use aito_domain::{event::Position, installation::Epoch, ports::event_log::Bounds};

use super::support::{House, epoch, operator, ty};

fn at(n: u64) -> Position {
    Position { epoch: epoch(), n }
}

#[tokio::test]
async fn a_reader_goes_on_within_the_log_and_starts_over_elsewhere() {
    let house = House::automatic();
    let events = EventService::new(house.log.clone());
    assert_eq!(events.resume(&at(0)).await.unwrap(), Resume::From(0), "before the first of an empty log");
    assert!(matches!(events.resume(&at(1)).await.unwrap(), Resume::Reset { bounds: None, newest: 0, .. }));

    let server = house.server(&["ceo", "cmo", "dao"]).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let newest = house.events().await.len() as u64;
    assert_eq!(newest, 4);
    for n in 0..=newest {
        assert_eq!(events.resume(&at(n)).await.unwrap(), Resume::From(n));
    }
    let reset = |reason: &str| Resume::Reset {
        reason: reason.to_owned(),
        bounds: Some(Bounds { oldest: 1, newest }),
        newest,
    };
    for ahead in [newest + 1, u64::MAX] {
        assert_eq!(events.resume(&at(ahead)).await.unwrap(), reset("the position is ahead of the log"));
    }
    let other: Epoch = "other".parse().unwrap();
    for n in [0, 1, newest, newest + 1] {
        let other = Position { epoch: other.clone(), n };
        assert_eq!(events.resume(&other).await.unwrap(), reset("the position is of another epoch"));
    }
    assert_eq!(events.position(3).to_string(), "test-3");
}

#[tokio::test]
async fn pages_go_from_new_to_old_and_join() {
    let house = House::automatic();
    let server = house.server(&["ceo", "cmo", "dao"]).await;
    for name in ["ceo", "cmo", "ceo", "dao"] {
        server.fleet.restart(&ty(name), &operator()).await.unwrap();
    }
    let events = EventService::new(house.log.clone());
    let mut expected = house.events().await;
    expected.reverse();
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let page = events.list(None, None, true, cursor, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        cursor = Some(last.position.clone());
        found.extend(page);
    }
    assert_eq!(found, expected);

    let ceo = house.agent("ceo").await.id;
    let starting = events.list(Some("agent_starting".to_owned()), Some(ceo), true, None, 50).await.unwrap();
    assert_eq!(starting.len(), 2);
    assert!(
        starting.iter().all(|event| event.source_agent == Some(ceo) && event.actor == *operator().actor())
    );

    let foreign = Position { epoch: "other".parse().unwrap(), n: 3 };
    let Err(Error::Invalid(faults)) = events.list(None, None, true, Some(foreign), 3).await else {
        panic!("not this log")
    };
    assert_eq!(faults[0].pointer, "?cursor");
}
