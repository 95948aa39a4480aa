//! The house rules for Rust sources.
//!
//! Invariant: a rule about code looks at code alone and a rule about comments at comments alone, so that a string that
//! names a forbidden word is no finding.

use std::path::Path;

use super::Finding;
use super::source::Line;

/// How many lines a file may have before its test module.
const LONGEST: usize = 900;

/// Lints that say something about production code only.
const FREE_IN_TESTS: [&str; 3] = ["clippy::unwrap_used", "missing_docs", ""];

/// Everything in one source that breaks a rule.
pub fn findings(file: &Path, lines: &[Line]) -> Vec<Finding> {
    let tests_begin = tests_begin(file, lines);
    let mut found = Vec::new();
    if !lines.iter().take(3).any(|line| line.comment.starts_with("//!")) {
        found.push((1, "has no `//!` header in its first three lines".to_owned()));
    }
    let own = if is_test_file(file) { lines.len() } else { tests_begin };
    if own > LONGEST {
        found.push((
            LONGEST,
            format!("{own} lines without the test module, more than {LONGEST}: usually two things live here"),
        ));
    }
    for (index, line) in lines.iter().enumerate() {
        let mut add = |message: String| found.push((index + 1, message));
        for name in ["todo!", "unimplemented!", "dbg!"] {
            if has_word(&line.code, name) {
                add(format!("`{name}` is left over"));
            }
        }
        for word in ["FIXME", "XXX", "TODO"] {
            if has_word(&line.comment, word) || has_word(&line.code, word) {
                add(format!("`{word}` is left over"));
            }
        }
        if is_silenced_without_reason(lines, index, index >= tests_begin) {
            add("`allow` or `ignore` without a reason: add `reason = \"…\"` or a comment above".to_owned());
        }
        let waits = file.ends_with("wait.rs");
        if index >= tests_begin
            && !waits
            && ["thread::sleep", "time::sleep"].iter().any(|name| has_word(&line.code, name))
        {
            add("a test sleeps: wait for the condition with a deadline".to_owned());
        }
    }
    found.extend(untested_examples(lines));
    found
}

/// The names of all functions of a source.
pub fn functions(lines: &[Line]) -> Vec<String> {
    let names = lines.iter().flat_map(|line| {
        let words: Vec<&str> = line
            .code
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .collect();
        words.windows(2).filter(|pair| pair[0] == "fn").map(|pair| pair[1].to_owned()).collect::<Vec<_>>()
    });
    names.collect()
}

/// The index of the first line that belongs to tests; the number of lines if there is none.
fn tests_begin(file: &Path, lines: &[Line]) -> usize {
    if is_test_file(file) {
        return 0;
    }
    let opens_module = |index: usize| {
        let after = lines[index..].iter().flat_map(|line| line.code.split_whitespace());
        // The attribute itself and those that follow it, then `mod name {`.
        let mut words =
            after.skip_while(|word| !matches!(*word, "mod" | "fn" | "use" | "impl" | "struct" | "const"));
        words.next() == Some("mod") && words.nth(1) == Some("{")
    };
    let begins =
        |index: &usize| lines[*index].code.trim_start().starts_with("#[cfg(test)]") && opens_module(*index);
    (0..lines.len()).find(begins).unwrap_or(lines.len())
}

/// Files that are tests as a whole; so is the crate of the contract suites.
fn is_test_file(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests")
        || file.ends_with("tests.rs")
        || file.starts_with("crates/contracts/src")
}

/// Whether an attribute at this line switches off a lint or a test and nothing says why. A reason is `reason = …`, the
/// text of `ignore = …`, or a comment on the line, or above it and the attributes before it. Inside tests the lints that
/// are about production code only need none.
fn is_silenced_without_reason(lines: &[Line], index: usize, in_tests: bool) -> bool {
    let code = lines[index].code.trim_start();
    let silences = ["#[allow(", "#![allow(", "#[ignore"].iter().any(|start| code.contains(start));
    if !silences || !lines[index].comment.is_empty() {
        return false;
    }
    let attribute = whole_attribute(lines, index);
    if has_word(&attribute, "reason") || attribute.contains("#[ignore = \"") {
        return false;
    }
    if in_tests || near_tests(lines, index) {
        let lints =
            attribute.split_once("allow(").and_then(|(_, rest)| rest.split_once(')')).map(|(lints, _)| lints);
        if lints.is_some_and(|lints| lints.split(',').all(|lint| FREE_IN_TESTS.contains(&lint.trim()))) {
            return false;
        }
    }
    let inner = attribute.contains("#![");
    let above =
        lines[..index].iter().rev().find(|line| !line.code.trim_start().starts_with("#[") && !is_blank(line));
    let commented = above.is_some_and(|line| line.code.trim().is_empty() && (inner || !line.is_doc()));
    !commented
}

