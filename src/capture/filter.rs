//! The classic BPF program that keeps the kernel from passing up what nobody wants to look at.
//!
//! It passes segments of TCP with SYN, FIN or RST, and those without payload; of a bulk transfer
//! that leaves the acknowledgements. Of those it may be told to pass certain ports only, and under
//! load only a sample of the flows, each of them whole: then it computes the
//! [`SamplingHash`](synwatch_core::sampling::SamplingHash) of the flow just as user space does.
//!
//! User space has the last word. Where the program cannot tell it passes the packet, whole:
//! fragments, which user space joins, authentication headers, and more than two IPv6 extension
//! headers. Of any other packet it knows where the TCP header ends, and keeps that. One program
//! serves all interfaces: it asks for the device's type. It does the usual frames, Ethernet without
//! a tag in the data and IP without options, by fixed offsets, which the kernel compiles to plain
//! loads; an offset that is computed, or relative to the network header (`SKF_NET_OFF`), costs a
//! call of a function for each load.
//!
//! Where several sockets share the traffic, a [second program](fanout()) tells the kernel which of
//! them gets a flow.

mod assembler;
mod fanout;

use std::collections::BTreeSet;

use libc::sock_filter;
use synwatch_core::sampling::{Sampling, SamplingKey};

use crate::capture::Selection;

use self::assembler::{
    ADD, ADD_X, AND, Assembler, BYTE, HALF, LD_IMM, LD_MEM, LDX_IMM, LDX_MEM, LSH, Label, MUL, RET,
    RET_A, RSH, ST, STX, SUB, SUB_X, Size, TAX, TXA, WORD, XOR_X, ancillary,
};
pub use self::fanout::fanout;

/// Octets kept of a usual frame: Ethernet, two VLAN tags, and IPv4 and TCP with all their options
/// take 142. Where the TCP header is found behind other headers, so many from there on.
pub const SNAP_LENGTH: u32 = 160;

/// Octets kept of a packet in which the program does not find the TCP header: all that any has. The
/// ring takes frames up to the size of a block.
pub const WHOLE: u32 = 128 << 10;

/// What the kernel passes up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Only on these interfaces, by index; all where there is no list, and nothing where it is
    /// empty.
    pub interfaces: Option<Vec<u32>>,
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
        if let Some(interfaces) = &self.interfaces {
            keep_to(&mut asm, interfaces);
        }
        link(&mut asm, self.loopback);
        fixed_ipv4(&mut asm, ETHERNET);
        self.segment(&mut asm, Headers::FixedIpv4(ETHERNET));
        fixed_ipv6(&mut asm, ETHERNET);
        self.segment(&mut asm, Headers::FixedIpv6(ETHERNET));
        ipv4(&mut asm);
        ipv6(&mut asm);
        self.segment(&mut asm, Headers::Anywhere);
        if let Some((sampling_key, _)) = self.sampling() {
            hash_ends(&mut asm, sampling_key);
        }
        asm.label(Label::Wanted);
        if !self.ports.is_empty() {
            self.ports(&mut asm);
        }
        if let Some((sampling_key, sampling)) = self.sampling() {
            sample(&mut asm, sampling_key, sampling);
        }
        asm.label(Label::Accept);
        asm.op(LD_MEM, KEEP);
        asm.op(RET_A, 0);
        asm.label(Label::FixedFragment);
        asm.op(RET, SNAP_LENGTH);
        asm.label(Label::Whole);
        asm.op(RET, WHOLE);
        asm.label(Label::Drop);
        asm.op(RET, 0);
        asm.finish()
    }

    /// The sampling, where it leaves anything out.
    fn sampling(&self) -> Option<&(SamplingKey, Sampling)> {
        self.selection.flows.as_ref().filter(|(_, sampling)| !sampling.is_exact())
    }

    /// Drops segments with data, unless they are wanted; of all others keeps what will be asked
    /// for.
    fn segment(&self, asm: &mut Assembler, headers: Headers) {
        use Label::{Candidate, Drop, Next, Wanted};

        // Reading the flags proves that there is a TCP header.
        headers.load_tcp(asm, BYTE, 13);
        if !self.selection.data {
            asm.jump_if_set(SYN_FIN_RST, Candidate(headers), Next);
            // Without payload the segment is as long as its header. The total length of 0 that the
            // kernel writes into what it will segment later (BIG TCP) is never that: it is data.
            headers.load_tcp(asm, BYTE, 12);
            asm.op(AND, 0xf0);
            asm.op(RSH, 2);
            asm.op(TAX, 0);
            headers.load_length(asm);
            asm.jump_if_equal_to_x(Candidate(headers), Drop);
        }
        asm.label(Candidate(headers));
        headers.keep_octets(asm);
        let sampled = self.sampling().is_some();
        if sampled || !self.ports.is_empty() {
            headers.keep_ports(asm);
        }
        if sampled {
            headers.keep_addresses(asm);
        } else {
            asm.jump(Wanted);
        }
    }

    /// Drops flows without a port that is wanted.
    fn ports(&self, asm: &mut Assembler) {
        use Label::{Drop, Next, WantedPort};

        for end in PORTS {
            asm.op(LD_MEM, end);
            for port in &self.ports {
                asm.jump_if_equal((*port).into(), WantedPort, Next);
            }
        }
        asm.jump(Drop);
        asm.label(WantedPort);
    }
}

