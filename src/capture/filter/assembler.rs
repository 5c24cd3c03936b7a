//! Classic BPF instructions, and the jumps between them by names instead of distances
//! (Linux, Documentation/networking/filter.rst).

use std::collections::HashMap;

use libc::sock_filter;
use synwatch_core::sampling::SamplingLevel;

use super::Headers;

/// Where a load finds what the kernel knows of a frame beside its octets.
pub(super) const fn ancillary(what: i32) -> u32 {
    (libc::SKF_AD_OFF + what).cast_unsigned()
}

const fn code(bits: u32) -> u16 {
    // Every classic BPF operation code fits in 8 bits.
    (bits & 0xff) as u16
}

/// How much a load takes.
#[derive(Clone, Copy)]
pub(super) struct Size(u32);
pub(super) const BYTE: Size = Size(libc::BPF_B);
pub(super) const HALF: Size = Size(libc::BPF_H);
pub(super) const WORD: Size = Size(libc::BPF_W);

pub(super) const LD_IMM: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_IMM);
pub(super) const LD_MEM: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_MEM);
pub(super) const LDX_IMM: u16 = code(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM);
pub(super) const LDX_MEM: u16 = code(libc::BPF_LDX | libc::BPF_W | libc::BPF_MEM);
pub(super) const ST: u16 = code(libc::BPF_ST);
pub(super) const STX: u16 = code(libc::BPF_STX);
pub(super) const ADD: u16 = code(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K);
pub(super) const ADD_X: u16 = code(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X);
pub(super) const SUB: u16 = code(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K);
pub(super) const SUB_X: u16 = code(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X);
pub(super) const MUL: u16 = code(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K);
pub(super) const AND: u16 = code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
pub(super) const XOR_X: u16 = code(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X);
pub(super) const LSH: u16 = code(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K);
pub(super) const RSH: u16 = code(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K);
pub(super) const JA: u16 = code(libc::BPF_JMP | libc::BPF_JA);
pub(super) const JEQ: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
pub(super) const JEQ_X: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X);
pub(super) const JSET: u16 = code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K);
pub(super) const RET: u16 = code(libc::BPF_RET | libc::BPF_K);
pub(super) const RET_A: u16 = code(libc::BPF_RET | libc::BPF_A);
pub(super) const TAX: u16 = code(libc::BPF_MISC | libc::BPF_TAX);
pub(super) const TXA: u16 = code(libc::BPF_MISC | libc::BPF_TXA);

/// Places in the program that jumps name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Label {
    ChosenInterface,
    Outgoing,
    Loopback,
    Ethernet,
    /// In a VLAN tag that ends at this offset.
    Tag(u32),
    /// The IPv4 header is at this offset.
    FixedIpv4(u32),
    /// The IPv6 header is at this offset.
    FixedIpv6(u32),
    Ipv4,
    Ipv6,
    /// The header after that of IPv6 is not TCP's.
    NextHeader,
    /// At the IPv6 extension header of this number.
    Extension(u32),
    /// The protocol of IPv4 is not TCP.
    OtherIpv4,
    TcpOverIpv6,
    TcpAnywhere,
    /// The segment is of a kind that is wanted.
    Candidate(Headers),
    AddressesOfIpv6,
    HashIpv4,
    HashIpv6,
    /// The IPv6 address of this end is no IPv4-mapped one.
    NotMapped(u32),
    /// At the last word of the IPv6 address of this end.
    LastWord(u32),
    /// What is asked for below is known of the segment.
    Wanted,
    WantedPort,
    /// The flow is sampled at this level.
    Sampled(SamplingLevel),
    Accept,
    /// A fragment of IPv4 without options at a fixed offset.
    FixedFragment,
    /// Whether it is TCP the program does not tell.
    Whole,
    Drop,
    /// The instruction that follows.
    Next,
}

/// Collects the lines of a program in which every jump leads ahead.
#[derive(Default)]
pub(super) struct Assembler {
    lines: Vec<Line>,
}

