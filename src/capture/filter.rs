//! The classic BPF program that keeps the kernel from passing up what no handshake is made of.
//!
//! It passes segments of TCP with SYN, FIN or RST, and those without payload; of a bulk transfer
//! that leaves the acknowledgements. One program serves all interfaces: it asks for the device's
//! type, and keeps the offset of the IP header in the index register, relative to the frame on
//! Ethernet and to the kernel's idea of the network header (`SKF_NET_OFF`) on everything else.

use libc::sock_filter;

/// Octets kept of each frame: Ethernet, two VLAN tags, and IPv4 and TCP with all their options
/// take 142.
pub const SNAP_LENGTH: u32 = 160;

/// What the kernel passes up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Also segments that carry data.
    pub data: bool,
    /// Also loopback devices, each packet once: as it is received.
    pub loopback: bool,
}

impl Filter {
    /// The program, for `SO_ATTACH_FILTER`. It returns the octets to keep, 0 to drop.
    #[must_use]
    pub fn program(self) -> Vec<sock_filter> {
        use Label::*;
        let mut asm = Assembler::default();

        asm.op(LD_ABS_W, ancillary(libc::SKF_AD_HATYPE));
        asm.jump_if_equal(libc::ARPHRD_LOOPBACK.into(), Loopback, Next);
        asm.jump_if_equal(libc::ARPHRD_ETHER.into(), Ethernet, Next);
        asm.op(LDX_IMM, libc::SKF_NET_OFF.cast_unsigned());
        asm.op(LD_ABS_W, ancillary(libc::SKF_AD_PROTOCOL));
        asm.jump(Network);

        asm.label(Loopback);
        if self.loopback {
            asm.op(LD_ABS_W, ancillary(libc::SKF_AD_PKTTYPE));
            asm.jump_if_equal(libc::PACKET_OUTGOING.into(), Drop, Next);
        } else {
            asm.jump(Drop);
        }

        // The tag that the kernel took off is not in the data; up to two more may be.
        asm.label(Ethernet);
        asm.op(LD_ABS_H, 12);
        asm.op(LDX_IMM, 14);
        asm.jump_if_vlan(Tagged);
        asm.jump(Network);
        asm.label(Tagged);
        asm.op(LD_ABS_H, 16);
        asm.op(LDX_IMM, 18);
        asm.jump_if_vlan(TaggedTwice);
        asm.jump(Network);
        asm.label(TaggedTwice);
        asm.op(LD_ABS_H, 20);
        asm.op(LDX_IMM, 22);

        // A: EtherType. X: offset of the network header.
        asm.label(Network);
        asm.jump_if_equal(ETHERTYPE_IPV4, Ipv4, Next);
        asm.jump_if_equal(ETHERTYPE_IPV6, Ipv6, Drop);

        // Store the offset of the packet's end, then move X to the TCP header.
        asm.label(Ipv4);
        asm.op(LD_IND_B, 9);
        asm.jump_if_equal(TCP, Next, Drop);
        asm.op(LD_IND_H, 6);
        asm.jump_if_set(FRAGMENT_OFFSET, Drop, Next);
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
        asm.op(LD_IND_H, 4);
        asm.op(ADD_X, 0);
        asm.op(ADD, 40);
        asm.op(ST, PACKET_END);
        asm.op(TXA, 0);
        asm.op(ADD, 40);
        asm.op(TAX, 0);

        asm.label(Tcp);
        asm.op(LD_IND_B, 13);
        if self.data {
            // Reading the flags proved that there is a TCP header.
            asm.jump(Accept);
        }
        asm.jump_if_set(SYN_FIN_RST, Accept, Next);
        // Without payload the TCP header ends where the packet does. The total length of 0 that the
        // kernel writes into what it will segment later (BIG TCP) never matches: it is data.
        asm.op(LD_IND_B, 12);
        asm.op(AND, 0xf0);
        asm.op(RSH, 2);
        asm.op(ADD_X, 0);
        asm.op(LDX_MEM, PACKET_END);
        asm.jump_if_equal_to_x(Accept, Drop);

        asm.label(Accept);
        asm.op(RET, SNAP_LENGTH);
        asm.label(Drop);
        asm.op(RET, 0);
        asm.finish()
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
/// Scratch memory: the offset at which the IP packet ends.
const PACKET_END: u32 = 0;

/// Where a load finds what the kernel knows of a frame beside its octets.
const fn ancillary(what: i32) -> u32 {
    (libc::SKF_AD_OFF + what).cast_unsigned()
}

const fn code(bits: u32) -> u16 {
    // Every classic BPF operation code fits in 8 bits.
    (bits & 0xff) as u16
}

const LD_ABS_W: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const LD_ABS_H: u16 = code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS);
const LD_IND_H: u16 = code(libc::BPF_LD | libc::BPF_H | libc::BPF_IND);
const LD_IND_B: u16 = code(libc::BPF_LD | libc::BPF_B | libc::BPF_IND);
const LDX_IMM: u16 = code(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM);
const LDX_MEM: u16 = code(libc::BPF_LDX | libc::BPF_W | libc::BPF_MEM);
const ST: u16 = code(libc::BPF_ST);
const ADD: u16 = code(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K);
const ADD_X: u16 = code(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X);
const AND: u16 = code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
const LSH: u16 = code(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K);
const RSH: u16 = code(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K);
const JA: u16 = code(libc::BPF_JMP | libc::BPF_JA);
const JEQ: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
const JEQ_X: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X);
const JSET: u16 = code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K);
const RET: u16 = code(libc::BPF_RET | libc::BPF_K);
const TAX: u16 = code(libc::BPF_MISC | libc::BPF_TAX);
const TXA: u16 = code(libc::BPF_MISC | libc::BPF_TXA);

