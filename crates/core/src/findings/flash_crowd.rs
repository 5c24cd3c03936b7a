//! Many more clients than usual, who do complete. The rule is that of [`Detector::is_crowded`].
//!
//! [`Detector::is_crowded`]: crate::detect::Detector::is_crowded

use crate::findings::{Onset, Room};

/// A flash crowd: its figures are all in the evidence.
#[derive(Clone, Copy, Debug)]
pub struct FlashCrowd;

impl Room for FlashCrowd {
    const TITLE: &'static str = "flash crowd";
    const EVENT: u32 = 2;
    const CATEGORY: &'static str = "Misc activity";

    fn sentence(&self, onset: &Onset) -> String {
        format!(
            "{:.0} SYN/s arrive at {}, far more than usual, and {:.0} % of the handshakes complete: \
             many clients, not an attack.",
            onset.evidence.syn_rate.value,
            onset.place(),
            onset.completed()
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec!["No defence is needed; watch the capacity of the service.".to_owned()]
    }
}
