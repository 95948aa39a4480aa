//! The list of domains that agents may reach, and requests for more.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use aito_api as api;
use aito_application::domains::{Decision, NewDomain, NewWish};
use aito_domain::{
    allowlist::RequestStatus, domain_name::DomainName, id::DomainRequestId,
    ports::domain_store::RequestCursor,
};

use crate::{
    caller::Caller,
    convert, cursor,
    extract::{Body, OptionalBody, Query, etag, if_match, known_id},
    problem::ApiError,
    state::AppState,
};

type State = web::Data<AppState>;

/// The domains that agents may reach, by name.
///
/// An entry covers its domain and all subdomains. The list is advice: nothing in this version enforces it.
#[utoipa::path(
    get, path = "/domains/whitelist", tag = "domains", operation_id = "listDomains",
    params(
        ("limit" = Option<u32>, Query, description = "How many at most; 500 if absent", minimum = 1, maximum = 500, example = 500),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", min_length = 1, max_length = 254, example = "coingecko.com"),
    ),
    responses((status = 200, description = "Entries", body = api::DomainList))
)]
pub(crate) async fn list(state: State, req: HttpRequest) -> Result<web::Json<api::DomainList>, ApiError> {
    let mut query = Query::of(&req)?;
    let limit = query.limit("limit", 500, 500);
    let after = query.parsed("cursor", cursor::ALLOWED, |text| DomainName::stored(text.to_owned()).ok());
    query.done()?;
    let entries = state.domains.list(after.as_ref(), limit + 1).await?;
    let (entries, goes_on) = cursor::cut(entries, limit, |_| 0);
    let last = entries.last().filter(|_| goes_on);
    let next_cursor = last.map(|entry| entry.domain.to_string());
    let domains = entries.into_iter().map(convert::domain).collect();
    Ok(web::Json(api::DomainList { domains, next_cursor, advisory: true }))
}

/// Puts a domain on the list.
///
/// It is kept in its normal form: lower case, internationalised names in punycode, no final dot.
#[utoipa::path(
    post, path = "/domains/whitelist", tag = "domains", operation_id = "addDomain",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition with the same key within 24 h adds nothing and gets the first answer")),
    request_body = api::NewDomain,
    responses(
        (status = 201, description = "Added", body = api::DomainAnswer, headers(
            ("Location" = String, description = "The entry's path"),
            ("ETag" = String, description = "Its state, for `If-Match`"),
        )),
        (status = 409, description = "It is there already, or the key was used for another", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn add(
    state: State,
    caller: Caller,
    req: HttpRequest,
    body: Body<api::NewDomain>,
) -> Result<HttpResponse, ApiError> {
    let once = caller.once(&req)?;
    let api::NewDomain { domain, category, description } = body.0;
    let new =
        NewDomain { domain: domain.unwrap_or_default(), category: category.unwrap_or_default(), description };
    let entry = state.domains.add(&new, &caller.by(), once.as_ref()).await?;
    let mut response = HttpResponse::Created();
    response
        .insert_header((header::LOCATION, format!("/domains/{}", entry.domain)))
        .insert_header((header::ETAG, etag(entry.version)));
    Ok(response.json(api::DomainAnswer { success: true, domain: convert::domain(entry) }))
}

/// Takes a domain off the list.
///
/// Subdomains that have entries of their own stay.
#[utoipa::path(
    delete, path = "/domains/{domain}", tag = "domains", operation_id = "removeDomain",
    params(
        ("domain" = String, Path, description = "The domain", pattern = "^[^/]+$", min_length = 1, example = "dexscreener.com"),
        ("If-Match" = Option<String>, Header, description = "Only if it is in this state: the `etag` of an entry, or `*`"),
    ),
    responses((status = 200, description = "Removed", body = api::Done))
)]
pub(crate) async fn remove(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
) -> Result<web::Json<api::Done>, ApiError> {
    state.domains.remove(&path, if_match(&req).as_ref(), &caller.by()).await?;
    Ok(web::Json(api::Done { success: true }))
}

/// Whether a domain may be reached, and by which entry.
///
/// The list is advice: nothing in this version enforces it.
#[utoipa::path(
    get, path = "/domains/check", tag = "domains", operation_id = "checkDomain",
    params(("domain" = String, Query, description = "The domain", min_length = 1, max_length = 2048, example = "api.coingecko.com")),
    responses((status = 200, description = "Whether it may", body = api::DomainCheck))
)]
pub(crate) async fn check(state: State, req: HttpRequest) -> Result<web::Json<api::DomainCheck>, ApiError> {
    let mut query = Query::of(&req)?;
    let domain = query.text("domain").unwrap_or_default();
    query.done()?;
    let checked = state.domains.check(&domain).await?;
    Ok(web::Json(api::DomainCheck {
        domain: checked.domain.to_string(),
        allowed: checked.matched_by.is_some(),
        matched_by: checked.matched_by.map(|domain| domain.to_string()),
        advisory: true,
    }))
}

