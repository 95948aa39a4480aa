//! What thinking can ask for.
//!
//! Invariants:
//! - A list is read whole: what cannot be read becomes a fault, and the rest is carried out.
//! - At most 100 actions a loop, so that there can be one for each message that a loop is shown; every text is capped
//!   before anything is done with it.

use crate::log::{cap, one_line};
use aito_api::{NewMessage, NewTask, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

/// How many actions one loop may have.
pub const MAX_ACTIONS: usize = 100;
const MAX_SUMMARY: usize = 1000;
const MAX_FOCUS: usize = 500;
const MAX_LOG: usize = 2000;
const MAX_DETAILS: usize = 16 << 10;
const MAX_TITLE: usize = 500;
const MAX_DESCRIPTION: usize = 50_000;
const MAX_RESULT: usize = 65_536;
const MAX_TEXT: usize = 10_000;
const MAX_FAULTS: usize = 10;
const ACTION_TYPES: [&str; 5] = ["decision", "task", "communication", "error", "idea"];
const PRIORITIES: [&str; 5] = ["low", "normal", "high", "urgent", "critical"];

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
    /// Make a task for an agent: a title of at most 500 bytes, a description of at most 50,000.
    CreateTask(NewTask),
    /// Take the most urgent task that waits for this agent.
    Claim,
    /// Say that a task is done.
    CompleteTask {
        /// The task.
        id: Uuid,
        /// What came of it: any JSON of at most 65,536 bytes.
        result: Option<Value>,
    },
    /// Say that a task could not be done.
    FailTask {
        /// The task.
        id: Uuid,
        /// Why: at most 10,000 bytes.
        error: String,
    },
    /// Write to an agent.
    SendMessage {
        /// Its type.
        to: String,
        /// A text of at most 10,000 bytes, and how urgent it is.
        message: NewMessage,
    },
}

impl Action {
    /// The name under which thinking asks for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RecordHistory { .. } => "record_history",
            Self::SetFocus { .. } => "set_focus",
            Self::Log { .. } => "log",
            Self::CreateTask(_) => "create_task",
            Self::Claim => "claim",
            Self::CompleteTask { .. } => "complete_task",
            Self::FailTask { .. } => "fail_task",
            Self::SendMessage { .. } => "send_message",
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
    let Value::Object(entry) = entry else {
        return Err("not an object".to_owned());
    };
    let mut fields = Fields(entry);
    match fields.text("action")?.as_str() {
        "record_history" => {
            let action_type = fields.word("actionType", &ACTION_TYPES)?;
            let summary = fields.line("summary", MAX_SUMMARY)?;
            Ok(Action::RecordHistory { action_type, summary, details: fields.json("details", MAX_DETAILS)? })
        }
        "set_focus" => Ok(Action::SetFocus { focus: one_line(&fields.text("focus")?, MAX_FOCUS) }),
        "log" => Ok(Action::Log { message: one_line(&fields.text("message")?, MAX_LOG) }),
        "create_task" => Ok(Action::CreateTask(NewTask {
            title: Some(fields.line("title", MAX_TITLE)?),
            description: fields.given_text("description")?.map(|text| lines(text, MAX_DESCRIPTION)),
            assign_to: Some(fields.agent_type("assignTo")?),
            priority: Some(fields.word("priority", &PRIORITIES)?),
            due_date: fields.time("dueDate")?,
        })),
        "claim" => Ok(Action::Claim),
        "complete_task" => {
            Ok(Action::CompleteTask { id: fields.id("taskId")?, result: fields.json("result", MAX_RESULT)? })
        }
        "fail_task" => {
            Ok(Action::FailTask { id: fields.id("taskId")?, error: fields.lines("error", MAX_TEXT)? })
        }
        "send_message" => Ok(Action::SendMessage {
            to: fields.agent_type("to")?,
            message: NewMessage::new(
                fields.lines("message", MAX_TEXT)?,
                fields.word("priority", &PRIORITIES)?,
            ),
        }),
        unknown => Err(format!("unknown action {:?}", one_line(unknown, 64))),
    }
}

