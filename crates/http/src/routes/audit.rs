//! The audit, newest first.

use actix_web::{HttpRequest, web};
use aito_api as api;
use aito_domain::{audit::Outcome, id::AuditId, ports::audit_store::AuditQuery};

use crate::{convert, extract::Query, problem::ApiError, state::AppState};

/// Who did what to which object, from where, with which outcome.
#[utoipa::path(
    get, path = "/audit", tag = "audit",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 500; 50 if absent", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
        ("actor" = Option<String>, Query, description = "By this actor only, such as `token:dashboard`"),
        ("operation" = Option<String>, Query, description = "Of this operation only, such as `agents.start`"),
        ("outcome" = Option<String>, Query, description = "`done`, `unchanged`, `refused` or `failed` only"),
    ),
    responses((status = 200, description = "Entries, newest first", body = api::AuditList))
)]
pub(crate) async fn list(
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<web::Json<api::AuditList>, ApiError> {
    let mut query = Query::of(&req)?;
    let limit = query.limit("limit", 50, 500);
    let wanted = AuditQuery {
        before: query.parsed("cursor", "the nextCursor of an answer", |text| text.parse::<AuditId>().ok()),
        actor: query.text("actor"),
        operation: query.text("operation"),
        outcome: query.parsed("outcome", "one of done, unchanged, refused, failed", Outcome::parse),
    };
    query.done()?;
    let mut entries = state.audit.list(&wanted, limit + 1).await?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries.last().filter(|_| more).map(|listed| listed.entry.id.to_string());
    let audit = entries.into_iter().map(convert::audit_entry).collect();
    Ok(web::Json(api::AuditList { audit, next_cursor }))
}
