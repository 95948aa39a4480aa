//! Looks into the database of a sandbox, and changes it behind the server's back.
//!
//! Invariants: what is dumped is everything, also what a server has not written back to its file yet; a statement that
//! fails is a failed test.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::Sandbox;

/// A part of a dump: what it is, and its bytes.
pub type Part = (String, Vec<u8>);

/// Carries out statements, separated by semicolons, and gives what they yield as text without headings. What both
/// kinds of database understand can be said to both.
///
/// # Panics
/// When one fails.
pub fn sql(sandbox: &Sandbox, statements: &str) -> String {
    if sandbox.has_containers() { sandbox.sql(statements) } else { sqlite(sandbox, statements) }
}

/// Everything in the database: every row of every table as text, of SQLite also its files as they lie there.
///
/// # Panics
/// When it cannot be read.
pub fn dump(sandbox: &Sandbox) -> Vec<Part> {
    if !sandbox.has_containers() {
        // The files first: who opens the database last writes everything back when it closes it.
        let mut parts = Vec::new();
        for ending in ["", "-wal", "-journal"] {
            let name = format!("aito.sqlite3{ending}");
            parts.extend(fs::read(sandbox.data_dir().join(&name)).ok().map(|bytes| (name, bytes)));
        }
        parts.push(("rows of SQLite".to_owned(), sqlite(sandbox, ".dump").into_bytes()));
        return parts;
    }
    let tables = sandbox.sql(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
    );
    let rows = |table: &str| sandbox.sql(&format!("COPY {table} TO STDOUT")).into_bytes();
    tables.lines().map(|table| (format!("table {table}"), rows(table))).collect()
}

fn sqlite(sandbox: &Sandbox, statements: &str) -> String {
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail", "-noheader", "-cmd", ".timeout 10000"]);
    command.arg(sandbox.data_dir().join("aito.sqlite3")).arg(statements);
    let done = command.stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|why| {
        panic!("sqlite3 cannot be run: {why}; `cargo xtask setup` says how to get it");
    });
    assert!(done.status.success(), "{statements}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