/// The fields of an action; each is taken once.
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&mut self, key: &str) -> Result<String, String> {
        match self.0.remove(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(format!("{key} is not a text")),
            None => Err(format!("{key} is missing")),
        }
    }

    /// A text that may be null or absent.
    fn given_text(&mut self, key: &str) -> Result<Option<String>, String> {
        if self.0.get(key).is_none_or(Value::is_null) { Ok(None) } else { self.text(key).map(Some) }
    }

    /// A text of one line, not empty, cut to at most `max` bytes.
    fn line(&mut self, key: &str, max: usize) -> Result<String, String> {
        filled(key, one_line(&self.text(key)?, max))
    }

    /// A text of any number of lines, not empty, cut to at most `max` bytes.
    fn lines(&mut self, key: &str, max: usize) -> Result<String, String> {
        filled(key, lines(self.text(key)?, max))
    }

    fn word(&mut self, key: &str, allowed: &[&str]) -> Result<String, String> {
        let word = self.text(key)?;
        if allowed.contains(&word.as_str()) {
            Ok(word)
        } else {
            Err(format!("{key} must be one of {}", allowed.join(", ")))
        }
    }

    fn agent_type(&mut self, key: &str) -> Result<String, String> {
        let text = self.text(key)?;
        if is_agent_type(&text) { Ok(text) } else { Err(format!("{key} is no type of an agent")) }
    }

    fn id(&mut self, key: &str) -> Result<Uuid, String> {
        Uuid::parse_str(&self.text(key)?).map_err(|_| format!("{key} is not a UUID"))
    }

    /// A time that may be null or absent.
    fn time(&mut self, key: &str) -> Result<Option<String>, String> {
        let text = self.given_text(key)?;
        if text.as_ref().is_some_and(|text| text.parse::<Timestamp>().is_err()) {
            return Err(format!("{key} is not an RFC 3339 time"));
        }
        Ok(text)
    }

    /// Any JSON of at most `max` bytes; null like absent.
    fn json(&mut self, key: &str, max: usize) -> Result<Option<Value>, String> {
        let value = self.0.remove(key).filter(|value| !value.is_null());
        if value.as_ref().is_some_and(|value| value.to_string().len() > max) {
            return Err(format!("{key} is longer than {max} bytes"));
        }
        Ok(value)
    }
}

fn filled(key: &str, text: String) -> Result<String, String> {
    if text.trim().is_empty() { Err(format!("{key} is empty")) } else { Ok(text) }
}

/// `text` with its lines, cut to at most `max` bytes. The server takes no NUL.
fn lines(text: String, max: usize) -> String {
    cap(text.replace('\0', " "), max)
}

