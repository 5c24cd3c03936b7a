//! Standard errors of counts that were made on a sample of the flows: they stand beside the counts
//! as `<name>_stderr`, and only there where something was sampled.
//!
//! A flow of which one in w is looked at counts for w (Horvitz and Thompson 1952): the count is
//! right on average, and each flow adds w (w - 1) to its variance.

use serde::{Deserialize, Serialize};

use crate::model::counts::by_state;

/// Standard errors of [`crate::document::Totals`], in the units of the totals, rounded up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each is that of the total of its name")]
pub struct TotalsStderr {
    pub syn_stderr: u64,
    pub syn_retransmitted_stderr: u64,
    pub syn_ack_stderr: u64,
    pub handshakes_completed_stderr: u64,
    pub handshakes_reset_stderr: u64,
    pub handshakes_timed_out_stderr: u64,
    pub handshakes_presumed_stderr: u64,
    pub syn_unanswered_stderr: u64,
    pub half_open_stderr: u64,
    pub half_open_peak_stderr: u64,
    pub fin_stderr: u64,
    pub rst_stderr: u64,
}

/// Standard errors of [`super::FlowCounts`], rounded up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each is that of the state of its name")]
pub struct FlowCountsStderr {
    #[serde(rename = "SYN_SENT_stderr")]
    pub syn_sent: u64,
    #[serde(rename = "SYN_RECV_stderr")]
    pub syn_recv: u64,
    #[serde(rename = "ESTABLISHED_stderr")]
    pub established: u64,
    #[serde(rename = "FIN_WAIT_1_stderr")]
    pub fin_wait_1: u64,
    #[serde(rename = "FIN_WAIT_2_stderr")]
    pub fin_wait_2: u64,
    #[serde(rename = "CLOSING_stderr")]
    pub closing: u64,
    #[serde(rename = "CLOSE_WAIT_stderr")]
    pub close_wait: u64,
    #[serde(rename = "LAST_ACK_stderr")]
    pub last_ack: u64,
    #[serde(rename = "TIME_WAIT_stderr")]
    pub time_wait: u64,
}

impl FlowCountsStderr {
    /// The states' names and the errors of their counts, in the order of a connection's life.
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

/// Standard errors of the sampled figures of a service.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each is that of the figure of its name")]
pub struct ServiceStderr {
    pub half_open_stderr: u64,
    pub half_open_unconfirmed_stderr: u64,
    pub syn_stderr: u64,
    pub syn_rate_stderr: f64,
    pub completion_ratio_stderr: f64,
}

/// Standard errors of the sampled figures of a detection's evidence.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each is that of the figure of its name")]
pub struct EvidenceStderr {
    pub syn_rate_stderr: f64,
    pub completion_ratio_stderr: f64,
    pub half_open_peak_stderr: u64,
}

/// The standard error of a count that was made at one weight throughout. One flow more is reckoned
/// with, since none seen need not be none.
#[expect(clippy::cast_precision_loss, reason = "an error need not be exact")]
#[must_use]
pub fn stderr(count: u64, weight: u32) -> f64 {
    ((count as f64 + f64::from(weight)) * f64::from(weight - 1)).sqrt()
}

/// The same as a count, rounded up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative")]
#[must_use]
pub fn rounded_up(error: f64) -> u64 {
    error.ceil() as u64
}
