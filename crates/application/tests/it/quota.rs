//! What agents may store a day: exact on one server, known to others within seconds, free again at midnight (UTC).

use std::{sync::Arc, time::Duration};

use aito_application::{
    Error,
    history::NewEntry,
    quota::{Allowance, Counted, Quota, Quotas},
};
use aito_domain::{agent::Agent, id::Incarnation, time::millis};
use serde_json::json;

use super::{
    doors::Door,
    support::{House, Server, operator, ty},
};

/// As long as a count is used.
const COUNTED: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
/// 2025-12-20T00:00:00Z; the house's clock stands ten hours later.
const MIDNIGHT: i64 = 1_766_188_800_000;
const PLENTY: u64 = 1_000_000;

/// A house with started agents, and a server in it that counts to `of_history`.
struct Company {
    house: House,
    server: Server,
    door: Arc<Door>,
    quotas: Quotas,
    ceo: Agent,
}

impl Company {
    async fn new(rows: u64, bytes: u64) -> Self {
        let house = House::new();
        let server = house.server(&["ceo", "cmo"]).await;
        for name in ["ceo", "cmo"] {
            server.fleet.start(&ty(name), &operator()).await.unwrap();
        }
        let door = Door::new(house.store.clone());
        let allowance = Allowance { history: Quota { rows, bytes }, ..Allowance::default() };
        let quotas = Quotas::new(door.clone(), house.store.clone(), house.clock.clone(), allowance);
        let ceo = house.agent("ceo").await;
        Self { house, server, door, quotas, ceo }
    }

    async fn take(&self, bytes: u64) -> Result<(), Error> {
        self.quotas.take(Counted::History, self.ceo.id, &self.ceo.agent_type, bytes).await.map(|_| ())
    }

    /// Another server, which knows nothing of this one's counts, stores a row of 13 bytes.
    async fn write(&self, agent: &Agent) {
        let new = NewEntry {
            action_type: "idea".to_owned(),
            summary: "äöü".to_owned(),
            details: Some(json!({"n": 1})),
        };
        self.server.history.record(agent, Incarnation(1), new, &operator(), None, None).await.unwrap();
    }

    /// Sets the house's clock to a time of the day on which it stands.
    fn at(&self, time: Duration) {
        self.house.clock.set(millis(MIDNIGHT) + time);
    }
}

