//! Paths of the contract that this version does not serve yet: they say so (501) instead of seeming unknown.
//!
//! Invariant: a path leaves this table when it is served; none is served half.

use actix_web::{HttpRequest, HttpResponse, Resource, web};
use aito_api::ProblemKind;

use crate::problem::ApiError;

/// Path and the methods that the contract documents for it.
pub(super) const PATHS: &[(&str, &str)] = &[
    ("/agents/{type}/state", "GET"),
    ("/agents/{type}/state/{key}", "PUT"),
    ("/agents/{type}/message", "POST"),
    ("/agents/{type}/mailbox", "GET"),
    ("/agents/{type}/mailbox/{id}/ack", "POST"),
    ("/agents/{type}/usage", "GET"),
    ("/agents/{type}/think", "POST"),
    ("/broadcast", "POST"),
    ("/fleet", "GET"),
    ("/fleet/stop", "POST"),
    ("/fleet/resume", "POST"),
    ("/events/stream", "GET"),
    ("/ws/tickets", "POST"),
    ("/decisions", "GET, POST"),
    ("/decisions/pending", "GET"),
    ("/decisions/escalated", "GET"),
    ("/decisions/{id}", "GET"),
    ("/decisions/{id}/vote", "POST"),
    ("/decisions/{id}/escalate", "POST"),
    ("/decisions/{id}/resolve", "POST"),
    ("/decisions/{id}/withdraw", "POST"),
    ("/decisions/{id}/opinions", "POST"),
    ("/decisions/{id}/tier", "POST"),
    ("/decisions/{id}/timeline", "GET"),
    ("/escalations", "GET"),
    ("/tasks", "GET, POST"),
    ("/tasks/claim", "POST"),
    ("/tasks/{id}", "GET, PATCH"),
    ("/tasks/{id}/complete", "POST"),
    ("/tasks/{id}/fail", "POST"),
    ("/tasks/{id}/cancel", "POST"),
    ("/domains/whitelist", "GET, POST"),
    ("/domains/approval-requests", "GET, POST"),
    ("/domains/approval-requests/{id}/approve", "POST"),
    ("/domains/approval-requests/{id}/reject", "POST"),
    ("/domains/check", "GET"),
    ("/domains/{domain}", "DELETE"),
    ("/settings", "GET"),
    ("/settings/schema", "GET"),
    ("/settings/{category}/{key}", "POST"),
    ("/benchmark/run", "POST"),
    ("/benchmark/runs", "GET"),
    ("/benchmark/runs/{runId}", "GET, DELETE"),
    ("/scheduler/jobs", "GET, POST, PUT"),
    ("/scheduler/jobs/{id}/pause", "POST"),
    ("/scheduler/jobs/{id}/resume", "POST"),
    ("/scheduler/jobs/{id}/run", "POST"),
    ("/scheduler/jobs/{id}/runs", "GET"),
    ("/tokens", "GET, POST"),
    ("/tokens/{id}/rotate", "POST"),
    ("/tokens/{id}", "DELETE"),
    ("/audit", "GET"),
    ("/workers", "GET"),
    ("/dead-letters", "GET"),
    ("/dead-letters/{id}/replay", "POST"),
    ("/knowledge/search", "GET"),
    ("/knowledge", "POST"),
    ("/backlog/report", "GET"),
];

/// Answers 501 to what is documented and 405 to the rest.
pub(super) fn resource(pattern: &str, allow: &'static str) -> Resource {
    web::resource(pattern).default_service(web::to(move |req: HttpRequest| async move {
        let documented = allow.split(", ").any(|method| method == req.method().as_str());
        let error = if documented {
            ApiError::new(ProblemKind::NotImplemented, "this version does not serve this path yet")
        } else {
            ApiError::method_not_allowed(allow)
        };
        Err::<HttpResponse, _>(error)
    }))
}
