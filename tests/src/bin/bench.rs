//! `bench`: see `--help` and docs/benchmark.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tests::bench::run(std::env::args().skip(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}
