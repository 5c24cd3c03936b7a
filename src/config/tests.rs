//! The file, its errors, and what the command line does to it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

/// The file that is shipped.
const SHIPPED: &str = include_str!("../../config/synwatch.toml");

/// A configuration in which every optional key is set, so that it shows the whole schema.
fn everything() -> Config {
    let mut config = Config::default();
    config.capture.packet_budget = "100000".parse().ok();
    config.watch.netns = Some("web".parse().unwrap());
    config.events.path = Some("/var/log/synwatch/events.json".parse().unwrap());
    config.state.path = Some("/var/lib/synwatch/baselines.json".parse().unwrap());
    config.services = vec![Service {
        address: Some([192, 0, 2, 10].into()),
        port: Port::new(443),
        backlog: Some(Backlog::new(511)),
        warning_rate: Rate::try_from(20.0).ok(),
        critical_rate: Rate::try_from(50.0).ok(),
        mute: Mute::Sources(vec!["203.0.113.0/24".parse().unwrap()]),
    }];
    config
}

/// The keys of a document as `section.key`, of a list of sections those of its first.
fn keys(document: &str) -> BTreeSet<String> {
    let table: toml::Table = document.parse().unwrap();
    table
        .iter()
        .flat_map(|(section, keys)| {
            let keys = keys.as_array().map_or(keys, |list| &list[0]);
            let keys = keys.as_table().expect("all keys stand in sections");
            keys.keys().map(move |key| format!("{section}.{key}"))
        })
        .collect()
}

/// `document` with its commented-out keys (`#key = value`, no space) in force.
fn uncommented(document: &str) -> String {
    document
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn error(document: &str) -> (usize, String) {
    Config::parse(document).expect_err(document)
}

#[test]
fn the_shipped_file_says_the_defaults() {
    assert_eq!(Config::parse(SHIPPED), Ok(Config::default()));
}

#[test]
fn the_shipped_file_has_every_key() {
    let shipped = uncommented(SHIPPED);
    assert_eq!(keys(&shipped), keys(&everything().to_toml().unwrap()));
    assert!(Config::parse(&shipped).is_ok());
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse(""), Ok(Config::default()));
}

#[test]
fn what_is_printed_reads_back() {
    let config = Config::parse(
        "[capture]\ninterfaces = ['eth0', 'any']\nbackend = 'pnet'\nports = [80, 443]\n\
         [watch]\nnetworks = ['2001:db8::/32', '192.0.2.1']\nbacklog = 511\nnetns = '4711'\n\
         [kernel]\nenabled = false\ninterval = '1m'\n\
         [web]\nlisten_address = ':80'\n[events]\npath = '/tmp/a \"b\".json'\n\
         [[service]]\nport = 443\nwarning_rate = 1\nmute = true\n\
         [[service]]\naddress = '::'\nport = 443\nmute = ['10.0.0.1']\n",
    )
    .unwrap();
    assert_eq!(config.kernel.interval.get(), Duration::from_mins(1));
    assert_eq!(config.capture.ports.iter().collect::<Vec<_>>(), [80, 443]);
    assert_eq!(Config::parse(&config.to_toml().unwrap()), Ok(config));
}

#[test]
fn unknown_keys_are_refused_with_their_line() {
    let (line, message) = error("[watch]\nbacklog = 511\n\nbaklog = 511\n");
    assert_eq!(line, 4);
    assert!(message.starts_with("unknown field `baklog`, expected one of `networks`"), "{message}");
    assert!(message.ends_with(" in `watch`"), "{message}");

    let (line, message) = error("[wacth]\nbacklog = 511\n");
    assert_eq!(line, 1);
    assert!(message.contains("`wacth`"), "{message}");
}

#[test]
fn wrong_values_are_refused_with_key_value_and_range() {
    let (line, message) = error("[capture]\nring_size = 12\n");
    assert_eq!(line, 2);
    assert_eq!(
        message,
        "`12` is not a whole number from 262144 to 1073741824 in `capture.ring_size`"
    );
    for (document, part) in [
        ("[watch]\nbacklog = -1", "`-1` is not a whole number from 1 to"),
        ("[watch]\nbacklog = 'x'", "expected i64"),
        ("[watch]\nnetworks = ['10.0.0.0/8', '10.0.0.0/99']", "10.0.0.0/99"),
        ("[kernel]\ninterval = '1ms'", "`1ms` is not from 100ms to 1m"),
        ("[kernel]\nenabled = 1", "expected a boolean in `kernel.enabled`"),
        (
            "[capture]\nbackend = 'xsk'",
            "unknown variant `xsk`, expected one of `ring`, `pnet`, `xdp`",
        ),
        ("[capture]\nports = [80, 65536]", "`65536` is not a whole number from 1 to 65535"),
        ("[log]\nlevel = 'loud'", "in `log.level`"),
    ] {
        let (line, message) = error(document);
        assert_eq!(line, 1 + document.matches('\n').count(), "{document}");
        assert!(message.contains(part), "{message}");
    }
    let (_, message) = error(&format!("[capture]\nports = [{}]", "80, ".repeat(65)));
    assert_eq!(message, "65 ports, more than 64 in `capture.ports`");
}