/// Whether the attribute beside this one makes the item a test module.
fn near_tests(lines: &[Line], index: usize) -> bool {
    let near = &lines[index.saturating_sub(1)..lines.len().min(index + 2)];
    near.iter().any(|line| line.code.contains("#[cfg(test)]"))
}

fn is_blank(line: &Line) -> bool {
    line.code.trim().is_empty() && line.comment.is_empty()
}

/// An attribute from the line where it begins to its closing bracket.
fn whole_attribute(lines: &[Line], index: usize) -> String {
    let mut text = String::new();
    let mut depth = 0_i32;
    for line in &lines[index..] {
        text.push_str(line.code.trim());
        text.push(' ');
        depth += line.code.chars().map(|c| i32::from(c == '[') - i32::from(c == ']')).sum::<i32>();
        if depth <= 0 {
            break;
        }
    }
    text
}

/// Examples in documentation that rustdoc would compile: the test command runs none, so they would be unproven.
fn untested_examples(lines: &[Line]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut open = false;
    for (index, line) in lines.iter().enumerate() {
        if !line.is_doc() {
            open = false;
            continue;
        }
        let text = line.comment[3..].trim();
        let Some(info) = text.strip_prefix("```").or_else(|| text.strip_prefix("~~~")) else { continue };
        open = !open;
        if open && is_compiled(info) {
            let message =
                "a Rust example in documentation is compiled by no test: mark it `text`, or make it a test";
            found.push((index + 1, message.to_owned()));
        }
    }
    found
}

fn is_compiled(info: &str) -> bool {
    let info = info.trim_start_matches(['`', '~']).trim();
    let words = ["rust", "ignore", "no_run", "should_panic", "compile_fail", "test_harness"];
    info.is_empty()
        || info.split([',', ' ']).any(|word| words.contains(&word) || word.starts_with("edition20"))
}

