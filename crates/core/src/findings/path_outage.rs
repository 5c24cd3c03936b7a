//! The answers to a service's clients do not arrive: attempts fail in the place of those that
//! usually complete. The rule is that of [`Detector::outage`].
//!
//! [`Detector::outage`]: crate::detect::Detector::outage

use crate::findings::{Onset, Room};

/// Clients that do not get through.
#[derive(Clone, Copy, Debug)]
pub struct PathOutage {
    /// Handshakes per second that complete while all is well.
    pub usual_rate: f64,
    /// Share of the failing sources that completed a handshake before.
    pub known: f64,
}

impl Room for PathOutage {
    const TITLE: &'static str = "path outage";
    const EVENT: u32 = 7;
    const CATEGORY: &'static str = "Misc activity";

    fn sentence(&self, onset: &Onset) -> String {
        format!(
            "Answers of {} do not arrive: {:.0} % of the attempts complete, where {:.0}/s usually \
             do; {:.0} % of the clients that fail completed before.",
            onset.place(),
            onset.completed(),
            self.usual_rate,
            100.0 * self.known
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec![
            "Look for a fault on the way back to the clients: routes, a link, a packet filter that \
             drops SYN-ACKs. Do not block the clients, they are real."
                .to_owned(),
        ]
    }
}
