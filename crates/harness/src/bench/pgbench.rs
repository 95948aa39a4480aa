//! PostgreSQL's own load generator, as the reference for what the server does with the same statements.
//!
//! Invariants: statements are prepared once per connection, as the server's are; a load is bounded in time, and one
//! with a failed transaction is no measurement.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::process::Command;

use super::scenario::{Figure, Measured};
use crate::wait;

/// The shortest time that pgbench can be given.
const SHORTEST: Duration = Duration::from_secs(1);
/// Transactions of each client where a load is shorter than that.
const FEW: u32 = 20;
/// How long after its time a load may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Pgbench(PathBuf);

impl Pgbench {
    /// Beside other programs of PostgreSQL.
    pub(crate) fn in_directory(bin: &Path) -> Self {
        Self(bin.join("pgbench"))
    }

    /// Wherever the path finds it.
    pub(crate) fn on_path() -> Self {
        Self("pgbench".into())
    }

    /// Runs a script over and over on so many connections, two threads for them all. Gives transactions per second,
    /// without the time in which the connections are opened. Under a second, each client runs a few transactions
    /// instead.
    pub(crate) async fn load(
        &self,
        url: &str,
        script: &Script,
        clients: usize,
        time: Duration,
    ) -> Result<Measured, String> {
        let dir = tempfile::Builder::new().prefix("aito-").tempdir().map_err(|why| why.to_string())?;
        let file = dir.path().join("script.sql");
        fs::write(&file, &script.text).map_err(|why| format!("cannot write the script: {why}"))?;
        let mut command = Command::new(&self.0);
        command.args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--client", &clients.to_string()]);
        if time < SHORTEST {
            command.args(["--transactions", &FEW.to_string()]);
        } else {
            command.args(["--time", &time.as_secs_f64().round().to_string()]);
        }
        // Ids are made from it: no two loads give the same ones.
        command.arg(format!("--define=base={}000000", wait::wall_millis()));
        for (name, value) in &script.values {
            command.arg(format!("--define={name}={value}"));
        }
        command.arg("--file").arg(&file).arg(url).stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(time + PATIENCE, command.output()).await;
        let output = ended.map_err(|_| "pgbench does not end".to_owned())?;
        measured(&output.map_err(|why| format!("cannot run {}: {why}", self.0.display()))?)
    }
}

fn measured(output: &Output) -> Result<Measured, String> {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    let figure = |before: &str, after: &str| -> Option<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(before))?;
        line.split_once(after)?.0.trim().parse().ok()
    };
    let failed = figure("number of failed transactions:", "(");
    match (figure("tps =", "("), figure("latency average =", "ms")) {
        (Some(value), Some(latency)) if output.status.success() && value > 0.0 && failed == Some(0.0) => {
            Ok(Measured { value, figures: vec![Figure::new("latency, mean", latency, "ms")] })
        }
        _ => Err(format!("pgbench ended with {}: {said}{complained}", output.status)),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What one transaction does, and the values that it is given.
#[derive(Debug, Default)]
pub(crate) struct Script {
    text: String,
    values: Vec<(&'static str, String)>,
}

impl Script {
    /// The value of `:name` in statements.
    pub(crate) fn value(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.values.push((name, value.into()));
        self
    }

    /// Gives `:id`, a number that rises from transaction to transaction and that no other one of any load has.
    pub(crate) fn numbered(self) -> Self {
        let mut script = self.value("n", "0");
        script.text.push_str("\\set n :n + 1\n\\set id :base + :n * 1000 + :client_id\n");
        script
    }

    /// Statements that are sent one by one, each after the answer to the last.
    pub(crate) fn statements(mut self, statements: &[&str]) -> Self {
        for statement in statements {
            let _ = writeln!(self.text, "{statement};");
        }
        self
    }

    /// Statements that are sent together, before any answer.
    pub(crate) fn pipeline(mut self, statements: &[&str]) -> Self {
        self.text.push_str("\\startpipeline\n");
        self = self.statements(statements);
        self.text.push_str("\\endpipeline\n");
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;

    fn said(status: i32, out: &str) -> Output {
        let (stdout, stderr) = (out.as_bytes().to_vec(), b"pgbench: error: gone\n".to_vec());
        Output { status: ExitStatus::from_raw(status << 8), stdout, stderr }
    }

    #[test]
    fn the_rate_is_read_and_failures_are_no_measurement() {
        let good = "number of clients: 16\nnumber of failed transactions: 0 (0.000%)\nlatency average = 5.194 ms\n\
                    initial connection time = 55.770 ms\ntps = 3080.399444 (without initial connection time)\n";
        let measured_well = measured(&said(0, good)).unwrap();
        assert_eq!((measured_well.value, measured_well.figures[0].value), (3_080.399_444, 5.194));
        for bad in [
            said(2, good),
            said(0, &good.replace("transactions: 0", "transactions: 3")),
            said(0, &good.replace("tps", "per second")),
            said(0, ""),
        ] {
            assert!(measured(&bad).unwrap_err().contains("error: gone"), "{bad:?}");
        }
    }

    #[test]
    fn a_script_says_what_goes_together() {
        let script = Script::default()
            .numbered()
            .pipeline(&["BEGIN", "INSERT INTO t VALUES (:id, :what)"])
            .statements(&["COMMIT"])
            .value("what", "it's");
        assert_eq!(
            script.text,
            "\\set n :n + 1\n\\set id :base + :n * 1000 + :client_id\n\\startpipeline\nBEGIN;\n\
             INSERT INTO t VALUES (:id, :what);\n\\endpipeline\nCOMMIT;\n"
        );
        assert_eq!(script.values, [("n", "0".to_owned()), ("what", "it's".to_owned())]);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told() {
        let nowhere = Pgbench::in_directory(Path::new("/nowhere"));
        let why = nowhere.load("postgres://x", &Script::default(), 1, SHORTEST).await.unwrap_err();
        assert!(why.contains("/nowhere/pgbench"), "{why}");
    }
}
