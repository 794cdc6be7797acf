//! The end-to-end cases: real processes, judged from outside.

mod differential;

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::case::run(&tests::cases![
        differential::same_answers,
        differential::a_planted_difference_is_found,
    ])
}
