//! The rules of `TokenStore`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aito_domain::{
    access::{Grants, Role},
    id::{TokenId, Version},
    ports::{clock::Clock as _, ledger::Commit, token_store::TokenStore},
    time::{Timestamp, after, millis},
    token::{Retiring, SecretHash, Token},
};
use futures_util::future::join_all;
use uuid::Uuid;

use super::{Handles, Maker, StoreFixture, change_token, must, within};

/// Rule 1.
pub async fn token_store_01_what_returned_is_seen_by_every_handle<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let mut token = make.token("ops");
    for version in 1..=20_u64 {
        let writes = if version % 2 == 0 { &handles } else { &other };
        token.rotated_at = Some(after(token.created_at, Duration::from_millis(version)));
        must(&writes.ledger, &make.changing_token(&token)).await;
        token.version = Version(version);
        for store in [&other.tokens, &handles.tokens] {
            assert_eq!(store.by_id(token.id).await.unwrap().as_ref(), Some(&token));
            assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&token));
        }
    }
}

/// Rule 2.
pub async fn token_store_02_what_is_read_is_what_was_committed<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let far = millis(253_402_300_799_999);
    let hashes = [SecretHash([0; 32]), SecretHash([0xff; 32]), SecretHash(std::array::from_fn(|n| n as u8))];
    let makers = ["system", "token:ops laptop", "agent:ceo", "", "日本 🦀 \"'); --"];
    let mut token = make.token("first");
    for n in 0..64_usize {
        token.name = format!("name {n}.of-a_token");
        token.grants = Grants {
            // Every set of roles in turn.
            roles: Role::ALL
                .into_iter()
                .enumerate()
                .filter(|(at, _)| n & (1 << at) != 0)
                .map(|(_, r)| r)
                .collect(),
            seat: [None, Some("ceo".parse().unwrap()), Some("risk-officer-2".parse().unwrap())][n % 3]
                .clone(),
        };
        token.hash = hashes[n % 3].clone();
        token.retiring = [
            None,
            Some(Retiring { hash: hashes[(n + 1) % 3].clone(), until: millis(1_766_224_800_123) }),
            Some(Retiring { hash: hashes[(n + 2) % 3].clone(), until: far }),
        ][(n / 3) % 3]
            .clone();
        token.created_by = makers[n % 5].to_owned();
        token.created_at = [millis(0), millis(1_766_224_800_123)][n % 2];
        token.rotated_at = [None, Some(millis(1_766_224_800_999)), Some(millis(-5))][n % 3];
        token.expires_at = [Some(far), None, None, Some(millis(1))][n % 4];
        token.revoked_at = [None, None, None, None, Some(millis(7))][n % 5];
        must(&handles.ledger, &make.changing_token(&token)).await;
        token.version = token.version.next();
        assert_eq!(handles.tokens.by_id(token.id).await.unwrap().as_ref(), Some(&token));
        assert_eq!(handles.tokens.list().await.unwrap(), std::slice::from_ref(&token));
    }
}

/// Rule 3.
pub async fn token_store_03_list_is_ordered_with_the_revoked_and_absence_is_none<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.tokens.list().await.unwrap(), []);
    assert_eq!(handles.tokens.by_id(TokenId(make.uuid())).await.unwrap(), None);
    let mut expected = Vec::new();
    for n in 0..12_u128 {
        let token = Token {
            // Ids do not follow the order of writing.
            id: TokenId(Uuid::from_u128(((n * 7 + 3) % 12) << 120 | 1)),
            revoked_at: (n % 3 == 0).then(|| make.clock().now()),
            ..make.token(&format!("token {}", 12 - n))
        };
        must(&handles.ledger, &make.changing_token(&token)).await;
        expected.push(Token { version: Version(1), ..token });
    }
    expected.sort_by_key(|token| token.id);
    assert_eq!(handles.tokens.list().await.unwrap(), expected);
    for token in &expected {
        assert_eq!(handles.tokens.by_id(token.id).await.unwrap().as_ref(), Some(token));
    }
    assert_eq!(handles.tokens.by_id(TokenId(make.uuid())).await.unwrap(), None);
}

/// Rule 4.
pub async fn token_store_04_used_keeps_the_latest_time<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let at = |ms: i64| millis(1_766_224_800_000 + ms);
    let token = make.stored_token(&handles, "ops").await;
    let unknown = TokenId(make.uuid());
    let mut stands = at(500);
    used(&handles.tokens, &[]).await;
    assert_eq!(last_uses(&handles).await, []);
    used(&handles.tokens, &[(token.id, stands), (unknown, at(-7))]).await;
    for (next, is_newer) in [(499, false), (500, false), (501, true), (0, false), (900, true), (899, false)] {
        used(&other.tokens, &[(token.id, at(next))]).await;
        if is_newer {
            stands = at(next);
        }
        assert_eq!(last_uses(&handles).await, sorted(vec![(token.id, stands), (unknown, at(-7))]));
    }
    // Two servers at the same time: the latest stands, whoever comes last; who writes of several tokens keeps nobody.
    let racing = (0..40_i64).map(|n| {
        let store = Arc::clone(if n % 2 == 0 { &handles.tokens } else { &other.tokens });
        let mut uses = vec![(token.id, at(1000 + n * 13 % 40)), (unknown, at(1000 + n * 7 % 40))];
        if n % 3 == 0 {
            uses.reverse();
        }
        tokio::spawn(async move { used(&store, &uses).await })
    });
    for racer in within(join_all(racing.collect::<Vec<_>>())).await {
        racer.unwrap();
    }
    let expected = sorted(vec![(token.id, at(1039)), (unknown, at(1039))]);
    assert_eq!(last_uses(&handles).await, expected);
    assert_eq!(last_uses(&other).await, expected);
    assert_eq!(handles.tokens.by_id(token.id).await.unwrap(), Some(token), "a use is no change of the token");
}

/// Rule 5.
pub async fn token_store_05_last_uses_gives_everyone_that_was_used<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    assert_eq!(last_uses(&fixture.handles()).await, []);
    let tokens: Vec<_> = (0..12).map(|n| make.token(&format!("token {n}"))).collect();
    let issued = Commit { changes: tokens.iter().map(change_token).collect(), ..make.commit() };
    must(&fixture.handles().ledger, &issued).await;
    let mut uses = Vec::new();
    for (n, token) in tokens.iter().enumerate().skip(1) {
        uses.push((token.id, millis(1000 + n as i64)));
        // Some come alone, some with others that were used before.
        used(&fixture.handles().tokens, &uses[n / 2..]).await;
    }
    let expected = sorted(uses);
    let known: BTreeSet<_> = expected.iter().map(|(id, _)| *id).collect();
    assert!(!known.contains(&tokens[0].id), "one that was never used is not told of");
    assert_eq!(last_uses(&fixture.handles()).await, expected);
    fixture.reopen().await;
    assert_eq!(last_uses(&fixture.handles()).await, expected);
    assert_eq!(last_uses(&fixture.second_handle().await).await, expected);
}

/// Notes uses; the other handle may have the lock for some time, and the same again changes nothing.
async fn used(store: &Arc<dyn TokenStore>, uses: &[(TokenId, Timestamp)]) {
    within(async {
        while store.used(uses).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn last_uses(handles: &Handles) -> Vec<(TokenId, Timestamp)> {
    sorted(handles.tokens.last_uses().await.unwrap())
}

fn sorted(mut uses: Vec<(TokenId, Timestamp)>) -> Vec<(TokenId, Timestamp)> {
    uses.sort();
    uses
}