enum Line {
    Operation { code: u16, k: u32 },
    Branch { code: u16, k: u32, if_true: Label, if_false: Label },
    Jump(Label),
    Label(Label),
}

impl Assembler {
    pub(super) fn op(&mut self, code: u16, k: u32) {
        self.lines.push(Line::Operation { code, k });
    }

    /// Loads from an offset into the frame into A.
    pub(super) fn load(&mut self, Size(size): Size, offset: u32) {
        self.op(code(libc::BPF_LD | size | libc::BPF_ABS), offset);
    }

    /// Loads from an offset from X on into A.
    pub(super) fn load_at_x(&mut self, Size(size): Size, offset: u32) {
        self.op(code(libc::BPF_LD | size | libc::BPF_IND), offset);
    }

    pub(super) fn label(&mut self, label: Label) {
        self.lines.push(Line::Label(label));
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.lines.push(Line::Jump(to));
    }

    pub(super) fn jump_if_equal(&mut self, k: u32, if_true: Label, if_false: Label) {
        self.lines.push(Line::Branch { code: JEQ, k, if_true, if_false });
    }

    pub(super) fn jump_if_equal_to_x(&mut self, if_true: Label, if_false: Label) {
        self.lines.push(Line::Branch { code: JEQ_X, k: 0, if_true, if_false });
    }

    pub(super) fn jump_if_set(&mut self, bits: u32, if_true: Label, if_false: Label) {
        self.lines.push(Line::Branch { code: JSET, k: bits, if_true, if_false });
    }

    /// The program.
    ///
    /// # Panics
    /// A label is missing, or lies before a jump to it.
    pub(super) fn finish(self) -> Vec<sock_filter> {
        let mut tail = Tail::default();
        for line in self.lines.into_iter().rev() {
            match line {
                Line::Operation { code, k } => tail.prepend(code, 0, 0, k),
                Line::Branch { code, k, if_true, if_false } => {
                    tail.prepend_branch(code, k, if_true, if_false);
                }
                Line::Jump(to) => {
                    let to = tail.position(to);
                    if to != tail.reversed.len() {
                        tail.prepend_jump(to);
                    }
                }
                Line::Label(label) => {
                    tail.labels.insert(label, tail.reversed.len());
                }
            }
        }
        tail.reversed.reverse();
        tail.reversed
    }
}

/// The end of a program. It grows towards the beginning, so that where a jump leads to is known
/// when the jump is made. A position is the number of instructions from there on.
#[derive(Default)]
struct Tail {
    reversed: Vec<sock_filter>,
    labels: HashMap<Label, usize>,
}

impl Tail {
    fn prepend(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.reversed.push(sock_filter { code, jt, jf, k });
    }

    fn prepend_jump(&mut self, to: usize) {
        // Far below 2^32: the kernel takes 4,096 instructions (BPF_MAXINSNS).
        let distance = u32::try_from(self.reversed.len() - to).unwrap_or(u32::MAX);
        self.prepend(JA, 0, 0, distance);
    }

    fn prepend_branch(&mut self, code: u16, k: u32, if_true: Label, if_false: Label) {
        let targets = [if_true, if_false].map(|label| self.position(label));
        let [jt, jf] = targets.map(|target| self.within_reach(target));
        let distance =
            |target| u8::try_from(self.reversed.len() - target).expect("a target within reach");
        self.prepend(code, distance(jt), distance(jf), k);
    }

    /// A position from which execution gets to `target`, and that a branch can name after one more
    /// jump has been put in between: its distances have 8 bits.
    fn within_reach(&mut self, target: usize) -> usize {
        if self.reversed.len() - target >= usize::from(u8::MAX) {
            self.prepend_jump(target);
            self.reversed.len()
        } else {
            target
        }
    }

    fn position(&self, label: Label) -> usize {
        match label {
            Label::Next => self.reversed.len(),
            _ => *self.labels.get(&label).unwrap_or_else(|| panic!("no {label:?} ahead of a jump")),
        }
    }
}