#[test]
fn services_are_refused_with_line_and_cause() {
    for (document, line, part) in [
        ("[[service]]\nport = 0", 2, "`0` is not a whole number from 1 to 65535 in `service.port`"),
        ("[[service]]\naddress = '::1'", 1, "missing field `port`"),
        ("[[service]]\nport = 1\naddress = '::1/64'", 3, "invalid IP address syntax"),
        ("[[service]]\nport = 1\nbacklog = 0", 3, "`0` is not a whole number from 1 to"),
        ("[[service]]\nport = 1\nwarning_rate = 0", 3, "`0` is not a rate per second above 0"),
        ("[[service]]\nport = 1\nwarning_rate = nan", 3, "`NaN` is not a rate per second"),
        ("[[service]]\nport = 1\ncritical_rate = -inf", 3, "`-inf` is not a rate per second"),
        ("[[service]]\nport = 1\nmute = 'all'", 3, "expected true, false or a list of networks"),
        ("[[service]]\nport = 1\nmute = [\n'10.0.0.0/8',\n'ten']", 3, "`ten` is not a network"),
        ("[[service]]\nport = 1\nmuted = true", 3, "unknown field `muted`"),
        ("[service]\nport = 1", 1, "expected a sequence"),
        (
            "[[service]]\nport = 1\n\n[[service]]\nport = 2\nwarning_rate = 20\ncritical_rate = 5",
            4,
            "critical_rate 5 is below warning_rate 20 in `service`",
        ),
        (
            "[[service]]\nport = 1\n[[service]]\naddress = '::'\nport = 1\n[[service]]\nport = 1",
            6,
            "any address, port 1 already has a [[service]] of its own in `service`",
        ),
    ] {
        let (at, message) = error(document);
        assert!(message.contains(part), "{document}: {message}");
        assert_eq!(at, line, "{document}: {message}");
    }
    let many: Vec<String> = (0..257).map(|n| format!("'10.0.{}.{}'", n / 256, n % 256)).collect();
    let (_, message) = error(&format!("[[service]]\nport = 1\nmute = [{}]", many.join(",")));
    assert!(message.starts_with("257 networks, more than 256"), "{message}");
}

#[test]
fn errors_are_one_line() {
    for document in
        ["[watch", "a = ", "= 1", "[watch]\nbacklog = 1\nbacklog = 2", "\u{0}", "x = '\n"]
    {
        let (_, message) = error(document);
        assert!(!message.contains('\n'), "{message}");
        assert!(!message.is_empty());
    }
}

#[test]
fn the_command_line_stands_above_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "[capture]\ninterfaces = ['eth0']\n[watch]\nbacklog = 128\n").unwrap();

    let config = Config::load(Some(file.path()), &Overrides::default()).unwrap();
    assert_eq!(config.capture.interfaces, ["eth0".parse().unwrap()]);
    assert_eq!(config.watch.backlog.get(), 128);

    let overrides = Overrides {
        interfaces: vec!["lo".parse().unwrap()],
        backlog: Some("511".parse().unwrap()),
        netns: Some("web".parse().unwrap()),
        log_level: Some(LogLevel::Debug),
        ..Overrides::default()
    };
    let config = Config::load(Some(file.path()), &overrides).unwrap();
    assert_eq!(config.capture.interfaces, ["lo".parse().unwrap()]);
    assert_eq!(config.watch.backlog.get(), 511);
    assert_eq!(config.watch.netns, Some("web".parse().unwrap()));
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn a_missing_file_is_an_error_where_it_was_named() {
    let error = Config::load(Some(Path::new("/nonexistent/a.toml")), &Overrides::default());
    let message = error.unwrap_err().to_string();
    assert!(message.starts_with("/nonexistent/a.toml: No such file"), "{message}");
}
