//! The figures as text, Markdown or JSON: medians of the runs, and the ratio of the medians.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::measure::Sample;

/// The figures that are reported and promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    Throughput,
    Mean,
    P50,
    P99,
    Cpu,
    Peak,
    Resident,
    Anonymous,
    Generator,
    PutsKept,
}

/// Columns of the tables, in order.
const COLUMNS: [Metric; 10] = [
    Metric::Throughput,
    Metric::Mean,
    Metric::P50,
    Metric::P99,
    Metric::Cpu,
    Metric::Peak,
    Metric::Resident,
    Metric::Anonymous,
    Metric::Generator,
    Metric::PutsKept,
];

impl Metric {
    /// The column's heading, unit included.
    pub fn name(self) -> &'static str {
        match self {
            Self::Throughput => "req/s",
            Self::Mean => "mean ms",
            Self::P50 => "p50 ms",
            Self::P99 => "p99 ms",
            Self::Cpu => "CPU µs/req",
            Self::Peak => "peak MiB",
            Self::Resident => "RSS MiB",
            Self::Anonymous => "anon MiB",
            Self::Generator => "gen µs/req",
            Self::PutsKept => "puts kept",
        }
    }

    /// Whether a ratio of two programs' figures says anything.
    fn is_of_the_program(self) -> bool {
        !matches!(self, Self::Generator | Self::PutsKept)
    }

    /// The figure in one run; none where the workload has no such figure.
    pub fn of(self, sample: &Sample) -> Option<f64> {
        let mib = |kib: u64| kib as f64 / 1024.0;
        Some(match self {
            Self::Throughput => sample.requests_per_s,
            Self::Mean => sample.mean_ms,
            Self::P50 => sample.p50_ms,
            Self::P99 => sample.p99_ms,
            Self::Cpu => sample.cpu_us,
            Self::Peak => mib(sample.memory.peak_kib),
            Self::Resident => mib(sample.memory.resident_kib),
            Self::Anonymous => mib(sample.memory.anonymous_kib),
            Self::Generator => sample.generator_us,
            Self::PutsKept => return sample.puts_kept,
        })
    }
}

/// One workload on one number of members, for every subject.
#[derive(Debug)]
pub struct Comparison {
    pub members: usize,
    pub workload: &'static str,
    pub subjects: Vec<SubjectRuns>,
}

/// One subject's runs of a workload.
#[derive(Debug)]
pub struct SubjectRuns {
    pub label: String,
    pub samples: Vec<Sample>,
    /// Why runs have no sample.
    pub failed_runs: Vec<String>,
}

impl SubjectRuns {
    /// The median of a figure over the runs; none when no run succeeded.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        median(self.samples.iter().filter_map(|sample| metric.of(sample)).collect())
    }

    /// Requests that were answered with an error, in all runs.
    pub fn failures(&self) -> u64 {
        self.samples.iter().map(|sample| sample.failures).sum()
    }
}

impl Comparison {
    /// The first subject's median over the second's; none without two medians.
    pub fn ratio(&self, metric: Metric) -> Option<f64> {
        let [first, second] = &self.subjects[..] else { return None };
        let (first, second) = (first.median(metric)?, second.median(metric)?);
        (second > 0.0).then_some(first / second)
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(figures[middle]),
        _ => Some((figures[middle - 1] + figures[middle]) / 2.0),
    }
}

/// The lines of a table: a workload's subjects, then their ratio.
fn rows(comparison: &Comparison) -> Vec<Vec<String>> {
    let line = |label: &str, figures: Vec<Option<String>>| {
        let mut row = vec![comparison.workload.to_owned(), label.to_owned()];
        row.extend(figures.into_iter().map(|figure| figure.unwrap_or_else(|| "-".into())));
        row
    };
    let mut rows = Vec::new();
    for subject in &comparison.subjects {
        let figures = COLUMNS.iter().map(|&metric| subject.median(metric).map(figure));
        rows.push(line(&subject.label, figures.collect()));
    }
    if comparison.subjects.len() == 2 {
        let ratios = COLUMNS.iter().map(|&metric| {
            let ratio = comparison.ratio(metric).filter(|_| metric.is_of_the_program());
            ratio.map(|ratio| format!("{ratio:.2}"))
        });
        rows.push(line("ratio", ratios.collect()));
    }
    rows
}

