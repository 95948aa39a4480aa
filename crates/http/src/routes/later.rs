//! Paths of the contract that this version does not serve yet: who may call them is told so (501) instead of that they
//! are unknown, and everybody else that they may not.
//!
//! Invariant: a path leaves this table when it is served; none is served half.

use actix_web::{HttpResponse, Resource, http::Method};
use aito_api::ProblemKind;
use aito_domain::access::Operation as O;

use super::{known, path};
use crate::problem::ApiError;

/// A path with what its methods will do.
type Later = (&'static str, &'static [(Method, O)]);

/// Every path that is not served yet.
pub(super) const PATHS: &[Later] = &[
    ("/agents/{type}/usage", &[(Method::GET, O::ReadAgentUsage)]),
    ("/agents/{type}/think", &[(Method::POST, O::Think)]),
    ("/fleet", &[(Method::GET, O::ReadFleet)]),
    ("/fleet/stop", &[(Method::POST, O::StopFleet)]),
    ("/fleet/resume", &[(Method::POST, O::ResumeFleet)]),
    ("/decisions", &[(Method::GET, O::ListDecisions), (Method::POST, O::Propose)]),
    ("/decisions/pending", &[(Method::GET, O::ListDecisions)]),
    ("/decisions/escalated", &[(Method::GET, O::ListDecisions)]),
    ("/decisions/{id}", &[(Method::GET, O::ReadDecision)]),
    ("/decisions/{id}/vote", &[(Method::POST, O::Vote)]),
    ("/decisions/{id}/escalate", &[(Method::POST, O::Escalate)]),
    ("/decisions/{id}/resolve", &[(Method::POST, O::Resolve)]),
    ("/decisions/{id}/withdraw", &[(Method::POST, O::Withdraw)]),
    ("/decisions/{id}/opinions", &[(Method::POST, O::GiveOpinion)]),
    ("/decisions/{id}/tier", &[(Method::POST, O::RaiseTier)]),
    ("/decisions/{id}/timeline", &[(Method::GET, O::ReadDecision)]),
    ("/escalations", &[(Method::GET, O::ListEscalations)]),
    ("/benchmark/run", &[(Method::POST, O::RunBenchmark)]),
    ("/benchmark/runs", &[(Method::GET, O::ReadBenchmarks)]),
    ("/benchmark/runs/{runId}", &[(Method::GET, O::ReadBenchmarks), (Method::DELETE, O::RunBenchmark)]),
    (
        "/scheduler/jobs",
        &[(Method::GET, O::ReadJobs), (Method::POST, O::ManageJobs), (Method::PUT, O::ManageJobs)],
    ),
    ("/scheduler/jobs/{id}/pause", &[(Method::POST, O::ManageJobs)]),
    ("/scheduler/jobs/{id}/resume", &[(Method::POST, O::ManageJobs)]),
    ("/scheduler/jobs/{id}/run", &[(Method::POST, O::ManageJobs)]),
    ("/scheduler/jobs/{id}/runs", &[(Method::GET, O::ReadJobs)]),
    ("/workers", &[(Method::GET, O::ListWorkers)]),
    ("/dead-letters", &[(Method::GET, O::ListDeadLetters)]),
    ("/dead-letters/{id}/replay", &[(Method::POST, O::ReplayDeadLetter)]),
    ("/knowledge/search", &[(Method::GET, O::SearchKnowledge)]),
    ("/knowledge", &[(Method::POST, O::AddKnowledge)]),
    ("/backlog/report", &[(Method::GET, O::ReadBacklog)]),
    ("/n/{secret}", &[(Method::GET, O::NoticeLink), (Method::POST, O::NoticeLink)]),
];

/// Answers 501 to what is documented and 405 to the rest.
pub(super) fn resource(pattern: &str, methods: &[(Method, O)]) -> Resource {
    path(pattern, methods.iter().map(|(method, operation)| known(method.clone(), *operation, not_yet)))
}

async fn not_yet() -> Result<HttpResponse, ApiError> {
    Err(ApiError::new(ProblemKind::NotImplemented, "this version does not serve this path yet"))
}
