//! Streams in both directions: over HTTP/2, and within the process.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc};

use super::super::call::{Gone, Responder};
use super::super::status::Status;
use super::super::streams::{InProcessSink, Requests, Responses};
use super::super::unread::Unread;
use super::super::wire::Frame;
use super::*;
use crate::limits;

/// Answers every request with `times` copies of it.
async fn echo(
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
    times: usize,
) -> Result<Result<(), Status>, Gone> {
    loop {
        tokio::select! {
            room = responses.drive() => room?,
            request = requests.next(), if responses.has_room() => match request {
                Ok(Some(request)) => (0..times).for_each(|_| responses.push(Frame::plain(request.clone()))),
                Ok(None) => break responses.flush().await.map(Ok),
                Err(status) => break Ok(Err(status)),
            }
        }
    }
}

/// A client of a server that echoes on every stream.
async fn echoing(times: usize) -> SendRequest<Bytes> {
    let (near, far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(limits::CALL_WINDOW_BYTES);
        builder.initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES);
        let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
        while let Some(Ok((request, response))) = connection.accept().await {
            tokio::spawn(async move {
                let (unread, large) = (Unread::new(), Semaphore::new(4 << 10));
                let mut responder = Responder::new(response, &unread);
                let mut requests = Requests::http2(request.into_body(), 2 << 20, &large);
                let mut responses = Responses::new(&mut responder);
                match echo(&mut requests, &mut responses, times).await {
                    Ok(result) => responder.finish(result),
                    Err(Gone) => responder.reset(),
                }
            });
        }
    });
    // One stream that is not read must not use up the client's window for all.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let (client, connection) = builder.handshake(near).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn open(client: &SendRequest<Bytes>) -> (SendStream<Bytes>, h2::client::ResponseFuture) {
    let mut client = client.clone().ready().await.unwrap();
    let request = Request::post("http://server/Echo").body(()).unwrap();
    let (response, stream) = client.send_request(request, false).unwrap();
    (stream, response)
}

fn message(byte: u8, bytes: usize) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(bytes as u32);
    out.put_bytes(byte, bytes);
    out.freeze()
}

async fn read_exactly(body: &mut RecvStream, bytes: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < bytes {
        let chunk = body.data().await.expect("more bytes").unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        read.extend_from_slice(&chunk);
    }
    assert_eq!(read.len(), bytes);
    read
}

#[tokio::test]
async fn messages_go_both_ways_however_they_are_cut() {
    let client = echoing(1).await;
    let (mut stream, response) = open(&client).await;
    let sent = [message(1, 0), message(2, 7), message(3, 300 << 10), message(4, 40)].concat();
    let sending = {
        let sent = Bytes::from(sent.clone());
        tokio::spawn(async move {
            let cuts = [1, 3, 4, 9, 70_000, sent.len()];
            for (from, to) in [0].iter().chain(&cuts).zip(&cuts) {
                stream.send_data(sent.slice(*from..*to), false).unwrap();
                tokio::task::yield_now().await;
            }
            stream
        })
    };
    let mut body = response.await.unwrap().into_body();
    assert!(read_exactly(&mut body, sent.len()).await == sent);
    let mut stream = sending.await.unwrap();
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn what_is_no_message_ends_the_stream_in_grpcs_words() {
    let client = echoing(1).await;
    for (sent, status, text) in [
        (
            &b"\x00\x00\x20\x00\x01"[..],
            "8",
            "grpc: received message larger than max (2097153 vs. 2097152)",
        ),
        (
            b"\x01\x00\x00\x00\x00",
            "13",
            "grpc: compressed flag set with identity or empty encoding",
        ),
        (b"\x00\x00\x00\x00\x02a", "2", "unexpected EOF"),
    ] {
        let (mut stream, response) = open(&client).await;
        stream.send_data(Bytes::from_static(sent), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["grpc-status"], status);
        assert_eq!(response.headers()["grpc-message"], text);
    }
}

/// A client that does not read is not listened to either: what is under way to it is bounded. Others go on.
#[tokio::test]
async fn a_reader_that_stops_holds_up_its_own_stream_only() {
    let client = echoing(100).await;
    let (mut slow, _not_read) = open(&client).await;
    let flood = message(9, 1000);
    let mut taken = 0;
    let full = async {
        loop {
            slow.reserve_capacity(flood.len());
            let enough = poll_fn(|cx| match slow.capacity() >= flood.len() {
                true => Poll::Ready(()),
                false => slow.poll_capacity(cx).map(drop),
            });
            enough.await;
            if slow.capacity() >= flood.len() {
                slow.send_data(flood.clone(), false).unwrap();
                taken += flood.len();
            }
        }
    };
    let mut full = pin!(full);
    let (mut quick, response) = open(&client).await;
    quick.send_data(message(1, 10), false).unwrap();
    let mut body = tokio::select! {
        () = &mut full => unreachable!(),
        response = response => response.unwrap().into_body(),
    };
    for round in 0..50 {
        let echoed = tokio::select! {
            () = &mut full => unreachable!(),
            echoed = read_exactly(&mut body, 1500) => echoed,
        };
        assert_eq!(echoed, message(1, 10).repeat(100), "{round}");
        quick.send_data(message(1, 10), false).unwrap();
    }
    let most = 2 * limits::CALL_WINDOW_BYTES as usize + limits::STREAM_QUEUE_BYTES;
    assert!(taken <= most, "{taken} bytes were taken from a client that reads none");
}

/// The service does not see whether its client is another part of the process.
#[tokio::test]
async fn the_same_service_serves_the_process_itself() {
    let (to_service, messages) = mpsc::channel(1);
    let (sender, mut from_service) = mpsc::channel(1);
    let service = tokio::spawn(async move {
        let mut sink = InProcessSink::new(sender);
        let mut requests = Requests::in_process(messages);
        echo(&mut requests, &mut Responses::new(&mut sink), 2).await
    });
    for text in ["one", "two"] {
        to_service.send(Bytes::from(text)).await.unwrap();
        assert_eq!(from_service.recv().await.unwrap(), text);
        assert_eq!(from_service.recv().await.unwrap(), text);
    }
    drop(from_service);
    assert_eq!(service.await.unwrap().err(), Some(Gone));
    assert!(to_service.is_closed());
}
