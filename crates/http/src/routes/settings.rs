//! Settings.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use aito_api as api;
use aito_application::settings::NewValue;
use aito_domain::{access::Operation, setting::GOVERNANCE};

use crate::{
    caller::Caller,
    convert,
    extract::{Body, etag, if_match},
    problem::ApiError,
    state::AppState,
};

type State = web::Data<AppState>;

/// Every setting by category and key: known ones with their defaults, and what else was set.
///
/// A secret is shown as `***`. `version` grows with every change, as agents are told by their heartbeats.
#[utoipa::path(
    get, path = "/settings", tag = "settings", operation_id = "listSettings",
    responses((status = 200, description = "Settings", body = api::SettingList))
)]
pub(crate) async fn list(state: State) -> Result<web::Json<api::SettingList>, ApiError> {
    Ok(web::Json(convert::settings(state.settings.all().await?)))
}

/// Which settings are known: a JSON Schema with defaults, ranges and meanings.
///
/// `x-effective` says whether anything heeds a setting in this version, `x-consumer` what does.
#[utoipa::path(
    get, path = "/settings/schema", tag = "settings", operation_id = "getSettingsSchema",
    responses((status = 200, description = "The schema (JSON Schema 2020-12)", body = serde_json::Value, content_type = "application/schema+json"))
)]
pub(crate) async fn schema(state: State) -> HttpResponse {
    HttpResponse::Ok().content_type("application/schema+json").body(state.settings.schema().to_string())
}

/// Sets a setting of any category but `governance`.
///
/// It takes effect on every server within a second, without a restart. What is set in a category that is not known is
/// stored and heeded by nothing (`effective` false); what is a secret there, or sounds like one, is stored sealed.
#[utoipa::path(
    post, path = "/settings/{category}/{key}", tag = "settings", operation_id = "writeSetting",
    params(
        ("category" = String, Path, description = "What it belongs to", pattern = "^[a-z0-9_-]{1,64}$", example = "queue"),
        ("key" = String, Path, description = "Its name there", pattern = "^[A-Za-z0-9._-]{1,128}$", example = "delay_low"),
        ("If-Match" = Option<String>, Header, description = "Only if it is in this state: the `etag` of a setting (`\"0\"`: never set), or `*`"),
    ),
    request_body = api::WriteSetting,
    responses(
        (status = 200, description = "Set", body = api::SettingAnswer, headers(("ETag" = String, description = "Its state, for `If-Match`"))),
        (status = 409, description = "There are as many settings as are kept", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn write(
    state: State,
    caller: Caller,
    path: web::Path<(String, String)>,
    req: HttpRequest,
    body: Body<api::WriteSetting>,
) -> Result<HttpResponse, ApiError> {
    let (category, key) = path.into_inner();
    // That category has a path of its own, which stands first; whatever came here by another way is asked for the same.
    if category == GOVERNANCE {
        caller.may(Operation::WriteGovernance, &category)?;
    }
    set(&state, &caller, &category, &key, &req, body.0).await
}

/// Sets a setting of the category `governance`: the rules of votes.
///
/// For humans. This version knows none of them, so every key is refused.
#[utoipa::path(
    post, path = "/settings/governance/{key}", tag = "settings", operation_id = "writeGovernanceSetting",
    params(
        ("key" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9._-]{1,128}$", example = "tiers"),
        ("If-Match" = Option<String>, Header, description = "Only if it is in this state: the `etag` of a setting (`\"0\"`: never set), or `*`"),
    ),
    request_body = api::WriteSetting,
    responses(
        (status = 200, description = "Set", body = api::SettingAnswer, headers(("ETag" = String, description = "Its state, for `If-Match`"))),
    )
)]
pub(crate) async fn write_governance(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
    body: Body<api::WriteSetting>,
) -> Result<HttpResponse, ApiError> {
    set(&state, &caller, GOVERNANCE, &path, &req, body.0).await
}

async fn set(
    state: &AppState,
    caller: &Caller,
    category: &str,
    key: &str,
    req: &HttpRequest,
    body: api::WriteSetting,
) -> Result<HttpResponse, ApiError> {
    let new = NewValue { value: body.value, description: body.description, secret: body.secret };
    let view = state.settings.write(category, key, new, if_match(req).as_ref(), &caller.by()).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header((header::ETAG, etag(view.setting.version)));
    Ok(response.json(api::SettingAnswer { success: true, setting: convert::setting(view) }))
}
