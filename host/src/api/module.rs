//! The Module service: programs of the operator's own beside the data, over gRPC, and their calls over HTTP.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method as HttpMethod, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use prost::Message;
use proto::instar::v1 as pb;
use sha2::{Digest, Sha256};

use super::call::Gone;
use super::coordinator::{Coordinator, ModuleRequest};
use super::gateway;
use super::grpc::{Method, Service, check_metadata};
use super::http1::{Answer, JSON, answer};
use super::kv::decode;
use super::machine::{check_right, receive};
use super::services::only_request;
use super::status::{Code, Status};
use super::streams::{Requests, Responses};
use super::wire::Frame;
use crate::limits;
use crate::runtime::{Export, Line, Page, Work};

pub(super) async fn unary<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    check_metadata(service.coordinator.standing(), headers, false)?;
    let request = match method {
        Method::ModuleCall => {
            let response = call(service, decode(message)?).await?;
            return Ok(Frame::plain(response.encode_to_vec().into()));
        }
        Method::ModuleActivate => {
            check_right(service)?;
            let pb::ActivateModuleRequest { name, digest, grants } = decode(message)?;
            ModuleRequest::Activate { name, digest, grants }
        }
        Method::ModuleDisable => {
            check_right(service)?;
            ModuleRequest::Disable { name: decode::<pb::DisableModuleRequest>(message)?.name }
        }
        Method::ModuleStatistics => {
            let statistics = statistics(service);
            return Ok(Frame::plain(statistics.encode_to_vec().into()));
        }
        _ => ModuleRequest::List,
    };
    let modules = service.coordinator.module(request).await?;
    Ok(Frame::plain(modules.encode_to_vec().into()))
}

/// Module.Put: one answer once the whole component is in the state.
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
    let modules = match service.coordinator.module(ModuleRequest::Put(component)).await {
        Ok(modules) => modules,
        Err(error) => return Ok(Err(error.into())),
    };
    let response = pb::PutModuleResponse { digest, modules: Some(modules) };
    responses.send(Frame::plain(response.encode_to_vec().into())).await?;
    Ok(Ok(()))
}

fn statistics<C: Coordinator>(service: &Service<C>) -> pb::ModuleStatistics {
    let works = service.coordinator.module_journal().map(|journal| journal.works());
    let work = |(name, export, work): (String, Export, Work)| pb::ModuleWork {
        name,
        export: export.name().to_owned(),
        runs: work.runs,
        failures: work.failures,
        fuel: work.fuel,
        time_us: u64::try_from(work.time.as_micros()).unwrap_or(u64::MAX),
    };
    pb::ModuleStatistics { works: works.unwrap_or_default().into_iter().map(work).collect() }
}

/// Module.Logs: the lines that are kept, and then those that come.
pub(super) async fn logs<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
) -> Result<Result<(), Status>, Gone> {
    let checked = only_request::<pb::ModuleLogsRequest>(requests).await.and_then(|request| {
        check_metadata(service.coordinator.standing(), headers, false)?;
        Ok(request)
    });
    let request = match checked {
        Ok(request) => request,
        Err(status) => return Ok(Err(status)),
    };
    let Some(journal) = service.coordinator.module_journal() else { return Ok(Ok(())) };
    let mut grown = journal.subscribe();
    let all = u64::from(request.tail).checked_sub(1).map_or(u64::MAX, |tail| tail + 1);
    let mut from = journal.tail(&request.name, all);
    loop {
        grown.mark_unchanged();
        let page = journal.lines(&request.name, from, limits::MODULE_LOG_PAGE_LINES);
        from = page.next;
        if !page.lines.is_empty() {
            responses.send(Frame::plain(lines(page).encode_to_vec().into())).await?;
            continue;
        }
        if !request.follow {
            return Ok(Ok(()));
        }
        tokio::select! {
            // The journal lives as long as the server.
            _ = grown.changed() => {}
            driven = responses.drive() => driven?,
        }
    }
}

fn lines(page: Page) -> pb::ModuleLogLines {
    let line = |line: Line| pb::ModuleLogLine {
        level: line.level.to_owned(),
        text: line.text,
        index: line.index,
    };
    pb::ModuleLogLines { lines: page.lines.into_iter().map(line).collect(), dropped: page.dropped }
}

async fn call<C: Coordinator>(
    service: &Service<C>,
    request: pb::CallModuleRequest,
) -> Result<pb::CallModuleResponse, Status> {
    if request.procedure.len() > limits::MODULE_PROCEDURE_BYTES {
        let limit = limits::MODULE_PROCEDURE_BYTES;
        let message = format!("instar: a procedure's name has {limit} bytes at most");
        return Err(Status::new(Code::InvalidArgument, message));
    }
    Ok(service.coordinator.call_module(request).await?)
}

/// `POST /instar/v1/modules/<name>/<procedure>`: the body is the argument, and the answer's body the result.
pub(super) async fn serve_http<C: Coordinator>(
    service: &Arc<Service<C>>,
    path: &str,
    request: Request<Incoming>,
) -> Answer {
    let Some((name, procedure)) = path.split_once('/') else {
        return gateway::refuse(&Status::new(Code::NotFound, "Not Found"));
    };
    if request.method() != HttpMethod::POST {
        return gateway::refuse(&Status::new(Code::Unimplemented, "Method Not Allowed"));
    }
    let served = async {
        check_metadata(service.coordinator.standing(), &HeaderMap::new(), false)?;
        let most_bytes = service.settings.max_request_bytes as usize;
        let body = Limited::new(request.into_body(), most_bytes).collect();
        let body = tokio::time::timeout(limits::RECEIVE_STALL, body).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => {
                let message = "instar: the argument is too large, or was cut off";
                return Err(Status::new(Code::InvalidArgument, message));
            }
            Err(_) => {
                let message = "instar: the argument took too long to arrive";
                return Err(Status::new(Code::DeadlineExceeded, message));
            }
        };
        let (name, procedure) = (name.to_owned(), procedure.to_owned());
        call(service, pb::CallModuleRequest { name, procedure, argument: body }).await
    };
    match served.await {
        Ok(response) => answer(StatusCode::OK, JSON, response.result),
        Err(status) => gateway::refuse(&status),
    }
}
