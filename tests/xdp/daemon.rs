//! The daemon on a mirror port.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use synwatch_core::wire::Flags;

use crate::mirror::{Mirror, Shape};
use crate::support::flood::{Flood, Form};
use crate::support::lab::{self, Family, Lab, MIRROR_LINK, VICTIM_LINK};
use crate::support::program::Daemon;
use crate::support::traffic::Service;
use crate::support::{requires_nft, requires_root};

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

/// The kernel takes SYNs in all of these forms.
#[test]
fn floods_in_every_form_are_detected() {
    if !requires_nft() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let floods = [
        (Family::V4, Form::Plain),
        (Family::V4, Form::Fragments(8)),
        (Family::V4, Form::Fragments(24)),
        (Family::V6, Form::Fragments(24)),
        (Family::V6, Form::Options(88)),
        (Family::V6, Form::Options(208)),
    ];
    let mut ports = 4430..;
    let floods = floods.map(|(family, form)| (form, lab::service(family, ports.next().unwrap())));
    let _services = floods.map(|(_, target)| Service::start(&lab, target, 511));
    let monitor = lab.mirror();
    let networks = ["--network", "192.0.2.0/24", "--network", "2001:db8::/64"];
    let arguments = [&["--capture", "xdp", "-i", MIRROR_LINK, "--backlog", "511"], &networks[..]];
    let daemon = Daemon::start_on(&monitor, &arguments.concat());
    let start = |(form, target)| {
        Flood::random(target, 300, Duration::from_secs(7)).in_form(form).start(&lab)
    };
    let sent = floods.map(start).map(|flood| flood.join());
    thread::sleep(Duration::from_secs(1));
    let status = daemon.status();
    let all = status["detections"].as_array().unwrap();
    for ((form, target), sent) in floods.iter().zip(sent) {
        let port = &json!(target.port());
        let found = all.iter().find(|found| found["target"]["port"] == *port);
        let found = found.unwrap_or_else(|| panic!("{form:?}: not named: {status:#}"));
        assert_eq!(
            (&found["class"], &found["severity"]),
            (&json!("syn_flood"), &json!("critical"))
        );
        let mut services = status["services"].as_array().unwrap().iter();
        let service = services.find(|service| service["port"] == *port).unwrap();
        // On a busy machine the mirror port loses frames, and flows are sampled.
        let syn = service["syn"].as_u64().unwrap();
        assert!(syn > sent.count / 2, "{form:?}: {syn} of {}", sent.count);
    }
    let limits = status["capture"]["limits"].as_array().unwrap();
    for limit in ["fragments", "undecoded", "truncated"] {
        assert!(!limits.iter().any(|found| found == limit), "{limits:?}");
    }
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
