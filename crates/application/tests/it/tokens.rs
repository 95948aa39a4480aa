//! Tokens: made once, ended for good, whatever the ledger does and whoever else is at it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_application::{
    By, Error, Seen,
    once::Once,
    tokens::{NewToken, TokenView},
};
use aito_contracts::faults::{FaultyLedger, Rates};
use aito_domain::{
    access::{Grants, Role},
    event::{Actor, Payload},
    id::{TokenId, Version},
    ports::clock::Clock as _,
    principal::Principal,
    time::after,
    token::{MAX_OVERLAP, Token, TokenText},
};
use uuid::Uuid;

use super::{
    doors::{Guard, accountable, audited, wish},
    support::{House, Next, installation, operator, ty},
};

pub const MOMENT: Duration = Duration::from_millis(1);

pub async fn made(guard: &Guard, name: &str) -> (Token, TokenText) {
    let (view, text) = guard.tokens.create(wish(name), &operator(), None).await.unwrap();
    (view.token, text)
}

pub async fn accepts(guard: &Guard, text: &TokenText) -> bool {
    guard.tokens.principal(text).await.unwrap().is_some()
}

fn conflict<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Conflict(why)) => why,
        other => panic!("{other:?}"),
    }
}

pub fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unavailable { detail, .. }) => detail,
        other => panic!("{other:?}"),
    }
}

/// The types of what is told of tokens, in order.
async fn told(house: &House) -> Vec<String> {
    let events = house.events().await.into_iter().map(|event| event.event_type);
    events.filter(|event_type| event_type.starts_with("token_")).collect()
}

/// Two servers, both of which have read what the first of them changes.
struct Race {
    house: House,
    a: Guard,
    b: Guard,
}

impl Race {
    fn new() -> Self {
        let house = House::automatic();
        let (a, b) = (Guard::of(&house), Guard::of(&house));
        Self { house, a, b }
    }

    /// Runs both; neither goes on from its first read before the other one has read as well.
    async fn run<A, B>(&self, a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
        let (of_a, of_b) = (self.a.door.hold_next(), self.b.door.hold_next());
        let start = async {
            of_a.reached.await.unwrap();
            of_b.reached.await.unwrap();
            drop((of_a.open, of_b.open));
        };
        let (a, b, ()) = tokio::join!(a, b, start);
        (a, b)
    }
}

#[tokio::test]
async fn of_two_servers_that_start_at_once_one_makes_the_first_token_once_for_ever() {
    let race = Race::new();
    let Race { house, a, b } = &race;
    let kept = [Mutex::new(None), Mutex::new(None)];
    let first = |guard: &Guard, n: usize| {
        let (tokens, slot) = (guard.tokens.clone(), &kept[n]);
        async move {
            let keep = |text: &TokenText| {
                *slot.lock().unwrap() = Some(text.clone());
                Ok(())
            };
            tokens.first(installation(), keep).await.unwrap()
        }
    };
    let results = race.run(first(a, 0), first(b, 1)).await;
    let [of_a, of_b] = kept.each_ref().map(|slot| slot.lock().unwrap().clone().expect("both have kept one"));
    let (token, good, bad) = match results {
        (Some(token), None) => (token, of_a, of_b),
        (None, Some(token)) => (token, of_b, of_a),
        other => panic!("one of them: {other:?}"),
    };
    assert_eq!(house.tokens().await, std::slice::from_ref(&token), "what is given is what is stored");
    assert_eq!(token.grants, Grants::of([Role::Admin, Role::Operator, Role::Human]));
    for guard in [a, b] {
        assert!(accepts(guard, &good).await && !accepts(guard, &bad).await);
    }
    assert_eq!(told(house).await, ["token_created"]);

    a.tokens.revoke(token.id, None, &operator()).await.unwrap();
    for guard in [a, b, &Guard::of(house)] {
        let never = |_: &TokenText| panic!("there is nothing to keep");
        assert_eq!(guard.tokens.first(installation(), never).await.unwrap(), None, "there was one");
    }
}

