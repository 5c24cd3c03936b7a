//! A plain count of handshakes, independent of the engine: by the definitions of the labels, and by
//! the rules in which the engine differs from them on purpose.

use std::collections::{HashMap, HashSet};

use synwatch_core::wire::{Address, Flags, Segment, SeqNumber};

use crate::segments::Found;

/// A way in which the engine counts otherwise than the labels, by principle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rule {
    Unfinished,
    Reset,
    Acknowledgement,
    EarlyAnswer,
    Reuse,
    Compressed,
}

impl Rule {
    pub const ALL: [Self; 6] = [
        Self::Unfinished,
        Self::Reset,
        Self::Acknowledgement,
        Self::EarlyAnswer,
        Self::Reuse,
        Self::Compressed,
    ];

    /// Why the engine differs.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Unfinished => {
                "a fragment is no SYN as long as the rest of its datagram is missing"
            }
            Self::Reset => {
                "a RST that its receiver must not accept ends nothing (RFC 9293, 3.10.7.3, 3.10.7.4)"
            }
            Self::Acknowledgement => {
                "an ACK of what the server has not sent, or out of window, completes nothing"
            }
            Self::EarlyAnswer => {
                "a SYN-ACK may stand before its SYN where the capture is reordered"
            }
            Self::Reuse => "a SYN seen again after its connection closed begins another one",
            Self::Compressed => "IPComp is not decompressed",
        }
    }
}

/// A client's and a server's address and port.
type Flow = [(Address, u16); 2];

/// What was counted.
#[derive(Default)]
pub struct Counts {
    pub syns: u64,
    pub syn_acks: u64,
    pub sources: HashSet<Address>,
    attempts: HashMap<Flow, Vec<Attempt>>,
}

/// A SYN and what became of it.
struct Attempt {
    isn: SeqNumber,
    /// Octets of data in the SYN (Fast Open).
    early: u32,
    answer: Option<Answer>,
    fate: Fate,
    /// FINs and RSTs after the handshake.
    teardown: Teardown,
}

/// The server's side of an attempt.
#[derive(Clone, Copy)]
struct Answer {
    isn: SeqNumber,
    /// What it acknowledges.
    ack: SeqNumber,
    /// Octets that the server was seen to send after its SYN.
    sent: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    HalfOpen,
    Completed,
    Refused,
    ResetByClient,
}

/// How far a connection is closed, for the client and the server.
#[derive(Clone, Copy, Default)]
struct Teardown {
    /// The number after the FIN.
    fin: [Option<SeqNumber>; 2],
    fin_acknowledged: [bool; 2],
    reset: bool,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// The unscaled window: what either end offers during the handshake at most.
const WINDOW: u32 = 65_535;

/// Counts by the labels' definitions, except where one of `rules` says otherwise.
///
/// Where the definitions leave room, the labels' numbers show what is meant: any RST ends an
/// attempt that is not completed, and an ACK completes it that acknowledges the server's ISN + 1 or
/// anything after that (by less than half the number space).
pub fn count(segments: &[Found], rules: &[Rule]) -> Counts {
    let mut counts = Counts::default();
    // SYN-ACKs without a SYN, for those that come first.
    let mut early: HashMap<Flow, Answer> = HashMap::new();
    let seen =
        segments.iter().filter(|(_, unseen)| unseen.is_none_or(|rule| !rules.contains(&rule)));
    for (segment, _) in seen {
        let from = (segment.source, segment.source_port);
        let to = (segment.destination, segment.destination_port);
        if segment.flags.is_syn() {
            counts.syns += 1;
            counts.sources.insert(segment.source);
            let attempts = counts.attempts.entry([from, to]).or_default();
            let again = attempts.iter().rfind(|attempt| attempt.isn == segment.seq);
            if again.is_none_or(|again| rules.contains(&Rule::Reuse) && again.teardown.is_over()) {
                let mut attempt = Attempt::new(segment);
                if rules.contains(&Rule::EarlyAnswer)
                    && let Some(answer) = early.remove(&[from, to])
                    && attempt.is_acknowledged_by(answer.ack)
                {
                    attempt.answer = Some(answer);
                }
                attempts.push(attempt);
            }
            continue;
        }
        if segment.flags.is_syn_ack() {
            counts.syn_acks += 1;
            let attempts = counts.attempts.entry([to, from]).or_default();
            // Of attempts with the same number the latest is the one that is open.
            if !attempts.iter_mut().rev().any(|attempt| attempt.take_answer(segment)) {
                early.insert([to, from], Answer::new(segment));
            }
            continue;
        }
        for (side, flow) in [(CLIENT, [from, to]), (SERVER, [to, from])] {
            let Some(attempts) = counts.attempts.get_mut(&flow) else { continue };
            if segment.flags.intersects(Flags::RST) {
                // It is for one attempt: the one that it acknowledges, or the latest.
                let named = attempts.iter().rposition(|it| it.is_acknowledged_by(segment.ack));
                if let Some(index) = named.or(attempts.len().checked_sub(1)) {
                    attempts[index].reset(side, segment, rules);
                }
            } else {
                attempts.iter_mut().for_each(|attempt| attempt.take(side, segment, rules));
            }
        }
    }
    counts
}

impl Counts {
    pub fn fates(&self, fate: Fate) -> u64 {
        let fates = self.attempts.values().flatten().filter(|attempt| attempt.fate == fate);
        fates.count() as u64
    }

