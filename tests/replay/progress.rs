//! The progress bar: on a terminal only, in replays that take a while only, and gone at the end.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::files::{File, Folder};

/// A bar is for what takes longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Replays the file, given `times`, with what `command` makes of the program; says what the command
/// had to say, and how long it took. None where there is no such command.
fn replay(path: &Path, times: usize, command: &mut Command) -> Option<(String, Duration)> {
    let report = path.with_extension("report");
    command.env("PROGRAM", env!("CARGO_BIN_EXE_synwatch")).env("REPORT", &report);
    command.env("FILES", vec![path.to_str().unwrap(); times].join(" "));
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).output().ok()?;
    let duration = begin.elapsed();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(fs::read_to_string(report).unwrap().starts_with("SYNWATCH CRITICAL"));
    let said = [output.stdout, output.stderr].concat();
    Some((String::from_utf8(said).unwrap(), duration))
}

const CALL: &str = r#""$PROGRAM" --config /dev/null replay $FILES >"$REPORT""#;

/// A terminal as standard error, of this type.
fn on_terminal(kind: &str) -> Command {
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", CALL, "/dev/null"]).env("TERM", kind);
    command
}

/// A pipe as standard error.
fn on_pipe() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", CALL]).env("TERM", "xterm");
    command
}

#[test]
fn a_terminal_shows_a_bar_while_a_long_replay_takes() {
    let folder = Folder::new();
    let path = folder.write(File::flood(0..20_000).0);
    let Some((said, duration)) = replay(&path, 1, &mut on_terminal("xterm")) else {
        eprintln!("skipped: there is no script(1) to make a terminal");
        return;
    };
    assert!(said.is_empty() || duration > PATIENCE, "{said:?}");
    // The same file many times over, until that takes long enough.
    let (times, said) = (5..9)
        .map(|power| 1 << power)
        .find_map(|times| {
            let (said, duration) = replay(&path, times, &mut on_terminal("xterm"))?;
            (duration > PATIENCE * 3 / 2).then_some((times, said))
        })
        .expect("a machine on which 5 million packets take longer");
    assert!(said.contains(" % ") && said.contains(" left"), "{said:?}");
    // Back to the beginning of the line, and the line cleared.
    assert!(said.ends_with("\r\u{1b}[2K"), "{said:?}");
    // Nobody looks; and a terminal that cannot move its cursor.
    for mut command in [on_pipe(), on_terminal("dumb")] {
        assert_eq!(replay(&path, times, &mut command).unwrap().0, "");
    }
}
