//! Replays `fuzz/regressions/`: inputs of the fuzz target `decode` that once went wrong, or well might.

use std::fs;
use std::path::Path;

use synwatch::wire::{LinkType, decode};

#[test]
fn fuzz_regressions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            continue;
        }
        let input = fs::read(&path).unwrap();
        // The layout of an input is described in the README beside the files.
        let ([dlt, data @ ..], original_len) = (&input[..], 0xffff) else { continue };
        let link = LinkType::from_dlt(u32::from(*dlt));
        for original_len in [0, original_len] {
            let _ = decode(link, data, original_len);
        }
        replayed += 1;
    }
    assert!(replayed > 0, "no inputs in {}", folder.display());
}
