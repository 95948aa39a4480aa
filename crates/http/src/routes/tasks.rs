//! Tasks.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use aito_api as api;
use aito_application::{
    Error,
    tasks::{EditTask, Ending, NewTask, TaskView, Wanted},
};
use aito_domain::{
    access::Operation,
    id::{AgentId, AgentType, TaskId},
    ports::task_store::TaskCursor,
    task::TaskStatus,
};

use super::agents::speaking;
use crate::{
    caller::Caller,
    convert, cursor,
    extract::{Body, OptionalBody, Query, etag, if_match, known_id},
    problem::ApiError,
    state::AppState,
};

type State = web::Data<AppState>;

/// The farthest that a page may begin after the first task, without a cursor.
const MAX_OFFSET: u32 = 100_000;

/// Tasks, newest first; an agent sees those that were assigned to or created by it.
///
/// `total` is exact up to 10,000 and may be an estimate above; `totalExact` says so. Of large tasks a page has fewer than
/// asked for (it ends after 4 MiB); `limit` is then how many it has, and `nextCursor` leads on.
#[utoipa::path(
    get, path = "/tasks", tag = "tasks", operation_id = "listTasks",
    params(
        ("status" = Option<String>, Query, description = "Only tasks of this status", pattern = "^(pending|in_progress|completed|failed|cancelled)$", example = "pending"),
        ("assignedTo" = Option<String>, Query, description = "Only tasks of this agent: its type or id", max_length = 64, example = "cmo"),
        ("limit" = Option<u32>, Query, description = "How many at most; 50 if absent", minimum = 1, maximum = 500, example = 50),
        ("offset" = Option<u32>, Query, description = "How many to leave out; 0 if absent. A cursor costs less", minimum = 0, maximum = 100_000, example = 0),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before", min_length = 1, pattern = "^[A-Za-z0-9_-]+$"),
    ),
    responses((status = 200, description = "Tasks", body = api::TaskList))
)]
pub(crate) async fn list(state: State, caller: Caller, req: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::of(&req)?;
    let status =
        query.parsed("status", "one of pending, in_progress, completed, failed, cancelled", |text| {
            text.parse::<TaskStatus>().ok()
        });
    // Whether there is such an agent, the store has to say.
    let assigned_to = query.parsed("assignedTo", "an agent's type or id", |text| {
        let named = text.parse::<AgentId>().is_ok() || text.parse::<AgentType>().is_ok();
        named.then(|| text.to_owned())
    });
    let wanted = Wanted { status, assigned_to };
    let limit = query.limit("limit", 50, 500);
    let offset = query.number("offset", MAX_OFFSET);
    let before = query.parsed("cursor", cursor::ALLOWED, |text| {
        cursor::read(text).map(|(at, id)| TaskCursor { at, id: TaskId(id) })
    });
    query.done()?;
    let viewer = caller.agent().map(|agent| agent.id);
    let sees = viewer.map(|id| id.to_string()).unwrap_or_default();
    let asking = state.clone();
    state
        .answers
        .json(&req, &sees, move || {
            let (state, wanted) = (asking.clone(), wanted.clone());
            async move {
                let page = state.tasks.list(&wanted, viewer, before, offset, limit).await?;
                let last = page.tasks.last().filter(|_| page.goes_on);
                let next = last.map(|view| cursor::write(view.task.created_at, view.task.id.0));
                Ok(convert::task_list(page, limit, offset, next))
            }
        })
        .await
}

/// One task.
///
/// For an agent there is none but those that were assigned to or created by it.
#[utoipa::path(
    get, path = "/tasks/{id}", tag = "tasks", operation_id = "getTask",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The task", body = api::TaskAnswer, headers(("ETag" = String, description = "Its state, for `If-Match`"))))
)]
pub(crate) async fn get(
    state: State,
    caller: Caller,
    path: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = known_id(&path, "task")?;
    let view = state.tasks.get(id, caller.agent().map(|agent| agent.id)).await?;
    Ok(shown(HttpResponse::Ok(), view))
}

/// Creates a task and wakes its agent.
///
/// When the agent is woken depends on the priority (settings `queue.delay_*`). An agent may create no critical ones.
#[utoipa::path(
    post, path = "/tasks", tag = "tasks", operation_id = "createTask",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition with the same key within 24 h creates no second task and gets the first answer")),
    request_body = api::NewTask,
    responses(
        (status = 201, description = "Created", body = api::TaskAnswer, headers(
            ("Location" = String, description = "The task's path"),
            ("ETag" = String, description = "Its state, for `If-Match`"),
        )),
    )
)]
pub(crate) async fn create(
    state: State,
    caller: Caller,
    req: HttpRequest,
    body: Body<api::NewTask>,
) -> Result<HttpResponse, ApiError> {
    let once = caller.once(&req)?;
    let api::NewTask { title, description, assign_to, priority, due_date } = body.0;
    let new = NewTask {
        title: title.unwrap_or_default(),
        description,
        assign_to: assign_to.unwrap_or_default(),
        priority: priority.unwrap_or_default(),
        due_date,
    };
    let view = state.tasks.create(new, caller.agent(), &caller.by(), once.as_ref(), &state.quotas).await?;
    let mut response = HttpResponse::Created();
    response.insert_header((header::LOCATION, format!("/tasks/{}", view.task.id)));
    Ok(shown(response, view))
}

