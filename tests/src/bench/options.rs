//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use super::cluster::Program;
use super::error::BenchError;
use super::measure::Effort;
use super::workload::{WORKLOADS, Workload};

/// What `--help` prints.
pub const HELP: &str = "\
Measures Instar beside real etcd on this machine and prints the ratio of their figures.

  --quick             one short run of each workload (50,000 keys, 10,000 revisions, 2,000 leases)
  --workloads A,B     only these: names (put-1000) or kinds (put); see --list
  --members 1,3       numbers of members (default 1,3)
  --program NAME      only one program: instar, etcd, or floor (a server that does no work)
  --instar PATH       the Instar binary (default: beside this program)
  --against PATH      compare with this Instar binary instead of etcd
  --etcd PATH         the etcd binary (default: built from tests/etcd)
  --runs N            runs of each workload, programs alternating (default 3)
  --seconds S         measured time of a run (default 5, after 1 of warming up)
  --keys N            keys of the workload `load` (default 1000000)
  --revisions N       revisions that `watch-catchup` goes back (default 100000)
  --leases N          leases of `lease-grant` and `lease-expiry` (default 100000)
  --threads N         threads of the load generator (default 1)
  --data-dir PATH     where data directories go; must be a real disk (default: the target directory)
  --markdown          tables for docs/benchmark.md
  --json              everything measured, as JSON
  --check             judge the promised ratios; exit code 1 when one falls short
  --list              the workloads
  --help              this text
";

/// The form of the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    Markdown,
    Json,
}

/// What the command line asks for.
#[derive(Debug)]
pub struct Options {
    pub workloads: Vec<&'static Workload>,
    pub members: Vec<usize>,
    /// The one program to measure; none for a comparison.
    pub only: Option<Program>,
    pub instar: Option<PathBuf>,
    pub against: Option<PathBuf>,
    pub etcd: Option<PathBuf>,
    pub runs: usize,
    pub effort: Effort,
    pub data_dir: Option<PathBuf>,
    pub format: Format,
    pub check: bool,
}

/// What a command line wants done.
#[derive(Debug)]
pub enum Wanted {
    Measure(Box<Options>),
    Help,
    List,
    /// Internal: be the server that does no work, on this port.
    ServeFloor(u16),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workloads: WORKLOADS.iter().collect(),
            members: vec![1, 3],
            only: None,
            instar: None,
            against: None,
            etcd: None,
            runs: 3,
            effort: Effort {
                warm_up: Duration::from_secs(1),
                measured: Duration::from_secs(5),
                keys: 1_000_000,
                revisions: 100_000,
                leases: 100_000,
                threads: 1,
            },
            data_dir: None,
            format: Format::Text,
            check: false,
        }
    }
}

/// Reads a command line (without the program's name). Later options win over earlier ones.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Wanted, BenchError> {
    let mut options = Options::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, attached) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        match flag(&mut options, &name, attached.is_some())? {
            Flag::Done(wanted) => return Ok(wanted),
            Flag::Set => continue,
            Flag::TakesValue => {}
        }
        let value = attached.or_else(|| arguments.next());
        let value = value.ok_or_else(|| BenchError::Usage(format!("{name} needs a value")))?;
        if name == "--serve-floor" {
            return Ok(Wanted::ServeFloor(number(&name, &value, u64::from(u16::MAX))? as u16));
        }
        set(&mut options, &name, &value)?;
    }
    if options.only.is_some() && options.against.is_some() {
        return Err(BenchError::Usage("--program and --against exclude each other".into()));
    }
    if options.only.is_some() && options.check {
        return Err(BenchError::Usage("--check needs two programs to compare".into()));
    }
    Ok(Wanted::Measure(Box::new(options)))
}

enum Flag {
    Done(Wanted),
    Set,
    TakesValue,
}

