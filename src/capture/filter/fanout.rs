//! The classic BPF program that divides the traffic among the sockets of a fan-out group.

use libc::sock_filter;
use synwatch_core::sampling::SamplingKey;

use super::assembler::{Assembler, Label, RET, RET_A, WORD, ancillary};
use super::{
    ETHERNET, Headers, fixed_ipv4, fixed_ipv6, hash_ends, ipv4, ipv6, link, network, sampling_hash,
};

/// The program, for `PACKET_FANOUT_DATA`. It returns the
/// [`SamplingHash`](synwatch_core::sampling::SamplingHash) of the flow, of which the kernel takes
/// the remainder by the number of sockets:
/// [`SamplingHash::shard`](synwatch_core::sampling::SamplingHash::shard).
///
/// It returns 0 for what [`Filter`](super::Filter) drops anyway, and where it cannot tell: so all
/// fragments of a datagram come to the same socket. Segments with data are divided as well, since
/// they may be wanted at any time.
///
/// It sees frames earlier than the filter does: those that come in while their link header is not
/// part of the data (`packet_rcv_fanout` runs before `tpacket_rcv` puts it back), those that go out
/// with it.
#[must_use]
pub fn fanout(sampling_key: &SamplingKey) -> Vec<sock_filter> {
    use Label::{Drop, FixedFragment, Next, Outgoing, Wanted, Whole};

    let mut asm = Assembler::default();
    asm.load(WORD, ancillary(libc::SKF_AD_PKTTYPE));
    asm.jump_if_equal(libc::PACKET_OUTGOING.into(), Outgoing, Next);
    asm.load(WORD, ancillary(libc::SKF_AD_PROTOCOL));
    network(&mut asm, 0);
    asm.label(Outgoing);
    // What goes out on a loopback device comes in again.
    link(&mut asm, false);
    for at in [0, ETHERNET] {
        fixed_ipv4(&mut asm, at);
        Headers::FixedIpv4(at).keep_ends(&mut asm);
        fixed_ipv6(&mut asm, at);
        Headers::FixedIpv6(at).keep_ends(&mut asm);
    }
    ipv4(&mut asm);
    ipv6(&mut asm);
    Headers::Anywhere.keep_ends(&mut asm);
    hash_ends(&mut asm, sampling_key);
    asm.label(Wanted);
    sampling_hash(&mut asm, sampling_key);
    asm.op(RET_A, 0);
    asm.label(FixedFragment);
    asm.label(Whole);
    asm.label(Drop);
    asm.op(RET, 0);
    asm.finish()
}
