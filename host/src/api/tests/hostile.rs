//! Clients that mean no good, or are broken: the server lives on, and so does everybody else's connection.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::connection::HTTP2_PREFACE;
use super::*;
use crate::limits;

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";

/// The server still serves, on every one of its threads.
async fn assert_alive(address: SocketAddr) {
    for _ in 0..2 {
        assert_eq!(call(address, PUT, &put("alive", 1)).await.grpc(), (0, ""));
    }
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Writes bytes, ends its side, and reads what comes until the server closes.
async fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut sink = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut sink))
        .await
        .expect("the server closes the connection");
}

#[tokio::test]
async fn garbage_ends_its_connection_only() {
    let running = start();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..300 {
        let mut bytes = vec![0; random.random_range(0..600)];
        random.fill(bytes.as_mut_slice());
        let mut whole = match round % 3 {
            0 => Vec::new(),
            1 => HTTP2_PREFACE.to_vec(),
            _ => [HTTP2_PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat(),
        };
        whole.extend_from_slice(&bytes);
        throw(running.address, &whole).await;
    }
    for bytes in
        [&b"PRI * HTTP/2.0\r\n\r\nXX"[..], b"P", b"GET", b"GET / HTTP/1.1\r\n", &[b'A'; 100_000]]
    {
        throw(running.address, bytes).await;
    }
    assert_alive(running.address).await;
    running.server.stop(Duration::ZERO);
}

/// A frame of HTTP/2, by hand.
fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn mutated_calls_are_survived() {
    let running = start();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // :method POST, :path by literal, content-type by literal.
    let mut headers = vec![0x83, 0x86, 0x04, RANGE.len() as u8];
    headers.extend_from_slice(RANGE.as_bytes());
    headers.extend_from_slice(&[0x0f, 0x10, 16]);
    headers.extend_from_slice(b"application/grpc");
    let call = [
        HTTP2_PREFACE,
        &http2_frame(4, 0, 0, &[]),
        &http2_frame(1, 4, 1, &headers),
        &http2_frame(0, 1, 1, &frame(&range("k"))),
    ]
    .concat();
    for _ in 0..500 {
        let mut mutated = call.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(HTTP2_PREFACE.len()..mutated.len());
            mutated[at] = random.random();
        }
        mutated.truncate(random.random_range(HTTP2_PREFACE.len()..=mutated.len()));
        throw(running.address, &mutated).await;
    }
    assert_alive(running.address).await;
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn random_messages_are_answered() {
    let running = start();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let paths = [
        RANGE,
        PUT,
        "/etcdserverpb.KV/Compact",
        "/etcdserverpb.Maintenance/Status",
        "/etcdserverpb.Cluster/MemberList",
        "/grpc.health.v1.Health/Check",
    ];
    let sender = connect(running.address).await;
    for _ in 0..500 {
        let mut message = vec![0; random.random_range(0..64)];
        random.fill(message.as_mut_slice());
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(message.len() as u32);
        body.put_slice(&message);
        let path = paths[random.random_range(0..paths.len())];
        let body = [body.freeze()];
        let call = exchange(&sender, grpc_request(path), &body);
        // A compaction that happens to be physical waits.
        let call = tokio::time::timeout(Duration::from_millis(500), call).await;
        if let Ok(reply) = call {
            reply.unwrap().grpc();
        }
    }
    assert_alive(running.address).await;
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let running = start();
    let sender = connect(running.address).await;
    let mut request = grpc_request(RANGE);
    let value = "x".repeat(limits::HEADER_LIST_BYTES as usize);
    request.headers_mut().insert("large", value.parse().unwrap());
    let reply = exchange(&sender, request, &[frame(&range("k"))]).await;
    assert!(!matches!(reply, Ok(reply) if reply.status == StatusCode::OK));
    assert_alive(running.address).await;
    running.server.stop(Duration::ZERO);
}

/// Connections that never say anything, connections that stop in the middle of their first bytes, and gRPC
/// connections without calls.
#[tokio::test]
async fn idle_connections_cost_little() {
    let running = start();
    let before = resident_kib();
    const EACH: usize = 300;
    let mut silent = Vec::new();
    let mut grpc = Vec::new();
    for number in 0..EACH {
        silent.push(TcpStream::connect(running.address).await.unwrap());
        let mut half = TcpStream::connect(running.address).await.unwrap();
        half.write_all(&HTTP2_PREFACE[..number % HTTP2_PREFACE.len()]).await.unwrap();
        silent.push(half);
        grpc.push(connect(running.address).await);
    }
    assert_alive(running.address).await;
    // The clients' ends are counted with them.
    let each_kib = resident_kib().saturating_sub(before) / (3 * EACH);
    assert!(each_kib < 100, "an idle connection costs {each_kib} KiB");
    for sender in &grpc {
        assert_eq!(
            exchange(sender, grpc_request(PUT), &[frame(&put("k", 1))]).await.unwrap().grpc(),
            (0, "")
        );
    }
    running.server.stop(Duration::ZERO);
}

/// A client asks for answers of a megabyte again and again, and reads none of them.
#[tokio::test]
async fn a_client_that_does_not_read_is_not_served_further() {
    let running = start();
    const ANSWER_BYTES: i64 = 1 << 20;
    let sender = connect(running.address).await;
    let request = pb::RangeRequest { limit: ANSWER_BYTES, ..range(KEY_THAT_IS_LARGE) };
    let mut responses = Vec::new();
    for _ in 0..200 {
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(grpc_request(RANGE), false).unwrap();
        stream.send_data(frame(&request), true).unwrap();
        responses.push(response);
    }
    let made = || running.fake.large_answers.load(Ordering::SeqCst);
    until("the first calls are answered", || made() > 0).await;
    assert_alive(running.address).await;
    // Calls that were begun together may all have been let in before the first of them was answered.
    let most = limits::UNREAD_ANSWERS_BYTES as u64 / ANSWER_BYTES as u64 + 2;
    assert!(made() <= most, "{} answers wait for a client that does not read", made());
    // When it reads, it gets everything, and still there are never many that wait.
    let readers: Vec<_> = responses
        .into_iter()
        .map(|response| tokio::spawn(async { collect(response.await.unwrap()).await.unwrap() }))
        .collect();
    for reader in readers {
        let reply = reader.await.unwrap();
        assert_eq!(reply.message::<pb::RangeResponse>().kvs[0].value.len(), ANSWER_BYTES as usize);
    }
    assert_eq!(made(), 200);
    running.server.stop(Duration::ZERO);
}

/// Messages that are announced and never sent take no memory, and keep nobody from being served.
#[tokio::test]
async fn promises_of_large_messages_cost_nothing() {
    let running = start();
    let before = resident_kib();
    let sender = connect(running.address).await;
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(grpc_request(PUT), false).unwrap();
        stream.send_data(Bytes::from_static(&[0, 0, 0x1f, 0xff, 0xff, 0]), false).unwrap();
        streams.push((response, stream));
    }
    assert_alive(running.address).await;
    assert_eq!(
        exchange(&sender, grpc_request(PUT), &[frame(&put("k", 1))]).await.unwrap().grpc(),
        (0, "")
    );
    let grown_kib = resident_kib().saturating_sub(before);
    assert!(grown_kib < 64 << 10, "1,000 promises of 2 MiB took {grown_kib} KiB");
    running.server.stop(Duration::ZERO);
}

/// Opens calls and gives them up at once, as fast as it can.
#[tokio::test]
async fn rapid_resets_are_survived() {
    let running = start();
    let sender = connect(running.address).await;
    for _ in 0..20_000 {
        let Ok(mut sender) = sender.clone().ready().await else { break };
        let Ok((_, mut stream)) = sender.send_request(grpc_request(PUT), false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
    }
    assert_alive(running.address).await;
    running.server.stop(Duration::ZERO);
}
