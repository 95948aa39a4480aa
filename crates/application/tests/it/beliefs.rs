//! What a server believes of tokens: for half a second and no longer, and nothing when the store is away; and when
//! they were last used.

use std::time::Duration;

use aito_application::{Error, tokens::BELIEVED};
use aito_contracts::wait;
use aito_domain::{
    id::TokenId,
    ports::{clock::Clock as _, token_store::TokenStore as _},
    token::TokenText,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    doors::Guard,
    support::{House, SOON, operator},
    tokens::{MOMENT, accepts, made, unavailable},
};

#[tokio::test]
async fn what_another_server_revokes_is_refused_once_the_belief_has_passed() {
    let house = House::new();
    let (a, b) = (Guard::of(&house), Guard::of(&house));
    let (token, text) = made(&b, "ops").await;
    assert!(!a.tokens.is_known(token.id));
    assert!(accepts(&a, &text).await && a.tokens.is_known(token.id));
    assert!(accepts(&b, &text).await);
    b.tokens.revoke(token.id, None, &operator()).await.unwrap();
    assert!(!b.tokens.is_known(token.id) && !accepts(&b, &text).await, "at once where it was done");

    // A use does not make the belief any longer.
    let reads = a.door.reads();
    let mut left = BELIEVED;
    for part in [100, 250, 149] {
        let part = Duration::from_millis(part);
        house.pass(part);
        left -= part;
        assert!(accepts(&a, &text).await && a.tokens.is_known(token.id), "{left:?} before its end");
    }
    assert_eq!((left, a.door.reads()), (MOMENT, reads), "the store is not asked meanwhile");
    house.pass(MOMENT);
    assert_eq!(a.tokens.holder(token.id, text.hash().tag()).await.unwrap(), None);
    assert!(!accepts(&a, &text).await);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_makes_no_belief_longer() {
    let house = House::new();
    let (a, b) = (Guard::of(&house), Guard::of(&house));
    let (token, text) = made(&b, "ops").await;
    assert!(accepts(&a, &text).await);
    b.tokens.revoke(token.id, None, &operator()).await.unwrap();
    house.set_back(Duration::from_secs(24 * 3600));
    assert!(accepts(&a, &text).await, "it is still believed");
    house.pass(BELIEVED);
    assert!(!accepts(&a, &text).await);
}

#[tokio::test]
async fn a_belief_begins_when_the_reading_does() {
    let house = House::new();
    let (a, b) = (Guard::of(&house), Guard::of(&house));
    let (token, text) = made(&b, "ops").await;
    let slow = a.door.hold_next();
    let asking = tokio::spawn({
        let (tokens, text) = (a.tokens.clone(), text.clone());
        async move { tokens.principal(&text).await.unwrap().is_some() }
    });
    slow.reached.await.unwrap();
    b.tokens.revoke(token.id, None, &operator()).await.unwrap();
    house.pass(BELIEVED - MOMENT);
    drop(slow.open);
    assert!(asking.await.unwrap(), "it was good when it was read");
    house.pass(MOMENT);
    assert!(!accepts(&a, &text).await, "it arrived a moment ago, and was read half a second ago");
}

#[tokio::test]
async fn a_slow_reading_of_the_state_before_does_not_replace_the_state_after() {
    let house = House::new();
    let (a, b) = (Guard::of(&house), Guard::of(&house));
    let (token, text) = made(&b, "ops").await;
    let slow = a.door.hold_next();
    let asking = tokio::spawn({
        let (tokens, text) = (a.tokens.clone(), text.clone());
        async move { tokens.principal(&text).await.unwrap().is_some() }
    });
    slow.reached.await.unwrap();
    b.tokens.revoke(token.id, None, &operator()).await.unwrap();
    assert!(!accepts(&a, &text).await, "who asks now is told what is stored now");
    drop(slow.open);
    asking.await.unwrap();
    assert!(!accepts(&a, &text).await, "who asked before changes nothing of it");
}

#[tokio::test]
async fn a_store_that_does_not_answer_refuses_nobody_and_prolongs_no_belief() {
    let house = House::new();
    let guard = Guard::of(&house);
    let (token, text) = made(&guard, "ops").await;
    let (unseen, unseen_text) = made(&guard, "unseen").await;
    let wrong = TokenText::new(token.id, [9; 32]);
    assert!(accepts(&guard, &text).await);
    guard.door.shut();
    assert!(unavailable(guard.tokens.principal(&unseen_text).await).contains("database"));
    unavailable(guard.tokens.holder(unseen.id, unseen_text.hash().tag()).await);
    house.pass(BELIEVED - MOMENT);
    assert!(accepts(&guard, &text).await && !accepts(&guard, &wrong).await, "these are known");
    house.pass(MOMENT);
    for text in [&text, &wrong] {
        unavailable(guard.tokens.principal(text).await);
    }
    unavailable(guard.tokens.holder(token.id, text.hash().tag()).await);
    unavailable(guard.tokens.list(None, 10).await);
    guard.door.open();
    assert!(accepts(&guard, &text).await && accepts(&guard, &unseen_text).await);
    let nobody = TokenText::new(TokenId(Uuid::from_u128(404)), [9; 32]);
    assert!(!accepts(&guard, &nobody).await);
    house.pass(BELIEVED);
    guard.door.damage();
    assert!(matches!(guard.tokens.principal(&text).await, Err(Error::Internal(_))), "nor is it refused");
}

#[tokio::test]
async fn a_token_that_was_looked_for_in_vain_counts_as_soon_as_it_is_made() {
    let house = House::new();
    let (a, b) = (Guard::of(&house), Guard::of(&house));
    let id = TokenId(Uuid::from_u128(5));
    assert_eq!(a.tokens.holder(id, TokenText::new(id, [9; 32]).hash().tag()).await.unwrap(), None);
    assert!(!a.tokens.is_known(id), "what is not there is not believed for any time");
    let (_, text) = made(&b, "ops").await;
    assert!(accepts(&a, &text).await);
}

#[tokio::test]
async fn when_tokens_were_used_is_stored_within_seconds_and_kept_when_it_cannot_be() {
    let house = House::new();
    let guard = Guard::of(&house);
    let (used, text) = made(&guard, "ops").await;
    let idle = made(&guard, "idle").await.0;
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (tokens, stop) = (guard.tokens.clone(), stop.clone());
        async move { tokens.run(stop).await }
    });
    let flush = async || {
        house.until_asleep().await;
        let reads = guard.door.reads();
        house.clock.advance(Duration::from_secs(5)).await;
        wait::until("the uses to be stored", SOON, async || (guard.door.reads() > reads).then_some(())).await;
        house.until_asleep().await;
    };
    let stored = async || house.store.last_uses().await.unwrap();

    assert!(accepts(&guard, &text).await);
    house.pass(MOMENT);
    assert!(accepts(&guard, &text).await);
    let at = house.clock.now();
    house.pass(MOMENT);
    assert!(!accepts(&guard, &TokenText::new(idle.id, [9; 32])).await, "who does not know it uses nothing");
    flush().await;
    assert_eq!(stored().await, [(used.id, at)], "the last one");

    assert!(accepts(&guard, &text).await);
    guard.door.shut();
    flush().await;
    assert_eq!(stored().await, [(used.id, at)]);
    guard.door.open();
    assert!(accepts(&guard, &text).await);
    let later = house.clock.now();
    guard.door.shut();
    flush().await;
    guard.door.open();
    flush().await;
    assert_eq!(stored().await, [(used.id, later)], "what was kept does not replace what came after");

    assert!(accepts(&guard, &text).await);
    let last = house.clock.now();
    let uses: Vec<_> = guard.tokens.list(None, 10).await.unwrap();
    let uses: Vec<_> = uses.into_iter().map(|view| (view.token.id, view.last_used_at)).collect();
    assert_eq!(uses, [(used.id, Some(last)), (idle.id, None)], "here it is known before it is stored");
    let page = Guard::of(&house).tokens.list(Some(used.id), 1).await.unwrap();
    assert_eq!(page.into_iter().map(|view| view.token.id).collect::<Vec<_>>(), [idle.id]);
    let elsewhere = Guard::of(&house).tokens.list(None, 1).await.unwrap();
    assert_eq!(elsewhere[0].last_used_at, Some(later));
    stop.cancel();
    running.await.unwrap();
    assert_eq!(stored().await, [(used.id, last)], "a stop stores what there is");
}
