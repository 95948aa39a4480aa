//! A ledger that fails by seed, and a caller that copes with it as the contract says.
//!
//! Invariants: what [`FaultyLedger`] answers is always true (`Unavailable` was not applied, `Unknown` may have
//! been, sometimes later), so a suite that fails behind it fails by itself; [`SettlingLedger`] turns those
//! answers back into plain ones and never applies a commit twice.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aito_domain::{
    id::CommitId,
    ports::ledger::{Commit, CommitError, Ledger, Settled},
};
use async_trait::async_trait;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use uuid::Uuid;

/// How often which fault happens: chances between 0 and 1, of which at most one strikes a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// A commit is refused before it is tried.
    pub unavailable: f64,
    /// A commit is applied and its answer is lost.
    pub applied_unknown: f64,
    /// A commit is lost and so is its answer.
    pub lost_unknown: f64,
    /// The answer is lost while the commit is on its way: it is tried later, while others go on.
    pub late_unknown: f64,
    /// A commit is refused as if somebody else had been first.
    pub conflict: f64,
    /// A question what became of a commit is not answered.
    pub settle_unavailable: f64,
}

impl Rates {
    /// No faults.
    pub const NONE: Self = Self {
        unavailable: 0.0,
        applied_unknown: 0.0,
        lost_unknown: 0.0,
        late_unknown: 0.0,
        conflict: 0.0,
        settle_unavailable: 0.0,
    };

    /// Every fault but false conflicts, about one call in three.
    pub const ROUGH: Self = Self {
        unavailable: 0.1,
        applied_unknown: 0.1,
        lost_unknown: 0.1,
        late_unknown: 0.1,
        conflict: 0.0,
        settle_unavailable: 0.2,
    };
}

/// A ledger in front of another one that fails by seed.
pub struct FaultyLedger {
    inner: Arc<dyn Ledger>,
    random: Mutex<StdRng>,
    rates: Rates,
}

#[derive(Clone, Copy)]
enum Fault {
    None,
    Unavailable,
    AppliedUnknown,
    LostUnknown,
    LateUnknown { yields: u32 },
    Conflict,
}

impl FaultyLedger {
    /// Puts faults in front of `inner`. The same seed gives the same faults to the same sequence of calls.
    #[must_use]
    pub fn new(inner: Arc<dyn Ledger>, seed: u64, rates: Rates) -> Self {
        Self { inner, random: Mutex::new(StdRng::seed_from_u64(seed)), rates }
    }

    fn draw(&self) -> Fault {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dice: f64 = random.random();
        let yields = random.random_range(0..50);
        let mut strikes = |chance: f64| {
            let struck = dice < chance;
            dice -= chance;
            struck
        };
        if strikes(self.rates.unavailable) {
            Fault::Unavailable
        } else if strikes(self.rates.applied_unknown) {
            Fault::AppliedUnknown
        } else if strikes(self.rates.lost_unknown) {
            Fault::LostUnknown
        } else if strikes(self.rates.late_unknown) {
            Fault::LateUnknown { yields }
        } else if strikes(self.rates.conflict) {
            Fault::Conflict
        } else {
            Fault::None
        }
    }
}

#[async_trait]
impl Ledger for FaultyLedger {
    async fn commit(&self, commit: &Commit) -> Result<Option<Value>, CommitError> {
        match self.draw() {
            Fault::None => self.inner.commit(commit).await,
            Fault::Unavailable => Err(CommitError::Unavailable("injected: not tried".into())),
            Fault::LostUnknown => Err(CommitError::Unknown("injected: lost".into())),
            Fault::Conflict => Err(CommitError::Conflict("injected: somebody".to_owned())),
            // Only success is hidden: whoever is told `Unknown` instead of a refusal would learn less than a
            // store that lost its answer tells when asked again.
            Fault::AppliedUnknown => match self.inner.commit(commit).await {
                Ok(_) => Err(CommitError::Unknown("injected: applied".into())),
                refused => refused,
            },
            Fault::LateUnknown { yields } => {
                let (inner, commit) = (Arc::clone(&self.inner), commit.clone());
                tokio::spawn(async move {
                    for _ in 0..yields {
                        tokio::task::yield_now().await;
                    }
                    // Nobody is there to be told.
                    let _ = inner.commit(&commit).await;
                });
                Err(CommitError::Unknown("injected: under way".into()))
            }
        }
    }

    async fn settle(&self, id: CommitId) -> Result<Settled, CommitError> {
        let struck = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            random.random::<f64>() < self.rates.settle_unavailable
        };
        if struck {
            return Err(CommitError::Unavailable("injected: not asked".into()));
        }
        self.inner.settle(id).await
    }
}

/// How often [`SettlingLedger`] and [`retrying`] try before they give up. With [`Rates::ROUGH`] the chance to
/// see that many failures in a row by injection alone is below one in 10⁹.
const TRIES: usize = 24;

