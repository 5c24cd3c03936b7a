//! Packet counts of the capture collection against its labels.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use synwatch::capture::pcap::Pcap;
use synwatch::capture::{Batch, Source};

#[derive(Deserialize)]
struct Labels {
    capture: Vec<Label>,
}

#[derive(Deserialize)]
struct Label {
    file: String,
    packets: u64,
    readable: bool,
}

/// Frames that `path` gives, and records that could not be read.
fn count(path: &PathBuf) -> Result<(u64, u64), synwatch::capture::Error> {
    let mut source = Pcap::open(&[path])?;
    let (mut frames, mut bad) = (0, 0);
    loop {
        match source.read_batch(Duration::ZERO, &mut |_| frames += 1)? {
            Batch::Damaged => bad += 1,
            Batch::End => return Ok((frames, bad)),
            Batch::Frames | Batch::Idle => {}
        }
    }
}

/// The collection and its labels; `None`, with the reason printed, where there is none.
fn labels() -> Option<(PathBuf, Labels)> {
    let folder = std::env::var_os("SYNWATCH_CAPTURES").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/captures")),
        PathBuf::from,
    );
    let Ok(labels) = std::fs::read_to_string(folder.join("labels.toml")) else {
        eprintln!("skipped: no captures in {}", folder.display());
        return None;
    };
    Some((folder, toml::from_str(&labels).unwrap()))
}

#[test]
fn packet_counts_agree_with_the_labels() {
    let Some((folder, labels)) = labels() else { return };
    let mut differences = Vec::new();
    for label in labels.capture.iter().filter(|label| label.readable) {
        let path = folder.join(&label.file);
        // The labels count the custom blocks of pcapng as packets, as Wireshark does.
        let expected = label.packets - custom_blocks(&std::fs::read(&path).unwrap());
        match count(&path) {
            Ok((frames, 0)) if frames == expected => {}
            Ok((frames, bad)) => differences.push(format!(
                "{}: {frames} frames and {bad} bad records for {expected}",
                label.file
            )),
            Err(error) => differences.push(error.to_string()),
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// How many blocks of the types 0xbad and 0x40000bad a pcapng file has; 0 for any other file.
fn custom_blocks(content: &[u8]) -> u64 {
    let mut rest = content;
    let (mut blocks, mut big_endian) = (0, false);
    while let Some((kind, length)) =
        rest.first_chunk().zip(rest.get(4..).and_then(<[u8]>::first_chunk))
    {
        if *kind == [0x0a, 0x0d, 0x0d, 0x0a] {
            big_endian = rest[8] == 0x1a;
        } else if rest.len() == content.len() {
            return 0;
        }
        let number = if big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        blocks += u64::from(matches!(number(*kind), 0xbad | 0x4000_0bad));
        rest = rest.get(number(*length) as usize..).unwrap_or_default();
    }
    blocks
}

#[test]
fn files_broken_on_purpose_never_make_it_panic() {
    let Some((folder, labels)) = labels() else { return };
    for label in labels.capture.iter().filter(|label| !label.readable) {
        if let Err(error) = count(&folder.join(&label.file)) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
