//! What thinking can ask for.
//!
//! Invariants:
//! - A list is read whole: what cannot be read becomes a fault, and the rest is carried out.
//! - At most 50 actions a loop; every text is capped before anything is done with it.

use crate::log::{cap, one_line};
use serde_json::Value;

/// How many actions one loop may have.
pub const MAX_ACTIONS: usize = 50;
const MAX_SUMMARY: usize = 1000;
const MAX_FOCUS: usize = 500;
const MAX_MESSAGE: usize = 2000;
const MAX_DETAILS: usize = 16 << 10;
const MAX_FAULTS: usize = 10;
const ACTION_TYPES: [&str; 5] = ["decision", "task", "communication", "error", "idea"];

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Store a row of history.
    RecordHistory {
        /// `decision`, `task`, `communication`, `error` or `idea`.
        action_type: String,
        /// One line, at most 1000 bytes.
        summary: String,
        /// Any JSON of at most 16 KiB.
        details: Option<Value>,
    },
    /// Say what the agent works on; an empty text clears it.
    SetFocus {
        /// At most 500 bytes.
        focus: String,
    },
    /// Write a line to the agent's log.
    Log {
        /// At most 2000 bytes.
        message: String,
    },
}

impl Action {
    /// The name under which thinking asks for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RecordHistory { .. } => "record_history",
            Self::SetFocus { .. } => "set_focus",
            Self::Log { .. } => "log",
        }
    }
}

/// An entry that is no action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionFault {
    /// Its place in the list, from 0.
    pub index: usize,
    /// What is wrong.
    pub reason: String,
}

/// A list of actions as read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// What can be done, in order.
    pub actions: Vec<Action>,
    /// What cannot, in order.
    pub faults: Vec<ActionFault>,
}

impl Parsed {
    /// All faults in one line; `None` when there are none.
    pub fn complaint(&self) -> Option<String> {
        let (first, rest) =
            (self.faults.iter().take(MAX_FAULTS), self.faults.len().saturating_sub(MAX_FAULTS));
        let told: Vec<_> = first.map(|fault| format!("action {}: {}", fault.index, fault.reason)).collect();
        if told.is_empty() {
            return None;
        }
        let more = if rest > 0 { format!("; and {rest} more") } else { String::new() };
        Some(cap(format!("{}{more}", told.join("; ")), MAX_SUMMARY))
    }
}

/// Reads what thinking answered.
pub fn parse(list: Vec<Value>) -> Parsed {
    let mut parsed = Parsed::default();
    let count = list.len();
    for (index, entry) in list.into_iter().take(MAX_ACTIONS).enumerate() {
        match action(entry) {
            Ok(action) => parsed.actions.push(action),
            Err(reason) => parsed.faults.push(ActionFault { index, reason }),
        }
    }
    if count > MAX_ACTIONS {
        let reason = format!("{} too many, at most {MAX_ACTIONS} a loop", count - MAX_ACTIONS);
        parsed.faults.push(ActionFault { index: MAX_ACTIONS, reason });
    }
    parsed
}

fn action(entry: Value) -> Result<Action, String> {
    let Value::Object(mut entry) = entry else {
        return Err("not an object".to_owned());
    };
    let mut text = |key: &str| match entry.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("{key} is not a text")),
        None => Err(format!("{key} is missing")),
    };
    match text("action")?.as_str() {
        "record_history" => {
            let (action_type, summary) = (text("actionType")?, text("summary")?);
            if !ACTION_TYPES.contains(&action_type.as_str()) {
                return Err(format!("actionType must be one of {}", ACTION_TYPES.join(", ")));
            }
            let summary = one_line(&summary, MAX_SUMMARY);
            if summary.is_empty() {
                return Err("summary is empty".to_owned());
            }
            let details = entry.remove("details").filter(|details| !details.is_null());
            if details.as_ref().is_some_and(|details| details.to_string().len() > MAX_DETAILS) {
                return Err(format!("details are longer than {MAX_DETAILS} bytes"));
            }
            Ok(Action::RecordHistory { action_type, summary, details })
        }
        "set_focus" => Ok(Action::SetFocus { focus: one_line(&text("focus")?, MAX_FOCUS) }),
        "log" => Ok(Action::Log { message: one_line(&text("message")?, MAX_MESSAGE) }),
        unknown => Err(format!("unknown action {:?}", one_line(unknown, 64))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(list: Value) -> Parsed {
        let Value::Array(list) = list else { panic!("not a list") };
        parse(list)
    }

    #[test]
    fn the_good_ones_are_kept_and_the_others_told() {
        let parsed = read(json!([
            {"action": "log", "message": "a\nb"},
            {"action": "send_rocket"},
            {"action": "record_history", "actionType": "task", "summary": "done", "details": {"n": 1}},
            {"action": "record_history", "actionType": "dance", "summary": "x"},
            {"action": "record_history", "actionType": "idea", "summary": " "},
            {"action": "set_focus", "focus": 3},
            {"action": "set_focus", "focus": ""},
            {"message": "no name"},
            "log",
        ]));
        assert_eq!(
            parsed.actions,
            [
                Action::Log { message: "a b".into() },
                Action::RecordHistory {
                    action_type: "task".into(),
                    summary: "done".into(),
                    details: Some(json!({"n": 1}))
                },
                Action::SetFocus { focus: String::new() },
            ]
        );
        let places: Vec<_> = parsed.faults.iter().map(|fault| fault.index).collect();
        assert_eq!(places, [1, 3, 4, 5, 7, 8]);
        let complaint = parsed.complaint().unwrap();
        assert!(complaint.contains("action 1: unknown action \"send_rocket\""), "{complaint}");
        assert!(complaint.contains("decision, task, communication, error, idea"), "{complaint}");
    }

    #[test]
    fn numbers_and_lengths_are_bounded() {
        let parsed = read(Value::Array(vec![json!({"action": "log", "message": "m".repeat(9000)}); 70]));
        assert_eq!(parsed.actions.len(), MAX_ACTIONS);
        assert_eq!(parsed.complaint().unwrap(), "action 50: 20 too many, at most 50 a loop");
        assert!(matches!(&parsed.actions[0], Action::Log { message } if message.len() == MAX_MESSAGE));
        let parsed = read(json!([
            {"action": "record_history", "actionType": "idea", "summary": "s", "details": "d".repeat(MAX_DETAILS)},
            {"action": "record_history", "actionType": "idea", "summary": "s".repeat(5000)},
            {"action": "set_focus", "focus": "f".repeat(5000)},
        ]));
        assert_eq!(parsed.faults.len(), 1);
        assert!(
            matches!(&parsed.actions[0], Action::RecordHistory { summary, .. } if summary.len() == MAX_SUMMARY)
        );
        assert!(matches!(&parsed.actions[1], Action::SetFocus { focus } if focus.len() == MAX_FOCUS));
        let parsed = read(Value::Array(vec![json!({"action": "x".repeat(5000)}); 50]));
        assert!(parsed.complaint().unwrap().len() <= MAX_SUMMARY);
    }

    #[test]
    fn nothing_wrong_is_no_complaint() {
        assert_eq!(read(json!([])).complaint(), None);
    }
}
