//! The commands: the only place where the parts are wired together.

pub mod check_config;
