//! What was measured, as Markdown for people and as JSON for programs.
//!
//! Invariants: every figure that is told stands in both; a missed target and a noisy comparison are said in plain
//! words.

use std::{fmt::Write as _, path::PathBuf};

use serde::Serialize;

use super::{
    Summary,
    machine::Machine,
    scenario::{About, Figure, Measured},
    stats::{self, NOISY, Spread},
};

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// When it ended, in milliseconds since 1970.
    pub(crate) at_unix_ms: i64,
    pub(crate) bin: PathBuf,
    /// Pairs that count.
    pub(crate) repeats: u32,
    /// Per measurement.
    pub(crate) seconds: f64,
    pub(crate) large: bool,
    pub(crate) machine: Machine,
    pub(crate) load_after: String,
    pub(crate) rows: Vec<Row>,
}

/// One scenario.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Row {
    Compared(Box<Compared>),
    Failed {
        name: String,
        why: String,
    },
    /// This machine cannot have the servers that it is about.
    NotRun {
        name: String,
        why: String,
    },
}

/// A scenario that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    name: &'static str,
    what: &'static str,
    reference_is: &'static str,
    unit: &'static str,
    subject: Spread,
    reference: Spread,
    /// Subject to reference, pair by pair.
    ratio: Spread,
    /// Every pair in the order in which it was measured.
    pairs: Vec<(f64, f64)>,
    noisy: bool,
    target: Option<String>,
    met: Option<bool>,
    /// Medians of what was seen besides.
    subject_figures: Vec<Figure>,
    reference_figures: Vec<Figure>,
    facts: Vec<Figure>,
}

impl Compared {
    pub(crate) fn new(about: &About, pairs: &[(Measured, Measured)], facts: Vec<Figure>) -> Self {
        let values: Vec<(f64, f64)> = pairs.iter().map(|(a, b)| (a.value, b.value)).collect();
        let ratio = Spread::of(&stats::ratios(&values));
        let side = |pick: fn(&(f64, f64)) -> f64| Spread::of(&values.iter().map(pick).collect::<Vec<_>>());
        Self {
            name: about.name,
            what: about.what,
            reference_is: about.reference,
            unit: about.unit,
            subject: side(|pair| pair.0),
            reference: side(|pair| pair.1),
            ratio,
            noisy: ratio.relative() > NOISY,
            target: about.target.map(|target| target.to_string()),
            met: about.target.map(|target| target.met(ratio.median)),
            subject_figures: medians(&pairs.iter().map(|pair| &pair.0).collect::<Vec<_>>()),
            reference_figures: medians(&pairs.iter().map(|pair| &pair.1).collect::<Vec<_>>()),
            facts,
            pairs: values,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.met {
            None => "none set",
            Some(true) => "met",
            Some(false) => "missed",
        }
    }
}

/// The medians of figures that are told every time, by their place.
fn medians(measured: &[&Measured]) -> Vec<Figure> {
    let Some(first) = measured.first() else { return Vec::new() };
    let median = |place: usize, figure: &Figure| {
        let values: Vec<f64> =
            measured.iter().filter_map(|one| one.figures.get(place)).map(|figure| figure.value).collect();
        Figure { value: Spread::of(&values).median, ..figure.clone() }
    };
    first.figures.iter().enumerate().map(|(place, figure)| median(place, figure)).collect()
}

impl Report {
    pub(crate) fn summary(&self) -> Summary {
        let failed = self.rows.iter().filter(|row| matches!(row, Row::Failed { .. })).count();
        let not_run = self.rows.iter().filter(|row| matches!(row, Row::NotRun { .. })).count();
        let missed = self.compared().filter(|row| row.met == Some(false)).count();
        Summary { failed, not_run, missed }
    }

    fn compared(&self) -> impl Iterator<Item = &Compared> {
        self.rows.iter().filter_map(|row| match row {
            Row::Compared(compared) => Some(&**compared),
            Row::Failed { .. } | Row::NotRun { .. } => None,
        })
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("# Benchmarks\n\n");
        let size = if self.large { ", large sizes" } else { "" };
        let _ = writeln!(text, "Server: `{}`.\n", self.bin.display());
        let _ = writeln!(text, "Machine: {}. {}\n", self.machine.line(&self.load_after), self.noise());
        let _ = writeln!(
            text,
            "{} pairs of {} s each after one that was dropped{size}. Cells: median (min–max; interquartile range). \
             The ratio is subject to reference, pair by pair.\n",
            self.repeats, self.seconds
        );
        text.push_str(
            "| scenario | unit | subject | reference | ratio | target | |\n|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let _ = match row {
                Row::Failed { name, why } => {
                    writeln!(text, "| {name} | | | | | | **failed**: {} |", first_line(why))
                }
                Row::NotRun { name, why } => {
                    writeln!(text, "| {name} | | | | | | **not run**: {} |", first_line(why))
                }
                Row::Compared(it) => writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} | {}{} |",
                    it.name,
                    it.unit,
                    cell(&it.subject),
                    cell(&it.reference),
                    cell(&it.ratio),
                    it.target.as_deref().unwrap_or("–"),
                    if it.met == Some(false) { "**missed**" } else { it.verdict() },
                    if it.noisy { ", noisy" } else { "" },
                ),
            };
        }
        for it in self.compared() {
            let _ = writeln!(text, "\n## {}\n\n{}. Reference: {}.\n", it.name, it.what, it.reference_is);
            for (who, figures) in [
                ("subject", &it.subject_figures),
                ("reference", &it.reference_figures),
                ("besides", &it.facts),
            ] {
                if !figures.is_empty() {
                    let all: Vec<_> = figures.iter().map(told).collect();
                    let _ = writeln!(text, "- {who}: {}", all.join("; "));
                }
            }
        }
        text
    }

    fn noise(&self) -> String {
        let noisy: Vec<_> = self.compared().filter(|row| row.noisy).map(|row| row.name).collect();
        let bound = NOISY * 100.0;
        if noisy.is_empty() {
            format!("Not noisy: no scenario's ratios spread over more than {bound} % of their median.")
        } else {
            format!(
                "Noisy: the ratios of {} spread over more than {bound} % of their median.",
                noisy.join(", ")
            )
        }
    }
}