/// Changes what a task says, or whose it is.
///
/// What is left out stays. It goes to another agent only while nobody works on it; what has ended stays as it is.
#[utoipa::path(
    patch, path = "/tasks/{id}", tag = "tasks", operation_id = "editTask",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("If-Match" = Option<String>, Header, description = "Only if it is in this state: the `etag` of a task, or `*`"),
    ),
    request_body = api::EditTask,
    responses(
        (status = 200, description = "Changed, or as it was", body = api::TaskAnswer, headers(("ETag" = String, description = "Its state, for `If-Match`"))),
        (status = 409, description = "It has ended, or is in progress and would go to another agent", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn edit(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    req: HttpRequest,
    body: Body<api::EditTask>,
) -> Result<HttpResponse, ApiError> {
    let id = known_id(&path, "task")?;
    let api::EditTask { title, description, assign_to, priority, due_date, status } = body.0;
    let edit = EditTask { title, description, assign_to, priority, due_date, status: status.is_some() };
    let view = state.tasks.edit(id, edit, if_match(&req).as_ref(), &caller.by()).await?;
    Ok(shown(HttpResponse::Ok(), view))
}

/// Gives an agent its next task.
///
/// For the agent itself: critical, urgent, high, normal, low, then the oldest; waiting raises a task, never past high. The
/// claim ends with the incarnation. Without a task, `reason` says why.
#[utoipa::path(
    post, path = "/tasks/claim", tag = "tasks", operation_id = "claimTask",
    request_body = api::ClaimTask,
    responses(
        (status = 200, description = "The task, or null", body = api::TaskClaimed),
        (status = 409, description = "The agent does not run, or was never started", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn claim(
    state: State,
    caller: Caller,
    body: Body<api::ClaimTask>,
) -> Result<web::Json<api::TaskClaimed>, ApiError> {
    let named = body.0.agent.unwrap_or_default();
    let agent_type = named
        .parse::<AgentType>()
        .map_err(|why| ApiError::fault("/agent", format!("must be the type of an agent: {why}")))?;
    caller.may(Operation::ClaimTask, agent_type.as_str())?;
    state.fleet.agent(&agent_type).await.map_err(|why| match why {
        Error::NotFound(_) => {
            ApiError::fault("/agent", format!("must be the type of an agent; there is no {agent_type}"))
        }
        why => why.into(),
    })?;
    let claimed = speaking(&state, &caller, agent_type.as_str(), async |agent, incarnation| {
        state.tasks.claim(agent.id, incarnation, &caller.by()).await
    })
    .await?;
    Ok(web::Json(convert::claim(claimed)))
}

/// Says that a task is done.
///
/// For the incarnation that holds it, and for operators, who may end any task that has not ended.
#[utoipa::path(
    post, path = "/tasks/{id}/complete", tag = "tasks", operation_id = "completeTask",
    params(("id" = String, Path, description = "The task's id")),
    request_body(content = Option<api::CompleteTask>),
    responses(
        (status = 200, description = "Done", body = api::TaskAnswer, headers(("ETag" = String, description = "Its state, for `If-Match`"))),
        (status = 409, description = "It has ended, or the caller does not hold it", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn complete(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    body: OptionalBody<api::CompleteTask>,
) -> Result<HttpResponse, ApiError> {
    end(&state, &caller, &path, Ending::Complete(body.0.result)).await
}

/// Says that a task is given up.
///
/// For the incarnation that holds it, and for operators. It is not tried again by itself.
#[utoipa::path(
    post, path = "/tasks/{id}/fail", tag = "tasks", operation_id = "failTask",
    params(("id" = String, Path, description = "The task's id")),
    request_body = api::FailTask,
    responses(
        (status = 200, description = "Given up", body = api::TaskAnswer, headers(("ETag" = String, description = "Its state, for `If-Match`"))),
        (status = 409, description = "It has ended, or the caller does not hold it", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn fail(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    body: Body<api::FailTask>,
) -> Result<HttpResponse, ApiError> {
    end(&state, &caller, &path, Ending::Fail(body.0.error.unwrap_or_default())).await
}

/// Says that a task is not wanted any more.
///
/// For the agents that it was assigned to or created by, and for operators. Cancelled already is a success.
#[utoipa::path(
    post, path = "/tasks/{id}/cancel", tag = "tasks", operation_id = "cancelTask",
    params(("id" = String, Path, description = "The task's id")),
    request_body(content = Option<api::CancelTask>),
    responses(
        (status = 200, description = "Cancelled", body = api::TaskAnswer, headers(("ETag" = String, description = "Its state, for `If-Match`"))),
        (status = 409, description = "It was done or given up", body = api::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    state: State,
    caller: Caller,
    path: web::Path<String>,
    body: OptionalBody<api::CancelTask>,
) -> Result<HttpResponse, ApiError> {
    end(&state, &caller, &path, Ending::Cancel(body.0.reason)).await
}

async fn end(state: &AppState, caller: &Caller, id: &str, ending: Ending) -> Result<HttpResponse, ApiError> {
    let id = known_id(id, "task")?;
    let view = state.tasks.end(id, ending, caller.incarnation(), &caller.by()).await?;
    Ok(shown(HttpResponse::Ok(), view))
}

fn shown(mut response: actix_web::HttpResponseBuilder, view: TaskView) -> HttpResponse {
    response.insert_header((header::ETAG, etag(view.task.version)));
    response.json(api::TaskAnswer { success: true, task: convert::task(view) })
}
