//! A server that does no work: it answers every request with the same bytes from one thread, on `h2`.
//!
//! Measured like any program (`--program floor`) it shows what the generator itself costs and how much it
//! can ask for, so that a reader knows which differences the generator could hide. It keeps nothing, so
//! only puts and gets of one key make sense against it.

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use proto::etcdserverpb::{PutResponse, RangeResponse, ResponseHeader, StatusResponse};
use proto::mvccpb::KeyValue;
use tokio::net::{TcpListener, TcpStream};

use super::error::BenchError;
use super::grpc::{PUT, RANGE, STATUS};
use super::message::{VALUE_BYTES, framed, key};

/// Serves on a port of 127.0.0.1 until the process is killed.
pub fn serve(port: u16) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(BenchError::io("start a runtime"))?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.map_err(BenchError::io(format!("listen on port {port}")))?;
        loop {
            let accepted = listener.accept().await;
            let (socket, _) = accepted.map_err(BenchError::io("accept a connection"))?;
            // A connection that ends, in whatever way, concerns its client alone.
            tokio::spawn(async move { drop(answer_all(socket).await) });
        }
    })
}

async fn answer_all(socket: TcpStream) -> Result<(), h2::Error> {
    if socket.set_nodelay(true).is_err() {
        return Ok(());
    }
    let mut connection = h2::server::handshake(socket).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, response) = accepted?;
        let answer = canned(request.uri().path());
        tokio::spawn(async move { drop(answer_one(request, response, answer).await) });
    }
    Ok(())
}

async fn answer_one(
    request: Request<h2::RecvStream>,
    mut response: SendResponse<Bytes>,
    answer: Option<Bytes>,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    let status = if answer.is_some() { "0" } else { "12" };
    let mut head = Response::new(());
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert("content-type", grpc);
    let mut stream = response.send_response(head, false)?;
    if let Some(answer) = answer {
        stream.send_data(answer, false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    stream.send_trailers(trailers)
}

/// The framed answer to a method; none for one that this server does not know.
fn canned(path: &str) -> Option<Bytes> {
    let header = ResponseHeader { member_id: 1, revision: 2, raft_term: 1, ..Default::default() };
    let header = Some(header);
    match path {
        PUT => Some(framed(&PutResponse { header, ..Default::default() })),
        RANGE => {
            let value = vec![0; VALUE_BYTES].into();
            let kvs = vec![KeyValue { key: key(0), value, ..Default::default() }];
            Some(framed(&RangeResponse { header, kvs, count: 1, ..Default::default() }))
        }
        STATUS => Some(framed(&StatusResponse { header, leader: 1, ..Default::default() })),
        _ => None,
    }
}
