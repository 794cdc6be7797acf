//! `lease grant`, `revoke`, `timetolive`, `list` and `keep-alive`.

use std::time::Duration;

use proto::etcdserverpb as pb;

use super::{ask, connect, connect_to_stay};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::{self, Failure};
use crate::go;
use crate::output::{Answer, Format, line};

/// How often a lease is renewed: this part of its time.
const RENEWALS_A_LEASE: u32 = 3;
const RENEW_EVERY_LEAST: Duration = Duration::from_millis(500);

pub async fn grant(mut invocation: Invocation) -> Result<(), Failure> {
    let [ttl] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments("lease grant command needs TTL argument"));
    };
    let ttl =
        go::parse_signed(ttl, 10).map_err(|why| Failure::arguments(format!("bad TTL ({why})")))?;
    let (client, output) = connect(&mut invocation).await?;
    let response = ask!(client, Never, lease.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }));
    let response =
        response.map_err(|failure| failure.map(|why| format!("failed to grant lease ({why})")))?;
    output.print(&Answer::Grant(response))
}

pub async fn revoke(mut invocation: Invocation) -> Result<(), Failure> {
    let id = id(&invocation, "lease revoke command needs 1 argument")?;
    let (client, output) = connect(&mut invocation).await?;
    let response = ask!(client, Never, lease.lease_revoke(pb::LeaseRevokeRequest { id }));
    let response =
        response.map_err(|failure| failure.map(|why| format!("failed to revoke lease ({why})")))?;
    output.print(&Answer::Revoke { id, response })
}

pub async fn time_to_live(mut invocation: Invocation) -> Result<(), Failure> {
    let keys = invocation.flag("keys");
    let id = id(&invocation, "lease timetolive command needs lease ID as argument")?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::LeaseTimeToLiveRequest { id, keys };
    let response = ask!(client, Reading, lease.lease_time_to_live(request));
    let response = response.map_err(|failure| failure.with_code(failure::BAD_CONNECTION))?;
    output.print(&Answer::TimeToLive { response, keys })
}

pub async fn list(mut invocation: Invocation) -> Result<(), Failure> {
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let response = ask!(client, Reading, lease.lease_leases(pb::LeaseLeasesRequest {}));
    let response = response.map_err(|failure| failure.with_code(failure::BAD_CONNECTION))?;
    output.print(&Answer::Leases(response))
}

pub async fn keep_alive(mut invocation: Invocation) -> Result<(), Failure> {
    let id = id(&invocation, "lease keep-alive command needs lease ID as argument")?;
    let once = invocation.flag("once");
    let (client, output) = connect_to_stay(&mut invocation).await?;
    loop {
        let renewed = renew(&client, id).await;
        let response = renewed.map_err(|failure| failure.with_code(failure::BAD_CONNECTION))?;
        let ttl = response.ttl;
        if ttl <= 0 && once {
            let message = "etcdserver: requested lease not found";
            return Err(Failure::new(failure::BAD_CONNECTION, message));
        }
        if ttl <= 0 {
            return match output.format {
                Format::Simple => line(format!("lease {id:016x} expired or revoked.")),
                _ => Ok(()),
            };
        }
        output.print(&Answer::KeepAlive(response))?;
        if once {
            return Ok(());
        }
        tokio::time::sleep(between_renewals(ttl)).await;
    }
}

pub fn between_renewals(ttl: i64) -> Duration {
    let whole = Duration::from_secs(ttl.max(0).unsigned_abs());
    (whole / RENEWALS_A_LEASE).max(RENEW_EVERY_LEAST)
}

/// Renews a lease once; a TTL of 0 says that there is none.
pub async fn renew(client: &Client, id: i64) -> Result<pb::LeaseKeepAliveResponse, Failure> {
    let mut answers = client
        .call(crate::client::Repeat::Reading, |connection| {
            let mut service = client.lease(connection);
            let request = pb::LeaseKeepAliveRequest { id };
            // The stream stays open until the answer is there.
            let requests = tokio_stream::StreamExt::chain(
                tokio_stream::once(request),
                tokio_stream::pending(),
            );
            async move { service.lease_keep_alive(requests).await }
        })
        .await?;
    let answer = answers.message().await?;
    answer.ok_or_else(|| Failure::error("the server ended the stream of renewals"))
}

fn id(invocation: &Invocation, missing: &str) -> Result<i64, Failure> {
    let [id] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments(missing));
    };
    go::parse_signed(id, 16)
        .map_err(|why| Failure::arguments(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}
