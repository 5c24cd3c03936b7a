//! Parse arguments, run, map the outcome to an exit code; nothing else.

use std::io;
use std::process::ExitCode;

use synwatch::app::check_config;
use synwatch::cli::{Cli, Command};
use synwatch::observe::Status;

fn main() -> ExitCode {
    let cli = match Cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(stop) => return stop.report().into(),
    };
    let result = match cli.command {
        Command::CheckConfig => {
            check_config::run(cli.config.as_deref(), &cli.overrides, &mut io::stdout().lock())
                .map(|()| Status::Ok)
        }
        // The other commands are wired up where their parts meet.
        Command::Daemon | Command::Once { .. } | Command::Replay { .. } => Ok(Status::Unknown),
    };
    match result {
        Ok(status) => status.exit_code().into(),
        Err(error) => {
            eprintln!("synwatch: {error}");
            Status::Unknown.exit_code().into()
        }
    }
}
