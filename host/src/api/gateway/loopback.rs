//! The gateway's connection to the gRPC server of this process: HTTP/2 through memory, one for each client's connection,
//! so that what bounds one client's calls bounds them here as well.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Mutex;

use super::super::connection;
use super::super::coordinator::Coordinator;
use super::super::grpc::Service;
use super::super::status::{Code, Status};
use crate::limits;

/// A connection that is made when it is first used.
pub(in super::super) struct Loopback<C> {
    service: Arc<Service<C>>,
    sender: Mutex<Option<SendRequest<Bytes>>>,
}

impl<C: Coordinator> Loopback<C> {
    pub(in super::super) fn new(service: Arc<Service<C>>) -> Loopback<C> {
        Loopback { service, sender: Mutex::new(None) }
    }

    /// A handle that can take a request.
    ///
    /// # Errors
    /// A server that stops.
    pub(super) async fn sender(&self) -> Result<SendRequest<Bytes>, Status> {
        let mut sender = self.sender.lock().await;
        if let Some(open) = sender.clone()
            && let Ok(ready) = open.ready().await
        {
            return Ok(ready);
        }
        let unavailable = |error: h2::Error| Status::new(Code::Unavailable, error.to_string());
        let (ours, theirs) = tokio::io::duplex(limits::GATEWAY_PIPE_BYTES);
        let stopping = self.service.stopping.clone();
        tokio::spawn(connection::serve_http2(self.service.clone(), theirs, stopping));
        let (made, connection) = h2::client::handshake(ours).await.map_err(unavailable)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the gateway's own connection broke");
            }
        });
        let ready = made.ready().await.map_err(unavailable)?;
        *sender = Some(ready.clone());
        Ok(ready)
    }
}
