//! Settings and domains: what another server believes, what is sealed, what is one commit.

use std::sync::Arc;

use aito_application::{
    By, Error, Seen,
    domains::{Decision, NewDomain, NewWish},
    once::Once,
    quota::{Allowance, Quota},
    settings::{BELIEVED, NewValue},
};
use aito_domain::{
    allowlist::RequestStatus,
    id::{DomainRequestId, InstallationId, Version},
    installation::InstallationKey,
    ports::{domain_store::DomainStore as _, settings_store::SettingsStore as _},
    setting::{MASK, MAX_STORED, SettingsKey, StoredValue},
    task::Priority,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use super::support::{House, Server, installation, operator};

fn value(value: Value) -> NewValue {
    NewValue { value: Some(value), description: None, secret: None }
}

async fn write(server: &Server, category: &str, key: &str, new: NewValue) -> Result<Version, Error> {
    let view = server.work.settings.write(category, key, new, None, &operator()).await?;
    Ok(view.setting.version)
}

fn faults<T: std::fmt::Debug>(result: Result<T, Error>) -> Vec<String> {
    match result {
        Err(Error::Invalid(faults)) => faults.into_iter().map(|fault| fault.pointer).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_set_on_one_server_counts_on_another_within_half_a_second() {
    let house = House::new();
    let (a, b) = (house.server(&["ceo"]).await, house.server(&["ceo"]).await);
    let delay = async |server: &Server| {
        server.work.settings.current().await.unwrap().delays().of(Priority::Low).as_millis()
    };
    assert_eq!((delay(&a).await, delay(&b).await), (300_000, 300_000));
    write(&a, "queue", "delay_low", value(json!(7))).await.unwrap();
    assert_eq!((delay(&a).await, delay(&b).await), (7, 300_000), "at once where it was set");
    house.pass(BELIEVED);
    assert_eq!(delay(&b).await, 7);
    assert_eq!(b.work.settings.current().await.unwrap().version(), 1);
}

#[tokio::test]
async fn writes_of_two_servers_at_once_are_all_counted() {
    let house = House::automatic();
    let (a, b) = (house.server(&["ceo"]).await, house.server(&["ceo"]).await);
    let writes =
        (0..10).map(|n| write(if n % 2 == 0 { &a } else { &b }, "queue", "delay_low", value(json!(n))));
    for written in join_all(writes).await {
        written.unwrap();
    }
    assert_eq!(house.store.all().await.unwrap()[0].version, Version(10));
}

#[tokio::test]
async fn wrong_names_and_values_are_refused_and_nothing_is_stored() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let refused =
        async |category: &str, key: &str, new: NewValue| faults(write(&server, category, key, new).await);
    assert_eq!(refused("queue", "delay_lwo", value(json!(1))).await, ["?key"]);
    assert_eq!(refused("governance", "x", value(json!(1))).await, ["?key"]);
    assert_eq!(
        refused("agents", "loop_interval_cto", value(json!(1))).await,
        ["?key"],
        "nobody is called so"
    );
    assert_eq!(refused("queue", "delay_low", value(json!("1"))).await, ["/value"]);
    assert_eq!(refused("queue", "delay_low", value(json!(null))).await, ["/value"]);
    assert_eq!(refused("brand", "colour", NewValue { value: None, ..value(json!(0)) }).await, ["/value"]);
    assert_eq!(refused("Brand", "a b", value(json!("a\0"))).await, ["?category", "?key", "/value"]);
    let secret = NewValue { secret: Some(true), ..value(json!(1)) };
    assert_eq!(refused("queue", "delay_low", secret).await, ["/secret"]);
    let long = NewValue { description: Some("x".repeat(1001)), ..value(json!("x".repeat(70_000))) };
    assert_eq!(refused("brand", "colour", long).await, ["/value", "/description"]);
    assert!(house.store.all().await.unwrap().is_empty());
    assert_eq!(house.events().await.len(), 1, "the agent's registration alone");
}

#[tokio::test]
async fn a_secret_is_stored_sealed_and_shown_as_a_mask_and_nowhere_else() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let said = NewValue { secret: Some(true), ..value(json!("canary-1")) };
    write(&server, "mail", "account", said).await.unwrap();
    write(&server, "mail", "api_key", value(json!({"k": "canary-2"}))).await.unwrap();
    // It stays one when somebody sets it anew without a word.
    write(&server, "mail", "account", value(json!("canary-3"))).await.unwrap();
    let opened = SettingsKey::new(&InstallationKey::new([1; 32]), installation());
    let stored = house.store.all().await.unwrap();
    let sealed: Vec<_> = stored
        .iter()
        .map(|setting| match &setting.value {
            StoredValue::Sealed(bytes) => opened.open(&setting.category, &setting.key, bytes).unwrap(),
            StoredValue::Plain(value) => panic!("{} is plain: {value}", setting.key),
        })
        .collect();
    assert_eq!(sealed, [json!("canary-3"), json!({"k": "canary-2"})]);
    let all = server.work.settings.all().await.unwrap();
    assert_eq!(all.values["mail"]["api_key"], MASK);
    let told: String = house.events().await.iter().map(|event| event.body.to_string()).collect();
    assert!(!told.contains("canary"), "{told}");
    let back = faults(write(&server, "mail", "api_key", value(json!(MASK))).await);
    assert_eq!(back, ["/value"], "what is shown in place of it is not the value");
    let other = SettingsKey::new(&InstallationKey::new([1; 32]), InstallationId(Uuid::from_u128(2)));
    let StoredValue::Sealed(bytes) = &stored[0].value else { panic!("it must be sealed") };
    assert!(other.open("mail", "account", bytes).is_err());
    // Said to be none, it is one no more, with a value of its own.
    let open = NewValue { secret: Some(false), ..value(json!("plain")) };
    write(&server, "mail", "account", open).await.unwrap();
    assert_eq!(server.work.settings.all().await.unwrap().values["mail"]["account"], "plain");
}

#[tokio::test]
async fn a_setting_is_changed_from_the_state_that_was_seen() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let write = async |seen: u64| {
        let seen = Seen::In(vec![Version(seen)]);
        server.work.settings.write("brand", "colour", value(json!("red")), Some(&seen), &operator()).await
    };
    assert_eq!(write(0).await.unwrap().setting.version, Version(1));
    assert!(matches!(write(0).await, Err(Error::Precondition(_))));
    assert!(!write(1).await.unwrap().effective);
    let all = server.work.settings.all().await.unwrap();
    assert_eq!(
        (all.versions["brand"]["colour"], all.versions["queue"]["delay_low"]),
        (Version(2), Version(0))
    );
    let any =
        server.work.settings.write("brand", "shape", value(json!(1)), Some(&Seen::Any), &operator()).await;
    assert!(matches!(any, Err(Error::Precondition(_))), "it is not there");
}

