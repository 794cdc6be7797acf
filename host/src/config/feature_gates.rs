//! The names that `--feature-gates` may carry. None of them does anything here: what they switch is either always so, or
//! part of a storage that is not this one.

const GATES: [&str; 11] = [
    "AllAlpha",
    "AllBeta",
    "CompactHashCheck",
    "FastLeaseKeepAlive",
    "InitialCorruptCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
];

/// # Errors
/// What is wrong with `text`, in the words of etcd's featuregate package.
pub(super) fn check(text: &str) -> Result<(), String> {
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("missing bool value for {pair}"));
        };
        let (name, value) = (name.trim(), value.trim());
        if !["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"]
            .contains(&value)
        {
            return Err(format!(
                "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
            ));
        }
        if !GATES.contains(&name) {
            return Err(format!("unrecognized feature gate: {name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_known_or_refused() {
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("InitialCorruptCheck=true, PriorityRequest=0,"), Ok(()));
        assert_eq!(check("Foo=true"), Err("unrecognized feature gate: Foo".to_owned()));
        assert_eq!(check("AllBeta"), Err("missing bool value for AllBeta".to_owned()));
        assert!(check("AllBeta=maybe").is_err());
    }
}
