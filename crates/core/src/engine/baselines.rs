//! What was learned leaves the engine, and comes back into another.

use std::cmp::Reverse;
use std::time::Duration;

use crate::engine::{Engine, SavedBaseline};

/// A baseline that is older says nothing of today.
const MAX_AGE: Duration = Duration::from_secs(30 * 86_400);

impl Engine {
    /// What was learned of every service, those included that have not been seen since
    /// [`restore`](Self::restore).
    ///
    /// An incident is no reason not to ask: nothing is learned from one that pages, so what is given out is what
    /// was known before it.
    #[must_use]
    pub fn baselines(&self) -> Vec<SavedBaseline> {
        let learned = self.services.ids().filter_map(|id| self.services.get(id).baseline());
        learned.chain(self.services.kept().cloned()).collect()
    }

    /// Takes in what was learned before, as much of it as there may be services, newest first; returns how
    /// many baselines will be used. A service that has no place yet takes its baseline when it gets
    /// one. Not used are those that are older than 30 days or hold what is no number, and those of
    /// services that have begun to learn.
    pub fn restore(&mut self, mut saved: Vec<SavedBaseline>) -> usize {
        saved.retain(|one| one.is_sound() && self.now - one.learned_at <= MAX_AGE);
        saved.sort_by_key(|one| Reverse(one.learned_at));
        saved.truncate(usize::from(self.settings.services));
        let now = self.now;
        saved
            .into_iter()
            .map(|one| SavedBaseline { learned_at: one.learned_at.min(now), ..one })
            .filter_map(|one| self.services.keep(one).then_some(()))
            .count()
    }
}