/// Drops what crosses any other interface.
fn keep_to(asm: &mut Assembler, interfaces: &[u32]) {
    asm.load(WORD, ancillary(libc::SKF_AD_IFINDEX));
    for index in interfaces {
        asm.jump_if_equal(*index, Label::ChosenInterface, Label::Next);
    }
    asm.jump(Label::Drop);
    asm.label(Label::ChosenInterface);
}

/// From the beginning of a frame to the IP header.
fn link(asm: &mut Assembler, loopback: bool) {
    use Label::{Drop, Ethernet, Ipv4, Ipv6, Loopback, Next};

    asm.load(WORD, ancillary(libc::SKF_AD_HATYPE));
    asm.jump_if_equal(libc::ARPHRD_ETHER.into(), Ethernet, Next);
    asm.jump_if_equal(libc::ARPHRD_LOOPBACK.into(), Loopback, Next);
    asm.op(LDX_IMM, libc::SKF_NET_OFF.cast_unsigned());
    asm.load(WORD, ancillary(libc::SKF_AD_PROTOCOL));
    asm.jump_if_equal(ETHERTYPE_IPV4, Ipv4, Next);
    asm.jump_if_equal(ETHERTYPE_IPV6, Ipv6, Drop);

    asm.label(Loopback);
    if loopback {
        asm.load(WORD, ancillary(libc::SKF_AD_PKTTYPE));
        asm.jump_if_equal(libc::PACKET_OUTGOING.into(), Drop, Next);
    } else {
        asm.jump(Drop);
    }

    asm.label(Ethernet);
    asm.load(HALF, ETHERNET - 2);
    network(asm, ETHERNET);
}

/// From the EtherType in A, which is that of what begins at offset `at`, to the IP header; its
/// offset is in X where that is not `at`.
fn network(asm: &mut Assembler, at: u32) {
    use Label::{Drop, FixedIpv4, FixedIpv6, Ipv4, Ipv6, Next, Tag};

    asm.jump_if_equal(ETHERTYPE_IPV4, FixedIpv4(at), Next);
    asm.jump_if_equal(ETHERTYPE_IPV6, FixedIpv6(at), Next);
    // The tag that the kernel took off is not in the data; up to two more may be.
    let [first, second] = [at + 4, at + 8];
    jump_if_vlan(asm, Tag(first));
    for (end, next) in [(first, Tag(second)), (second, Drop)] {
        asm.label(Tag(end));
        asm.load(HALF, end - 2);
        asm.op(LDX_IMM, end);
        asm.jump_if_equal(ETHERTYPE_IPV4, Ipv4, Next);
        asm.jump_if_equal(ETHERTYPE_IPV6, Ipv6, Next);
        jump_if_vlan(asm, next);
    }
}

fn jump_if_vlan(asm: &mut Assembler, tag: Label) {
    let [customer, provider] = ETHERTYPES_VLAN;
    asm.jump_if_equal(customer, tag, Label::Next);
    asm.jump_if_equal(provider, tag, Label::Drop);
}

/// From an IPv4 header at a fixed offset to the TCP header, where there are no options.
fn fixed_ipv4(asm: &mut Assembler, at: u32) {
    use Label::{FixedFragment, FixedIpv4, Ipv4, Next, OtherIpv4};

    asm.label(FixedIpv4(at));
    asm.load(BYTE, at);
    asm.op(LDX_IMM, at);
    asm.jump_if_equal(IPV4_WITHOUT_OPTIONS, Next, Ipv4);
    asm.load(BYTE, at + 9);
    asm.jump_if_equal(TCP, Next, OtherIpv4);
    asm.load(HALF, at + 6);
    asm.jump_if_set(IPV4_FRAGMENT, FixedFragment, Next);
}

