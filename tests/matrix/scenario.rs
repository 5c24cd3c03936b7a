//! A row of the scenario matrix: one TOML file under `tests/scenarios`, whose name is that of the
//! row.
//!
//! All times are in seconds, all rates per second.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;
use synwatch_core::observe::Status;

/// What is played, and what the engine must say of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    /// The number in the table of the scenario matrix.
    pub row: u32,
    /// What happens, in a few words.
    pub title: String,
    /// Whether the row is played once more with its events 2 s after the start.
    #[serde(default)]
    pub cold: bool,
    /// Why the program does not say yet what is expected: the row is played and printed, and fails
    /// nothing.
    #[serde(default)]
    pub pending: Option<String>,
    /// Whether it is played on every wire.
    #[serde(default)]
    pub wires: bool,
    /// Legitimate traffic before the events.
    #[serde(default = "default_warm_up")]
    pub warm_up: f64,
    /// Time after the warm-up, where there is no event that gives it.
    #[serde(default)]
    pub length: f64,
    /// Time after the last event.
    #[serde(default = "default_cool_down")]
    pub cool_down: f64,
    #[serde(default)]
    pub victim: Victim,
    #[serde(default)]
    pub legitimate: Legitimate,
    #[serde(default)]
    pub capture: Capture,
    /// Only one look is taken, as `--once` does it.
    #[serde(default)]
    pub once: Option<Once>,
    /// The events, by kind.
    #[serde(default)]
    pub flood: Vec<Flood>,
    #[serde(default)]
    pub backscatter: Vec<Backscatter>,
    #[serde(default)]
    pub scan: Vec<Scan>,
    #[serde(default)]
    pub peers: Vec<Peers>,
    #[serde(default)]
    pub crowd: Vec<Crowd>,
    #[serde(default)]
    pub bursts: Vec<Bursts>,
    #[serde(default)]
    pub outage: Vec<Outage>,
    #[serde(default)]
    pub stall: Vec<Stall>,
    #[serde(default)]
    pub restart: Vec<Restart>,
    #[serde(default)]
    pub health_checks: Vec<HealthChecks>,
    #[serde(default)]
    pub filter: Vec<Filter>,
    #[serde(default)]
    pub conntrack: Vec<Conntrack>,
    #[serde(default)]
    pub undecoded: Vec<Undecoded>,
    pub expect: Expect,
}

const fn default_warm_up() -> f64 {
    300.0
}

const fn default_cool_down() -> f64 {
    2.0
}

/// When an event begins after the warm-up, and how long it lasts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Span {
    pub after: f64,
    pub lasts: f64,
}

impl Default for Span {
    fn default() -> Self {
        Self { after: 0.0, lasts: 120.0 }
    }
}

impl Span {
    /// Whether a time after the warm-up is in it.
    pub fn contains(self, into: f64) -> bool {
        (self.after..self.end()).contains(&into)
    }

    pub fn is_over(self, into: f64) -> bool {
        into >= self.end()
    }

    pub fn end(self) -> f64 {
        self.after + self.lasts
    }
}

/// The watched host or network. Its first port at `address` is the service that clients use.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Victim {
    pub address: IpAddr,
    /// Hosts that are watched too, with the same ports.
    pub network: Option<IpNet>,
    /// Share of the network's addresses where there is a host.
    pub live: f64,
    pub ports: Vec<u16>,
    pub backlog: u32,
    /// `net.ipv4.tcp_syncookies`
    pub syncookies: u8,
    /// `net.ipv4.tcp_max_syn_backlog`
    pub max_syn_backlog: u32,
    /// `net.ipv4.tcp_synack_retries`
    pub synack_retries: u8,
    /// TCP_DEFER_ACCEPT in seconds, 0 for off.
    pub defer_accept: u32,
    /// What closed ports do.
    pub closed: Closed,
    /// Whether a proxy before the server answers each SYN itself, keeps nothing of it, and hands
    /// over what completes.
    pub syn_proxy: bool,
    /// Whether its sockets listen on all addresses.
    pub wildcard: bool,
    /// Whether the engine may ask the victim's kernel; where it is not said, it may with odd seeds,
    /// and with even ones it is a mirror port's that is only told the backlog.
    pub kernel: Option<bool>,
    /// When the kernel answers; always where it is not said.
    pub kernel_span: Option<Span>,
}

