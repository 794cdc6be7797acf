//! The benchmark: Instar beside real etcd, or beside another build of itself, under one load generator.
//!
//! `options` reads the command line; for each number of members, workload and run the programs take turns
//! (`measure`): a fresh `cluster`, the load (`generator` over `grpc`, requests from `workload` and
//! `message`), what `process` says it cost. `report` prints medians and ratios and `requirements` judges
//! them. Only one program runs at a time. The method is described in docs/benchmark.md.

mod client;
mod cluster;
mod error;
mod floor;
mod generator;
mod grpc;
mod histogram;
mod machine;
mod measure;
mod message;
mod options;
mod process;
mod report;
mod requirements;
mod workload;

use std::path::{Path, PathBuf};

pub use error::BenchError;

use cluster::{Program, Subject};
use options::{Format, Options, Wanted};
use report::{Comparison, SubjectRuns};
use requirements::Against;

/// Does what a command line (without the program's name) asks for; whether all went well: no run failed,
/// and with `--check` no promise falls short.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Result<bool, BenchError> {
    let options = match options::parse(arguments)? {
        Wanted::Help => {
            print!("{}", options::HELP);
            return Ok(true);
        }
        Wanted::List => {
            workload::WORKLOADS.iter().for_each(|workload| println!("{}", workload.name));
            return Ok(true);
        }
        Wanted::ServeFloor(port) => return floor::serve(port).map(|()| true),
        Wanted::Measure(options) => options,
    };
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let subjects = subjects(&options, &program, beside)?;
    let directory = options.data_dir.clone().unwrap_or_else(|| beside.join("../bench-data"));
    let machine = machine::describe(&directory, &subjects)?;
    eprintln!("{machine}");
    let comparisons = measure_all(&options, &subjects, &directory);
    match options.format {
        Format::Text => println!("{}", report::text(&comparisons)),
        Format::Markdown => println!("{machine}\n\n{}", report::markdown(&comparisons)),
        Format::Json => println!("{:#}", report::json(&comparisons, &machine)),
    }
    let complete = comparisons
        .iter()
        .all(|comparison| comparison.subjects.iter().all(|runs| runs.failed_runs.is_empty()));
    Ok(complete && (!options.check || judged(&options, &comparisons)))
}

/// The programs to measure: one, or the two to compare.
fn subjects(options: &Options, program: &Path, beside: &Path) -> Result<Vec<Subject>, BenchError> {
    let subject = |program, label: &str, binary| Subject { program, label: label.into(), binary };
    let instar = options.instar.clone().unwrap_or_else(|| beside.join("instar"));
    let instar = subject(Program::Instar, "instar", instar);
    let etcd = || -> Result<Subject, BenchError> {
        let binary = match &options.etcd {
            Some(path) => path.clone(),
            None => crate::etcd::programs()?.server,
        };
        Ok(subject(Program::Etcd, "etcd", binary))
    };
    Ok(match (options.only, &options.against) {
        (Some(Program::Instar), _) => vec![instar],
        (Some(Program::Etcd), _) => vec![etcd()?],
        (Some(Program::Floor), _) => {
            vec![subject(Program::Floor, "floor", PathBuf::from(program))]
        }
        (None, Some(path)) => vec![instar, subject(Program::Instar, "against", path.clone())],
        (None, None) => vec![instar, etcd()?],
    })
}

/// Measures everything that the options name, the programs by turns.
fn measure_all(options: &Options, subjects: &[Subject], directory: &Path) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for &members in &options.members {
        for workload in options.workloads.iter().filter(|workload| workload.fits(members)) {
            let blank = |subject: &Subject| SubjectRuns {
                label: subject.label.clone(),
                samples: Vec::new(),
                failed_runs: Vec::new(),
            };
            let mut all: Vec<SubjectRuns> = subjects.iter().map(blank).collect();
            for run in 1..=options.runs {
                for (subject, runs) in subjects.iter().zip(&mut all) {
                    let place =
                        format!("{members} member(s), {}, {}", workload.name, subject.label);
                    match measure::measure(subject, workload, members, &options.effort, directory) {
                        Ok(sample) => {
                            let (rate, cpu) = (sample.requests_per_s, sample.cpu_us);
                            eprintln!("{place}, run {run}: {rate:.0} req/s, {cpu:.1} µs/req");
                            runs.samples.push(sample);
                        }
                        Err(error) => {
                            eprintln!("{place}, run {run}: {error}");
                            // The first line says what happened; the rest is the members' logs.
                            let first = error.to_string().lines().next().map(str::to_owned);
                            runs.failed_runs.push(first.unwrap_or_default());
                        }
                    }
                }
            }
            comparisons.push(Comparison { members, workload: workload.name, subjects: all });
        }
    }
    comparisons
}

/// Prints the verdicts, to stderr so that they do not mix with tables; whether all promises hold and at
/// least one was judged.
fn judged(options: &Options, comparisons: &[Comparison]) -> bool {
    let against = if options.against.is_some() { Against::NativeGuest } else { Against::Etcd };
    let verdicts = requirements::judge(comparisons, against);
    verdicts.iter().for_each(|verdict| eprintln!("{}", verdict.text));
    if verdicts.is_empty() {
        eprintln!("none of the measured workloads has a promised ratio");
    }
    !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.holds)
}
