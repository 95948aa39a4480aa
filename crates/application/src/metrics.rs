//! What is counted, in the OpenMetrics text form at `GET /metrics`.
//!
//! Invariant: label values come from closed sets (route patterns, kinds, outcomes), never from callers.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Effect {
    effect: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AgentLabels {
    r#type: String,
    status: &'static str,
}

/// Every counter of this process.
pub struct Metrics {
    registry: Registry,
    commits: Family<Outcome, Counter>,
    commit_seconds: Histogram,
    events: Counter,
    heartbeats: Family<Outcome, Counter>,
    effects: Family<Effect, Counter>,
    passes: Family<Outcome, Counter>,
    pass_seconds: Histogram,
    requests: Family<Request, Counter>,
    request_seconds: Histogram,
    listeners: Gauge,
    evicted: Counter,
    agents: Family<AgentLabels, Gauge>,
    uptime: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        let mut registry = Registry::with_prefix("aito");
        let metrics = Self {
            commits: Family::default(),
            commit_seconds: seconds(),
            events: Counter::default(),
            heartbeats: Family::default(),
            effects: Family::default(),
            passes: Family::default(),
            pass_seconds: seconds(),
            requests: Family::default(),
            request_seconds: seconds(),
            listeners: Gauge::default(),
            evicted: Counter::default(),
            agents: Family::default(),
            uptime: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("commits", "Commits by outcome", metrics.commits.clone());
        registry.register_with_unit(
            "commit_duration",
            "Time of a commit",
            Unit::Seconds,
            metrics.commit_seconds.clone(),
        );
        registry.register("events_written", "Events committed by this process", metrics.events.clone());
        registry.register("heartbeats", "Heartbeats by outcome", metrics.heartbeats.clone());
        registry.register("runtime_effects", "Calls of the container runtime", metrics.effects.clone());
        registry.register("reconcile_passes", "Reconcile passes by outcome", metrics.passes.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time of a reconcile pass",
            Unit::Seconds,
            metrics.pass_seconds.clone(),
        );
        registry.register("http_requests", "HTTP requests by route and status", metrics.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time of an HTTP request",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        registry.register("event_listeners", "Open event streams", metrics.listeners.clone());
        registry.register(
            "event_listeners_evicted",
            "Event streams cut because they fell behind",
            metrics.evicted.clone(),
        );
        registry.register("agent_status", "1 for the status that an agent has", metrics.agents.clone());
        registry.register_with_unit(
            "uptime",
            "Time since this process began",
            Unit::Seconds,
            metrics.uptime.clone(),
        );
        Self { registry, ..metrics }
    }

    /// The text that a scraper reads.
    #[must_use]
    pub fn render(&self, uptime: Duration) -> String {
        self.uptime.set(uptime.as_secs_f64());
        let mut out = String::new();
        if encode(&mut out, &self.registry).is_err() {
            unreachable!("writing into a string does not fail");
        }
        out
    }

    pub(crate) fn commit(&self, events: usize, took: Duration, applied: bool) {
        self.commits
            .get_or_create(&Outcome { outcome: if applied { "applied" } else { "not_applied" } })
            .inc();
        self.commit_seconds.observe(took.as_secs_f64());
        if applied {
            self.events.inc_by(events as u64);
        }
    }

    pub(crate) fn heartbeat(&self, accepted: bool) {
        self.heartbeats
            .get_or_create(&Outcome { outcome: if accepted { "accepted" } else { "refused" } })
            .inc();
    }

    pub(crate) fn effect(&self, effect: &'static str, succeeded: bool) {
        let outcome = if succeeded { "ok" } else { "failed" };
        self.effects.get_or_create(&Effect { effect, outcome }).inc();
    }

    pub(crate) fn pass(&self, took: Duration, succeeded: bool) {
        self.passes.get_or_create(&Outcome { outcome: if succeeded { "ok" } else { "failed" } }).inc();
        self.pass_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn agent(&self, agent_type: &str, status: aito_domain::agent::Status) {
        for each in aito_domain::agent::Status::ALL {
            let labels = AgentLabels { r#type: agent_type.to_owned(), status: each.as_str() };
            self.agents.get_or_create(&labels).set(i64::from(each == status));
        }
    }

    /// Counts an answered request; `route` is the pattern, not the path.
    pub fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = Request { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// An event stream opened.
    pub fn listener_opened(&self) {
        self.listeners.inc();
    }

    /// An event stream ended; `evicted`: because it fell behind or did not answer.
    pub fn listener_closed(&self, evicted: bool) {
        self.listeners.dec();
        if evicted {
            self.evicted.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered() {
        let metrics = Metrics::new();
        metrics.commit(3, Duration::from_millis(2), true);
        metrics.request("GET", "/agents", 200, Duration::from_millis(1));
        metrics.agent("ceo", aito_domain::agent::Status::Active);
        let text = metrics.render(Duration::from_secs(5));
        for line in [
            "aito_events_written_total 3",
            "aito_commits_total{outcome=\"applied\"} 1",
            "aito_http_requests_total{method=\"GET\",route=\"/agents\",status=\"200\"} 1",
            "aito_agent_status{type=\"ceo\",status=\"active\"} 1",
            "aito_agent_status{type=\"ceo\",status=\"error\"} 0",
            "aito_uptime_seconds 5.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
    }
}
