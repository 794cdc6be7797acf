//! `role add`, `delete`, `get`, `list`, `grant-permission` and `revoke-permission`.

use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;

use super::{ask, connect_to_stay};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::Answer;

pub async fn add(mut invocation: Invocation) -> Result<(), Failure> {
    let role = name(&invocation, "add")?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthRoleAddRequest { name: role.clone() };
    let response = ask!(client, Never, auth.role_add(request))?;
    output.print(&Answer::RoleAdd { role, response })
}

pub async fn delete(mut invocation: Invocation) -> Result<(), Failure> {
    let role = name(&invocation, "delete")?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthRoleDeleteRequest { role: role.clone() };
    let response = ask!(client, Never, auth.role_delete(request))?;
    output.print(&Answer::RoleDelete { role, response })
}

pub async fn get(mut invocation: Invocation) -> Result<(), Failure> {
    let role = name(&invocation, "get")?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthRoleGetRequest { role: role.clone() };
    let response = ask!(client, Reading, auth.role_get(request))?;
    output.print(&Answer::RoleGet { role, response })
}

pub async fn list(mut invocation: Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("role list command requires no arguments"));
    }
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let response = ask!(client, Reading, auth.role_list(pb::AuthRoleListRequest {}))?;
    output.print(&Answer::RoleList(response))
}

pub async fn grant_permission(mut invocation: Invocation) -> Result<(), Failure> {
    let [role, kind, range @ ..] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments(GRANT_NEEDS));
    };
    if range.is_empty() {
        return Err(Failure::arguments(GRANT_NEEDS));
    }
    let kind_known = match kind.to_uppercase().as_str() {
        "READ" => Type::Read,
        "WRITE" => Type::Write,
        "READWRITE" => Type::Readwrite,
        _ => return Err(Failure::arguments(format!("invalid permission type: {kind}"))),
    };
    let (key, range_end) = permitted(&invocation, range)?;
    let role = role.clone();
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let permission =
        Permission { perm_type: kind_known as i32, key: key.into(), range_end: range_end.into() };
    let request = pb::AuthRoleGrantPermissionRequest { name: role.clone(), perm: Some(permission) };
    let response = ask!(client, Never, auth.role_grant_permission(request))?;
    output.print(&Answer::RoleGrant { role, response })
}

const GRANT_NEEDS: &str =
    "role grant command requires role name, permission type, and key [endkey] as its argument";

pub async fn revoke_permission(mut invocation: Invocation) -> Result<(), Failure> {
    let missing =
        "role revoke-permission command requires role name and key [endkey] as its argument";
    let [role, range @ ..] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments(missing));
    };
    let Some(given) = range.first().cloned() else {
        return Err(Failure::arguments(missing));
    };
    let (key, range_end) = permitted(&invocation, range)?;
    let role = role.clone();
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let request = pb::AuthRoleRevokePermissionRequest {
        role: role.clone(),
        key: key.into(),
        range_end: range_end.clone().into(),
    };
    let response = ask!(client, Never, auth.role_revoke_permission(request))?;
    output.print(&Answer::RoleRevoke { role, key: given, range_end, response })
}

/// The range that words and flags mean. One from the empty key on has all keys.
fn permitted(invocation: &Invocation, words: &[String]) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let (prefix, from_key) = (invocation.flag("prefix"), invocation.flag("from-key"));
    let key = words.first().map_or(&b""[..], |key| key.as_bytes());
    let exclusive = || Failure::arguments("--from-key and --prefix flags are mutually exclusive");
    let end = match (words.get(1), prefix, from_key) {
        (_, true, true) if key.is_empty() => return Err(exclusive()),
        _ if key.is_empty() => {
            let open = if prefix || from_key { vec![0] } else { Vec::new() };
            return Ok((vec![0], open));
        }
        (None, true, true) => return Err(exclusive()),
        (None, true, false) => go::prefix_end(key),
        (None, false, true) => vec![0],
        (None, false, false) => Vec::new(),
        (Some(_), true, _) => {
            return Err(Failure::arguments("unexpected endkey argument with --prefix flag"));
        }
        (Some(_), _, true) => {
            return Err(Failure::arguments("unexpected endkey argument with --from-key flag"));
        }
        (Some(end), ..) => end.clone().into_bytes(),
    };
    Ok((key.to_vec(), end))
}

fn name(invocation: &Invocation, command: &str) -> Result<String, Failure> {
    match invocation.arguments.as_slice() {
        [name] => Ok(name.clone()),
        _ => Err(Failure::arguments(format!(
            "role {command} command requires role name as its argument"
        ))),
    }
}
