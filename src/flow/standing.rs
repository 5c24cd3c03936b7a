//! Where an attempt stands: in one place at any time, so that every attempt has one outcome in the end.

use crate::flow::state::{Connection, Marks, Role, State};

/// Where an attempt to connect stands.
///
/// Counts follow from it alone: whatever moves an attempt takes its weight off the counts of the
/// standing before and adds it to those of the standing after. What is live is told from what is
/// given up by the [books](super::Tracker): an attempt that is `Asked` counts as SYN_SENT until its
/// deadline passes and as unanswered after it, one that is `HalfOpen` as timed out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It is no attempt: its SYN was not seen.
    None,
    /// Its SYN has no answer.
    Asked,
    /// It is answered, and the answer is not acknowledged.
    HalfOpen,
    /// The answer is acknowledged.
    Completed,
    /// It is completed as far as what was seen shows.
    Presumed,
    /// The server refused it by a RST.
    Refused,
    /// The client ended it by a RST before it had an answer.
    Withdrawn,
    /// A RST of this end stopped it after the answer.
    Reset(Role),
}

impl Standing {
    /// How the attempt of a connection stands. Of a closed one that only the RST tells: it stands as
    /// it did before, or as the RST has it.
    pub(super) const fn of(connection: &Connection) -> Self {
        if !connection.marks.has(Marks::ATTEMPT) {
            return Self::None;
        }
        match connection.state {
            State::SynSent => Self::Asked,
            State::SynReceived | State::SimultaneousOpen | State::SimultaneousOpenAcked(_) => {
                Self::HalfOpen
            }
            State::Refused => Self::Refused,
            _ if connection.marks.has(Marks::COMPLETED) => Self::Completed,
            _ => Self::Presumed,
        }
    }

    /// How it stands after a RST of `by` that ended it.
    pub(super) const fn after_reset(self, by: Role) -> Self {
        match (self, by) {
            (Self::Asked, Role::Client) => Self::Withdrawn,
            (Self::Asked, Role::Server) => Self::Refused,
            (Self::HalfOpen, by) => Self::Reset(by),
            (standing, _) => standing,
        }
    }
}
