//! The benchmark's streams and phases run to their ends, on one member and on three. What they measure on a busy
//! machine is judged nowhere; that no event is lost or repeated, the benchmark checks itself.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::case::{Scene, Verdict};
use tokio::process::Command;

const WORKLOADS: [&str; 7] = [
    "watch-latency",
    "watch-fanout",
    "watch-distinct",
    "watch-catchup",
    "lease-keepalive",
    "lease-grant",
    "lease-expiry",
];

pub async fn streams_and_phases(scene: Scene) -> Result<Verdict> {
    let program = if scene.is_instar() { "instar" } else { "etcd" };
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--quick", "--json", "--members", "1,3", "--program", program])
        .args(["--workloads", &WORKLOADS.join(",")])
        .kill_on_drop(true)
        .output()
        .await
        .context("bench")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).context("its report")?;
    let comparisons = report["comparisons"].as_array().context("comparisons")?;
    ensure!(comparisons.len() == 2 * WORKLOADS.len(), "{report}");
    for (comparison, name) in comparisons.iter().zip(WORKLOADS.iter().cycle()) {
        ensure!(comparison["workload"] == *name, "{comparison}");
        let run = &comparison["programs"][0]["runs"][0];
        ensure!(run["failures"] == 0 && run["requests"].as_u64() > Some(0), "{comparison}");
        let has_share = run["puts kept"].as_f64().is_some_and(|share| share > 0.0);
        ensure!(has_share == (*name == "watch-catchup"), "{comparison}");
    }
    Ok(Verdict::Passed)
}
