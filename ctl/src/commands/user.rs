//! `user add`, `delete`, `get`, `list`, `passwd`, `grant-role` and `revoke-role`.

use std::io::BufRead;

use proto::authpb::UserAddOptions;
use proto::etcdserverpb as pb;

use super::{ask, connect_to_stay};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::{Answer, write_out};

pub async fn add(mut invocation: Invocation) -> Result<(), Failure> {
    let name = one(&invocation, "user add command requires user name as its argument")?;
    let no_password = invocation.flag("no-password");
    let (name, password) = match (invocation.text("new-user-password"), name.split_once(':')) {
        _ if no_password => (name, String::new()),
        (given, _) if !given.is_empty() => (name, given),
        (_, Some(("", _))) => return Err(Failure::arguments("empty user name is not allowed")),
        (_, Some((name, password))) => (name.to_owned(), password.to_owned()),
        (_, None) => {
            let password = read_password(&invocation, &name)?;
            (name, password)
        }
    };
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthUserAddRequest {
        name: name.clone(),
        password,
        options: Some(UserAddOptions { no_password }),
        ..Default::default()
    };
    let response = ask!(client, Never, auth.user_add(request))?;
    output.print(&Answer::UserAdd { user: name, response })
}

pub async fn delete(mut invocation: Invocation) -> Result<(), Failure> {
    let user = one(&invocation, "user delete command requires user name as its argument")?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthUserDeleteRequest { name: user.clone() };
    let response = ask!(client, Never, auth.user_delete(request))?;
    output.print(&Answer::UserDelete { user, response })
}

pub async fn get(mut invocation: Invocation) -> Result<(), Failure> {
    let user = one(&invocation, "user get command requires user name as its argument")?;
    let detail = invocation.flag("detail");
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthUserGetRequest { name: user.clone() };
    let response = ask!(client, Reading, auth.user_get(request))?;
    if !detail {
        return output.print(&Answer::UserGet { user, response });
    }
    write_out(format!("User: {user}\n").as_bytes())?;
    for role in response.roles {
        write_out(b"\n")?;
        let request = pb::AuthRoleGetRequest { role: role.clone() };
        let response = ask!(client, Reading, auth.role_get(request))?;
        output.print(&Answer::RoleGet { role, response })?;
    }
    Ok(())
}

pub async fn list(mut invocation: Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("user list command requires no arguments"));
    }
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let response = ask!(client, Reading, auth.user_list(pb::AuthUserListRequest {}))?;
    output.print(&Answer::UserList(response))
}

pub async fn change_password(mut invocation: Invocation) -> Result<(), Failure> {
    let name = one(&invocation, "user passwd command requires user name as its argument")?;
    let password = read_password(&invocation, &name)?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
    let response = ask!(client, Never, auth.user_change_password(request))?;
    output.print(&Answer::UserPassword(response))
}

pub async fn grant_role(mut invocation: Invocation) -> Result<(), Failure> {
    let missing = "user grant command requires user name and role name as its argument";
    let (user, role) = two(&invocation, missing)?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
    let response = ask!(client, Never, auth.user_grant_role(request))?;
    output.print(&Answer::UserGrant { user, role, response })
}

pub async fn revoke_role(mut invocation: Invocation) -> Result<(), Failure> {
    let missing = "user revoke-role requires user name and role name as its argument";
    let (user, role) = two(&invocation, missing)?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthUserRevokeRoleRequest { name: user.clone(), role: role.clone() };
    let response = ask!(client, Never, auth.user_revoke_role(request))?;
    output.print(&Answer::UserRevoke { user, role, response })
}

fn one(invocation: &Invocation, missing: &str) -> Result<String, Failure> {
    match invocation.arguments.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(Failure::arguments(missing)),
    }
}

fn two(invocation: &Invocation, missing: &str) -> Result<(String, String), Failure> {
    match invocation.arguments.as_slice() {
        [one, two] => Ok((one.clone(), two.clone())),
        _ => Err(Failure::arguments(missing)),
    }
}

/// Asks twice on the terminal, or takes the first word of standard input.
fn read_password(invocation: &Invocation, name: &str) -> Result<String, Failure> {
    if !invocation.flag("interactive") {
        let mut text = String::new();
        std::io::stdin().lock().read_line(&mut text)?;
        return Ok(text.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let prompt = |text: String| {
        rpassword::prompt_password(text)
            .map_err(|error| Failure::arguments(format!("failed to ask password: {error}")))
    };
    let password = prompt(format!("Password of {name}: "))?;
    if password.is_empty() {
        return Err(Failure::arguments("empty password"));
    }
    match prompt(format!("Type password of {name} again for confirmation: "))? == password {
        true => Ok(password),
        false => Err(Failure::arguments("given passwords are different")),
    }
}
