//! Thinking by rules: a small declarative file, evaluated the same way every time. No model thinks here.
//!
//! Invariants:
//! - Same file and same context, same actions: no clock, no randomness, no state besides the context.
//! - A file that cannot be understood as a whole is refused as a whole, with the number of the rule.
//! - An action with a text that comes out empty is left out.
//!
//! The form of the file is described at the head of the shipped one, `deploy/rules/default.toml`.

use super::{
    Context, Think, ThinkError,
    placeholders::{About, Subject, example, fill_action},
};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// The shipped rules.
pub const DEFAULT_RULES: &str = include_str!("../../../../deploy/rules/default.toml");

const MAX_FILE: u64 = 1 << 20;
const KINDS: [&str; 4] = ["message", "broadcast", "task", "notice"];

/// Rules as the thinker.
#[derive(Clone, Debug)]
pub struct Rules {
    source: String,
    rules: Vec<Rule>,
}

/// Why rules can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The file cannot be read.
    #[error("cannot read the rules {0}: {1}")]
    Read(String, std::io::Error),
    /// The file is not understood.
    #[error("the rules {0} are malformed: {1}")]
    Malformed(String, String),
}

#[derive(Clone, Debug)]
struct Rule {
    on: On,
    when: When,
    actions: Vec<Map<String, Value>>,
}

#[derive(Clone, Copy, Debug)]
enum On {
    Start,
    Every { every: u64, offset: u64 },
    Task,
    Message,
}

impl On {
    fn about(self) -> About {
        match self {
            Self::Start | Self::Every { .. } => About::Loop,
            Self::Task => About::Task,
            Self::Message => About::Message,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "rule")]
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    on: Option<String>,
    every: Option<u64>,
    offset: Option<u64>,
    #[serde(default)]
    when: When,
    #[serde(rename = "do")]
    actions: Vec<Map<String, Value>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    agent_type: Option<String>,
    profile_title: Option<String>,
    has_focus: Option<bool>,
    kind: Option<String>,
}

impl Rules {
    /// The rules in the file at `path`, or the shipped ones.
    ///
    /// # Errors
    /// [`RulesError`], which names the file.
    pub fn load(path: Option<&Path>) -> Result<Self, RulesError> {
        let Some(path) = path else {
            return Self::parse(DEFAULT_RULES, "default.toml");
        };
        let name = path.display().to_string();
        let read = || -> std::io::Result<String> {
            use std::io::Read;
            let mut text = String::new();
            std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|error| RulesError::Read(name.clone(), error))?;
        if text.len() as u64 > MAX_FILE {
            return Err(RulesError::Malformed(name, format!("larger than {MAX_FILE} bytes")));
        }
        Self::parse(&text, &name)
    }

    /// The rules in `text`; `name` is what errors and the log call them.
    ///
    /// # Errors
    /// [`RulesError::Malformed`].
    pub fn parse(text: &str, name: &str) -> Result<Self, RulesError> {
        let malformed = |reason: String| RulesError::Malformed(name.to_owned(), reason);
        let file: File = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let rules = file
            .rules
            .into_iter()
            .enumerate()
            .map(|(n, rule)| check(rule).map_err(|reason| malformed(format!("rule {}: {reason}", n + 1))))
            .collect::<Result<_, _>>()?;
        Ok(Self { source: name.to_owned(), rules })
    }

    /// What the rules that apply ask for, in their order.
    pub fn apply(&self, context: &Context) -> Vec<Value> {
        let mut list = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.when.holds(context)) {
            for subject in rule.subjects(context) {
                let filled = rule.actions.iter().filter_map(|action| fill_action(action, context, subject));
                list.extend(filled.map(Value::Object));
            }
        }
        list
    }
}

#[async_trait]
impl Think for Rules {
    fn describe(&self) -> String {
        format!("deterministic rules of {} ({} rules, no model)", self.source, self.rules.len())
    }

    async fn think(&self, context: &Context) -> Result<Vec<Value>, ThinkError> {
        Ok(self.apply(context))
    }
}

impl Rule {
    /// What it is about in this loop, once for each: nothing when it is not due.
    fn subjects<'a>(&self, context: &'a Context) -> Vec<Subject<'a>> {
        let of_loop = |due: bool| if due { vec![Subject::Loop] } else { Vec::new() };
        match self.on {
            On::Start => of_loop(context.turn.count == 1),
            On::Every { every, offset } => of_loop(context.turn.count % every == offset),
            On::Task => context.tasks.iter().map(Subject::Task).collect(),
            On::Message => {
                let wanted = |kind: &str| self.when.kind.as_ref().is_none_or(|wanted| wanted == kind);
                let messages = context.messages.iter().filter(|message| wanted(&message.kind));
                messages.map(Subject::Message).collect()
            }
        }
    }
}

