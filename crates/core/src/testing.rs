//! What tests and benchmarks look at from outside. Not part of the interface: it changes at any
//! time.

pub use crate::detect::{Detector, Observation};
pub use crate::findings::{Configured, Filter, Grounds, Onset, Sources, SynFlood};
pub use crate::stats::{SeenSyn, Step, SynFingerprint};