#[tokio::test]
async fn settings_that_nobody_knows_take_no_room_from_known_ones() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    for n in 0..MAX_STORED {
        write(&server, "brand", &n.to_string(), value(json!(n))).await.unwrap();
    }
    let more = write(&server, "brand", "more", value(json!(1))).await;
    assert!(matches!(more, Err(Error::Conflict(_))), "{more:?}");
    write(&server, "brand", "1", value(json!(2))).await.unwrap();
    write(&server, "queue", "delay_low", value(json!(7))).await.unwrap();
    assert_eq!(server.work.settings.current().await.unwrap().delays().of(Priority::Low).as_millis(), 7);
}

fn domain(name: &str) -> NewDomain {
    NewDomain { domain: name.to_owned(), category: "crypto_data".to_owned(), description: None }
}

fn wish(name: &str) -> NewWish {
    NewWish { domain: name.to_owned(), ..NewWish::default() }
}

async fn ask(server: &Server, name: &str, by: &By) -> DomainRequestId {
    let (request, is_new) =
        server.work.domains.ask(&wish(name), None, by, None, &server.work.quotas).await.unwrap();
    assert!(is_new);
    request.id
}

fn approve() -> Decision {
    Decision { approve: true, reason: Some("needed".to_owned()), category: None }
}

