//! `synwatch check-config`: is the configuration valid, and what is in force?

use std::io::{self, Write};
use std::path::Path;

use thiserror::Error;

use crate::config::{self, Config, Overrides};

/// Why the configuration is not printed.
#[derive(Debug, Error)]
pub enum Error {
    /// It is not valid.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Nobody reads it.
    #[error("cannot print the configuration: {0}")]
    Output(#[from] io::Error),
}

/// Validates the configuration that the daemon would start with, and prints it to `out` as TOML.
///
/// # Errors
///
/// Where the configuration is not valid, or `out` does not take it.
pub fn run(path: Option<&Path>, overrides: &Overrides, out: &mut impl Write) -> Result<(), Error> {
    let config = Config::load(path, overrides)?;
    out.write_all(config.to_toml()?.as_bytes())?;
    Ok(out.flush()?)
}
