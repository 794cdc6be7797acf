//! Runs end-to-end cases: one after another, each in a scratch directory, with a time limit.
//!
//! A case passes, fails, or is skipped with a reason; the reasons are listed at the end, and where the
//! environment variable `CI` is set a skip is a failure. After a failure the scratch directory is kept
//! and the ends of the logs in it are shown.

use std::fs;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use crate::cluster::Program;

/// How many lines of each log a failure shows.
const LOG_LINES_SHOWN: usize = 12;
const LOG_LINE_CHARACTERS_SHOWN: usize = 300;
const LOG_DEPTH: usize = 5;
/// Where scratch directories go if it is there: memory, because nothing here measures a disk, and a
/// process that is killed loses nothing it has written.
const MEMORY: &str = "/dev/shm";

/// How a case that did not fail ended.
#[derive(Debug)]
pub enum Verdict {
    Passed,
    /// It cannot run here; why.
    Skipped(String),
}

/// What a case is given.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The program under test: `INSTAR_TEST_SUBJECT` (`instar` or `etcd`), Instar by default. etcd is
    /// for testing the tests.
    pub subject: Program,
    /// An empty directory that is removed when the case has passed.
    pub directory: PathBuf,
    /// How many times longer than in CI to go on where longer means more: `INSTAR_CAMPAIGN`.
    pub campaign: u64,
    /// `INSTAR_SEED`, or random; printed on failure.
    pub seed: u64,
}

impl Scene {
    /// Prints a line below the case's name.
    pub fn note(&self, line: impl AsRef<str>) {
        say(&format!("    {}", line.as_ref()));
    }

    /// Whether the program under test is Instar, for what is promised of Instar only.
    pub fn is_instar(&self) -> bool {
        self.subject == Program::Instar
    }
}

pub type CaseFuture = Pin<Box<dyn Future<Output = Result<Verdict>>>>;

/// One case.
pub struct Case {
    pub name: &'static str,
    pub run: fn(Scene) -> CaseFuture,
}

/// A table of cases from paths of async functions `fn(Scene) -> Result<Verdict>`.
#[macro_export]
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        [$($crate::case::Case {
            name: concat!(stringify!($module), "::", stringify!($case)),
            run: |scene| Box::pin($module::$case(scene)),
        }),*]
    };
}

/// The longest a case may take, times the campaign factor.
const CASE_WITHIN: Duration = Duration::from_secs(300);

/// Runs those of `cases` whose names contain one of the command line's words (all without words);
/// `--list` lists them. Flags of the standard harness are accepted and ignored.
pub fn run(cases: &[Case]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = cases.iter().filter(|case| {
        words.is_empty() || words.iter().any(|word| case.name.contains(word.as_str()))
    });
    if arguments.iter().any(|word| word == "--list") {
        wanted.for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let (mut failed, mut skipped, mut passed) = (Vec::new(), Vec::new(), 0);
    for case in wanted {
        say(&format!("{} ...", case.name));
        let started = Instant::now();
        let verdict = run_one(case);
        let seconds = started.elapsed().as_secs_f64();
        match verdict {
            Ok(Verdict::Passed) => {
                say(&format!("{} ok ({seconds:.1} s)", case.name));
                passed += 1;
            }
            Ok(Verdict::Skipped(reason)) => {
                say(&format!("{} skipped: {reason}", case.name));
                skipped.push((case.name, reason));
            }
            Err(error) => {
                say(&format!("{} FAILED ({seconds:.1} s): {error:#}", case.name));
                failed.push(case.name);
            }
        }
    }
    say(&format!("\n{passed} passed, {} failed, {} skipped", failed.len(), skipped.len()));
    failed.iter().for_each(|name| say(&format!("  failed: {name}")));
    skipped.iter().for_each(|(name, reason)| say(&format!("  skipped: {name}: {reason}")));
    let skips_allowed = std::env::var_os("CI").is_none();
    if !skips_allowed && !skipped.is_empty() {
        say("CI is set: a skip is a failure");
    }
    if failed.is_empty() && (skips_allowed || skipped.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a case on a thread and a runtime of its own, so that its panics and its tasks end with it.
fn run_one(case: &Case) -> Result<Verdict> {
    let scratch = scratch()?;
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>());
    let scene = Scene {
        subject: Program::under_test()?,
        directory: scratch.path().to_owned(),
        campaign: number("INSTAR_CAMPAIGN").transpose()?.unwrap_or(1).max(1),
        seed: number("INSTAR_SEED").transpose()?.unwrap_or_else(rand::random),
    };
    let (seed, within) = (scene.seed, CASE_WITHIN * u32::try_from(scene.campaign)?);
    let run = case.run;
    let thread = std::thread::spawn(move || -> Result<Verdict> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("start a runtime")?;
        let verdict = runtime.block_on(async { tokio::time::timeout(within, run(scene)).await });
        runtime.shutdown_timeout(Duration::from_secs(1));
        verdict.map_err(|_| anyhow!("it did not end within {} s", within.as_secs()))?
    });
    let verdict = match thread.join() {
        Ok(verdict) => verdict,
        Err(panic) => Err(anyhow!("panicked: {}", panic_text(panic.as_ref()))),
    };
    if verdict.is_err() {
        show_logs(scratch.path());
        say(&format!(
            "    kept: {}\n    again: INSTAR_SEED={seed} cargo test --release -p tests --test e2e -- {}",
            scratch.keep().display(),
            case.name
        ));
    }
    verdict
}

fn scratch() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("instar-e2e-");
    let made = match Path::new(MEMORY).is_dir() {
        true => builder.tempdir_in(MEMORY),
        false => builder.tempdir(),
    };
    made.context("make a scratch directory")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no text)")
}

/// Shows the end of every log below a directory, the member directories' own files left out.
fn show_logs(directory: &Path) {
    for path in logs(directory) {
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        say(&format!("    -- the end of {}", path.display()));
        for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
            say(&format!(
                "    {}",
                line.chars().take(LOG_LINE_CHARACTERS_SHOWN).collect::<String>()
            ));
        }
    }
}

/// The `*.log` files at most `LOG_DEPTH` levels below a directory.
fn logs(directory: &Path) -> Vec<PathBuf> {
    let mut paths = vec![directory.to_owned()];
    for _ in 0..LOG_DEPTH {
        let below = |path: &PathBuf| -> Vec<PathBuf> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        let (directories, mut files): (Vec<_>, Vec<_>) =
            paths.into_iter().partition(|p| p.is_dir());
        files.extend(directories.iter().flat_map(below));
        paths = files;
    }
    paths.retain(|path| path.is_file() && path.extension().is_some_and(|ending| ending == "log"));
    paths.sort();
    paths
}

/// Prints at once: a case that hangs must be seen by its name. A closed terminal is no failure.
fn say(line: &str) {
    let mut out = std::io::stderr().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
