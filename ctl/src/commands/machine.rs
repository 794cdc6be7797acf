//! `machine`: which state machine runs, and putting another one in its place.

use std::time::Duration;

use bytes::Bytes;
use proto::instar::v1 as pb;

use super::{ask, connect, connect_to_stay};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::{Answer, Format, Output, line, shadow};

/// What one message of a component carries.
const CHUNK_BYTES: usize = 256 << 10;
/// How often a migration is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

pub async fn list(mut invocation: Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("machine list command accepts no arguments"));
    }
    let (client, output) = connect(&mut invocation).await?;
    let machines = ask!(client, Reading, machine.list(pb::ListRequest {}))?;
    output.print(&Answer::Machines(machines))
}

pub async fn put(mut invocation: Invocation) -> Result<(), Failure> {
    let component = component(&invocation, "machine")?;
    let (client, output) = connect(&mut invocation).await?;
    let chunks: Vec<_> = pieces(&component).map(|data| pb::PutRequest { data }).collect();
    let response = client
        .call(crate::client::Repeat::Never, |connection| {
            let (mut service, chunks) = (client.machine(connection), chunks.clone());
            async move { service.put(tokio_stream::iter(chunks)).await }
        })
        .await?;
    let machines = response.machines.unwrap_or_default();
    if output.format == Format::Simple {
        let name = name_of(&response.digest);
        line(&name)?;
        return line(format!("Next: instarctl machine prepare {name}"));
    }
    output.print(&Answer::Machines(machines))
}

/// The component whose file the command names.
pub(super) fn component(invocation: &Invocation, command: &str) -> Result<Bytes, Failure> {
    let [path] = invocation.arguments.as_slice() else {
        let message = format!("{command} put command needs 1 argument, the component's file");
        return Err(Failure::arguments(message));
    };
    std::fs::read(path)
        .map(Bytes::from)
        .map_err(|error| Failure::error(format!("cannot read {path}: {error}")))
}

/// A component as messages carry it.
pub(super) fn pieces(component: &Bytes) -> impl Iterator<Item = Bytes> {
    let piece = |at| component.slice(at..component.len().min(at + CHUNK_BYTES));
    (0..component.len()).step_by(CHUNK_BYTES).map(piece)
}

pub async fn prepare(mut invocation: Invocation) -> Result<(), Failure> {
    let digest = digest(&invocation, "prepare")?;
    let shadow = invocation.duration("shadow");
    if shadow.is_zero() {
        let (client, output) = connect(&mut invocation).await?;
        let request = pb::PrepareRequest { digest };
        let machines = ask!(client, Never, machine.prepare(request))?;
        return output.print(&Answer::Machines(machines));
    }
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::PrepareRequest { digest: digest.clone() };
    ask!(client, Never, machine.prepare(request))?;
    rehearse(&client, &output, digest, shadow).await
}

/// Has the member run the machine beside the active one, and says what came of it.
async fn rehearse(
    client: &Client,
    output: &Output,
    digest: Bytes,
    time: Duration,
) -> Result<(), Failure> {
    let name = name_of(&digest);
    let request = pb::ShadowRequest { digest, duration_ms: time.as_millis() as u64 };
    let mut reports = ask!(client, Never, machine.shadow(request))?;
    let report = loop {
        let report = reports.message().await?.ok_or_else(|| {
            Failure::error("the member has ended the rehearsal without a report: begin again")
        })?;
        if report.finished {
            break report;
        }
        if output.format == Format::Simple {
            eprintln!("{}", shadow::progress(&report));
        }
    };
    output.print(&Answer::Shadow(report.clone()))?;
    if !report.aborted.is_empty() {
        return Err(Failure::error(format!("the rehearsal was not completed: {}", report.aborted)));
    }
    if !shadow::is_equal(&report) {
        let message = format!("{name} does not do what the active machine does");
        let hint = "activate it only if the differences are what you want of it";
        return Err(Failure::error(message).with_hint(hint));
    }
    if output.format == Format::Simple {
        line(match report.entries {
            0 => "Nothing was written meanwhile, so nothing was compared: try again under load."
                .into(),
            _ => format!("Next: instarctl machine activate {name}"),
        })?;
    }
    Ok(())
}

pub async fn activate(mut invocation: Invocation) -> Result<(), Failure> {
    let digest = digest(&invocation, "activate")?;
    let expected_active = expected(&mut invocation)?;
    let (client, output) = connect(&mut invocation).await?;
    let request = pb::ActivateRequest { digest, expected_active };
    let machines = ask!(client, Never, machine.activate(request))?;
    output.print(&Answer::Machines(machines))
}

pub async fn rollback(mut invocation: Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("machine rollback command accepts no arguments"));
    }
    let expected_active = expected(&mut invocation)?;
    let (client, output) = connect(&mut invocation).await?;
    let request = pb::RollbackRequest { expected_active };
    let machines = ask!(client, Never, machine.rollback(request))?;
    output.print(&Answer::Machines(machines))
}

pub async fn finalise(mut invocation: Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("machine finalise command accepts no arguments"));
    }
    let expected_active = expected(&mut invocation)?;
    let waits = invocation.flag("wait");
    let (client, output) = connect(&mut invocation).await?;
    let request = pb::FinaliseRequest { expected_active };
    let mut machines = ask!(client, Never, machine.finalise(request))?;
    while let Some(migration) = machines.migration.as_ref().filter(|_| waits) {
        if !migration.failure.is_empty() {
            let message = format!("the migration has stopped: {}", migration.failure);
            let hint =
                "`machine activate` another machine of the same schema, which goes on with it";
            return Err(Failure::error(message).with_hint(hint));
        }
        if output.format == Format::Simple {
            line(migrating(&machines, migration))?;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        machines = ask!(client, Reading, machine.list(pb::ListRequest {}))?;
    }
    output.print(&Answer::Machines(machines))
}

/// How far the rows are on their way to another schema.
pub fn migrating(machines: &pb::Machines, migration: &pb::Migration) -> String {
    let (from, to, steps) = (migration.from_schema, machines.schema_version, migration.steps);
    let at = String::from_utf8_lossy(&migration.cursor);
    let at = at.trim_end_matches('\0').escape_debug();
    match steps {
        0 => format!("migrating from schema {from} to {to}: no step yet"),
        _ => format!("migrating from schema {from} to {to}: {steps} steps, at {at}"),
    }
}

/// The machine that is to be replaced, if it is named.
fn expected(invocation: &mut Invocation) -> Result<Bytes, Failure> {
    match invocation.text("expect") {
        text if text.is_empty() => Ok(Bytes::new()),
        text => parse(&text),
    }
}

fn digest(invocation: &Invocation, command: &str) -> Result<Bytes, Failure> {
    match invocation.arguments.as_slice() {
        [digest] => parse(digest),
        _ => {
            let message = format!("machine {command} command needs 1 argument, sha256:<digest>");
            Err(Failure::arguments(message).with_hint("`machine put` and `machine list` show it"))
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Bytes, Failure> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let byte = |at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    bytes.filter(|bytes| bytes.len() == 32).map(Bytes::from).ok_or_else(|| {
        Failure::arguments(format!("{text:?} is no digest of a machine: sha256: and 64 digits"))
            .with_hint("`machine list` shows those that are there")
    })
}

/// As the other commands take it.
pub fn name_of(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
