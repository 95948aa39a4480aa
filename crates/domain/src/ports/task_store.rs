//! Reads tasks; they are written through the ledger.
//!
//! 1. A commit that returned is visible to every handle at once, and what is read is what was committed.
//! 2. `page` gives the newest first: by time of creation, then by id, both falling; `before` goes on exactly after the
//!    row that it names; `offset` leaves out so many more.
//! 3. A query's conditions all hold at once; `seen_by` is whom a task is assigned to or created by.
//! 4. `total` counts what a query without a place finds, exactly up to [`EXACT_TOTAL`](super::EXACT_TOTAL).
//! 5. `claimable` gives an agent, its tasks in progress by id, and its oldest waiting task of each priority (by time of
//!    creation, then id); an agent that is not stored is `None`.
//! 6. `leases` gives who works on tasks: each incarnation that holds one, once, in no order.
//! 7. `overdue` gives up to `limit` open tasks whose time has passed by the store's clock and of which that was not told,
//!    the longest due first.

use async_trait::async_trait;

use super::{ReadError, Total};
use crate::{
    id::{AgentId, Incarnation, TaskId},
    task::{Claimable, Task, TaskStatus},
    time::Timestamp,
};

/// Which tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TaskQuery {
    /// Of this status only.
    pub status: Option<TaskStatus>,
    /// Of this agent only.
    pub assigned_to: Option<AgentId>,
    /// Only what this agent may see.
    pub seen_by: Option<AgentId>,
}

/// Where a page begins: after this row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskCursor {
    /// The last row's time of creation.
    pub at: Timestamp,
    /// The last row's id.
    pub id: TaskId,
}

/// Reads tasks; see the module for the contract.
#[async_trait]
pub trait TaskStore: Send + Sync {
    /// The task with an id.
    async fn by_id(&self, id: TaskId) -> Result<Option<Task>, ReadError>;
    /// Up to `limit` tasks, newest first, below `before`, without the first `offset` of them.
    async fn page(
        &self,
        query: &TaskQuery,
        before: Option<TaskCursor>,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<Task>, ReadError>;
    /// How many there are.
    async fn total(&self, query: &TaskQuery) -> Result<Total, ReadError>;
    /// What a claim of an agent decides on.
    async fn claimable(&self, agent: AgentId) -> Result<Option<Claimable>, ReadError>;
    /// Who works on tasks.
    async fn leases(&self) -> Result<Vec<(AgentId, Incarnation)>, ReadError>;
    /// Tasks that are newly overdue.
    async fn overdue(&self, limit: u32) -> Result<Vec<Task>, ReadError>;
}
