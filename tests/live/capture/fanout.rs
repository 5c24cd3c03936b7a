//! The kernel divides the flows among the rings of a group as user space does, and loses none.

use std::collections::BTreeSet;
use std::io::Write;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use pnet_datalink::DataLinkSender;
use synwatch::capture::ring::Ring;
use synwatch::capture::{Error, Selection, Settings, Source};
use synwatch_core::sampling::SamplingKey;

use super::live::{named, tun};
use super::netns::{Lab, inside, ip};
use super::sampling::{Identity, drain, frames, sampled, sampling_key, sender, wanted};

/// Not a power of two: every bit of a sampling hash decides.
const SHARDS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// A group of rings, and one that sees everything.
struct Rings {
    sampling_key: SamplingKey,
    group: Vec<Ring>,
    single: Ring,
}

impl Rings {
    fn open(namespace: &str, settings: &Settings) -> Self {
        let sampling_key = sampling_key(5);
        let (group, single) = inside(namespace, || {
            (
                Ring::open_group(settings, SHARDS, &sampling_key).unwrap(),
                Ring::open(settings).unwrap(),
            )
        });
        assert_eq!(group.len(), SHARDS.get());
        Self { sampling_key, group, single }
    }

    fn select(&mut self, selection: &Selection) {
        for ring in self.group.iter_mut().chain([&mut self.single]) {
            ring.select(selection).unwrap();
        }
    }

    /// The segments that wait, sorted, which the group has as the single ring has them, each flow
    /// on one ring.
    fn drain(&mut self) -> Vec<Identity> {
        let mut all = Vec::new();
        for (shard, ring) in self.group.iter_mut().enumerate() {
            let segments = drain(ring);
            check_shard(&self.sampling_key, shard, &segments);
            all.extend(segments);
            assert_eq!(ring.stats().dropped, 0);
        }
        all.sort_unstable();
        let single = drain(&mut self.single);
        assert_eq!(self.single.stats().dropped, 0);
        assert_eq!(all.len(), single.len());
        assert!(all == single);
        all
    }

    /// Sends `flows` connections by `send`, and compares what comes up with what is wanted of them.
    fn check(&mut self, selection: &Selection, flows: u32, mut send: impl FnMut(usize, &[u8])) {
        self.drain();
        self.select(selection);
        for ipv6 in [false, true] {
            let frames = frames(flows, ipv6);
            for (sender, frame) in &frames {
                send(*sender, frame);
            }
            let expected = wanted(&frames, selection);
            assert!(!expected.is_empty());
            assert!(self.drain() == expected, "IPv6: {ipv6}, {selection:?}");
        }
    }
}

/// Every flow belongs to this shard.
fn check_shard(sampling_key: &SamplingKey, shard: usize, segments: &[Identity]) {
    for segment in segments {
        let (source, source_port, destination, destination_port, _) = *segment;
        let ends = [
            sampling_key.end(source, source_port),
            sampling_key.end(destination, destination_port),
        ];
        assert_eq!(sampling_key.of(ends).shard(SHARDS), shard, "{segment:?}");
    }
}

/// All, with data too, and few, by the sampling_key that decide the shard and by others.
fn selections() -> [Selection; 4] {
    let with_data = Selection { data: true, flows: None };
    [Selection::default(), with_data, sampled(sampling_key(5), 3), sampled(sampling_key(6), 2)]
}

type Sender = Box<dyn DataLinkSender>;

/// Sends by the first one what the client sends, by the second what the server does.
fn by(senders: &mut [Sender; 2]) -> impl FnMut(usize, &[u8]) {
    |from, frame| senders[from].send_to(frame, None).unwrap().unwrap()
}

fn veth_senders(lab: &Lab) -> [Sender; 2] {
    [&lab.client, &lab.server].map(|namespace| sender(namespace, "veth0"))
}

#[test]
fn flows_over_ethernet_come_whole_to_the_ring_of_their_shard() {
    let Some(lab) = Lab::new() else { return };
    let mut senders = veth_senders(&lab);
    for settings in [named(&[]), named(&["lo", "veth0"])] {
        let mut rings = Rings::open(&lab.server, &settings);
        for selection in selections() {
            rings.check(&selection, 300, by(&mut senders));
        }
    }
}

