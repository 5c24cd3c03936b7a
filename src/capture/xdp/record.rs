//! What the program copies of one frame, `struct record` of `ebpf/handshakes.bpf.c`.

/// Time, interface and length stand before the octets.
const HEADER: usize = 16;

/// A frame as it lies in the ring.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Record<'a> {
    /// When the program saw it: nanoseconds of CLOCK_BOOTTIME.
    pub time: u64,
    /// Interface index.
    pub interface: u32,
    /// Octets on the wire.
    pub length: u32,
    /// The first of them.
    pub data: &'a [u8],
}

/// Reads a record; `None` where it is shorter than its header.
pub(super) fn read(octets: &[u8]) -> Option<Record<'_>> {
    let (header, data) = octets.split_first_chunk::<HEADER>()?;
    let [time @ .., _, _, _, _, _, _, _, _] = *header;
    let [_, _, _, _, _, _, _, _, a, b, c, d, length @ ..] = *header;
    let length = u32::from_ne_bytes(length);
    // What follows the frame is left from a record that lay there before.
    let captured = data.len().min(length as usize);
    Some(Record {
        time: u64::from_ne_bytes(time),
        interface: u32::from_ne_bytes([a, b, c, d]),
        length,
        data: &data[..captured],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAP_LENGTH: usize = 144;

    fn record(length: u32) -> Vec<u8> {
        let mut record = 7_u64.to_ne_bytes().to_vec();
        record.extend(3_u32.to_ne_bytes());
        record.extend(length.to_ne_bytes());
        record.extend((0..SNAP_LENGTH).map(|octet| octet as u8));
        record
    }

    #[test]
    fn a_frame_ends_where_it_did_on_the_wire_or_where_it_was_cut() {
        for (length, captured) in [(54, 54), (143, 143), (144, 144), (9000, 144)] {
            let record = record(length);
            let record = read(&record).unwrap();
            assert_eq!((record.time, record.interface, record.length), (7, 3, length));
            assert_eq!(record.data.len(), captured);
            assert_eq!(record.data[..3], [0, 1, 2]);
        }
    }

    #[test]
    fn a_short_record_is_none() {
        let record = record(9000);
        for length in 0..HEADER {
            assert_eq!(read(&record[..length]), None);
        }
    }
}
