//! Parse arguments, run, map the outcome to an exit code; nothing else.

use std::io::{self, Write};
use std::process::ExitCode;

use synwatch::app::{check_config, daemon, logging, once, replay};
use synwatch::cli::{Cli, Command};
use synwatch::config::Config;
use synwatch_core::observe::Status;

fn main() -> ExitCode {
    let cli = match Cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(stop) => return stop.report().into(),
    };
    let status = run(&cli).unwrap_or_else(|error| {
        // Where nobody reads standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "synwatch: {}", one_line(&error.to_string()));
        Status::Unknown
    });
    status.exit_code().into()
}

/// A message that a file name with control characters in it cannot break.
fn one_line(message: &str) -> String {
    message
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

fn run(cli: &Cli) -> Result<Status, Box<dyn std::error::Error>> {
    if cli.command == Command::CheckConfig {
        check_config::run(cli.config.as_deref(), &cli.overrides, &mut io::stdout().lock())?;
        return Ok(Status::Ok);
    }
    let config = Config::load(cli.config.as_deref(), &cli.overrides)?;
    Ok(match &cli.command {
        Command::Daemon => {
            daemon::run(&config)?;
            Status::Ok
        }
        Command::Once { duration, output } => {
            logging::start(&config.log);
            once::run(&config, duration.get(), output)?
        }
        Command::Replay { files, output } => {
            logging::start(&config.log);
            replay::run(&config, files, output)?
        }
        Command::CheckConfig => Status::Ok,
    })
}
