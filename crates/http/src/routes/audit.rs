//! The audit, newest first.

use actix_web::{HttpRequest, web};
use aito_api as api;
use aito_domain::{audit::Outcome, id::AuditId, ports::audit_store::AuditQuery};

use crate::{convert, cursor, extract::Query, problem::ApiError, state::AppState};

/// Who did what to which object, from where, with which outcome.
///
/// Newest first, refused attempts too. Entries are sealed into a chain of hashes within seconds.
#[utoipa::path(
    get, path = "/audit", tag = "audit", operation_id = "listAudit",
    params(
        ("limit" = Option<u32>, Query, description = "How many at most; 50 if absent", minimum = 1, maximum = 500, example = 50),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", format = "uuid"),
        ("actor" = Option<String>, Query, description = "By this actor only", min_length = 1, max_length = 256, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$", example = "token:dashboard"),
        ("operation" = Option<String>, Query, description = "Of this operation only", pattern = r"^[a-z_.]{1,64}$", example = "agents.start"),
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
        actor: query.parsed("actor", "1 to 256 characters, no control characters", actor),
        operation: query.parsed("operation", "1 to 64 of a-z, _ and .", operation),
        outcome: query.parsed("outcome", "one of done, unchanged, refused, failed", Outcome::parse),
    };
    query.done()?;
    let entries = state.audit.list(&wanted, limit + 1).await?;
    // All of an entry's texts are bounded.
    let (entries, goes_on) = cursor::cut(entries, limit, |_| 0);
    let next_cursor = entries.last().filter(|_| goes_on).map(|listed| listed.entry.id.to_string());
    let audit = entries.into_iter().map(convert::audit_entry).collect();
    Ok(web::Json(api::AuditList { audit, next_cursor }))
}

/// An actor as it may be asked for: what no name can be is asked of no database.
fn actor(text: &str) -> Option<String> {
    let plain = (1..=256).contains(&text.chars().count()) && !text.contains(char::is_control);
    plain.then(|| text.to_owned())
}

fn operation(text: &str) -> Option<String> {
    let plain =
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b"_.".contains(&b));
    plain.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_actor_and_no_operation_can_be_is_not_looked_for() {
        for good in ["token:dashboard", "agent:ceo", "token:Ünder score"] {
            assert!(actor(good).is_some(), "{good}");
        }
        for bad in ["", "a\0b", "a\nb", "\u{85}", &"x".repeat(257)] {
            assert!(actor(bad).is_none(), "{bad:?}");
        }
        assert!(operation("agents.start").is_some());
        for bad in ["", "\0", "Agents.start", "agents/start", &"x".repeat(65)] {
            assert!(operation(bad).is_none(), "{bad:?}");
        }
    }
}
