use super::*;
use crate::wire::{Address, OptionLayout};

/// A segment of the connection that all tests are about.
pub(crate) fn segment(flags: Flags, seq: u32, ack: u32) -> Segment {
    Segment {
        source: Address::v4([198, 51, 100, 7]),
        destination: Address::v4([192, 0, 2, 10]),
        source_port: 40_000,
        destination_port: 443,
        seq: SeqNumber(seq),
        ack: SeqNumber(ack),
        flags,
        window: 64_240,
        payload_len: 0,
        ttl: 64,
        mss: None,
        options: OptionLayout::default(),
    }
}