/// A figure with as many digits as mean something, thousands apart.
fn figure(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{value:.3}"),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at) % 3 == 0 {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}

fn headings() -> Vec<String> {
    let fixed = ["workload", "program"].map(str::to_owned);
    fixed.into_iter().chain(COLUMNS.iter().map(|metric| metric.name().to_owned())).collect()
}

/// Tables for a terminal.
pub fn text(comparisons: &[Comparison]) -> String {
    tables(comparisons, |text, headings, rows| {
        let width = |at: usize| {
            let cells = rows.iter().flatten().map(|row| &row[at]).chain([&headings[at]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let mut print = |row: &[String]| {
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if at == 0 { "" } else { "  " };
                let padding = " ".repeat(width - cell.chars().count());
                // Names to the left, figures to the right.
                *text += &if at < 2 {
                    format!("{gap}{cell}{padding}")
                } else {
                    format!("{gap}{padding}{cell}")
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        };
        print(headings);
        rows.iter().flatten().for_each(|row| print(row));
    })
}

/// Tables for `docs/benchmark.md`.
pub fn markdown(comparisons: &[Comparison]) -> String {
    tables(comparisons, |text, headings, rows| {
        *text +=
            &format!("| {} |\n|---|---|{}\n", headings.join(" | "), "--:|".repeat(COLUMNS.len()));
        for row in rows.iter().flatten() {
            let bold = row[1] == "ratio";
            let cells =
                row.iter().map(|cell| if bold { format!("**{cell}**") } else { cell.clone() });
            *text += &format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        }
    })
}

/// One table for each number of members, and under it what went wrong.
fn tables(
    comparisons: &[Comparison],
    table: impl Fn(&mut String, &[String], &[Vec<Vec<String>>]),
) -> String {
    let mut text = String::new();
    for group in comparisons.chunk_by(|left, right| left.members == right.members) {
        let members = group[0].members;
        let title = if members == 1 { "One member".into() } else { format!("{members} members") };
        text += &format!("{title}\n\n");
        table(&mut text, &headings(), &group.iter().map(rows).collect::<Vec<_>>());
        text.push('\n');
        for (comparison, subject) in group
            .iter()
            .flat_map(|group| group.subjects.iter().map(move |subject| (group, subject)))
        {
            troubles(&mut text, comparison.workload, subject);
        }
    }
    text
}

/// Says what makes a subject's figures worth less than they look.
fn troubles(text: &mut String, workload: &str, subject: &SubjectRuns) {
    /// The share of the machine used by others above which figures are called disturbed.
    const OTHERS_SHARE_MAX: f64 = 0.1;
    let label = &subject.label;
    for why in &subject.failed_runs {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{workload}, {label}: a run failed: {why}");
    }
    if subject.failures() > 0 {
        let first = subject.samples.iter().find_map(|sample| sample.first_failure.as_deref());
        let (count, first) = (subject.failures(), first.unwrap_or_default());
        let _ = writeln!(text, "{workload}, {label}: {count} requests refused, first with {first}");
    }
    let others = subject.samples.iter().map(|sample| sample.others_share).fold(0.0, f64::max);
    if others > OTHERS_SHARE_MAX {
        let percent = others * 100.0;
        let _ = writeln!(text, "{workload}, {label}: disturbed, {percent:.0} % used by others");
    }
}

/// Everything that was measured, each run included.
pub fn json(comparisons: &[Comparison], machine: &str) -> Value {
    let run = |sample: &Sample| {
        let figures =
            COLUMNS.iter().map(|&metric| (metric.name().to_owned(), json!(metric.of(sample))));
        let mut run: serde_json::Map<String, Value> = figures.collect();
        run.insert("requests".into(), json!(sample.requests));
        run.insert("failures".into(), json!(sample.failures));
        run.insert("first failure".into(), json!(sample.first_failure));
        run.insert("used by others".into(), json!(sample.others_share));
        Value::Object(run)
    };
    let named = |figure: &dyn Fn(Metric) -> Option<f64>| {
        let figures =
            COLUMNS.iter().map(|&metric| (metric.name().to_owned(), json!(figure(metric))));
        Value::Object(figures.collect())
    };
    let subject = |subject: &SubjectRuns| {
        json!({
            "program": subject.label,
            "median": named(&|metric| subject.median(metric)),
            "runs": subject.samples.iter().map(run).collect::<Vec<_>>(),
            "failed runs": subject.failed_runs,
        })
    };
    let comparison = |comparison: &Comparison| {
        json!({
            "members": comparison.members,
            "workload": comparison.workload,
            "programs": comparison.subjects.iter().map(subject).collect::<Vec<_>>(),
            "ratio": named(&|metric| comparison.ratio(metric)),
        })
    };
    let comparisons: Vec<Value> = comparisons.iter().map(comparison).collect();
    json!({ "machine": machine, "comparisons": comparisons })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        let runs = |label: &str, figures: &[f64]| SubjectRuns {
            label: label.into(),
            samples: figures
                .iter()
                .map(|&figure| Sample { requests_per_s: figure, ..Default::default() })
                .collect(),
            failed_runs: vec![],
        };
        let subjects =
            vec![runs("instar", &[3000.0, 100.0, 2500.0]), runs("etcd", &[1000.0, 1500.0])];
        Comparison { members: 1, workload: "put-1", subjects }
    }

    #[test]
    fn medians_and_their_ratio() {
        let comparison = comparison();
        assert_eq!(comparison.subjects[0].median(Metric::Throughput), Some(2500.0));
        assert_eq!(comparison.subjects[1].median(Metric::Throughput), Some(1250.0));
        assert_eq!(comparison.ratio(Metric::Throughput), Some(2.0));
        assert_eq!(comparison.ratio(Metric::Mean), None);
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn tables_hold_both_figures_and_the_ratio() {
        let mut comparisons = vec![comparison()];
        let text = text(&comparisons);
        assert!(text.contains("put-1     instar   2,500"), "{text}");
        let markdown = markdown(&comparisons);
        assert!(markdown.contains("| **put-1** | **ratio** | **2.00** |"), "{markdown}");
        comparisons[0].subjects[0].failed_runs.push("it ended".into());
        assert!(super::text(&comparisons).contains("put-1, instar: a run failed: it ended"));
        let json = json(&comparisons, "a machine");
        assert_eq!(json["comparisons"][0]["ratio"]["req/s"], 2.0);
        assert_eq!(json["comparisons"][0]["programs"][0]["runs"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn figures_keep_the_digits_that_mean_something() {
        let texts = [0.1234, 1.234, 12.34, 123.4, 1_234_567.8].map(figure);
        assert_eq!(texts, ["0.123", "1.23", "12.3", "123", "1,234,568"]);
    }
}
