//! Encodes an event once for all listeners, when the first one wants it: its own frame, where it has one, and
//! the `event` frame.
//!
//! Invariant: of the frames that pass a listener's filter the last one carries `last: true` (HTTP contract,
//! WebSocket), so a listener that saw it has the whole event.

use std::sync::OnceLock;

use aito_api::{AgentStatus, AgentStatusPayload, Frame, HealthState, frame_type};
use aito_domain::{
    event::{Event, OF_TOKENS, Payload},
    id::AgentId,
    principal::Principal,
};
use bytestring::ByteString;
use serde::Serialize;

use crate::convert;

/// The kinds of frame that a listener can ask for.
pub(crate) const FRAME_TYPES: [&str; 4] =
    [frame_type::AGENT_STATUS, frame_type::DECISION_VOTE, frame_type::WORKER_LOG, frame_type::EVENT];

/// An event's frames as they are sent.
#[derive(Debug)]
pub struct Frames {
    event: Event,
    /// Made when somebody listens: most events of a quiet installation are heard by nobody.
    encoded: OnceLock<Encoded>,
}

/// A frame as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Its kind.
    pub(crate) kind: &'static str,
    /// Its JSON, in one line.
    pub(crate) text: ByteString,
    /// Where who has read it goes on.
    pub(crate) position: Option<ByteString>,
}

#[derive(Debug)]
struct Encoded {
    position: ByteString,
    specific: Option<Specific>,
    event: ByteString,
}

#[derive(Debug, Clone)]
struct Specific {
    kind: &'static str,
    /// When the `event` frame follows.
    followed: ByteString,
    /// When it is all that the listener wants.
    alone: ByteString,
}

impl Frames {
    /// What to send to a listener with this filter, in order. The last one has the position.
    pub(crate) fn for_filter(&self, filter: &Filter) -> impl Iterator<Item = Sent> {
        let sees = filter.sees.event(&self.event);
        let wants_event = sees && filter.passes(frame_type::EVENT);
        let encoded = self.encoded.get_or_init(|| encode_all(&self.event));
        let specific = encoded.specific.as_ref().filter(|specific| sees && filter.passes(specific.kind));
        let first = specific.map(|s| match wants_event {
            true => Sent { kind: s.kind, text: s.followed.clone(), position: None },
            false => Sent { kind: s.kind, text: s.alone.clone(), position: Some(encoded.position.clone()) },
        });
        let event = wants_event.then(|| Sent {
            kind: frame_type::EVENT,
            text: encoded.event.clone(),
            position: Some(encoded.position.clone()),
        });
        first.into_iter().chain(event)
    }
}

/// What a listener asked for, of what it may see.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    types: Option<Vec<String>>,
    sees: Sees,
}

/// What a listener may see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Sees {
    /// Everything.
    #[default]
    All,
    /// Everything but what is told of tokens.
    AllButTokens,
    /// What is about one agent.
    Agent(AgentId),
}

impl Sees {
    /// What somebody may see who may listen at all.
    pub(crate) fn of(principal: &Principal) -> Self {
        match principal {
            Principal::Agent { id, .. } => Self::Agent(*id),
            other if other.sees_tokens() => Self::All,
            _ => Self::AllButTokens,
        }
    }

    fn event(self, event: &Event) -> bool {
        match self {
            Self::All => true,
            Self::AllButTokens => !OF_TOKENS.contains(&event.event_type.as_str()),
            Self::Agent(id) => event.source_agent == Some(id),
        }
    }

    /// Whether it may see how an agent does.
    pub(crate) fn agent(self, id: AgentId) -> bool {
        !matches!(self, Self::Agent(own) if own != id)
    }
}

impl Filter {
    /// From the parameter `types`; `None` when a name is not known.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let known = names.iter().all(|name| FRAME_TYPES.contains(&name.as_str()));
        known.then_some(Self { types: Some(names), sees: Sees::All })
    }

    /// For somebody who may see this.
    pub(crate) fn seeing(self, sees: Sees) -> Self {
        Self { sees, ..self }
    }

    pub(crate) fn passes(&self, kind: &str) -> bool {
        self.types.as_ref().is_none_or(|names| names.iter().any(|name| name == kind))
    }
}

/// Takes an event to be sent.
pub fn encode(event: &Event) -> Frames {
    Frames { event: event.clone(), encoded: OnceLock::new() }
}

/// [`Frame`] without its own copy of the payload.
#[derive(Serialize)]
struct Written<'a, P> {
    r#type: &'a str,
    payload: &'a P,
    id: uuid::Uuid,
    position: &'a str,
    timestamp: aito_api::Timestamp,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    last: bool,
}

fn encode_all(event: &Event) -> Encoded {
    let position = event.position.to_string();
    let specific = agent_status(event).map(|payload| {
        let kind = frame_type::AGENT_STATUS;
        let frame = |last| written(event, &position, kind, &payload, last);
        Specific { kind, followed: frame(false), alone: frame(true) }
    });
    let wire = convert::event(event.clone());
    let event = written(event, &position, frame_type::EVENT, &wire, true);
    Encoded { specific, event, position: position.into() }
}