#[test]
fn each_ring_of_a_group_gets_its_share() {
    let Some(lab) = Lab::new() else { return };
    let mut senders = veth_senders(&lab);
    let mut rings = Rings::open(&lab.server, &named(&[]));
    for (sender, frame) in &frames(1_000, false) {
        by(&mut senders)(*sender, frame);
    }
    let counts: Vec<_> = rings.group.iter_mut().map(|ring| drain(ring).len()).collect();
    // Seven segments of each of a thousand flows, give or take five standard deviations.
    assert!(counts.iter().all(|count| count.abs_diff(7 * 1_000 / 3) < 7 * 75), "{counts:?}");
}

#[test]
fn connections_of_real_sockets_come_whole_to_one_ring() {
    let Some(lab) = Lab::new() else { return };
    let Lab { server, client } = &lab;
    // Over the veth, coming in and going out; over loopback.
    for (at, from, to, addresses) in [
        (server, client, server, Lab::SERVER),
        (client, client, server, Lab::SERVER),
        (server, server, server, ["127.0.0.1", "::1"]),
    ] {
        let mut rings = Rings::open(at, &named(&["any"]));
        rings.select(&Selection { data: true, flows: None });
        rings.drain();
        for address in addresses {
            const CONNECTIONS: usize = 30;
            Lab::talk(from, to, address, CONNECTIONS);
            let segments = rings.drain();
            let flows: BTreeSet<_> =
                segments.iter().map(|(_, a, _, b, _)| [a.min(b), a.max(b)]).collect();
            assert_eq!(flows.len(), CONNECTIONS);
        }
    }
}

#[test]
fn flows_over_loopback_come_whole_to_the_ring_of_their_shard() {
    let Some(lab) = Lab::new() else { return };
    let mut sender = sender(&lab.server, "lo");
    for settings in [named(&["lo"]), named(&["any"])] {
        let mut rings = Rings::open(&lab.server, &settings);
        for selection in selections() {
            let send = |_, frame: &[u8]| sender.send_to(frame, None).unwrap().unwrap();
            rings.check(&selection, 200, send);
        }
    }
}

#[test]
fn flows_without_a_link_header_come_whole_to_the_ring_of_their_shard() {
    let Some(lab) = Lab::new() else { return };
    let Some(mut tun) = inside(&lab.server, tun) else { return };
    assert!(ip(&format!("-n {} link set tun0 up", lab.server)));
    let mut sender = sender(&lab.server, "tun0");
    let mut rings = Rings::open(&lab.server, &named(&["tun0"]));
    for selection in selections() {
        // What the client sends comes in, what the server sends goes out.
        rings.check(&selection, 200, |from, frame| match from {
            0 => tun.write_all(&frame[14..]).unwrap(),
            _ => sender.send_to(&frame[14..], None).unwrap().unwrap(),
        });
    }
}

#[test]
fn tagged_flows_come_whole_to_the_ring_of_their_shard() {
    const TAG: [u8; 4] = [0x81, 0x00, 0x40, 0x05];
    let Some(lab) = Lab::new() else { return };
    let mut senders = veth_senders(&lab);
    for tags in 1..3 {
        let mut rings = Rings::open(&lab.server, &named(&["veth0"]));
        rings.check(&Selection::default(), 100, |from, frame| {
            let (addresses, rest) = frame.split_at(12);
            let frame = [addresses, &TAG.repeat(tags), rest].concat();
            senders[from].send_to(&frame, None).unwrap().unwrap();
        });
    }
}

/// A VLAN interface leaves its tag to the interface below, or has it in the frames.
#[test]
fn flows_over_a_vlan_come_whole_to_the_ring_of_their_shard() {
    for tag_in_frames in ["reorder_hdr on", "reorder_hdr off"] {
        let Some(lab) = Lab::new() else { return };
        let Lab { server, client } = &lab;
        for (name, host) in [(server, 1), (client, 2)] {
            let kind = format!("type vlan id 5 {tag_in_frames}");
            if !ip(&format!("-n {name} link add link veth0 name vlan5 {kind}")) {
                eprintln!("skipped: no VLAN interfaces");
                return;
            }
            assert!(ip(&format!("-n {name} addr add 198.51.100.{host}/24 dev vlan5")));
            assert!(ip(&format!("-n {name} link set vlan5 up")));
        }
        for interface in ["veth0", "vlan5"] {
            const CONNECTIONS: usize = 20;
            let mut rings = Rings::open(server, &named(&[interface]));
            for (from, to, address) in
                [(client, server, "198.51.100.1"), (server, client, "198.51.100.2")]
            {
                Lab::talk(from, to, address, CONNECTIONS);
                // A handshake of three and a FIN each way, at least.
                assert!(rings.drain().len() >= 5 * CONNECTIONS);
            }
        }
    }
}