/// From an IPv6 header at a fixed offset to the TCP header.
fn fixed_ipv6(asm: &mut Assembler, at: u32) {
    asm.label(Label::FixedIpv6(at));
    asm.load(BYTE, at + 6);
    asm.op(LDX_IMM, at);
    asm.jump_if_equal(TCP, Label::Next, Label::NextHeader);
}

/// From an IPv4 header at X to the TCP header.
fn ipv4(asm: &mut Assembler) {
    use Label::{Drop, Ipv4, Next, OtherIpv4, TcpAnywhere, Whole};

    asm.label(Ipv4);
    asm.load_at_x(BYTE, 9);
    asm.jump_if_equal(TCP, Next, OtherIpv4);
    asm.load_at_x(HALF, 6);
    asm.jump_if_set(IPV4_FRAGMENT, Whole, Next);
    asm.op(STX, IP_HEADER);
    asm.load_at_x(HALF, 2);
    asm.op(ST, LENGTH);
    asm.load_at_x(BYTE, 0);
    asm.op(AND, 0xf);
    asm.op(LSH, 2);
    asm.op(ADD_X, 0);
    asm.op(ST, TCP_HEADER);
    asm.op(TXA, 0);
    asm.op(LDX_MEM, LENGTH);
    asm.op(ADD_X, 0);
    asm.op(LDX_MEM, TCP_HEADER);
    asm.op(SUB_X, 0);
    asm.op(ST, LENGTH);
    asm.jump(TcpAnywhere);

    asm.label(OtherIpv4);
    asm.jump_if_equal(AUTHENTICATION, Whole, Drop);
}

/// From an IPv6 header at X to the TCP header, behind up to [`EXTENSION_HEADERS`] of variable
/// length.
fn ipv6(asm: &mut Assembler) {
    use Label::{Drop, Extension, Ipv6, Next, NextHeader, TcpAnywhere, TcpOverIpv6, Whole};

    asm.label(Ipv6);
    asm.load_at_x(BYTE, 6);
    asm.jump_if_equal(TCP, TcpOverIpv6, Next);
    asm.label(NextHeader);
    for kind in OPTIONS_AND_ROUTING {
        asm.jump_if_equal(kind, Extension(0), Next);
    }
    for kind in [FRAGMENT, AUTHENTICATION] {
        asm.jump_if_equal(kind, Whole, Next);
    }
    asm.jump(Drop);

    asm.label(Extension(0));
    start_of_ipv6_payload(asm);
    for number in 1..=EXTENSION_HEADERS {
        // Its octets, then the next one's type; at last the offset and the length behind it.
        asm.op(LDX_MEM, TCP_HEADER);
        asm.load_at_x(BYTE, 1);
        asm.op(LSH, 3);
        asm.op(ADD, 8);
        asm.op(ST, HEADER_LENGTH);
        asm.load_at_x(BYTE, 0);
        asm.op(ST, NEXT_HEADER);
        asm.op(LD_MEM, HEADER_LENGTH);
        asm.op(ADD_X, 0);
        asm.op(ST, TCP_HEADER);
        asm.op(LDX_MEM, HEADER_LENGTH);
        asm.op(LD_MEM, LENGTH);
        asm.op(SUB_X, 0);
        asm.op(ST, LENGTH);
        asm.op(LD_MEM, NEXT_HEADER);
        asm.jump_if_equal(TCP, TcpAnywhere, Next);
        let another = if number == EXTENSION_HEADERS { Whole } else { Extension(number) };
        for kind in OPTIONS_AND_ROUTING {
            asm.jump_if_equal(kind, another, Next);
        }
        for kind in [FRAGMENT, AUTHENTICATION] {
            asm.jump_if_equal(kind, Whole, Next);
        }
        asm.jump(Drop);
        if number < EXTENSION_HEADERS {
            asm.label(Extension(number));
        }
    }

    asm.label(TcpOverIpv6);
    start_of_ipv6_payload(asm);
    asm.label(TcpAnywhere);
}

/// Stores what is known of the payload of the IPv6 packet at X as if it were TCP.
fn start_of_ipv6_payload(asm: &mut Assembler) {
    asm.op(STX, IP_HEADER);
    asm.load_at_x(HALF, 4);
    asm.op(ST, LENGTH);
    asm.op(TXA, 0);
    asm.op(ADD, IPV6_HEADER);
    asm.op(ST, TCP_HEADER);
}

