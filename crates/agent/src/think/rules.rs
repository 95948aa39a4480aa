//! Thinking by rules: a small declarative file, evaluated the same way every time. No model thinks here.
//!
//! Invariants:
//! - Same file and same context, same actions: no clock, no randomness, no state besides the context.
//! - A file that cannot be understood as a whole is refused as a whole, with the number of the rule.
//! - An action with a text that comes out empty is left out.
//!
//! The form of the file is described at the head of the shipped one, `deploy/rules/default.toml`.

use super::{Context, Think, ThinkError};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// The shipped rules.
pub const DEFAULT_RULES: &str = include_str!("../../../../deploy/rules/default.toml");

const MAX_FILE: u64 = 1 << 20;

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
        for rule in self.rules.iter().filter(|rule| rule.applies(context)) {
            for action in &rule.actions {
                let filled: Map<String, Value> =
                    action.iter().map(|(key, value)| (key.clone(), filled(value, context))).collect();
                if !filled.values().any(|value| value.as_str() == Some("")) {
                    list.push(Value::Object(filled));
                }
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
    fn applies(&self, context: &Context) -> bool {
        let due = match self.on {
            On::Start => context.turn.count == 1,
            On::Every { every, offset } => context.turn.count % every == offset,
        };
        let when = &self.when;
        due && when.agent_type.as_ref().is_none_or(|wanted| *wanted == context.agent.agent_type)
            && when.profile_title.as_ref().is_none_or(|wanted| *wanted == context.profile.title())
            && when.has_focus.is_none_or(|wanted| wanted == context.focus.is_some())
    }
}

fn check(rule: RawRule) -> Result<Rule, String> {
    let on = match (rule.on.as_deref(), rule.every, rule.offset) {
        (Some("start"), None, None) => On::Start,
        (Some(other), None, None) => return Err(format!("on is {other:?} (allowed: start)")),
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
    for action in &rule.actions {
        if !matches!(action.get("action"), Some(Value::String(_))) {
            return Err("an entry of do has no action".to_owned());
        }
        for text in action.values().filter_map(Value::as_str) {
            fill(text, |name| is_known(name).then(String::new))
                .map_err(|wrong| format!("unknown placeholder {wrong} in {text:?}"))?;
        }
    }
    let list = rule.actions.iter().cloned().map(Value::Object).collect();
    if let Some(complaint) = crate::action::parse(list).complaint() {
        return Err(complaint);
    }
    Ok(Rule { on, when: rule.when, actions: rule.actions })
}

fn is_known(name: &str) -> bool {
    matches!(name, "type" | "loop" | "focus" | "title")
        || name.strip_prefix("profile.").is_some_and(|key| !key.is_empty())
}

fn filled(value: &Value, context: &Context) -> Value {
    let Value::String(text) = value else {
        return value.clone();
    };
    let replaced = fill(text, |name| {
        Some(match name {
            "type" => context.agent.agent_type.clone(),
            "loop" => context.turn.count.to_string(),
            "focus" => context.focus.clone().unwrap_or_default(),
            "title" => context.profile.title(),
            _ => {
                name.strip_prefix("profile.").and_then(|key| context.profile.scalar(key)).unwrap_or_default()
            }
        })
    });
    // Every placeholder was checked when the rules were read.
    Value::String(replaced.unwrap_or_default())
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        profile::Profile,
        think::{AgentContext, LoopContext},
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
    fn malformed_rules_are_refused_with_their_number() {
        let good = "[[rule]]\nevery = 1\ndo = [{ action = \"log\", message = \"x\" }]\n";
        for (bad, reason) in [
            ("[[rule]]\nevery = 0\ndo = [{action=\"log\", message=\"x\"}]", "1 or more"),
            ("[[rule]]\nevery = 2\noffset = 2\ndo = [{action=\"log\", message=\"x\"}]", "less than"),
            ("[[rule]]\non = \"end\"\ndo = [{action=\"log\", message=\"x\"}]", "allowed: start"),
            ("[[rule]]\non = \"start\"\nevery = 1\ndo = [{action=\"log\", message=\"x\"}]", "excludes"),
            ("[[rule]]\ndo = [{action=\"log\", message=\"x\"}]", "neither"),
            ("[[rule]]\nevery = 1\ndo = []", "empty"),
            ("[[rule]]\nevery = 1\ndo = [{message=\"x\"}]", "no action"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"fly\"}]", "unknown action"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"log\"}]", "message is missing"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"log\", message=\"{nope}\"}]", "{nope}"),
            ("[[rule]]\nevery = 1\ndo = [{action=\"log\", message=\"{open\"}]", "placeholder {"),
        ] {
            let error = Rules::parse(&format!("{good}{bad}"), "r.toml").unwrap_err().to_string();
            let named = error.contains("r.toml") && error.contains("rule 2") && error.contains(reason);
            assert!(named, "{bad}: {error}");
        }
        for bad in [
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
}
