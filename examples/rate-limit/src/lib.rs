//! A rate limiter: a bucket of tokens a key, filled with replicated time.
//!
//! How a bucket is filled is a value that any etcd client writes under the module's prefix, `<prefix><bucket>`:
//! `{"capacity": 10, "per_second": 5}`. What is left in it is the module's own, so that watchers of the configuration
//! are not woken by every request.

use instar_sdk::{Code, Module, Moment, Rejection, Served, export, json, kv, store};
use serde::{Deserialize, Serialize};

/// Where the buckets' configuration is.
const PREFIX: &str = "/limits/";
/// Tokens are counted in thousandths, so that time of a millisecond counts for something.
const PARTS: u64 = 1_000;

const LEVELS: store::Table<Level> = store::Table::new("level");

pub struct RateLimit;

#[derive(Serialize, Deserialize)]
struct Bucket {
    capacity: u64,
    per_second: u64,
}

/// What was left of a bucket at a moment.
#[derive(Serialize, Deserialize)]
struct Level {
    parts: u64,
    time_ms: u64,
}

#[derive(Deserialize)]
struct Take {
    key: String,
    n: u64,
}

#[derive(Serialize)]
struct Taken {
    allowed: bool,
    left: u64,
    /// How long to wait until so many tokens are there; none if that will never be.
    retry_after_ms: Option<u64>,
}

impl Module for RateLimit {
    const NAME: &'static str = "rate-limit";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SERVES: Served = Served::CALL;

    fn call(procedure: &str, argument: &[u8], moment: Moment) -> Result<Vec<u8>, Rejection> {
        match procedure {
            "take" => json(argument, |take| self::take(take, moment)),
            "configure" => json(argument, configure),
            _ => Err(Rejection::no_procedure(procedure)),
        }
    }
}

fn take(take: Take, moment: Moment) -> Result<Taken, Rejection> {
    let Some(configured) = kv::get(format!("{PREFIX}{}", take.key))? else {
        let message = format!("there is no bucket {PREFIX}{}", take.key);
        return Err(Rejection::new(Code::NotFound, message));
    };
    let bucket: Bucket = configured.json()?;
    let full = bucket.capacity.saturating_mul(PARTS);
    let parts = match LEVELS.get(&take.key)? {
        None => full,
        Some(level) => {
            let passed_ms = moment.time_ms.saturating_sub(level.time_ms);
            // A token a second is a part a millisecond.
            level.parts.saturating_add(passed_ms.saturating_mul(bucket.per_second)).min(full)
        }
    };
    let wanted = take.n.saturating_mul(PARTS);
    let allowed = wanted <= parts;
    let left = if allowed { parts - wanted } else { parts };
    LEVELS.put(&take.key, &Level { parts: left, time_ms: moment.time_ms })?;
    let retry_after_ms = match allowed {
        true => Some(0),
        false if wanted > full || bucket.per_second == 0 => None,
        false => Some((wanted - parts).div_ceil(bucket.per_second)),
    };
    Ok(Taken { allowed, left: left / PARTS, retry_after_ms })
}

#[derive(Deserialize)]
struct Configure {
    key: String,
    #[serde(flatten)]
    bucket: Bucket,
}

fn configure(configure: Configure) -> Result<(), Rejection> {
    kv::put_json(format!("{PREFIX}{}", configure.key), &configure.bucket)
}

export!(RateLimit);

#[cfg(test)]
mod tests {
    use instar_sdk::testing::Host;

    use super::*;

    fn host() -> Host {
        let mut host = Host::granting([PREFIX]);
        let bucket = r#"{"key":"api","capacity":2,"per_second":4}"#;
        host.call::<RateLimit>("configure", bucket).unwrap();
        host
    }

    fn take(host: &mut Host, n: u64) -> String {
        let argument = format!(r#"{{"key":"api","n":{n}}}"#);
        String::from_utf8(host.call::<RateLimit>("take", &argument).unwrap()).unwrap()
    }

    #[test]
    fn a_bucket_empties_and_fills_with_time() {
        let mut host = host();
        assert_eq!(host.value("/limits/api"), Some(&br#"{"capacity":2,"per_second":4}"#[..]));
        assert_eq!(take(&mut host, 2), r#"{"allowed":true,"left":0,"retry_after_ms":0}"#);
        assert_eq!(take(&mut host, 1), r#"{"allowed":false,"left":0,"retry_after_ms":250}"#);
        host.pass_ms(250);
        assert_eq!(take(&mut host, 1), r#"{"allowed":true,"left":0,"retry_after_ms":0}"#);
        host.pass_ms(60_000);
        assert_eq!(take(&mut host, 3), r#"{"allowed":false,"left":2,"retry_after_ms":null}"#);
    }

    #[test]
    fn taking_makes_no_revision() {
        let mut host = host();
        let revision = host.revision();
        take(&mut host, 1);
        assert_eq!(host.revision(), revision);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let mut host = host();
        let refused = |host: &mut Host, procedure: &str, argument: &str| {
            host.call::<RateLimit>(procedure, argument).unwrap_err().code
        };
        assert_eq!(refused(&mut host, "take", r#"{"key":"none","n":1}"#), Code::NotFound);
        assert_eq!(refused(&mut host, "take", "[]"), Code::InvalidArgument);
        assert_eq!(refused(&mut host, "give", "{}"), Code::Unimplemented);
    }
}