#[tokio::test]
async fn the_first_secret_is_kept_before_its_token_counts() {
    let house = House::automatic();
    let guard = Guard::of(&house);
    let failed = guard.tokens.first(installation(), |_| Err("no room".to_owned())).await;
    assert!(matches!(failed, Err(Error::Internal(why)) if why.to_string() == "no room"));
    assert_eq!(
        (guard.ledger.commits(), house.tokens().await.len()),
        (0, 0),
        "what cannot be kept is not made"
    );
    let keep = |_: &TokenText| {
        assert_eq!(guard.ledger.commits(), 0, "it does not count yet");
        Ok(())
    };
    assert!(guard.tokens.first(installation(), keep).await.unwrap().is_some());
    assert_eq!(guard.ledger.commits(), 1);
}

#[tokio::test]
async fn a_server_that_dies_between_keeping_and_making_harms_nobody() {
    let house = House::automatic();
    let secrets = Mutex::new(Vec::new());
    let keep = |text: &TokenText| {
        secrets.lock().unwrap().push(text.clone());
        Ok(())
    };
    let dying = Guard::of(&house);
    dying.ledger.then([Next::Unavailable]);
    unavailable(dying.tokens.first(installation(), keep).await);
    let next = Guard::of(&house);
    assert!(next.tokens.first(installation(), keep).await.unwrap().is_some());
    let [lost, good] = secrets.into_inner().unwrap().try_into().unwrap();
    assert!(accepts(&next, &good).await && !accepts(&next, &lost).await);
}

#[tokio::test]
async fn whether_the_first_token_was_made_is_settled() {
    for next in [Next::UnknownApplied, Next::UnknownLost, Next::Conflict] {
        let house = House::automatic();
        let guard = Guard::of(&house);
        guard.ledger.then([next]);
        let kept = Mutex::new(Vec::new());
        let keep = |text: &TokenText| {
            kept.lock().unwrap().push(text.clone());
            Ok(())
        };
        let first = guard.tokens.first(installation(), keep).await.unwrap();
        assert!(first.is_some(), "{next:?}: nobody else has made one");
        let [kept] = kept.into_inner().unwrap().try_into().unwrap();
        assert!(accepts(&guard, &kept).await, "{next:?}");
        assert_eq!(told(&house).await, ["token_created"], "{next:?}");
    }
    // What cannot be settled is said, and what was kept is the secret all the same.
    let house = House::automatic();
    let guard = Guard::of(&house);
    guard.ledger.then([Next::UnknownApplied]);
    guard.ledger.mute_settles(1000);
    let kept = Mutex::new(None);
    let keep = |text: &TokenText| {
        *kept.lock().unwrap() = Some(text.clone());
        Ok(())
    };
    assert!(unavailable(guard.tokens.first(installation(), keep).await).contains("not known"));
    let kept = kept.into_inner().unwrap().unwrap();
    assert!(accepts(&guard, &kept).await);
    assert_eq!(Guard::of(&house).tokens.first(installation(), |_| Ok(())).await.unwrap(), None);
}

#[tokio::test]
async fn a_name_that_is_taken_does_not_keep_an_installation_from_its_first_token() {
    let house = House::automatic();
    let guard = Guard::of(&house);
    made(&guard, "first").await;
    let first = guard.tokens.first(installation(), |_| Ok(())).await.unwrap().expect("there was none");
    assert_ne!(first.name, "first");
    assert_eq!(house.tokens().await.len(), 2);
}

