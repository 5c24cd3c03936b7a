//! What synwatch asks of the system for itself: fewer privileges, a sandbox, a service manager.

pub mod privileges;
pub mod sandbox;
pub mod service;
