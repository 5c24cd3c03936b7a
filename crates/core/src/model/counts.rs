//! Counts of connections.

use std::iter::Sum;

use serde::{Deserialize, Serialize};

use crate::model::FlowCountsStderr;

/// The names of the states in the order of a connection's life.
const STATES: [&str; 9] = [
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT_1",
    "FIN_WAIT_2",
    "CLOSING",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
];

/// Gives each of the numbers, in the order of the states, the name of its state.
pub(super) fn by_state(numbers: [u64; 9]) -> [(&'static str, u64); 9] {
    std::array::from_fn(|place| (STATES[place], numbers[place]))
}

/// Tracked connections by their state (RFC 9293, section 3.3.2), seen from the end that answered
/// the SYN; where that end is already closed, from the other one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub struct FlowCounts {
    /// Requests without an answer so far.
    pub syn_sent: u64,
    /// Half-open: answered and not acknowledged.
    pub syn_recv: u64,
    /// Open.
    pub established: u64,
    /// FIN sent, not acknowledged.
    pub fin_wait_1: u64,
    /// FIN sent and acknowledged.
    pub fin_wait_2: u64,
    /// Both sent FIN at once, not acknowledged yet.
    pub closing: u64,
    /// FIN received, own FIN not sent.
    pub close_wait: u64,
    /// FIN received, own FIN sent, not acknowledged.
    pub last_ack: u64,
    /// Closed by both, waiting out old segments.
    pub time_wait: u64,
    /// Errors, where flows were sampled.
    #[serde(flatten)]
    pub stderr: Option<FlowCountsStderr>,
}

impl Sum for FlowCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, more| Self {
            syn_sent: sum.syn_sent + more.syn_sent,
            syn_recv: sum.syn_recv + more.syn_recv,
            established: sum.established + more.established,
            fin_wait_1: sum.fin_wait_1 + more.fin_wait_1,
            fin_wait_2: sum.fin_wait_2 + more.fin_wait_2,
            closing: sum.closing + more.closing,
            close_wait: sum.close_wait + more.close_wait,
            last_ack: sum.last_ack + more.last_ack,
            time_wait: sum.time_wait + more.time_wait,
            stderr: None,
        })
    }
}

impl FlowCounts {
    /// The states' names and counts, in the order of a connection's life.
    #[must_use]
    pub fn by_state(&self) -> [(&'static str, u64); 9] {
        by_state([
            self.syn_sent,
            self.syn_recv,
            self.established,
            self.fin_wait_1,
            self.fin_wait_2,
            self.closing,
            self.close_wait,
            self.last_ack,
            self.time_wait,
        ])
    }
}