/// Where the headers of a TCP segment are.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Headers {
    /// IPv4 without options at this offset.
    FixedIpv4(u32),
    /// IPv6 at this offset.
    FixedIpv6(u32),
    /// Where scratch memory says.
    Anywhere,
}

impl Headers {
    fn load_ip(self, asm: &mut Assembler, size: Size, offset: u32) {
        match self {
            Self::FixedIpv4(at) | Self::FixedIpv6(at) => asm.load(size, at + offset),
            Self::Anywhere => {
                asm.op(LDX_MEM, IP_HEADER);
                asm.load_at_x(size, offset);
            }
        }
    }

    fn load_tcp(self, asm: &mut Assembler, size: Size, offset: u32) {
        match self {
            Self::FixedIpv4(at) => asm.load(size, at + IPV4_HEADER + offset),
            Self::FixedIpv6(at) => asm.load(size, at + IPV6_HEADER + offset),
            Self::Anywhere => {
                asm.op(LDX_MEM, TCP_HEADER);
                asm.load_at_x(size, offset);
            }
        }
    }

    /// Loads the length of the TCP segment, header and payload; leaves X as it is.
    fn load_length(self, asm: &mut Assembler) {
        match self {
            Self::FixedIpv4(at) => {
                asm.load(HALF, at + 2);
                asm.op(SUB, IPV4_HEADER);
            }
            Self::FixedIpv6(at) => asm.load(HALF, at + 4),
            Self::Anywhere => asm.op(LD_MEM, LENGTH),
        }
    }

    /// Stores how many octets to keep. The length is not needed any more.
    fn keep_octets(self, asm: &mut Assembler) {
        match self {
            Self::FixedIpv4(_) | Self::FixedIpv6(_) => asm.op(LD_IMM, SNAP_LENGTH),
            Self::Anywhere => {
                // Relative to the network header, or not: from the smaller of both on.
                asm.op(LD_MEM, TCP_HEADER);
                asm.op(AND, !libc::SKF_NET_OFF.cast_unsigned());
                asm.op(ADD, SNAP_LENGTH);
            }
        }
        asm.op(ST, KEEP);
    }

    fn keep_ports(self, asm: &mut Assembler) {
        for (port, offset) in PORTS.into_iter().zip([0, 2]) {
            self.load_tcp(asm, HALF, offset);
            asm.op(ST, port);
        }
    }

    /// Keeps ports and addresses and goes on to hash them.
    fn keep_ends(self, asm: &mut Assembler) {
        self.keep_ports(asm);
        self.keep_addresses(asm);
    }

    /// Keeps the addresses and goes on to hash them.
    fn keep_addresses(self, asm: &mut Assembler) {
        use Label::{AddressesOfIpv6, HashIpv4, HashIpv6, Next};

        if self == Self::Anywhere {
            self.load_ip(asm, BYTE, 0);
            asm.op(AND, 0xf0);
            asm.jump_if_equal(0x60, AddressesOfIpv6, Next);
        }
        if !matches!(self, Self::FixedIpv6(_)) {
            for (address, offset) in ADDRESSES.into_iter().zip([12, 16]) {
                self.load_ip(asm, WORD, offset);
                asm.op(ST, address + 3);
            }
            asm.jump(HashIpv4);
        }
        if self == Self::Anywhere {
            asm.label(AddressesOfIpv6);
        }
        if !matches!(self, Self::FixedIpv4(_)) {
            for (address, offset) in ADDRESSES.into_iter().zip([8, 24]) {
                for word in 0..4 {
                    self.load_ip(asm, WORD, offset + 4 * word);
                    asm.op(ST, address + word);
                }
            }
            asm.jump(HashIpv6);
        }
    }
}

