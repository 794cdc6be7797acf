//! `check perf` and `check datascale`: puts as many clients do, and a verdict.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use indicatif::ProgressBar;
use proto::etcdserverpb as pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::ask;
use super::get::range;
use super::session::interrupted;
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::{self, Failure};
use crate::go;
use crate::output::line;
use crate::settings::Settings;

const PERF_SECONDS: u64 = 60;
const PERF_KEY_BYTES: usize = 256;
const PERF_VALUE_BYTES: usize = 1024;
const DATASCALE_KEY_BYTES: usize = 512;
const DATASCALE_VALUE_BYTES: usize = 512;
/// A cluster passes if it does this part of the writes a second that are asked of it.
const THROUGHPUT_LEAST: f64 = 0.9;
const SLOWEST_SECONDS_MAX: f64 = 0.5;
const DEVIATION_SECONDS_MAX: f64 = 0.1;
/// For the work after the load.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(30);
/// How much of a page of metrics is read, in bytes.
const METRICS_BYTES_MAX: u64 = 16 << 20;

struct Workload {
    clients: usize,
    /// Writes a second.
    perf_rate: u32,
    /// Keys in all.
    datascale_keys: u64,
}

fn workload(invocation: &Invocation) -> Result<Workload, Failure> {
    let load = invocation.text("load");
    let (clients, perf_rate, datascale_keys) = match load.as_str() {
        "s" | "small" => (50, 150, 10_000),
        "m" | "medium" => (200, 1000, 100_000),
        "l" | "large" => (500, 8000, 1_000_000),
        "xl" | "xLarge" => (1000, 15_000, 3_000_000),
        _ => {
            let message = format!("unknown load option {load}");
            return Err(Failure::new(failure::BAD_FEATURE, message));
        }
    };
    Ok(Workload { clients, perf_rate, datascale_keys })
}

/// What many puts were like.
#[derive(Default)]
struct Report {
    seconds: RefCell<Vec<f64>>,
    errors: RefCell<BTreeMap<String, u64>>,
}

impl Report {
    fn deviation(&self) -> f64 {
        let seconds = self.seconds.borrow();
        let count = seconds.len().max(1) as f64;
        let mean = seconds.iter().sum::<f64>() / count;
        let square = |taken: &f64| (taken - mean) * (taken - mean);
        (seconds.iter().map(square).sum::<f64>() / count).sqrt()
    }

    fn slowest(&self) -> f64 {
        self.seconds.borrow().iter().copied().fold(0.0, f64::max)
    }

    fn tell_errors(&self) -> Result<bool, Failure> {
        let errors = self.errors.borrow();
        if errors.is_empty() {
            return Ok(true);
        }
        line("FAIL: too many errors")?;
        for (error, count) in errors.iter() {
            line(format!("FAIL: ERROR({error}) -> {count}"))?;
        }
        Ok(false)
    }
}

/// Puts with many clients, each key once `next` gives it.
async fn put_all(
    settings: &Settings,
    clients: usize,
    next: Rc<dyn Fn() -> Option<(Option<Instant>, Bytes)>>,
    value_bytes: usize,
    done: Rc<dyn Fn()>,
) -> Result<Rc<Report>, Failure> {
    let report = Rc::new(Report::default());
    let tasks = LocalSet::new();
    let value = Bytes::from(vec![0; value_bytes]);
    for _ in 0..clients {
        let client = Client::connect(settings, None).await?;
        let (next, done, report) = (next.clone(), done.clone(), report.clone());
        let value = value.clone();
        tasks.spawn_local(async move {
            while let Some((at, key)) = next() {
                if let Some(at) = at {
                    tokio::time::sleep_until(at.into()).await;
                }
                let started = Instant::now();
                let value = value.clone();
                let request = pb::PutRequest { key, value, ..Default::default() };
                match ask!(client, Never, kv.put(request)) {
                    Ok(_) => report.seconds.borrow_mut().push(started.elapsed().as_secs_f64()),
                    Err(failure) => {
                        *report.errors.borrow_mut().entry(failure.message).or_default() += 1;
                    }
                }
                done();
            }
        });
    }
    tasks.await;
    Ok(report)
}

