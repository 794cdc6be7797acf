//! Where and how clients are served: configuration files, further listeners, unix sockets, keep-alive.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::case::{Scene, Verdict};
use tests::cluster::{Plan, Program, etcd_programs, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::raw;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A member that has everything from a file serves gRPC, HTTP and metrics where the file says.
pub async fn a_file_and_its_listeners(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).prepare()?;
    let member = &mut cluster.members[0];
    let (http, metrics, peer) = (free_port(), free_port(), free_port());
    let file = scene.directory.join("etcd.yaml");
    let text = format!(
        "name: m0\n\
         data-dir: {}\n\
         listen-client-urls: http://{client}\n\
         advertise-client-urls: http://{client}\n\
         listen-client-http-urls: http://127.0.0.1:{http}\n\
         listen-metrics-urls: http://127.0.0.1:{metrics}\n\
         listen-peer-urls: http://127.0.0.1:{peer}\n\
         initial-advertise-peer-urls: http://127.0.0.1:{peer}\n\
         initial-cluster: m0=http://127.0.0.1:{peer}\n\
         initial-cluster-token: 't'\n\
         heartbeat-interval: 100\n\
         grpc-keepalive-min-time: 5000000000\n\
         log-outputs: [stderr]\n\
         proxy: 'off'\n\
         client-transport-security:\n  cert-file:\n  auto-tls: false\n",
        member.data_directory.display(),
        client = member.address,
    );
    std::fs::write(&file, text)?;
    member.flags = vec![format!("--config-file={}", file.display()), "--name=ignored".into()];
    member.start().await?;
    member.client().put("k", "v").await?;
    let (http, metrics) = (format!("127.0.0.1:{http}"), format!("127.0.0.1:{metrics}"));
    let status = async |address: &str, path: &str| -> Result<String> {
        Ok(raw::http(address, "GET", path).await?.status)
    };
    for (address, path, wanted) in [
        (&http, "/version", "200"),
        (&http, "/health", "200"),
        (&http, "/metrics", "200"),
        (&metrics, "/metrics", "200"),
        (&metrics, "/health", "200"),
        (&metrics, "/readyz", "200"),
        (&metrics, "/version", "404"),
        (&metrics, "/debug/vars", "404"),
        (&metrics, "/v3/kv/range", "404"),
    ] {
        let told = status(address, path).await?;
        ensure!(told == wanted, "{path} is {told}, not {wanted}");
    }
    // The client port is for gRPC only now, and the others are not.
    ensure!(status(&member.address, "/health").await.is_err(), "HTTP on the port for gRPC");
    let empty = raw::framed(&[]);
    let told = raw::grpc_answer(&http, "/etcdserverpb.KV/Range", empty).await?;
    ensure!(told.starts_with("broken off"), "gRPC on the port for HTTP: {told}");
    Ok(Verdict::Passed)
}

/// A unix socket serves gRPC and HTTP, and its file is gone afterwards.
pub async fn a_unix_socket(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).prepare()?;
    let member = &mut cluster.members[0];
    let path = scene.directory.join("socket");
    let tcp = format!("http://{}", member.address);
    member.flags.push(format!("--listen-client-urls={tcp},unix://{}", path.display()));
    member.start().await?;
    let mut stream = UnixStream::connect(&path).await.context("connect")?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    tokio::time::timeout(ANSWER_WITHIN, stream.read_to_string(&mut answer)).await??;
    ensure!(answer.ends_with(r#"{"health":"true","reason":""}"#), "{answer}");
    let stream = UnixStream::connect(&path).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(async move { drop(connection.await) });
    let request = raw::grpc_request("localhost", "/etcdserverpb.Maintenance/Status")?;
    let (response, mut body) = sender.ready().await?.send_request(request, false)?;
    body.send_data(raw::framed(&[]), true)?;
    ensure!(response.await?.status() == 200, "gRPC on a unix socket");
    member.terminate().await?;
    // etcd leaves the file behind.
    ensure!(!scene.is_instar() || !path.exists(), "the socket's file is left behind");
    Ok(Verdict::Passed)
}

/// What a connection is told after so many pings at once, without a call.
async fn after_pings(address: &str, pings: usize) -> Result<Vec<u8>> {
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(b"\0\0\0\x04\0\0\0\0\0");
    for _ in 0..pings {
        sent.extend(b"\0\0\x08\x06\0\0\0\0\0pingping");
    }
    raw::exchange(address, &sent, Duration::from_secs(2)).await
}

/// A client that pings too often is told so, as by etcd, and not before.
pub async fn too_many_pings(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    for (program, name) in [(Program::Etcd, "etcd"), (scene.subject, "subject")] {
        let cluster = Plan::new(program, 1, &scene.directory.join(name)).start().await?;
        let address = &cluster.members[0].address;
        let said = |answer: &[u8]| answer.windows(14).any(|part| part == b"too_many_pings");
        ensure!(!said(&after_pings(address, 3).await?), "{name}: three pings are forgiven");
        let answer = after_pings(address, 4).await?;
        ensure!(said(&answer), "{name}: four pings are too many: {answer:?}");
        // ENHANCE_YOUR_CALM, as the error code in front of the text.
        ensure!(answer.ends_with(b"\0\0\0\x0btoo_many_pings"), "{name}: {answer:?}");
    }
    Ok(Verdict::Passed)
}