    /// How many attempts (by flow and ISN) fared otherwise in `other`.
    pub fn differences(&self, other: &Self) -> u64 {
        let (ours, theirs) = (self.completions(), other.completions());
        let keys: HashSet<_> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter().filter(|key| ours.get(key) != theirs.get(key)).count() as u64
    }

    /// How often each attempt completed.
    fn completions(&self) -> HashMap<(Flow, SeqNumber), u64> {
        let mut completions = HashMap::new();
        for (flow, attempts) in &self.attempts {
            for attempt in attempts {
                *completions.entry((*flow, attempt.isn)).or_default() +=
                    u64::from(attempt.fate == Fate::Completed);
            }
        }
        completions
    }
}

impl Answer {
    fn new(segment: &Segment) -> Self {
        Self { isn: segment.seq, ack: segment.ack, sent: 0 }
    }
}

impl Attempt {
    fn new(syn: &Segment) -> Self {
        Self {
            isn: syn.seq,
            early: syn.payload_len,
            answer: None,
            fate: Fate::HalfOpen,
            teardown: Teardown::default(),
        }
    }

    fn is_acknowledged_by(&self, ack: SeqNumber) -> bool {
        ack.offset_from(self.isn + 1) <= self.early
    }

    /// Takes a SYN-ACK; of several with different numbers the last counts. False where it does not
    /// answer this attempt.
    fn take_answer(&mut self, segment: &Segment) -> bool {
        if !self.is_acknowledged_by(segment.ack) {
            return false;
        }
        if self.fate == Fate::HalfOpen && self.answer.is_none_or(|answer| answer.isn != segment.seq)
        {
            self.answer = Some(Answer::new(segment));
        }
        true
    }

    /// Takes a RST of the client or of the server.
    fn reset(&mut self, side: usize, segment: &Segment, rules: &[Rule]) {
        if self.fate == Fate::Completed {
            self.teardown.reset = true;
        } else if self.fate == Fate::HalfOpen
            && (!rules.contains(&Rule::Reset) || self.accepts_reset(side, segment))
        {
            self.fate = if side == CLIENT { Fate::ResetByClient } else { Fate::Refused };
        }
    }

    /// Takes a segment without SYN or RST, of the client or of the server.
    fn take(&mut self, side: usize, segment: &Segment, rules: &[Rule]) {
        if self.fate == Fate::Completed {
            return self.teardown.take(side, segment);
        }
        if self.fate != Fate::HalfOpen {
            return;
        }
        let Some(answer) = &mut self.answer else { return };
        if side == SERVER {
            let sent = segment.end().offset_from(answer.isn + 1);
            if sent <= WINDOW {
                answer.sent = answer.sent.max(sent);
            }
        } else if segment.flags.contains(Flags::ACK) {
            let behind = segment.ack.offset_from(answer.isn + 1);
            let completes = if rules.contains(&Rule::Acknowledgement) {
                behind <= answer.sent && segment.seq.is_within(answer.ack, WINDOW)
            } else {
                behind < 1 << 31
            };
            if completes {
                self.fate = Fate::Completed;
                self.teardown.take(side, segment);
            }
        }
    }

    /// RFC 9293, section 3.10.7.3 (the client in SYN_SENT) and 3.10.7.4 (either end after that).
    fn accepts_reset(&self, side: usize, reset: &Segment) -> bool {
        match (self.answer, side) {
            (None, CLIENT) => reset.seq.is_within(self.isn, WINDOW),
            (None, _) => reset.flags.contains(Flags::ACK) && self.is_acknowledged_by(reset.ack),
            (Some(answer), CLIENT) => reset.seq.is_within(answer.ack, WINDOW),
            (Some(answer), _) => reset.seq.offset_from(answer.isn + 1) <= answer.sent,
        }
    }
}

impl Teardown {
    fn take(&mut self, side: usize, segment: &Segment) {
        if segment.flags.intersects(Flags::FIN) {
            self.fin[side] = Some(segment.end());
        }
        if self.fin[1 - side].is_some_and(|fin| !fin.is_after(segment.ack)) {
            self.fin_acknowledged[1 - side] = true;
        }
    }

    fn is_over(&self) -> bool {
        self.reset || self.fin_acknowledged == [true, true]
    }
}
