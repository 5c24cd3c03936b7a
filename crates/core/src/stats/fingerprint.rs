//! What SYNs look like.

use crate::model::Fingerprint;
use crate::wire::{Address, OptionLayout, Segment};

/// The part of a SYN that tells its sender's TCP stack or tool apart.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct SynFingerprint {
    /// Time to live or hop limit on arrival.
    pub ttl: u8,
    /// Window field.
    pub window: u16,
    /// Maximum segment size option.
    pub mss: Option<u16>,
    /// Option kinds in order.
    pub options: OptionLayout,
    /// Whether the low half of the initial sequence number is zero: some tools make it so, one
    /// honest SYN in 65,536 has it.
    pub round_isn: bool,
}

impl SynFingerprint {
    /// What `syn` looks like.
    #[must_use]
    pub const fn of(syn: &Segment) -> Self {
        let round_isn = syn.seq.0 & 0xffff == 0;
        Self { ttl: syn.ttl, window: syn.window, mss: syn.mss, options: syn.options, round_isn }
    }

    /// Whether it is the one that evidence shows.
    pub(super) fn is(&self, fingerprint: &Fingerprint) -> bool {
        let Fingerprint { ttl, window, mss, options, .. } = *fingerprint;
        (self.ttl, self.window, self.mss, self.options) == (ttl, window, mss, options)
    }
}

/// A SYN as a packet filter sees it.
#[derive(Clone, Copy, Debug)]
pub struct SeenSyn {
    /// Who sent it.
    pub source: Address,
    /// What it looked like.
    pub fingerprint: SynFingerprint,
}