impl Default for Victim {
    fn default() -> Self {
        Self {
            address: IpAddr::from([192, 0, 2, 10]),
            network: None,
            live: 1.0,
            ports: vec![443],
            backlog: 4_096,
            syncookies: 1,
            max_syn_backlog: 4_096,
            synack_retries: 5,
            defer_accept: 0,
            closed: Closed::Reset,
            syn_proxy: false,
            wildcard: false,
            kernel: None,
            kernel_span: None,
        }
    }
}

/// The answer of a port that nobody listens on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Closed {
    Reset,
    /// A firewall drops the SYN.
    Drop,
}

/// The clients that use the service. Times between them are those of a Poisson process.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Legitimate {
    /// New connections.
    pub rate: f64,
    /// Relative height of a sine wave on the rate, and its period.
    pub swing: f64,
    pub period: f64,
    /// Standard deviation of the logarithm of the rate, which changes over about 20 s.
    pub burst: f64,
    /// Median and sigma of the lognormal round-trip time, the former in milliseconds.
    pub rtt_ms: f64,
    pub rtt_sigma: f64,
    /// Share of the clients that fall silent after the SYN.
    pub silent: f64,
    /// Share that connects and sends no data.
    pub quiet: f64,
    /// Share that uses Fast Open with a valid cookie.
    pub fast_open: f64,
    /// Share that comes from two addresses of a carrier's NAT.
    pub cgnat: f64,
    /// Whether all come from one /16.
    pub one_network: bool,
    /// Share of the SYN-ACKs that are lost on the way.
    pub loss: f64,
}

impl Default for Legitimate {
    fn default() -> Self {
        Self {
            rate: 100.0,
            swing: 0.0,
            period: 3_600.0,
            burst: 0.0,
            rtt_ms: 60.0,
            rtt_sigma: 0.9,
            silent: 0.02,
            quiet: 0.0,
            fast_open: 0.0,
            cgnat: 0.0,
            one_network: false,
            loss: 0.002,
        }
    }
}

/// What the capture cannot see.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// Share of the packets that are lost.
    pub drop: f64,
    /// Whether the capture does not know its losses.
    pub uncounted: bool,
    pub only: Option<Only>,
}

/// The only direction that is seen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Only {
    Ingress,
    Egress,
}

/// A look that begins at a random time between two times after the warm-up.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Once {
    pub from: f64,
    pub to: f64,
    /// How long the wire is listened to; 0 where only the kernel is asked.
    pub lasts: f64,
}

/// SYNs that nobody means to complete, at random times.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flood {
    #[serde(default)]
    pub span: Span,
    pub rate: f64,
    pub from: Sources,
    #[serde(default)]
    pub to: Targets,
    #[serde(default)]
    pub look: Look,
    #[serde(default = "default_ttl")]
    pub ttl: u8,
    /// One initial sequence number for all.
    #[serde(default)]
    pub constant_isn: bool,
    /// Share of the SYNs whose answer somebody resets, and how long after the SYN.
    #[serde(default)]
    pub resets: f64,
    #[serde(default = "default_reset_after")]
    pub reset_after: f64,
    /// Share of the SYNs that is repeated as a client does it.
    #[serde(default)]
    pub repeats: f64,
    /// Share of the SYNs that goes to any port of the victim's address instead.
    #[serde(default)]
    pub strays: f64,
    /// Whether it only prepares the event: neither deadlines nor silence count from it.
    #[serde(default)]
    pub prelude: bool,
    /// What of it never passes the monitor.
    #[serde(default)]
    pub hidden: Option<Hidden>,
    /// It sends for so long, then is quiet for so long, again and again.
    #[serde(default)]
    pub pulse: Option<Pulse>,
}

const fn default_ttl() -> u8 {
    52
}

const fn default_reset_after() -> f64 {
    0.04
}

/// What the monitor cannot see of a flood.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Hidden {
    /// The SYNs: their answers are seen.
    Syns,
    All,
}

/// An attack that comes and goes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pulse {
    pub on: f64,
    pub off: f64,
}

/// The sources of a flood.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "SourcesText")]
pub enum Sources {
    /// Forged, from the whole unicast space.
    Random,
    /// Forged, inside the /24s that clients come from.
    Served,
    /// Forged, inside a prefix.
    Prefix(IpNet),
    /// So many hosts. Of two floods that come from hosts, one has those of the other too.
    Hosts(u32),
}

