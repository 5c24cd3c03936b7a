//! The command line: what it may say, and what it means.
//!
//! [`Cli::parse`] turns arguments into a [`Cli`] that holds no contradiction. Its exit codes are
//! those of a Nagios plugin: wrong usage is 3 (UNKNOWN), not clap's 2, which would read as
//! CRITICAL.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use synwatch_core::observe::Status;

use crate::config::{
    Backend, Backlog, FilePath, Interface, ListenAddress, LogFormat, LogLevel, Netns, Network,
    OnceDuration, Overrides, PacketBudget, TelemetryPath, Threads,
};

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Cli {
    /// What to do.
    pub command: Command,
    /// `--config`, or the file to check; `None` for the default file, where it exists.
    pub config: Option<PathBuf>,
    /// Options that override the configuration file.
    pub overrides: Overrides,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Watch until told to stop.
    Daemon,
    /// Look once and exit with the verdict.
    Once {
        /// How long to listen on the wire; zero asks the kernel only.
        duration: OnceDuration,
        /// The output.
        output: Output,
    },
    /// Run the engine over capture files.
    Replay {
        /// Capture files; `-` is standard input.
        files: Vec<PathBuf>,
        /// The output.
        output: Output,
    },
    /// Validate the configuration and print it.
    CheckConfig,
}

/// The output of `--once` and `replay`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The form of the answer.
    pub format: Format,
    /// `--warning`: a Nagios range for the half-open count.
    pub warning: Option<String>,
    /// `--critical`: a Nagios range for the half-open count.
    pub critical: Option<String>,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people and for Nagios
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// Why there is nothing to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stop {
    /// `--help` or `--version`: the text for standard output.
    Answered(String),
    /// Wrong usage: one line for standard error.
    Usage(String),
}

impl Stop {
    /// Prints what there is to say and returns the exit code.
    #[must_use]
    pub fn report(&self) -> u8 {
        // Where nobody reads any more there is nobody to tell about it either.
        match self {
            Self::Answered(text) => {
                let _ = io::stdout().write_all(text.as_bytes());
                Status::Ok.exit_code()
            }
            Self::Usage(line) => {
                let _ = writeln!(io::stderr(), "synwatch: {line}");
                Status::Unknown.exit_code()
            }
        }
    }
}

impl Cli {
    /// Parses `arguments`, the first of which is the program's name.
    ///
    /// # Errors
    ///
    /// [`Stop`] on `--help`, `--version` and wrong usage.
    pub fn parse<I>(arguments: I) -> Result<Self, Stop>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        Arguments::command()
            .try_get_matches_from(arguments)
            .and_then(|matches| Arguments::from_arg_matches(&matches))
            .map_err(|error| stop(&error))?
            .check()
            .map_err(|message| Stop::Usage(message.to_owned()))
    }
}

/// The end that clap's `error` stands for.
fn stop(error: &clap::Error) -> Stop {
    let text = error.to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Stop::Answered(text);
    }
    // The first paragraph names the cause; tips and the usage follow after an empty line.
    let cause = text.lines().take_while(|line| !line.trim().is_empty());
    let line = cause.map(str::trim).collect::<Vec<_>>().join(" ");
    Stop::Usage(line.strip_prefix("error: ").unwrap_or(&line).to_owned())
}

