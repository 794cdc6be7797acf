//! `downgrade validate`, `enable` and `cancel`.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::downgrade_request::DowngradeAction;

use super::{ask, connect};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::Answer;

pub async fn validate(invocation: Invocation) -> Result<(), Failure> {
    let version = target(&invocation)?;
    send(invocation, "validate", DowngradeAction::Validate, version).await
}

pub async fn enable(invocation: Invocation) -> Result<(), Failure> {
    let version = target(&invocation)?;
    send(invocation, "enable", DowngradeAction::Enable, version).await
}

pub async fn cancel(invocation: Invocation) -> Result<(), Failure> {
    send(invocation, "cancel", DowngradeAction::Cancel, String::new()).await
}

fn target(invocation: &Invocation) -> Result<String, Failure> {
    match invocation.arguments.as_slice() {
        [] => Err(Failure::arguments("TARGET_VERSION not provided")),
        [version] if version.is_empty() => Err(Failure::arguments("target version not provided")),
        [version] => Ok(version.clone()),
        _ => Err(Failure::arguments("too many arguments")),
    }
}

async fn send(
    mut invocation: Invocation,
    name: &'static str,
    action: DowngradeAction,
    version: String,
) -> Result<(), Failure> {
    let (client, output) = connect(&mut invocation).await?;
    let request = pb::DowngradeRequest { action: action as i32, version };
    let response = ask!(client, Never, maintenance.downgrade(request))?;
    output.print(&Answer::Downgrade { action: name, response })
}
