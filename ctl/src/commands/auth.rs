//! `auth enable`, `disable` and `status`.

use proto::etcdserverpb as pb;

use super::{ask, connect};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::{Answer, line};

const ROOT: &str = "root";

/// Turns it on, and gives root its role where that is missing.
pub async fn enable(mut invocation: Invocation) -> Result<(), Failure> {
    no_arguments(&invocation, "enable")?;
    let (client, _) = connect(&mut invocation).await?;
    let enabled = ask!(client, Never, auth.auth_enable(pb::AuthEnableRequest {}));
    match enabled {
        Err(failure) if failure.message.ends_with("root user does not have root role") => {
            let request = pb::AuthRoleAddRequest { name: ROOT.into() };
            ask!(client, Never, auth.role_add(request))?;
            let request = pb::AuthUserGrantRoleRequest { user: ROOT.into(), role: ROOT.into() };
            ask!(client, Never, auth.user_grant_role(request))?;
            ask!(client, Never, auth.auth_enable(pb::AuthEnableRequest {}))?;
        }
        enabled => {
            enabled?;
        }
    }
    line("Authentication Enabled")
}

pub async fn disable(mut invocation: Invocation) -> Result<(), Failure> {
    no_arguments(&invocation, "disable")?;
    let (client, _) = connect(&mut invocation).await?;
    ask!(client, Never, auth.auth_disable(pb::AuthDisableRequest {}))?;
    line("Authentication Disabled")
}

pub async fn status(mut invocation: Invocation) -> Result<(), Failure> {
    no_arguments(&invocation, "status")?;
    let (client, output) = connect(&mut invocation).await?;
    let response = ask!(client, Reading, auth.auth_status(pb::AuthStatusRequest {}))?;
    output.print(&Answer::AuthStatus(response))
}

fn no_arguments(invocation: &Invocation, name: &str) -> Result<(), Failure> {
    match invocation.arguments.is_empty() {
        true => Ok(()),
        false => {
            let message = format!("auth {name} command does not accept any arguments");
            Err(Failure::arguments(message))
        }
    }
}
