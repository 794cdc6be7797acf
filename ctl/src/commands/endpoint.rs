//! `endpoint health`, `status` and `hashkv`.

use std::time::Instant;

use proto::etcdserverpb as pb;

use super::{alarm, ask};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::{self, Failure};
use crate::output::{Answer, Health};
use crate::settings::Settings;

pub async fn health(mut invocation: Invocation) -> Result<(), Failure> {
    let settings = Settings::read(&mut invocation)?;
    let endpoints = endpoints(&invocation, &settings).await?;
    let asked = endpoints.iter().map(|endpoint| ask_health(&invocation, &settings, endpoint));
    let mut healths = futures_of(asked).await;
    // Who answers first is told first.
    healths.sort_by_key(|health| health.took);
    let is_unhealthy = healths.iter().any(|health| !health.error.is_empty());
    settings.output.print(&Answer::Health(healths))?;
    match is_unhealthy {
        true => Err(Failure::error("unhealthy cluster")),
        false => Ok(()),
    }
}

/// All of them at the same time.
async fn futures_of<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in pending.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(context) {
                *done = Some(output);
            }
        }
        match pending.iter().all(|(_, done)| done.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    pending.into_iter().filter_map(|(_, done)| done).collect()
}

/// An endpoint is well if it can read a key, and has no alarm.
async fn ask_health(invocation: &Invocation, settings: &Settings, endpoint: &str) -> Health {
    let started = Instant::now();
    let asked = async {
        let client = connect(invocation, settings, endpoint).await?;
        let request = pb::RangeRequest { key: "health".into(), ..Default::default() };
        match ask!(client, Reading, kv.range(request)) {
            // The proposal went through consensus to be refused.
            Err(failure) if failure.message == "etcdserver: permission denied" => Ok(client),
            answer => answer.map(|_| client),
        }
    };
    let client: Result<Client, Failure> = asked.await;
    let took = Some(started.elapsed());
    let error = match client {
        Err(failure) => failure.message,
        Ok(client) => match alarm::all(&client).await {
            Err(_) => "Unable to fetch the alarm list".to_owned(),
            Ok(response) if response.alarms.is_empty() => String::new(),
            Ok(response) => {
                let names = response.alarms.iter().map(|alarm| {
                    let known = pb::AlarmType::try_from(alarm.alarm);
                    let name = known.ok().filter(|kind| *kind != pb::AlarmType::None);
                    format!("{} ", name.map_or("UNKNOWN", |kind| kind.as_str_name()))
                });
                format!("Active Alarm(s): {}", names.collect::<String>())
            }
        },
    };
    Health { endpoint: endpoint.to_owned(), is_healthy: error.is_empty(), took, error }
}

pub async fn status(mut invocation: Invocation) -> Result<(), Failure> {
    let settings = Settings::read(&mut invocation)?;
    let mut statuses = Vec::new();
    let mut failed = false;
    for endpoint in endpoints(&invocation, &settings).await? {
        let asked = async {
            let client = connect(&invocation, &settings, &endpoint).await?;
            ask!(client, Reading, maintenance.status(pb::StatusRequest {}))
        };
        match asked.await {
            Ok(status) => statuses.push((endpoint, status)),
            Err(failure) => {
                eprintln!("Failed to get the status of endpoint {endpoint} ({failure})");
                failed = true;
            }
        }
    }
    settings.output.print(&Answer::Status(statuses))?;
    match failed {
        true => Err(Failure::silent(failure::ERROR)),
        false => Ok(()),
    }
}

pub async fn hash_kv(mut invocation: Invocation) -> Result<(), Failure> {
    let settings = Settings::read(&mut invocation)?;
    let revision = invocation.integer("rev");
    let (mut hashes, mut last) = (Vec::new(), None);
    for endpoint in endpoints(&invocation, &settings).await? {
        let asked = async {
            let client = connect(&invocation, &settings, &endpoint).await?;
            ask!(client, Reading, maintenance.hash_kv(pb::HashKvRequest { revision }))
        };
        match asked.await {
            Ok(hash) => hashes.push((endpoint, hash)),
            Err(failure) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({failure})");
                last = Some(failure);
            }
        }
    }
    settings.output.print(&Answer::HashKv(hashes))?;
    last.map_or(Ok(()), Err)
}

/// A connection to one endpoint, for one command's time.
pub async fn connect(
    invocation: &Invocation,
    settings: &Settings,
    endpoint: &str,
) -> Result<Client, Failure> {
    let timeout = invocation.duration("command-timeout");
    Client::connect(&settings.at(endpoint), Some(timeout)).await
}

/// The endpoints that were given, or those of all members.
pub async fn endpoints(
    invocation: &Invocation,
    settings: &Settings,
) -> Result<Vec<String>, Failure> {
    if !invocation.flag("cluster") {
        return Ok(settings.endpoints.clone());
    }
    let asked = async {
        let timeout = invocation.duration("command-timeout");
        let client = Client::connect(settings, Some(timeout)).await?;
        let request = pb::MemberListRequest { linearizable: true };
        ask!(client, Reading, cluster.member_list(request))
    };
    let listed = asked.await.map_err(|failure| {
        failure.map(|why| format!("failed to fetch endpoints from etcd cluster member list: {why}"))
    })?;
    Ok(listed.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}
