//! Reads the list of domains and the requests for more; both are written through the ledger.
//!
//! 1. A commit that returned is visible to every handle at once, and what is read is what was committed.
//! 2. `page` gives entries that stand, by domain in byte order, above `after`.
//! 3. `standing` gives those entries that stand of the domains that are asked for, in no order.
//! 4. `is_untouched` until the first entry was ever added, also when it was removed since.
//! 5. `requests` gives those of a status, newest first: by time, then id, both falling; `before` goes on exactly after
//!    the row that it names.
//! 6. `open_request` finds the open one of an asker for a domain; `open_requests` gives up to `limit` of all askers for it,
//!    in no order.

use async_trait::async_trait;

use super::ReadError;
use crate::{
    allowlist::{DomainEntry, DomainRequest, RequestStatus},
    domain_name::DomainName,
    event::Actor,
    id::DomainRequestId,
    time::Timestamp,
};

/// Where a page of requests begins: after this row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestCursor {
    /// The last row's time.
    pub at: Timestamp,
    /// The last row's id.
    pub id: DomainRequestId,
}

/// Reads the list; see the module for the contract.
#[async_trait]
pub trait DomainStore: Send + Sync {
    /// Up to `limit` entries.
    async fn page(&self, after: Option<&DomainName>, limit: u32) -> Result<Vec<DomainEntry>, ReadError>;
    /// The entries of these domains.
    async fn standing(&self, domains: &[DomainName]) -> Result<Vec<DomainEntry>, ReadError>;
    /// Whether there never was an entry.
    async fn is_untouched(&self) -> Result<bool, ReadError>;
    /// Up to `limit` requests of a status, newest first.
    async fn requests(
        &self,
        status: RequestStatus,
        before: Option<RequestCursor>,
        limit: u32,
    ) -> Result<Vec<DomainRequest>, ReadError>;
    /// The request with an id.
    async fn request(&self, id: DomainRequestId) -> Result<Option<DomainRequest>, ReadError>;
    /// The open request of an asker for a domain.
    async fn open_request(
        &self,
        domain: &DomainName,
        asker: &Actor,
    ) -> Result<Option<DomainRequest>, ReadError>;
    /// The open requests for a domain.
    async fn open_requests(&self, domain: &DomainName, limit: u32) -> Result<Vec<DomainRequest>, ReadError>;
}