/// What was said, and when there is some again.
fn too_many(result: Result<(), Error>) -> (String, Duration) {
    match result {
        Err(Error::TooMany { detail, retry_after }) => (detail, retry_after),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn as_many_rows_as_allowed_are_let_in_and_then_none_until_the_day_ends() {
    let company = Company::new(3, PLENTY).await;
    for _ in 0..3 {
        company.take(10).await.unwrap();
    }
    let (detail, retry_after) = too_many(company.take(0).await);
    assert!(detail.contains("ceo") && detail.contains("3 rows"), "{detail}");
    assert_eq!(retry_after, 14 * HOUR);
    company.at(24 * HOUR - MOMENT);
    assert_eq!(too_many(company.take(0).await).1, MOMENT);
    assert_eq!(company.door.reads(), 1, "it is counted once in five seconds");
}

#[tokio::test]
async fn as_many_bytes_as_allowed_are_let_in_and_what_is_refused_counts_for_nothing() {
    let company = Company::new(PLENTY, 100).await;
    let (detail, retry_after) = too_many(company.take(101).await);
    assert!(detail.contains("100 bytes"), "{detail}");
    assert_eq!(retry_after, 14 * HOUR);
    company.take(60).await.unwrap();
    too_many(company.take(41).await);
    too_many(company.take(u64::MAX).await);
    company.take(40).await.unwrap();
    company.take(0).await.unwrap();
    too_many(company.take(1).await);
}

#[tokio::test]
async fn agents_do_not_take_from_each_other() {
    let company = Company::new(1, 10).await;
    company.take(10).await.unwrap();
    too_many(company.take(0).await);
    let cmo = company.house.agent("cmo").await;
    let _ = company.quotas.take(Counted::History, cmo.id, &cmo.agent_type, 10).await.unwrap();
}

#[tokio::test]
async fn what_is_stored_counts_after_a_restart_row_by_row_and_byte_by_byte() {
    let company = Company::new(4, PLENTY).await;
    for _ in 0..3 {
        company.write(&company.ceo).await;
    }
    company.write(&company.house.agent("cmo").await).await;
    company.take(0).await.unwrap();
    too_many(company.take(0).await);

    let (history, clock) = (company.house.store.clone(), company.house.clock.clone());
    let bytes = 3 * "äöü{\"n\":1}".len() as u64 + 5;
    let allowance = Allowance { history: Quota { rows: PLENTY, bytes }, ..Allowance::default() };
    let restarted = Quotas::new(history, company.house.store.clone(), clock, allowance);
    too_many(restarted.take(Counted::History, company.ceo.id, &company.ceo.agent_type, 6).await.map(|_| ()));
    let _ = restarted.take(Counted::History, company.ceo.id, &company.ceo.agent_type, 5).await.unwrap();
}

#[tokio::test]
async fn what_another_server_stored_counts_within_seconds() {
    let company = Company::new(5, PLENTY).await;
    company.take(0).await.unwrap();
    for _ in 0..4 {
        company.write(&company.ceo).await;
    }
    company.house.pass(COUNTED - MOMENT);
    company.take(0).await.unwrap();
    assert_eq!(company.door.reads(), 1, "a count is used for a while");
    company.house.pass(MOMENT);
    // Of the five, four are stored; what this server let in before came to nothing.
    company.take(0).await.unwrap();
    too_many(company.take(0).await);
    assert_eq!(company.door.reads(), 2);

    // The clock that is set back makes no count older.
    company.write(&company.ceo).await;
    company.house.set_back(HOUR);
    company.house.pass(COUNTED);
    too_many(company.take(0).await);
    assert_eq!(company.door.reads(), 3);
}

#[tokio::test]
async fn a_day_begins_at_midnight_utc_whatever_was_counted_a_moment_before() {
    let company = Company::new(2, PLENTY).await;
    company.at(24 * HOUR - Duration::from_secs(2));
    company.write(&company.ceo).await;
    company.take(0).await.unwrap();
    assert_eq!(too_many(company.take(0).await).1, Duration::from_secs(2));
    company.house.pass(Duration::from_secs(2) - MOMENT);
    assert_eq!(too_many(company.take(0).await).1, MOMENT);
    company.house.pass(MOMENT);
    company.take(0).await.unwrap();
    company.take(0).await.unwrap();
    assert_eq!(too_many(company.take(0).await).1, 24 * HOUR, "the whole of the next day is left");

    // A row of the first moment of a day is one of that day.
    company.write(&company.ceo).await;
    company.house.pass(COUNTED);
    company.take(0).await.unwrap();
    too_many(company.take(0).await);
}

#[tokio::test]
async fn what_cannot_be_counted_is_not_let_in_and_not_refused_either() {
    let company = Company::new(3, PLENTY).await;
    company.door.shut();
    assert!(matches!(company.take(0).await, Err(Error::Unavailable { .. })));
    company.door.open();
    company.take(0).await.unwrap();
    company.door.shut();
    company.house.pass(COUNTED - MOMENT);
    company.take(0).await.unwrap();
    company.house.pass(MOMENT);
    assert!(matches!(company.take(0).await, Err(Error::Unavailable { .. })), "a count does not get older");
    company.door.open();
    for _ in 0..3 {
        company.take(0).await.unwrap();
    }
    too_many(company.take(0).await);
}

#[tokio::test]
async fn of_many_calls_at_once_no_more_are_let_in_than_allowed() {
    let company = Company::new(3, PLENTY).await;
    for _ in 0..2 {
        // All of them find no count that may be used, and begin to make one.
        let held: Vec<_> = (0..8).map(|_| company.door.hold_next()).collect();
        let start = async {
            let mut gates = Vec::new();
            for held in held {
                held.reached.await.unwrap();
                gates.push(held.open);
            }
        };
        let calls = futures_util::future::join_all((0..8).map(|_| company.take(0)));
        let (results, ()) = tokio::join!(calls, start);
        let refused = results.into_iter().filter(Result::is_err).map(too_many).count();
        assert_eq!(refused, 5);
        company.house.pass(COUNTED);
    }
}
