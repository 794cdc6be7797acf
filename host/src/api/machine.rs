//! The Machine service: which state machine runs, and how another one takes its place.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use prost::Message;
use proto::instar::v1 as pb;
use sha2::{Digest, Sha256};

use super::call::Gone;
use super::coordinator::{Coordinator, MachineRequest};
use super::grpc::{Method, Service, check_metadata};
use super::kv::{decode, decode_streamed};
use super::services::only_request;
use super::status::{Code, Status};
use super::streams::{Requests, Responses};
use super::wire::Frame;
use crate::limits;

/// Whoever may replace the machine may do anything to the data.
pub(super) fn check_right<C>(service: &Service<C>) -> Result<(), Status> {
    if service.settings.machine_upgrades {
        return Ok(());
    }
    let message = "instar: this member serves clients on public addresses, where anybody could replace the machine: \
                   start the members with --machine-upgrades to allow it";
    Err(Status::new(Code::PermissionDenied, message))
}

pub(super) async fn unary<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let request = match method {
        Method::MachinePrepare => {
            MachineRequest::Prepare(decode::<pb::PrepareRequest>(message)?.digest)
        }
        Method::MachineActivate => {
            let pb::ActivateRequest { digest, expected_active } = decode(message)?;
            MachineRequest::Activate { digest, expected_active }
        }
        Method::MachineRollback => {
            let pb::RollbackRequest { expected_active } = decode(message)?;
            MachineRequest::Rollback { expected_active }
        }
        Method::MachineFinalise => {
            let pb::FinaliseRequest { expected_active } = decode(message)?;
            MachineRequest::Finalise { expected_active }
        }
        _ => MachineRequest::List,
    };
    check_metadata(service.coordinator.standing(), headers, false)?;
    let changes = [Method::MachineActivate, Method::MachineRollback, Method::MachineFinalise];
    if changes.contains(&method) {
        check_right(service)?;
    }
    let machines = service.coordinator.machine(request).await?;
    Ok(Frame::plain(machines.encode_to_vec().into()))
}

/// Machine.Put: one answer once the whole component is in the state.
pub(super) async fn put<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
) -> Result<Result<(), Status>, Gone> {
    let component = match receive(service, headers, requests).await {
        Ok(component) => component,
        Err(status) => return Ok(Err(status)),
    };
    let digest = Bytes::copy_from_slice(&Sha256::digest(&component));
    let machines = match service.coordinator.machine(MachineRequest::Put(component)).await {
        Ok(machines) => machines,
        Err(error) => return Ok(Err(error.into())),
    };
    let response = pb::PutResponse { digest, machines: Some(machines) };
    responses.send(Frame::plain(response.encode_to_vec().into())).await?;
    Ok(Ok(()))
}

/// Machine.Shadow: how a rehearsal stands, again and again, and at last how it went. It ends with the call.
pub(super) async fn shadow<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
) -> Result<Result<(), Status>, Gone> {
    let checked = only_request::<pb::ShadowRequest>(requests).await.and_then(|request| {
        check_metadata(service.coordinator.standing(), headers, false)?;
        check_right(service).map(|()| request)
    });
    let request = match checked {
        Ok(request) => request,
        Err(status) => return Ok(Err(status)),
    };
    let mut reports = match service.coordinator.shadow(request).await {
        Ok(reports) => reports,
        Err(error) => return Ok(Err(error.into())),
    };
    loop {
        tokio::select! {
            report = reports.recv(), if responses.has_room() => match report {
                Some(report) => responses.push(Frame::plain(report.encode_to_vec().into())),
                None => return Ok(Ok(())),
            },
            driven = responses.drive() => driven?,
        }
    }
}

/// A component as it comes in, piece by piece, from someone who may bring one.
pub(super) async fn receive<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    requests: &mut Requests<'_>,
) -> Result<Bytes, Status> {
    check_metadata(service.coordinator.standing(), headers, false)?;
    check_right(service)?;
    let mut component = BytesMut::new();
    while let Some(message) = requests.next().await? {
        // A piece of a module's component is the same message.
        component.extend_from_slice(&decode_streamed::<pb::PutRequest>(&message)?.data);
        if component.len() > limits::COMPONENT_BYTES {
            let limit = limits::COMPONENT_BYTES;
            let message = format!("instar: the component has more than the {limit} bytes allowed");
            return Err(Status::new(Code::InvalidArgument, message));
        }
    }
    Ok(component.freeze())
}
