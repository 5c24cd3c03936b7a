//! A flood is a flood in whatever form its SYNs come, as long as the kernel takes them.
#![cfg(feature = "host")]

mod support;

use std::thread;
use std::time::Duration;

use support::flood::{Flood, Form};
use support::lab::{Family, Lab, Settings, service};
use support::program::{Daemon, document, synwatch};
use support::traffic::Service;

const PORT: u16 = 4430;
const RATE: u32 = 1_000;
const DURATION: Duration = Duration::from_secs(8);

/// Linux takes IPv6 fragments only where the first has the whole TCP header (RFC 8200, section 4.5).
const FORMS: [(Family, Form); 5] = [
    (Family::V4, Form::Fragments(8)),
    (Family::V4, Form::Fragments(24)),
    (Family::V6, Form::Fragments(24)),
    (Family::V6, Form::Options(88)),
    (Family::V6, Form::Options(208)),
];

#[test]
fn floods_with_cookies_off() {
    all_forms(0);
}

#[test]
fn floods_with_cookies() {
    all_forms(1);
}

fn all_forms(syncookies: u8) {
    if !support::requires_root() {
        return;
    }
    thread::scope(|scope| {
        for (family, form) in FORMS {
            scope.spawn(move || flood(syncookies, family, form));
        }
    });
}

fn flood(syncookies: u8, family: Family, form: Form) {
    let case = format!("{family:?}, {form:?}, cookies {syncookies}");
    let lab = Lab::new(Settings { syncookies, ..Settings::default() });
    let target = service(family, PORT);
    let _service = Service::start(&lab, target, 128);
    let daemon = Daemon::start(&lab);
    let flood = Flood::random(target, RATE, DURATION).in_form(form).start(&lab);
    let critical = daemon.wait_for(Duration::from_secs(5), |daemon| {
        daemon.detections().into_iter().find(|found| found["severity"] == "critical")
    });
    let once = synwatch(&lab, &["--once", "--duration", "2s", "--format", "json"]);
    let status = daemon.status();
    let sent = flood.join();
    let critical = critical.unwrap_or_else(|| panic!("{case}: nothing critical: {status:#}"));
    assert_eq!(critical["class"], "syn_flood", "{case}");
    assert_eq!(critical["target"]["port"], PORT, "{case}");
    let syn = status["totals"]["syn"].as_u64().expect("a count");
    assert!(syn > 0 && syn <= sent.count, "{case}: {syn} SYNs of {}", sent.count);
    let limits = status["capture"]["limits"].as_array().expect("a list");
    for limit in ["fragments", "undecoded", "truncated"] {
        assert!(!limits.iter().any(|found| found == limit), "{case}: {limits:?}");
    }
    assert_eq!(once.status.code(), Some(2), "{case}: --once: {:#}", document(&once));
}
