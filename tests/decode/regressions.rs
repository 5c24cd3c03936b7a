//! Replays `fuzz/regressions/`: inputs of the fuzz target `decode` that once went wrong, or well
//! might.

use std::fs;
use std::path::Path;

use crate::check::check;

#[test]
fn fuzz_regressions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            // Named first, so that a panic is seen to be this file's.
            eprintln!("{}", path.display());
            check(&fs::read(&path).unwrap());
            replayed += 1;
        }
    }
    assert!(replayed > 0, "no inputs in {}", folder.display());
}