#[tokio::test]
async fn a_token_is_made_with_its_event_and_nobody_is_told_its_secret() {
    let house = House::new();
    house.server(&["ceo"]).await;
    let guard = Guard::of(&house);
    let expires_at = after(house.clock.now(), Duration::from_secs(3600));
    let new = NewToken {
        name: "ops".to_owned(),
        roles: vec!["operator".to_owned(), "viewer".to_owned(), "viewer".to_owned()],
        scopes: vec!["seat:ceo".to_owned()],
        expires_at: Some(expires_at.to_rfc3339()),
    };
    let (by, _) = accountable("tokens.create", "/tokens");
    let (view, text) = guard.tokens.create(new, &by, None).await.unwrap();
    let TokenView { token, last_used_at } = view;
    assert_eq!((house.tokens().await, last_used_at), (vec![token.clone()], None));
    let grants = Grants { seat: Some(ty("ceo")), ..Grants::of([Role::Operator, Role::Viewer]) };
    assert_eq!((&token.grants, token.created_by.as_str()), (&grants, "token:root"));
    let principal = guard.tokens.principal(&text).await.unwrap();
    let (id, secret, until) = (token.id, text.hash().tag(), Some(expires_at));
    assert_eq!(principal, Some(Principal::Token { id, name: "ops".to_owned(), secret, grants, until }));

    let events = house.events().await;
    let last = events.last().unwrap();
    let Payload::TokenCreated(told) = last.payload() else { panic!("{last:?}") };
    assert_eq!((told.token_id, told.name.as_str(), told.expires_at), (id, "ops", Some(expires_at)));
    assert_eq!((told.roles, told.seat), (vec![Role::Viewer, Role::Operator], Some(ty("ceo"))));
    assert_eq!((&last.actor, last.created_at), (by.actor(), token.created_at));
    let secret = text.expose().split_off("aito_".len() + 32 + 1);
    let everything = format!("{events:?}{:?}{token:?}{text:?}", audited(&house).await);
    assert!(!everything.contains(&secret));

    house.pass(Duration::from_secs(3600) - MOMENT);
    assert!(accepts(&guard, &text).await);
    house.pass(MOMENT);
    assert!(!accepts(&guard, &text).await, "an expiry is exact, whatever is believed");
}

