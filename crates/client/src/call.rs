//! The calls, one method each, in the order of the interface's description.
//!
//! Invariant: a method sends exactly one request and returns the documented answer or an [`Error`].

use crate::{Client, Error, sse};
use aito_api::{
    AgentDetail, AgentHealth, AgentHealthAnswer, AgentList, AgentSpec, AgentSpecAnswer, AgentStats,
    AgentStatsAnswer, ContainerList, EventList, Frame, Health, HealthFull, HeartbeatAnswer, HeartbeatRequest,
    HistoryCreated, HistoryList, LogLine, LogList, NewHistory, Ready, Started, Stopped, Timestamp,
};
use reqwest::Url;

/// A page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// How many at most, 1 to 500; the server's default when not given.
    pub limit: Option<u32>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
}

/// Which events to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only this type.
    pub event_type: Option<String>,
    /// Which page.
    pub page: Page,
}

/// Which log lines to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last so many; the server's default when not given.
    pub tail: Option<u32>,
    /// Only those at or after.
    pub since: Option<Timestamp>,
    /// Those of the incarnation before the present one.
    pub previous: bool,
}

impl Client {
    /// `GET /health`.
    ///
    /// # Errors
    /// See [`Error`]; so for all calls.
    pub async fn health(&self) -> Result<Health, Error> {
        self.get(self.url(&["health"])).await
    }

    /// `GET /ready`; a server that says that it is not ready has answered too.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ready(&self) -> Result<Ready, Error> {
        self.get_even_unavailable(self.url(&["ready"])).await
    }

    /// `GET /health/full`; a server that says that it is unhealthy has answered too.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn health_full(&self) -> Result<HealthFull, Error> {
        self.get_even_unavailable(self.url(&["health", "full"])).await
    }

    /// `GET /agents`, optionally only those of one status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn agents(&self, status: Option<&str>) -> Result<AgentList, Error> {
        self.get(query(self.url(&["agents"]), &[("status", status)])).await
    }

    /// `GET /agents/{type}`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn agent(&self, agent_type: &str) -> Result<AgentDetail, Error> {
        self.get(self.url(&["agents", agent_type])).await
    }

    /// `GET /containers`: the first 500.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn containers(&self) -> Result<ContainerList, Error> {
        self.get(self.url(&["containers"])).await
    }

    /// `POST /agents/{type}/start`.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, the wish may have been stored.
    pub async fn start(&self, agent_type: &str) -> Result<Started, Error> {
        self.effect(self.url(&["agents", agent_type, "start"])).await
    }

    /// `POST /agents/{type}/stop`.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, the wish may have been stored.
    pub async fn stop(&self, agent_type: &str) -> Result<Stopped, Error> {
        self.effect(self.url(&["agents", agent_type, "stop"])).await
    }

    /// `POST /agents/{type}/restart`.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, the wish may have been stored.
    pub async fn restart(&self, agent_type: &str) -> Result<Started, Error> {
        self.effect(self.url(&["agents", agent_type, "restart"])).await
    }

    /// `POST /agents/{type}/heartbeat`; answers the control channel.
    ///
    /// # Errors
    /// See [`Error`]; 401 for a past incarnation, 403 for another agent.
    pub async fn heartbeat(
        &self,
        agent_type: &str,
        heartbeat: &HeartbeatRequest,
    ) -> Result<HeartbeatAnswer, Error> {
        self.post(self.url(&["agents", agent_type, "heartbeat"]), heartbeat).await
    }

    /// `GET /agents/{type}/history`, newest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn history(&self, agent_type: &str, page: &Page) -> Result<HistoryList, Error> {
        self.get(paged(self.url(&["agents", agent_type, "history"]), page)).await
    }

    /// `POST /agents/{type}/history`.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, the row may have been stored.
    pub async fn record_history(&self, agent_type: &str, row: &NewHistory) -> Result<HistoryCreated, Error> {
        self.post(self.url(&["agents", agent_type, "history"]), row).await
    }

    /// The same with an `Idempotency-Key`: whoever repeats the call with the same key and row stores it once.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn record_history_once(
        &self,
        agent_type: &str,
        row: &NewHistory,
        key: &str,
    ) -> Result<HistoryCreated, Error> {
        self.post_once(self.url(&["agents", agent_type, "history"]), row, key).await
    }

    /// `GET /events`, newest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn events(&self, wanted: &EventQuery) -> Result<EventList, Error> {
        let url = query(self.url(&["events"]), &[("type", wanted.event_type.as_deref())]);
        self.get(paged(url, &wanted.page)).await
    }

    /// `GET /agents/{type}/events`, newest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn agent_events(&self, agent_type: &str, page: &Page) -> Result<EventList, Error> {
        self.get(paged(self.url(&["agents", agent_type, "events"]), page)).await
    }

    /// `GET /agents/{type}/health`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn agent_health(&self, agent_type: &str) -> Result<AgentHealth, Error> {
        let answer: AgentHealthAnswer = self.get(self.url(&["agents", agent_type, "health"])).await?;
        Ok(answer.health)
    }

    /// `GET /agents/{type}/spec`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn spec(&self, agent_type: &str) -> Result<AgentSpec, Error> {
        let answer: AgentSpecAnswer = self.get(self.url(&["agents", agent_type, "spec"])).await?;
        Ok(answer.spec)
    }

    /// `GET /agents/{type}/stats`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stats(&self, agent_type: &str) -> Result<AgentStats, Error> {
        let answer: AgentStatsAnswer = self.get(self.url(&["agents", agent_type, "stats"])).await?;
        Ok(answer.stats)
    }

    /// `GET /agents/{type}/logs`, oldest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn logs(&self, agent_type: &str, wanted: &LogQuery) -> Result<LogList, Error> {
        self.get(self.log_url(agent_type, wanted)).await
    }

    /// `GET /agents/{type}/logs?follow=true`: the wanted lines, then new ones as they come.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn follow_logs(&self, agent_type: &str, wanted: &LogQuery) -> Result<LogFollow, Error> {
        let url = query(self.log_url(agent_type, wanted), &[("follow", Some("true"))]);
        let response = self.stream(url).await?;
        Ok(LogFollow { events: sse::Events::of(response, self.options().idle_timeout) })
    }

    /// `GET /events/stream`: the frames that a WebSocket gets, of these types (all when none is given), first the present
    /// status of every agent, then from after `since` on, which goes as `Last-Event-ID`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stream_events(&self, types: &[&str], since: Option<&str>) -> Result<EventStream, Error> {
        let types = (!types.is_empty()).then(|| types.join(","));
        let url = query(self.url(&["events", "stream"]), &[("types", types.as_deref())]);
        let response = self.stream_from(url, since).await?;
        let events = sse::Events::of(response, self.options().idle_timeout);
        Ok(EventStream { events, position: since.map(str::to_owned) })
    }

    /// `GET /metrics`, in the text format of OpenMetrics.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn metrics(&self) -> Result<String, Error> {
        self.text(self.url(&["metrics"])).await
    }

    /// `GET /openapi.json`: the description of the interface that the server itself gives.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn openapi(&self) -> Result<serde_json::Value, Error> {
        self.get(self.url(&["openapi.json"])).await
    }

    fn log_url(&self, agent_type: &str, wanted: &LogQuery) -> Url {
        let (tail, since) =
            (wanted.tail.map(|tail| tail.to_string()), wanted.since.map(|since| since.to_string()));
        query(
            self.url(&["agents", agent_type, "logs"]),
            &[
                ("tail", tail.as_deref()),
                ("since", since.as_deref()),
                ("previous", wanted.previous.then_some("true")),
            ],
        )
    }
}

