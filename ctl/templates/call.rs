//! A module that counts, to begin with.

use instar_sdk::{Module, Moment, Rejection, Served, export, json, kv};

pub struct Own;

/// A prefix that the module is to be granted.
const PREFIX: &str = "/{name}/";

impl Module for Own {
    const NAME: &'static str = "{name}";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SERVES: Served = Served::CALL;

    fn call(procedure: &str, argument: &[u8], _moment: Moment) -> Result<Vec<u8>, Rejection> {
        match procedure {
            "add" => json(argument, add),
            _ => Err(Rejection::no_procedure(procedure)),
        }
    }
}

fn add(by: u64) -> Result<u64, Rejection> {
    let key = format!("{PREFIX}count");
    let before: u64 = kv::get(&key)?.map_or(Ok(0), |kv| kv.json())?;
    kv::put_json(&key, &(before + by))?;
    Ok(before + by)
}

export!(Own);

#[cfg(test)]
mod tests {
    use instar_sdk::testing::Host;

    use super::*;

    #[test]
    fn it_counts() {
        let mut host = Host::granting([PREFIX]);
        assert_eq!(host.call::<Own>("add", "2").unwrap(), b"2");
        assert_eq!(host.call::<Own>("add", "3").unwrap(), b"5");
        assert_eq!(host.value("/{name}/count"), Some(&b"5"[..]));
    }
}
