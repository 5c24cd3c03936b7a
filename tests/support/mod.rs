//! What the tests against a real kernel share: two network namespaces on a veth pair ([`lab`]), a
//! bounded SYN generator ([`flood`]), real servers and clients ([`traffic`]), a slow line
//! ([`line`]), the kernel's own count of half-open connections ([`truth`]), the synwatch binary
//! ([`program`]), and who may send when ([`turn`]).
#![allow(dead_code, reason = "each test crate uses its own part of this module")]

pub mod flood;
pub mod lab;
pub mod line;
pub mod netns;
pub mod program;
pub mod traffic;
pub mod truth;
pub mod turn;

/// Whether this process may create network namespaces; says why a test is skipped where not.
pub fn requires_root() -> bool {
    let usable = netns::usable();
    if !usable {
        eprintln!("skipped: needs root and network namespaces");
    }
    usable
}

/// Whether nft can be used in a namespace of our own; says why a test is skipped where not.
pub fn requires_nft() -> bool {
    if !requires_root() {
        return false;
    }
    let namespace = netns::Namespace::new('n');
    let output = namespace.command("nft").args(["list", "ruleset"]).output();
    let usable = output.is_ok_and(|output| output.status.success());
    if !usable {
        eprintln!("skipped: needs nft and a kernel with nf_tables");
    }
    usable
}
