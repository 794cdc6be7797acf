//! `module`: programs of one's own that run beside the data.

use std::io::Read as _;

use bytes::Bytes;
use proto::instar::v1 as pb;

use super::machine::{component, name_of, parse, pieces};
use super::{ask, connect};
use crate::client::{Client, Repeat};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::{Answer, Format, line, write_out};

pub async fn list(mut invocation: Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("module list command accepts no arguments"));
    }
    let (client, output) = connect(&mut invocation).await?;
    let modules = ask!(client, Reading, module.list(pb::ListModulesRequest {}))?;
    output.print(&Answer::Modules(modules))
}

pub async fn put(mut invocation: Invocation) -> Result<(), Failure> {
    let component = component(&invocation, "module")?;
    let (client, output) = connect(&mut invocation).await?;
    let response = send(&client, &component).await?;
    if output.format == Format::Simple {
        line(name_of(&response.digest))?;
        return line("Next: instarctl module activate <name> --grant <prefix>");
    }
    output.print(&Answer::Modules(response.modules.unwrap_or_default()))
}

/// Brings a component into the cluster.
pub(super) async fn send(
    client: &Client,
    component: &Bytes,
) -> Result<pb::PutModuleResponse, Failure> {
    let chunks: Vec<_> = pieces(component).map(|data| pb::PutModuleRequest { data }).collect();
    client
        .call(Repeat::Never, |connection| {
            let (mut service, chunks) = (client.module(connection), chunks.clone());
            async move { service.put(tokio_stream::iter(chunks)).await }
        })
        .await
}

pub async fn activate(mut invocation: Invocation) -> Result<(), Failure> {
    let name = name(&invocation, "activate")?;
    let digest = match invocation.text("digest") {
        text if text.is_empty() => Bytes::new(),
        text => parse(&text)?,
    };
    let grants = invocation.list("grant").into_iter().map(Bytes::from).collect();
    let (client, output) = connect(&mut invocation).await?;
    let request = pb::ActivateModuleRequest { name, digest, grants };
    let modules = ask!(client, Never, module.activate(request))?;
    output.print(&Answer::Modules(modules))
}

pub async fn disable(mut invocation: Invocation) -> Result<(), Failure> {
    let name = name(&invocation, "disable")?;
    let (client, output) = connect(&mut invocation).await?;
    let modules = ask!(client, Never, module.disable(pb::DisableModuleRequest { name }))?;
    output.print(&Answer::Modules(modules))
}

pub async fn call(mut invocation: Invocation) -> Result<(), Failure> {
    let (name, procedure, argument) = match invocation.arguments.as_slice() {
        [name, procedure] => (name.clone(), procedure.clone(), None),
        [name, procedure, argument] => (name.clone(), procedure.clone(), Some(argument.clone())),
        _ => {
            let message = "module call command needs a module, a procedure, and an argument or standard input";
            return Err(Failure::arguments(message));
        }
    };
    let argument = match argument {
        Some(argument) => Bytes::from(argument),
        None => {
            let mut read = Vec::new();
            std::io::stdin()
                .read_to_end(&mut read)
                .map_err(|error| Failure::error(format!("cannot read standard input: {error}")))?;
            read.into()
        }
    };
    let (client, _) = connect(&mut invocation).await?;
    let request = pb::CallModuleRequest { name, procedure, argument };
    let response = ask!(client, Never, module.call(request))?;
    // What the module answers, and nothing around it, whatever the format.
    write_out(&response.result)?;
    write_out(b"\n")
}

fn name(invocation: &Invocation, command: &str) -> Result<String, Failure> {
    match invocation.arguments.as_slice() {
        [name] => Ok(name.clone()),
        _ => {
            let message = format!("module {command} command needs 1 argument, the module's name");
            Err(Failure::arguments(message).with_hint("`module list` shows those that are there"))
        }
    }
}