/// Whether `word` stands in `text` and is no part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(start, _)| {
        let before = text[..start].chars().next_back().is_some_and(part);
        let after = text[start + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    fn judged(file: &str, text: &str) -> Vec<Finding> {
        findings(Path::new(file), &source::lines(text))
    }

    fn in_source(text: &str) -> Vec<usize> {
        judged("crates/a/src/b.rs", &format!("//! Header.\n{text}"))
            .into_iter()
            .map(|(line, _)| line)
            .collect()
    }

    #[test]
    fn header_must_be_near_the_top() {
        assert_eq!(judged("crates/a/src/b.rs", "fn f() {}\n").len(), 1);
        assert_eq!(judged("crates/a/src/b.rs", "\n\n\n//! Too late.\n").len(), 1);
        assert!(judged("crates/a/src/b.rs", "#![allow(x, reason = \"y\")]\n//! Header.\n").is_empty());
    }

    #[test]
    fn leftovers_are_found_in_code_and_comments_but_not_in_strings() {
        assert_eq!(
            in_source("fn f() { todo!() }\nfn g() { unimplemented!(\"x\") }\nlet a = dbg!(b);\n"),
            [2, 3, 4]
        );
        assert_eq!(in_source("// FIXME later\n// XXX\n/// TODO: more\n"), [2, 3, 4]);
        assert!(
            in_source("let a = \"todo!() FIXME\"; let todo_list = 1; // a dbg! in a comment\n").is_empty()
        );
        assert!(in_source("// a pattern of XXXX\n").is_empty());
    }

    #[test]
    fn silenced_lints_need_a_reason() {
        assert_eq!(in_source("#[allow(dead_code)]\nfn f() {}\n"), [2]);
        assert_eq!(in_source("/// Documentation is no reason.\n#[allow(dead_code)]\nfn f() {}\n"), [3]);
        assert_eq!(in_source("#[test]\n#[ignore]\nfn f() {}\n"), [3]);
        assert_eq!(in_source("fn g() {}\n\n#[allow(clippy::unwrap_used)]\nfn f() {}\n"), [4]);
        assert!(in_source("#[allow(dead_code)] // the reader comes next\nfn f() {}\n").is_empty());
        assert!(in_source("// The reader comes next.\n#[allow(dead_code)]\nfn f() {}\n").is_empty());
        assert!(
            in_source("// The reader comes next.\n#[derive(Debug)]\n#[allow(dead_code)]\nstruct A;\n")
                .is_empty()
        );
        assert!(in_source("#[allow(\n    dead_code,\n    reason = \"later\",\n)]\nfn f() {}\n").is_empty());
        assert!(in_source("#[test]\n#[ignore = \"needs a printer\"]\nfn f() {}\n").is_empty());
        assert!(in_source("#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod tests {}\n").is_empty());
        assert!(in_source("#[cfg(test)]\nmod tests {\n    #![allow(clippy::unwrap_used)]\n}\n").is_empty());
        assert_eq!(in_source("fn a() {}\n#![allow(clippy::unwrap_used)]\n"), [3]);
        let in_tests =
            |text: &str| judged("crates/a/tests/b.rs", &format!("//! Header.\nfn a() {{}}\n{text}")).len();
        assert_eq!(in_tests("#![allow(clippy::unwrap_used, missing_docs)]\n"), 0);
        assert_eq!(in_tests("#![allow(clippy::unwrap_used, dead_code)]\n"), 1);
    }

    #[test]
    fn tests_do_not_sleep_except_in_the_waiting_helper() {
        let sleeping = "//! Header.\nfn f() { std::thread::sleep(d); }\n";
        assert_eq!(judged("crates/a/tests/b.rs", sleeping).len(), 1);
        assert_eq!(judged("crates/contracts/src/b.rs", sleeping).len(), 1);
        assert!(judged("crates/a/tests/wait.rs", sleeping).is_empty());
        assert!(
            judged("crates/a/src/b.rs", sleeping).is_empty(),
            "clippy.toml holds the rule for production code"
        );
        let inside = "async fn f() { tokio::time::sleep(d).await; }\n#[cfg(test)]\nmod tests {\n    use tokio::time::sleep;\n}\n";
        assert_eq!(in_source(inside), [5]);
        assert!(in_source("#[cfg(test)]\nmod tests {\n    clock.time::sleep_until(at);\n}\n").is_empty());
    }

    #[test]
    fn long_files_are_measured_without_their_tests() {
        let long = "fn f() {}\n".repeat(LONGEST);
        assert_eq!(in_source(&long), [LONGEST]);
        let short = "fn f() {}\n".repeat(LONGEST - 10);
        assert!(
            in_source(&format!("{short}#[cfg(test)]\n#[rustfmt::skip] // columns\nmod tests {{\n{long}}}\n"))
                .is_empty()
        );
        assert_eq!(judged("crates/a/tests/b.rs", &format!("//! Header.\n{long}")).len(), 1);
    }

    #[test]
    fn examples_that_no_test_compiles_are_refused() {
        assert_eq!(in_source("/// ```\n/// f();\n/// ```\nfn f() {}\n"), [2]);
        assert_eq!(in_source("/// ```rust,no_run\n/// f();\n/// ```\nfn f() {}\n"), [2]);
        assert_eq!(in_source("/// ```ignore\n/// f();\n/// ```\nfn f() {}\n"), [2]);
        assert!(
            in_source("/// ```text\n/// f();\n/// ```\n/// More.\n/// ```json\n/// {}\n/// ```\nfn f() {}\n")
                .is_empty()
        );
    }

    #[test]
    fn function_names_are_collected() {
        let lines = source::lines("pub async fn one() {}\nfn two<T>(f: fn(T)) {} // fn three\n\"fn four\"\n");
        assert_eq!(functions(&lines), ["one", "two", "T"]);
    }
}
