//! What a call costs the server when answering takes nothing. Run by hand:
//! `cargo test --release -p host cost_of_a_call -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

/// Answers everything at once, without looking at it.
struct Nothing {
    body: Bytes,
    watches: FakeHub,
}

impl Coordinator for Nothing {
    fn admit(&self, request: &[u8]) -> Result<Admission, RequestError> {
        // Field 3 of the inner message is a range.
        let is_range = request.get(2..5).is_some_and(|bytes| bytes.contains(&0x1a));
        let route = if is_range { Route::Read } else { Route::Write };
        Ok(Admission { route, heavy: false })
    }

    async fn propose(&self, _request: Bytes) -> Result<Proposed, RequestError> {
        tokio::task::yield_now().await;
        Ok(Proposed { revision: 1, body: Bytes::new() })
    }

    async fn query(&self, _: Bytes, _: bool) -> Result<Answered, RequestError> {
        Ok(Answered { revision: 1, body: self.body.clone(), next: None })
    }

    async fn read_index(&self) -> Result<(), RequestError> {
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn renew_lease(&self, id: i64) -> Result<Option<i64>, RequestError> {
        Ok(Some(id))
    }

    async fn lease_remaining(&self, id: i64) -> Result<Option<i64>, RequestError> {
        Ok(Some(id))
    }

    async fn compacted(&self, _revision: i64) -> Result<(), RequestError> {
        Ok(())
    }

    fn db_size_bytes(&self) -> u64 {
        0
    }

    async fn defragment(&self) -> Result<(), RequestError> {
        Ok(())
    }

    async fn snapshot(&self) -> Result<SnapshotFile, RequestError> {
        Err(RequestError::Stopped)
    }

    fn standing(&self) -> Standing {
        Standing { raft_term: 2, leader: 1, is_learner: false }
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            standing: self.standing(),
            revision: 1,
            raft_index: 1,
            raft_applied_index: 1,
            db_size_bytes: 0,
            db_size_in_use_bytes: 0,
            alarms: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn watches(&self) -> &Hub {
        &self.watches.0
    }

    fn members(&self) -> Vec<MemberInfo> {
        Vec::new()
    }

    async fn change_membership(
        &self,
        _: MembershipChange,
    ) -> Result<Vec<MemberInfo>, RequestError> {
        Ok(Vec::new())
    }

    async fn machine(&self, _: MachineRequest) -> Result<Machines, RequestError> {
        Ok(Machines::default())
    }

    async fn move_leader(&self, _: u64) -> Result<(), RequestError> {
        Ok(())
    }
}

/// Processor time of the server's threads so far, in microseconds. They are known by their names.
fn server_cpu_us() -> u64 {
    let mut us = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let is_server =
            name.strip_prefix("client-").is_some_and(|rest| rest.starts_with(['0', '1']));
        if is_server {
            let schedstat = std::fs::read_to_string(task.path().join("schedstat")).unwrap();
            let ns: u64 = schedstat.split_whitespace().next().unwrap().parse().unwrap();
            us += ns / 1_000;
        }
    }
    us
}

const CONNECTIONS: usize = 100;
const CALLS_AT_ONCE: usize = 10;
const CALLS: u64 = 200_000;

async fn load(address: SocketAddr, path: &'static str, message: Bytes, calls: Arc<AtomicU64>) {
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let sender = connect(address).await;
        for _ in 0..CALLS_AT_ONCE {
            let (sender, message, calls) = (sender.clone(), message.clone(), calls.clone());
            tasks.push(tokio::spawn(async move {
                while calls.fetch_add(1, Ordering::Relaxed) < CALLS {
                    let body = std::slice::from_ref(&message);
                    let reply = exchange(&sender, grpc_request(path), body).await.unwrap();
                    assert_eq!(reply.grpc(), (0, ""));
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_call() {
    let kv = proto::mvccpb::KeyValue {
        key: "key".into(),
        value: vec![7; 256].into(),
        ..Default::default()
    };
    let response = pb::RangeResponse { kvs: vec![kv], count: 1, ..Default::default() };
    let body = Bytes::from(response.encode_to_vec());
    let url = Url::parse("http://127.0.0.1:0").unwrap();
    let listeners = Listeners::bind(&[url], "listen-client-urls").unwrap();
    let coordinators = (0..2)
        .map(|_| Arc::new(Nothing { body: body.clone(), watches: FakeHub::default() }))
        .collect();
    let server = serve(listeners, coordinators, SETTINGS).unwrap();
    let address = server.addresses()[0];
    for (name, path, message) in [
        ("put", "/etcdserverpb.KV/Put", frame(&put("key", 256))),
        ("range", "/etcdserverpb.KV/Range", frame(&range("key"))),
    ] {
        for _ in 0..3 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (before, begun) = (server_cpu_us(), Instant::now());
            runtime.block_on(load(address, path, message.clone(), Arc::default()));
            let us = (server_cpu_us() - before) as f64 / CALLS as f64;
            let rate = CALLS as f64 / begun.elapsed().as_secs_f64();
            println!("{name}: {us:.1} us of the server's processor time a call, {rate:.0} calls/s");
        }
    }
    server.stop(Duration::ZERO);
}