#[tokio::test]
async fn what_ships_is_put_on_the_list_once_by_however_many_servers_and_stays_removed() {
    let house = House::automatic();
    let (a, b) = (house.server(&["ceo"]).await, house.server(&["ceo"]).await);
    let shipped = [domain("coingecko.com"), domain("etherscan.io")];
    let put: usize = join_all([&a, &b].map(|server| server.work.domains.install(&shipped)))
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    assert_eq!(put, 2);
    for name in ["coingecko.com", "etherscan.io"] {
        a.work.domains.remove(name, None, &operator()).await.unwrap();
    }
    assert_eq!(b.work.domains.install(&shipped).await.unwrap(), 0);
    assert!(a.work.domains.list(None, 10).await.unwrap().is_empty());
    a.work.domains.add(&domain("coingecko.com"), &operator(), None).await.unwrap();
}

#[tokio::test]
async fn approving_puts_the_domain_on_the_list_in_the_same_commit_and_only_once() {
    let house = House::automatic();
    let (a, b) = (house.server(&["ceo"]).await, house.server(&["ceo"]).await);
    let (first, second) =
        (ask(&a, "dexscreener.com", &operator()).await, ask(&a, "DEXScreener.com.", &By::system()).await);
    let before = house.events().await.len();
    let (yes, by) = (approve(), operator());
    let decided = join_all([&a, &b].map(|server| server.work.domains.decide(first, &yes, &by))).await;
    for request in decided {
        assert_eq!(request.unwrap().status(), RequestStatus::Approved);
    }
    let types: Vec<_> = house.events().await[before..].iter().map(|event| event.event_type.clone()).collect();
    assert_eq!(types, ["domain_approved", "domain_added", "domain_approved"], "another's request for it too");
    let other = house.store.request(second).await.unwrap().unwrap();
    assert_eq!(other.status(), RequestStatus::Approved);
    b.work.domains.decide(second, &approve(), &operator()).await.unwrap();
    assert_eq!(house.store.page(None, 10).await.unwrap().len(), 1);
    // A request for what a wider entry covers since gets an entry of its own, which stays when that one goes.
    let narrow = ask(&a, "api.coingecko.com", &operator()).await;
    a.work.domains.add(&domain("coingecko.com"), &operator(), None).await.unwrap();
    a.work.domains.decide(narrow, &approve(), &operator()).await.unwrap();
    a.work.domains.remove("coingecko.com", None, &operator()).await.unwrap();
    let covered = a.work.domains.check("api.coingecko.com").await.unwrap().matched_by;
    assert_eq!(covered.map(String::from).as_deref(), Some("api.coingecko.com"));
    let no = Decision { approve: false, ..approve() };
    assert!(matches!(a.work.domains.decide(first, &no, &operator()).await, Err(Error::Conflict(_))));
}

