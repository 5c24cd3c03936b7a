//! Where an attempt stands: in one place at any time, so that every attempt has one outcome in the
//! end.

use crate::flow::state::{Connection, Marks, Role, State};

/// Where an attempt to connect stands.
///
/// Counts follow from it alone: whatever moves an attempt takes its weight off the counts of the
/// standing before and adds it to those of the standing after. What is live is told from what is
/// given up by the [counters](super::Tracker): an attempt that is `Asked` counts as SYN_SENT until
/// its deadline passes and as unanswered after it, one that is `HalfOpen` as timed out.
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
    /// A RST of the client stopped it after the answer.
    ResetByClient,
    /// A RST of the server did.
    ResetByServer,
}

impl Standing {
    /// How many there are.
    pub const COUNT: usize = Self::ResetByServer as usize + 1;

    /// How the attempt of a connection stands. Of a closed one that only the RST tells: it stands
    /// as it did before, or as the RST has it.
    pub(super) const fn of(connection: &Connection) -> Self {
        match connection.state {
            State::SynSent => Self::Asked,
            State::Refused => Self::Refused,
            _ if !connection.marks.has(Marks::ATTEMPT) => Self::None,
            State::SynReceived | State::SimultaneousOpen | State::SimultaneousOpenAcked(_) => {
                Self::HalfOpen
            }
            _ if connection.marks.has(Marks::COMPLETED) => Self::Completed,
            _ => Self::Presumed,
        }
    }

    /// Whether a segment has decided the attempt: only a late word can move it now.
    #[must_use]
    pub const fn is_decided(self) -> bool {
        !matches!(self, Self::None | Self::Asked | Self::HalfOpen)
    }

    /// How it stands after a RST of `by` that ended it.
    pub(super) const fn after_reset(self, by: Role) -> Self {
        match (self, by) {
            (Self::Asked, Role::Client) => Self::Withdrawn,
            (Self::Asked, Role::Server) => Self::Refused,
            (Self::HalfOpen, Role::Client) => Self::ResetByClient,
            (Self::HalfOpen, Role::Server) => Self::ResetByServer,
            (standing, _) => standing,
        }
    }
}
