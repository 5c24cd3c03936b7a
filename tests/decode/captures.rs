//! Counts of SYNs and SYN-ACKs in real captures, against the counts that another program made of
//! them.
//!
//! The captures are not part of the repository: they lie in `../shared/captures`, or where
//! `SYNWATCH_CAPTURES` says. Their `labels.toml` begins with the definitions of its fields.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pcap_parser::{Block, PcapBlockOwned, create_reader};
use serde::Deserialize;
use synwatch_core::wire::{LinkType, Skip, decode};

#[derive(Deserialize)]
struct Labels {
    capture: Vec<Label>,
}

#[derive(Deserialize)]
struct Label {
    file: String,
    syns: u64,
    synacks: u64,
}

#[derive(Default)]
struct Counts {
    syns: u64,
    synacks: u64,
    skipped: BTreeMap<Skip, u64>,
}

/// A cause for which the counts of a file may differ from its label. The rules speak of what is in
/// the file, never of its name.
struct Excuse {
    cause: &'static str,
    applies: fn(&Label, &Counts) -> bool,
}

const EXCUSES: [Excuse; 1] = [Excuse {
    cause: "segments in IP fragments, which only a store of fragments puts together",
    applies: |label, counts| {
        let fragments = counts.skipped.get(&Skip::Fragment).copied().unwrap_or_default();
        let missed = (label.syns + label.synacks).checked_sub(counts.syns + counts.synacks);
        missed.is_some_and(|missed| missed <= fragments)
    },
}];

#[test]
fn counts_equal_the_labels() {
    let Some(folder) = folder() else {
        eprintln!("skipped: no captures (set SYNWATCH_CAPTURES to their folder)");
        return;
    };
    let labels = fs::read_to_string(folder.join("labels.toml")).unwrap();
    let labels: Labels = toml::from_str(&labels).unwrap();

    let mut excused = [0; EXCUSES.len()];
    let mut differences = Vec::new();
    for label in &labels.capture {
        let counts = count(&folder.join(&label.file));
        if (counts.syns, counts.synacks) == (label.syns, label.synacks) {
            continue;
        }
        let difference = format!(
            "{}: {} SYNs ({} expected), {} SYN-ACKs ({} expected), skipped {:?}",
            label.file, counts.syns, label.syns, counts.synacks, label.synacks, counts.skipped
        );
        match EXCUSES.iter().position(|excuse| (excuse.applies)(label, &counts)) {
            Some(rule) => {
                excused[rule] += 1;
                eprintln!("excused: {difference}");
            }
            None => differences.push(difference),
        }
    }
    for (excuse, files) in EXCUSES.iter().zip(excused) {
        eprintln!("{files} files excused: {}", excuse.cause);
    }
    eprintln!("{} files compared", labels.capture.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

fn folder() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/captures");
    let folder = std::env::var_os("SYNWATCH_CAPTURES").map_or_else(beside, PathBuf::from);
    folder.join("labels.toml").exists().then_some(folder)
}

fn count(path: &Path) -> Counts {
    let mut counts = Counts::default();
    for_each_frame(path, |link, data, original_len| match decode(link, data, original_len) {
        Ok(segment) => {
            counts.syns += u64::from(segment.flags.is_syn());
            counts.synacks += u64::from(segment.flags.is_syn_ack());
        }
        Err(skip) => *counts.skipped.entry(skip).or_default() += 1,
    });
    counts
}

/// Reads a pcap or pcapng file as far as it can be read.
fn for_each_frame(path: &Path, mut visit: impl FnMut(LinkType, &[u8], u32)) {
    let file = fs::read(path).unwrap();
    // A buffer for the whole file: "incomplete" then means that the file ends early.
    let Ok(mut reader) = create_reader(file.len().max(1), &file[..]) else { return };
    let mut links = Vec::new();
    while let Ok((size, block)) = reader.next() {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                links = vec![LinkType::from_dlt(header.network.0.cast_unsigned() & 0xffff)];
            }
            PcapBlockOwned::Legacy(packet) => visit(links[0], packet.data, packet.origlen),
            PcapBlockOwned::NG(Block::SectionHeader(_)) => links.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                links.push(LinkType::from_dlt(interface.linktype.0.cast_unsigned()));
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                if let Some(link) = links.get(packet.if_id as usize) {
                    let captured = packet.data.len().min(packet.caplen as usize);
                    visit(*link, &packet.data[..captured], packet.origlen);
                }
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                if let Some(link) = links.first() {
                    let captured = packet.data.len().min(packet.origlen as usize);
                    visit(*link, &packet.data[..captured], packet.origlen);
                }
            }
            PcapBlockOwned::NG(_) => {}
        }
        reader.consume(size);
    }
}
