//! The program in the kernel: loading, attaching, its rules and its counters. The layouts are those
//! of `ebpf/handshakes.bpf.c`.

use aya::maps::{Array, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use synwatch_core::sampling::Sampling;

use crate::capture::Selection;

use super::{Counts, Error};

#[cfg(target_endian = "big")]
compile_error!("the object in ebpf/ is for little-endian machines");

const OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/handshakes.bpf.o");

/// The program, attached as long as this lives: links end with their descriptors, however the
/// process ends. What was opened keeps working without privileges (Linux 5.19; before, only where
/// `kernel.unprivileged_bpf_disabled` is 0).
pub(super) struct Program {
    ebpf: Ebpf,
    rules: Array<MapData, Words>,
    counts: PerCpuArray<MapData, [u64; 6]>,
}

impl Program {
    /// Loads the program; `ring_bytes`, a power of two, is the size of the ring, which is returned
    /// too. Only flows with one of `ports` at an end come up; all where there is none.
    pub(super) fn load(ring_bytes: u32, ports: &[u16]) -> Result<(Self, RingBuf<MapData>), Error> {
        let mut ebpf = EbpfLoader::new().map_max_entries("frames", ring_bytes).load(OBJECT)?;
        let mut take =
            |name| ebpf.take_map(name).ok_or(MapError::InvalidName { name: String::from(name) });
        let frames = RingBuf::try_from(take("frames")?)?;
        let rules = Array::try_from(take("rules")?)?;
        let counts = PerCpuArray::try_from(take("counts")?)?;
        let mut wanted: Array<_, PortBits> = Array::try_from(take("ports")?)?;
        wanted.set(0, port_bits(ports), 0)?;
        let mut program = Self { ebpf, rules, counts };
        program.xdp()?.load().map_err(EbpfError::from)?;
        Ok((program, frames))
    }

    fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        let program = self.ebpf.program_mut("handshakes");
        let program = program.ok_or(ProgramError::NotLoaded).map_err(EbpfError::from)?;
        Ok(program.try_into().map_err(EbpfError::from)?)
    }

    /// Has every packet that comes in by the interface pass through the program; by the driver, or
    /// by the network stack where the driver cannot.
    pub(super) fn attach(&mut self, interface: &str) -> Result<(), Error> {
        let xdp = self.xdp()?;
        let failed = |source| Error::attach(interface, &source);
        let Err(native) = xdp.attach(interface, XdpMode::Driver) else {
            tracing::debug!(interface, "XDP by the driver");
            return Ok(());
        };
        if super::is_busy(&native) {
            return Err(failed(native));
        }
        xdp.attach(interface, XdpMode::Skb).map_err(failed)?;
        let reason = super::chain(&native);
        tracing::warn!(
            interface,
            reason,
            "XDP by the network stack, which is slower: the driver cannot"
        );
        Ok(())
    }

    /// Follows these rules from the next packet on.
    pub(super) fn set_rules(&mut self, rules: &Rules) -> Result<(), Error> {
        Ok(self.rules.set(0, rules.words(), 0)?)
    }

    /// What was counted since the start, over all processors.
    pub(super) fn counts(&self) -> Result<Counts, Error> {
        let each = self.counts.get(&0, 0)?;
        let total = each.iter().fold([0; 6], |mut total: [u64; 6], counts| {
            for (total, count) in total.iter_mut().zip(counts) {
                *total += count;
            }
            total
        });
        let [packets, segments, syn, syn_ack, passed, lost] = total;
        Ok(Counts { packets, segments, syn, syn_ack, passed, lost })
    }
}

/// What the program goes by.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// User space is woken when so many octets wait: a power of two.
    pub wake: u32,
    /// Only the ports that the program was loaded with.
    pub ports: bool,
    /// What of the traffic is wanted.
    pub selection: Selection,
}

type Words = [u32; HEAVY + 2 * Sampling::HEAVY];

/// Where the pairs of ends and masks begin in `struct rules`.
const HEAVY: usize = 10;

impl Rules {
    /// `struct rules`.
    fn words(&self) -> Words {
        let mut words = [0; _];
        if let Some((sampling_key, sampling)) = &self.selection.flows {
            words[0] = sampling_key.seed;
            words[1..5].copy_from_slice(&sampling_key.odd);
            words[5] = sampling.general.mask();
            let heavy = &sampling.heavy[..sampling.heavy.len().min(Sampling::HEAVY)];
            words[8] = heavy.len() as u32;
            for (pair, (end, level)) in words[HEAVY..].chunks_exact_mut(2).zip(heavy) {
                pair.copy_from_slice(&[*end, level.mask()]);
            }
        }
        words[6] = self.selection.data.into();
        words[7] = self.wake;
        words[9] = self.ports.into();
        words
    }
}

