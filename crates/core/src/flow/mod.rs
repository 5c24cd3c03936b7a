//! Segments move handshakes: the connection state machine and the bounded table that holds it.
//!
//! [`Tracker`] is the way in. A flow is found by a keyed hash that is the same for both directions
//! (`key`), lives in a set-associative `table` of fixed size, moves through the states of RFC 9293
//! (`state`) and leaves without anybody walking the table: `calendar` counts what is due when,
//! `patience` says when a half-open connection is.

mod calendar;
mod counters;
mod key;
mod patience;
mod sampling_hash;
mod standing;
mod state;
mod table;
mod tracker;

pub use calendar::{BIN, Bins};
pub use counters::{HalfOpen, StateName, flow_counts};
pub use key::{Endpoint, FlowHash, FlowKey, HashKey, Hasher};
pub use patience::{FirstRepeats, Learner, Patience};
pub use sampling_hash::{End, Sampling, SamplingHash, SamplingKey, SamplingLevel};
pub use standing::Standing;
pub use state::Role;
#[cfg(test)]
pub(crate) use state::tests::segment as state_test_segment;
pub use table::{Fate, Fill, ServiceId};
pub use tracker::{Arrival, Event, Lookup, Micros, Seen, Tracker};
