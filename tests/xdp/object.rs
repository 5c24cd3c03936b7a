//! The checked-in object is what its source says.

use std::path::Path;
use std::process::Command;

/// The version whose output is checked in.
const VERSION: &str = "version 14.";

#[test]
fn object_is_made_of_the_source_octet_by_octet() {
    let Some((clang, strip)) = tools() else {
        eprintln!("skipped: needs clang 14 and its llvm-strip");
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ebpf");
    let elsewhere = tempfile::tempdir().unwrap();
    for file in ["handshakes.bpf.c", "Makefile"] {
        std::fs::copy(folder.join(file), elsewhere.path().join(file)).unwrap();
    }
    let output = Command::new("make")
        .arg("-C")
        .arg(elsewhere.path())
        .args([format!("CLANG={clang}"), format!("STRIP={strip}")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |folder: &Path| std::fs::read(folder.join("handshakes.bpf.o")).unwrap();
    let same = read(&folder) == read(elsewhere.path());
    assert!(same, "ebpf/handshakes.bpf.o is not of this source: make -C ebpf");
}

/// Compiler and strip of the right version.
fn tools() -> Option<(String, String)> {
    let is_right = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION))
    };
    is_right_make().then_some(())?;
    ["", "-14"].iter().find_map(|suffix| {
        let tools = (format!("clang{suffix}"), format!("llvm-strip{suffix}"));
        (is_right(&tools.0) && is_right(&tools.1)).then_some(tools)
    })
}

fn is_right_make() -> bool {
    Command::new("make").arg("--version").output().is_ok_and(|output| output.status.success())
}
