//! The classic BPF program that keeps the kernel from passing up what nobody wants to look at.
//!
//! It passes segments of TCP with SYN, FIN or RST, and those without payload; of a bulk transfer
//! that leaves the acknowledgements. Of those it may be told to pass certain ports only, and under load
//! only a sample of the flows, each of them whole: then it computes the [`Rank`](crate::flow::Rank) of the
//! flow just as user space does.
//!
//! User space has the last word. Where the program cannot tell (IPv6 extension headers) it passes the
//! packet. One program serves all interfaces: it asks for the device's type, and keeps the offset of the
//! header at hand in the index register, relative to the frame on Ethernet and to the kernel's idea of the
//! network header (`SKF_NET_OFF`) on everything else.

mod assembler;

use std::collections::BTreeSet;

use libc::sock_filter;

use self::assembler::{
    ADD, ADD_X, AND, Assembler, LD_ABS_H, LD_ABS_W, LD_IMM, LD_IND_B, LD_IND_H, LD_IND_W, LD_MEM,
    LDX_IMM, LDX_MEM, LSH, Label, MUL, RET, RSH, ST, STX, TAX, TXA, XOR_X, ancillary,
};
use crate::capture::Selection;
use crate::flow::{Ranks, Sampling};

/// Octets kept of each frame: Ethernet, two VLAN tags, and IPv4 and TCP with all their options
/// take 142.
pub const SNAP_LENGTH: u32 = 160;

/// What the kernel passes up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Also loopback devices, each packet once: as it is received.
    pub loopback: bool,
    /// Only flows with one of these ports at an end; none of them is all.
    pub ports: Vec<u16>,
    /// Of what is left, what is wanted at the moment.
    pub selection: Selection,
}

impl Filter {
    /// The program, for `SO_ATTACH_FILTER`. It returns the octets to keep, 0 to drop.
    ///
    /// What leaves it first is what there is most of: segments with data.
    #[must_use]
    pub fn program(&self) -> Vec<sock_filter> {
        let mut asm = Assembler::default();
        self.link(&mut asm);
        self.network(&mut asm);
        self.transport(&mut asm);
        if !self.ports.is_empty() {
            self.ports(&mut asm);
        }
        if let Some((ranks, sampling)) = self.sampling() {
            ends(&mut asm, ranks);
            sample(&mut asm, ranks, sampling);
        }
        asm.label(Label::Accept);
        asm.op(RET, SNAP_LENGTH);
        asm.label(Label::Drop);
        asm.op(RET, 0);
        asm.finish()
    }

    /// The sampling, where it leaves anything out.
    fn sampling(&self) -> Option<&(Ranks, Sampling)> {
        self.selection.flows.as_ref().filter(|(_, sampling)| !sampling.is_exact())
    }

    /// From the beginning of the frame to the IP header, whose offset is then in X.
    fn link(&self, asm: &mut Assembler) {
        use Label::{Drop, Ethernet, Ipv4, Ipv6, Loopback, Next, Tag};

        asm.op(LD_ABS_W, ancillary(libc::SKF_AD_HATYPE));
        asm.jump_if_equal(libc::ARPHRD_ETHER.into(), Ethernet, Next);
        asm.jump_if_equal(libc::ARPHRD_LOOPBACK.into(), Loopback, Next);
        asm.op(LDX_IMM, libc::SKF_NET_OFF.cast_unsigned());
        asm.op(LD_ABS_W, ancillary(libc::SKF_AD_PROTOCOL));
        asm.jump_if_equal(ETHERTYPE_IPV4, Ipv4, Next);
        asm.jump_if_equal(ETHERTYPE_IPV6, Ipv6, Drop);

        asm.label(Loopback);
        if self.loopback {
            asm.op(LD_ABS_W, ancillary(libc::SKF_AD_PKTTYPE));
            asm.jump_if_equal(libc::PACKET_OUTGOING.into(), Drop, Next);
        } else {
            asm.jump(Drop);
        }

        // The tag that the kernel took off is not in the data; up to two more may be.
        asm.label(Ethernet);
        for (offset, tag) in [(12, Tag(16)), (16, Tag(20)), (20, Drop)] {
            asm.label(Tag(offset));
            asm.op(LD_ABS_H, offset);
            asm.op(LDX_IMM, offset + 2);
            asm.jump_if_equal(ETHERTYPE_IPV4, Ipv4, Next);
            asm.jump_if_equal(ETHERTYPE_IPV6, Ipv6, Next);
            let [customer, provider] = ETHERTYPES_VLAN;
            asm.jump_if_equal(customer, tag, Next);
            asm.jump_if_equal(provider, tag, Drop);
        }
    }

