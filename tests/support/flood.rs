//! A SYN generator with forged sources: hand-built frames over AF_PACKET, paced exactly, bounded in
//! count and time. It refuses to run outside a namespace made for tests.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, SockAddr, Socket, Type};

use super::lab::{ATTACKER_LINK, ATTACKER_MAC, Lab, VICTIM_MAC};
use super::netns;

/// No flood lasts longer.
const TIME_CAP: Duration = Duration::from_secs(60);

/// Where the forged SYNs claim to come from.
#[derive(Clone, Debug)]
pub enum Sources {
    /// Any address that could be a client's on the Internet.
    Random,
    /// Any address inside one prefix: the /24, or /48 of IPv6, that holds the given address.
    Prefix(IpAddr),
    /// Any of a list: bots that know nothing of each other.
    List(Vec<IpAddr>),
}

/// The form that a SYN has on the wire.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Form {
    /// One packet, nothing between IP and TCP.
    #[default]
    Plain,
    /// Two fragments, the first of so many octets of the datagram. Where that is the whole TCP
    /// header, the SYN carries data.
    Fragments(usize),
    /// Behind so many octets of IPv6 destination options, a multiple of 8.
    Options(usize),
}

/// A flood to be sent.
#[derive(Clone, Debug)]
pub struct Flood {
    /// Whom to send to.
    pub target: SocketAddr,
    /// Whom to claim to be.
    pub sources: Sources,
    /// What each SYN looks like.
    pub form: Form,
    /// SYNs per second.
    pub rate: u32,
    /// How long, at most [`TIME_CAP`].
    pub duration: Duration,
    /// What the random numbers start from.
    pub seed: u64,
}

/// A flood that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// SYNs that left.
    pub count: u64,
    /// When the first left, by the wall clock.
    pub first: SystemTime,
    /// How long it took.
    pub took: Duration,
}

/// A flood or a scan under way.
pub struct Running {
    sender: JoinHandle<Sent>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Starts `send` from the attacker of `lab`; it is given the flag that tells it to stop.
    fn start(lab: &Lab, send: impl FnOnce(&AtomicBool) -> Sent + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self { sender: lab.attacker.spawn(move || send(&told)), stop }
    }

    /// Waits for its end.
    pub fn join(self) -> Sent {
        self.sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Whether all was sent.
    pub fn is_over(&self) -> bool {
        self.sender.is_finished()
    }

    /// Ends it early.
    pub fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }
}

impl Flood {
    /// A flood of `rate` SYNs per second from random sources.
    pub fn random(target: SocketAddr, rate: u32, duration: Duration) -> Self {
        let seed = u64::from(target.port()) << 32 | u64::from(rate);
        Self { target, sources: Sources::Random, form: Form::Plain, rate, duration, seed }
    }