/// Detects SYN floods from captured packets and from the kernel's half-open TCP connections.
///
/// Without a command it runs the daemon in the foreground. Exit codes of --once and replay: 0 OK,
/// 1 WARNING, 2 CRITICAL, 3 UNKNOWN (wrong usage, unreadable file, nothing to watch).
#[derive(Debug, Parser)]
#[command(name = "synwatch", version, max_term_width = 100, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommands>,

    /// Check once, print the verdict and exit
    #[arg(long)]
    once: bool,

    /// How long --once captures packets; 0 asks the kernel only and answers at once [default: 2s]
    #[arg(long, value_name = "DURATION")]
    duration: Option<OnceDuration>,

    #[command(flatten)]
    answer: AnswerArguments,

    #[command(flatten)]
    settings: SettingArguments,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run the detector over capture files (pcap, pcapng), merged by packet time
    Replay {
        /// Capture files; - reads standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Validate the configuration and print the effective one
    CheckConfig {
        /// The file to check [default: the default configuration file]
        #[arg(value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output of --once and replay")]
struct AnswerArguments {
    /// The output format [default: text]
    #[arg(long, global = true, value_enum, hide_default_value = true)]
    format: Option<Format>,

    /// WARNING if the half-open count is outside this Nagios range, such as 100
    #[arg(short, long, global = true, value_name = "RANGE", allow_hyphen_values = true)]
    warning: Option<String>,

    /// CRITICAL if the half-open count is outside this Nagios range
    #[arg(short, long, global = true, value_name = "RANGE", allow_hyphen_values = true)]
    critical: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options that override the configuration file")]
struct SettingArguments {
    /// The configuration file [default: /etc/synwatch/synwatch.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Capture on this interface; repeatable; `any` means all, with loopback [default: all that are
    /// up, without loopback]
    #[arg(short, long = "interface", global = true, value_name = "NAME")]
    interfaces: Vec<Interface>,

    /// The capture backend [default: ring]
    #[arg(long, global = true, value_enum, value_name = "BACKEND")]
    capture: Option<Backend>,

    /// Sample flows above this number of packets per second [default: 100000; no limit in replay]
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    packet_budget: Option<PacketBudget>,

    /// Number of threads that handle packets; only with backend ring and in replay [default: 1]
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    threads: Option<Threads>,

    /// Watch the services of this network; repeatable [default: this host's own addresses; all in
    /// replay]
    #[arg(long = "network", global = true, value_name = "CIDR")]
    networks: Vec<Network>,

    /// The listen backlog to assume if the kernel does not know the listener [default: 4096]
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    backlog: Option<Backlog>,

    /// The network namespace to watch [default: the current one]
    #[arg(long, global = true, value_name = "NAME|PID|PATH")]
    netns: Option<Netns>,

    /// Where the daemon serves HTTP [default: 127.0.0.1:10197]
    #[arg(long = "web.listen-address", global = true, value_name = "ADDRESS:PORT")]
    listen_address: Option<ListenAddress>,

    /// The path of the metrics [default: /metrics]
    #[arg(long = "web.telemetry-path", global = true, value_name = "PATH")]
    telemetry_path: Option<TelemetryPath>,

    /// Where the daemon stores learned baselines across restarts [default: baselines.json in
    /// $STATE_DIRECTORY, else none]
    #[arg(long = "state-file", global = true, value_name = "PATH")]
    state_file: Option<FilePath>,

    /// Log messages of this level and above [default: info]
    #[arg(long = "log.level", global = true, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,

    /// Destination and format of the log [default: auto]
    #[arg(long = "log.format", global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Arguments {
    /// Refuses what clap's rules let through: options without effect on the command.
    fn check(self) -> Result<Cli, &'static str> {
        let Self { command, once, duration, answer, settings } = self;
        if once && command.is_some() {
            return Err("--once cannot be combined with replay or check-config");
        }
        if duration.is_some() && !once {
            return Err("--duration works with --once only");
        }
        let answers = once || matches!(command, Some(Subcommands::Replay { .. }));
        if !answers && answer.is_given() {
            return Err("--format, --warning and --critical work with --once and replay only");
        }
        let mut config = settings.config;
        let output = Output {
            format: answer.format.unwrap_or_default(),
            warning: answer.warning,
            critical: answer.critical,
        };
        let command = match command {
            None if once => Command::Once {
                duration: duration.unwrap_or(const { OnceDuration::from_millis(2_000) }),
                output,
            },
            None => Command::Daemon,
            Some(Subcommands::Replay { files }) => Command::Replay { files, output },
            Some(Subcommands::CheckConfig { file }) => {
                config = file.or(config);
                Command::CheckConfig
            }
        };
        let overrides = Overrides {
            interfaces: settings.interfaces,
            backend: settings.capture,
            packet_budget: settings.packet_budget,
            threads: settings.threads,
            networks: settings.networks,
            backlog: settings.backlog,
            netns: settings.netns,
            listen_address: settings.listen_address,
            telemetry_path: settings.telemetry_path,
            state_file: settings.state_file,
            log_level: settings.log_level,
            log_format: settings.log_format,
        };
        Ok(Cli { command, config, overrides })
    }
}

impl AnswerArguments {
    const fn is_given(&self) -> bool {
        self.format.is_some() || self.warning.is_some() || self.critical.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(line: &str) -> Result<Cli, Stop> {
        Cli::parse(std::iter::once("synwatch").chain(line.split_whitespace()))
    }

    fn usage(line: &str) -> String {
        match parse(line) {
            Err(Stop::Usage(message)) => message,
            other => panic!("`{line}` gave {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn nothing_is_the_daemon() {
        let cli = parse("").unwrap();
        assert_eq!(
            cli,
            Cli { command: Command::Daemon, config: None, overrides: Overrides::default() }
        );
    }

    #[test]
    fn once_listens_for_two_seconds() {
        let Command::Once { duration, output } = parse("--once").unwrap().command else {
            panic!("not --once")
        };
        assert_eq!(duration.get(), Duration::from_secs(2));
        assert_eq!(output, Output::default());
        for (text, millis) in [("0", 0), ("500ms", 500), ("3s", 3_000)] {
            let cli = parse(&format!("--once --duration {text}")).unwrap();
            let Command::Once { duration, .. } = cli.command else { panic!("not --once") };
            assert_eq!(duration.get(), Duration::from_millis(millis));
        }
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        let before = parse("--format json --backlog 511 -w 10 replay a.pcap - b.pcapng").unwrap();
        let after = parse("replay a.pcap - b.pcapng -w 10 --backlog 511 --format json").unwrap();
        assert_eq!(before, after);
        assert_eq!(before.overrides.backlog, "511".parse().ok());
        let Command::Replay { files, output } = before.command else { panic!("not replay") };
        assert_eq!(files, ["a.pcap", "-", "b.pcapng"].map(PathBuf::from));
        assert_eq!(output.format, Format::Json);
        assert_eq!(output.warning.as_deref(), Some("10"));
    }

    #[test]
    fn every_setting_is_handed_over() {
        let cli = parse(
            "--config a.toml -i eth0 --interface lo --capture pnet --network 192.0.2.0/24 \
             --network 2001:db8::1 --packet-budget 2000 --threads 2 --backlog 128 --netns web --web.listen-address :9000 \
             --web.telemetry-path /m --state-file /a.json --log.level debug --log.format json",
        )
        .unwrap();
        assert_eq!(cli.config, Some(PathBuf::from("a.toml")));
        assert_eq!(
            cli.overrides,
            Overrides {
                interfaces: vec!["eth0".parse().unwrap(), "lo".parse().unwrap()],
                backend: Some(Backend::Pnet),
                networks: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                packet_budget: "2000".parse().ok(),
                threads: "2".parse().ok(),
                backlog: "128".parse().ok(),
                netns: "web".parse().ok(),
                listen_address: "[::]:9000".parse().ok(),
                telemetry_path: "/m".parse().ok(),
                state_file: "/a.json".parse().ok(),
                log_level: Some(LogLevel::Debug),
                log_format: Some(LogFormat::Json),
            }
        );
    }

    #[test]
    fn check_config_takes_a_file_either_way() {
        for line in ["check-config a.toml", "check-config --config a.toml"] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.command, Command::CheckConfig);
            assert_eq!(cli.config, Some(PathBuf::from("a.toml")));
        }
        assert_eq!(parse("check-config").unwrap().config, None);
    }

    #[test]
    fn wrong_usage_is_one_line_that_names_the_cause() {
        for (line, cause) in [
            ("--bogus", "'--bogus'"),
            ("bogus", "'bogus'"),
            ("replay", "<FILE>"),
            ("--once --duration soon", "`soon` is not a duration"),
            ("--once --duration -1s", "-1"),
            ("--once --format xml", "'xml'"),
            ("--backlog 0", "from 1 to 4294967295"),
            ("--backlog -1", "`-1`"),
            ("--network 192.0.2.0/33", "192.0.2.0/33"),
            ("--web.telemetry-path metrics", "--web.telemetry-path"),
            ("--interface", "--interface"),
            ("--duration 2s", "--duration works with --once"),
            ("--once replay a.pcap", "--once cannot be combined"),
            ("check-config -w 1", "--warning"),
            ("--format json", "--format"),
            ("check-config --config a b", "cannot be used with"),
        ] {
            let message = usage(line);
            assert!(message.contains(cause), "`{line}`: {message}");
            assert!(!message.contains('\n'), "`{line}`: {message}");
            assert!(!message.starts_with("error"), "`{line}`: {message}");
        }
    }

    #[test]
    fn help_and_version_are_answers() {
        for line in ["--help", "-h", "--version", "-V", "replay --help"] {
            assert!(matches!(parse(line), Err(Stop::Answered(_))), "{line}");
        }
        assert_eq!(
            parse("--version"),
            Err(Stop::Answered(format!("synwatch {}\n", env!("CARGO_PKG_VERSION"))))
        );
    }
}
