//! gRPC as its clients see it: statuses, headers, limits and deadlines.

use ::http::HeaderValue;

use super::*;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

#[tokio::test]
async fn the_kv_service_answers() {
    let running = start();
    let response: pb::PutResponse = call(running.address, PUT, &put("k", 10)).await.message();
    let header =
        pb::ResponseHeader { cluster_id: 0xc1, member_id: 0xa1, revision: 1, raft_term: 2 };
    assert_eq!(response.header, Some(header));

    let response: pb::RangeResponse = call(running.address, RANGE, &range("k")).await.message();
    assert_eq!((response.header, response.count), (Some(header), 1));
    assert_eq!(response.kvs[0].value, "value");

    let delete = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
    let reply = call(running.address, "/etcdserverpb.KV/DeleteRange", &delete).await;
    assert_eq!(reply.message::<pb::DeleteRangeResponse>().header.unwrap().revision, 2);
    let reply = call(running.address, "/etcdserverpb.KV/Txn", &pb::TxnRequest::default()).await;
    assert_eq!(reply.message::<pb::TxnResponse>().header.unwrap().revision, 3);
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_physical_compaction_waits() {
    let running = start();
    let logical = pb::CompactionRequest { revision: 1, physical: false };
    let path = "/etcdserverpb.KV/Compact";
    let reply = call(running.address, path, &logical).await;
    assert_eq!(reply.message::<pb::CompactionResponse>().header.unwrap().revision, 1);

    let physical = pb::CompactionRequest { revision: 1, physical: true };
    let address = running.address;
    let waiting = tokio::spawn(async move { call(address, path, &physical).await });
    until("the compaction waits", || running.fake.waiting.load(Ordering::SeqCst) == 1).await;
    running.fake.release.notify_waiters();
    assert_eq!(waiting.await.unwrap().grpc(), (0, ""));
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn hashes_status_and_members_are_told() {
    let running = start();
    let reply = call(
        running.address,
        "/etcdserverpb.Maintenance/HashKV",
        &pb::HashKvRequest { revision: 4 },
    )
    .await;
    let response: pb::HashKvResponse = reply.message();
    assert_eq!(
        (response.hash, response.hash_revision, response.header.unwrap().revision),
        (5, 4, 9)
    );
    let reply = call(running.address, "/etcdserverpb.Maintenance/Hash", &pb::HashRequest {}).await;
    assert_eq!(reply.message::<pb::HashResponse>().hash, 6);

    running.fake.revision.store(3, Ordering::SeqCst);
    let path = "/etcdserverpb.Maintenance/Status";
    let status: pb::StatusResponse =
        call(running.address, path, &pb::StatusRequest {}).await.message();
    assert_eq!(status.header.unwrap().revision, 3);
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.7.1", "3.7.0"));
    assert_eq!(
        (status.leader, status.raft_index, status.raft_term, status.raft_applied_index),
        (0xa1, 11, 2, 10)
    );
    assert_eq!(
        (status.db_size, status.db_size_in_use, status.db_size_quota),
        (4096, 2048, 2 << 30)
    );
    assert_eq!((status.errors.len(), status.downgrade_info.is_some()), (0, true));

    running.fake.has_no_leader.store(true, Ordering::SeqCst);
    *running.fake.alarm.lock().unwrap() =
        Some(Alarm { member_id: 5, kind: super::super::AlarmKind::NoSpace });
    let status: pb::StatusResponse =
        call(running.address, path, &pb::StatusRequest {}).await.message();
    assert_eq!(status.errors, ["etcdserver: no leader", "memberID:5 alarm:NOSPACE "]);

    let path = "/etcdserverpb.Cluster/MemberList";
    let request = pb::MemberListRequest { linearizable: false };
    let list: pb::MemberListResponse = call(running.address, path, &request).await.message();
    assert_eq!(
        list.header,
        Some(pb::ResponseHeader { cluster_id: 0xc1, member_id: 0xa1, revision: 0, raft_term: 2 })
    );
    assert_eq!(list.members[0].client_ur_ls, ["http://localhost:2379"]);
    let request = pb::MemberListRequest { linearizable: true };
    assert_eq!(call(running.address, path, &request).await.grpc(), (14, "etcdserver: no leader"));
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn what_the_quota_has_no_room_for_is_refused() {
    let running = start();
    let path = "/etcdserverpb.KV/Put";
    let size = |bytes: u64| running.fake.db_size_bytes.store(bytes, Ordering::SeqCst);
    // A key and a value of one byte each cost 258: with them the quota must not be reached.
    size((2 << 30) - 259);
    assert_eq!(call(running.address, path, &put("k", 1)).await.grpc(), (0, ""));
    let full = (8, "etcdserver: mvcc: database space exceeded");
    assert_eq!(call(running.address, path, &put("k", 2)).await.grpc(), full);
    assert_eq!(running.fake.raised.load(Ordering::SeqCst), 1);
    size(3 << 30);
    // etcd looks at the quota before it looks at the request.
    assert_eq!(call(running.address, path, &put("", 1)).await.grpc(), full);
    let txn = |request| pb::TxnRequest {
        failure: vec![pb::RequestOp { request: Some(request) }],
        ..Default::default()
    };
    let path = "/etcdserverpb.KV/Txn";
    let with_put = txn(pb::request_op::Request::RequestPut(put("k", 1)));
    assert_eq!(call(running.address, path, &with_put).await.grpc(), full);
    let without = txn(pb::request_op::Request::RequestDeleteRange(Default::default()));
    assert_eq!(call(running.address, path, &without).await.grpc(), (0, ""));
    let path = "/etcdserverpb.KV/DeleteRange";
    let delete = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(call(running.address, path, &delete).await.grpc(), (0, ""));
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_snapshot_is_sent_with_its_sum() {
    use sha2::Digest;
    let running = start();
    // A learner has one, too.
    running.fake.is_learner.store(true, Ordering::SeqCst);
    let path = "/etcdserverpb.Maintenance/Snapshot";
    let reply = call(running.address, path, &pb::SnapshotRequest {}).await;
    assert_eq!(reply.grpc(), (0, ""));
    let mut messages = unframe::<pb::SnapshotResponse>(&reply.body);
    let last = messages.pop().unwrap();
    let mut left = 1_300_000;
    for message in &messages {
        assert!(message.blob.len() <= 32 << 10);
        left -= message.blob.len() as u64;
        assert_eq!((message.remaining_bytes, message.version.as_str()), (left, "3.7.0"));
        assert!(message.blob.iter().all(|byte| *byte == b's'));
    }
    assert_eq!((left, last.remaining_bytes), (0, 0));
    assert_eq!(last.blob, sha2::Sha256::digest(vec![b's'; 1_300_000]).as_slice());
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn there_is_nothing_to_downgrade() {
    let running = start();
    let path = "/etcdserverpb.Maintenance/Downgrade";
    let downgrade =
        |action, version: &str| pb::DowngradeRequest { action, version: version.to_owned() };
    for action in [0, 1] {
        let format = (3, "etcdserver: wrong downgrade target version format");
        assert_eq!(call(running.address, path, &downgrade(action, "x")).await.grpc(), format);
        for version in ["3.6", "3.6.0", "3.7", "4.0"] {
            let target = (3, "etcdserver: invalid downgrade target version");
            let reply = call(running.address, path, &downgrade(action, version)).await;
            assert_eq!(reply.grpc(), target);
        }
    }
    let reply = call(running.address, path, &downgrade(2, "")).await;
    assert_eq!(reply.message::<pb::DowngradeResponse>().version, "3.7");
    let unknown = (2, "etcdserver: unknown method");
    assert_eq!(call(running.address, path, &downgrade(7, "")).await.grpc(), unknown);
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_range_is_streamed() {
    let running = start();
    let reply = call(running.address, "/etcdserverpb.KV/RangeStream", &range("k")).await;
    assert_eq!(reply.grpc(), (0, ""));
    let messages: Vec<_> = unframe::<pb::RangeStreamResponse>(&reply.body)
        .into_iter()
        .map(|message| message.range_response.unwrap())
        .collect();
    assert_eq!(messages.len(), 3);
    assert!(messages.iter().all(|message| message.kvs.len() == 1));
    let revisions: Vec<_> =
        messages.iter().map(|message| message.header.map(|header| header.revision)).collect();
    assert_eq!(revisions, [None, None, Some(7)]);

    running.fake.has_no_leader.store(true, Ordering::SeqCst);
    let reply = call(running.address, "/etcdserverpb.KV/RangeStream", &range("k")).await;
    assert_eq!((reply.grpc(), reply.body.len()), ((14, "etcdserver: no leader"), 0));
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn refusals_are_those_of_etcd() {
    let running = start();
    let reply = call(running.address, PUT, &put("", 1)).await;
    assert_eq!(reply.grpc(), (3, "etcdserver: key is not provided"));
    assert_eq!(reply.headers["content-type"], "application/grpc");

    running.fake.has_no_leader.store(true, Ordering::SeqCst);
    assert_eq!(
        call(running.address, PUT, &put("k", 1)).await.grpc(),
        (14, "etcdserver: no leader")
    );
    let local = pb::RangeRequest { serializable: true, ..range("k") };
    assert_eq!(call(running.address, RANGE, &local).await.grpc(), (0, ""));
    let wants_leader = [("hasleader", "true")];
    let reply = call_with(running.address, RANGE, &local, &wants_leader).await;
    assert_eq!(reply.grpc(), (14, "etcdserver: no leader"));
    let reply = call_with(running.address, RANGE, &local, &[("hasleader", "no")]).await;
    assert_eq!(reply.grpc(), (0, ""));

    running.fake.has_no_leader.store(false, Ordering::SeqCst);
    running.fake.is_learner.store(true, Ordering::SeqCst);
    assert_eq!(call(running.address, RANGE, &local).await.grpc(), (0, ""));
    let reply = call(running.address, RANGE, &range("k")).await;
    assert_eq!(reply.grpc(), (9, "etcdserver: rpc not supported for learner"));
    running.server.stop(Duration::ZERO);
}

/// etcd's grace: three looks, an election's time apart. An election that goes well ends no stream.
#[tokio::test]
async fn a_stream_that_wants_a_leader_outlives_an_election() {
    for path in ["/etcdserverpb.Lease/LeaseKeepAlive", "/etcdserverpb.Watch/Watch"] {
        let running = start();
        let mut sender = connect(running.address).await.ready().await.unwrap();
        let mut request = grpc_request(path);
        request.headers_mut().insert("hasleader", "true".parse().unwrap());
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        let first = match path.contains("Watch") {
            true => frame(&pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
                    pb::WatchCreateRequest { key: "k".into(), ..Default::default() },
                )),
            }),
            false => frame(&pb::LeaseKeepAliveRequest { id: 2 }),
        };
        stream.send_data(first, false).unwrap();
        // The answer's headers come with the first message: the stream is served.
        let response = response.await.unwrap();
        running.fake.has_no_leader.store(true, Ordering::SeqCst);
        let reply = collect(response).await.unwrap();
        assert_eq!(reply.grpc(), (14, "etcdserver: no leader"), "{path}");
        assert_eq!(running.fake.leaderless_looks.load(Ordering::SeqCst), 3, "{path}");
        running.server.stop(Duration::ZERO);
    }
}

/// The limit is on etcd's log entry: for this member's id it has 12 bytes more than the request, and 4 for its tag and
/// length.
#[tokio::test]
async fn the_size_of_a_request_is_limited() {
    let running = start();
    let most = SETTINGS.max_request_bytes as usize;
    let base = put("k", most).encoded_len() - most;
    let fits = put("k", most - base - 12 - 4);
    assert_eq!(call(running.address, PUT, &fits).await.grpc(), (0, ""));
    let too_large = put("k", most - base - 12 - 4 + 1);
    let reply = call(running.address, PUT, &too_large).await;
    assert_eq!(reply.grpc(), (3, "etcdserver: request is too large"));

    let frame_limit = most + 512 * 1024;
    let beyond = put("k", frame_limit - base + 1);
    let message =
        format!("grpc: received message larger than max ({} vs. {frame_limit})", frame_limit + 1);
    assert_eq!(call(running.address, PUT, &beyond).await.grpc(), (8, message.as_str()));
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented() {
    let running = start();
    for (path, message) in [
        ("/etcdserverpb.Auth/AuthStatus", "unknown service etcdserverpb.Auth"),
        (
            "/etcdserverpb.Maintenance/Fragment",
            "unknown method Fragment for service etcdserverpb.Maintenance",
        ),
        ("/foo", "malformed method name: \"/foo\""),
    ] {
        assert_eq!(call(running.address, path, &range("k")).await.grpc(), (12, message));
    }
    let reply = call_with(running.address, RANGE, &range("k"), &[("grpc-encoding", "br")]).await;
    assert_eq!(reply.grpc(), (12, "grpc: Decompressor is not installed for grpc-encoding \"br\""));
    let reply =
        call_with(running.address, RANGE, &range("k"), &[("grpc-encoding", "identity")]).await;
    assert_eq!(reply.grpc(), (0, ""));
    running.server.stop(Duration::ZERO);
}

/// A message of that many bytes, compressed, in a frame that says so.
fn gzip_frame(message: &impl Message) -> Bytes {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&message.encode_to_vec()).unwrap();
    let compressed = encoder.finish().unwrap();
    let mut out = BytesMut::new();
    out.put_u8(1);
    out.put_u32(compressed.len() as u32);
    out.put_slice(&compressed);
    out.freeze()
}

#[tokio::test]
async fn gzip_is_taken_as_etcd_takes_it() {
    let running = start();
    let most = SETTINGS.max_request_bytes as usize + 512 * 1024;
    let broken = Bytes::from_static(b"\x01\0\0\0\x03abc");
    for (path, body, encoding, code, message) in [
        (RANGE, gzip_frame(&range("k")), "gzip", 0, String::new()),
        (RANGE, frame(&range("k")), "gzip", 0, String::new()),
        (PUT, gzip_frame(&put("k", 100_000)), "gzip", 0, String::new()),
        // A small message may become a large one, but not too large.
        (
            PUT,
            gzip_frame(&put("k", 8 << 20)),
            "gzip",
            8,
            format!("grpc: received message after decompression larger than max {most}"),
        ),
        (
            RANGE,
            gzip_frame(&range("k")),
            "identity",
            13,
            "grpc: compressed flag set with identity or empty encoding".to_owned(),
        ),
    ] {
        let mut request = grpc_request(path);
        request.headers_mut().insert("grpc-encoding", encoding.parse().unwrap());
        let reply = exchange(&connect(running.address).await, request, &[body]).await.unwrap();
        assert_eq!(reply.grpc(), (code, message.as_str()));
    }
    let mut request = grpc_request(RANGE);
    request.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    let reply = exchange(&connect(running.address).await, request, &[broken]).await.unwrap();
    let (code, message) = reply.grpc();
    assert!(code == 13 && message.starts_with("grpc: failed to decompress"), "{code} {message}");
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn what_is_no_grpc_is_refused_as_grpc_go_does() {
    let running = start();
    let sender = connect(running.address).await;
    let with = |change: fn(&mut Request<()>)| {
        let mut request = grpc_request(RANGE);
        change(&mut request);
        request
    };
    type Case = (fn(&mut Request<()>), u16, u32, &'static str);
    let cases: [Case; 6] = [
        (
            |r| drop(r.headers_mut().remove("content-type")),
            415,
            3,
            "invalid gRPC request content-type \"\"",
        ),
        (
            |r| {
                drop(
                    r.headers_mut()
                        .insert("content-type", HeaderValue::from_static("application/json")),
                )
            },
            415,
            3,
            "invalid gRPC request content-type \"application/json\"",
        ),
        (
            |r| {
                drop(
                    r.headers_mut()
                        .insert("content-type", HeaderValue::from_static("application/grpcx")),
                )
            },
            415,
            3,
            "invalid gRPC request content-type \"application/grpcx\"",
        ),
        (
            |r| *r.method_mut() = Method::GET,
            405,
            13,
            "Received a HEADERS frame with :method \"GET\" which should be POST",
        ),
        (
            |r| drop(r.headers_mut().insert("grpc-timeout", HeaderValue::from_static("xx"))),
            400,
            13,
            "malformed grpc-timeout: transport: timeout unit is not recognized: \"xx\"",
        ),
        (
            |r| drop(r.headers_mut().insert("grpc-timeout", HeaderValue::from_static("0S"))),
            200,
            4,
            "context deadline exceeded",
        ),
    ];
    for (change, status, code, message) in cases {
        let reply = exchange(&sender, with(change), &[frame(&range("k"))]).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.grpc()), (status, (code, message)));
    }
    for (body, code, message) in [
        (&b"\x00\x00\x00\x00"[..], 2, "EOF"),
        (b"", 2, "EOF"),
        (b"\x00\x00\x00\x00\x05abc", 2, "unexpected EOF"),
        (b"\x01\x00\x00\x00\x00", 13, "grpc: compressed flag set with identity or empty encoding"),
        (b"\x02\x00\x00\x00\x00", 13, "grpc: received unexpected payload format 2"),
    ] {
        let reply =
            exchange(&sender, grpc_request(RANGE), &[Bytes::from_static(body)]).await.unwrap();
        assert_eq!(reply.grpc(), (code, message), "{body:?}");
    }
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn the_content_type_is_answered_in_kind() {
    let running = start();
    let sender = connect(running.address).await;
    for (asked, answered) in [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc+proto"),
        ("application/grpc;x", "application/grpc+x"),
        ("application/grpc+", "application/grpc"),
    ] {
        let mut request = grpc_request(RANGE);
        request.headers_mut().insert("content-type", HeaderValue::from_static(asked));
        let reply = exchange(&sender, request, &[frame(&range("k"))]).await.unwrap();
        assert_eq!(reply.grpc(), (0, ""));
        assert_eq!(reply.headers["content-type"], answered);
    }
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_message_may_come_in_pieces() {
    let running = start();
    let sender = connect(running.address).await;
    let whole = frame(&put("k", 300_000));
    for size in [1_000, 16_384, 100_000] {
        let pieces: Vec<Bytes> = whole.chunks(size).map(Bytes::copy_from_slice).collect();
        assert_eq!(exchange(&sender, grpc_request(PUT), &pieces).await.unwrap().grpc(), (0, ""));
    }
    let bytes: Vec<Bytes> = frame(&put("k", 5)).chunks(1).map(Bytes::copy_from_slice).collect();
    assert_eq!(exchange(&sender, grpc_request(PUT), &bytes).await.unwrap().grpc(), (0, ""));
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_deadline_ends_a_call() {
    let running = start();
    let reply =
        call_with(running.address, PUT, &put(KEY_THAT_WAITS, 1), &[("grpc-timeout", "20m")]).await;
    assert_eq!(reply.grpc(), (4, "context deadline exceeded"));
    until("the call is dropped", || running.fake.dropped.load(Ordering::SeqCst) == 1).await;
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_client_that_leaves_drops_its_calls() {
    let running = start();
    let path_and_message = [
        (PUT, frame(&put(KEY_THAT_WAITS, 1))),
        (RANGE, frame(&range(KEY_THAT_WAITS))),
        ("/etcdserverpb.KV/RangeStream", frame(&range(KEY_THAT_WAITS))),
    ];
    let count = path_and_message.len() as u64;
    let counter = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    for round in 0..2 {
        let stream = TcpStream::connect(running.address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut calls = Vec::new();
        for (path, message) in &path_and_message {
            let mut sender = sender.clone().ready().await.unwrap();
            let (response, mut stream) = sender.send_request(grpc_request(path), false).unwrap();
            stream.send_data(message.clone(), true).unwrap();
            calls.push((response, stream));
        }
        until("the calls wait", || counter(&running.fake.waiting) == (round + 1) * count).await;
        if round == 0 {
            // Once by resetting each call, and once by cutting the connection.
            calls.iter_mut().for_each(|(_, stream)| stream.send_reset(h2::Reason::CANCEL));
        } else {
            connection.abort();
        }
        until("the calls are dropped", || counter(&running.fake.dropped) == (round + 1) * count)
            .await;
    }
    running.server.stop(Duration::ZERO);
}

/// The last words were lost when the thread that stops the server was interrupted between the wakers of its channel: the
/// call was asked for them while it was not yet told of the stop.
#[tokio::test]
async fn health_is_told_and_watched() {
    use proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};

    let running = start();
    let everything = HealthCheckRequest::default();
    let other = HealthCheckRequest { service: "x".into() };
    let path = "/grpc.health.v1.Health/Check";
    let reply = call(running.address, path, &everything).await;
    assert_eq!(reply.message::<HealthCheckResponse>().status, 1);
    assert_eq!(call(running.address, path, &other).await.grpc(), (5, "unknown service"));
    let reply = call(running.address, "/grpc.health.v1.Health/List", &everything).await;
    assert_eq!(reply.body.as_ref(), b"\0\0\0\0\x08\x0a\x06\x0a\0\x12\x02\x08\x01");

    let mut sender = connect(running.address).await.ready().await.unwrap();
    let request = grpc_request("/grpc.health.v1.Health/Watch");
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(frame(&everything), true).unwrap();
    let response = response.await.unwrap();
    let stop = tokio::task::spawn_blocking(move || running.server.stop(Duration::from_secs(5)));
    let reply = collect(response).await.unwrap();
    let statuses: Vec<_> =
        unframe::<HealthCheckResponse>(&reply.body).iter().map(|message| message.status).collect();
    assert_eq!((statuses, reply.grpc()), (vec![1, 2], (1, "Stream has ended.")));
    stop.await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_lets_calls_end() {
    let running = start();
    let address = running.address;
    let fake = running.fake.clone();
    let sender = connect(address).await;
    let waiting = tokio::spawn({
        let sender = sender.clone();
        async move { exchange(&sender, grpc_request(PUT), &[frame(&put(KEY_THAT_WAITS, 1))]).await }
    });
    until("the call waits", || fake.waiting.load(Ordering::SeqCst) == 1).await;
    let stop = tokio::task::spawn_blocking(move || running.server.stop(Duration::from_secs(5)));
    let mut refused = false;
    while !refused {
        refused = TcpStream::connect(address).await.is_err();
        tokio::task::yield_now().await;
    }
    fake.release.notify_waiters();
    assert_eq!(waiting.await.unwrap().unwrap().grpc(), (0, ""));
    stop.await.unwrap();
    assert!(exchange(&sender, grpc_request(PUT), &[]).await.is_err(), "the connection is closed");
}

/// What does not end in time is cut off.
#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_good() {
    let running = start();
    let sender = connect(running.address).await;
    let body = [frame(&put(KEY_THAT_WAITS, 1))];
    let call = exchange(&sender, grpc_request(PUT), &body);
    let fake = running.fake.clone();
    let stop = async {
        until("the call waits", || fake.waiting.load(Ordering::SeqCst) == 1).await;
        let stop = move || running.server.stop(Duration::from_millis(50));
        tokio::task::spawn_blocking(stop).await.unwrap();
    };
    let (result, ()) = tokio::join!(call, stop);
    assert!(result.is_err());
    assert_eq!(fake.dropped.load(Ordering::SeqCst), 1);
}