/// Computes [`SamplingKey::end`] of both ends.
fn hash_ends(asm: &mut Assembler, sampling_key: &SamplingKey) {
    use Label::{HashIpv4, HashIpv6, LastWord, Next, NotMapped, Wanted};

    asm.label(HashIpv4);
    for ((address, port), end) in ADDRESSES.into_iter().zip(PORTS).zip(ENDS) {
        asm.op(LDX_IMM, sampling_key.seed);
        hash_word(asm, sampling_key, address + 3);
        hash_port(asm, sampling_key, port, end);
    }
    asm.jump(Wanted);

    asm.label(HashIpv6);
    for ((address, port), end) in ADDRESSES.into_iter().zip(PORTS).zip(ENDS) {
        asm.op(LDX_IMM, sampling_key.seed);
        // User space takes an IPv4-mapped address for the IPv4 address. Nobody sends one but an
        // attacker, who would be glad to get by unsampled.
        for (word, mapped) in (address..).zip([0, 0, 0xffff]) {
            asm.op(LD_MEM, word);
            asm.jump_if_equal(mapped, Next, NotMapped(end));
        }
        asm.jump(LastWord(end));
        asm.label(NotMapped(end));
        for word in address..address + 3 {
            hash_word(asm, sampling_key, word);
        }
        asm.label(LastWord(end));
        hash_word(asm, sampling_key, address + 3);
        hash_port(asm, sampling_key, port, end);
    }
}

/// Takes a word into the hash in X.
fn hash_word(asm: &mut Assembler, sampling_key: &SamplingKey, word: u32) {
    asm.op(LD_MEM, word);
    asm.op(XOR_X, 0);
    asm.op(MUL, sampling_key.odd[0]);
    fold(asm, 16);
    asm.op(TAX, 0);
}

/// Takes a port into the hash in X, which then is that of an end.
fn hash_port(asm: &mut Assembler, sampling_key: &SamplingKey, port: u32, end: u32) {
    asm.op(LD_MEM, port);
    asm.op(ADD_X, 0);
    asm.op(MUL, sampling_key.odd[1]);
    fold(asm, 15);
    asm.op(ST, end);
}

/// A: A ^ A >> shift.
fn fold(asm: &mut Assembler, shift: u32) {
    asm.op(TAX, 0);
    asm.op(RSH, shift);
    asm.op(XOR_X, 0);
}

/// A: the sampling hash of the flow ([`SamplingKey::of`]).
fn sampling_hash(asm: &mut Assembler, sampling_key: &SamplingKey) {
    asm.op(LD_MEM, ENDS[0]);
    asm.op(LDX_MEM, ENDS[1]);
    asm.op(ADD_X, 0);
    asm.op(MUL, sampling_key.odd[2]);
    fold(asm, 16);
    asm.op(MUL, sampling_key.odd[3]);
}

/// Drops flows by their sampling hash at the level that [`Sampling::level`] gives them.
fn sample(asm: &mut Assembler, sampling_key: &SamplingKey, sampling: &Sampling) {
    use Label::{Accept, Drop, Next, Sampled};

    sampling_hash(asm, sampling_key);
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

/// Octets of the headers, those of IPv4 without options.
const ETHERNET: u32 = 14;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;

const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
/// IEEE 802.1Q and 802.1ad tags.
const ETHERTYPES_VLAN: [u32; 2] = [0x8100, 0x88a8];
/// Version 4, and a header of five words.
const IPV4_WITHOUT_OPTIONS: u32 = 0x45;
const TCP: u32 = 6;
/// Hop-by-hop options, destination options, routing (RFC 8200, section 4.1): all begin with the
/// next header's type and their length in units of 8 octets, without the first.
const OPTIONS_AND_ROUTING: [u32; 3] = [0, 60, 43];
const FRAGMENT: u32 = 44;
const AUTHENTICATION: u32 = 51;
/// How many of them are followed: with a third, two of the largest programs would not fit into a
/// socket's memory. Linux sets no limit; who has more is passed whole.
const EXTENSION_HEADERS: u32 = 2;
/// More fragments, or an offset that is not 0.
const IPV4_FRAGMENT: u32 = 0x3fff;
const SYN_FIN_RST: u32 = 0x02 | 0x01 | 0x04;

// Words of scratch memory, of which there are 16 (BPF_MEMWORDS). The first three hold where the
// headers are, if that is anywhere.
const IP_HEADER: u32 = 0;
const TCP_HEADER: u32 = 1;
/// Octets of the TCP segment.
const LENGTH: u32 = 2;
/// Octets to keep of the frame, once the length is not needed any more.
const KEEP: u32 = LENGTH;
/// Of the extension header at hand, before there are ports.
const HEADER_LENGTH: u32 = 3;
const NEXT_HEADER: u32 = 4;
/// The ports of both ends, the sender's first.
const PORTS: [u32; 2] = [3, 4];
/// The addresses of both ends, four words each; of IPv4 the last of them.
const ADDRESSES: [u32; 2] = [5, 9];
/// The hashes of both ends.
const ENDS: [u32; 2] = [13, 14];
const RANK: u32 = 15;

#[cfg(test)]
mod tests;
