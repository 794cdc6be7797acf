//! Clients that mean no good. Whatever they do, the next client is served, and memory stays bounded.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tests::case::{Scene, Verdict};
use tests::client::within;
use tests::cluster::{Cluster, Plan};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;

use crate::raw;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection that says nonsense is listened to.
const PATIENCE: Duration = Duration::from_millis(100);
const NONSENSE_ROUNDS: usize = 60;
const MIB: u64 = 1 << 20;

/// Another client is served as if nothing were.
async fn still_serves(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.client(0);
    let asked = Instant::now();
    within(SERVED_WITHIN, client.put("still", "here")).await.context("a put afterwards")?;
    within(SERVED_WITHIN, client.get("still")).await.context("a get afterwards")?;
    let ended = cluster.members[0].ended()?;
    ensure!(ended.is_none(), "the member ended: {ended:?}");
    ensure!(asked.elapsed() < SERVED_WITHIN, "others are served slowly");
    let log = cluster.members[0].log();
    let panic = log.lines().find(|line| line.contains("panicked at"));
    ensure!(panic.is_none(), "the log tells of a panic: {panic:?}");
    Ok(())
}

/// Garbage at every level: TCP, HTTP/2 frames, gRPC frames, protobuf.
pub async fn bytes_that_are_no_message(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let address = cluster.members[0].address.clone();
    let mut random = StdRng::seed_from_u64(scene.seed);
    let mut garbage = |length| {
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        bytes
    };
    let mut sent = vec![
        b"".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /health HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat(),
        b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        H2_PREFACE.to_vec(),
        H2_PREFACE[..10].to_vec(),
    ];
    for _ in 0..NONSENSE_ROUNDS {
        sent.push(garbage(200));
        sent.push([H2_PREFACE, &garbage(300)].concat());
        // A settings frame, then a frame of a random kind with a random payload.
        let mut frame = [H2_PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        let payload = garbage(64);
        frame.extend([0, 0, 64, payload[0] % 12, payload[1], 0, 0, 0, payload[2] | 1]);
        frame.extend(payload);
        sent.push(frame);
    }
    for bytes in &sent {
        raw::exchange(&address, bytes, PATIENCE).await?;
    }
    still_serves(&mut cluster).await?;

    let paths = [
        "etcdserverpb.KV/Range",
        "etcdserverpb.KV/Put",
        "etcdserverpb.KV/Txn",
        "etcdserverpb.KV/DeleteRange",
        "etcdserverpb.KV/Compact",
        "etcdserverpb.Maintenance/HashKV",
        "etcdserverpb.Lease/LeaseGrant",
        "etcdserverpb.Lease/LeaseKeepAlive",
        "etcdserverpb.Lease/LeaseTimeToLive",
        "v3lockpb.Lock/Unlock",
        "v3electionpb.Election/Proclaim",
    ];
    for round in 0..NONSENSE_ROUNDS {
        for path in paths {
            let mut body = raw::framed(&garbage(1 + round)).to_vec();
            match round % 4 {
                0 => {}
                // The frame's length does not fit, or it says that it is compressed.
                1 => body[4] ^= 0x15,
                2 => body[1] = 0xff,
                _ => body[0] = 1,
            }
            let path = format!("/{path}");
            let answer = raw::grpc_answer(&address, &path, body.into());
            let answer = answer.await.with_context(|| format!("{path}, round {round}"))?;
            ensure!(round != 2 || !answer.starts_with("0 "), "{path} took a message of 4 GiB");
        }
    }
    let depth = deep_txn(5_000);
    let answer = raw::grpc_answer(&address, "/etcdserverpb.KV/Txn", raw::framed(&depth)).await?;
    scene.note(format!("a transaction 5,000 deep: {answer}"));
    ensure!(!answer.starts_with("0 "), "a transaction 5,000 deep was accepted");
    still_serves(&mut cluster).await?;
    Ok(Verdict::Passed)
}

/// A transaction in a transaction in a transaction, built from the inside.
fn deep_txn(depth: usize) -> Vec<u8> {
    let mut inner = Vec::new();
    for _ in 0..depth {
        // RequestOp { request_txn: inner } in TxnRequest { success }.
        for tag in [0x22, 0x12] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.extend(&inner);
            inner = outer;
        }
    }
    inner
}

