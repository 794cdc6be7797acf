//! HTTP/1.1, byte for byte. The expected texts are what etcd 3.7.1 answered.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::AlarmKind;
use super::*;

/// Status line, headers without those that say when and how long, and body.
async fn get(address: SocketAddr, method: &str, target: &str) -> (String, Vec<String>, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap();
    let skipped = ["Date:", "Content-Length:", "Connection:", "Access-Control-"];
    let mut headers: Vec<String> =
        lines.filter(|line| !skipped.iter().any(|prefix| line.starts_with(prefix))).collect();
    headers.sort();
    (status, headers, body.to_owned())
}

const OK: &str = "HTTP/1.1 200 OK";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";
const TEXT: &str = "Content-Type: text/plain; charset=utf-8";
const NOSNIFF: &str = "X-Content-Type-Options: nosniff";

#[tokio::test]
async fn a_healthy_member_says_so() {
    let running = start();
    let health = "{\"health\":\"true\",\"reason\":\"\"}";
    let versions = "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}";
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    let some = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n";
    for (target, headers, body) in [
        ("/health", &[TEXT][..], health),
        ("/health?serializable=true&exclude=NOSPACE", &[TEXT], health),
        ("/livez", &[TEXT, NOSNIFF], "ok\n"),
        ("/livez?verbose", &[TEXT, NOSNIFF], "[+]serializable_read ok\nok\n"),
        ("/livez/serializable_read?verbose", &[TEXT, NOSNIFF], "[+]serializable_read ok\nok\n"),
        ("/readyz", &[TEXT, NOSNIFF], "ok\n"),
        ("/readyz?verbose", &[TEXT, NOSNIFF], all),
        ("/readyz?verbose&exclude=non_learner&exclude=foo", &[TEXT, NOSNIFF], some),
        ("/readyz/data_corruption", &[TEXT, NOSNIFF], "ok\n"),
        ("/version", &["Content-Type: application/json"], versions),
    ] {
        let answer = get(running.address, "GET", target).await;
        assert_eq!(
            answer,
            (OK.to_owned(), headers.iter().map(|h| h.to_string()).collect(), body.to_owned()),
            "{target}"
        );
    }
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let running = start();
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/foo"),
        ("GET", "/livez/foo"),
        ("GET", "/health/"),
        ("POST", "/etcdserverpb.KV/Range"),
    ] {
        let (status, headers, body) = get(running.address, method, target).await;
        assert_eq!(status, "HTTP/1.1 404 Not Found", "{target}");
        assert_eq!(
            (headers, body.as_str()),
            (vec![TEXT.to_owned(), NOSNIFF.to_owned()], "404 page not found\n")
        );
    }
    for (method, target) in
        [("POST", "/health"), ("PUT", "/version"), ("POST", "/readyz"), ("HEAD", "/livez")]
    {
        let (status, headers, body) = get(running.address, method, target).await;
        assert_eq!(status, "HTTP/1.1 405 Method Not Allowed", "{target}");
        assert_eq!(headers, ["Allow: GET", TEXT, NOSNIFF]);
        assert_eq!(body, if method == "HEAD" { "" } else { "Method Not Allowed\n" });
    }
    let answer = get(running.address, "OPTIONS", "/foo").await;
    assert_eq!(answer, (OK.to_owned(), Vec::new(), String::new()));
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_sick_member_says_why() {
    let running = start();
    running.fake.has_no_leader.store(true, Ordering::SeqCst);
    let (status, headers, body) = get(running.address, "GET", "/health").await;
    assert_eq!(
        (status.as_str(), headers),
        (UNAVAILABLE, vec![TEXT.to_owned(), NOSNIFF.to_owned()])
    );
    assert_eq!(body, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n");
    assert_eq!(get(running.address, "GET", "/health?serializable=true").await.0, OK);
    assert_eq!(get(running.address, "GET", "/livez").await.0, OK);
    let (status, _, body) = get(running.address, "GET", "/readyz").await;
    assert_eq!(status, UNAVAILABLE);
    assert_eq!(
        body,
        "[+]data_corruption ok\n[+]serializable_read ok\n\
         [-]linearizable_read failed: etcdserver: no leader\n[+]non_learner ok\n\n"
    );
    assert_eq!(get(running.address, "GET", "/readyz?exclude=linearizable_read").await.0, OK);

    *running.fake.alarm.lock().unwrap() = Some(Alarm { member_id: 1, kind: AlarmKind::Corrupt });
    let (_, _, body) = get(running.address, "GET", "/health").await;
    assert_eq!(body, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n");
    assert_eq!(
        get(running.address, "GET", "/health?serializable=true&exclude=CORRUPT").await.0,
        OK
    );
    let (_, _, body) = get(running.address, "GET", "/readyz/data_corruption").await;
    assert_eq!(body, "[-]data_corruption failed: alarm activated: CORRUPT\n\n");
    running.fake.is_learner.store(true, Ordering::SeqCst);
    let (_, _, body) = get(running.address, "GET", "/readyz/non_learner").await;
    assert_eq!(body, "[-]non_learner failed: not supported for learner\n\n");
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_connection_serves_more_than_one_request() {
    let running = start();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut answer = vec![0; 4096];
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let bytes = stream.read(&mut answer).await.unwrap();
        assert!(answer[..bytes].starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(answer[..bytes].ends_with(b"\r\n\r\nok\n"));
    }
    running.server.stop(Duration::from_secs(5));
    assert_eq!(stream.read(&mut answer).await.unwrap(), 0, "the idle connection is closed");
}
