//! `doctor`: looks at this machine and at the cluster, a line for each thing, and says what to mend.
//!
//! It writes one small file where it measures the disk, and removes it. It changes nothing else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use tokio::net::TcpStream;

use super::{ask, endpoint};
use crate::command_line::Invocation;
use crate::failure::{self, Failure};
use crate::go;
use crate::output::line;
use crate::settings::Settings;

/// How many times the disk is asked to sync, and how much is written before each.
const SYNCS: usize = 50;
const SYNC_BYTES: usize = 4096;
/// etcd's advice: the 99th percentile of a sync stays below it.
const SYNC_WITHIN: Duration = Duration::from_millis(10);
/// A connection is a file.
const FILES_LEAST: u64 = 16_384;
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How much of the quota may be used before it is time to do something, in percent.
const QUOTA_PERCENT: i64 = 80;

/// What was found so far.
#[derive(Debug, Default)]
struct Findings {
    to_mend: usize,
}

impl Findings {
    fn well(&self, what: impl AsRef<str>) -> Result<(), Failure> {
        line(format!("ok    {}", what.as_ref()))
    }

    fn mend(&mut self, what: impl AsRef<str>, how: &str) -> Result<(), Failure> {
        self.to_mend += 1;
        line(format!("MEND  {}", what.as_ref()))?;
        line(format!("      {how}"))
    }
}

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let mut findings = Findings::default();
    look_at_limits(&mut findings)?;
    look_at_disk(Path::new(&invocation.text("data-dir")), &mut findings)?;
    let settings = Settings::read(&mut invocation)?;
    let mut statuses = Vec::new();
    for address in &settings.endpoints {
        let asked = async {
            let client = endpoint::connect(&invocation, &settings, address).await?;
            let status = ask!(client, Reading, maintenance.status(pb::StatusRequest {}))?;
            let members = ask!(
                client,
                Reading,
                cluster.member_list(pb::MemberListRequest { linearizable: false })
            )?;
            Ok::<_, Failure>((status, members.members))
        };
        match asked.await {
            Ok((status, members)) => {
                look_at_status(address, &status, &mut findings)?;
                statuses.push((status, members));
            }
            Err(why) => {
                let how =
                    "start the server, or name others with --endpoints; a firewall may be between";
                findings.mend(format!("{address} does not answer ({why})"), how)?;
            }
        }
    }
    look_at_cluster(&statuses, &mut findings).await?;
    match findings.to_mend {
        0 => line("nothing to mend"),
        count => {
            line(format!("{count} to mend"))?;
            Err(Failure::silent(failure::ERROR))
        }
    }
}

fn look_at_limits(findings: &mut Findings) -> Result<(), Failure> {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let row = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    // Soft, then hard; the server raises the one to the other.
    let hard = row.and_then(|row| row.split_whitespace().nth(1));
    match hard {
        None => findings.well("open files: this system does not say"),
        Some("unlimited") => findings.well("open files: unlimited"),
        Some(number) => match number.parse::<u64>() {
            Ok(count) if count < FILES_LEAST => findings.mend(
                format!("open files: at most {count}, and each client is one"),
                "raise it: LimitNOFILE= in the unit, `ulimits` in compose, or ulimit -Hn",
            ),
            _ => findings.well(format!("open files: {number}")),
        },
    }
}

fn look_at_disk(directory: &Path, findings: &mut Findings) -> Result<(), Failure> {
    let shown = directory.display();
    match measure(directory) {
        Err(error) => findings.mend(
            format!("disk: cannot write in {shown} ({})", go::io_error(&error)),
            "name the directory that the data will be in with --data-dir",
        ),
        Ok(took) => {
            let text =
                format!("disk: a sync in {shown} takes {} (slowest but one)", go::duration(took));
            match took <= SYNC_WITHIN {
                true => findings.well(text),
                false => findings.mend(
                    text,
                    "more than 10 ms delay every write: use a local SSD, and share it with nobody",
                ),
            }
        }
    }
}

