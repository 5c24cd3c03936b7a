//! The command line and the configuration, from the outside.

use std::fs;

use assert_cmd::Command;

fn synwatch(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_synwatch"))
        .args(arguments)
        .output()
        .expect("synwatch starts");
    let text = |bytes| String::from_utf8(bytes).expect("synwatch writes UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn help_and_version_exit_0() {
    let (code, stdout, stderr) = synwatch(&["--version"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("synwatch {}\n", env!("CARGO_PKG_VERSION")));

    let (code, stdout, stderr) = synwatch(&["--help"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for option in ["--once", "--duration", "--interface", "--network", "--web.listen-address"] {
        assert!(stdout.contains(option), "{option} is missing from\n{stdout}");
    }
}

#[test]
fn wrong_usage_exits_3_with_one_line() {
    for arguments in
        [&["--bogus"][..], &["replay"], &["--once", "--duration", "soon"], &["--backlog", "0"]]
    {
        let (code, stdout, stderr) = synwatch(arguments);
        assert_eq!((code, stdout.as_str()), (3, ""), "{arguments:?}");
        assert!(stderr.starts_with("synwatch: "), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn check_config_prints_what_is_in_force_and_reads_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("synwatch.toml");
    let file = file.to_str().unwrap();
    fs::write(
        file,
        "[watch]\nbacklog = 511\n[[service]]\nport = 443\nwarning_rate = 20\nmute = ['192.0.2.9']\n",
    )
    .unwrap();

    let (code, stdout, stderr) = synwatch(&["check-config", file, "--network", "192.0.2.1"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let effective: toml::Table = stdout.parse().unwrap();
    assert_eq!(effective["watch"]["backlog"].as_integer(), Some(511));
    assert_eq!(effective["watch"]["networks"][0].as_str(), Some("192.0.2.1/32"));
    assert_eq!(effective["service"][0]["warning_rate"].as_float(), Some(20.0));
    assert_eq!(effective["service"][0]["mute"][0].as_str(), Some("192.0.2.9/32"));
    assert_eq!(effective["web"]["listen_address"].as_str(), Some("127.0.0.1:10197"));

    fs::write(file, &stdout).unwrap();
    assert_eq!(synwatch(&["check-config", file]), (0, stdout, String::new()));
}

#[test]
fn check_config_takes_the_shipped_file() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/synwatch.toml");
    let (code, _, stderr) = synwatch(&["check-config", shipped]);
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn a_wrong_file_exits_3_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("synwatch.toml");
    let file = file.to_str().unwrap();
    for (text, line, part) in [
        ("[watch]\nbaklog = 1\n", 2, "unknown field `baklog`"),
        ("[tracker]\n\ncapacity = 1\n", 3, "`1` is not a whole number from 1024 to 16777216"),
        ("[watch\n", 1, "unclosed"),
        ("[[service]]\nport = 1\nmute = 1\n", 3, "expected true, false or a list of networks"),
        (
            "\n[[service]]\nport = 1\nwarning_rate = 9\ncritical_rate = 1\n",
            2,
            "is below warning_rate 9",
        ),
    ] {
        fs::write(file, text).unwrap();
        let (code, stdout, stderr) = synwatch(&["check-config", file]);
        assert_eq!((code, stdout.as_str()), (3, ""));
        assert!(stderr.starts_with(&format!("synwatch: {file}:{line}: ")), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let (code, _, stderr) = synwatch(&["check-config", "/nonexistent.toml"]);
    assert_eq!(code, 3);
    assert!(stderr.contains("/nonexistent.toml: No such file"), "{stderr}");
}
