//! Makes text that others wrote fit to be shown: one function, told where the text goes.
//!
//! Invariants: nothing that comes out makes a terminal act, starts a line of a log, or changes the order in which
//! other text is read; text that is harmless comes out as it is. What a sink needs more is that sink's here too.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Where a text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// A person's terminal; line ends and tabs are kept.
    Terminal,
    /// One line of the server's log; line ends and tabs are escaped as well.
    Log,
    /// A JSON text (RFC 8259) on a line of its own. It stays JSON with the same meaning: the escapes are JSON's,
    /// and line ends and tabs, which stand between its parts only, become spaces.
    Json,
}

/// The text as it may be shown: characters that act instead of being seen become `\u{…}`, for [`Sink::Json`]
/// `\uXXXX`, once for every unit of their UTF-16 form.
///
/// Those are the control characters (C0, DEL, C1), which terminal escapes begin with; the bidirectional controls
/// (Unicode Standard Annex 9: U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069); line and paragraph
/// separators; and characters of no width that hide differences (U+200B to U+200D, U+2060, U+FEFF, tags).
#[must_use]
pub fn display_safe(text: &str, sink: Sink) -> Cow<'_, str> {
    let harmless = |c: char| !acts(c) || (sink == Sink::Terminal && matches!(c, '\n' | '\t'));
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmless(c) {
            shown.push(c);
        } else {
            escape(c, sink, &mut shown);
        }
    }
    Cow::Owned(shown)
}

/// Writing into a string does not fail.
fn escape(c: char, sink: Sink, shown: &mut String) {
    match sink {
        Sink::Terminal | Sink::Log => {
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
        }
        // White space of JSON; within a string it is escaped already.
        Sink::Json if matches!(c, '\n' | '\r' | '\t') => shown.push(' '),
        Sink::Json => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, proptest};

    use super::*;
    use crate::tests::cases;

    #[test]
    fn what_acts_is_shown_and_what_is_harmless_stays() {
        for (given, shown) in [
            ("Grüße, 世界 👍 — ok", "Grüße, 世界 👍 — ok"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\u{9b}2Jb", "a\\u{9b}2Jb"),
            ("\u{202e}live", "\\u{202e}live"),
            ("pay\u{200b}pal", "pay\\u{200b}pal"),
            ("bell\u{7}", "bell\\u{7}"),
            ("\u{2028}x", "\\u{2028}x"),
        ] {
            assert_eq!(display_safe(given, Sink::Terminal), shown);
            assert_eq!(display_safe(given, Sink::Log), shown);
        }
        assert_eq!(display_safe("a\n\tb\r", Sink::Terminal), "a\n\tb\\u{d}");
        assert_eq!(display_safe("a\n\tb", Sink::Log), "a\\u{a}\\u{9}b");
        assert!(matches!(display_safe("plain", Sink::Log), Cow::Borrowed(_)));
    }

    #[test]
    fn a_json_text_stays_one_and_keeps_its_meaning() {
        for (given, shown) in [
            ("{\"a\": \"Grüße 👍\"}", "{\"a\": \"Grüße 👍\"}"),
            ("\"\u{202e}live\u{7f}\u{9b}2J\"", "\"\\u202elive\\u007f\\u009b2J\""),
            ("\"\u{e0041}\"", "\"\\udb40\\udc41\""),
            ("\"a\\\\\u{200b}b\"", "\"a\\\\\\u200bb\""),
            ("[\r\n\t1,\n2]", "[   1, 2]"),
            ("no JSON\u{1b}[2J", "no JSON\\u001b[2J"),
        ] {
            assert_eq!(display_safe(given, Sink::Json), shown);
        }
    }

    /// Characters that act, as often as others, and what JSON itself escapes.
    fn lively() -> impl Strategy<Value = String> {
        let acting = proptest::char::ranges(
            vec!['\0'..='\u{1f}', '\u{7f}'..='\u{9f}', '\u{2028}'..='\u{2069}', '\u{e0000}'..='\u{e007f}']
                .into(),
        );
        proptest::collection::vec(
            prop_oneof![acting, any::<char>(), Just('\\'), Just('"'), Just('\u{feff}')],
            0..40,
        )
        .prop_map(String::from_iter)
    }

    proptest! {
        #![proptest_config(cases(500))]
        #[test]
        fn json_says_the_same_afterwards(key in lively(), value in lively(), pretty in any::<bool>()) {
            let meant = serde_json::json!({key: [value, 1, null]});
            let text = if pretty { format!("{meant:#}") } else { meant.to_string() };
            let shown = display_safe(&text, Sink::Json).into_owned();
            prop_assert!(!shown.chars().any(acts), "{shown:?}");
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).ok(), Some(meant));
            prop_assert_eq!(display_safe(&shown, Sink::Json), shown.as_str());
        }

        #[test]
        fn nothing_that_acts_comes_out_and_showing_twice_changes_nothing(text in any::<String>()) {
            let shown = display_safe(&text, Sink::Log).into_owned();
            prop_assert!(!shown.chars().any(acts));
            prop_assert_eq!(display_safe(&shown, Sink::Log), shown.as_str());
        }
    }
}
