//! What the kernel's filter costs per packet, compiled as it is: `cargo bench --bench filter`, as
//! root.
//!
//! Each program, made to drop everything, is attached to many packet sockets; what a packet to all
//! of them takes longer than with a program that only returns, divided by their number, is its
//! cost. Everything is in the caches, and every branch foretold: as under a flood. The least of
//! many short measurements counts, as whatever else the machine does only adds to them. It happens
//! in a network namespace that ends with the process.

use std::process::Command;
use std::time::Instant;

use etherparse::PacketBuilder;
use pnet_datalink::{Channel, Config, DataLinkSender};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use synwatch::capture::Selection;
use synwatch::capture::filter::Filter;
use synwatch_core::sampling::{End, HashKey, Hasher, Sampling, SamplingLevel};
use synwatch_core::wire::Address;

/// Packet sockets that judge each packet.
const SOCKETS: usize = 64;
/// Packets of one measurement.
const PACKETS: u32 = 500;
/// Rounds through everything.
const ROUNDS: usize = 100;

/// Whatever the program kept is dropped: keeping is not its cost.
fn dropping(filter: &Filter) -> Vec<SockFilter> {
    const RET: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let k = |code, k| if code == RET { 0 } else { k };
    let program = filter.program();
    program.iter().map(|i| SockFilter::new(i.code, i.jt, i.jf, k(i.code, i.k))).collect()
}

fn filters() -> Vec<(&'static str, Filter)> {
    let sampling_key = *Hasher::new(HashKey([1; 16])).sampling_key();
    let sampled = |heavy: u32| {
        // None of them is an end of the packets: that takes longest.
        let heavy = (0..heavy).map(|end: End| (end, SamplingLevel::new(5))).collect();
        let flows = Some((sampling_key, Sampling { general: SamplingLevel::new(3), heavy }));
        Filter { selection: Selection { data: false, flows }, ..Filter::default() }
    };
    // The packets have the last of them.
    let ports: Vec<u16> = (1..64).chain([443]).collect();
    vec![
        ("exact", Filter::default()),
        ("level 3", sampled(0)),
        ("level 3, 4 heavy ends", sampled(4)),
        ("level 3, 16 heavy ends", sampled(16)),
        ("exact, 64 ports", Filter { ports: ports.clone(), ..Filter::default() }),
        ("level 3, 16 heavy ends, 64 ports", Filter { ports, ..sampled(16) }),
    ]
}

fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let build = |ipv6: bool, data: usize| {
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = if ipv6 {
            let address = |last: u128| (Address::from_bits(0x2001_0db8 << 96 | last)).to_bits();
            link.ipv6(address(1).to_be_bytes(), address(2).to_be_bytes(), 64)
        } else {
            link.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        };
        let tcp = ip.tcp(40_000, 443, 1, 1);
        let tcp = if data == 0 { tcp.syn() } else { tcp.ack(1) };
        let mut frame = Vec::new();
        tcp.write(&mut frame, &vec![7; data]).expect("a frame");
        frame
    };
    vec![
        ("SYN, IPv4", build(false, 0)),
        ("SYN, IPv6", build(true, 0)),
        ("data, IPv4", build(false, 512)),
        ("data, IPv6", build(true, 512)),
    ]
}

/// A device whose frames go nowhere.
fn sink() -> Box<dyn DataLinkSender> {
    // SAFETY: no pointers; it concerns the calling thread, the only one there is.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "it needs root");
    for arguments in ["link add sink type ifb", "link set sink up"] {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        assert!(status.is_ok_and(|status| status.success()), "ip {arguments}");
    }
    let interfaces = pnet_datalink::interfaces();
    let sink = interfaces.iter().find(|interface| interface.name == "sink").expect("a device");
    match pnet_datalink::channel(sink, Config::default()) {
        Ok(Channel::Ethernet(sender, _)) => sender,
        _ => panic!("no channel"),
    }
}

/// Nanoseconds per packet and socket.
fn measure(sink: &mut dyn DataLinkSender, frame: &[u8]) -> f64 {
    let begin = Instant::now();
    for _ in 0..PACKETS {
        sink.send_to(frame, None).expect("an Ethernet device").expect("a frame sent");
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(PACKETS) / SOCKETS as f64
}

fn main() {
    let mut sink = sink();
    let every = Protocol::from(libc::ETH_P_ALL.to_be() >> 16);
    let sockets: Vec<Socket> = (0..SOCKETS)
        .map(|_| Socket::new(Domain::PACKET, Type::RAW, Some(every)).expect("a packet socket"))
        .collect();
    let attach = |program: &[SockFilter]| {
        for socket in &sockets {
            socket.attach_filter(program).expect("a program that the kernel takes");
        }
    };
    let nothing = vec![SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0)];
    let filters = filters();
    let programs: Vec<_> = std::iter::once(nothing)
        .chain(filters.iter().map(|(_, filter)| dropping(filter)))
        .collect();
    let packets = packets();
    let mut least = vec![vec![f64::INFINITY; packets.len()]; programs.len()];
    for _ in 0..ROUNDS {
        for (program, least) in programs.iter().zip(&mut least) {
            attach(program);
            for ((_, frame), least) in packets.iter().zip(least) {
                *least = least.min(measure(sink.as_mut(), frame));
            }
        }
    }
    print!("{:34}{:>13}", "ns per packet", "instructions");
    packets.iter().for_each(|(name, _)| print!("{name:>12}"));
    println!();
    let (without, with) = (&least[0], &least[1..]);
    for (((name, _), program), least) in filters.iter().zip(&programs[1..]).zip(with) {
        print!("{name:34}{:>13}", program.len());
        for (with, without) in least.iter().zip(without) {
            print!("{:>12.1}", with - without);
        }
        println!();
    }
}
