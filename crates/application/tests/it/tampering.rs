//! What is done to an audit behind the server's back, in its very file, and that a verification finds it.

use std::sync::Arc;

use aito_application::{
    audit::{AuditService, Broken, Verified, verify},
    writer::Writer,
};
use aito_contracts::clock::{ManualClock, SeqIds};
use aito_domain::{
    audit::{AuditEntry, AuditKey, Checkpoint, Head, Outcome, Seal, Sealed},
    id::CommitId,
    installation::InstallationKey,
    ports::{
        audit_store::AuditStore as _,
        ledger::{Commit, Ledger as _},
    },
    time::millis,
};
use aito_embedded::sqlite::SqliteStore;
use uuid::Uuid;

use super::{
    doors::{Sink, attempt, key, public},
    forge::{Closed, open},
};

/// Six sealed entries in a file that nobody has open.
struct Chain {
    file: Closed,
    sealed: Vec<Sealed>,
}

impl Chain {
    async fn new() -> Self {
        Self::forgetting(0).await
    }

    /// The first so many are forgotten.
    async fn forgetting(forgotten: usize) -> Self {
        let entries: Vec<_> = (1..=6).map(entry).collect();
        Self::sealed(|store, clock| async move {
            commit(&store, entries).await;
            seal(&store, &clock).await;
            if forgotten > 0 {
                let sealed = store.sealed(0, 10).await.unwrap().remove(forgotten - 1);
                let head = Head { n: sealed.n, seal: sealed.seal };
                store.prune(&AuditKey::new(&key()).sign_start(head, millis(7))).await.unwrap();
            }
        })
        .await
    }

    /// Made by hand of these entries with these seals.
    async fn of(links: Vec<(AuditEntry, Seal)>) -> Self {
        Self::sealed(|store, _| async move {
            commit(&store, links.iter().map(|(entry, _)| entry.clone()).collect()).await;
            let sealed: Vec<_> =
                (1..).zip(links).map(|(n, (entry, seal))| Sealed { n, seal, entry }).collect();
            store.seal(Head::NONE, &sealed).await.unwrap();
        })
        .await
    }

    async fn sealed<F: Future<Output = ()>>(
        make: impl FnOnce(Arc<SqliteStore>, Arc<ManualClock>) -> F,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = open(&path);
        make(store.clone(), Arc::new(ManualClock::new())).await;
        let sealed = store.sealed(0, 10).await.unwrap();
        drop(store);
        Self { file: Closed::of(&path).await, sealed }
    }

    /// The seal of the entry with a number.
    fn seal(&self, n: u64) -> Seal {
        self.sealed.iter().find(|sealed| sealed.n == n).unwrap().seal
    }

    /// The head at a number, as it was signed and exported then.
    fn exported(&self, n: u64) -> Checkpoint {
        AuditKey::new(&key()).sign(Head { n, seal: self.seal(n) }, millis(5))
    }

    fn links(&self) -> Vec<(AuditEntry, Seal)> {
        self.sealed.iter().map(|sealed| (sealed.entry.clone(), sealed.seal)).collect()
    }
}

/// The n-th entry, with an object by which its place in the file is found.
fn entry(n: u128) -> AuditEntry {
    let attempt = attempt("token:ops", "agents.start", &format!("/agents/genuine-{n}/start"));
    attempt.entry(Uuid::from_u128(n), millis(1000), Outcome::Done, String::new(), 1)
}

async fn commit(store: &SqliteStore, entries: Vec<AuditEntry>) {
    let commit = Commit { audit: entries, ..Commit::new(CommitId(Uuid::from_u128(1))) };
    store.commit(&commit).await.unwrap();
}

/// As a server does.
async fn seal(store: &Arc<SqliteStore>, clock: &Arc<ManualClock>) {
    let ids = Arc::new(SeqIds::new(clock.clone(), 1));
    let writer = Writer::new(store.clone(), store.clone(), clock.clone(), ids, Arc::default());
    let sink = Arc::new(Sink::default());
    let audit = AuditService::new(store.clone(), Arc::new(writer), AuditKey::new(&key()), sink, None);
    assert_eq!(audit.seal().await.unwrap().n, 6);
}

/// What a verification says of a file, in words if it is broken.
async fn judged(file: &Closed, exported: &[Checkpoint]) -> Result<Verified, String> {
    let (store, _dir) = file.reopened();
    verify(&*store, &public(), exported).await.map_err(|why| why.to_string())
}

