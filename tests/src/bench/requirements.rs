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

/// A bound on a ratio, the first subject's median over the second's, or on the first's median itself.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// The first subject's own median, whatever the second's.
    ItselfAtLeast(f64),
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
pub const REQUIREMENTS: [Requirement; 18] = [
    etcd("put-1000", Metric::Cpu, Bound::AtMost(0.4)),
    etcd("put-1000", Metric::Throughput, Bound::AtLeast(2.0)),
    etcd("put-1", Metric::Mean, Bound::AtMost(1.0)),
    etcd("get-linearizable-1000", Metric::Cpu, Bound::AtMost(0.4)),
    etcd("get-serializable-1000", Metric::Cpu, Bound::AtMost(0.4)),
    etcd("list-1", Metric::Throughput, Bound::AtLeast(2.0)),
    etcd("list-8", Metric::Throughput, Bound::AtLeast(2.0)),
    etcd("load", Metric::Peak, Bound::AtMost(1.0)),
    etcd("watch-latency", Metric::Cpu, Bound::AtMost(0.5)),
    etcd("watch-latency", Metric::P99, Bound::AtMost(1.0)),
    etcd("watch-fanout", Metric::Cpu, Bound::AtMost(0.5)),
    etcd("watch-fanout", Metric::P99, Bound::AtMost(1.0)),
    etcd("watch-distinct", Metric::Cpu, Bound::AtMost(0.5)),
    etcd("watch-distinct", Metric::P99, Bound::AtMost(1.0)),
    etcd("watch-distinct", Metric::Peak, Bound::AtMost(0.5)),
    etcd("watch-catchup", Metric::PutsKept, Bound::ItselfAtLeast(0.9)),
    etcd("lease-keepalive", Metric::Cpu, Bound::AtMost(0.5)),
    Requirement {
        against: Against::NativeGuest,
        workload: "put-1000",
        metric: Metric::Cpu,
        bound: Bound::AtMost(1.1),
    },
];

impl Bound {
    /// What is judged.
    fn figure(self, comparison: &Comparison, metric: Metric) -> Option<f64> {
        match self {
            Self::AtMost(_) | Self::AtLeast(_) => comparison.ratio(metric),
            Self::ItselfAtLeast(_) => comparison.subjects.first()?.median(metric),
        }
    }

    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) | Self::ItselfAtLeast(least) => ratio >= least,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::ItselfAtLeast(least) => write!(f, "at least {least} by itself"),
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
    let figure = requirement.bound.figure(comparison, metric);
    let refused = comparison.subjects.first().map_or(0, |subject| subject.failures());
    let (holds, found) = match figure {
        _ if comparison.subjects.iter().any(|subject| !subject.failed_runs.is_empty()) => {
            (false, "a run failed".to_owned())
        }
        _ if refused > 0 => (false, format!("{refused} requests were answered with an error")),
        Some(figure) => (requirement.bound.holds(figure), format!("{figure:.2}")),
        None => (false, "there is no figure".to_owned()),
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
    fn puts_during_a_catch_up_are_judged_by_themselves() {
        let kept = |share| SubjectRuns {
            label: "x".into(),
            samples: vec![Sample { puts_kept: share, ..Default::default() }],
            failed_runs: vec![],
        };
        for (mine, theirs, holds) in
            [(Some(0.9), Some(1.0), true), (Some(0.89), Some(0.1), false), (None, Some(1.0), false)]
        {
            let subjects = vec![kept(mine), kept(theirs)];
            let comparison = Comparison { members: 1, workload: "watch-catchup", subjects };
            let verdicts = judge(&[comparison], Against::Etcd);
            let verdicts: Vec<bool> = verdicts.iter().map(|verdict| verdict.holds).collect();
            assert_eq!(verdicts, [holds], "{mine:?} beside {theirs:?}");
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
