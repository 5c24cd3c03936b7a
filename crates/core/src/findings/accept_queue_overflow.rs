//! An application that does not call accept() fast enough: its queue of open connections is full.

use crate::findings::{Onset, Room};

/// So many answers that came again in spite of the client's ACK, and this share of the handshakes,
/// show an accept queue that is full.
const RESENT: u32 = 10;
const RESENT_SHARE: f64 = 0.05;
/// So few are enough where no SYN is answered any more: once an accept queue is full, only the
/// handshakes of the last round trip have an ACK to ignore.
const RESENT_IN_SILENCE: u32 = 2;
const UNANSWERED_IN_SILENCE: u32 = 10;

/// What was seen of an accept queue that is full.
#[derive(Clone, Copy, Debug)]
pub struct AcceptQueueOverflow {
    /// Connections that wait for accept(), where the kernel was asked.
    pub waiting: Option<u32>,
    /// SYN-ACKs that were sent again after the client's ACK, in the last seconds.
    pub resent: u32,
}

/// What it is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signs {
    /// Where the kernel was asked: connections that wait, how many may, and whether it turns others
    /// away.
    pub kernel: Option<(u32, u32, bool)>,
    /// SYN-ACKs that were sent again after the client's ACK, in the last seconds.
    pub resent: u32,
    /// Handshakes that completed in this time.
    pub completed: u32,
    /// SYNs that nobody answered though they had their time.
    pub unanswered: u32,
    /// Those of the last seconds that were answered.
    pub answered: u32,
    /// Attempts that each one counted stands for.
    pub weight: u32,
    /// It was full a moment ago.
    pub told: bool,
}

impl AcceptQueueOverflow {
    /// Whether an accept queue is full now: the kernel holds as many connections as fit
    /// (`sk_acceptq_is_full`) and turns others away. Where it cannot be asked: answers are repeated
    /// that were acknowledged, since their ACK had to be ignored (`tcp_check_req`), and further
    /// SYNs are not answered. (The first alone is also what `TCP_DEFER_ACCEPT` looks like, and the
    /// second a packet filter.)
    pub(crate) fn judge(signs: Signs) -> Option<Self> {
        let Signs { kernel, resent, completed, unanswered, answered, weight, told } = signs;
        let enough = |count: u32, limit: u32| count >= limit.saturating_mul(weight);
        let full = match kernel {
            Some((waiting, room, overflowing)) => waiting >= room && overflowing,
            None => {
                let many = enough(resent, RESENT)
                    && f64::from(resent) >= RESENT_SHARE * f64::from(completed);
                let silence = answered == 0
                    && enough(unanswered, UNANSWERED_IN_SILENCE)
                    && (told || enough(resent, RESENT_IN_SILENCE));
                (many || silence) && unanswered >= resent
            }
        };
        full.then_some(Self { waiting: kernel.map(|(waiting, ..)| waiting), resent })
    }
}

impl Room for AcceptQueueOverflow {
    const TITLE: &'static str = "accept queue overflow";
    const EVENT: u32 = 6;
    const CATEGORY: &'static str = "Misc activity";

    fn sentence(&self, onset: &Onset) -> String {
        let limit = onset.evidence.backlog.unwrap_or_default();
        let signs = [
            self.waiting.map(|waiting| {
                format!("{waiting} of {limit} places in its accept queue are taken")
            }),
            (self.resent > 0).then(|| {
                format!("{} SYN-ACKs were sent again although they were acknowledged", self.resent)
            }),
        ];
        format!(
            "The application behind {} does not call accept() fast enough: {}; its clients are real.",
            onset.place(),
            signs.into_iter().flatten().collect::<Vec<_>>().join(", and ")
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec![
            "Find out why the application accepts so slowly (blocked, out of threads or file \
             descriptors); a longer backlog only delays it. Blocking clients does not help."
                .to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: Signs = Signs {
        kernel: None,
        resent: 10,
        completed: 200,
        unanswered: 10,
        answered: 5,
        weight: 1,
        told: false,
    };

    #[test]
    fn the_wire_shows_it_by_answers_that_come_again_and_by_silence() {
        let judge = |signs| AcceptQueueOverflow::judge(signs).is_some();
        assert!(judge(WIRE));
        assert!(!judge(Signs { resent: 9, ..WIRE }), "a few");
        assert!(!judge(Signs { completed: 201, ..WIRE }), "a small part");
        assert!(!judge(Signs { unanswered: 9, ..WIRE }), "TCP_DEFER_ACCEPT");
        assert!(!judge(Signs { weight: 2, ..WIRE }), "five that stand for ten");
        let silence = Signs { resent: 2, answered: 0, ..WIRE };
        assert!(judge(silence));
        assert!(!judge(Signs { answered: 1, ..silence }));
        assert!(!judge(Signs { unanswered: 9, ..silence }));
        assert!(!judge(Signs { resent: 1, ..silence }), "a packet filter");
    }

    #[test]
    fn the_word_of_the_kernel_counts_where_there_is_one() {
        let judge = |kernel| AcceptQueueOverflow::judge(Signs { kernel: Some(kernel), ..WIRE });
        assert!(judge((128, 128, true)).is_some_and(|found| found.waiting == Some(128)));
        assert!(judge((127, 128, true)).is_none());
        assert!(judge((128, 128, false)).is_none());
    }
}