/// What is known of the ids that a [`SettlingLedger`] was asked about; shared by all handles on one store.
#[derive(Debug, Default, Clone)]
pub struct Settlements(Arc<tokio::sync::Mutex<HashMap<CommitId, Fate>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The id is spent because a try of it got lost; this one stands for it now.
    Renamed(CommitId),
    /// Somebody asked for it to be settled, and it was not applied.
    Barred,
    /// A caller was told that it is applied.
    Applied,
}

/// A caller that copes, as a ledger: tries again what was certainly not applied, settles what is unknown, and
/// goes on under another id when that says that a try got lost. A whole suite runs unchanged in front of it.
pub struct SettlingLedger {
    inner: Arc<dyn Ledger>,
    settlements: Settlements,
}

impl SettlingLedger {
    /// Copes in front of `inner`. Every handle on the same store takes the same `settlements`.
    #[must_use]
    pub fn new(inner: Arc<dyn Ledger>, settlements: Settlements) -> Self {
        Self { inner, settlements }
    }

    /// Asks until there is an answer.
    async fn ask(&self, id: CommitId) -> Result<Settled, CommitError> {
        let mut last = None;
        for _ in 0..TRIES {
            match self.inner.settle(id).await {
                Err(error @ (CommitError::Unavailable(_) | CommitError::Unknown(_))) => last = Some(error),
                answer => return answer,
            }
            tokio::task::yield_now().await;
        }
        Err(last.unwrap_or_else(|| CommitError::Unknown("never asked".into())))
    }
}

#[async_trait]
impl Ledger for SettlingLedger {
    async fn commit(&self, commit: &Commit) -> Result<Option<Value>, CommitError> {
        let mut last = CommitError::Unavailable("never tried".into());
        for _ in 0..TRIES {
            let id = current(&*self.settlements.0.lock().await, commit.id);
            let tried = Commit { id, ..commit.clone() };
            let answer = self.inner.commit(&tried).await;
            if let Err(error @ CommitError::Unavailable(_)) = answer {
                last = error;
                tokio::task::yield_now().await;
                continue;
            }
            let open = match answer {
                Ok(kept) => {
                    self.settlements.0.lock().await.insert(id, Fate::Applied);
                    return Ok(kept);
                }
                Err(open @ (CommitError::Unknown(_) | CommitError::Barred)) => open,
                decided => return decided,
            };
            // Settling and writing down what came of it is one step, so that of two who ask for the same id
            // the second sees what the first has decided.
            let mut fates = self.settlements.0.lock().await;
            match fates.get(&id) {
                Some(Fate::Renamed(_)) => continue,
                Some(Fate::Barred) => return Err(CommitError::Barred),
                Some(Fate::Applied) | None => {}
            }
            if matches!(open, CommitError::Barred) {
                return Err(open);
            }
            match self.ask(id).await {
                Ok(Settled::Applied(answer)) => {
                    return match fates.insert(id, Fate::Applied) {
                        Some(Fate::Applied) => Err(CommitError::Duplicate(answer)),
                        _ => Ok(answer),
                    };
                }
                Ok(Settled::NotApplied) => fates.insert(id, Fate::Renamed(another(id))),
                Err(_) => return Err(open),
            };
            last = open;
        }
        Err(last)
    }

    async fn settle(&self, id: CommitId) -> Result<Settled, CommitError> {
        let mut fates = self.settlements.0.lock().await;
        let id = current(&fates, id);
        let settled = self.ask(id).await?;
        if settled == Settled::NotApplied {
            fates.insert(id, Fate::Barred);
        }
        Ok(settled)
    }
}

/// Commits, and copes: [`SettlingLedger`] for one commit, where nobody else asks about it.
///
/// # Errors
/// What is decided (`Conflict`, `Duplicate`, `Barred`), or the last trouble after many tries.
pub async fn retrying(ledger: &Arc<dyn Ledger>, commit: &Commit) -> Result<Option<Value>, CommitError> {
    SettlingLedger::new(Arc::clone(ledger), Settlements::default()).commit(commit).await
}

/// The id that stands for `id` now.
fn current(fates: &HashMap<CommitId, Fate>, id: CommitId) -> CommitId {
    let mut id = id;
    while let Some(Fate::Renamed(next)) = fates.get(&id) {
        id = *next;
    }
    id
}

/// The id after this one: ids of one source lie 2³² apart, so it is nobody else's.
fn another(id: CommitId) -> CommitId {
    CommitId(Uuid::from_u128(id.0.as_u128().wrapping_add(1)))
}

#[cfg(test)]
mod tests {
    use aito_domain::ports::clock::IdSource as _;

    use super::*;
    use crate::clock::{ManualClock, SeqIds};

    /// A ledger that keeps ids only.
    #[derive(Default)]
    struct Ids(Mutex<HashMap<CommitId, bool>>);

