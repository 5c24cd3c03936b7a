//! eBPF programs of a few instructions: written by hand, loaded by bpf(2) as they are.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use memmap2::{Mmap, MmapOptions};

/// An instruction as it lies in memory (`struct bpf_insn` of `linux/bpf.h`).
pub type Instruction = u64;

/// Operations (RFC 9669, section 4), each with the size or the kind of operand that it is used
/// with.
pub mod op {
    /// to += number, of 64 bits
    pub const ADD_NUMBER: u8 = 0x07;
    /// to &= number, of 64 bits
    pub const AND_NUMBER: u8 = 0x57;
    /// the helper of that number, with arguments from register 1 on, its answer in register 0
    pub const CALL: u8 = 0x85;
    /// the end, with register 0 as the result
    pub const EXIT: u8 = 0x95;
    /// offset instructions are passed over where to = number
    pub const JUMP_IF_NUMBER: u8 = 0x15;
    /// offset instructions are passed over where to != number
    pub const JUMP_IF_NOT_NUMBER: u8 = 0x55;
    /// offset instructions are passed over where to > from
    pub const JUMP_IF_GREATER: u8 = 0x2d;
    /// to = the octet at from + offset
    pub const LOAD_BYTE: u8 = 0x71;
    /// to = the 32 bits at from + offset
    pub const LOAD_WORD: u8 = 0x61;
    /// to = the 64 bits at from + offset
    pub const LOAD_LONG: u8 = 0x79;
    /// to = from
    pub const MOVE: u8 = 0xbf;
    /// to = number
    pub const MOVE_NUMBER: u8 = 0xb7;
    /// to |= from
    pub const OR: u8 = 0x4f;
    /// to |= number, of 64 bits
    pub const OR_NUMBER: u8 = 0x47;
    /// the 16 bits at to + offset = from
    pub const STORE_HALF: u8 = 0x6b;
    /// the 32 bits at to + offset = from
    pub const STORE_WORD: u8 = 0x63;
    /// the 64 bits at to + offset = from
    pub const STORE_LONG: u8 = 0x7b;
}

/// Puts an instruction together. `to` and `from` are registers, 10 the frame pointer.
#[must_use]
pub const fn instruction(operation: u8, to: u8, from: u8, offset: i16, number: i32) -> Instruction {
    // Two bit fields, which C lays out from the other end on big-endian machines.
    let registers = if cfg!(target_endian = "big") { to << 4 | from } else { from << 4 | to };
    let (offset, number) = (offset.to_ne_bytes(), number.to_ne_bytes());
    let [a, b, c, d] = number;
    Instruction::from_ne_bytes([operation, registers, offset[0], offset[1], a, b, c, d])
}

/// What `BPF_PROG_LOAD` reads of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct ProgramAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
    btf: [u64; 4],
    line_count: u32,
    attach_btf_id: u32,
}

/// Loads a program of type `kind`. Those for attaching to a function of the kernel
/// (`BPF_PROG_TYPE_TRACING`) say how (`enum bpf_attach_type`) and, by its number in the kernel's
/// BTF, to which; others say zero.
///
/// # Errors
/// The kernel refuses it, for want of CAP_BPF and what else the type needs, or because it finds a
/// fault in it.
pub fn load(
    kind: u32,
    (attach_type, attach_btf_id): (u32, u32),
    instructions: &[Instruction],
) -> io::Result<OwnedFd> {
    let mut attributes = ProgramAttributes {
        kind,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        // Helpers for tracing want a license that is compatible with the GPL.
        license: c"Dual MIT/GPL".as_ptr() as u64,
        attach_type,
        attach_btf_id,
        ..ProgramAttributes::default()
    };
    // SAFETY: the attributes point to as many instructions as they say, and to a string with its
    // end.
    unsafe { call_for_descriptor(PROG_LOAD, &mut attributes) }
}

/// Attaches an iterator's program (`BPF_TRACE_ITER`) to what it was loaded to iterate over.
///
/// # Errors
/// The kernel refuses.
pub fn attach_iterator(program: &OwnedFd) -> io::Result<OwnedFd> {
    // Program, target, type, flags.
    let mut attributes = [program.as_raw_fd().cast_unsigned(), 0, TRACE_ITER, 0];
    // SAFETY: numbers only.
    unsafe { call_for_descriptor(LINK_CREATE, &mut attributes) }
}

/// A file that runs an attached iterator when it is read, in the network namespace of the thread
/// that calls this, and holds what the program writes.
///
/// # Errors
/// The kernel refuses: before Linux 5.19, a thread without CAP_BPF.
pub fn open_iterator(link: &OwnedFd) -> io::Result<OwnedFd> {
    let mut attributes = [link.as_raw_fd().cast_unsigned(), 0];
    // SAFETY: numbers only.
    unsafe { call_for_descriptor(ITER_CREATE, &mut attributes) }
}

/// The running kernel's types (BTF).
pub enum KernelTypes {
    /// As the kernel has them. To have a copy of their 5 MB takes several times as long as to look
    /// through them.
    Mapped(Mmap),
    /// A copy, before Linux 6.16.
    Read(Vec<u8>),
}

impl Deref for KernelTypes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Read(bytes) => bytes,
        }
    }
}