/// Frames as they come, over server-sent events.
#[derive(Debug)]
pub struct EventStream {
    events: sse::Events,
    position: Option<String>,
}

impl EventStream {
    /// The next frame; `None` when the server ended the stream. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the connection broke or was silent for too long, [`Error::Protocol`] when something
    /// other than a frame came.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        let Some(event) = self.events.next().await? else { return Ok(None) };
        if !event.id.is_empty() {
            self.position = Some(event.id);
        }
        let frame = serde_json::from_str(&event.data);
        frame.map(Some).map_err(|error| Error::Protocol(format!("not a frame: {error}")))
    }

    /// Where to go on: everything up to here was read whole.
    pub fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }
}

/// Log lines as they come.
#[derive(Debug)]
pub struct LogFollow {
    events: sse::Events,
}

impl LogFollow {
    /// The next line; `None` when the server ended the stream. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the connection broke or was silent for too long, [`Error::Protocol`] when
    /// something other than a log line came.
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        while let Some(event) = self.events.next().await? {
            match event.name.as_str() {
                "" | "message" | "log" => {
                    return serde_json::from_str(&event.data)
                        .map(Some)
                        .map_err(|error| Error::Protocol(format!("not a log line: {error}")));
                }
                "end" => self.events.end(),
                // The list of event names is open.
                _ => {}
            }
        }
        Ok(None)
    }

    /// The same as a stream; it ends after the first error.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<LogLine, Error>> + Send {
        futures_util::stream::unfold(Some(self), |follow| async {
            let mut follow = follow?;
            match follow.next().await {
                Ok(Some(line)) => Some((Ok(line), Some(follow))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

/// Adds what names the page.
pub(crate) fn paged(url: Url, page: &Page) -> Url {
    let limit = page.limit.map(|limit| limit.to_string());
    query(url, &[("limit", limit.as_deref()), ("cursor", page.cursor.as_deref())])
}

/// Adds the pairs that have a value.
pub(crate) fn query(mut url: Url, pairs: &[(&str, Option<&str>)]) -> Url {
    for (name, value) in pairs {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    url
}
