//! Reads operators' tokens, and keeps when each was last used; tokens are written through the ledger.
//!
//! 1. A commit that returned is visible to every handle at once.
//! 2. What is read is what was committed, field by field.
//! 3. `list` gives every token, revoked ones too, ordered by id; an id that no token has is `None`, not an error.
//! 4. `used` keeps the latest time per token: an older one never replaces a newer one, the same again changes
//!    nothing; a time of no known token is kept as well and harms nobody.
//! 5. `last_uses` gives the last time of every token that was ever used.

use async_trait::async_trait;

use super::ReadError;
use crate::{id::TokenId, time::Timestamp, token::Token};

/// Reads tokens; see the module for the contract.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// The token with an id.
    async fn by_id(&self, id: TokenId) -> Result<Option<Token>, ReadError>;
    /// Every token, ordered by id.
    async fn list(&self) -> Result<Vec<Token>, ReadError>;
    /// Notes when tokens were used, each at most once in `uses`.
    async fn used(&self, uses: &[(TokenId, Timestamp)]) -> Result<(), ReadError>;
    /// When each token was last used.
    async fn last_uses(&self) -> Result<Vec<(TokenId, Timestamp)>, ReadError>;
}
