//! Operators' tokens, and tickets for WebSockets.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use aito_api as api;
use aito_application::tokens::{NewToken, TokenView};
use aito_domain::{id::TokenId, token::TokenText};

use crate::{
    caller::Caller,
    convert,
    extract::{Body, OptionalBody, Query, etag, if_match, known_id},
    problem::ApiError,
    state::AppState,
};

type State = web::Data<AppState>;

/// Every token without its secret, oldest first.
///
/// Ended ones too: `revokedAt` and `expiresAt` say which those are.
#[utoipa::path(
    get, path = "/tokens", tag = "tokens", operation_id = "listTokens",
    params(
        ("limit" = Option<u32>, Query, description = "How many at most; 50 if absent", minimum = 1, maximum = 500, example = 50),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", format = "uuid"),
    ),
    responses((status = 200, description = "Tokens", body = api::TokenList))
)]
pub(crate) async fn list(state: State, req: HttpRequest) -> Result<web::Json<api::TokenList>, ApiError> {
    let mut query = Query::of(&req)?;
    let limit = query.limit("limit", 50, 500) as usize;
    let after = query.parsed("cursor", "the nextCursor of an answer", |text| text.parse::<TokenId>().ok());
    query.done()?;
    let mut views = state.tokens.list(after, limit + 1).await?;
    let more = views.len() > limit;
    views.truncate(limit);
    let next_cursor = views.last().filter(|_| more).map(|view| view.token.id.to_string());
    Ok(web::Json(api::TokenList { tokens: views.into_iter().map(convert::token).collect(), next_cursor }))
}

/// Makes a token.
///
/// Its secret is in this answer and nowhere else; a lost one is replaced by rotating the token.
#[utoipa::path(
    post, path = "/tokens", tag = "tokens", operation_id = "createToken",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition with the same key within 24 h makes no second token and answers 409, since the secret is not kept")),
    request_body = api::NewToken,
    responses(
        (status = 201, description = "Made", body = api::TokenSecret, headers(
            ("Location" = String, description = "The token's path"),
            ("ETag" = String, description = "Its state, for `If-Match`"),
        )),
        (status = 409, description = "A token that is not revoked has the name, or the key was used", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    state: State,
    caller: Caller,
    req: HttpRequest,
    body: Body<api::NewToken>,
) -> Result<HttpResponse, ApiError> {
    let once = caller.once(&req)?;
    let api::NewToken { name, roles, scopes, expires_at } = body.0;
    let new = NewToken { name: name.unwrap_or_default(), roles, scopes, expires_at };
    let (view, text) = state.tokens.create(new, &caller.by(), once.as_ref()).await?;
    let location = format!("/tokens/{}", view.token.id);
    let mut response = HttpResponse::Created();
    response.insert_header((header::LOCATION, location));
    Ok(shown(response, view, &text))
}

/// Gives a token another secret.
///
/// It is in this answer and nowhere else. The present one stays good for `overlap` seconds; without a body it ends at once.
#[utoipa::path(
    post, path = "/tokens/{id}/rotate", tag = "tokens", operation_id = "rotateToken",
    params(
        ("id" = String, Path, description = "The token's id"),
        ("If-Match" = Option<String>, Header, description = "Only if it is in this state: the `etag` of a token, or `*`"),
    ),
    request_body(content = Option<api::RotateToken>),
    responses(
        (status = 200, description = "Rotated", body = api::TokenSecret, headers(("ETag" = String, description = "Its state, for `If-Match`"))),
        (status = 409, description = "It has ended", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn rotate(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
    body: OptionalBody<api::RotateToken>,
) -> Result<HttpResponse, ApiError> {
    let id = known_id(&path, "token")?;
    let seen = if_match(&req);
    let (view, text) = state.tokens.rotate(id, body.0.overlap, seen.as_ref(), &caller.by()).await?;
    Ok(shown(HttpResponse::Ok(), view, &text))
}

fn shown(mut response: actix_web::HttpResponseBuilder, view: TokenView, text: &TokenText) -> HttpResponse {
    response.insert_header((header::ETAG, etag(view.token.version)));
    response.json(api::TokenSecret { success: true, token: convert::token(view), secret: text.expose() })
}

/// Ends a token.
///
/// It is nobody's within a second, and its open streams end within five. Ended already is a success.
#[utoipa::path(
    delete, path = "/tokens/{id}", tag = "tokens", operation_id = "revokeToken",
    params(
        ("id" = String, Path, description = "The token's id"),
        ("If-Match" = Option<String>, Header, description = "Only if it is in this state: the `etag` of a token, or `*`"),
    ),
    responses((status = 200, description = "Ended", body = api::Done))
)]
pub(crate) async fn revoke(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
) -> Result<web::Json<api::Done>, ApiError> {
    let id = known_id(&path, "token")?;
    state.tokens.revoke(id, if_match(&req).as_ref(), &caller.by()).await?;
    Ok(web::Json(api::Done { success: true }))
}

/// A credential for one WebSocket of the caller's own.
///
/// `GET /ws?ticket=…`, once, within 30 s: for browsers, which can send no credential with a handshake.
#[utoipa::path(
    post, path = "/ws/tickets", tag = "events", operation_id = "createTicket",
    responses((status = 201, description = "Made", body = api::TicketCreated, headers(("Location" = String, description = "What it opens"))))
)]
pub(crate) async fn ticket(state: State, caller: Caller) -> HttpResponse {
    let (ticket, until) = state.login.ticket(caller.principal());
    let ticket = api::Ticket { ticket, expires_at: until.into() };
    HttpResponse::Created()
        .insert_header((header::LOCATION, "/ws"))
        .json(api::TicketCreated { success: true, ticket })
}
