//! The library's tests, over tables in memory: against the naive model, rule by rule, and with damaged bytes.

mod alarms;
mod bytes;
mod model;
mod rules;
mod store;

/// A number from the environment.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