#[tokio::test]
async fn the_same_askers_second_request_is_the_first_one_as_long_as_it_is_open() {
    let house = House::automatic();
    let (a, b) = (house.server(&["ceo"]).await, house.server(&["ceo"]).await);
    let by = operator();
    let asked = join_all([&a, &b, &a, &b].map(|server| async {
        server.work.domains.ask(&wish("dexscreener.com"), None, &by, None, &server.work.quotas).await.unwrap()
    }))
    .await;
    assert_eq!(asked.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert!(asked.iter().all(|(request, _)| request.id == asked[0].0.id));
    let no = Decision { approve: false, ..Decision::default() };
    a.work.domains.decide(asked[0].0.id, &no, &operator()).await.unwrap();
    ask(&a, "dexscreener.com", &by).await;
}

#[tokio::test]
async fn a_repeated_request_is_the_first_one_whatever_became_of_it() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let once = Once::new("token/1", "POST", "/domains/approval-requests", "k");
    let ask = async |name: &str| {
        server.work.domains.ask(&wish(name), None, &operator(), Some(&once), &server.work.quotas).await
    };
    let (first, is_new) = ask("dexscreener.com").await.unwrap();
    assert!(is_new);
    let (again, is_new) = ask("dexscreener.com").await.unwrap();
    assert!(is_new && again.id == first.id, "as the first call was answered");
    assert!(matches!(ask("coingecko.com").await, Err(Error::Conflict(_))));
    server.work.domains.decide(first.id, &approve(), &operator()).await.unwrap();
    let (again, is_new) = ask("dexscreener.com").await.unwrap();
    assert!(is_new && again.id == first.id && again.status() == RequestStatus::Approved);
    let (other, is_new) = {
        let no = Decision { approve: false, ..Decision::default() };
        let once = Once::new("token/1", "POST", "/domains/approval-requests", "l");
        let ask = async || {
            server.work.domains.ask(&wish("x.com"), None, &operator(), Some(&once), &server.work.quotas).await
        };
        let (refused, _) = ask().await.unwrap();
        server.work.domains.decide(refused.id, &no, &operator()).await.unwrap();
        let (again, is_new) = ask().await.unwrap();
        assert_eq!(again.id, refused.id, "it asks for nothing a second time");
        (again, is_new)
    };
    assert!(is_new && other.status() == RequestStatus::Rejected);
}

#[tokio::test]
async fn a_key_names_its_own_request_also_beside_another_one_and_when_nothing_is_left() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let ceo = house.agent("ceo").await;
    let by = By::author(aito_domain::event::Actor::Agent(ceo.agent_type.clone()));
    let two = Quota { rows: 2, bytes: 1000 };
    let quotas = house.quotas(Allowance { domain_requests: two, ..Allowance::default() });
    let key = |key: &str| Once::new("agent/ceo", "POST", "/domains/approval-requests", key);
    let ask = async |name: &str, key: &Once| {
        server.work.domains.ask(&wish(name), Some(&ceo), &by, Some(key), &quotas).await
    };
    let (k1, k2, k3) = (key("1"), key("2"), key("3"));
    let (first, _) = ask("dexscreener.com", &k1).await.unwrap();
    let no = Decision { approve: false, ..Decision::default() };
    server.work.domains.decide(first.id, &no, &operator()).await.unwrap();
    let (second, is_new) = ask("dexscreener.com", &k2).await.unwrap();
    assert!(is_new && second.id != first.id);
    assert_eq!(ask("dexscreener.com", &k1).await.unwrap().0.id, first.id, "though another one is open");
    let (open, is_new) = ask("dexscreener.com", &k3).await.unwrap();
    assert!(!is_new && open.id == second.id);
    server.work.domains.decide(second.id, &no, &operator()).await.unwrap();
    // Nothing is left for today, and nothing is asked for.
    for (key, id, was_new) in [(&k1, first.id, true), (&k2, second.id, true), (&k3, second.id, false)] {
        let (again, is_new) = ask("dexscreener.com", key).await.unwrap();
        assert_eq!((again.id, is_new), (id, was_new));
    }
    assert!(matches!(ask("coingecko.com", &k3).await, Err(Error::Conflict(_))), "another body");
    assert!(matches!(ask("coingecko.com", &key("4")).await, Err(Error::TooMany { .. })));
}