/// Requests for domains, newest first; those that are open unless another status is asked for.
///
/// `requestedBy` is null where no agent asked; `actor` says who did.
#[utoipa::path(
    get, path = "/domains/approval-requests", tag = "domains", operation_id = "listDomainRequests",
    params(
        ("status" = Option<String>, Query, description = "Only requests of this status; pending if absent", pattern = "^(pending|approved|rejected)$", example = "pending"),
        ("limit" = Option<u32>, Query, description = "How many at most; 50 if absent", minimum = 1, maximum = 500, example = 50),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", min_length = 1, pattern = "^[A-Za-z0-9_-]+$"),
    ),
    responses((status = 200, description = "Requests", body = api::DomainRequestList))
)]
pub(crate) async fn requests(
    state: State,
    req: HttpRequest,
) -> Result<web::Json<api::DomainRequestList>, ApiError> {
    let mut query = Query::of(&req)?;
    let status = query
        .parsed("status", "one of pending, approved, rejected", |text| text.parse::<RequestStatus>().ok());
    let limit = query.limit("limit", 50, 500);
    let before = query.parsed("cursor", cursor::ALLOWED, |text| {
        cursor::read(text).map(|(at, id)| RequestCursor { at, id: DomainRequestId(id) })
    });
    query.done()?;
    let status = status.unwrap_or(RequestStatus::Pending);
    let requests = state.domains.requests(status, before, limit + 1).await?;
    let (requests, goes_on) = cursor::cut(requests, limit, |_| 0);
    let last = requests.last().filter(|_| goes_on);
    let next_cursor = last.map(|request| cursor::write(request.created_at, request.id.0));
    let requests = requests.into_iter().map(convert::domain_request).collect();
    Ok(web::Json(api::DomainRequestList { requests, next_cursor }))
}

/// Asks for a domain.
///
/// The same asker's second request for a domain that is still open is the first one (200).
#[utoipa::path(
    post, path = "/domains/approval-requests", tag = "domains", operation_id = "requestDomain",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition with the same key within 24 h asks for nothing and gets the request that was made, as it is")),
    request_body = api::NewDomainRequest,
    responses(
        (status = 201, description = "Asked", body = api::DomainRequestAnswer, headers(("Location" = String, description = "Where requests are listed"))),
        (status = 200, description = "It was asked before and is open", body = api::DomainRequestAnswer),
        (status = 409, description = "It may be reached already, or the key was used for another request", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn request(
    state: State,
    caller: Caller,
    req: HttpRequest,
    body: Body<api::NewDomainRequest>,
) -> Result<HttpResponse, ApiError> {
    let once = caller.once(&req)?;
    let api::NewDomainRequest { domain, url, task_context, reason, category } = body.0;
    let new = NewWish { domain: domain.unwrap_or_default(), url, task_context, reason, category };
    let (agent, by) = (caller.agent(), caller.by());
    let (request, is_new) = state.domains.ask(&new, agent, &by, once.as_ref(), &state.quotas).await?;
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    if is_new {
        response.insert_header((header::LOCATION, "/domains/approval-requests"));
    }
    let request = convert::domain_request(request);
    Ok(response.json(api::DomainRequestAnswer { success: true, request }))
}

/// Approves a request and puts its domain on the list.
///
/// Both or neither happens, and other open requests for the same domain are approved with it. Approved already is a
/// success.
#[utoipa::path(
    post, path = "/domains/approval-requests/{id}/approve", tag = "domains", operation_id = "approveDomainRequest",
    params(("id" = String, Path, description = "The request's id")),
    request_body(content = Option<api::DecideDomainRequest>),
    responses(
        (status = 200, description = "Approved", body = api::DomainRequestAnswer),
        (status = 409, description = "It was rejected before", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn approve(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    body: OptionalBody<api::DecideDomainRequest>,
) -> Result<web::Json<api::DomainRequestAnswer>, ApiError> {
    decide(&state, &caller, &path, true, body.0).await
}

/// Rejects a request.
///
/// The asker may ask again. Rejected already is a success.
#[utoipa::path(
    post, path = "/domains/approval-requests/{id}/reject", tag = "domains", operation_id = "rejectDomainRequest",
    params(("id" = String, Path, description = "The request's id")),
    request_body(content = Option<api::DecideDomainRequest>),
    responses(
        (status = 200, description = "Rejected", body = api::DomainRequestAnswer),
        (status = 409, description = "It was approved before", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn reject(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    body: OptionalBody<api::DecideDomainRequest>,
) -> Result<web::Json<api::DomainRequestAnswer>, ApiError> {
    decide(&state, &caller, &path, false, body.0).await
}

async fn decide(
    state: &AppState,
    caller: &Caller,
    id: &str,
    approve: bool,
    body: api::DecideDomainRequest,
) -> Result<web::Json<api::DomainRequestAnswer>, ApiError> {
    let id = known_id(id, "request")?;
    let decision = Decision { approve, reason: body.reason, category: body.category };
    let request = state.domains.decide(id, &decision, &caller.by()).await?;
    Ok(web::Json(api::DomainRequestAnswer { success: true, request: convert::domain_request(request) }))
}
