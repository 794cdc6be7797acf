//! What the benchmark must show, and whether it did.

use super::report::{Comparison, Metric};

/// What the first subject is measured against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// Real etcd.
    Etcd,
    /// The same server with the guest linked natively (`--against`): what Wasm costs.
    NativeGuest,
}

/// A bound on a ratio: the first subject's median over the second's.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// One promise, for every number of members.
#[derive(Debug)]
pub struct Requirement {
    pub against: Against,
    pub workload: &'static str,
    pub metric: Metric,
    pub bound: Bound,
}

const fn etcd(workload: &'static str, metric: Metric, bound: Bound) -> Requirement {
    Requirement { against: Against::Etcd, workload, metric, bound }
}

/// The promises. They are the floor, not the aim.
pub const REQUIREMENTS: [Requirement; 9] = [
    etcd("put-1000", Metric::Cpu, Bound::AtMost(0.4)),
    etcd("put-1000", Metric::Throughput, Bound::AtLeast(2.0)),
    etcd("put-1", Metric::Mean, Bound::AtMost(1.0)),
    etcd("get-linearizable-1000", Metric::Cpu, Bound::AtMost(0.4)),
    etcd("get-serializable-1000", Metric::Cpu, Bound::AtMost(0.4)),
    etcd("list-1", Metric::Throughput, Bound::AtLeast(2.0)),
    etcd("list-8", Metric::Throughput, Bound::AtLeast(2.0)),
    etcd("load", Metric::Peak, Bound::AtMost(1.0)),
    Requirement {
        against: Against::NativeGuest,
        workload: "put-1000",
        metric: Metric::Cpu,
        bound: Bound::AtMost(1.1),
    },
];

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

/// The verdict on one requirement for one number of members.
#[derive(Debug)]
pub struct Verdict {
    pub holds: bool,
    pub text: String,
}

/// Judges every requirement whose workload was measured. A run that failed, and a first subject that
/// refused requests, fall short whatever the ratio. Nothing measured that is promised: no verdicts.
pub fn judge(comparisons: &[Comparison], against: Against) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for comparison in comparisons {
        let promised = REQUIREMENTS.iter().filter(|requirement| {
            requirement.against == against && requirement.workload == comparison.workload
        });
        verdicts.extend(promised.map(|requirement| verdict(comparison, requirement)));
    }
    verdicts
}

fn verdict(comparison: &Comparison, requirement: &Requirement) -> Verdict {
    let metric = requirement.metric;
    let place =
        format!("{} member(s), {}, {}", comparison.members, comparison.workload, metric.name());
    let ratio = comparison.ratio(metric);
    let refused = comparison.subjects.first().map_or(0, |subject| subject.failures());
    let (holds, found) = match ratio {
        _ if comparison.subjects.iter().any(|subject| !subject.failed_runs.is_empty()) => {
            (false, "a run failed".to_owned())
        }
        _ if refused > 0 => (false, format!("{refused} requests were answered with an error")),
        Some(ratio) => (requirement.bound.holds(ratio), format!("{ratio:.2}")),
        None => (false, "there is no ratio".to_owned()),
    };
    let mark = if holds { "holds" } else { "FALLS SHORT" };
    Verdict { holds, text: format!("{mark}: {place}: {found} (must be {})", requirement.bound) }
}

#[cfg(test)]
mod tests {
    use super::super::measure::Sample;
    use super::super::report::SubjectRuns;
    use super::super::workload::WORKLOADS;
    use super::*;

    fn runs(cpu_us: f64, failures: u64) -> SubjectRuns {
        let sample = Sample { cpu_us, requests_per_s: 100.0, failures, ..Default::default() };
        SubjectRuns { label: "x".into(), samples: vec![sample], failed_runs: vec![] }
    }

    fn compared(first: SubjectRuns, second: SubjectRuns) -> Vec<Comparison> {
        vec![Comparison { members: 3, workload: "put-1000", subjects: vec![first, second] }]
    }

    #[test]
    fn every_requirement_names_a_workload() {
        for requirement in &REQUIREMENTS {
            assert!(WORKLOADS.iter().any(|workload| workload.name == requirement.workload));
        }
    }

    #[test]
    fn a_ratio_on_the_bound_holds_and_one_past_it_does_not() {
        let holds = |first, second, against| -> Vec<bool> {
            judge(&compared(first, second), against).iter().map(|verdict| verdict.holds).collect()
        };
        // CPU at 0.4 holds; throughput is the same for both and must be double.
        assert_eq!(holds(runs(40.0, 0), runs(100.0, 0), Against::Etcd), [true, false]);
        assert_eq!(holds(runs(41.0, 0), runs(100.0, 0), Against::Etcd), [false, false]);
        assert_eq!(holds(runs(109.0, 0), runs(100.0, 0), Against::NativeGuest), [true]);
        assert_eq!(holds(runs(10.0, 1), runs(100.0, 0), Against::Etcd), [false, false]);
        let mut broken = runs(10.0, 0);
        broken.failed_runs.push("it ended".into());
        assert_eq!(holds(broken, runs(100.0, 0), Against::NativeGuest), [false]);
    }
}