    /// From the IP header to the TCP header, whose offset is then in X, that of the packet's end in
    /// scratch memory.
    fn network(&self, asm: &mut Assembler) {
        use Label::{Accept, Drop, Ipv4, Ipv6, Next, Tcp, TcpOverIpv6};

        asm.label(Ipv4);
        asm.op(LD_IND_B, 9);
        asm.jump_if_equal(TCP, Next, Drop);
        asm.op(LD_IND_H, 6);
        asm.jump_if_set(FRAGMENT_OFFSET, Drop, Next);
        if self.sampling().is_some() {
            asm.op(STX, IP_HEADER);
        }
        asm.op(LD_IND_H, 2);
        asm.op(ADD_X, 0);
        asm.op(ST, PACKET_END);
        asm.op(LD_IND_B, 0);
        asm.op(AND, 0xf);
        asm.op(LSH, 2);
        asm.op(ADD_X, 0);
        asm.op(TAX, 0);
        asm.jump(Tcp);

        asm.label(Ipv6);
        asm.op(LD_IND_B, 6);
        asm.jump_if_equal(TCP, TcpOverIpv6, Next);
        // What follows an extension header is for the decoder to find.
        for extension in EXTENSION_HEADERS {
            asm.jump_if_equal(extension, Accept, Next);
        }
        asm.jump(Drop);
        asm.label(TcpOverIpv6);
        if self.sampling().is_some() {
            asm.op(STX, IP_HEADER);
        }
        asm.op(LD_IND_H, 4);
        asm.op(ADD_X, 0);
        asm.op(ADD, 40);
        asm.op(ST, PACKET_END);
        asm.op(TXA, 0);
        asm.op(ADD, 40);
        asm.op(TAX, 0);
    }

    /// Drops segments with data, unless they are wanted.
    fn transport(&self, asm: &mut Assembler) {
        use Label::{Drop, Next, Tcp, Wanted};

        asm.label(Tcp);
        if !self.ports.is_empty() || self.sampling().is_some() {
            asm.op(STX, TCP_HEADER);
        }
        // Reading the flags proves that there is a TCP header.
        asm.op(LD_IND_B, 13);
        if !self.selection.data {
            asm.jump_if_set(SYN_FIN_RST, Wanted, Next);
            // Without payload the TCP header ends where the packet does. The total length of 0 that the
            // kernel writes into what it will segment later (BIG TCP) never matches: it is data.
            asm.op(LD_IND_B, 12);
            asm.op(AND, 0xf0);
            asm.op(RSH, 2);
            asm.op(ADD_X, 0);
            asm.op(LDX_MEM, PACKET_END);
            asm.jump_if_equal_to_x(Wanted, Drop);
        }
        asm.label(Wanted);
    }

    /// Drops flows without a port that is wanted.
    fn ports(&self, asm: &mut Assembler) {
        use Label::{Drop, Next, WantedPort};

        asm.op(LDX_MEM, TCP_HEADER);
        for offset in PORTS {
            asm.op(LD_IND_H, offset);
            for port in &self.ports {
                asm.jump_if_equal((*port).into(), WantedPort, Next);
            }
        }
        asm.jump(Drop);
        asm.label(WantedPort);
    }
}

/// Computes [`Ranks::end`] of both ends into scratch memory.
fn ends(asm: &mut Assembler, ranks: &Ranks) {
    use Label::{Ends, EndsOfIpv6, LastWord, Next, NotMapped};

    asm.op(LDX_MEM, IP_HEADER);
    asm.op(LD_IND_B, 0);
    asm.op(AND, 0xf0);
    asm.jump_if_equal(0x60, EndsOfIpv6, Next);
    for (address, port, end) in [(12, PORTS[0], ENDS[0]), (16, PORTS[1], ENDS[1])] {
        begin_end(asm, ranks);
        hash_word(asm, ranks, address);
        finish_end(asm, ranks, port, end);
    }
    asm.jump(Ends);

    asm.label(EndsOfIpv6);
    for (address, port, end) in [(8, PORTS[0], ENDS[0]), (24, PORTS[1], ENDS[1])] {
        let words = [address, address + 4, address + 8];
        begin_end(asm, ranks);
        // User space takes an IPv4-mapped address for the IPv4 address. Nobody sends one but an attacker,
        // who would be glad to get by unsampled.
        asm.op(LDX_MEM, IP_HEADER);
        for (word, mapped) in words.into_iter().zip([0, 0, 0xffff]) {
            asm.op(LD_IND_W, word);
            asm.jump_if_equal(mapped, Next, NotMapped(address));
        }
        asm.jump(LastWord(address));
        asm.label(NotMapped(address));
        for word in words {
            hash_word(asm, ranks, word);
        }
        asm.label(LastWord(address));
        hash_word(asm, ranks, address + 12);
        finish_end(asm, ranks, port, end);
    }
    asm.label(Ends);
}

