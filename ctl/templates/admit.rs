//! A module that refuses what is no number, to begin with.

use instar_sdk::{Module, Moment, Operation, Rejection, Served, export};

pub struct Own;

impl Module for Own {
    const NAME: &'static str = "{name}";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SERVES: Served = Served::ADMIT;

    fn admit(operations: &[Operation], _moment: Moment) -> Result<(), Rejection> {
        for operation in operations {
            let Operation::Put { key, value, .. } = operation else { continue };
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<f64>().ok());
            if number.is_none() {
                let key = String::from_utf8_lossy(key);
                return Err(Rejection::failed_precondition(format!("{key} takes numbers only")));
            }
        }
        Ok(())
    }
}

export!(Own);

#[cfg(test)]
mod tests {
    use instar_sdk::testing::Host;

    use super::*;

    #[test]
    fn numbers_only() {
        let mut host = Host::granting(["/{name}/"]);
        host.put::<Own>("/{name}/a", "7").unwrap();
        host.put::<Own>("/{name}/a", "seven").unwrap_err();
        host.put::<Own>("/elsewhere", "seven").unwrap();
        assert_eq!(host.value("/{name}/a"), Some(&b"7"[..]));
    }
}
