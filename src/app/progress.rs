//! How far a replay is, for who waits for it at a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::capture::pcap::Pcap;

/// What takes no longer shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks at where the source is.
const INTERVAL: Duration = Duration::from_millis(100);

const TEMPLATE: &str = "[{wide_bar}] {percent:>3} %  {bytes} of {total_bytes}  {eta} left";

/// A bar on standard error, where that is a terminal, while a replay takes longer than a second and
/// its end is known. It is gone when this is dropped.
pub struct Progress {
    /// None where no bar will ever be shown.
    bar: Option<ProgressBar>,
    /// When to look next.
    due: Instant,
}

impl Progress {
    /// Begins to wait for `source`.
    pub fn new(source: &Pcap) -> Self {
        let bar = source.length().map(|length| {
            let target = ProgressDrawTarget::stderr();
            ProgressBar::with_draw_target(Some(length), target).with_style(style())
        });
        Self { bar: bar.filter(|bar| !bar.is_hidden()), due: Instant::now() + PATIENCE }
    }

    /// Shows where `source` is; cheap enough for every batch.
    pub fn show(&mut self, source: &Pcap) {
        let Some(bar) = &self.bar else { return };
        let now = Instant::now();
        if now >= self.due {
            self.due = now + INTERVAL;
            bar.set_position(source.position());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    // A template that cannot be read is one that a test would have seen; a bar is a bar.
    let style = ProgressStyle::with_template(TEMPLATE);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_read() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
