//! Counts of connections.

use std::iter::Sum;

use serde::{Deserialize, Serialize};

use crate::model::FlowCountsStderr;

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
    pub const fn by_state(&self) -> [(&'static str, u64); 9] {
        [
            ("SYN_SENT", self.syn_sent),
            ("SYN_RECV", self.syn_recv),
            ("ESTABLISHED", self.established),
            ("FIN_WAIT_1", self.fin_wait_1),
            ("FIN_WAIT_2", self.fin_wait_2),
            ("CLOSING", self.closing),
            ("CLOSE_WAIT", self.close_wait),
            ("LAST_ACK", self.last_ack),
            ("TIME_WAIT", self.time_wait),
        ]
    }
}
