//! The containers of this installation, and those that only look like it.

use actix_web::{HttpRequest, web};
use aito_api as api;

use crate::{convert, extract::Query, problem::ApiError, state::AppState};

/// Every container, those of this installation by name and then the foreign ones.
///
/// A foreign one only looks like an agent: it is shown and never touched.
#[utoipa::path(
    get, path = "/containers", tag = "agents", operation_id = "listContainers",
    params(
        ("limit" = Option<u32>, Query, description = "How many at most; 500 if absent", minimum = 1, maximum = 500, example = 500),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", pattern = "^[of]:", example = "o:aito-ceo-abc123"),
    ),
    responses((status = 200, description = "Containers", body = api::ContainerList))
)]
pub(crate) async fn list(
    state: web::Data<AppState>,
    req: HttpRequest,
) -> Result<web::Json<api::ContainerList>, ApiError> {
    let mut query = Query::of(&req)?;
    let limit = query.limit("limit", 500, 500) as usize;
    let after = query.parsed("cursor", "the nextCursor of an answer", place);
    query.done()?;
    let mut views = state.fleet.containers().await?;
    views.retain(|view| {
        after.as_ref().is_none_or(|after| (view.foreign.is_some(), &view.name) > (after.0, &after.1))
    });
    let next_cursor = (views.len() > limit).then(|| {
        let last = &views[limit - 1];
        format!("{}{}", if last.foreign.is_some() { "f:" } else { "o:" }, last.name)
    });
    let containers = views.into_iter().take(limit).map(convert::container_view).collect();
    Ok(web::Json(api::ContainerList { containers, next_cursor }))
}

/// A place in the list: among the foreign ones or not, and after which name.
fn place(text: &str) -> Option<(bool, String)> {
    let (kind, name) = text.split_once(':')?;
    match kind {
        "o" => Some((false, name.to_owned())),
        "f" => Some((true, name.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_a_place() {
        assert_eq!(place("f:aito-ceo"), Some((true, "aito-ceo".to_owned())));
        assert_eq!(place("o:a:b"), Some((false, "a:b".to_owned())));
        for bad in ["", "aito-ceo", "x:y"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