/// How long a write takes until it is on the disk.
fn measure(directory: &Path) -> std::io::Result<Duration> {
    let path = directory.join(format!("doctor-{}.tmp", std::process::id()));
    let mut file = File::create_new(&path)?;
    let mut work = || {
        let mut took = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let began = Instant::now();
            file.write_all(&[0; SYNC_BYTES])?;
            file.sync_data()?;
            took.push(began.elapsed());
        }
        took.sort();
        Ok(took.iter().rev().nth(1).copied().unwrap_or_default())
    };
    let measured = work();
    fs::remove_file(&path)?;
    measured
}

fn look_at_status(
    address: &str,
    status: &pb::StatusResponse,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let (version, term) = (&status.version, status.raft_term);
    findings.well(format!("{address} serves: version {version}, term {term}"))?;
    if status.leader == 0 {
        let how = "a majority of the members has to run and to reach each other's peer URLs";
        findings.mend(format!("{address} knows no leader"), how)?;
    }
    for error in &status.errors {
        let how = "`alarm list` has more; mend the reason, then `alarm disarm`";
        findings.mend(format!("{address}: {error}"), how)?;
    }
    let (used, quota) = (status.db_size, status.db_size_quota);
    if quota > 0 && used.saturating_mul(100) > quota.saturating_mul(QUOTA_PERCENT) {
        let share = used.saturating_mul(100) / quota;
        let how = "compact and `defrag`, or start with a larger --quota-backend-bytes";
        findings.mend(format!("{address}: {share} % of the quota is used"), how)?;
    }
    Ok(())
}

async fn look_at_cluster(
    statuses: &[(pb::StatusResponse, Vec<pb::Member>)],
    findings: &mut Findings,
) -> Result<(), Failure> {
    let ids = |of: fn(&pb::StatusResponse) -> String| -> BTreeSet<String> {
        statuses.iter().map(|(status, _)| of(status)).collect()
    };
    let cluster = |status: &pb::StatusResponse| {
        format!("{:x}", status.header.as_ref().map_or(0, |header| header.cluster_id))
    };
    let clusters = ids(cluster);
    if clusters.len() > 1 {
        let names = clusters.into_iter().collect::<Vec<_>>().join(", ");
        let how = "--initial-cluster and its token have to be the same for all members";
        findings.mend(format!("the endpoints are of different clusters: {names}"), how)?;
    }
    if ids(|status| format!("{:x}", status.leader)).len() > 1 {
        let how = "if it stays so, the members do not reach each other's peer URLs";
        findings.mend("the endpoints name different leaders", how)?;
    }
    if ids(|status| status.version.clone()).len() > 1 {
        findings.mend("the members run different versions", "bring all to the same one")?;
    }
    let Some((_, members)) = statuses.first() else { return Ok(()) };
    let voters = members.iter().filter(|member| !member.is_learner).count();
    if voters > 1 && voters % 2 == 0 {
        let how =
            "an even number bears no more failures than one less: add a member, or remove one";
        findings.mend(format!("{voters} members vote"), how)?;
    }
    for member in members {
        if member.name.is_empty() {
            let how = "start it, or remove it: until then it is missing from the majority";
            findings.mend(format!("member {:x} was never started", member.id), how)?;
        }
        for url in &member.peer_ur_ls {
            match reach(url).await {
                Ok(()) => findings.well(format!("{} is reached at {url}", member.name))?,
                Err(why) => findings.mend(
                    format!("{} is not reached at {url} ({why})", member.name),
                    "from this machine at least: start it, or look at the network between",
                )?,
            }
        }
    }
    Ok(())
}

async fn reach(url: &str) -> Result<(), String> {
    let place = url.split("://").nth(1).unwrap_or(url).trim_end_matches('/').to_owned();
    let resolved = tokio::task::spawn_blocking(move || {
        place.to_socket_addrs().map(|mut addresses| addresses.next())
    });
    let resolved = resolved.await.map_err(|error| error.to_string())?;
    let address = resolved.map_err(|error| go::io_error(&error))?.ok_or("it has no address")?;
    match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(go::io_error(&error)),
        Err(_) => Err("no answer".to_owned()),
    }
}
