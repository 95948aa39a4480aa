//! The placeholders in the texts of rules: which there are, and what they stand for.
//!
//! Invariants:
//! - What a placeholder stands for is put in as it is; it is not looked through for placeholders again.
//! - Those of a task or message are known only in rules about tasks or messages.

use super::{Context, Message, Task};
use serde_json::{Map, Value};

/// What a rule is about, once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// The loop.
    Loop,
    /// A task in progress.
    Task(&'a Task),
    /// A message.
    Message(&'a Message),
}

/// What a rule can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The loop.
    Loop,
    /// Tasks in progress.
    Task,
    /// Messages.
    Message,
}

/// Fills the texts of an action; `None` when one of them comes out empty.
pub(super) fn fill_action(
    action: &Map<String, Value>,
    context: &Context,
    subject: Subject<'_>,
) -> Option<Map<String, Value>> {
    // Every placeholder was checked when the rules were read.
    let fill = |text: &str| fill(text, |name| Some(value(name, context, subject))).unwrap_or_default();
    let filled = each_text(action, |text| Ok::<_, ()>(fill(text))).ok()?;
    (!filled.values().any(|value| value.as_str() == Some(""))).then_some(filled)
}

/// The same with an example in every place, to see whether the action can be read.
///
/// # Errors
/// A placeholder is not known; the text says which.
pub(super) fn example(action: &Map<String, Value>, about: About) -> Result<Map<String, Value>, String> {
    each_text(action, |text| {
        fill(text, |name| example_of(name, about).map(str::to_owned))
            .map_err(|wrong| format!("unknown placeholder {wrong} in {text:?}"))
    })
}

fn each_text<E>(
    action: &Map<String, Value>,
    fill: impl Fn(&str) -> Result<String, E>,
) -> Result<Map<String, Value>, E> {
    action
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Value::String(text) => Value::String(fill(text)?),
                other => other.clone(),
            };
            Ok((key.clone(), value))
        })
        .collect()
}

fn value(name: &str, context: &Context, subject: Subject<'_>) -> String {
    match (name, subject) {
        ("type", _) => context.agent.agent_type.clone(),
        ("loop", _) => context.turn.count.to_string(),
        ("focus", _) => context.focus.clone().unwrap_or_default(),
        ("title", _) => context.profile.title(),
        ("task.id", Subject::Task(task)) => task.id.to_string(),
        ("task.title", Subject::Task(task)) => task.title.clone(),
        ("task.description", Subject::Task(task)) => task.description.clone().unwrap_or_default(),
        ("task.priority", Subject::Task(task)) => task.priority.clone(),
        ("message.id", Subject::Message(message)) => message.id.to_string(),
        ("message.from", Subject::Message(message)) => message.from.clone(),
        ("message.kind", Subject::Message(message)) => message.kind.clone(),
        ("message.priority", Subject::Message(message)) => message.priority.clone(),
        ("message.text", Subject::Message(message)) => text(message),
        _ => name.strip_prefix("profile.").and_then(|key| context.profile.scalar(key)).unwrap_or_default(),
    }
}

/// What somebody wrote, or the title of a task that waits.
fn text(message: &Message) -> String {
    let field = |key: &str| message.payload.get(key).and_then(Value::as_str);
    field("message").or_else(|| field("title")).unwrap_or_default().to_owned()
}

/// Something that a placeholder may stand for; `None` when there is no such one.
fn example_of(name: &str, about: About) -> Option<&'static str> {
    Some(match (name, about) {
        ("type", _) => "ceo",
        ("loop", _) => "1",
        ("focus" | "title", _) => "x",
        ("task.id", About::Task) | ("message.id", About::Message) => "00000000-0000-0000-0000-000000000000",
        ("task.title" | "task.description", About::Task) | ("message.text", About::Message) => "x",
        ("task.priority", About::Task) | ("message.priority", About::Message) => "normal",
        ("message.from", About::Message) => "agent:ceo",
        ("message.kind", About::Message) => "message",
        _ => name.strip_prefix("profile.").filter(|key| !key.is_empty()).map(|_| "x")?,
    })
}

/// Replaces `{name}`; `{{` and `}}` stand for braces. The error is the placeholder that is not known.
fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        filled.push_str(&rest[..at]);
        let (brace, after) = rest[at..].split_at(1);
        if let Some(after) = after.strip_prefix(brace) {
            filled.push_str(brace);
            rest = after;
            continue;
        }
        let name = (brace == "{").then(|| after.split_once('}')).flatten();
        let (name, after) = name.ok_or_else(|| brace.to_owned())?;
        filled.push_str(&value(name).ok_or_else(|| format!("{{{name}}}"))?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}
