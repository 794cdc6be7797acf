//! gRPC calls, counted: `grpc_server_…` as go-grpc-prometheus has them, and the bytes of messages as etcd does.
//!
//! Each client thread counts for itself, in memory that no other thread writes to; whoever asks for metrics adds the
//! threads up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec};

use super::registrar::Registrar;

/// gRPC's codes by their numbers, as Go names them.
pub const METHOD_CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodKind {
    Unary,
    ClientStream,
    ServerStream,
    BidiStream,
}

impl MethodKind {
    fn label(self) -> &'static str {
        match self {
            MethodKind::Unary => "unary",
            MethodKind::ClientStream => "client_stream",
            MethodKind::ServerStream => "server_stream",
            MethodKind::BidiStream => "bidi_stream",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Method {
    /// With its package.
    pub service: String,
    pub name: String,
    pub kind: MethodKind,
}

/// The methods that are counted, by their paths.
#[derive(Debug, Default)]
pub struct MethodTable {
    methods: Vec<Method>,
    by_path: HashMap<String, usize>,
}

impl MethodTable {
    pub fn new(methods: Vec<Method>) -> MethodTable {
        let path =
            |(at, method): (usize, &Method)| (format!("/{}/{}", method.service, method.name), at);
        let by_path = methods.iter().enumerate().map(path).collect();
        MethodTable { methods, by_path }
    }

    /// The method's number.
    pub fn find(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }
}

/// The counts of all threads of one server.
pub struct Calls {
    table: Arc<MethodTable>,
    threads: Vec<Arc<ThreadCalls>>,
    /// Set where the time that calls take is wanted.
    seconds: Option<HistogramVec>,
}

/// The counts of one thread.
pub struct ThreadCalls {
    methods: Vec<MethodCalls>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

#[derive(Default)]
struct MethodCalls {
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    handled: [AtomicU64; METHOD_CODES.len()],
}

/// Adds to a number that only this thread writes.
fn add(number: &AtomicU64, amount: u64) {
    number.store(number.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

impl Calls {
    /// For so many client threads; `extensive` measures the time of calls as well.
    pub fn new(table: Arc<MethodTable>, threads: usize, extensive: bool) -> Calls {
        let thread = |_| {
            Arc::new(ThreadCalls {
                methods: table.methods.iter().map(|_| MethodCalls::default()).collect(),
                received_bytes: AtomicU64::new(0),
                sent_bytes: AtomicU64::new(0),
            })
        };
        let threads = (0..threads).map(thread).collect();
        let seconds = extensive.then(|| super::metrics().calls.seconds.clone());
        Calls { table, threads, seconds }
    }

    /// A call to `path` on a thread begins. Nothing else may be counted on that thread at the same time.
    pub fn begin(&self, thread: usize, path: &str) -> Call<'_> {
        let counts = self.threads.get(thread).map(AsRef::as_ref);
        let method = self.table.find(path);
        if let (Some(counts), Some(method)) = (counts, method) {
            add(&counts.methods[method].started, 1);
        }
        Call { calls: self, counts, method }
    }
}

/// A call that is served.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    calls: &'a Calls,
    counts: Option<&'a ThreadCalls>,
    /// None if there is no such method.
    method: Option<usize>,
}

impl Call<'_> {
    fn method(&self) -> Option<&MethodCalls> {
        Some(&self.counts?.methods[self.method?])
    }

    pub fn is_unary(&self) -> bool {
        let method = self.method.map(|number| &self.calls.table.methods[number]);
        method.is_some_and(|method| method.kind == MethodKind::Unary)
    }

    pub fn received(&self, bytes: usize) {
        if let Some(counts) = self.counts {
            add(&counts.received_bytes, bytes as u64);
        }
        if let Some(method) = self.method() {
            add(&method.received, 1);
        }
    }

    pub fn sent(&self, bytes: usize) {
        if let Some(counts) = self.counts {
            add(&counts.sent_bytes, bytes as u64);
        }
        if let Some(method) = self.method() {
            add(&method.sent, 1);
        }
    }

    /// The call ends with a status.
    pub fn handled(&self, code: u32, took: Duration) {
        // A code that gRPC does not know counts as one that it knows nothing of.
        let code = usize::try_from(code).ok().filter(|code| *code < METHOD_CODES.len());
        if let Some(method) = self.method() {
            add(&method.handled[code.unwrap_or(2)], 1);
        }
        if let (Some(seconds), Some(number)) = (&self.calls.seconds, self.method) {
            let method = &self.calls.table.methods[number];
            let labels = [method.kind.label(), method.service.as_str(), method.name.as_str()];
            seconds.with_label_values(&labels).observe(took.as_secs_f64());
        }
    }
}

/// What the counts become for Prometheus.
pub struct Vectors {
    started: IntCounterVec,
    handled: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    seconds: HistogramVec,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
}

const LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];

impl Vectors {
    pub(super) fn new(to: &mut Registrar) -> Vectors {
        let with_code = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        Vectors {
            started: to.counters(
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
                &LABELS,
            ),
            handled: to.counters(
                "grpc_server_handled_total",
                "Total number of RPCs completed on the server, regardless of success or failure.",
                &with_code,
            ),
            received: to.counters(
                "grpc_server_msg_received_total",
                "Total number of RPC stream messages received on the server.",
                &LABELS,
            ),
            sent: to.counters(
                "grpc_server_msg_sent_total",
                "Total number of gRPC stream messages sent by the server.",
                &LABELS,
            ),
            seconds: to.histograms_of_default(
                "grpc_server_handling_seconds",
                "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
                &LABELS,
            ),
            received_bytes: to.counter(
                "etcd_network_client_grpc_received_bytes_total",
                "The total number of bytes received from grpc clients.",
            ),
            sent_bytes: to.counter(
                "etcd_network_client_grpc_sent_bytes_total",
                "The total number of bytes sent to grpc clients.",
            ),
        }
    }

    /// Adds the threads up.
    pub(super) fn set(&self, calls: &Calls) {
        let total = |counter: &IntCounter, of: &dyn Fn(&ThreadCalls) -> &AtomicU64| {
            let sum = calls.threads.iter().map(|thread| of(thread).load(Ordering::Relaxed)).sum();
            counter.reset();
            counter.inc_by(sum);
        };
        for (at, method) in calls.table.methods.iter().enumerate() {
            let labels = [method.kind.label(), method.service.as_str(), method.name.as_str()];
            let with = |vector: &IntCounterVec| vector.with_label_values(&labels);
            total(&with(&self.started), &|thread| &thread.methods[at].started);
            total(&with(&self.received), &|thread| &thread.methods[at].received);
            total(&with(&self.sent), &|thread| &thread.methods[at].sent);
            for (number, code) in METHOD_CODES.iter().enumerate() {
                let [kind, service, name] = labels;
                let counter = self.handled.with_label_values(&[kind, service, name, code]);
                total(&counter, &|thread| &thread.methods[at].handled[number]);
            }
        }
        total(&self.received_bytes, &|thread| &thread.received_bytes);
        total(&self.sent_bytes, &|thread| &thread.sent_bytes);
    }
}