fn random_key(prefix: &str, bytes: usize) -> Bytes {
    let number: u64 = rand::random();
    let mut key = prefix.as_bytes().to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key.resize(prefix.len() + bytes, 0);
    key.into()
}

/// Where keys are already, nothing is put.
async fn must_be_empty(client: &Client, prefix: &str, quote: &str) -> Result<(), Failure> {
    let (key, range_end) = range(prefix, Bytes::new(), true, false);
    let request = pb::RangeRequest { key, range_end, limit: 1, ..Default::default() };
    let response = ask!(client, Reading, kv.range(request))?;
    match response.kvs.is_empty() {
        true => Ok(()),
        false => {
            let quoted = go::quote(prefix.as_bytes());
            let message = format!(
                "prefix {quoted} has keys. Delete with {quote}etcdctl del --prefix {prefix}{quote} first"
            );
            Err(Failure::new(failure::INVALID_INPUT, message))
        }
    }
}

pub async fn perf(mut invocation: Invocation) -> Result<(), Failure> {
    let Workload { clients, perf_rate, .. } = workload(&invocation)?;
    let prefix = invocation.text("prefix");
    let settings = Settings::read(&mut invocation)?;
    let client = Client::connect(&settings, None).await?;
    must_be_empty(&client, &prefix, "'").await?;
    let bar = ProgressBar::new(PERF_SECONDS);
    let started = Instant::now();
    let (given, total) = (Cell::new(0u32), u64::from(perf_rate) * PERF_SECONDS);
    let below = prefix.clone();
    let next = Rc::new(move || {
        let at = given.replace(given.get() + 1);
        let key = random_key(&below, PERF_KEY_BYTES);
        let due = Duration::from_secs(1) * at / perf_rate;
        (u64::from(at) < total).then(|| (Some(started + due), key))
    });
    let shown = bar.clone();
    let done = Rc::new(move || shown.set_position(started.elapsed().as_secs()));
    let report = tokio::select! {
        report = put_all(&settings, clients, next, PERF_VALUE_BYTES, done) => report?,
        signal = interrupted() => {
            signal?;
            clean_up(&settings, &prefix, false).await?;
            return Err(Failure::silent(failure::ERROR));
        }
    };
    let took = started.elapsed().as_secs_f64();
    bar.finish();
    clean_up(&settings, &prefix, invocation.flag("auto-compact")).await?;
    if invocation.flag("auto-defrag") {
        defragment(&settings).await?;
    }
    judge(&report, took, f64::from(perf_rate))
}

fn judge(report: &Report, took: f64, rate: f64) -> Result<(), Failure> {
    let mut passed = report.tell_errors()?;
    let throughput = report.seconds.borrow().len() as f64 / took;
    let mut tell = |good: bool, pass: String, fail: String| {
        passed &= good;
        line(if good { pass } else { fail })
    };
    let writes = throughput as u64 + 1;
    tell(
        throughput / rate > THROUGHPUT_LEAST,
        format!("PASS: Throughput is {writes} writes/s"),
        format!("FAIL: Throughput too low: {writes} writes/s"),
    )?;
    let slowest = report.slowest();
    tell(
        slowest <= SLOWEST_SECONDS_MAX,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    )?;
    let deviation = report.deviation();
    tell(
        deviation <= DEVIATION_SECONDS_MAX,
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    )?;
    line(if passed { "PASS" } else { "FAIL" })?;
    if passed { Ok(()) } else { Err(Failure::silent(failure::ERROR)) }
}

