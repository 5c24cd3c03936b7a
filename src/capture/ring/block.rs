//! The frames in one block of the ring, read as the octets they are (`struct tpacket_block_desc`,
//! `struct tpacket3_hdr`, `struct sockaddr_ll`; include/uapi/linux/if_packet.h).

use std::mem::offset_of;

use libc::{sockaddr_ll, tpacket_block_desc, tpacket_hdr_v1, tpacket3_hdr};

/// A frame as it lies in the ring.
pub(super) struct Packet<'a> {
    /// Time of capture, seconds since the Unix epoch.
    pub seconds: u32,
    /// Nanoseconds to add to it.
    pub nanoseconds: u32,
    /// Octets on the wire.
    pub original_len: u32,
    /// Interface index.
    pub interface: u32,
    /// `ARPHRD_` type of the interface.
    pub hardware_type: u16,
    /// `PACKET_` type: whom the frame is for, or that it is going out.
    pub packet_type: u8,
    /// Where the network header is in `data`, as far as the kernel knows.
    pub network_offset: usize,
    /// The frame, cut to the length that the filter returned.
    pub data: &'a [u8],
}

/// The address follows the header, at the next multiple of 16 (`TPACKET_ALIGN`).
const ADDRESS: usize = size_of::<tpacket3_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// Header and address together.
const HEADER: usize = ADDRESS + size_of::<sockaddr_ll>();

/// The frames of a block that the kernel has handed over. Ends early where a block contradicts
/// itself.
pub(super) fn packets(block: &[u8]) -> impl Iterator<Item = Packet<'_>> {
    const HEAD: usize = offset_of!(tpacket_block_desc, hdr);
    let count = u32_at(block, HEAD + offset_of!(tpacket_hdr_v1, num_pkts)).unwrap_or(0);
    let mut next = u32_at(block, HEAD + offset_of!(tpacket_hdr_v1, offset_to_first_pkt));
    (0..count).map_while(move |_| {
        let packet = block.get(next? as usize..)?;
        next = u32_at(packet, offset_of!(tpacket3_hdr, tp_next_offset))
            .and_then(|distance| next?.checked_add(distance));
        read(packet)
    })
}

fn read(packet: &[u8]) -> Option<Packet<'_>> {
    let header = packet.first_chunk::<HEADER>()?;
    let u32 = |offset| u32_at(header, offset);
    let u16 = |offset| u16_at(header, offset);
    let start = u16(offset_of!(tpacket3_hdr, tp_mac))?;
    let network = u16(offset_of!(tpacket3_hdr, tp_net))?;
    let length = u32(offset_of!(tpacket3_hdr, tp_snaplen))? as usize;
    Some(Packet {
        seconds: u32(offset_of!(tpacket3_hdr, tp_sec))?,
        nanoseconds: u32(offset_of!(tpacket3_hdr, tp_nsec))?,
        original_len: u32(offset_of!(tpacket3_hdr, tp_len))?,
        interface: u32(ADDRESS + offset_of!(sockaddr_ll, sll_ifindex))?,
        hardware_type: u16(ADDRESS + offset_of!(sockaddr_ll, sll_hatype))?,
        packet_type: header[ADDRESS + offset_of!(sockaddr_ll, sll_pkttype)],
        network_offset: network.saturating_sub(start).into(),
        data: packet.get(start.into()..)?.get(..length)?,
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::ring::map::STATUS;
    use crate::sys::headers::assert_agree;

    #[test]
    fn frames_are_where_the_kernel_puts_them() {
        assert_agree(
            &["linux/if_packet.h"],
            &[
                ("TPACKET_ALIGN(sizeof(struct tpacket3_hdr))", ADDRESS as u64),
                ("TPACKET3_HDRLEN", HEADER as u64),
                ("offsetof(struct tpacket_block_desc, hdr.bh1.block_status)", STATUS as u64),
            ],
        );
    }

    /// A block with one frame of `length` octets for each of `lengths`, laid out as the kernel
    /// does.
    fn block(lengths: &[usize]) -> Vec<u8> {
        let mut block = vec![0; 48];
        block[12..16].copy_from_slice(&u32::try_from(lengths.len()).unwrap().to_ne_bytes());
        block[16..20].copy_from_slice(&48u32.to_ne_bytes());
        for (number, length) in lengths.iter().enumerate() {
            let mut packet = vec![0; 96 + length];
            let distance = u32::try_from(packet.len().next_multiple_of(8)).unwrap();
            packet[0..4].copy_from_slice(&distance.to_ne_bytes());
            packet[4..8].copy_from_slice(&u32::try_from(number).unwrap().to_ne_bytes());
            packet[12..16].copy_from_slice(&u32::try_from(*length).unwrap().to_ne_bytes());
            packet[24..26].copy_from_slice(&82u16.to_ne_bytes());
            packet[26..28].copy_from_slice(&96u16.to_ne_bytes());
            packet[52..56].copy_from_slice(&7u32.to_ne_bytes());
            packet[56..58].copy_from_slice(&1u16.to_ne_bytes());
            packet[58] = libc::PACKET_OUTGOING;
            packet.resize(distance as usize, 0);
            block.extend(packet);
        }
        block
    }

    #[test]
    fn every_frame_of_a_block_is_read() {
        let block = block(&[74, 54, 160]);
        let packets: Vec<_> = packets(&block).collect();
        assert_eq!(packets.len(), 3);
        assert_eq!(packets.iter().map(|p| p.data.len()).collect::<Vec<_>>(), [74, 54, 160]);
        assert_eq!(packets.iter().map(|p| p.seconds).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(packets[2].network_offset, 14);
        assert_eq!(packets[2].interface, 7);
        assert_eq!(packets[2].packet_type, libc::PACKET_OUTGOING);
    }

    #[test]
    fn a_block_that_contradicts_itself_ends_early() {
        let whole = block(&[74, 54]);
        for length in 0..whole.len() {
            assert!(packets(&whole[..length]).count() <= 2);
        }
        let mut far = whole.clone();
        far[48..52].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(packets(&far).count(), 1);
    }
}