#[tokio::test]
async fn all_faults_of_a_wish_are_named_at_once() {
    let house = House::new();
    house.server(&["ceo", "cmo"]).await;
    let guard = Guard::of(&house);
    let faults = async |new: NewToken| match guard.tokens.create(new, &operator(), None).await {
        Err(Error::Invalid(faults)) => faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let wrong = NewToken {
        name: " ops".to_owned(),
        roles: words(&["viewer", "boss", "admin ", "Admin"]),
        scopes: words(&["seat:ceo", "seat:cmo", "seat:nobody", "read", "seat:", "ceo"]),
        expires_at: Some("yesterday".to_owned()),
    };
    let expected = [
        "/name",
        "/roles/1",
        "/roles/2",
        "/roles/3",
        "/scopes/1",
        "/scopes/2",
        "/scopes/3",
        "/scopes/4",
        "/scopes/5",
        "/expiresAt",
    ];
    assert_eq!(faults(wrong).await, expected);
    let unknown = NewToken { scopes: words(&["seat:cfo"]), ..wish("ops") };
    assert_eq!(faults(unknown).await, ["/scopes/0"], "no agent of the house has that seat");
    let now = NewToken { expires_at: Some(house.clock.now().to_rfc3339()), ..wish("ops") };
    assert_eq!(faults(now).await, ["/expiresAt"]);
    assert_eq!((guard.ledger.commits(), house.tokens().await.len()), (0, 0));

    // A store that does not answer tells nothing of an agent.
    guard.door.shut();
    let seated = NewToken { scopes: words(&["seat:ceo"]), ..wish("ops") };
    unavailable(guard.tokens.create(seated, &operator(), None).await);
}

#[tokio::test]
async fn without_randomness_nothing_is_made_and_nothing_ends() {
    let house = House::new();
    let guard = Guard::of(&house);
    let (token, text) = made(&guard, "ops").await;
    guard.secrets.run_out();
    let failed = guard.tokens.create(wish("more"), &operator(), None).await;
    assert!(matches!(failed, Err(Error::Internal(_))));
    let failed = guard.tokens.rotate(token.id, None, None, &operator()).await;
    assert!(matches!(failed, Err(Error::Internal(_))));
    assert!(accepts(&guard, &text).await);
    assert_eq!(house.tokens().await, [token]);
}

#[tokio::test]
async fn a_name_is_free_again_when_its_token_is_revoked() {
    let house = House::automatic();
    let guard = Guard::of(&house);
    let soon = after(house.clock.now(), Duration::from_secs(60)).to_rfc3339();
    let new = NewToken { expires_at: Some(soon), ..wish("ops") };
    let first = guard.tokens.create(new, &operator(), None).await.unwrap().0.token;
    let why = conflict(guard.tokens.create(wish("ops"), &operator(), None).await);
    assert!(why.contains("\"ops\""), "{why}");
    made(&guard, "Ops").await;

    house.pass(Duration::from_secs(60));
    let commits = guard.ledger.commits();
    let why = conflict(guard.tokens.create(wish("ops"), &operator(), None).await);
    assert!(why.contains("\"ops\"") && why.contains("expired"), "what has expired keeps its name: {why}");
    assert_eq!(guard.ledger.commits(), commits);

    guard.tokens.revoke(first.id, None, &operator()).await.unwrap();
    let again = made(&guard, "ops").await.0;
    assert_ne!(again.id, first.id);
}

#[tokio::test]
async fn of_two_tokens_with_one_name_that_are_made_at_once_one_is() {
    let race = Race::new();
    let Race { house, a, b } = &race;
    let by = operator();
    let results =
        race.run(a.tokens.create(wish("ops"), &by, None), b.tokens.create(wish("ops"), &by, None)).await;
    let (winner, loser) = match results {
        (Ok(winner), loser @ Err(_)) | (loser @ Err(_), Ok(winner)) => (winner, loser),
        other => panic!("{other:?}"),
    };
    assert!(conflict(loser).contains("\"ops\""));
    assert_eq!(house.tokens().await, [winner.0.token]);
    assert_eq!(told(house).await, ["token_created"]);
}

#[tokio::test]
async fn two_tokens_with_two_names_do_not_meet() {
    let race = Race::new();
    let Race { house, a, b } = &race;
    let by = operator();
    let (one, other) =
        race.run(a.tokens.create(wish("one"), &by, None), b.tokens.create(wish("other"), &by, None)).await;
    assert!(accepts(b, &one.unwrap().1).await && accepts(a, &other.unwrap().1).await);
    assert_eq!((a.ledger.commits(), b.ledger.commits(), house.tokens().await.len()), (1, 1, 2));
}

#[tokio::test]
async fn a_change_is_tried_again_a_bounded_number_of_times_and_counts_once() {
    let house = House::automatic();
    let guard = Guard::of(&house);
    guard.ledger.then([Next::Conflict, Next::UnknownLost, Next::UnknownApplied]);
    let (token, text) = made(&guard, "ops").await;
    assert_eq!((guard.ledger.commits(), house.tokens().await), (3, vec![token.clone()]));
    assert!(accepts(&guard, &text).await);

    guard.ledger.then([Next::UnknownLost, Next::UnknownApplied]);
    let (view, text) = guard.tokens.rotate(token.id, None, None, &operator()).await.unwrap();
    assert_eq!(house.tokens().await, [view.token]);
    assert!(accepts(&guard, &text).await);

    guard.ledger.then([Next::Conflict, Next::UnknownApplied]);
    guard.tokens.revoke(token.id, None, &operator()).await.unwrap();
    assert!(!accepts(&guard, &text).await);
    assert_eq!(told(&house).await, ["token_created", "token_rotated", "token_revoked"]);

    let (token, text) = made(&guard, "more").await;
    let before = (house.tokens().await, house.events().await.len());
    guard.ledger.then([Next::Conflict; 100]);
    let commits = guard.ledger.commits();
    for result in [
        guard.tokens.create(wish("again"), &operator(), None).await.map(|_| ()),
        guard.tokens.rotate(token.id, None, None, &operator()).await.map(|_| ()),
        guard.tokens.revoke(token.id, None, &operator()).await.map(|_| ()),
    ] {
        assert!(unavailable(result).contains("nothing was done"));
    }
    assert!((6..100).contains(&(guard.ledger.commits() - commits)), "bounded");
    assert_eq!((house.tokens().await, house.events().await.len()), before);
    assert!(accepts(&guard, &text).await);
}

#[tokio::test]
async fn of_two_rotations_at_once_the_later_one_counts_and_who_saw_the_state_before_is_told() {
    let race = Race::new();
    let Race { house, a, b } = &race;
    let (token, old) = made(a, "ops").await;
    let by = operator();
    let (of_a, of_b) = race
        .run(a.tokens.rotate(token.id, None, None, &by), b.tokens.rotate(token.id, None, None, &by))
        .await;
    let ((of_a, text_a), (of_b, text_b)) = (of_a.unwrap(), of_b.unwrap());
    let (good, bad) =
        if of_a.token.version > of_b.token.version { (text_a, text_b) } else { (text_b, text_a) };
    assert_eq!(of_a.token.version.max(of_b.token.version), house.tokens().await[0].version);
    let fresh = Guard::of(house);
    assert!(accepts(&fresh, &good).await && !accepts(&fresh, &bad).await && !accepts(&fresh, &old).await);

    let seen = Seen::In(vec![house.tokens().await[0].version]);
    let seen = Some(&seen);
    let results = race
        .run(a.tokens.rotate(token.id, None, seen, &by), b.tokens.rotate(token.id, None, seen, &by))
        .await;
    let ((Ok(_), Err(Error::Precondition(_))) | (Err(Error::Precondition(_)), Ok(_))) = results else {
        panic!("{results:?}")
    };
    assert_eq!(house.tokens().await[0].version, Version(4));
}

#[tokio::test]
async fn a_rotation_and_a_revocation_at_once_end_the_token() {
    let race = Race::new();
    let Race { house, a, b } = &race;
    let (token, old) = made(a, "ops").await;
    let by = operator();
    let (rotated, revoked) =
        race.run(a.tokens.rotate(token.id, Some(60), None, &by), b.tokens.revoke(token.id, None, &by)).await;
    revoked.unwrap();
    let new = match rotated {
        Ok((_, new)) => Some(new),
        Err(Error::Conflict(why)) if why.contains("revoked") => None,
        other => panic!("{other:?}"),
    };
    let fresh = Guard::of(house);
    assert!(!accepts(&fresh, &old).await);
    if let Some(new) = new {
        assert!(!accepts(&fresh, &new).await);
    }
    assert!(house.tokens().await[0].revoked_at.is_some());
}

#[tokio::test]
async fn the_secret_before_is_good_for_the_overlap_and_no_longer() {
    let house = House::new();
    let guard = Guard::of(&house);
    let (token, old) = made(&guard, "ops").await;
    let most = i64::try_from(MAX_OVERLAP.as_secs()).unwrap();
    for wrong in [-1, most + 1, i64::MIN, i64::MAX] {
        let refused = guard.tokens.rotate(token.id, Some(wrong), None, &operator()).await;
        let Err(Error::Invalid(faults)) = refused else { panic!("{refused:?}") };
        assert_eq!(faults.iter().map(|fault| fault.pointer.as_str()).collect::<Vec<_>>(), ["/overlap"]);
    }
    let (view, new) = guard.tokens.rotate(token.id, Some(most), None, &operator()).await.unwrap();
    assert_eq!(view.token.version, token.version.next());
    let ends = after(house.clock.now(), MAX_OVERLAP);
    let until = async |text: &TokenText| guard.tokens.principal(text).await.unwrap().unwrap().until();
    assert_eq!((until(&old).await, until(&new).await), (Some(ends), None));
    house.pass(MAX_OVERLAP - MOMENT);
    assert!(accepts(&guard, &old).await);
    house.pass(MOMENT);
    assert!(!accepts(&guard, &old).await && accepts(&guard, &new).await);

    let (_, newest) = guard.tokens.rotate(token.id, None, None, &operator()).await.unwrap();
    assert!(accepts(&guard, &newest).await);
    assert!(!accepts(&guard, &new).await, "without an overlap it ends at once on the server that rotates");
}

#[tokio::test]
async fn what_has_ended_is_not_rotated_and_ends_again_without_a_trace() {
    let house = House::new();
    let guard = Guard::of(&house);
    let by = operator();
    let soon = after(house.clock.now(), Duration::from_secs(1)).to_rfc3339();
    let new = NewToken { expires_at: Some(soon), ..wish("short") };
    let short = guard.tokens.create(new, &by, None).await.unwrap().0.token;
    let long = made(&guard, "long").await.0;
    let seen = Seen::In(vec![long.version]);
    let revoked = guard.tokens.revoke(long.id, Some(&seen), &by).await.unwrap().token;
    assert_eq!(revoked.revoked_at, Some(house.clock.now()));
    house.pass(Duration::from_secs(1));
    let before = (house.tokens().await, guard.ledger.commits());
    assert!(conflict(guard.tokens.rotate(short.id, None, None, &by).await).contains("expired"));
    assert!(conflict(guard.tokens.rotate(long.id, None, None, &by).await).contains("revoked"));
    assert_eq!(guard.tokens.revoke(long.id, None, &by).await.unwrap().token, revoked);
    assert!(matches!(guard.tokens.revoke(long.id, Some(&seen), &by).await, Err(Error::Precondition(_))));
    let nobody = TokenId(Uuid::from_u128(404));
    assert!(matches!(guard.tokens.rotate(nobody, None, None, &by).await, Err(Error::NotFound(_))));
    assert!(matches!(guard.tokens.revoke(nobody, None, &by).await, Err(Error::NotFound(_))));
    assert_eq!((house.tokens().await, guard.ledger.commits()), before);
}

#[tokio::test]
async fn a_repetition_makes_no_second_token_and_names_the_first() {
    let house = House::automatic();
    let (a, b) = (Guard::of(&house), Guard::of(&house));
    let by = operator();
    let once = Once::new("token/7", "POST", "/tokens", "k");
    let (first, text) = a.tokens.create(wish("ops"), &by, Some(&once)).await.unwrap();
    let named = |why: &str| why.contains(&first.token.id.to_string()) && why.contains("secret");
    for guard in [&a, &b] {
        let why = conflict(guard.tokens.create(wish("ops"), &by, Some(&once)).await);
        assert!(named(&why), "{why}");
    }
    let other = conflict(a.tokens.create(wish("other"), &by, Some(&once)).await);
    assert!(other.contains("another body"), "{other}");
    let key = Once::new("token/7", "POST", "/tokens", "k2");
    let taken = conflict(a.tokens.create(wish("ops"), &by, Some(&key)).await);
    assert!(taken.contains("\"ops\""), "under another key it is another call: {taken}");
    a.tokens.revoke(first.token.id, None, &by).await.unwrap();
    let why = conflict(b.tokens.create(wish("ops"), &by, Some(&once)).await);
    assert!(named(&why), "a token that is gone is not made again: {why}");
    assert!(!accepts(&a, &text).await);
    assert_eq!(house.tokens().await.len(), 1);
    assert_eq!(told(&house).await, ["token_created", "token_revoked"]);
}

#[tokio::test]
async fn of_one_call_that_comes_twice_at_once_one_makes_a_token() {
    let race = Race::new();
    let Race { house, a, b } = &race;
    let (by, once) = (operator(), Once::new("token/7", "POST", "/tokens", "k"));
    let (of_a, of_b) = race
        .run(a.tokens.create(wish("ops"), &by, Some(&once)), b.tokens.create(wish("ops"), &by, Some(&once)))
        .await;
    let (made, refused) = match (of_a, of_b) {
        (Ok(made), refused @ Err(_)) | (refused @ Err(_), Ok(made)) => (made, refused),
        other => panic!("{other:?}"),
    };
    assert!(conflict(refused).contains(&made.0.token.id.to_string()));
    assert_eq!(house.tokens().await, [made.0.token]);
}

#[tokio::test]
async fn whatever_the_ledger_does_a_call_with_a_key_makes_at_most_one_token() {
    for seed in 0..12 {
        println!("seed {seed}");
        let house = House::automatic();
        let rates = Rates { conflict: 0.1, ..Rates::ROUGH };
        let faulty = Arc::new(FaultyLedger::new(house.store.clone(), seed, rates));
        let guard = Guard::behind(&house, faulty, None);
        let mut shown = 0;
        for name in ["one", "two", "three", "four", "five"] {
            let once = Once::new("token/7", "POST", "/tokens", name);
            for _ in 0..3 {
                match guard.tokens.create(wish(name), &operator(), Some(&once)).await {
                    Ok((view, text)) => {
                        assert!(accepts(&guard, &text).await, "seed {seed}");
                        assert_eq!(view.token.name, name);
                        shown += 1;
                    }
                    Err(Error::Conflict(_) | Error::Unavailable { .. }) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        let tokens = house.tokens().await;
        let names: BTreeSet<_> = tokens.iter().map(|token| &token.name).collect();
        assert_eq!(names.len(), tokens.len(), "seed {seed}");
        assert_eq!(told(&house).await.len(), tokens.len(), "seed {seed}: each is told once");
        assert!(shown >= 2, "seed {seed}: most calls succeed");
    }
}

#[tokio::test]
async fn who_lost_every_token_recovers_under_a_name_of_its_own() {
    let house = House::automatic();
    let guard = Guard::of(&house);
    made(&guard, "recovered-2").await;
    let mut names = Vec::new();
    for faults in [vec![], vec![Next::UnknownLost, Next::Conflict], vec![Next::UnknownApplied]] {
        guard.ledger.then(faults);
        let kept = Mutex::new(Vec::new());
        let keep = |text: &TokenText| {
            kept.lock().unwrap().push(text.clone());
            Ok(())
        };
        let (token, text) = guard.tokens.recover(keep).await.unwrap();
        assert_eq!(kept.into_inner().unwrap(), std::slice::from_ref(&text), "once");
        assert_eq!(token.grants, Grants::of([Role::Admin, Role::Operator, Role::Human]));
        assert!(accepts(&guard, &text).await);
        names.push(token.name);
    }
    assert_eq!(names, ["recovered-1", "recovered-3", "recovered-4"]);
    let failed = guard.tokens.recover(|_| Err("no room".to_owned())).await;
    assert!(matches!(failed, Err(Error::Internal(_))));
    assert_eq!(house.tokens().await.len(), 4);
    let actors: Vec<_> = house.events().await.into_iter().map(|event| event.actor).collect();
    assert_eq!(actors.iter().filter(|actor| **actor == Actor::System).count(), 3);
}

#[tokio::test]
async fn two_that_recover_at_once_get_two_tokens() {
    let race = Race::new();
    let Race { house, a, b } = &race;
    let keep = |_: &TokenText| Ok(());
    let (of_a, of_b) = race.run(a.tokens.recover(keep), b.tokens.recover(keep)).await;
    let (of_a, of_b) = (of_a.unwrap(), of_b.unwrap());
    let mut names = [of_a.0.name, of_b.0.name];
    names.sort();
    assert_eq!(names, ["recovered-1", "recovered-2"]);
    assert!(accepts(a, &of_b.1).await && accepts(b, &of_a.1).await);
    assert_eq!(house.tokens().await.len(), 2);
}

#[tokio::test]
async fn an_author_without_an_attempt_leaves_no_audit_entry() {
    let house = House::new();
    let guard = Guard::of(&house);
    guard.tokens.create(wish("ops"), &By::system(), None).await.unwrap();
    assert_eq!(audited(&house).await, []);
}
