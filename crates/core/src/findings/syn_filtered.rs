//! SYNs to a service that are dropped before they reach its queue. The rule is that of
//! [`Detector::filtered`].
//!
//! [`Detector::filtered`]: crate::detect::Detector::filtered

use crate::findings::{Onset, Room};

/// SYNs that nobody answers, though the queue has room.
#[derive(Clone, Copy, Debug)]
pub struct SynFiltered {
    /// Those per second beyond the usual.
    pub rate: f64,
    /// What is worth a warning.
    pub limit: f64,
}

impl Room for SynFiltered {
    const TITLE: &'static str = "SYNs filtered";
    const EVENT: u32 = 8;
    const CATEGORY: &'static str = "Misc activity";

    fn sentence(&self, onset: &Onset) -> String {
        format!(
            "{:.0} SYN/s to {} get no answer beyond the usual (limit: {:.0}/s), though its SYN queue \
             has room: a packet filter or a rate limit drops them.",
            self.rate,
            onset.place(),
            self.limit
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec![
            "Look at the rules of the packet filter for this port (nft list ruleset) and at rate \
             limits on the way; the application does not see these clients."
                .to_owned(),
        ]
    }
}
