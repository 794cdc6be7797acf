//! The program `instar`: reads what the operator wants, and runs the server.

use std::process::ExitCode;

use host::config::{Config, Invocation};
use host::server;

fn main() -> ExitCode {
    let invocation =
        Config::from_args_and_environment(std::env::args_os().skip(1), std::env::vars_os());
    let config = match invocation {
        Ok(Invocation::Serve(config)) => config,
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(error.exit_code());
        }
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match server::run(*config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "the server has ended");
            ExitCode::FAILURE
        }
    }
}
