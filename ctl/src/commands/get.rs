//! `get`.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::{ask, connect};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::{self, Failure};
use crate::go;
use crate::output::{Answer, Format};

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let request = request(&invocation)?;
    let (client, mut output) = connect(&mut invocation).await?;
    let response = match invocation.flag("stream") {
        true => stream(&client, request).await?,
        false => ask!(client, Reading, kv.range(request))?,
    };
    if invocation.flag("count-only") && output.format != Format::Fields {
        return Err(Failure::arguments("--count-only is only for `--write-out=fields`"));
    }
    if invocation.flag("print-value-only") {
        if output.format != Format::Simple {
            return Err(Failure::arguments("print-value-only is only for `--write-out=simple`"));
        }
        output.value_only = true;
    }
    output.print(&Answer::Get(response))
}

/// Puts the pieces together; the last one has what is said once.
async fn stream(client: &Client, request: pb::RangeRequest) -> Result<pb::RangeResponse, Failure> {
    let mut pieces = ask!(client, Reading, kv.range_stream(request))?;
    let mut whole = pb::RangeResponse::default();
    while let Some(piece) = pieces.message().await? {
        let piece = piece.range_response.unwrap_or_default();
        whole.kvs.extend(piece.kvs);
        if piece.header.is_some() {
            (whole.header, whole.more, whole.count) = (piece.header, piece.more, piece.count);
        }
    }
    Ok(whole)
}

/// Reads the words and flags of `get`, also as a line of a transaction.
pub fn request(invocation: &Invocation) -> Result<pb::RangeRequest, Failure> {
    let prefix = invocation.flag("prefix");
    let from_key = invocation.flag("from-key");
    let words = &invocation.arguments;
    let Some(key) = words.first() else {
        return Err(Failure::arguments(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    };
    exclusive(prefix && from_key, "--prefix", "--from-key")?;
    let (keys_only, count_only) = (invocation.flag("keys-only"), invocation.flag("count-only"));
    exclusive(keys_only && count_only, "--keys-only", "--count-only")?;
    let serializable = is_serializable(&invocation.text("consistency"))?;
    let mut range_end = Bytes::new();
    if let Some(end) = words.get(1) {
        if prefix || from_key {
            return Err(Failure::arguments(TOO_MANY));
        }
        range_end = end.clone().into();
    }
    let (order, target) = sorting(invocation)?;
    let (key, range_end) = range(key, range_end, prefix, from_key);
    let (created, changed) =
        (limits(invocation, "create", "Create")?, limits(invocation, "mod", "Mod")?);
    Ok(pb::RangeRequest {
        key,
        range_end,
        limit: invocation.integer("limit"),
        revision: invocation.integer("rev").max(0),
        sort_order: order as i32,
        sort_target: target as i32,
        serializable,
        keys_only,
        count_only,
        min_create_revision: created.0,
        max_create_revision: created.1,
        min_mod_revision: changed.0,
        max_mod_revision: changed.1,
    })
}

pub const TOO_MANY: &str =
    "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";

pub fn exclusive(both: bool, one: &str, other: &str) -> Result<(), Failure> {
    match both {
        true => Err(Failure::arguments(format!(
            "`{one}` and `{other}` cannot be set at the same time, choose one"
        ))),
        false => Ok(()),
    }
}

/// The range that a key and its flags mean. An empty key stands for the least there is.
pub fn range(key: &str, range_end: Bytes, prefix: bool, from_key: bool) -> (Bytes, Bytes) {
    match (key, prefix, from_key) {
        (key, false, false) => (key.to_owned().into(), range_end),
        ("", ..) => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        (key, true, _) => (key.to_owned().into(), go::prefix_end(key.as_bytes()).into()),
        (key, ..) => (key.to_owned().into(), Bytes::from_static(b"\0")),
    }
}

pub fn is_serializable(consistency: &str) -> Result<bool, Failure> {
    match consistency {
        "s" => Ok(true),
        "l" => Ok(false),
        other => Err(Failure::new(
            failure::BAD_FEATURE,
            format!("unknown consistency flag {}", go::quote(other.as_bytes())),
        )),
    }
}

fn sorting(invocation: &Invocation) -> Result<(SortOrder, SortTarget), Failure> {
    let (order, target) = (invocation.text("order"), invocation.text("sort-by"));
    let bad = |message: String| Err(Failure::new(failure::BAD_FEATURE, message));
    let order = match order.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return bad(format!("bad sort order {order}")),
    };
    let target = match target.to_uppercase().as_str() {
        "CREATE" => SortTarget::Create,
        "" | "KEY" => SortTarget::Key,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return bad(format!("bad sort target {target}")),
    };
    // etcd's client asks for the order that keys have anyway by asking for none.
    match (order, target) {
        (SortOrder::Ascend, SortTarget::Key) => Ok((SortOrder::None, target)),
        sorting => Ok(sorting),
    }
}

/// The least and the greatest revision that is wanted; 0 for any.
fn limits(invocation: &Invocation, flag: &str, name: &str) -> Result<(i64, i64), Failure> {
    let least = invocation.integer(&format!("min-{flag}-rev")).max(0);
    let most = invocation.integer(&format!("max-{flag}-rev")).max(0);
    match most > 0 && least > most {
        true => Err(Failure::new(
            failure::BAD_FEATURE,
            format!("getMin{name}Rev(={least}) > getMax{name}Rev(={most})"),
        )),
        false => Ok((least, most)),
    }
}