/// What is said of a chain that is broken.
async fn found(file: &Closed) -> String {
    match judged(file, &[]).await {
        Err(why) => why,
        Ok(verified) => panic!("nothing was found: {verified:?}"),
    }
}

#[tokio::test]
async fn a_chain_that_nobody_touched_is_whole() {
    let chain = Chain::new().await;
    let head = Head { n: 6, seal: chain.seal(6) };
    let exported: Vec<_> = [1, 4, 6].map(|n| chain.exported(n)).into();
    let expected = Verified { entries: 6, after: 0, head, exported: 3, unsealed: 0 };
    assert_eq!(judged(&chain.file, &exported).await.unwrap(), expected);
    let links = Chain::of(chain.links()).await;
    assert_eq!(judged(&links.file, &exported).await.unwrap(), expected, "made by hand it is the same chain");
}

#[tokio::test]
async fn a_field_that_was_changed_shows() {
    let chain = Chain::new().await;
    for n in [1, 3, 6] {
        let [old, new] = ["genuine", "altered"].map(|word| format!("/agents/{word}-{n}/start"));
        let file = chain.file.clone().with(old.as_bytes(), new.as_bytes());
        assert_eq!(found(&file).await, format!("entry {n} was changed, or one before it"));
    }
    // Two entries in each other's place.
    let [third, fifth] = [3, 5].map(|n| format!("/agents/genuine-{n}/start"));
    let between = "/agents/between-0/start";
    let file = chain.file.clone().with(third.as_bytes(), between.as_bytes());
    let file = file.with(fifth.as_bytes(), third.as_bytes()).with(between.as_bytes(), fifth.as_bytes());
    assert_eq!(found(&file).await, "entry 3 was changed, or one before it");
    // The seal itself.
    let file = chain.file.clone().with(&chain.seal(2).0, &[7; 32]);
    assert_eq!(found(&file).await, "entry 2 was changed, or one before it");
}

#[tokio::test]
async fn a_row_that_was_removed_shows() {
    let chain = Chain::new().await;
    for n in 1..6 {
        let file = chain.file.clone().without_row(n - 1);
        assert_eq!(found(&file).await, format!("entry {n} is missing: {} follows", n + 1));
    }
    // With the numbers and the head moved up as well.
    let mut links = chain.links();
    links.remove(3);
    let closed_up = Chain::of(links).await;
    assert_eq!(found(&closed_up.file).await, "entry 4 was changed, or one before it");
}

#[tokio::test]
async fn a_row_that_was_put_in_shows() {
    let chain = Chain::new().await;
    let fitting = Head { n: 3, seal: chain.seal(3) }.then(&entry(99));
    for (place, seal, changed) in
        [(0, Seal([7; 32]), 1), (3, Seal([7; 32]), 4), (3, fitting.seal, 5), (6, Seal([7; 32]), 7)]
    {
        let mut links = chain.links();
        links.insert(place, (entry(99), seal));
        let forged = Chain::of(links).await;
        assert_eq!(found(&forged.file).await, format!("entry {changed} was changed, or one before it"));
    }
}

#[tokio::test]
async fn a_tail_that_was_cut_off_shows() {
    let chain = Chain::new().await;
    let cut = chain.file.clone().without_row(5);
    assert_eq!(found(&cut).await, "the chain ends at 5, and its head says 6");
    let mut all = chain.file.clone();
    for _ in 0..6 {
        all = all.without_row(0);
    }
    assert_eq!(found(&all).await, "the chain ends at 0, and its head says 6");

    // With the head cut as well, only a head that was exported knows of it.
    let fitting = cut.with_head(&chain.seal(6).0, 5, &chain.seal(5).0);
    assert_eq!(judged(&fitting, &[chain.exported(5)]).await.unwrap().entries, 5);
    let cut = "the chain ends at 5, and its head says 6";
    assert_eq!(judged(&fitting, &[chain.exported(6)]).await, Err(cut.to_owned()));
    let nothing = all.with_head(&chain.seal(6).0, 0, &[0; 32]);
    assert_eq!(judged(&nothing, &[]).await.unwrap().entries, 0);
    let cut = "the chain ends at 0, and its head says 2";
    assert_eq!(judged(&nothing, &[chain.exported(2)]).await, Err(cut.to_owned()));
}

#[tokio::test]
async fn a_head_that_was_changed_shows() {
    let chain = Chain::new().await;
    let last = chain.seal(6).0;
    for (n, seal, expected) in [
        (6, [7; 32], "entry 6 was changed, or one before it"),
        (9, last, "the chain ends at 6, and its head says 9"),
        (3, [7; 32], "entry 3 was changed, or one before it"),
        (3, chain.seal(3).0, "the chain ends at 6, and its head says 3"),
        (0, [0; 32], "the chain ends at 6, and its head says 0"),
    ] {
        let file = chain.file.clone().with_head(&last, n, &seal);
        assert_eq!(found(&file).await, expected, "{n}");
    }
}

