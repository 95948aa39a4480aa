//! Writes the HTTP interface's description, or checks that the written one is the program's.
//!
//! Invariant: the committed file is byte for byte what `aito openapi` prints, ended by one newline.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::workspace;

const FILE: &str = "docs/api/openapi.json";

/// Writes what the built program prints.
pub fn write(root: &Path, program: &Path) -> Result<(), String> {
    let printed = printed(root, program)?;
    let file = root.join(FILE);
    let dir = file.parent().unwrap_or(root);
    fs::create_dir_all(dir).map_err(|e| format!("{} cannot be made: {e}", dir.display()))?;
    fs::write(&file, printed).map_err(|e| format!("{FILE} cannot be written: {e}"))?;
    println!("    {FILE} is written");
    Ok(())
}

/// Compares what the built program prints with the committed file.
pub fn check(root: &Path, program: &Path) -> Result<(), String> {
    let printed = printed(root, program)?;
    let written = fs::read_to_string(root.join(FILE)).map_err(|e| format!("{FILE} is not readable: {e}"))?;
    compare(&written, &printed)
}

fn printed(root: &Path, program: &Path) -> Result<String, String> {
    let mut command = Command::new(program);
    workspace::clean(&mut command);
    let text = workspace::output(command.arg("openapi").current_dir(root).stdin(Stdio::null()))?;
    let document: Value =
        serde_json::from_str(&text).map_err(|e| format!("`aito openapi` does not print JSON: {e}"))?;
    match document.get("openapi").and_then(Value::as_str) {
        Some(version) if version.starts_with("3.1") => Ok(format!("{}\n", text.trim_end())),
        other => Err(format!("`aito openapi` does not print OpenAPI 3.1 but {other:?}")),
    }
}

fn compare(written: &str, printed: &str) -> Result<(), String> {
    if written == printed {
        return Ok(());
    }
    let different = written.lines().zip(printed.lines()).position(|(a, b)| a != b);
    let line = different.unwrap_or_else(|| written.lines().count().min(printed.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(end)").chars().take(100).collect::<String>();
    println!("    {FILE}:{}: is      {}", line + 1, at(written));
    println!("    {FILE}:{}: must be {}", line + 1, at(printed));
    Err(format!("{FILE} is not what the program prints: cargo xtask openapi"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_difference_is_refused() {
        assert!(compare("{\n}\n", "{\n}\n").is_ok());
        for other in ["{\n}", "{\n }\n", "{\n}\n\n", ""] {
            assert!(compare("{\n}\n", other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn program_that_prints_no_description_is_refused() {
        let root = std::env::temp_dir();
        assert!(printed(&root, Path::new("true")).is_err());
        assert!(printed(&root, Path::new("false")).is_err());
        assert!(printed(&root, Path::new("echo")).is_err(), "`openapi` is no JSON");
    }
}
