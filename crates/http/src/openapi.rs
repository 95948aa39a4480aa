//! The API's description, OpenAPI 3.1, made from the handlers and wire types.

use actix_web::{HttpResponse, web};
use utoipa::OpenApi;

use crate::{
    routes::{agents, containers, events, health},
    ws,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "aito",
        description = "Control plane for a company of autonomous AI agents.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        contact()
    ),
    paths(
        health::health,
        health::ready,
        health::full,
        health::metrics,
        agents::list,
        agents::detail,
        agents::health,
        agents::spec,
        agents::start,
        agents::stop,
        agents::restart,
        agents::heartbeat,
        agents::history,
        agents::record,
        agents::logs,
        agents::stats,
        containers::list,
        events::list,
        events::of_agent,
        ws::open,
    ),
    components(schemas(aito_api::Frame, aito_api::AgentStatusPayload, aito_api::ResetPayload))
)]
struct Api;

/// The document as JSON text.
///
/// # Errors
/// When it cannot be written, which is a defect.
pub fn document() -> Result<String, serde_json::Error> {
    Api::openapi().to_pretty_json().map(|text| text + "\n")
}

/// Serves the document.
pub(crate) async fn serve() -> Result<HttpResponse, crate::problem::ApiError> {
    let text = document().map_err(|error| aito_application::Error::Internal(error.into()))?;
    Ok(HttpResponse::Ok().content_type(mime()).body(web::Bytes::from(text)))
}

fn mime() -> &'static str {
    "application/json"
}
