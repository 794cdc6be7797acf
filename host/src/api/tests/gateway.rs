//! The gateway over real sockets: plain requests, streams that fail, websockets.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message as WebsocketMessage;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;

/// Status and body of a POST.
async fn post(address: SocketAddr, path: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split_whitespace().nth(1).unwrap().to_owned(), body.to_owned())
}

const HEADER: &str = r#"{"cluster_id":"193","member_id":"161","revision":"1","raft_term":"2"}"#;

#[tokio::test]
async fn requests_reach_the_services() {
    let running = start();
    let json = r#"{"key":"Zm9v","value":"YmFy"}"#;
    let told = post(running.address, "/v3/kv/put", json).await;
    assert_eq!(told, ("200".to_owned(), format!("{{\"header\":{HEADER}}}")));
    let (status, body) = post(running.address, "/v3beta/kv/range", r#"{"key":"Zm9v"}"#).await;
    let kvs = r#"[{"key":"Zm9v","value":"dmFsdWU="}]"#;
    assert_eq!(body, format!("{{\"header\":{HEADER},\"kvs\":{kvs},\"count\":\"1\"}}"));
    assert_eq!(status, "200");
    for (path, body, status, told) in [
        ("/v3/kv/range", "", "400", r#"{"code":3,"message":"etcdserver: key is not provided"}"#),
        ("/v3/kv/range", "{\"key\":", "400", r#"{"code":3,"message":"unexpected EOF"}"#),
        ("/v3/nothing", "{}", "404", r#"{"code":5,"message":"Not Found"}"#),
    ] {
        let answer = post(running.address, path, body).await;
        assert_eq!(answer, (status.to_owned(), told.to_owned()), "{path} {body}");
    }
    running.fake.has_no_leader.store(true, Ordering::SeqCst);
    let told = post(running.address, "/v3/kv/put", json).await;
    let body = r#"{"code":14,"message":"etcdserver: no leader"}"#;
    assert_eq!(told, ("503".to_owned(), body.to_owned()));
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_call_ends_when_its_client_goes_away() {
    let running = start();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    // The key of which the answer waits.
    let body = r#"{"key":"d2FpdA=="}"#;
    let request = format!(
        "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    until("the call waits", || running.fake.waiting.load(Ordering::SeqCst) == 1).await;
    drop(stream);
    until("the call is dropped", || running.fake.dropped.load(Ordering::SeqCst) == 1).await;
    running.server.stop(Duration::ZERO);
}

#[tokio::test]
async fn websockets_carry_requests_and_answers() {
    let running = start();
    let stream = TcpStream::connect(running.address).await.unwrap();
    let url = format!("ws://{}/v3/kv/range", running.address);
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "Bearer, token".parse().unwrap());
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "Bearer");
    socket.send(WebsocketMessage::text(r#"{"key":"Zm9v"}"#)).await.unwrap();
    let told = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(told.contains(r#""kvs":[{"key":"Zm9v","value":"dmFsdWU="}]"#), "{told}");
    // A unary call has one answer, and then it is over.
    assert!(!matches!(socket.next().await, Some(Ok(WebsocketMessage::Text(_)))));
    running.server.stop(Duration::ZERO);
}
