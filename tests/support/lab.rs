//! Two hosts on one wire: a victim with a service, and an attacker who forges its source addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::netns::{Namespace, run_tool};

/// The victim's IPv4 address, in a /24 that it shares with the attacker.
pub const VICTIM_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The victim's IPv6 address, in a /64 that it shares with the attacker.
pub const VICTIM_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// The attacker's own IPv4 address: the source of what is not forged.
pub const ATTACKER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The attacker's own IPv6 address.
pub const ATTACKER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x1);
/// The victim's interface.
pub const VICTIM_LINK: &str = "veth0";
/// The attacker's interface.
pub const ATTACKER_LINK: &str = "veth1";
/// The interface of a host at the [mirror port](Lab::mirror).
pub const MIRROR_LINK: &str = "mirror0";
/// Link-layer address of [`VICTIM_LINK`].
pub const VICTIM_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
/// Link-layer address of [`ATTACKER_LINK`].
pub const ATTACKER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// The IP version that a test runs over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both versions.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The victim's address.
    pub const fn victim(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(VICTIM_V4),
            Self::V6 => IpAddr::V6(VICTIM_V6),
        }
    }

    /// The attacker's own address.
    pub const fn attacker(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(ATTACKER_V4),
            Self::V6 => IpAddr::V6(ATTACKER_V6),
        }
    }
}

/// Kernel settings of the victim that shape its SYN queue.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `net.ipv4.tcp_syncookies`.
    pub syncookies: u8,
    /// `net.ipv4.tcp_synack_retries`.
    pub synack_retries: u8,
    /// `net.ipv4.tcp_max_syn_backlog`; counts with SYN cookies off only.
    pub max_syn_backlog: u32,
    /// `net.core.somaxconn`.
    pub somaxconn: u32,
}

impl Default for Settings {
    /// Linux's defaults, and a `tcp_max_syn_backlog` that never is the lowest limit.
    fn default() -> Self {
        Self { syncookies: 1, synack_retries: 5, max_syn_backlog: 65_536, somaxconn: 4096 }
    }
}

/// A victim and an attacker. Dropping it deletes both namespaces.
pub struct Lab {
    /// Where the service and synwatch run.
    pub victim: Namespace,
    /// Where floods and clients come from.
    pub attacker: Namespace,
}

impl Lab {
    /// Builds the wire between the two and applies `settings` to the victim.
    pub fn new(settings: Settings) -> Self {
        let lab = Self { victim: Namespace::new('v'), attacker: Namespace::new('a') };
        lab.victim.ip(&format!(
            "link add {VICTIM_LINK} address {} type veth peer name {ATTACKER_LINK} address {} netns {}",
            mac(VICTIM_MAC),
            mac(ATTACKER_MAC),
            lab.attacker.name()
        ));
        for (host, link, number) in
            [(&lab.victim, VICTIM_LINK, "10"), (&lab.attacker, ATTACKER_LINK, "1")]
        {
            for key in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
                host.sysctl(key, "0");
            }
            host.sysctl(&format!("ipv4/conf/{link}/rp_filter"), "0");
            host.sysctl(&format!("ipv6/conf/{link}/accept_dad"), "0");
            host.sysctl(&format!("ipv6/conf/{link}/accept_ra"), "0");
            // An endpoint drops what is not addressed to it without a word. A router would not.
            host.sysctl("ipv4/ip_forward", "0");
            host.sysctl("ipv6/conf/all/forwarding", "0");
            host.ip(&format!("addr add 192.0.2.{number}/24 dev {link}"));
            host.ip(&format!("addr add 2001:db8::{number}/64 dev {link} nodad"));
            host.ip(&format!("link set {link} up"));
        }
        // Answers to forged addresses leave towards the attacker. Without a route of its own, the
        // attacker's IPv6 would answer them with "no route", which ends a request in SYN_RECV.
        for (family, peer) in [("-4", "192.0.2.1"), ("-6", "2001:db8::1")] {
            let neighbour = format!("lladdr {} dev {VICTIM_LINK} nud permanent", mac(ATTACKER_MAC));
            lab.victim.ip(&format!("{family} neigh replace {peer} {neighbour}"));
            lab.victim.ip(&format!("{family} route add default via {peer} dev {VICTIM_LINK}"));
            lab.attacker.ip(&format!("{family} route add blackhole default"));
        }
        // A veth without a queue hands "the receiver is full" up to TCP, which then forgets the
        // request whose SYN-ACK it wanted to repeat: no network card does that.
        let victim = lab.victim.name();
        let queue = ["-n", victim, "qdisc", "replace", "dev", VICTIM_LINK, "root", "pfifo"];
        run_tool("tc", &[&queue[..], &["limit", "20000"]].concat());

        lab.victim.sysctl("ipv4/tcp_syncookies", &settings.syncookies.to_string());
        lab.victim.sysctl("ipv4/tcp_synack_retries", &settings.synack_retries.to_string());
        lab.victim.sysctl("ipv4/tcp_max_syn_backlog", &settings.max_syn_backlog.to_string());
        lab.victim.sysctl("core/somaxconn", &settings.somaxconn.to_string());
        // Clients of the ordinary traffic outnumber the ports between the defaults.
        lab.attacker.sysctl("ipv4/ip_local_port_range", "10000 65000");
        lab
    }

    /// A host that sees what the victim receives and sends, and has no part in it. Needs nft.
    pub fn mirror(&self) -> Namespace {
        const PORT: &str = "port0";
        let monitor = Namespace::new('m');
        self.victim.ip(&format!(
            "link add {PORT} type veth peer name {MIRROR_LINK} netns {}",
            monitor.name()
        ));
        self.victim.ip(&format!("link set {PORT} up"));
        monitor.ip(&format!("link set {MIRROR_LINK} up promisc on"));
        let mut rules = String::from("add table netdev mirror;");
        for hook in ["ingress", "egress"] {
            rules += &format!(
                "add chain netdev mirror {hook} {{ type filter hook {hook} device {VICTIM_LINK} priority 0; }};
                 add rule netdev mirror {hook} dup to {PORT};"
            );
        }
        let output = self.victim.command("nft").arg(rules).output().expect("run nft");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        monitor
    }

    /// Gives the attacker's host `count` more addresses of each version, and returns those of
    /// `family`: real clients, who answer.
    pub fn add_clients(&self, family: Family, count: u8) -> Vec<IpAddr> {
        (0..count)
            .map(|index| {
                let address = match family {
                    Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100 + index)),
                    Family::V6 => {
                        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, u16::from(index)))
                    }
                };
                let (length, nodad) = match family {
                    Family::V4 => (24, ""),
                    Family::V6 => (64, "nodad"),
                };
                self.attacker
                    .ip(&format!("addr add {address}/{length} dev {ATTACKER_LINK} {nodad}"));
                address
            })
            .collect()
    }
}

/// The service of a test: the victim's address and `port`.
pub fn service(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.victim(), port)
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