fn begin_end(asm: &mut Assembler, ranks: &Ranks) {
    asm.op(LD_IMM, ranks.seed);
    asm.op(ST, HASH);
}

/// Takes the word at an offset into the IP header into the hash.
fn hash_word(asm: &mut Assembler, ranks: &Ranks, offset: u32) {
    asm.op(LDX_MEM, IP_HEADER);
    asm.op(LD_IND_W, offset);
    asm.op(LDX_MEM, HASH);
    asm.op(XOR_X, 0);
    asm.op(MUL, ranks.odd[0]);
    fold(asm, 16);
    asm.op(ST, HASH);
}

/// Takes the port into the hash and stores it; it is in A then.
fn finish_end(asm: &mut Assembler, ranks: &Ranks, port: u32, end: u32) {
    asm.op(LDX_MEM, TCP_HEADER);
    asm.op(LD_IND_H, port);
    asm.op(LDX_MEM, HASH);
    asm.op(ADD_X, 0);
    asm.op(MUL, ranks.odd[1]);
    fold(asm, 15);
    asm.op(ST, end);
}

/// A: A ^ A >> shift.
fn fold(asm: &mut Assembler, shift: u32) {
    asm.op(TAX, 0);
    asm.op(RSH, shift);
    asm.op(XOR_X, 0);
}

/// Drops flows by their rank ([`Ranks::of`]) at the level that [`Sampling::level`] gives them. The second
/// end is in A.
fn sample(asm: &mut Assembler, ranks: &Ranks, sampling: &Sampling) {
    use Label::{Accept, Drop, Next, Sampled};

    asm.op(LDX_MEM, ENDS[0]);
    asm.op(ADD_X, 0);
    asm.op(MUL, ranks.odd[2]);
    fold(asm, 16);
    asm.op(MUL, ranks.odd[3]);
    asm.op(ST, RANK);
    for (heavy, level) in &sampling.heavy {
        for end in ENDS {
            asm.op(LD_MEM, end);
            asm.jump_if_equal(*heavy, Sampled(*level), Next);
        }
    }
    let mut levels: BTreeSet<_> = sampling.heavy.iter().map(|(_, level)| *level).collect();
    levels.remove(&sampling.general);
    for level in std::iter::once(sampling.general).chain(levels) {
        asm.label(Sampled(level));
        asm.op(LD_MEM, RANK);
        asm.jump_if_set(level.mask(), Drop, Accept);
    }
}

const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
/// IEEE 802.1Q and 802.1ad tags.
const ETHERTYPES_VLAN: [u32; 2] = [0x8100, 0x88a8];
const TCP: u32 = 6;
/// Hop-by-hop options, routing, fragment, destination options (RFC 8200, section 4.1).
const EXTENSION_HEADERS: [u32; 4] = [0, 43, 44, 60];
const FRAGMENT_OFFSET: u32 = 0x1fff;
const SYN_FIN_RST: u32 = 0x02 | 0x01 | 0x04;
/// Where in the TCP header the ports of the sender and of the receiver are.
const PORTS: [u32; 2] = [0, 2];

// Words of scratch memory. Three are offsets: of the IP header, of the TCP header, of the packet's end.
const IP_HEADER: u32 = 0;
const TCP_HEADER: u32 = 1;
const PACKET_END: u32 = 2;
/// What there is of the hash of an end.
const HASH: u32 = 3;
/// The hashes of both ends.
const ENDS: [u32; 2] = [4, 5];
const RANK: u32 = 6;

#[cfg(test)]
mod tests;