impl When {
    /// Whether what it says of agent and profile is so.
    fn holds(&self, context: &Context) -> bool {
        self.agent_type.as_ref().is_none_or(|wanted| *wanted == context.agent.agent_type)
            && self.profile_title.as_ref().is_none_or(|wanted| *wanted == context.profile.title())
            && self.has_focus.is_none_or(|wanted| wanted == context.focus.is_some())
    }
}

fn check(rule: RawRule) -> Result<Rule, String> {
    let on = match (rule.on.as_deref(), rule.every, rule.offset) {
        (Some("start"), None, None) => On::Start,
        (Some("task"), None, None) => On::Task,
        (Some("message"), None, None) => On::Message,
        (Some(other), None, None) => {
            return Err(format!("on is {other:?} (allowed: start, task, message)"));
        }
        (Some(_), ..) => return Err("on excludes every and offset".to_owned()),
        (None, None, _) => return Err("neither on nor every is given".to_owned()),
        (None, Some(0), _) => return Err("every must be 1 or more".to_owned()),
        (None, Some(every), offset) => {
            let offset = offset.unwrap_or_default();
            if offset >= every {
                return Err(format!("offset must be less than every ({every})"));
            }
            On::Every { every, offset }
        }
    };
    if rule.actions.is_empty() {
        return Err("do is empty".to_owned());
    }
    match (&rule.when.kind, on) {
        (Some(_), On::Start | On::Every { .. } | On::Task) => {
            return Err("when has a kind, which only messages have (on = \"message\")".to_owned());
        }
        (Some(kind), On::Message) if !KINDS.contains(&kind.as_str()) => {
            return Err(format!("kind is {kind:?} (allowed: {})", KINDS.join(", ")));
        }
        _ => {}
    }
    let mut examples = Vec::new();
    for action in &rule.actions {
        if !matches!(action.get("action"), Some(Value::String(_))) {
            return Err("an entry of do has no action".to_owned());
        }
        examples.push(Value::Object(example(action, on.about())?));
    }
    if let Some(complaint) = crate::action::parse(examples).complaint() {
        return Err(complaint);
    }
    Ok(Rule { on, when: rule.when, actions: rule.actions })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        profile::Profile,
        think::{AgentContext, LoopContext, Message, Task},
    };
    use serde_json::json;

    pub(crate) fn context(count: u64, profile: &str, focus: Option<&str>) -> Context {
        Context {
            agent: AgentContext { id: uuid::Uuid::nil(), agent_type: "ceo".to_owned(), incarnation: 1 },
            profile: Profile::parse(profile).unwrap(),
            turn: LoopContext {
                count,
                started_at: "2025-12-20T10:00:00Z".parse().unwrap(),
                last_loop_at: None,
            },
            focus: focus.map(str::to_owned),
            last_results: Vec::new(),
            messages: Vec::new(),
            tasks: Vec::new(),
        }
    }

    fn message(kind: &str, payload: Value) -> Message {
        Message {
            id: uuid::Uuid::from_u128(7),
            kind: kind.to_owned(),
            from: "agent:cmo".to_owned(),
            priority: "high".to_owned(),
            payload,
            created_at: "2025-12-20T10:00:00Z".parse().unwrap(),
        }
    }

    fn task(title: &str, description: Option<&str>) -> Task {
        Task {
            id: uuid::Uuid::from_u128(8),
            title: title.to_owned(),
            description: description.map(str::to_owned),
            priority: "urgent".to_owned(),
            due_date: None,
            created_at: "2025-12-20T10:00:00Z".parse().unwrap(),
        }
    }

    fn loops_of(rules: &str, loops: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        let rules = Rules::parse(rules, "test").unwrap();
        loops.filter(|count| !rules.apply(&context(*count, "", None)).is_empty()).collect()
    }

    #[test]
    fn when_a_rule_is_due() {
        let act = r#"do = [{ action = "log", message = "x" }]"#;
        assert_eq!(loops_of(&format!("[[rule]]\non = \"start\"\n{act}"), 1..=5), [1]);
        assert_eq!(loops_of(&format!("[[rule]]\nevery = 1\n{act}"), 1..=3), [1, 2, 3]);
        assert_eq!(loops_of(&format!("[[rule]]\nevery = 3\n{act}"), 1..=9), [3, 6, 9]);
        assert_eq!(loops_of(&format!("[[rule]]\nevery = 3\noffset = 1\n{act}"), 1..=9), [1, 4, 7]);
        assert_eq!(loops_of("", 1..=3), [0_u64; 0]);
    }

    #[test]
    fn conditions_and_placeholders() {
        let rules = r#"
            [[rule]]
            every = 1
            when = { profile_title = "Chief", has_focus = false, agent_type = "ceo" }
            do = [
                { action = "set_focus", focus = "{profile.focus}" },
                { action = "log", message = "{{{type}}} {loop} {title} [{focus}] {profile.n}{profile.list}" },
                { action = "set_focus", focus = "{profile.missing}" },
                { action = "record_history", actionType = "idea", summary = "s", details = { n = 1, t = "{type}" } },
            ]
        "#;
        let rules = Rules::parse(rules, "test").unwrap();
        let profile = "---\ntitle: Chief\nfocus: growth\nn: 7\nlist: [1]\n---\n";
        assert_eq!(
            rules.apply(&context(4, profile, None)),
            [
                json!({"action": "set_focus", "focus": "growth"}),
                json!({"action": "log", "message": "{ceo} 4 Chief [] 7"}),
                json!({"action": "record_history", "actionType": "idea", "summary": "s",
                    "details": {"n": 1, "t": "{type}"}}),
            ]
        );
        assert!(rules.apply(&context(4, profile, Some("x"))).is_empty());
        assert!(rules.apply(&context(4, "---\ntitle: Other\n---\n", None)).is_empty());
    }

    #[test]
    fn a_rule_about_tasks_or_messages_applies_once_for_each() {
        let rules = r#"
            [[rule]]
            on = "message"
            when = { kind = "message" }
            do = [{ action = "log", message = "{message.from} {message.kind} {message.priority} {message.text}" }]

            [[rule]]
            on = "message"
            when = { agent_type = "ceo" }
            do = [{ action = "log", message = "{message.text}" }]

            [[rule]]
            on = "message"
            when = { kind = "task" }
            do = [{ action = "claim" }]

            [[rule]]
            on = "task"
            do = [
                { action = "log", message = "{task.title} {task.priority}" },
                { action = "log", message = "{task.description}" },
                { action = "complete_task", taskId = "{task.id}" },
            ]
        "#;
        let rules = Rules::parse(rules, "test").unwrap();
        assert!(rules.apply(&context(1, "", None)).is_empty());
        let context = Context {
            messages: vec![
                message("message", json!({"message": "{type} {"})),
                message("task", json!({"title": "Report"})),
                message("notice", json!({"notice": "domain_approved"})),
            ],
            tasks: vec![task("One", None), task("Two", Some("more"))],
            ..context(1, "", None)
        };
        let log = |text: &str| json!({"action": "log", "message": text});
        let done = json!({"action": "complete_task", "taskId": uuid::Uuid::from_u128(8).to_string()});
        assert_eq!(
            rules.apply(&context),
            [
                log("agent:cmo message high {type} {"),
                log("{type} {"),
                log("Report"),
                json!({"action": "claim"}),
                log("One urgent"),
                done.clone(),
                log("Two urgent"),
                log("more"),
                done,
            ]
        );
    }

    #[test]
    fn malformed_rules_are_refused_with_their_number() {
        let good = "[[rule]]\nevery = 1\ndo = [{ action = \"log\", message = \"x\" }]\n";
        for (bad, reason) in [
            ("[[rule]]\nevery = 0\ndo = [{action=\"log\", message=\"x\"}]", "1 or more"),
            ("[[rule]]\nevery = 2\noffset = 2\ndo = [{action=\"log\", message=\"x\"}]", "less than"),
            (
                "[[rule]]\non = \"end\"\ndo = [{action=\"log\", message=\"x\"}]",
                "allowed: start, task, message",
            ),
            ("[[rule]]\non = \"start\"\nevery = 1\ndo = [{action=\"log\", message=\"x\"}]", "excludes"),
            ("[[rule]]\ndo = [{action=\"log\", message=\"x\"}]", "neither"),
            ("[[rule]]\nevery = 1\ndo = []", "empty"),
            ("[[rule]]\nevery = 1\ndo = [{message=\"x\"}]", "no action"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"fly\"}]", "unknown action"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"log\"}]", "message is missing"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"log\", message=\"{nope}\"}]", "{nope}"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"log\", message=\"{open\"}]", "placeholder {"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"log\", message=\"{task.id}\"}]", "{task.id}"),
            (
                "[[rule]]\non = \"start\"\ndo = [{action=\"log\", message=\"{message.text}\"}]",
                "{message.text}",
            ),
            (
                "[[rule]]\non = \"task\"\ndo = [{action=\"log\", message=\"{message.text}\"}]",
                "{message.text}",
            ),
            ("[[rule]]\non = \"message\"\ndo = [{action=\"log\", message=\"{task.id}\"}]", "{task.id}"),
            ("[[rule]]\non = \"task\"\ndo = [{action=\"log\", message=\"{task.owner}\"}]", "{task.owner}"),
            (
                "[[rule]]\non = \"task\"\nwhen = {kind=\"task\"}\ndo = [{action=\"claim\"}]",
                "only messages have",
            ),
            ("[[rule]]\nevery = 1\nwhen = {kind=\"task\"}\ndo = [{action=\"claim\"}]", "only messages have"),
            (
                "[[rule]]\non = \"message\"\nwhen = {kind=\"letter\"}\ndo = [{action=\"claim\"}]",
                "allowed: message,",
            ),
            ("[[rule]]\non = \"task\"\noffset = 1\ndo = [{action=\"claim\"}]", "excludes"),
            (
                "[[rule]]\non = \"task\"\ndo = [{action=\"fail_task\", taskId=\"{task.title}\", error=\"e\"}]",
                "not a UUID",
            ),
            (
                "[[rule]]\non = \"task\"\ndo = [{action=\"fail_task\", taskId=\"{task.id}\"}]",
                "error is missing",
            ),
            (
                "[[rule]]\non = \"message\"\ndo = [{action=\"send_message\", to=\"{message.from}\", message=\"m\", priority=\"low\"}]",
                "no type",
            ),
        ] {
            let error = Rules::parse(&format!("{good}{bad}"), "r.toml").unwrap_err().to_string();
            let named = error.contains("r.toml") && error.contains("rule 2") && error.contains(reason);
            assert!(named, "{bad}: {error}");
        }
        for bad in [
            "[[rule]]\non = \"message\"\nwhen = { from = \"x\" }\ndo = [{action=\"claim\"}]",
            "x = 1",
            "[[rule]]\nevery = 1\nsometimes = 2\ndo = []",
            "[[rule]",
            "[[rule]]\nevery = -1\ndo = []",
        ] {
            assert!(matches!(Rules::parse(bad, "r"), Err(RulesError::Malformed(..))), "{bad}");
        }
        assert!(matches!(Rules::load(Some(Path::new("/nowhere.toml"))), Err(RulesError::Read(..))));
    }

    #[test]
    fn the_shipped_rules_do_what_they_say() {
        let rules = Rules::load(None).unwrap();
        let profile = "---\ntitle: Chief\nfocus: growth\n---\n";
        let names = |count, focus| {
            let list = rules.apply(&context(count, profile, focus));
            let parsed = crate::action::parse(list);
            assert_eq!(parsed.complaint(), None);
            parsed.actions.iter().map(|action| action.name()).collect::<Vec<_>>()
        };
        assert_eq!(names(1, None), ["log", "set_focus", "log"]);
        assert_eq!(names(2, Some("growth")), ["log"]);
        assert_eq!(names(10, Some("growth")), ["log", "record_history"]);
        assert!(rules.describe().contains("no model"), "{}", rules.describe());
    }

    #[test]
    fn the_shipped_rules_note_each_message_and_claim_nothing() {
        let rules = Rules::load(None).unwrap();
        let kinds = ["message", "broadcast", "notice", "task"];
        let messages: Vec<_> = kinds.map(|kind| message(kind, json!({"title": "Report"}))).to_vec();
        // As much as one loop can be shown, in the loop that has the most else to do.
        let mut many = messages.clone();
        many.resize(50, message("message", json!({"message": "hi"})));
        for (count, messages, tasks) in [(2, messages, vec![]), (10, many, vec![task("t", None); 50])] {
            let context = Context { messages: messages.clone(), tasks, ..context(count, "", None) };
            let parsed = crate::action::parse(rules.apply(&context));
            assert_eq!(parsed.complaint(), None);
            let rows: Vec<_> = parsed
                .actions
                .iter()
                .filter_map(|action| match action {
                    crate::Action::RecordHistory { action_type, summary, .. } => Some((action_type, summary)),
                    crate::Action::Log { .. } => None,
                    other => panic!("{other:?}"),
                })
                .filter(|(_, summary)| summary.contains("agent:cmo"))
                .collect();
            assert_eq!(rows.len(), messages.len());
            let letters = messages.iter().filter(|message| message.kind != "task").count();
            assert_eq!(rows.iter().filter(|(kind, _)| *kind == "communication").count(), letters);
            let (_, waits) = rows.iter().find(|(kind, _)| *kind == "task").unwrap();
            assert!(waits.contains("Report") && waits.contains("waits"), "{waits}");
        }
    }
}
