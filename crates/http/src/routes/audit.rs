//! The audit, newest first.

use actix_web::{HttpRequest, web};
use aito_api as api;
use aito_domain::{audit::Outcome, id::AuditId, ports::audit_store::AuditQuery};

use crate::{convert, extract::Query, problem::ApiError, state::AppState};

/// Who did what to which object, from where, with which outcome.
///
/// Newest first, refused attempts too. Entries are sealed into a chain of hashes within seconds.
#[utoipa::path(
    get, path = "/audit", tag = "audit", operation_id = "listAudit",
    params(
        ("limit" = Option<u32>, Query, description = "How many at most; 50 if absent", minimum = 1, maximum = 500, example = 50),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", format = "uuid"),
        ("actor" = Option<String>, Query, description = "By this actor only", example = "token:dashboard"),
        ("operation" = Option<String>, Query, description = "Of this operation only", example = "agents.start"),
        ("outcome" = Option<String>, Query, description = "Of this outcome only", pattern = "^(done|unchanged|refused|failed)$", example = "done"),
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