    /// The same flood of SYNs in another form.
    pub fn in_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// The same flood, forged otherwise.
    pub fn from(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// Starts to send from the attacker of `lab`.
    pub fn start(self, lab: &Lab) -> Running {
        Running::start(lab, move |stop| {
            let mut random = Random(self.seed | 1);
            let total = (self.duration.as_secs_f64() * f64::from(self.rate)).round() as u64;
            send_paced(total, self.rate, stop, |_| {
                let source = self.sources.pick(self.target.ip(), &mut random);
                self.form.of(syn_frame(source, self.target, &mut random))
            })
        })
    }
}

impl Form {
    /// The frames that a plain one becomes.
    fn of(self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        let is_v6 = frame[12..14] == [0x86, 0xdd];
        let (head, payload) = frame.split_at(if is_v6 { 54 } else { 34 });
        match self {
            Self::Plain => vec![frame],
            Self::Options(octets) => vec![behind_options(head, payload, octets)],
            Self::Fragments(first) => {
                let payload =
                    if first < payload.len() { payload.to_vec() } else { with_data(head, payload) };
                let parts = [(0, &payload[..first]), (first, &payload[first..])];
                let fragment = |(offset, part): (usize, &[u8])| {
                    let more = offset + part.len() < payload.len();
                    if is_v6 {
                        fragment_v6(head, offset, part, more)
                    } else {
                        fragment_v4(head, offset, part, more)
                    }
                };
                parts.into_iter().map(fragment).collect()
            }
        }
    }
}

/// A TCP header of 24 octets, the last four of them no-operation options, and 20 octets of data.
fn with_data(head: &[u8], tcp: &[u8]) -> Vec<u8> {
    let mut tcp = [tcp, &[1; 24]].concat();
    tcp[12] = 6 << 4;
    tcp[16..18].fill(0);
    let addresses = if head.len() == 54 { &head[22..54] } else { &head[26..34] };
    let checksum = checksum(&[addresses, &[0, 6, 0, 44], &tcp]);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    tcp
}

fn fragment_v4(head: &[u8], offset: usize, part: &[u8], more: bool) -> Vec<u8> {
    let mut head = head.to_vec();
    head[16..18].copy_from_slice(&u16::try_from(20 + part.len()).expect("short").to_be_bytes());
    let field = u16::try_from(offset / 8).expect("short") | if more { 0x2000 } else { 0 };
    head[20..22].copy_from_slice(&field.to_be_bytes());
    head[24..26].fill(0);
    let checksum = checksum(&[&head[14..]]);
    head[24..26].copy_from_slice(&checksum.to_be_bytes());
    [&head, part].concat()
}

fn fragment_v6(head: &[u8], offset: usize, part: &[u8], more: bool) -> Vec<u8> {
    let mut head = head.to_vec();
    head[18..20].copy_from_slice(&u16::try_from(8 + part.len()).expect("short").to_be_bytes());
    head[20] = 44;
    let field = u16::try_from(offset).expect("short") | u16::from(more);
    // The sources are random: no two datagrams are of the same addresses.
    let header = [&[6, 0][..], &field.to_be_bytes(), &[0, 0, 0, 9]].concat();
    [&head, &header[..], part].concat()
}

fn behind_options(head: &[u8], tcp: &[u8], octets: usize) -> Vec<u8> {
    let mut head = head.to_vec();
    let length = u16::try_from(octets + tcp.len()).expect("short");
    head[18..20].copy_from_slice(&length.to_be_bytes());
    head[20] = 60;
    // One option that a receiver passes over (RFC 8200, section 4.2: 00), as long as there is room.
    let mut options = vec![6, u8::try_from(octets / 8 - 1).expect("short"), 0x1e];
    options.push(u8::try_from(octets - 4).expect("short"));
    options.resize(octets, 0);
    [&head, &options[..], tcp].concat()
}

/// Sends one SYN to each of `ports` of `target`, `rate` a second, from the attacker's real address
/// `source`: a half-open scan. The attacker's kernel knows no such connection and answers every
/// SYN-ACK with a RST, which is what `nmap -sS` relies on too.
pub fn syn_scan(lab: &Lab, source: IpAddr, target: IpAddr, ports: Vec<u16>, rate: u32) -> Running {
    Running::start(lab, move |stop| {
        let mut random = Random(u64::from(rate) | 1);
        send_paced(ports.len() as u64, rate, stop, |index| {
            let target = SocketAddr::new(target, ports[index as usize]);
            vec![syn_frame(source, target, &mut random)]
        })
    })
}

/// Sends the frames of the SYNs 0 to `total`, `rate` a second, until told to stop or [`TIME_CAP`]
/// is over.
fn send_paced(
    total: u64,
    rate: u32,
    stop: &AtomicBool,
    mut frames: impl FnMut(u64) -> Vec<Vec<u8>>,
) -> Sent {
    refuse_outside_tests();
    let link = packet_socket(ATTACKER_LINK).expect("the attacker's interface");
    let (first, started) = (SystemTime::now(), Instant::now());
    let mut count = 0;
    for index in 0..total {
        let due = started + Duration::from_secs_f64(index as f64 / f64::from(rate));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if started.elapsed() > TIME_CAP || stop.load(Ordering::Relaxed) {
            break;
        }
        // A receiver that is full for a moment loses a SYN, as on any wire.
        count += u64::from(frames(index).iter().all(|frame| link.send(frame).is_ok()));
    }
    Sent { count, first, took: started.elapsed() }
}

impl Sources {
    /// A list of `count` random addresses of the version of `target`: a botnet.
    pub fn fixed(count: usize, target: IpAddr) -> Self {
        let mut random = Random(count as u64 | 1);
        Self::List((0..count).map(|_| Self::Random.pick(target, &mut random)).collect())
    }