/// A bit for each port.
type PortBits = [u32; 1 << 11];

fn port_bits(ports: &[u16]) -> PortBits {
    let mut bits = [0; _];
    for port in ports {
        bits[usize::from(port / 32)] |= 1 << (port % 32);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use synwatch_core::sampling::{HashKey, Hasher, Level};

    #[test]
    fn rules_as_the_program_reads_them() {
        let sampling_key = *Hasher::new(HashKey([7; 16])).sampling_key();
        let heavy = vec![(5, Level::new(3)), (6, Level::ALL)];
        let flows = Some((sampling_key, Sampling { general: Level::new(1), heavy }));
        let selection = Selection { data: true, flows };
        let words = Rules { wake: 1 << 18, ports: true, selection }.words();
        assert_eq!(words[0], sampling_key.seed);
        assert_eq!(words[1..5], sampling_key.odd);
        assert_eq!(words[5..10], [1 << 31, 1, 1 << 18, 2, 1]);
        assert_eq!(words[10..14], [5, 7 << 29, 6, 0]);
        assert!(words[14..].iter().all(|word| *word == 0));
        let rules = Rules { wake: 4096, ports: false, selection: Selection::default() };
        let words = rules.words();
        assert_eq!(words.iter().filter(|word| **word != 0).count(), 1);
    }

    /// What the program costs by itself, warm: `cargo test --features ebpf --lib
    /// cost_of_the_program -- --ignored --nocapture`, as root.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_the_program() {
        use aya::programs::{TestRun, TestRunOptions};
        use etherparse::PacketBuilder;

        let (mut program, mut frames) = Program::load(8 << 20, &[]).unwrap();
        let sampling_key = *Hasher::new(HashKey([7; 16])).sampling_key();
        let level = |general, heavy| {
            let heavy = vec![(7, Level::MAX); heavy];
            Some((sampling_key, Sampling { general: Level::new(general), heavy }))
        };
        let ethernet = || PacketBuilder::ethernet2([2; 6], [2; 6]);
        let ipv4 = || ethernet().ipv4([192, 0, 2, 1], [192, 0, 2, 10], 64);
        let ipv6 = ethernet().ipv6([1; 16], [2; 16], 64);
        let [mut udp, mut data, mut syn4, mut syn6] = [const { Vec::new() }; 4];
        ipv4().udp(1024, 53).write(&mut udp, &[7; 100]).unwrap();
        ipv4().tcp(1024, 443, 1, 512).ack(1).write(&mut data, &[7; 1000]).unwrap();
        ipv4().tcp(1024, 443, 1, 512).syn().write(&mut syn4, &[]).unwrap();
        ipv6.tcp(1024, 443, 1, 512).syn().write(&mut syn6, &[]).unwrap();
        for (name, frame, sampling) in [
            ("UDP", &udp, None),
            ("data", &data, None),
            ("SYN over IPv4, all pass up", &syn4, None),
            ("SYN over IPv4, sampled out", &syn4, level(16, 0)),
            ("SYN over IPv4, sampled out, 16 heavy ends", &syn4, level(16, 16)),
            ("SYN over IPv6, sampled out", &syn6, level(16, 0)),
        ] {
            let selection = Selection { data: false, flows: sampling };
            let rules = Rules { wake: 256 << 10, ports: false, selection };
            program.set_rules(&rules).unwrap();
            let mut times: Vec<f64> = (0..301)
                .map(|_| {
                    // Fewer than find room in the ring.
                    const REPEAT: u32 = 40_000;
                    let options = TestRunOptions {
                        data_in: Some(frame),
                        repeat: REPEAT,
                        ..Default::default()
                    };
                    let run = program.xdp().unwrap().test_run(options).unwrap();
                    while frames.next().is_some() {}
                    run.duration.as_nanos() as f64
                })
                .collect();
            times.sort_by(f64::total_cmp);
            eprintln!("{:5.0} ns  {name}", times[times.len() / 2]);
        }
        eprintln!("{:?}", program.counts().unwrap());
    }
}
