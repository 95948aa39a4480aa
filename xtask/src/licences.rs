//! Every package's licence expression must be satisfiable from the allow list in `deny.toml`.
//!
//! Invariant: what cannot be read as an SPDX expression, and what names no licence, is refused.

use std::fs;
use std::path::Path;

use crate::workspace::Metadata;

/// The licence of every package of this workspace.
const OWN: &str = "MIT OR Apache-2.0";

/// Every package whose licence is not allowed, one line each.
pub fn findings(metadata: &Metadata, allowed: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = format!("{} {}", package.name, package.version);
        match &package.license {
            None => findings.push(format!("{name}: names no SPDX licence")),
            Some(licence) if metadata.is_member(package) => {
                if licence != OWN {
                    findings.push(format!("{name}: our own packages are `{OWN}`, not `{licence}`"));
                }
            }
            Some(licence) => match satisfiable(licence, allowed) {
                Ok(true) => {}
                Ok(false) => {
                    findings.push(format!("{name}: licence `{licence}` is not on the list in deny.toml"))
                }
                Err(why) => findings.push(format!("{name}: licence `{licence}` is not understood: {why}")),
            },
        }
    }
    findings.sort();
    findings
}

/// The allow list of `deny.toml`.
pub fn allowed(root: &Path) -> Result<Vec<String>, String> {
    let text =
        fs::read_to_string(root.join("deny.toml")).map_err(|e| format!("deny.toml is not readable: {e}"))?;
    let list = read_allow_list(&text)?;
    if list.is_empty() { Err("deny.toml allows no licence".to_owned()) } else { Ok(list) }
}

/// Reads `allow = ["…", …]` of the `[licenses]` section: strings, commas and comments, over any number of lines.
fn read_allow_list(text: &str) -> Result<Vec<String>, String> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[licenses]").skip(1);
    let section = lines.by_ref().take_while(|line| !is_section(line));
    let mut list = section.skip_while(|line| !line.replace(' ', "").starts_with("allow=["));
    let mut found = Vec::new();
    let Some(first) = list.next() else {
        return Err("deny.toml has no allow list in [licenses]".to_owned());
    };
    let mut rest = first.split_once('[').map_or("", |(_, rest)| rest).to_owned();
    loop {
        let mut text = rest.trim();
        while !text.is_empty() && !text.starts_with('#') {
            if text.starts_with(']') {
                return Ok(found);
            }
            let opened = text.strip_prefix('"').and_then(|text| text.split_once('"'));
            let Some((entry, after)) = opened else {
                return Err(format!("deny.toml: `{text}` is no quoted licence"));
            };
            found.push(entry.to_owned());
            text = after.trim().trim_start_matches(',').trim();
        }
        rest = list.next().ok_or("deny.toml: the allow list has no end")?.to_owned();
    }
}

fn is_section(line: &str) -> bool {
    line.starts_with('[') && line.ends_with(']') && !line.contains('"')
}

/// Whether some choice of the expression is allowed. `AND` binds tighter than `OR`; `/` is an old form of `OR`.
fn satisfiable(expression: &str, allowed: &[String]) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut parser = Parser { words: spaced.split_whitespace().collect(), next: 0, allowed };
    let answer = parser.any()?;
    match parser.peek() {
        None => Ok(answer),
        Some(word) => Err(format!("`{word}` is not expected")),
    }
}

struct Parser<'a> {
    words: Vec<&'a str>,
    next: usize,
    allowed: &'a [String],
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = self.peek() == Some(wanted);
        self.next += usize::from(found);
        found
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut answer = self.all()?;
        while self.take("OR") {
            answer |= self.all()?;
        }
        Ok(answer)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut answer = self.one()?;
        while self.take("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.take("(") {
            let answer = self.any()?;
            return if self.take(")") { Ok(answer) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        let licence = self.name()?;
        let full = if self.take("WITH") { format!("{licence} WITH {}", self.name()?) } else { licence };
        Ok(self.allowed.contains(&full))
    }

    fn name(&mut self) -> Result<String, String> {
        match self.peek() {
            None | Some("(" | ")" | "AND" | "OR" | "WITH") => Err("a licence is missing".to_owned()),
            Some(word) => {
                self.next += 1;
                Ok(word.to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    fn list() -> Vec<String> {
        ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"].map(String::from).to_vec()
    }

    #[test]
    fn allowed_expressions() {
        for expression in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "GPL-2.0/MIT",
            "MIT AND ISC",
            "(MIT OR GPL-3.0) AND (Apache-2.0 OR GPL-2.0)",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "GPL-3.0 AND ISC OR MIT",
            "((MIT))",
        ] {
            assert_eq!(satisfiable(expression, &list()), Ok(true), "{expression}");
        }
    }

    #[test]
    fn refused_expressions() {
        for expression in [
            "GPL-3.0-or-later",
            "MPL-2.0",
            "MIT AND GPL-3.0",
            "MIT AND (GPL-3.0 OR MPL-2.0)",
            "MIT WITH LLVM-exception",
            "GPL-2.0 WITH Classpath-exception-2.0",
            "GPL-3.0 AND MIT OR MPL-2.0",
            "mit",
        ] {
            assert_eq!(satisfiable(expression, &list()), Ok(false), "{expression}");
        }
    }

    #[test]
    fn broken_expressions() {
        for expression in ["", "MIT OR", "OR MIT", "MIT Apache-2.0", "(MIT", "MIT)", "MIT WITH", "()", "AND"]
        {
            assert!(satisfiable(expression, &list()).is_err(), "{expression}");
        }
    }

    #[test]
    fn allow_list_is_read_from_its_section_alone() {
        let text = "[bans]\nallow = [\"GPL-3.0\"]\n[licenses]\n# why\nunused-allowed-license = \"allow\"\n\
                    allow = [ # first\n  \"MIT\", \"ISC\",\n  # \"MPL-2.0\",\n  \"0BSD\", # last\n]\n[sources]\n";
        assert_eq!(read_allow_list(text).unwrap(), ["MIT", "ISC", "0BSD"]);
        assert_eq!(read_allow_list("[licenses]\nallow = [\"MIT\"]\n").unwrap(), ["MIT"]);
    }

    #[test]
    fn allow_list_that_cannot_be_read_is_an_error() {
        for text in ["", "[licenses]\n", "[licenses]\nallow = [\n\"MIT\",\n", "[licenses]\nallow = [MIT]\n"] {
            assert!(read_allow_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn committed_list_is_readable_and_free_of_copyleft() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let list = allowed(root).unwrap();
        assert!(
            list.contains(&"MIT".to_owned()) && list.contains(&"Apache-2.0 WITH LLVM-exception".to_owned())
        );
        assert!(!list.iter().any(|licence| licence.contains("GPL") || licence.contains("MPL")), "{list:?}");
    }

    #[test]
    fn packages_are_judged_by_whose_they_are() {
        let package = |name: &str, licence: Option<&str>| Package {
            name: name.into(),
            version: "1.0.0".into(),
            id: name.into(),
            license: licence.map(str::to_owned),
            ..Package::default()
        };
        let metadata = Metadata {
            packages: vec![
                package("ours-good", Some(OWN)),
                package("ours-bad", Some("MIT")),
                package("good", Some("ISC")),
                package("bad", Some("GPL-3.0-or-later")),
                package("none", None),
            ],
            workspace_members: vec!["ours-good".into(), "ours-bad".into()],
            ..Metadata::default()
        };
        let findings = findings(&metadata, &list());
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(
            findings[0].starts_with("bad ")
                && findings[1].starts_with("none ")
                && findings[2].starts_with("ours-bad ")
        );
    }
}