    #[async_trait]
    impl Ledger for Ids {
        async fn commit(&self, commit: &Commit) -> Result<Option<Value>, CommitError> {
            let mut ids = self.0.lock().unwrap();
            match ids.get(&commit.id) {
                None => {
                    ids.insert(commit.id, true);
                    Ok(None)
                }
                Some(true) => Err(CommitError::Duplicate(None)),
                Some(false) => Err(CommitError::Barred),
            }
        }

        async fn settle(&self, id: CommitId) -> Result<Settled, CommitError> {
            let applied = *self.0.lock().unwrap().entry(id).or_insert(false);
            Ok(if applied { Settled::Applied(None) } else { Settled::NotApplied })
        }
    }

    fn only(rates: Rates) -> (Arc<Ids>, Arc<dyn Ledger>) {
        let ids = Arc::new(Ids::default());
        (Arc::clone(&ids), Arc::new(FaultyLedger::new(ids, 1, rates)))
    }

    fn commits(count: usize) -> Vec<Commit> {
        let ids = SeqIds::new(Arc::new(ManualClock::new()), 1);
        (0..count).map(|_| Commit::new(CommitId(ids.uuid()))).collect()
    }

    #[tokio::test]
    async fn each_fault_is_what_it_says() {
        let [commit] = commits(1).try_into().unwrap();
        let applied = |ids: &Ids| ids.0.lock().unwrap().get(&commit.id) == Some(&true);

        let (ids, faulty) = only(Rates { unavailable: 1.0, ..Rates::NONE });
        assert!(matches!(faulty.commit(&commit).await, Err(CommitError::Unavailable(_))));
        assert!(!applied(&ids));

        let (ids, faulty) = only(Rates { applied_unknown: 1.0, ..Rates::NONE });
        assert!(matches!(faulty.commit(&commit).await, Err(CommitError::Unknown(_))));
        assert!(applied(&ids));
        assert!(
            matches!(faulty.commit(&commit).await, Err(CommitError::Duplicate(_))),
            "refusals are not hidden"
        );

        let (ids, faulty) = only(Rates { lost_unknown: 1.0, ..Rates::NONE });
        assert!(matches!(faulty.commit(&commit).await, Err(CommitError::Unknown(_))));
        assert!(!applied(&ids));

        let (_, faulty) = only(Rates { conflict: 1.0, ..Rates::NONE });
        assert!(matches!(faulty.commit(&commit).await, Err(CommitError::Conflict(_))));

        let (_, faulty) = only(Rates { settle_unavailable: 1.0, ..Rates::NONE });
        assert!(matches!(faulty.settle(commit.id).await, Err(CommitError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_late_commit_arrives_unless_it_is_settled_first() {
        let [late, barred] = commits(2).try_into().unwrap();
        let (ids, faulty) = only(Rates { late_unknown: 1.0, ..Rates::NONE });
        assert!(matches!(faulty.commit(&barred).await, Err(CommitError::Unknown(_))));
        assert_eq!(faulty.settle(barred.id).await.unwrap(), Settled::NotApplied);
        assert!(matches!(faulty.commit(&late).await, Err(CommitError::Unknown(_))));
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let ids = ids.0.lock().unwrap();
        assert_eq!((ids.get(&late.id), ids.get(&barred.id)), (Some(&true), Some(&false)));
    }

    #[tokio::test]
    async fn coping_applies_every_commit_exactly_once() {
        for seed in 0..50 {
            let ids = Arc::new(Ids::default());
            let faulty: Arc<dyn Ledger> =
                Arc::new(FaultyLedger::new(Arc::<Ids>::clone(&ids), seed, Rates::ROUGH));
            let coping = SettlingLedger::new(faulty, Settlements::default());
            for commit in commits(20) {
                coping.commit(&commit).await.unwrap();
                let again = coping.commit(&commit).await;
                assert!(matches!(again, Err(CommitError::Duplicate(_))), "seed {seed}: {again:?}");
                assert_eq!(coping.settle(commit.id).await.unwrap(), Settled::Applied(None), "seed {seed}");
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let applied = ids.0.lock().unwrap().values().filter(|applied| **applied).count();
            assert_eq!(applied, 20, "seed {seed}");
        }
    }

    #[tokio::test]
    async fn a_bar_stays_a_bar() {
        for seed in 0..50 {
            let faulty: Arc<dyn Ledger> =
                Arc::new(FaultyLedger::new(Arc::new(Ids::default()), seed, Rates::ROUGH));
            let coping = SettlingLedger::new(faulty, Settlements::default());
            for commit in commits(5) {
                assert_eq!(coping.settle(commit.id).await.unwrap(), Settled::NotApplied, "seed {seed}");
                assert!(matches!(coping.commit(&commit).await, Err(CommitError::Barred)), "seed {seed}");
            }
        }
    }
}