/// "random", "served", a prefix, or a number of hosts.
#[derive(Deserialize)]
#[serde(untagged)]
enum SourcesText {
    Text(String),
    Hosts(u32),
}

impl TryFrom<SourcesText> for Sources {
    type Error = String;

    fn try_from(text: SourcesText) -> Result<Self, String> {
        match text {
            SourcesText::Hosts(count) => Ok(Self::Hosts(count)),
            SourcesText::Text(text) if text == "random" => Ok(Self::Random),
            SourcesText::Text(text) if text == "served" => Ok(Self::Served),
            SourcesText::Text(text) => text.parse().map(Self::Prefix).map_err(|_| {
                format!("\"{text}\" is neither \"random\" nor \"served\" nor a prefix nor a number")
            }),
        }
    }
}

/// What a flood hits.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// The service.
    #[default]
    Service,
    /// All open ports of the victim's address.
    Ports,
    /// Any port of the victim's address.
    AnyPort,
    /// One port of the victim's address.
    Port(u16),
    /// All open ports of all hosts.
    Network,
    /// Those of the hosts inside a prefix.
    Prefix(IpNet),
    /// Hosts all over the Internet, which answer.
    Internet,
}

/// What a flood's SYNs look like.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// hping3: window 512, no options.
    #[default]
    Hping,
    /// A Linux host's window and options, one TTL.
    Linux,
}

/// SYN-ACKs that answer nothing that the victim sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backscatter {
    #[serde(default)]
    pub span: Span,
    pub rate: f64,
    pub servers: u32,
    pub port: u16,
}

/// Hosts that look for open ports.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    #[serde(default)]
    pub after: f64,
    /// Of all together.
    pub rate: f64,
    #[serde(default = "one_host")]
    pub scanners: u32,
    /// So many ports of the victim's address; without it, the service's port of every address.
    #[serde(default)]
    pub ports: Option<u16>,
    /// Hosts all over the Internet instead.
    #[serde(default)]
    pub elsewhere: Option<Elsewhere>,
    /// Whether handshakes are completed before they are reset.
    #[serde(default)]
    pub connect: bool,
}

const fn one_host() -> u32 {
    1
}

/// Hosts all over the Internet, each in a network of its own.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elsewhere {
    pub hosts: u32,
    /// Where it is not said, each listens on another.
    #[serde(default)]
    pub port: Option<u16>,
    /// Share of them that takes connections, and that refuses them; the others are not there.
    #[serde(default)]
    pub answer: f64,
    #[serde(default)]
    pub refuse: f64,
}

/// A client that connects to its peers all over the Internet, of which many are gone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peers {
    #[serde(default)]
    pub span: Span,
    pub rate: f64,
    pub at: Elsewhere,
}

/// More clients than usual.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crowd {
    #[serde(default)]
    pub span: Span,
    /// What the rate is multiplied by, once it has risen.
    pub factor: f64,
    pub ramp: f64,
}

/// Clients that come all at once, and again.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bursts {
    #[serde(default)]
    pub span: Span,
    pub clients: u32,
    pub every: f64,
}

/// SYN-ACKs are lost on the way to the clients.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    #[serde(default)]
    pub span: Span,
    pub share: f64,
    /// Share of the clients' networks that it concerns.
    #[serde(default = "all_of_them")]
    pub networks: f64,
}

const fn all_of_them() -> f64 {
    1.0
}

/// The application calls accept() no more.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stall {
    #[serde(default)]
    pub span: Span,
}

/// The server is stopped, and listens again after that time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    pub span: Span,
}

/// Hosts that open connections and reset them before they complete.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthChecks {
    #[serde(default)]
    pub span: Span,
    pub checkers: u32,
    /// Of each.
    #[serde(default = "each_second")]
    pub rate: f64,
}

const fn each_second() -> f64 {
    1.0
}

/// A packet filter on the server drops SYNs before they reach a queue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    #[serde(default)]
    pub span: Span,
    /// Those to one port, or to all.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default = "all_of_them")]
    pub share: f64,
}

/// The server's table of connections (nf_conntrack) fills.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conntrack {
    #[serde(default)]
    pub span: Span,
    /// How full it is.
    pub fill: f64,
    /// Share of the SYNs that it drops.
    #[serde(default)]
    pub drops: f64,
}

/// Frames that the decoder makes no segment of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undecoded {
    #[serde(default)]
    pub span: Span,
    pub rate: f64,
    /// Why: the name of the label `reason`.
    pub reason: String,
}

