//! The daemon on a mirror port.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use synwatch::wire::Flags;

use crate::mirror::{Mirror, Shape};
use crate::support::lab::{self, Lab, VICTIM_LINK};
use crate::support::program::Daemon;
use crate::support::requires_root;

const ON_MIRROR: [&str; 6] =
    ["--capture", "xdp", "-i", VICTIM_LINK, "--network", "198.51.100.0/24"];

#[test]
fn flood_of_a_mirrored_server_is_detected() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let daemon = Daemon::start_with(&lab, "", &ON_MIRROR);
    let server: SocketAddr = "198.51.100.10:443".parse().unwrap();
    let mut mirror = Mirror::new(&lab);
    let flood = thread::spawn(move || {
        let begin = Instant::now();
        for number in 0..8_000 {
            let client = Shape::V4.connection(number).0;
            mirror.send(&Shape::V4.frame(client, server, Flags::SYN, b""));
            mirror.send(&Shape::V4.frame(server, client, Flags::SYN | Flags::ACK, b""));
            let due = begin + Duration::from_micros(500) * number;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    });
    let found = daemon.wait_for(Duration::from_secs(10), |daemon| {
        daemon.detections().into_iter().find(|found| found["class"] == "syn_flood")
    });
    flood.join().unwrap();
    let found = found.unwrap_or_else(|| panic!("no detection: {:#}", daemon.status()));
    assert_eq!(found["target"]["address"], "198.51.100.10");
    assert_eq!(found["target"]["port"], 443);
    thread::sleep(Duration::from_secs(2));
    let status = daemon.status();
    assert_eq!(status["capture"]["source"], "xdp");
    assert_eq!(status["capture"]["dropped"], 0);
    assert_eq!(status["totals"]["syn"], 8_000);
    assert_eq!(status["totals"]["syn_ack"], 8_000);
    let limits = status["capture"]["limits"].as_array().unwrap();
    assert!(
        !limits.iter().any(|limit| limit.as_str().unwrap().starts_with("one_way")),
        "{limits:?}"
    );
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!is_attached(&lab));
}

/// No chance to tidy up.
#[test]
fn the_program_goes_with_a_process_that_is_killed() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let daemon = Daemon::start_with(&lab, "", &ON_MIRROR);
    assert!(is_attached(&lab));
    // SIGKILL, and waits.
    drop(daemon);
    let give_up = Instant::now() + Duration::from_secs(5);
    while is_attached(&lab) {
        assert!(Instant::now() < give_up, "the program is still attached");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_attached(lab: &Lab) -> bool {
    let output = Command::new("ip")
        .args(["-n", lab.victim.name(), "-d", "link", "show", VICTIM_LINK])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().contains("prog/xdp")
}
