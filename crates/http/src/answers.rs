//! Answers that callers who ask the same at the same time share: found once, written as JSON once.
//!
//! Invariant: what is asked for is the whole question, path and query, and what the asker may see of the answer.

use actix_web::{HttpRequest, HttpResponse, http::header::ContentType, web::Bytes};
use aito_api::ProblemKind;
use aito_application::shared::Shared;
use serde::Serialize;

use crate::problem::ApiError;

/// The answers that are being worked on.
#[derive(Default)]
pub struct Answers(Shared<String, Result<Bytes, ApiError>>);

impl Answers {
    /// The answer to a request whose permission was checked already; `sees` tells those apart who see different
    /// things of it.
    pub(crate) async fn json<T, F>(
        &self,
        req: &HttpRequest,
        sees: &str,
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<HttpResponse, ApiError>
    where
        T: Serialize + Send,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let question = format!("{sees} {}?{}", req.path(), req.query_string());
        let written = move || {
            let asked = ask();
            async move {
                let answer = asked.await?;
                let text = serde_json::to_vec(&answer)
                    .map_err(|_| ApiError::new(ProblemKind::Internal, "the answer cannot be written"))?;
                Ok(Bytes::from(text))
            }
        };
        let bytes = self.0.get(question, written).await.unwrap_or_else(|| {
            Err(ApiError::new(ProblemKind::Internal, "the server failed; the log says why"))
        })?;
        Ok(HttpResponse::Ok().content_type(ContentType::json()).body(bytes))
    }
}
