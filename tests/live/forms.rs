//! A flood is a flood in whatever form its SYNs come, as long as the kernel takes them.

use std::thread;
use std::time::Duration;

use crate::support;
use crate::support::flood::{Flood, Form, Running};
use crate::support::lab::{Family, Lab, MIRROR_LINK, Settings, service};
use crate::support::program::{Daemon, critical_after, document, entry_of, synwatch};
use crate::support::traffic::Service;
use crate::support::truth::{KernelTruth, Said, compare};
use crate::support::turn::Turn;

/// What the services of a lab are flooded with, all at once. Whole SYNs set the yardstick. Linux
/// takes IPv6 fragments only where the first has the whole TCP header (RFC 8200, section 4.5).
const FORMS: [(u16, Family, Form); 7] = [
    (4430, Family::V4, Form::Plain),
    (4431, Family::V4, Form::Fragments(8)),
    (4432, Family::V4, Form::Fragments(24)),
    (4433, Family::V6, Form::Plain),
    (4434, Family::V6, Form::Fragments(24)),
    (4435, Family::V6, Form::Options(88)),
    (4436, Family::V6, Form::Options(208)),
];
/// How long each flood lasts.
const DURATION: Duration = Duration::from_secs(7);
/// How often the kernel is asked; synwatch is asked a third as often.
const PERIOD: Duration = Duration::from_millis(150);
const BACKLOG: u16 = 511;
/// A host at the mirror port knows no listener, so it is told of their backlog.
#[rustfmt::skip]
const AT_MIRROR: [&str; 8] = [
    "-i", MIRROR_LINK, "--backlog", "511", "--network", "192.0.2.0/24", "--network", "2001:db8::/64",
];

/// Without SYN cookies, then with them.
#[test]
fn floods_in_every_form_are_paged_in_time() {
    if !support::requires_root() {
        return;
    }
    for syncookies in [0, 1] {
        let _turn = Turn::wait(1_000 * FORMS.len() as u32);
        let lab = Lab::new(Settings { syncookies, ..Settings::default() });
        let _services = serve(&lab, BACKLOG);
        let monitor = support::requires_nft().then(|| lab.mirror());
        let daemon = Daemon::start(&lab);
        let at_mirror = monitor.as_ref().map(|monitor| Daemon::start_on(monitor, &AT_MIRROR));

        let floods = flood(&lab, 1_000);
        thread::sleep(Duration::from_secs(4));
        let once = synwatch(&lab, &["--once", "--format", "json"]);
        let sent = floods.map(Running::join);

        assert_eq!(once.status.code(), Some(2), "--once: {:#}", document(&once));
        let mut reports = vec![("--once", document(&once)), ("daemon", daemon.status())];
        reports.extend(at_mirror.map(|daemon| ("mirror port", daemon.status())));
        for (name, report) in &reports {
            let all = &report["detections"];
            assert_eq!(all.as_array().map(Vec::len), Some(FORMS.len()), "{name}: {report:#}");
            for ((port, family, form), sent) in FORMS.iter().zip(sent) {
                let case = format!("{family:?}, {form:?}, cookies {syncookies}, {name}");
                let found = entry_of(service(*family, *port), all, |found| &found["target"]);
                assert_eq!(found["class"], "syn_flood", "{case}");
                if *name != "--once" {
                    let after = critical_after(found, sent.first);
                    eprintln!("{case}: critical after {after:.2} s");
                    assert!(after <= 6.0, "{case}: {after:.2} s");
                }
            }
            let limits = report["capture"]["limits"].as_array().expect("a list");
            for limit in ["fragments", "undecoded", "truncated"] {
                assert!(!limits.iter().any(|found| found == limit), "{name}: {limits:?}");
            }
        }
    }
}

/// At a rate that fills no queue, every request stays.
#[test]
fn half_open_requests_of_every_form_are_those_of_the_kernel() {
    if !support::requires_root() {
        return;
    }
    thread::scope(|scope| {
        for syncookies in [0, 1] {
            scope.spawn(move || count(syncookies));
        }
    });
}

fn count(syncookies: u8) {
    let _turn = Turn::wait(50 * FORMS.len() as u32);
    let lab = Lab::new(Settings { syncookies, ..Settings::default() });
    let _services = serve(&lab, 4096);
    let daemon = Daemon::start(&lab);
    let mut truth = KernelTruth::of(&lab);

    let floods = flood(&lab, 50);
    let is_over = || floods.iter().all(Running::is_over);
    let (kernel, reports) = thread::scope(|scope| {
        let kernel = scope.spawn(|| {
            let mut kernel = Vec::new();
            loop {
                let last = is_over();
                kernel.push(truth.counts(FORMS.map(|(port, ..)| port)));
                if last {
                    return kernel;
                }
                thread::sleep(PERIOD);
            }
        });
        let mut reports = Vec::new();
        while !is_over() {
            thread::sleep(3 * PERIOD);
            reports.push(daemon.status());
        }
        (kernel.join().expect("the kernel's counts"), reports)
    });
    let sent = floods.map(Running::join);
    for (index, (port, family, form)) in FORMS.into_iter().enumerate() {
        let case = format!("{family:?}, {form:?}, cookies {syncookies}");
        let kernel: Vec<_> = kernel.iter().map(|counts| counts[index]).collect();
        let last = kernel.last().expect("a count").half_open;
        assert_eq!(last, sent[index].count, "{case}: what the kernel takes");
        let said: Vec<_> =
            reports.iter().map(|report| Said::of(report, service(family, port))).collect();
        compare(&case, syncookies, sent[index].first, &kernel, &said);
    }
}

fn serve(lab: &Lab, backlog: u16) -> [Service; FORMS.len()] {
    FORMS.map(|(port, family, _)| Service::start(lab, service(family, port), backlog.into()))
}

fn flood(lab: &Lab, rate: u32) -> [Running; FORMS.len()] {
    FORMS.map(|(port, family, form)| {
        Flood::random(service(family, port), rate, DURATION).in_form(form).start(lab)
    })
}
