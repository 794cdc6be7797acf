//! `alarm list` and `alarm disarm`.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;

use super::{ask, connect};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::Answer;

pub async fn list(mut invocation: Invocation) -> Result<(), Failure> {
    no_arguments(&invocation, "list")?;
    let (client, output) = connect(&mut invocation).await?;
    output.print(&Answer::Alarm(all(&client).await?))
}

/// Disarms each alarm that is listed.
pub async fn disarm(mut invocation: Invocation) -> Result<(), Failure> {
    no_arguments(&invocation, "disarm")?;
    let (client, output) = connect(&mut invocation).await?;
    let listed = all(&client).await?;
    let mut disarmed = pb::AlarmResponse::default();
    for alarm in listed.alarms {
        let request = pb::AlarmRequest {
            action: AlarmAction::Deactivate as i32,
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        let response = ask!(client, Never, maintenance.alarm(request))?;
        disarmed.alarms.extend(response.alarms);
    }
    output.print(&Answer::Alarm(disarmed))
}

pub async fn all(client: &Client) -> Result<pb::AlarmResponse, Failure> {
    let request = pb::AlarmRequest {
        action: AlarmAction::Get as i32,
        member_id: 0,
        alarm: pb::AlarmType::None as i32,
    };
    ask!(client, Reading, maintenance.alarm(request))
}

fn no_arguments(invocation: &Invocation, name: &str) -> Result<(), Failure> {
    match invocation.arguments.is_empty() {
        true => Ok(()),
        false => Err(Failure::arguments(format!("alarm {name} command accepts no arguments"))),
    }
}