/// The running kernel's types.
///
/// # Errors
/// It does not tell them, or not to this user.
pub fn kernel_types() -> io::Result<KernelTypes> {
    let mut file = File::open("/sys/kernel/btf/vmlinux")?;
    // SAFETY: this is no file on a disk, which another could cut short or write to, but memory of
    // the kernel that stays as it is.
    match unsafe { MmapOptions::new().map_copy_read_only(&file) } {
        Ok(bytes) => Ok(KernelTypes::Mapped(bytes)),
        Err(_) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(KernelTypes::Read(bytes))
        }
    }
}

/// `BPF_TRACE_ITER` of `enum bpf_attach_type`.
pub const TRACE_ITER: u32 = 28;

/// Commands (`enum bpf_cmd`).
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const ITER_CREATE: libc::c_long = 33;

/// # Safety
/// As for [`call`]; and the command answers with a new descriptor.
unsafe fn call_for_descriptor<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let descriptor = unsafe { call(command, attributes)? };
    // SAFETY: the kernel has just given it, so nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A call of bpf(2).
///
/// # Safety
/// `attributes` is what the command reads and writes of `union bpf_attr`, without padding; the
/// pointers in it are to memory of the lengths beside them, which may be written to where the
/// command does so.
///
/// # Errors
/// The kernel's.
pub unsafe fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are valid for their length, and what they point to as the caller
    // promises.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, (&raw mut *attributes), size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::sys::headers::assert_agree;

    #[test]
    fn attributes_are_as_the_kernel_lays_them_out() {
        let place = |offset: usize| offset as u64;
        assert_agree(
            &["linux/bpf.h"],
            &[
                ("BPF_PROG_LOAD", PROG_LOAD as u64),
                ("BPF_LINK_CREATE", LINK_CREATE as u64),
                ("BPF_ITER_CREATE", ITER_CREATE as u64),
                ("BPF_TRACE_ITER", TRACE_ITER.into()),
                ("offsetof(union bpf_attr, prog_type)", place(offset_of!(ProgramAttributes, kind))),
                ("offsetof(union bpf_attr, insn_cnt)", place(offset_of!(ProgramAttributes, count))),
                (
                    "offsetof(union bpf_attr, insns)",
                    place(offset_of!(ProgramAttributes, instructions)),
                ),
                (
                    "offsetof(union bpf_attr, license)",
                    place(offset_of!(ProgramAttributes, license)),
                ),
                (
                    "offsetof(union bpf_attr, expected_attach_type)",
                    place(offset_of!(ProgramAttributes, attach_type)),
                ),
                (
                    "offsetof(union bpf_attr, attach_btf_id)",
                    place(offset_of!(ProgramAttributes, attach_btf_id)),
                ),
                // The numbers of `attach_iterator` and `open_iterator`.
                ("offsetof(union bpf_attr, link_create.prog_fd)", 0),
                ("offsetof(union bpf_attr, link_create.target_fd)", 4),
                ("offsetof(union bpf_attr, link_create.attach_type)", 8),
                ("offsetof(union bpf_attr, link_create.flags)", 12),
                ("offsetof(union bpf_attr, iter_create.link_fd)", 0),
                ("offsetof(union bpf_attr, iter_create.flags)", 4),
            ],
        );
    }

    #[test]
    fn operations_are_the_kernels() {
        assert_agree(
            &["linux/bpf.h"],
            &[
                ("BPF_ALU64 | BPF_ADD | BPF_K", op::ADD_NUMBER.into()),
                ("BPF_ALU64 | BPF_AND | BPF_K", op::AND_NUMBER.into()),
                ("BPF_JMP | BPF_CALL", op::CALL.into()),
                ("BPF_JMP | BPF_EXIT", op::EXIT.into()),
                ("BPF_JMP | BPF_JEQ | BPF_K", op::JUMP_IF_NUMBER.into()),
                ("BPF_JMP | BPF_JNE | BPF_K", op::JUMP_IF_NOT_NUMBER.into()),
                ("BPF_JMP | BPF_JGT | BPF_X", op::JUMP_IF_GREATER.into()),
                ("BPF_LDX | BPF_MEM | BPF_B", op::LOAD_BYTE.into()),
                ("BPF_LDX | BPF_MEM | BPF_W", op::LOAD_WORD.into()),
                ("BPF_LDX | BPF_MEM | BPF_DW", op::LOAD_LONG.into()),
                ("BPF_ALU64 | BPF_MOV | BPF_X", op::MOVE.into()),
                ("BPF_ALU64 | BPF_MOV | BPF_K", op::MOVE_NUMBER.into()),
                ("BPF_ALU64 | BPF_OR | BPF_X", op::OR.into()),
                ("BPF_ALU64 | BPF_OR | BPF_K", op::OR_NUMBER.into()),
                ("BPF_STX | BPF_MEM | BPF_H", op::STORE_HALF.into()),
                ("BPF_STX | BPF_MEM | BPF_W", op::STORE_WORD.into()),
                ("BPF_STX | BPF_MEM | BPF_DW", op::STORE_LONG.into()),
            ],
        );
    }

    #[test]
    fn instructions_lie_in_memory_as_rfc_9669_says() {
        let [operation, registers, offset @ .., a, b, c, d] =
            instruction(op::STORE_LONG, 10, 1, -16, 7).to_ne_bytes();
        assert_eq!(operation, 0x7b);
        assert_eq!(registers, if cfg!(target_endian = "big") { 0xa1 } else { 0x1a });
        assert_eq!(i16::from_ne_bytes(offset), -16);
        assert_eq!(i32::from_ne_bytes([a, b, c, d]), 7);
    }
}
