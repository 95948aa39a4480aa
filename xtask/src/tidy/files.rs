//! The house rules for manifests, documents and every tracked text.
//!
//! Invariant: pure functions from a text; what exists on disk is asked through a parameter.

use std::collections::BTreeSet;

use super::Finding;

/// Directories of a person, in two parts so that this file does not find itself.
const PERSONAL: [&str; 3] = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

/// Personal paths and things that look like secrets.
pub fn leaks(text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for path in PERSONAL {
            if has_path(line, path) {
                found.push((index + 1, format!("a path below `{path}` is somebody's own")));
            }
        }
        if looks_secret(line) {
            found.push((index + 1, "looks like a secret".to_owned()));
        }
    }
    found
}

/// Whether an absolute path that begins so stands in the line; the same letters inside a longer path are none.
fn has_path(line: &str, path: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '}');
    line.match_indices(path).any(|(start, _)| !line[..start].chars().next_back().is_some_and(inside))
}

fn looks_secret(line: &str) -> bool {
    let key = line.contains(concat!("BEG", "IN ")) && line.contains(concat!("PRIVATE", " KEY"));
    let cloud = line.match_indices(concat!("AK", "IA")).any(|(start, prefix)| {
        let rest = &line.as_bytes()[start + prefix.len()..];
        rest.len() >= 16 && rest[..16].iter().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    });
    key || cloud || line.contains(concat!("gh", "p_"))
}

/// A crate's manifest: versions and lints come from the root.
pub fn manifest(text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut section = String::new();
    let mut lints = false;
    // A dependency that is a table of its own: where it begins, until its `workspace = true` is met.
    let mut table: Option<usize> = None;
    let message = "the version belongs into the root manifest: use `workspace = true`".to_owned();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let compact = line.replace(' ', "");
        if compact.starts_with('[') {
            found.extend(table.take().map(|begun| (begun, message.clone())));
            section = compact.trim_start_matches('[').trim_end_matches(']').to_owned();
            if is_dependency_table(&section) {
                table = Some(index + 1);
            }
        } else if section == "lints" {
            lints |= compact == "workspace=true";
        } else if is_dependency_list(&section) {
            if !compact.is_empty() && !compact.contains("workspace=true") {
                found.push((index + 1, message.clone()));
            }
        } else if compact == "workspace=true" {
            table = None;
        }
    }
    found.extend(table.map(|begun| (begun, message)));
    if !lints {
        found.push((1, "has no `[lints]` with `workspace = true`".to_owned()));
    }
    found
}

fn is_dependency_list(section: &str) -> bool {
    section.rsplit('.').next().is_some_and(|last| last.ends_with("dependencies"))
}

fn is_dependency_table(section: &str) -> bool {
    let parent = section.rsplit_once('.').map(|(parent, _)| parent);
    parent.is_some_and(is_dependency_list) && !is_dependency_list(section)
}

/// Relative links of a Markdown text that lead nowhere.
pub fn links(text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in link_targets(line) {
            let path = target.split(['#', '?']).next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !path.is_empty() && !exists(path) {
                found.push((index + 1, format!("link to `{target}` leads nowhere")));
            }
        }
    }
    found
}

/// The targets of `[text](target)` and of `[label]: target`, outside of code.
fn link_targets(line: &str) -> Vec<String> {
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let definition =
        prose.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, rest)| rest);
    let targets = inline.chain(definition).filter_map(|target| target.split_whitespace().next());
    targets.map(|target| target.trim_start_matches('<').trim_end_matches('>').to_owned()).collect()
}

/// Tests that the table of promises names and that do not exist. A table that names none proves nothing.
pub fn promises(text: &str, functions: &BTreeSet<String>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut named = 0;
    for (index, line) in text.lines().enumerate() {
        for test in promised_tests(line) {
            named += 1;
            let function = test.rsplit("::").next().unwrap_or(&test);
            if !functions.contains(function) {
                found.push((index + 1, format!("test `{test}` does not exist")));
            }
        }
    }
    if named == 0 {
        found.push((1, "names no test: each promise has one, as: test: `name`".to_owned()));
    }
    found
}

/// Every name in ``test: `name` `` and in ``test: `one`, `two` ``.
fn promised_tests(line: &str) -> Vec<String> {
    let mut tests = Vec::new();
    for rest in line.split("test: `").skip(1) {
        let mut parts = rest.split('`');
        tests.extend(parts.next().map(str::to_owned));
        while parts.next() == Some(", ") {
            tests.extend(parts.next().map(str::to_owned));
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_numbers(found: Vec<Finding>) -> Vec<usize> {
        found.into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn personal_paths_are_found_where_they_begin() {
        let text = PERSONAL.map(|path| format!("cd {path}me/x\n")).concat();
        assert_eq!(line_numbers(leaks(&text)), [1, 2, 3]);
        let fine = PERSONAL.map(|path| format!("https://example.org{path}x and ${{dir}}{path}x\n")).concat();
        assert!(leaks(&fine).is_empty());
    }

    #[test]
    fn secrets_are_found() {
        for secret in [
            concat!("-----BEG", "IN PRIVATE", " KEY-----"),
            concat!("-----BEG", "IN RSA PRIVATE", " KEY-----"),
            concat!("id = AK", "IAIOSFODNN7EXAMPLE"),
            concat!("token gh", "p_0123456789"),
        ] {
            assert_eq!(leaks(secret).len(), 1, "{secret}");
        }
        for fine in ["-----BEGIN CERTIFICATE-----", "AKIA is short", "a PRIVATE", "KEY"] {
            assert!(leaks(fine).is_empty(), "{fine}");
        }
    }

    #[test]
    fn manifests_take_versions_and_lints_from_the_root() {
        let good = "[package]\nname = \"a\"\nversion.workspace = true\n[lints]\nworkspace = true\n\
                    [dependencies]\nserde.workspace = true # why\n# a comment\ntokio = { workspace = true, features = [\"fs\"] }\n\
                    [target.'cfg(unix)'.dependencies]\nrustix.workspace = true\n[dependencies.uuid]\nfeatures = [\"v4\"]\nworkspace = true\n";
        assert!(manifest(good).is_empty(), "{:?}", manifest(good));
        let bad = "[dependencies]\nserde = \"1\"\n[dev-dependencies]\nrand = { version = \"0.9\" }\n\
                   [dependencies.uuid]\nversion = \"1\"\n[target.'cfg(unix)'.build-dependencies]\ncc = \"1\"\n[lints]\nworkspace = true\n";
        assert_eq!(line_numbers(manifest(bad)), [2, 4, 5, 8]);
        assert_eq!(line_numbers(manifest("[package]\nname = \"a\"\n")), [1]);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let text = "[a](there.md) [b](gone.md#x) [c](https://example.org/x) [d](#here)\n\
                    `[e](gone.md)` [f](there.md#part \"title\")\n```text\n[g](gone.md)\n```\n[h]: gone/too.md\n[i](mailto:a@example.org)\n";
        let found = links(text, |target| target == "there.md");
        assert_eq!(line_numbers(found), [1, 6]);
    }

    #[test]
    fn promised_tests_must_exist() {
        let functions = ["one", "two"].map(String::from).into();
        assert!(
            promises("| a | test: `one`, `crate::b::two` |\n| b | test: `two` |\n", &functions).is_empty()
        );
        assert_eq!(
            line_numbers(promises("x\n| a | test: `one`, `three` |\ntest: `four`\n", &functions)),
            [2, 3]
        );
        assert_eq!(line_numbers(promises("# Promises\n", &functions)), [1]);
    }
}
