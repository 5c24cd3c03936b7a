//! What the command line says instead of the file.

use super::{
    Backend, Backlog, Config, FilePath, Interface, ListenAddress, LogFormat, LogLevel, Netns,
    Network, PacketBudget, TelemetryPath, Threads,
};

/// Settings that stand above the file's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// `--interface`; empty where not given.
    pub interfaces: Vec<Interface>,
    /// `--capture`
    pub backend: Option<Backend>,
    /// `--packet-budget`
    pub packet_budget: Option<PacketBudget>,
    /// `--threads`
    pub threads: Option<Threads>,
    /// `--network`; empty where not given.
    pub networks: Vec<Network>,
    /// `--backlog`
    pub backlog: Option<Backlog>,
    /// `--netns`
    pub netns: Option<Netns>,
    /// `--web.listen-address`
    pub listen_address: Option<ListenAddress>,
    /// `--web.telemetry-path`
    pub telemetry_path: Option<TelemetryPath>,
    /// `--state-file`
    pub state_file: Option<FilePath>,
    /// `--log.level`
    pub log_level: Option<LogLevel>,
    /// `--log.format`
    pub log_format: Option<LogFormat>,
}

impl Overrides {
    /// Replaces in `config` what is given here; lists as a whole.
    pub(super) fn apply(&self, config: &mut Config) {
        replace_list(&mut config.capture.interfaces, &self.interfaces);
        replace(&mut config.capture.backend, self.backend.as_ref());
        if let Some(threads) = self.threads {
            config.capture.threads = threads;
        }
        if self.packet_budget.is_some() {
            config.capture.packet_budget = self.packet_budget;
        }
        replace_list(&mut config.watch.networks, &self.networks);
        replace(&mut config.watch.backlog, self.backlog.as_ref());
        if self.netns.is_some() {
            config.watch.netns.clone_from(&self.netns);
        }
        replace(&mut config.web.listen_address, self.listen_address.as_ref());
        replace(&mut config.web.telemetry_path, self.telemetry_path.as_ref());
        if self.state_file.is_some() {
            config.state.path.clone_from(&self.state_file);
            config.state.enabled = true;
        }
        replace(&mut config.log.level, self.log_level.as_ref());
        replace(&mut config.log.format, self.log_format.as_ref());
    }
}

fn replace<T: Clone>(setting: &mut T, given: Option<&T>) {
    if let Some(given) = given {
        setting.clone_from(given);
    }
}

fn replace_list<T: Clone>(setting: &mut Vec<T>, given: &[T]) {
    if !given.is_empty() {
        setting.clear();
        setting.extend_from_slice(given);
    }
}