/// Places in the program that jumps name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Label {
    Loopback,
    Ethernet,
    Tagged,
    TaggedTwice,
    Network,
    Ipv4,
    Ipv6,
    TcpOverIpv6,
    Tcp,
    Accept,
    Drop,
    /// The instruction that follows.
    Next,
}

/// Collects instructions and resolves labels, which must lie ahead of the jumps to them.
#[derive(Default)]
struct Assembler {
    program: Vec<sock_filter>,
    jumps: Vec<Jump>,
    labels: Vec<(Label, usize)>,
}

/// A jump whose targets are not known yet.
struct Jump {
    at: usize,
    if_true: Label,
    if_false: Label,
}

impl Assembler {
    fn op(&mut self, code: u16, k: u32) {
        self.program.push(sock_filter { code, jt: 0, jf: 0, k });
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.program.len()));
    }

    fn branch(&mut self, code: u16, k: u32, if_true: Label, if_false: Label) {
        self.jumps.push(Jump { at: self.program.len(), if_true, if_false });
        self.op(code, k);
    }

    fn jump(&mut self, to: Label) {
        self.branch(JA, 0, to, Label::Next);
    }

    fn jump_if_equal(&mut self, k: u32, if_true: Label, if_false: Label) {
        self.branch(JEQ, k, if_true, if_false);
    }

    fn jump_if_equal_to_x(&mut self, if_true: Label, if_false: Label) {
        self.branch(JEQ_X, 0, if_true, if_false);
    }

    fn jump_if_set(&mut self, bits: u32, if_true: Label, if_false: Label) {
        self.branch(JSET, bits, if_true, if_false);
    }

    fn jump_if_vlan(&mut self, to: Label) {
        for ethertype in ETHERTYPES_VLAN {
            self.jump_if_equal(ethertype, to, Label::Next);
        }
    }

    /// Instructions to leave out between a jump and `label`.
    fn distance(&self, at: usize, label: Label) -> u8 {
        self.labels
            .iter()
            .find(|(name, _)| *name == label)
            .and_then(|(_, target)| target.checked_sub(at + 1))
            // No label, or the next instruction: fall through. The program is far below 255 long.
            .and_then(|distance| u8::try_from(distance).ok())
            .unwrap_or(0)
    }

    fn finish(mut self) -> Vec<sock_filter> {
        for Jump { at, if_true, if_false } in std::mem::take(&mut self.jumps) {
            let (jt, jf) = (self.distance(at, if_true), self.distance(at, if_false));
            let instruction = &mut self.program[at];
            if instruction.code == JA {
                instruction.k = jt.into();
            } else {
                (instruction.jt, instruction.jf) = (jt, jf);
            }
        }
        self.program
    }
}

#[cfg(test)]
mod tests;