async fn clean_up(settings: &Settings, prefix: &str, compact: bool) -> Result<(), Failure> {
    let client = Client::connect(settings, Some(CLEAN_UP_WITHIN)).await?;
    let (key, range_end) = range(prefix, Bytes::new(), true, false);
    let request = pb::DeleteRangeRequest { key, range_end, prev_kv: false };
    let deleted = match ask!(client, Never, kv.delete_range(request)) {
        Ok(deleted) => deleted,
        Err(failure) => {
            return line(format!("FAIL: Cleanup failed during key deletion: ERROR({failure})"));
        }
    };
    if !compact {
        return Ok(());
    }
    let revision = deleted.header.map_or(0, |header| header.revision);
    line(format!("Compacting with revision {revision}"))?;
    ask!(client, Never, kv.compact(pb::CompactionRequest { revision, physical: true }))?;
    line(format!("Compacted with revision {revision}"))
}

async fn defragment(settings: &Settings) -> Result<(), Failure> {
    for endpoint in &settings.endpoints {
        let quoted = go::quote(endpoint.as_bytes());
        line(format!("Defragmenting {quoted}"))?;
        let client = Client::connect(&settings.at(endpoint), Some(CLEAN_UP_WITHIN)).await?;
        ask!(client, Never, maintenance.defragment(pb::DefragmentRequest {}))?;
        line(format!("Defragmented {quoted}"))?;
    }
    Ok(())
}

pub async fn datascale(mut invocation: Invocation) -> Result<(), Failure> {
    let Workload { clients, datascale_keys: keys, .. } = workload(&invocation)?;
    let prefix = invocation.text("prefix");
    let settings = Settings::read(&mut invocation)?;
    let client = Client::connect(&settings, None).await?;
    must_be_empty(&client, &prefix, "").await?;
    let endpoint = client.endpoints().first().cloned().unwrap_or_default();
    let before = memory_or_fail(&endpoint, "before").await?;
    line(format!(
        "Start data scale check for work load [{keys} key-value pairs, {} bytes per key-value, \
         {clients} concurrent clients].",
        DATASCALE_KEY_BYTES + DATASCALE_VALUE_BYTES
    ))?;
    let bar = ProgressBar::new(keys);
    let (given, below) = (Cell::new(0), prefix.clone());
    let next = Rc::new(move || {
        let at = given.replace(given.get() + 1);
        (at < keys).then(|| (None, random_key(&below, DATASCALE_KEY_BYTES)))
    });
    let shown = bar.clone();
    let done = Rc::new(move || shown.inc(1));
    let report = put_all(&settings, clients, next, DATASCALE_VALUE_BYTES, done).await?;
    bar.finish();
    let after = memory_or_fail(&endpoint, "after").await?;
    clean_up(&settings, &prefix, invocation.flag("auto-compact")).await?;
    if invocation.flag("auto-defrag") {
        defragment(&settings).await?;
    }
    if !report.tell_errors()? {
        return Err(Failure::silent(failure::ERROR));
    }
    let megabytes = (after - before) / (1024.0 * 1024.0);
    line(format!("PASS: Approximate system memory used : {megabytes:.2} MB."))
}

async fn memory_or_fail(endpoint: &str, when: &str) -> Result<f64, Failure> {
    match resident_bytes(endpoint).await {
        Ok(bytes) => Ok(bytes),
        Err(why) => {
            line(format!("fetch error: {why}"))?;
            line(format!(
                "FAIL: Could not read process_resident_memory_bytes {when} the put operations."
            ))?;
            Err(Failure::silent(failure::ERROR))
        }
    }
}

/// How much memory the server's process has, from its metrics.
async fn resident_bytes(endpoint: &str) -> Result<f64, String> {
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    if address.contains("://") {
        return Err("metrics are read without TLS only".into());
    }
    let text = |error: std::io::Error| go::io_error(&error);
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    let mut page = Vec::new();
    stream.take(METRICS_BYTES_MAX).read_to_end(&mut page).await.map_err(text)?;
    let page = String::from_utf8_lossy(&page);
    let name = "process_resident_memory_bytes ";
    let found = page.lines().find_map(|row| row.strip_prefix(name)?.trim().parse().ok());
    found.ok_or_else(|| format!("could not find: {}", name.trim()))
}