    fn pick(&self, target: IpAddr, random: &mut Random) -> IpAddr {
        match (self, target) {
            (Self::Random, IpAddr::V4(_)) => loop {
                let address = Ipv4Addr::from_bits(random.next() as u32);
                if is_public(address) {
                    break IpAddr::V4(address);
                }
            },
            // Global unicast is 2000::/3 (RFC 4291, section 2.4).
            (Self::Random, IpAddr::V6(_)) => {
                let bits = u128::from(random.next()) << 64 | u128::from(random.next());
                IpAddr::V6(Ipv6Addr::from_bits(bits >> 3 | 0x2000 << 112))
            }
            (Self::Prefix(IpAddr::V4(prefix)), _) => IpAddr::V4(Ipv4Addr::from_bits(
                prefix.to_bits() & !0xff | random.next() as u32 & 0xff,
            )),
            (Self::Prefix(IpAddr::V6(prefix)), _) => {
                let low = (u128::from(random.next()) << 64 | u128::from(random.next())) >> 48;
                IpAddr::V6(Ipv6Addr::from_bits(prefix.to_bits() >> 80 << 80 | low))
            }
            (Self::List(list), _) => list[random.next() as usize % list.len()],
        }
    }
}

/// Whether an address is one that routers carry, and none of the lab's own.
pub fn is_public(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    let lab = address.to_bits() >> 8 == Ipv4Addr::new(192, 0, 2, 0).to_bits() >> 8;
    first != 0
        && first < 224
        && !lab
        && !address.is_loopback()
        && !address.is_private()
        && !address.is_link_local()
}

/// An Ethernet frame with a SYN as hping3 sends it: window 512, TTL 64, no options.
fn syn_frame(source: IpAddr, target: SocketAddr, random: &mut Random) -> Vec<u8> {
    let source_port = 1024 + (random.next() % 64_512) as u16;
    let sequence = random.next() as u32;
    let mut tcp = [0; 20];
    tcp[0..2].copy_from_slice(&source_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&target.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = 0x02;
    tcp[14..16].copy_from_slice(&512u16.to_be_bytes());

    let (ether_type, mut ip, addresses) = match (source, target.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
            ip[4..6].copy_from_slice(&(random.next() as u16).to_be_bytes());
            let addresses = [from.octets(), to.octets()].concat();
            (0x0800u16, ip, addresses)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            (0x86dd, vec![0x60, 0, 0, 0, 0, 20, 6, 64], [from.octets(), to.octets()].concat())
        }
        _ => panic!("source {source} and target {target} are of different IP versions"),
    };
    ip.extend(&addresses);
    if ether_type == 0x0800 {
        let checksum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    // The pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1): addresses, protocol,
    // length.
    let checksum = checksum(&[&addresses, &[0, 6, 0, 20], &tcp]);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    [&VICTIM_MAC[..], &ATTACKER_MAC, &ether_type.to_be_bytes(), &ip, &tcp].concat()
}

/// The Internet checksum (RFC 1071) over parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// xorshift64: even enough for addresses, and the same in every run. The seed must not be 0.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Panics unless the calling thread is in a namespace that this process made, and that holds
/// nothing but test interfaces.
pub fn refuse_outside_tests() {
    assert!(netns::is_ours(), "refusing to flood a network namespace that is not the tests' own");
    let output = Command::new("ip").args(["-j", "-d", "link"]).output().expect("ip link");
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).expect("ip -j link");
    for link in links.as_array().expect("a list of interfaces") {
        let kind = link["linkinfo"]["info_kind"].as_str();
        let virtual_link = link["ifname"] == "lo" || matches!(kind, Some("veth" | "ifb"));
        assert!(virtual_link, "refusing to flood: {} is not a test interface", link["ifname"]);
    }
}

/// A raw socket that sends whole frames out of `interface`.
pub fn packet_socket(interface: &str) -> io::Result<Socket> {
    let index = interface_index(interface)?;
    let fill = |storage: *mut libc::sockaddr_storage, length: *mut libc::socklen_t| {
        let address = storage.cast::<libc::sockaddr_ll>();
        // SAFETY: the storage is zeroed and large and aligned enough for every kind of address.
        unsafe {
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as u32;
        }
        Ok(())
    };
    // SAFETY: `fill` writes a valid address of the length that it reports.
    let ((), address) =
        unsafe { SockAddr::try_init(|storage, length| fill(storage.cast(), length))? };
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.bind(&address)?;
    Ok(socket)
}

/// The index of an interface in the namespace of the calling thread.
pub fn interface_index(interface: &str) -> io::Result<i32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index as i32) }
}
