//! The program `instar`: reads what the operator wants, and runs the server.

use std::process::ExitCode;

use host::config::{Config, Invocation};
use host::{logging, server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let log = match logging::set_up(&config.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    logging::announce(&config);
    let ended = server::run(*config);
    if let Err(error) = &ended {
        tracing::error!(error = %error, fatal = true, "the server has ended");
    }
    log.flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