fn written(event: &Event, position: &str, r#type: &str, payload: &impl Serialize, last: bool) -> ByteString {
    let (id, timestamp) = (event.id.0, event.created_at.into());
    let frame = Written { r#type, payload, id, position, timestamp, last };
    // As with `text`: strings, numbers and JSON values only.
    serde_json::to_string(&frame).unwrap_or_default().into()
}

/// A frame as text.
pub(crate) fn text(frame: &Frame) -> ByteString {
    // Frames hold strings, numbers and JSON values only: turning them into text cannot fail.
    serde_json::to_string(frame).unwrap_or_default().into()
}

/// The status that an event tells of, if it tells of one.
fn agent_status(event: &Event) -> Option<AgentStatusPayload> {
    let (agent_type, status, health) = match event.payload() {
        Payload::AgentStarting(it) => (it.agent_type, it.status, None),
        Payload::AgentStarted(it) => (it.agent_type, it.status, None),
        Payload::AgentStopping(it) => (it.agent_type, it.status, None),
        Payload::AgentStopped(it) => (it.agent_type, it.status, None),
        Payload::AgentError(it) => (it.agent_type, it.status, None),
        Payload::AgentUnreachable(it) => (it.agent_type, it.status, Some(HealthState::Unreachable)),
        Payload::AgentRecovered(it) => (it.agent_type, it.status, Some(HealthState::Ok)),
        // No other event says which status an agent has.
        _ => return None,
    };
    let status: AgentStatus = convert::status(status);
    Some(AgentStatusPayload { agent_type: agent_type.to_string(), status, health })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use aito_domain::{
        agent::Status,
        event::{Actor, AgentMoved},
        id::{EventId, Incarnation},
        time::millis,
    };
    use serde_json::{Value, json};

    fn event(payload: &Payload) -> Event {
        Event {
            id: EventId(uuid::Uuid::nil()),
            position: "abcd-7".parse().unwrap(),
            event_type: payload.event_type().to_owned(),
            source_agent: None,
            actor: Actor::System,
            body: payload.body(),
            created_at: millis(0),
        }
    }

    fn started() -> Payload {
        Payload::AgentStarted(AgentMoved {
            agent_type: "ceo".parse().unwrap(),
            status: Status::Active,
            incarnation: Incarnation(1),
        })
    }

    fn sent(frames: &Frames, types: Option<&str>) -> Vec<Value> {
        let filter = types.map_or_else(Filter::default, |types| Filter::parse(types).unwrap());
        frames.for_filter(&filter).map(|sent| serde_json::from_str(&sent.text).unwrap()).collect()
    }

    #[test]
    fn the_specific_frame_goes_first_and_the_last_that_passes_says_so() {
        let frames = encode(&event(&started()));
        let all = sent(&frames, None);
        for frame in &all {
            let read: Frame = serde_json::from_value(frame.clone()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), *frame, "what is written is the wire type");
        }
        assert_eq!(
            all[0],
            json!({"type": "agent_status", "payload": {"agentType": "ceo", "status": "active"},
                   "id": uuid::Uuid::nil(), "position": "abcd-7", "timestamp": "1970-01-01T00:00:00.000Z"})
        );
        assert_eq!((all[1]["type"].as_str(), all[1]["last"].as_bool()), (Some("event"), Some(true)));
        assert_eq!(all[1]["payload"]["eventType"], "agent_started");
        assert_eq!(all.len(), 2);

        let only_status = sent(&frames, Some("agent_status"));
        assert_eq!((only_status.len(), &only_status[0]["last"]), (1, &json!(true)));
        let only_event = sent(&frames, Some("event"));
        assert_eq!((only_event.len(), &only_event[0]["type"]), (1, &json!("event")));
        assert!(sent(&frames, Some("worker_log")).is_empty());
    }

    #[test]
    fn the_position_goes_with_the_last_frame_alone() {
        let frames = encode(&event(&started()));
        for (types, expected) in [
            ("agent_status,event", vec![("agent_status", None), ("event", Some("abcd-7"))]),
            ("agent_status", vec![("agent_status", Some("abcd-7"))]),
        ] {
            let sent: Vec<_> = frames.for_filter(&Filter::parse(types).unwrap()).collect();
            let sent: Vec<_> = sent.iter().map(|one| (one.kind, one.position.as_deref())).collect();
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn unknown_frame_types_are_refused_and_unknown_events_are_told() {
        assert!(Filter::parse("event,odd").is_none() && Filter::parse("").is_none());
        let odd = Payload::Unknown { event_type: "later".into(), body: json!({"x": 1}) };
        let frames = sent(&encode(&event(&odd)), None);
        assert_eq!((frames.len(), &frames[0]["payload"]["payload"]), (1, &json!({"x": 1})));
    }
}