/// Options without a value.
fn flag(options: &mut Options, name: &str, has_value: bool) -> Result<Flag, BenchError> {
    let done = match name {
        "--help" | "-h" => Flag::Done(Wanted::Help),
        "--list" => Flag::Done(Wanted::List),
        "--quick" => {
            options.runs = 1;
            options.effort.warm_up = Duration::from_millis(500);
            options.effort.measured = Duration::from_secs(1);
            options.effort.keys = 50_000;
            options.effort.revisions = 10_000;
            options.effort.leases = 2_000;
            Flag::Set
        }
        "--markdown" => {
            options.format = Format::Markdown;
            Flag::Set
        }
        "--json" => {
            options.format = Format::Json;
            Flag::Set
        }
        "--check" => {
            options.check = true;
            Flag::Set
        }
        "--serve-floor" => return Ok(Flag::TakesValue),
        // The help is the list of what there is.
        _ if HELP.contains(&format!("\n  {name} ")) => return Ok(Flag::TakesValue),
        _ => return Err(BenchError::Usage(format!("there is no option {name}"))),
    };
    if has_value {
        return Err(BenchError::Usage(format!("{name} takes no value")));
    }
    Ok(done)
}

/// Options with a value.
fn set(options: &mut Options, name: &str, value: &str) -> Result<(), BenchError> {
    match name {
        "--workloads" => {
            options.workloads = named(value)?;
        }
        "--members" => {
            let count = |text: &str| number(name, text, 7).map(|count| count as usize);
            options.members = value.split(',').map(count).collect::<Result<_, _>>()?;
        }
        "--program" => {
            options.only = Some(match value {
                "instar" => Program::Instar,
                "etcd" => Program::Etcd,
                "floor" => Program::Floor,
                _ => return Err(BenchError::Usage(format!("there is no program {value:?}"))),
            });
        }
        "--instar" => options.instar = Some(value.into()),
        "--against" => options.against = Some(value.into()),
        "--etcd" => options.etcd = Some(value.into()),
        "--data-dir" => options.data_dir = Some(value.into()),
        "--runs" => options.runs = number(name, value, 1_000)? as usize,
        "--seconds" => options.effort.measured = Duration::from_secs(number(name, value, 3_600)?),
        "--keys" => options.effort.keys = number(name, value, 100_000_000)?,
        "--revisions" => options.effort.revisions = number(name, value, 100_000_000)?,
        "--leases" => options.effort.leases = number(name, value, 10_000_000)?,
        "--threads" => options.effort.threads = number(name, value, 64)? as usize,
        _ => return Err(BenchError::Usage(format!("there is no option {name}"))),
    }
    Ok(())
}

fn number(name: &str, text: &str, most: u64) -> Result<u64, BenchError> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| BenchError::Usage(format!("{name} {text:?} is not within 1 to {most}")))
}

fn named(filters: &str) -> Result<Vec<&'static Workload>, BenchError> {
    for filter in filters.split(',') {
        if !WORKLOADS.iter().any(|workload| workload.is_named(filter)) {
            return Err(BenchError::Usage(format!("there is no workload {filter:?} (see --list)")));
        }
    }
    let wanted = |workload: &&Workload| filters.split(',').any(|filter| workload.is_named(filter));
    Ok(WORKLOADS.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Box<Options>, String> {
        match parse(line.split_whitespace().map(str::to_owned)) {
            Ok(Wanted::Measure(options)) => Ok(options),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_option_of_the_help_is_known() {
        for line in HELP.lines().filter_map(|line| line.strip_prefix("  --")) {
            let name = line.split_whitespace().next().unwrap_or_default();
            let error = options(&format!("--{name} 1")).err().unwrap_or_default();
            assert!(!error.contains("no option --"), "{error}");
            assert!(!error.contains("needs a value"), "{error}");
        }
    }

    #[test]
    fn options_are_read_and_nonsense_is_refused() {
        let read = options("--quick --runs 2 --members=3 --workloads list,put-16 --json")
            .expect("a good command line");
        assert_eq!((read.runs, &read.members[..], read.format), (2, &[3][..], Format::Json));
        let names: Vec<&str> = read.workloads.iter().map(|workload| workload.name).collect();
        assert_eq!(names, ["put-16", "list-1", "list-8"]);
        for bad in [
            "--runs 0",
            "--runs",
            "--members 1,x",
            "--workloads pu",
            "--program x",
            "--json=1",
            "--against a --program etcd",
            "--check --program etcd",
            "extra",
            "--unknown 3",
        ] {
            assert!(options(bad).is_err(), "{bad} is accepted");
        }
    }
}
