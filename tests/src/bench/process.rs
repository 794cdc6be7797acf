//! What the kernel says a process used: `/proc`, and nothing else. Linux only, as etcd's own figures.

use std::fs;
use std::time::Duration;

use super::error::BenchError;

/// The unit of `/proc/PID/stat`: USER_HZ, which Linux fixes at 100 for every architecture we run on. The
/// kernel scales user and system time to the scheduler's exact sum, so only the last tick is lost.
const TICKS_PER_S: u64 = 100;

/// Resident memory of one or more processes, in KiB.
#[derive(Clone, Copy, Default, Debug)]
pub struct Memory {
    /// The highest resident size so far (VmHWM).
    pub peak_kib: u64,
    /// The resident size now (VmRSS).
    pub resident_kib: u64,
    /// The part of it that is no file's cached page (RssAnon): etcd maps its database into memory, so
    /// its resident size counts pages that the kernel could drop.
    pub anonymous_kib: u64,
}

/// User and system time that all of `pids` have used since they started.
pub fn cpu_of(pids: &[u32]) -> Result<Duration, BenchError> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(BenchError::io(format!("read {path}")))?;
        ticks += stat_ticks(&text)
            .ok_or_else(|| BenchError::Load(format!("{path} does not have stat's form")))?;
    }
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_S))
}

/// utime + stime (fields 14 and 15). The command's name (field 2) may hold spaces and parentheses.
fn stat_ticks(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Memory of all of `pids` together. The sum of peaks: no member's peak need fall on another's.
pub fn memory_of(pids: &[u32]) -> Result<Memory, BenchError> {
    let mut sum = Memory::default();
    for pid in pids {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).map_err(BenchError::io(format!("read {path}")))?;
        let kib = |name: &str| {
            status_kib(&text, name).ok_or_else(|| BenchError::Load(format!("{path} has no {name}")))
        };
        sum.peak_kib += kib("VmHWM:")?;
        sum.resident_kib += kib("VmRSS:")?;
        sum.anonymous_kib += kib("RssAnon:")?;
    }
    Ok(sum)
}

fn status_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The calling thread, as a path below `/proc` for [`thread_cpu`].
pub fn this_thread() -> Result<String, BenchError> {
    let link = fs::read_link("/proc/thread-self").map_err(BenchError::io("name this thread"))?;
    Ok(format!("/proc/{}/schedstat", link.display()))
}

/// Time the thread behind a path of [`this_thread`] has run, in nanoseconds.
pub fn thread_cpu(path: &str) -> Result<Duration, BenchError> {
    let text = fs::read_to_string(path).map_err(BenchError::io(format!("read {path}")))?;
    let ns = text.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
    let ns =
        ns.ok_or_else(|| BenchError::Load(format!("{path} does not have schedstat's form")))?;
    Ok(Duration::from_nanos(ns))
}

/// Time all processors together were not idle, including what the hypervisor took (steal).
pub fn machine_busy() -> Result<Duration, BenchError> {
    let text = fs::read_to_string("/proc/stat").map_err(BenchError::io("read /proc/stat"))?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        first.split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let busy: u64 =
        ticks.iter().take(8).enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, t)| t).sum();
    Ok(Duration::from_millis(busy * 1_000 / TICKS_PER_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_parentheses() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 1 0";
        assert_eq!(stat_ticks(text), Some(300));
        assert_eq!(stat_ticks("7 (a"), None);
    }

    #[test]
    fn this_process_has_time_and_memory() {
        let pid = std::process::id();
        cpu_of(&[pid]).expect("stat of this process");
        let one = memory_of(&[pid]).expect("status of this process");
        assert!(one.peak_kib >= one.anonymous_kib && one.resident_kib > 0);
        let thread = this_thread().expect("name of this thread");
        let before = thread_cpu(&thread).expect("time of this thread");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while thread_cpu(&thread).expect("time of this thread") == before {
            assert!(std::time::Instant::now() < deadline, "the kernel does not count this thread");
        }
        assert!(machine_busy().expect("/proc/stat") > Duration::ZERO);
    }
}
