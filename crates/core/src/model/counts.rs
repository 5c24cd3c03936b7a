//! Counts of connections.

use crate::model::{Estimate, figures};

figures! {
    /// Tracked connections by their state (RFC 9293, section 3.3.2), seen from the end that
    /// answered the SYN; where that end is already closed, from the other one.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub struct FlowCounts {
        /// Requests without an answer so far.
        pub syn_sent as "SYN_SENT" with SYN_SENT_stderr: Estimate<u64>,
        /// Half-open: answered and not acknowledged.
        pub syn_recv as "SYN_RECV" with SYN_RECV_stderr: Estimate<u64>,
        /// Open.
        pub established as "ESTABLISHED" with ESTABLISHED_stderr: Estimate<u64>,
        /// FIN sent, not acknowledged.
        pub fin_wait_1 as "FIN_WAIT_1" with FIN_WAIT_1_stderr: Estimate<u64>,
        /// FIN sent and acknowledged.
        pub fin_wait_2 as "FIN_WAIT_2" with FIN_WAIT_2_stderr: Estimate<u64>,
        /// Both sent FIN at once, not acknowledged yet.
        pub closing as "CLOSING" with CLOSING_stderr: Estimate<u64>,
        /// FIN received, own FIN not sent.
        pub close_wait as "CLOSE_WAIT" with CLOSE_WAIT_stderr: Estimate<u64>,
        /// FIN received, own FIN sent, not acknowledged.
        pub last_ack as "LAST_ACK" with LAST_ACK_stderr: Estimate<u64>,
        /// Closed by both, waiting out old segments.
        pub time_wait as "TIME_WAIT" with TIME_WAIT_stderr: Estimate<u64>,
    }
}

impl FlowCounts {
    /// The states' names and counts, in the order of a connection's life.
    #[must_use]
    pub const fn by_state(&self) -> [(&'static str, Estimate<u64>); 9] {
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