/// Requests beyond the limits are refused with etcd's codes, many at once too, without holding memory.
pub async fn oversized_requests(scene: Scene) -> Result<Verdict> {
    const AT_ONCE: usize = 64;
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let mut refused = tokio::task::JoinSet::new();
    for at in 0..AT_ONCE {
        let client = cluster.client(0);
        let length = if at % 2 == 0 { 1_600_000 } else { 40_000_000 };
        refused.spawn(async move { client.put("big", &"v".repeat(length)).await.err() });
    }
    while let Some(status) = refused.join_next().await {
        let status = status?.context("an oversized put was accepted")?;
        // What is far too large may also have its stream reset while it is being sent.
        let allowed =
            [Code::InvalidArgument, Code::ResourceExhausted, Code::Internal, Code::Unknown];
        ensure!(allowed.contains(&status.code()), "refused with {status}");
    }
    let resident = cluster.members[0].resident_bytes()?;
    scene.note(format!("{} MiB resident after {AT_ONCE} oversized puts", resident / MIB));
    ensure!(!scene.is_instar() || resident < 600 * MIB, "memory is not bounded");
    still_serves(&mut cluster).await?;
    Ok(Verdict::Passed)
}

/// Idle connections, half of them silent, half having said that they speak HTTP/2.
pub async fn idle_connections(scene: Scene) -> Result<Verdict> {
    const WANTED: u64 = 10_000;
    /// Files that the process has open otherwise.
    const OTHER_FILES: u64 = 200;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit on files")?;
    let raised = hard.min(soft.max(WANTED + OTHER_FILES));
    setrlimit(Resource::RLIMIT_NOFILE, raised, hard).context("raise the limit on files")?;
    let count = WANTED.min(raised - OTHER_FILES);
    if count < WANTED {
        scene.note(format!("only {count} connections: the limit on open files is {raised}"));
    }
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    still_serves(&mut cluster).await?;
    let before = cluster.members[0].resident_bytes()?;
    let mut idle = Vec::new();
    for at in 0..count {
        let connected = TcpStream::connect(&cluster.members[0].address).await;
        let mut stream = connected.with_context(|| format!("connection {at}"))?;
        if at % 2 == 0 {
            stream.write_all(&[H2_PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat()).await?;
        }
        idle.push(stream);
    }
    still_serves(&mut cluster).await?;
    let after = cluster.members[0].resident_bytes()?;
    let each = after.saturating_sub(before) / count;
    scene.note(format!("{count} idle connections, {} KiB each", each / 1024));
    ensure!(!scene.is_instar() || each < 64 * 1024, "{each} bytes for each idle connection");
    drop(idle);
    still_serves(&mut cluster).await?;
    Ok(Verdict::Passed)
}

/// Clients that ask for much and read nothing.
pub async fn a_client_that_never_reads(scene: Scene) -> Result<Verdict> {
    const VALUE_BYTES: usize = 1_000_000;
    const VALUES: usize = 16;
    const CONNECTIONS: usize = 8;
    /// Answers worth 16 MB each.
    const REQUESTS: usize = 50;
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let client = cluster.client(0);
    for at in 0..VALUES {
        client.put(&format!("big/{at}"), &"v".repeat(VALUE_BYTES)).await?;
    }
    let before = cluster.members[0].resident_bytes()?;
    let address = cluster.members[0].address.clone();
    let body = raw::framed(&tests::client::prefix("big/").encode_to_vec());
    let mut held = Vec::new();
    for connection in 0..CONNECTIONS {
        let stream = connection % 2 == 0;
        let path = if stream { "/etcdserverpb.KV/RangeStream" } else { "/etcdserverpb.KV/Range" };
        let mut sender = raw::h2_connect(&address).await?.ready().await?;
        for _ in 0..REQUESTS {
            let Ok((response, mut body_stream)) =
                sender.send_request(raw::grpc_request(&address, path)?, false)
            else {
                break;
            };
            // A server may refuse more streams; what it took is enough.
            if body_stream.send_data(body.clone(), true).is_err() {
                break;
            }
            held.push((response, body_stream));
            sender = match within_patience(sender.ready()).await {
                Some(Ok(sender)) => sender,
                _ => break,
            };
        }
    }
    let asked = held.len();
    // And one that does not even read from its socket.
    let mut deaf = TcpStream::connect(&address).await?;
    let mut random = StdRng::seed_from_u64(scene.seed);
    let request =
        format!("GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", random.random::<u64>());
    let flood = Bytes::from(request.repeat(20_000));
    drop(tokio::time::timeout(Duration::from_secs(2), deaf.write_all(&flood)).await);

    for _ in 0..20 {
        still_serves(&mut cluster).await?;
    }
    let after = cluster.members[0].resident_bytes()?;
    scene.note(format!(
        "{asked} answers of 16 MB asked for and not read: {} MiB resident, {} before",
        after / MIB,
        before / MIB
    ));
    ensure!(!scene.is_instar() || after < before + 1500 * MIB, "memory is not bounded");
    drop(held);
    still_serves(&mut cluster).await?;
    Ok(Verdict::Passed)
}

async fn within_patience<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, future).await.ok()
}
