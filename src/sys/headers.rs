//! The kernel's headers, to compare with what is written down here of its layouts.

use std::io::Write;
use std::process::{Command, Stdio};

/// All that is compared is in the headers from this version on.
const OLDEST: &str =
    "#include <linux/version.h>\n_Static_assert(LINUX_VERSION_CODE >= 0x50900, \"\");\n";

/// Fails unless, with the kernel's headers `includes`, each expression of C has the value beside
/// it. The compiler is that for the target, `$CC` or else `cc`.
#[track_caller]
pub(crate) fn assert_agree(includes: &[&str], values: &[(&str, u64)]) {
    let mut source = String::from("#include <stddef.h>\n");
    for include in includes {
        source += &format!("#include <{include}>\n");
    }
    if let Err(reason) = compile(&format!("{source}{OLDEST}")) {
        return eprintln!(
            "skipped: needs a C compiler and headers of Linux 5.9 or later: {reason}"
        );
    }
    for (expression, value) in values {
        source += &format!("_Static_assert(({expression}) == {value}, \"{expression}\");\n");
    }
    compile(&source).unwrap_or_else(|errors| panic!("{errors}"));
}

/// Compiles `source`, or says what the compiler says.
fn compile(source: &str) -> Result<(), String> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut child = Command::new(compiler)
        .args(["-fsyntax-only", "-xc", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    // Dropped, so that the compiler sees its end.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(source.as_bytes()));
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    match (output.status.success(), written) {
        (true, Some(Ok(()))) => Ok(()),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn a_false_assertion_does_not_compile() {
    assert!(compile("_Static_assert(1 == 2, \"\");").is_err());
}