/// Whether `text` can be an agent's type: `^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`.
fn is_agent_type(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 32
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(known)
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
        let parsed = read(Value::Array(vec![json!({"action": "log", "message": "m".repeat(9000)}); 120]));
        assert_eq!(parsed.actions.len(), MAX_ACTIONS);
        assert_eq!(parsed.complaint().unwrap(), "action 100: 20 too many, at most 100 a loop");
        assert!(matches!(&parsed.actions[0], Action::Log { message } if message.len() == MAX_LOG));
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
        let parsed = read(Value::Array(vec![json!({"action": "x".repeat(5000)}); 100]));
        assert!(parsed.complaint().unwrap().len() <= MAX_SUMMARY);
    }

    #[test]
    fn nothing_wrong_is_no_complaint() {
        assert_eq!(read(json!([])).complaint(), None);
    }

    const ID: &str = "019ab1c2-7d3e-7f40-8a51-62c3d4e5f607";

    #[test]
    fn what_is_asked_about_tasks_and_messages_is_read() {
        let id: Uuid = ID.parse().unwrap();
        let parsed = read(json!([
            {"action": "create_task", "title": "a\nb", "assignTo": "cmo", "priority": "high"},
            {"action": "create_task", "title": "t", "description": "1\n2\u{0}", "assignTo": "c-3",
             "priority": "low", "dueDate": "2026-01-02T03:04:05+01:00"},
            {"action": "create_task", "title": "t", "description": null, "assignTo": "c", "priority": "low",
             "dueDate": null},
            {"action": "claim"},
            {"action": "complete_task", "taskId": ID, "result": {"pages": 2}},
            {"action": "complete_task", "taskId": ID, "result": null},
            {"action": "fail_task", "taskId": ID, "error": "no\nfigures"},
            {"action": "send_message", "to": "cfo", "message": "Dear\n\nall", "priority": "urgent"},
        ]));
        assert_eq!(parsed.complaint(), None);
        let second = NewTask {
            description: Some("1\n2 ".into()),
            due_date: Some("2026-01-02T03:04:05+01:00".into()),
            ..NewTask::new("t", "c-3", "low")
        };
        assert_eq!(
            parsed.actions,
            [
                Action::CreateTask(NewTask::new("a b", "cmo", "high")),
                Action::CreateTask(second),
                Action::CreateTask(NewTask::new("t", "c", "low")),
                Action::Claim,
                Action::CompleteTask { id, result: Some(json!({"pages": 2})) },
                Action::CompleteTask { id, result: None },
                Action::FailTask { id, error: "no\nfigures".into() },
                Action::SendMessage { to: "cfo".into(), message: NewMessage::new("Dear\n\nall", "urgent") },
            ]
        );
        let names: Vec<_> = parsed.actions.iter().skip(3).map(Action::name).collect();
        assert_eq!(names, ["claim", "complete_task", "complete_task", "fail_task", "send_message"]);
    }

    #[test]
    fn every_wrong_form_is_told() {
        let task = json!({"action": "create_task", "title": "t", "assignTo": "cmo", "priority": "low"});
        let message = json!({"action": "send_message", "to": "cmo", "message": "m", "priority": "low"});
        let complete = json!({"action": "complete_task", "taskId": ID});
        let fail = json!({"action": "fail_task", "taskId": ID, "error": "e"});
        let missing = Value::Bool(true);
        for (form, key, wrong, reason) in [
            (&task, "title", &missing, "title is missing"),
            (&task, "title", &json!(3), "title is not a text"),
            (&task, "title", &json!(" \n"), "title is empty"),
            (&task, "description", &json!(["d"]), "description is not a text"),
            (&task, "assignTo", &missing, "assignTo is missing"),
            (&task, "assignTo", &json!("CMO"), "assignTo is no type"),
            (&task, "assignTo", &json!("cmo-"), "assignTo is no type"),
            (&task, "assignTo", &json!(""), "assignTo is no type"),
            (&task, "assignTo", &json!("a/../b"), "assignTo is no type"),
            (&task, "assignTo", &json!("a".repeat(33)), "assignTo is no type"),
            (&task, "priority", &missing, "priority is missing"),
            (&task, "priority", &json!("soon"), "one of low, normal, high, urgent, critical"),
            (&task, "dueDate", &json!("tomorrow"), "dueDate is not an RFC 3339 time"),
            (&task, "dueDate", &json!(3), "dueDate is not a text"),
            (&complete, "taskId", &missing, "taskId is missing"),
            (&complete, "taskId", &json!("7"), "taskId is not a UUID"),
            (&complete, "result", &json!("r".repeat(MAX_RESULT)), "result is longer than 65536 bytes"),
            (&fail, "taskId", &json!(7), "taskId is not a text"),
            (&fail, "taskId", &json!("../x"), "taskId is not a UUID"),
            (&fail, "error", &missing, "error is missing"),
            (&fail, "error", &json!("\u{0}"), "error is empty"),
            (&message, "to", &missing, "to is missing"),
            (&message, "to", &json!("agent:cmo"), "to is no type"),
            (&message, "message", &missing, "message is missing"),
            (&message, "message", &json!(" "), "message is empty"),
            (&message, "priority", &json!("High"), "one of low"),
            (&message, "priority", &missing, "priority is missing"),
        ] {
            assert!(read(json!([form])).faults.is_empty(), "{form}");
            let mut odd = form.clone();
            if *wrong == missing {
                odd.as_object_mut().unwrap().remove(key);
            } else {
                odd[key] = wrong.clone();
            }
            let parsed = read(json!([odd]));
            assert!(parsed.actions.is_empty(), "{odd}");
            assert!(parsed.complaint().unwrap().contains(reason), "{odd}: {:?}", parsed.faults);
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let long = "ä".repeat(60_000);
        let parsed = read(json!([
            {"action": "create_task", "title": long, "description": long, "assignTo": "c", "priority": "low"},
            {"action": "fail_task", "taskId": ID, "error": long},
            {"action": "send_message", "to": "c", "message": long, "priority": "low"},
        ]));
        let [Action::CreateTask(task), Action::FailTask { error, .. }, Action::SendMessage { message, .. }] =
            parsed.actions.as_slice()
        else {
            panic!("{:?}", parsed.faults)
        };
        let cut = |text: &str, max: usize| text.len() <= max && text.ends_with('…');
        assert!(cut(task.title.as_deref().unwrap(), MAX_TITLE));
        assert!(cut(task.description.as_deref().unwrap(), MAX_DESCRIPTION));
        assert!(cut(error, MAX_TEXT) && cut(message.message.as_deref().unwrap(), MAX_TEXT));
    }
}