#[tokio::test]
async fn a_chain_that_was_made_anew_contradicts_the_heads_that_were_exported() {
    let chain = Chain::new().await;
    let mut head = Head::NONE;
    let mut links = Vec::new();
    for (n, sealed) in (1..).zip(&chain.sealed) {
        let entry = if n == 3 { entry(99) } else { sealed.entry.clone() };
        head = head.then(&entry);
        links.push((entry, head.seal));
    }
    let anew = Chain::of(links).await;
    assert_eq!(judged(&anew.file, &[]).await.unwrap().entries, 6, "by itself it is a chain");
    let agreed = judged(&anew.file, &[chain.exported(1), chain.exported(2)]).await.unwrap();
    assert_eq!(agreed.exported, 2, "so far it is the same");
    for n in 3..=6 {
        let why = format!("the head {n} that was exported is not the chain's: the chain was made anew");
        assert_eq!(judged(&anew.file, &[chain.exported(1), chain.exported(n)]).await, Err(why));
    }
    // A head that somebody else signed says nothing of the chain, and is found out.
    let other = AuditKey::new(&InstallationKey::new([2; 32]));
    let forged = other.sign(Head { n: 4, seal: anew.seal(4) }, millis(5));
    let why = "the signature of the head 4 is not this installation's";
    assert_eq!(judged(&anew.file, &[forged]).await, Err(why.to_owned()));
    let moved = Checkpoint { head: Head { n: 4, seal: anew.seal(4) }, ..chain.exported(4) };
    assert_eq!(judged(&anew.file, &[moved]).await, Err(why.to_owned()));
}

#[tokio::test]
async fn a_chain_without_its_beginning_needs_a_checkpoint_that_the_installation_signed() {
    let whole = Chain::new().await;
    let chain = Chain::forgetting(2).await;
    let exported: Vec<_> = [1, 2, 5].map(|n| whole.exported(n)).into();
    let found = judged(&chain.file, &exported).await.unwrap();
    assert_eq!((found.entries, found.after, found.head.seal), (4, 2, whole.seal(6)));

    let signed = AuditKey::new(&key()).sign_start(Head { n: 2, seal: whole.seal(2) }, millis(7)).signature;
    let forged = "the signature of the head 2 is not this installation's".to_owned();
    let mut signature = signed;
    signature[40] ^= 1;
    let file = chain.file.clone().with(&signed, &signature);
    assert_eq!(judged(&file, &[]).await, Err(forged.clone()));
    let file = chain.file.clone().with(&whole.seal(2).0, &[7; 32]);
    assert_eq!(judged(&file, &[]).await, Err(forged), "what is signed was changed");
    let file = chain.file.clone().without_row(0);
    assert_eq!(judged(&file, &[]).await, Err("entry 3 is missing: 4 follows".to_owned()));
    let mut gone = chain.file.clone();
    for _ in 0..4 {
        gone = gone.without_row(0);
    }
    let cut = "the chain ends at 2, and its head says 6".to_owned();
    assert_eq!(judged(&gone, &[]).await, Err(cut));
    let reset = gone.with_head(&whole.seal(6).0, 0, &[0; 32]);
    let cut = "the chain ends at 2, and its head says 0".to_owned();
    assert_eq!(judged(&reset, &[]).await, Err(cut));

    // A checkpoint of another head than was exported at that number.
    let other = AuditKey::new(&key()).sign(Head { n: 2, seal: Seal([7; 32]) }, millis(5));
    let why = "the head 2 that was exported is not the chain's: the chain was made anew".to_owned();
    assert_eq!(judged(&chain.file, &[other]).await, Err(why));

    // Somebody else's checkpoint, with which they would forget what they like.
    let (store, _dir) = whole.file.reopened();
    let theirs = AuditKey::new(&InstallationKey::new([2; 32]));
    store.prune(&theirs.sign_start(Head { n: 3, seal: whole.seal(3) }, millis(7))).await.unwrap();
    assert!(matches!(verify(&*store, &public(), &[]).await, Err(Broken::Forged(3))));
    // A head that was exported is no leave to forget what is before it.
    store.prune(&whole.exported(4)).await.unwrap();
    assert!(matches!(verify(&*store, &public(), &[]).await, Err(Broken::Forged(4))));
}
