//! `member add`, `remove`, `update`, `list` and `promote`.

use proto::etcdserverpb as pb;

use super::get::is_serializable;
use super::{ask, connect};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::{Answer, Format, write_out};

pub async fn add(mut invocation: Invocation) -> Result<(), Failure> {
    let name = match invocation.arguments.as_slice() {
        [] => return Err(Failure::arguments("member name not provided")),
        [name] => name.clone(),
        words => {
            let urls = words.iter().filter(|word| word.to_lowercase().starts_with("http"));
            let meant: String =
                urls.map(|url| format!(", did you mean --peer-urls={url}")).collect();
            return Err(Failure::arguments(format!("too many arguments{meant}")));
        }
    };
    let urls = peer_urls(&invocation)?;
    let is_learner = invocation.flag("learner");
    let (client, output) = connect(&mut invocation).await?;
    let request = pb::MemberAddRequest { peer_ur_ls: split(&urls)?, is_learner };
    let response = ask!(client, Never, cluster.member_add(request))?;
    let environment = environment(&name, &urls, &response);
    output.print(&Answer::MemberAdd(response))?;
    match output.format {
        Format::Simple => write_out(environment.as_bytes()),
        _ => Ok(()),
    }
}

/// What the new member is to be started with.
fn environment(name: &str, urls: &str, response: &pb::MemberAddResponse) -> String {
    let new = response.member.as_ref().map_or(0, |member| member.id);
    let cluster: Vec<String> = response
        .members
        .iter()
        .flat_map(|member| {
            let name = if member.id == new { name } else { &member.name };
            member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
        })
        .collect();
    let quote = |text: &str| go::quote(text.as_bytes());
    format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quote(name),
        quote(&cluster.join(",")),
        quote(urls)
    )
}

pub async fn remove(mut invocation: Invocation) -> Result<(), Failure> {
    let id = id(&invocation)?;
    let (client, output) = connect(&mut invocation).await?;
    let response = ask!(client, Never, cluster.member_remove(pb::MemberRemoveRequest { id }))?;
    output.print(&Answer::MemberRemove { id, response })
}

pub async fn update(mut invocation: Invocation) -> Result<(), Failure> {
    let id = id(&invocation)?;
    let urls = peer_urls(&invocation)?;
    let (client, output) = connect(&mut invocation).await?;
    let request = pb::MemberUpdateRequest { id, peer_ur_ls: split(&urls)? };
    let response = ask!(client, Never, cluster.member_update(request))?;
    output.print(&Answer::MemberUpdate { id, response })
}

pub async fn list(mut invocation: Invocation) -> Result<(), Failure> {
    let linearizable = !is_serializable(&invocation.text("consistency"))?;
    let (client, output) = connect(&mut invocation).await?;
    let request = pb::MemberListRequest { linearizable };
    let response = ask!(client, Reading, cluster.member_list(request))?;
    output.print(&Answer::MemberList(response))
}

pub async fn promote(mut invocation: Invocation) -> Result<(), Failure> {
    let id = id(&invocation)?;
    let (client, output) = connect(&mut invocation).await?;
    let response = ask!(client, Never, cluster.member_promote(pb::MemberPromoteRequest { id }))?;
    output.print(&Answer::MemberPromote { id, response })
}

/// Addresses that name a scheme, a host and a port, and nothing more.
fn split(urls: &str) -> Result<Vec<String>, Failure> {
    urls.split(',').map(|url| checked(url.trim())).collect()
}

fn checked(url: &str) -> Result<String, Failure> {
    let refused = |why: &str| Err(Failure::error(format!("{why}: {url}")));
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    if !["http", "https", "unix", "unixs"].contains(&scheme) {
        return refused("URL scheme must be http, https, unix, or unixs");
    }
    if scheme.starts_with("unix") {
        return Ok(url.to_owned());
    }
    let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    let port = host.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) if path.is_empty() && !rest.ends_with('/') => Ok(url.to_owned()),
        Some(Ok(_)) => refused("URL must not contain a path"),
        _ => refused("URL address does not have the form \"host:port\""),
    }
}

fn peer_urls(invocation: &Invocation) -> Result<String, Failure> {
    match invocation.text("peer-urls") {
        urls if urls.is_empty() => Err(Failure::arguments("member peer urls not provided")),
        urls => Ok(urls),
    }
}

fn id(invocation: &Invocation) -> Result<u64, Failure> {
    let [id] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments("member ID is not provided"));
    };
    go::parse_unsigned(id, 16).map_err(|why| {
        Failure::arguments(format!("bad member ID arg ({why}), expecting ID in Hex"))
    })
}