#[tokio::test]
async fn each_asker_hears_of_its_own_request() {
    let house = House::new();
    let server = house.server(&["ceo", "cmo"]).await;
    let mut requests = Vec::new();
    for name in ["ceo", "cmo"] {
        let agent = house.agent(name).await;
        let by = By::author(aito_domain::event::Actor::Agent(agent.agent_type.clone()));
        let wish = wish("x.com");
        let asked = server.work.domains.ask(&wish, Some(&agent), &by, None, &server.work.quotas);
        requests.push((agent.id, asked.await.unwrap().0.id));
    }
    server.work.domains.decide(requests[1].1, &approve(), &operator()).await.unwrap();
    for (agent, request) in requests {
        let told: Vec<_> = house
            .events()
            .await
            .into_iter()
            .filter(|event| event.event_type == "domain_approved" && event.source_agent == Some(agent))
            .collect();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].body["requestId"], request.to_string());
        let mails = server.work.mail.list(agent, None, 10).await.unwrap();
        assert_eq!(mails[0].body["requestId"], request.to_string());
    }
}

#[tokio::test]
async fn an_agent_that_asked_is_told_what_became_of_it() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let ceo = house.agent("ceo").await;
    let by = By::author(aito_domain::event::Actor::Agent(ceo.agent_type.clone()));
    let (request, _) = server
        .work
        .domains
        .ask(&wish("dexscreener.com"), Some(&ceo), &by, None, &server.work.quotas)
        .await
        .unwrap();
    assert_eq!(request.requested_by, Some(ceo.id));
    server.work.domains.decide(request.id, &approve(), &operator()).await.unwrap();
    let mails = server.work.mail.list(ceo.id, None, 10).await.unwrap();
    assert_eq!(mails[0].body["notice"], "domain_approved");
    assert_eq!(mails[0].body["domain"], "dexscreener.com");
}

#[tokio::test]
async fn a_name_is_covered_by_its_nearest_entry_label_by_label() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let domains = Arc::clone(&server.work.domains);
    for name in ["coingecko.com", "api.coingecko.com"] {
        domains.add(&domain(name), &operator(), None).await.unwrap();
    }
    let by = async |name: &str| domains.check(name).await.unwrap().matched_by.map(String::from);
    assert_eq!(by("V3.API.coingecko.com").await.as_deref(), Some("api.coingecko.com"));
    assert_eq!(by("www.coingecko.com").await.as_deref(), Some("coingecko.com"));
    assert_eq!(by("notcoingecko.com").await, None);
    assert_eq!(by("coingecko.com.evil.example").await, None);
    assert_eq!(faults(domains.check("127.0.0.1").await), ["?domain"]);
    let taken = domains.add(&domain("COINGECKO.com"), &operator(), None).await;
    assert!(matches!(taken, Err(Error::Conflict(_))), "{taken:?}");
    let covered = domains.ask(&wish("x.coingecko.com"), None, &operator(), None, &server.work.quotas).await;
    assert!(matches!(covered, Err(Error::Conflict(_))), "{covered:?}");
}

#[tokio::test]
async fn a_request_names_a_domain_and_a_url_of_it() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    let ask = async |domain: &str, url: Option<&str>, category: Option<&str>| {
        let new = NewWish {
            domain: domain.to_owned(),
            url: url.map(str::to_owned),
            category: category.map(str::to_owned),
            ..NewWish::default()
        };
        faults(server.work.domains.ask(&new, None, &operator(), None, &server.work.quotas).await)
    };
    assert_eq!(ask("co.uk", Some("https://co.uk"), Some("A B")).await, ["/domain", "/category", "/url"]);
    for url in [
        "https://evil.example/dexscreener.com",
        "ftp://dexscreener.com",
        "https://me:secret@dexscreener.com/",
        " https://dexscreener.com",
        "dexscreener.com",
    ] {
        assert_eq!(ask("dexscreener.com", Some(url), None).await, ["/url"], "{url}");
    }
    assert!(house.store.requests(RequestStatus::Pending, None, 10).await.unwrap().is_empty());
}