/// As it may stand in a cell.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().replace('|', "\\|")
}

fn told(one: &Figure) -> String {
    format!("{} {} {}", one.name, figure(one.value), one.unit).trim_end().to_owned()
}

fn cell(spread: &Spread) -> String {
    format!(
        "{} ({}–{}; {}–{})",
        figure(spread.median),
        figure(spread.min),
        figure(spread.max),
        figure(spread.q1),
        figure(spread.q3)
    )
}

/// A number with about three digits that mean something, never in scientific notation.
pub(crate) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.01 => 3,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use crate::bench::scenario::Target;

    fn about(target: Option<Target>) -> About {
        About {
            name: "sample",
            what: "Something",
            reference: "the same, bare",
            unit: "1/s",
            target,
            on_servers: false,
            only_large: false,
            set_up: |_| Box::pin(async { Err("never set up".into()) }),
        }
    }

    fn pairs(values: &[(f64, f64)]) -> Vec<(Measured, Measured)> {
        let one = |value: f64| Measured { value, figures: vec![Figure::new("p50", value / 10.0, "ms")] };
        values.iter().map(|(a, b)| (one(*a), one(*b))).collect()
    }

    fn report(rows: Vec<Row>) -> Report {
        Report {
            at_unix_ms: 0,
            bin: "/b/aito".into(),
            repeats: 3,
            seconds: 0.5,
            large: false,
            machine: Machine::look(std::path::Path::new("/")),
            load_after: "0.1 0.2 0.3".into(),
            rows,
        }
    }

    fn row(target: Option<Target>, values: &[(f64, f64)]) -> Row {
        let facts = vec![Figure::new("memory", 12.0, "KiB")];
        Row::Compared(Box::new(Compared::new(&about(target), &pairs(values), facts)))
    }

    #[test]
    fn a_steady_comparison_is_told_with_all_its_figures() {
        let steady =
            report(vec![row(Some(Target::AtLeast(0.4)), &[(100.0, 200.0), (50.0, 100.0), (80.0, 160.0)])]);
        assert_eq!(steady.summary(), Summary { failed: 0, not_run: 0, missed: 0 });
        let text = steady.markdown();
        for part in [
            "| sample | 1/s | 80.0 (50.0–100; 65.0–90.0) | 160 (100–200; 130–180) | 0.500 (0.500–0.500; 0.500–0.500) | ≥ 0.4 | met |",
            "Something. Reference: the same, bare.",
            "- subject: p50 8.00 ms",
            "- reference: p50 16.0 ms",
            "- besides: memory 12.0 KiB",
            "Not noisy",
            "0.1 0.2 0.3 after",
            "3 pairs of 0.5 s",
        ] {
            assert!(text.contains(part), "\"{part}\" is missing in:\n{text}");
        }
    }

    #[test]
    fn missed_and_noisy_and_failed_and_not_run_are_said() {
        let failed = Row::Failed { name: "other".into(), why: "a | b\nmore".into() };
        let not_run = Row::NotRun { name: "third".into(), why: "dockerd is not installed".into() };
        let missed = row(Some(Target::AtMost(1.0)), &[(3.0, 2.0), (2.0, 1.0), (1.0, 1.0)]);
        let bad = report(vec![missed, failed, not_run]);
        assert_eq!(bad.summary(), Summary { failed: 1, not_run: 1, missed: 1 });
        let text = bad.markdown();
        assert!(text.contains("**missed**, noisy") && text.contains("Noisy: the ratios of sample"), "{text}");
        assert!(text.contains("| other | | | | | | **failed**: a \\| b |"), "{text}");
        assert!(text.contains("| third | | | | | | **not run**: dockerd is not installed |"), "{text}");
    }

    #[test]
    fn programs_get_every_pair() {
        let json = serde_json::to_value(report(vec![row(None, &[(1.0, 2.0), (3.0, 4.0)])])).unwrap();
        let row = &json["rows"][0]["compared"];
        assert_eq!(row["pairs"], serde_json::json!([[1.0, 2.0], [3.0, 4.0]]));
        assert_eq!(
            (&row["ratio"]["median"], &row["met"]),
            (&serde_json::json!(0.625), &serde_json::Value::Null)
        );
        assert_eq!(json["load_after"], "0.1 0.2 0.3");
    }

    #[test]
    fn targets_include_their_bound() {
        assert!(Target::AtLeast(0.5).met(0.5) && !Target::AtLeast(0.5).met(0.49));
        assert!(Target::AtMost(2.0).met(2.0) && !Target::AtMost(2.0).met(2.01));
    }

    #[test]
    fn figures_are_readable_at_any_size() {
        let shown: Vec<_> =
            [0.0, 0.001_23, 0.0456, 1.2345, 45.67, 12_345.6].into_iter().map(figure).collect();
        assert_eq!(shown, ["0.0000", "0.0012", "0.046", "1.23", "45.7", "12346"]);
    }
}
