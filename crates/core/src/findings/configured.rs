//! What the configuration says of a service, where it has a part in the verdict.

use crate::model::{Evidence, Severity};

/// The settings that acted on one verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Configured {
    /// The backlog is a setting.
    pub backlog: bool,
    /// The service is muted, and this is how grave it would be otherwise.
    pub muted: Option<Severity>,
    /// Attempts per second from muted sources, which are not counted.
    pub ignored: u32,
}

impl Configured {
    /// The sentence of a verdict, with the other settings that acted on it.
    #[must_use]
    pub fn annotate(&self, sentence: &str, evidence: &Evidence) -> String {
        let mut text = sentence.trim_end_matches('.').to_owned();
        if let (true, Some(backlog)) = (self.backlog, evidence.backlog) {
            text += &format!("; the backlog of {backlog} is set in the configuration");
        }
        if self.ignored > 0 {
            text += &format!(
                "; {}/s more come from sources muted by the configuration and are not counted",
                self.ignored
            );
        }
        if let Some(severity) = self.muted {
            text += &format!("; muted by the configuration, else {}", severity.name());
        }
        text + "."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_at_the_end_of_the_sentence() {
        let evidence = Evidence { backlog: Some(511), ..Evidence::default() };
        assert_eq!(Configured::default().annotate("It is.", &evidence), "It is.");
        let configured = Configured { backlog: true, muted: Some(Severity::Critical), ignored: 7 };
        assert_eq!(
            configured.annotate("It is.", &evidence),
            "It is; the backlog of 511 is set in the configuration; 7/s more come from sources muted \
             by the configuration and are not counted; muted by the configuration, else critical."
        );
    }
}