/// What must be said, and what must not.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The class to be named; none where there is nothing to name.
    #[serde(default)]
    pub class: Option<String>,
    /// The class may be named, or not.
    #[serde(default)]
    pub optional: bool,
    /// The variants that it may have in the end; any where there is none.
    #[serde(default)]
    pub variants: Vec<String>,
    /// The target as `address:port` or `address` (port null); by default the service, "any" for
    /// any.
    #[serde(default)]
    pub target: Option<String>,
    #[serde(default)]
    pub target_prefix: Option<IpNet>,
    /// Whether the address that the event comes from is to be named.
    #[serde(default)]
    pub attacker: bool,
    /// Severities and the time until they must be reached, from the first packet of the event.
    #[serde(default)]
    pub by: Deadlines,
    /// The highest severity that the class may have.
    #[serde(default = "critical")]
    pub at_most: Rank,
    /// The highest severity that all else may have.
    #[serde(default = "info")]
    pub others_at_most: Rank,
    /// Classes that must not be named at all.
    #[serde(default)]
    pub never: Vec<String>,
    /// The least share of the service's attempts that completes when the events end.
    #[serde(default)]
    pub completion_ratio: f64,
    /// Flags that `capture.limits` must hold.
    #[serde(default)]
    pub limits: Vec<String>,
    /// What `status` may be when the events end; anything where there is none.
    #[serde(default)]
    pub status: Vec<Status>,
    /// The most incidents of the class.
    #[serde(default = "one")]
    pub incidents: usize,
    /// Whether all must be cleared in the end.
    #[serde(default)]
    pub cleared: bool,
    /// Share of the seeds on which all of this must hold.
    #[serde(default = "default_share")]
    pub share: f64,
}

const fn critical() -> Rank {
    Rank::Critical
}

const fn info() -> Rank {
    Rank::Info
}

const fn one() -> usize {
    1
}

const fn default_share() -> f64 {
    0.95
}

/// A severity, or none.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "lowercase")]
pub enum Rank {
    None,
    Info,
    Warning,
    Critical,
}

/// Times in seconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deadlines {
    pub info: Option<f64>,
    pub warning: Option<f64>,
    pub critical: Option<f64>,
    /// For a warning or more with one of the variants.
    pub variant: Option<f64>,
}

impl Scenario {
    /// The time from the first event's beginning to the last one's end.
    pub fn length(&self) -> f64 {
        let scans = self.scan.iter().map(|scan| {
            let hosts = scan.elsewhere.map_or(256.0, |elsewhere| f64::from(elsewhere.hosts));
            let probes = scan.ports.map_or(hosts, f64::from) * f64::from(scan.scanners);
            scan.after + 2.0 * probes / scan.rate + 5.0
        });
        let spans = (self.flood.iter().map(|event| event.span))
            .chain(self.backscatter.iter().map(|event| event.span))
            .chain(self.peers.iter().map(|event| event.span))
            .chain(self.crowd.iter().map(|event| event.span))
            .chain(self.bursts.iter().map(|event| event.span))
            .chain(self.outage.iter().map(|event| event.span))
            .chain(self.stall.iter().map(|event| event.span))
            .chain(self.restart.iter().map(|event| event.span))
            .chain(self.health_checks.iter().map(|event| event.span))
            .chain(self.filter.iter().map(|event| event.span))
            .chain(self.conntrack.iter().map(|event| event.span))
            .chain(self.undecoded.iter().map(|event| event.span));
        spans.map(Span::end).chain(scans).fold(self.length, f64::max)
    }
}

impl Scenario {
    /// About how many packets it takes, after so many seconds of legitimate traffic.
    pub fn packets(&self, warm_up: f64) -> f64 {
        let crowd = self.crowd.iter().map(|crowd| crowd.factor).fold(1.0, f64::max);
        let floods = self.flood.iter().map(|flood| flood.rate * flood.span.lasts);
        let backscatter = self.backscatter.iter().map(|event| event.rate * event.span.lasts);
        10.0 * self.legitimate.rate * (warm_up + crowd * self.length())
            + 2.0 * floods.chain(backscatter).sum::<f64>()
    }
}

/// All rows, in the order of their names.
pub fn all() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = fs::read_dir(&folder).expect("tests/scenarios");
    let mut scenarios: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a readable file");
            let mut scenario: Scenario =
                toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            scenario
        })
        .collect();
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    scenarios
}
