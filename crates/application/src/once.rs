//! Calls that may be repeated: the same key again changes nothing and gets what the first call got.
//!
//! Invariants: a key belongs to a credential, a method and a path; it names the commit, so the store itself sees
//! to it that it counts once, for the 24 h that commit ids are kept; the same key for another content is refused.

use aito_domain::{
    id::{AgentId, CommitId, Incarnation},
    ports::ledger::{Commit, Speaker},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    by::By,
    error::Error,
    writer::{Applied, CONFLICT_TRIES, Writer},
};

/// How often a commit that was settled as not applied is tried again, each time under an id of its own.
const TRIES: u8 = 3;

/// An `Idempotency-Key` with all that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    scope: Vec<Vec<u8>>,
}

impl Once {
    /// A key of a credential for a method and a path.
    #[must_use]
    pub fn new(credential: &str, method: &str, path: &str, key: &str) -> Self {
        Self { scope: [credential, method, path, key].map(|part| part.as_bytes().to_vec()).into() }
    }

    fn commit_id(&self, attempt: u8) -> CommitId {
        let attempt = [attempt];
        let mut parts: Vec<&[u8]> = vec![b"once"];
        parts.extend(self.scope.iter().map(Vec::as_slice));
        parts.push(&attempt);
        CommitId::derived(&parts)
    }
}

/// What is kept with a commit that may be asked for again.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct First {
    /// Tells bodies apart.
    content: String,
    /// What was answered, as far as it may be kept.
    answer: Value,
}

/// What became of a call.
#[derive(Debug, PartialEq)]
pub enum Outcome<T> {
    /// It was done.
    Now,
    /// It was done before, and this was the answer.
    Before(T),
    /// Somebody else was first: decide again.
    Conflict,
}

impl Writer {
    /// What a call with this key was answered, if it was made before; asking uses nothing up.
    /// `who` is the agent that asks, if one does.
    ///
    /// # Errors
    /// As [`Self::apply_once`].
    pub async fn was_done<T>(
        &self,
        once: &Once,
        content: &[&[u8]],
        who: Option<AgentId>,
    ) -> Result<Option<T>, Error>
    where
        T: DeserializeOwned,
    {
        let _turn = self.turn(who).await?;
        for attempt in 0..TRIES {
            let mut commit = self.begin();
            commit.id = once.commit_id(attempt);
            // Nobody's word: such a commit is never applied, and one of this id that was is told first.
            commit.speaker = Some(Speaker { agent: AgentId(Uuid::nil()), incarnation: Incarnation(0) });
            match self.apply_telling_barred(&commit).await? {
                (Applied::Before(stored), _) => return before(stored, content).map(Some),
                (_, true) => {}
                (_, false) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Applies a commit, once per `once` if there is one. `content` is all that two calls of one key must agree in;
    /// `answer` is what a repetition gets.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the key was used for another content; [`Error::Unavailable`].
    pub async fn apply_once<T>(
        &self,
        commit: &mut Commit,
        once: Option<&Once>,
        content: &[&[u8]],
        answer: &T,
    ) -> Result<Outcome<T>, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        let Some(once) = once else {
            for _ in 0..TRIES {
                match self.apply_telling_barred(commit).await? {
                    (Applied::Yes | Applied::Before(_), _) => return Ok(Outcome::Now),
                    (Applied::Conflict, true) => commit.id = CommitId(self.ids().uuid()),
                    (Applied::Conflict, false) => return Ok(Outcome::Conflict),
                }
            }
            return Err(Error::unavailable("the database does not take changes; nothing was done", None));
        };
        let answer = serde_json::to_value(answer).map_err(|why| Error::Internal(why.into()))?;
        let first = First { content: hash(content), answer };
        commit.answer = serde_json::to_value(&first).ok();
        for attempt in 0..TRIES {
            commit.id = once.commit_id(attempt);
            match self.apply_telling_barred(commit).await? {
                (Applied::Yes, _) => return Ok(Outcome::Now),
                (Applied::Before(stored), _) => return before(stored, content).map(Outcome::Before),
                // An attempt that was settled as not applied bars its id: the next one has its own.
                (Applied::Conflict, true) => {}
                (Applied::Conflict, false) => return Ok(Outcome::Conflict),
            }
        }
        Err(Error::unavailable("the database does not take changes; nothing was done", None))
    }

    /// As [`Self::apply_once`], for a commit that does not depend on what others change: who loses a race tries again.
    ///
    /// # Errors
    /// As [`Self::apply_once`]; [`Error::PastIncarnation`] when the incarnation that speaks is past.
    pub(crate) async fn create_once<T>(
        &self,
        commit: &mut Commit,
        by: &By,
        once: Option<&Once>,
        content: &[&[u8]],
        answer: &T,
    ) -> Result<Outcome<T>, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        for attempt in 0..CONFLICT_TRIES {
            match self.apply_once(commit, once, content, answer).await? {
                Outcome::Conflict => {
                    self.still_speaks(by).await?;
                    self.pause(attempt).await;
                }
                done => return Ok(done),
            }
        }
        Ok(Outcome::Conflict)
    }
}

/// Tells bodies apart.
fn hash(content: &[&[u8]]) -> String {
    CommitId::derived(content).to_string()
}

/// The answer of the call that was made before, if it was the same.
fn before<T: DeserializeOwned>(stored: Option<Value>, content: &[&[u8]]) -> Result<T, Error> {
    let first: First =
        serde_json::from_value(stored.unwrap_or_default()).map_err(|why| Error::Internal(why.into()))?;
    if first.content != hash(content) {
        return Err(Error::Conflict("the Idempotency-Key was used for another body before".into()));
    }
    serde_json::from_value(first.answer).map_err(|why| Error::Internal(why.into()))
}