#[test]
fn only_the_interfaces_asked_for_are_heard() {
    let Some(lab) = Lab::new() else { return };
    let mut rings = Rings::open(&lab.server, &named(&["veth0"]));
    Lab::talk(&lab.server, &lab.server, "127.0.0.1", 20);
    assert_eq!(rings.drain(), []);
    Lab::talk(&lab.client, &lab.server, Lab::SERVER[0], 5);
    assert_ne!(rings.drain(), []);
}

#[test]
fn a_group_follows_interfaces_that_come_and_go() {
    let Some(lab) = Lab::new() else { return };
    for settings in [named(&["veth0"]), named(&[])] {
        let mut rings = Rings::open(&lab.server, &settings);
        let mut check = || {
            // They look once a second, when they are read.
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(1_300) {
                rings.drain();
            }
            rings.check(&sampled(sampling_key(5), 1), 100, by(&mut veth_senders(&lab)));
        };
        check();
        assert!(ip(&format!("-n {} link set veth0 down", lab.server)));
        assert!(ip(&format!("-n {} link set veth0 up", lab.server)));
        check();
        assert!(ip(&format!("-n {} link del veth0", lab.server)));
        lab.connect();
        check();
    }
}

#[test]
fn a_group_may_be_opened_before_its_interface_is_up() {
    let Some(lab) = Lab::new() else { return };
    assert!(ip(&format!("-n {} link set veth0 down", lab.server)));
    let mut rings = Rings::open(&lab.server, &named(&["veth0"]));
    assert!(ip(&format!("-n {} link set veth0 up", lab.server)));
    rings.check(&Selection::default(), 100, by(&mut veth_senders(&lab)));
}

/// While the first rings are open and the last are not, no frame comes to a ring that is not its
/// own.
#[test]
fn a_group_that_is_opened_under_load_hears_nothing_wrong() {
    let Some(lab) = Lab::new() else { return };
    let (frames, sampling_key) = (frames(500, false), sampling_key(5));
    let mut senders = veth_senders(&lab);
    let mut send = || {
        for (sender, frame) in &frames {
            by(&mut senders)(*sender, frame);
        }
    };
    let groups = std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let open = || Ring::open_group(&named(&[]), SHARDS, &sampling_key).unwrap();
            inside(&lab.server, || [(); 10].map(|()| open()))
        });
        while !opening.is_finished() {
            send();
        }
        opening.join().unwrap()
    });
    // The last one has something to hear, too.
    send();
    for mut group in groups {
        for (shard, ring) in group.iter_mut().enumerate() {
            let segments = drain(ring);
            assert!(!segments.is_empty());
            check_shard(&sampling_key, shard, &segments);
        }
    }
}

/// The rest of the daemon need not know that there is one ring only.
#[test]
fn a_group_of_one_is_a_ring() {
    let Some(lab) = Lab::new() else { return };
    let settings = named(&["veth0"]);
    let mut group = inside(&lab.server, || {
        Ring::open_group(&settings, NonZeroUsize::MIN, &sampling_key(5)).unwrap()
    });
    let [ring] = &mut group[..] else { panic!("{} rings", group.len()) };
    let (frames, mut senders) = (frames(50, true), veth_senders(&lab));
    for (sender, frame) in &frames {
        by(&mut senders)(*sender, frame);
    }
    assert!(drain(ring) == wanted(&frames, &Selection::default()));
}

#[test]
fn a_group_that_cannot_be_opened_says_why() {
    let Some(lab) = Lab::new() else { return };
    inside(&lab.server, || {
        let open = |settings: &Settings, count| {
            Ring::open_group(settings, NonZeroUsize::new(count).unwrap(), &sampling_key(5)).err()
        };
        let error = open(&named(&["no-such-if"]), 2).unwrap();
        assert!(matches!(error, Error::UnknownInterface { .. }), "{error}");
        // Of this thread alone.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_RAW).unwrap();
        assert!(matches!(open(&named(&[]), 2), Some(Error::Permission)));
    });
}
