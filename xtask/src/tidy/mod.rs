//! House rules that no compiler checks: headers, leftovers, silenced lints, sleeping tests, manifests, links, secrets
//! and the table of promises.
//!
//! Invariants: every finding is `file:line: message`; the rules themselves are pure functions from a file's text, this
//! module alone reads files.

mod files;
mod rust;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::report::Report;
use crate::workspace;

/// One broken rule: line number from 1, and what is wrong.
pub type Finding = (usize, String);

/// `cargo xtask tidy`.
pub fn run(root: &Path, report: &mut Report) {
    report.step("tidy", |_| {
        let files = files_of(root)?;
        let findings = findings(root, &files);
        for (file, (line, message)) in &findings {
            println!("    {}:{line}: {message}", file.display());
        }
        println!("    {} files", files.len());
        if findings.is_empty() { Ok(()) } else { Err(format!("{} findings", findings.len())) }
    });
}

/// Every file that is tracked, or would be, relative to the root. Without git: every file outside of `target`.
fn files_of(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let mut files: BTreeSet<PathBuf> = match workspace::output(&mut git) {
        Ok(list) => list.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
        Err(why) => {
            println!("    every file is read, not only the tracked ones: {why}");
            let mut found = BTreeSet::new();
            walk(root, Path::new(""), &mut found)?;
            found
        }
    };
    files.retain(|path| root.join(path).is_file());
    Ok(files.into_iter().collect())
}

fn walk(root: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{} is not readable: {e}", below.display());
    for entry in fs::read_dir(root.join(below)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() && entry.file_name() != ".git" && path != Path::new("target") {
            walk(root, &path, found)?;
        } else if kind.is_file() {
            found.insert(path);
        }
    }
    Ok(())
}

fn findings(root: &Path, files: &[PathBuf]) -> Vec<(PathBuf, Finding)> {
    let mut findings = Vec::new();
    let mut functions = BTreeSet::new();
    for file in files {
        let Some(text) = text_of(&root.join(file)) else { continue };
        let mut found = files::leaks(&text);
        if is_source(file) {
            let lines = source::lines(&text);
            functions.extend(rust::functions(&lines));
            found.extend(rust::findings(file, &lines));
        }
        if is_manifest(file) {
            found.extend(files::manifest(&text));
        }
        if is_document(file) {
            let dir = root.join(file.parent().unwrap_or(Path::new("")));
            found.extend(files::links(&text, |target| dir.join(target).exists()));
        }
        found.sort();
        findings.extend(found.into_iter().map(|finding| (file.clone(), finding)));
    }
    let promises = PathBuf::from("docs/promises.md");
    let found = match text_of(&root.join(&promises)) {
        None => vec![(1, "is missing: it lists each promise with its test".to_owned())],
        Some(text) => files::promises(&text, &functions),
    };
    findings.extend(found.into_iter().map(|finding| (promises.clone(), finding)));
    findings
}

/// A file's text; nothing for one that is not text.
fn text_of(path: &Path) -> Option<String> {
    String::from_utf8(fs::read(path).ok()?).ok().filter(|text| !text.contains('\0'))
}

fn is_source(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "rs")
        && (file.starts_with("crates") || file.starts_with("xtask"))
}

fn is_manifest(file: &Path) -> bool {
    file.ends_with("Cargo.toml") && (file.starts_with("crates") || file.starts_with("xtask"))
}

fn is_document(file: &Path) -> bool {
    let markdown = file.extension().is_some_and(|extension| extension == "md");
    markdown && (file == Path::new("README.md") || file.starts_with("docs") || file.starts_with("migrations"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_where_they_are() {
        for (file, source, manifest, document) in [
            ("crates/domain/src/lib.rs", true, false, false),
            ("crates/app/tests/api.rs", true, false, false),
            ("xtask/Cargo.toml", false, true, false),
            ("Cargo.toml", false, false, false),
            ("README.md", false, false, true),
            ("docs/adr/0001-one.md", false, false, true),
            ("deploy/profiles/ceo.md", false, false, false),
        ] {
            let file = Path::new(file);
            let kinds = (is_source(file), is_manifest(file), is_document(file));
            assert_eq!(kinds, (source, manifest, document), "{}", file.display());
        }
    }

    #[test]
    fn checkout_with_faults_is_refused_with_their_places() {
        let root = std::env::temp_dir().join(format!("xtask-tidy-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("crates/a/src/lib.rs", "//! Good.\nfn kept_promise() {}\n");
        write("crates/a/src/bad.rs", "fn f() {}\n");
        write("crates/a/Cargo.toml", "[dependencies]\nserde = \"1\"\n[lints]\nworkspace = true\n");
        write("README.md", "[map](docs/map.md) and [gone](docs/gone.md)\n");
        write("docs/map.md", "fine\n");
        write("docs/promises.md", "| a | test: `kept_promise` |\n| b | test: `broken_promise` |\n");
        write("target/x.rs", "not read");
        let mut files = BTreeSet::new();
        walk(&root, Path::new(""), &mut files).unwrap();
        let found = findings(&root, &files.into_iter().collect::<Vec<_>>());
        fs::remove_dir_all(&root).unwrap();
        let places: Vec<String> =
            found.iter().map(|(file, (line, _))| format!("{}:{line}", file.display())).collect();
        assert_eq!(
            places,
            ["README.md:1", "crates/a/Cargo.toml:2", "crates/a/src/bad.rs:1", "docs/promises.md:2"],
            "{found:?}"
        );
    }
}
