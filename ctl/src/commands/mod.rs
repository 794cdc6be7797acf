//! What the commands do, one file each: check the words, ask the server, print the answer.

pub mod alarm;
pub mod auth;
pub mod check;
pub mod compaction;
pub mod completion;
pub mod data_directory;
pub mod defrag;
pub mod delete;
pub mod doctor;
pub mod downgrade;
pub mod elect;
pub mod endpoint;
pub mod file_hash;
pub mod get;
pub mod help;
pub mod lease;
pub mod lock;
pub mod machine;
pub mod make_mirror;
pub mod member;
pub mod migrate;
pub mod module;
pub mod module_bench;
mod module_c;
pub mod module_project;
pub mod module_work;
pub mod move_leader;
pub mod options;
pub mod put;
pub mod restore;
pub mod role;
pub mod session;
pub mod snapshot;
pub mod txn;
pub mod user;
pub mod version;
pub mod watch;
pub mod watching;

use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

/// Connects for a command that is meant to be short.
async fn connect(invocation: &mut Invocation) -> Result<(Client, Output), Failure> {
    let settings = Settings::read(invocation)?;
    let timeout = invocation.duration("command-timeout");
    let client = Client::connect(&settings, Some(timeout)).await?;
    Ok((client, settings.output))
}

/// Connects for a command that lasts until it is done.
async fn connect_to_stay(invocation: &mut Invocation) -> Result<(Client, Output), Failure> {
    let settings = Settings::read(invocation)?;
    let client = Client::connect(&settings, None).await?;
    Ok((client, settings.output))
}

/// A request to one of etcd's services: `ask!(client, Reading, kv.range(request))`.
macro_rules! ask {
    ($client:expr, $repeat:ident, $service:ident.$method:ident($request:expr)) => {{
        let (client, request) = (&$client, $request);
        client
            .call(crate::client::Repeat::$repeat, |connection| {
                let (mut service, request) = (client.$service(connection), request.clone());
                async move { service.$method(request).await }
            })
            .await
    }};
}
use ask;
