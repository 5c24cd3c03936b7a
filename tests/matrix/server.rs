//! A server's SYN and accept queues, as Linux 6 keeps them.
//!
//! The functions named are those of the kernel that the rules come from. Time is in nanoseconds.
//! Timers are late by as much as the kernel's timer wheel at 250 Hz rounds them up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use synwatch_core::wire::{Flags, OptionLayout, Segment, SeqNumber};

use crate::random::mix;

pub const SECOND: u64 = 1_000_000_000;
const JIFFY: u64 = 4_000_000;
/// Repeats of a SYN are answered at most so often (`tcp_oow_rate_limited`).
const OUT_OF_WINDOW_RATELIMIT: u64 = SECOND / 2;
/// The longest timeout of a request.
const RTO_MAX: u64 = 120 * SECOND;

/// The kernel settings that shape the queues.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub backlog: u32,
    pub syncookies: u8,
    pub max_syn_backlog: u32,
    pub synack_retries: u8,
    /// TCP_DEFER_ACCEPT in repeats of the SYN-ACK, 0 for off.
    pub defer_accept: u8,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listener {
    /// Requests in SYN_RECV.
    pub queued: u32,
    /// Those of them whose timer has never fired.
    young: u32,
    /// Those of them whose SYN-ACK was sent again.
    pub resent: u32,
    /// Connections that wait for accept().
    pub accept_queue: u32,
}

/// `TcpExt` counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub queue_full_drop: u64,
    pub queue_full_cookies: u64,
    pub cookies_sent: u64,
    pub listen_overflows: u64,
    pub listen_drops: u64,
}

/// A request's place and how often the place was used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestId {
    place: u32,
    use_number: u32,
}

/// Who is to be told what becomes of a request.
pub type Peer = Option<u32>;

/// A request in SYN_RECV.
#[derive(Clone, Copy, Debug)]
struct Request {
    use_number: u32,
    alive: bool,
    listener: u32,
    answer: Segment,
    peer: Peer,
    /// `num_timeout`
    timeouts: u8,
    /// Whether the SYN-ACK was sent again (`num_retrans`).
    resent: bool,
    /// The last ACK came while the accept queue was full, or data is awaited.
    acked: bool,
    due: u64,
    /// When a repeated SYN was last answered.
    answered: u64,
}

/// What a timer led to.
pub enum Fired {
    Resent { answer: Segment, peer: Peer },
    Expired { peer: Peer },
    Nothing,
}

/// The answer to a SYN.
pub struct Answer {
    pub segment: Segment,
    /// `None` where it holds no place: a cookie, or a proxy's answer.
    pub request: Option<RequestId>,
}

/// What a request makes of the client's ACK.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Acked {
    Established,
    /// It is dropped: the accept queue is full, or TCP_DEFER_ACCEPT waits for data.
    Dropped,
    /// There is no such request.
    Unknown,
}

/// The queues of all listeners.
pub struct Server {
    settings: Settings,
    pub listeners: Vec<Listener>,
    requests: Vec<Request>,
    free: Vec<u32>,
    timers: BinaryHeap<Reverse<(u64, u32, u32)>>,
    pub counters: Counters,
    /// Whether the application calls accept() no more.
    pub stalled: bool,
    secret: u64,
}

impl Server {
    pub fn new(settings: Settings, listeners: usize, secret: u64) -> Self {
        Self {
            settings,
            listeners: vec![Listener::default(); listeners],
            requests: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            counters: Counters::default(),
            stalled: false,
            secret,
        }
    }

    /// A new request (`tcp_conn_request`). `proven` says whether the peer has completed a
    /// connection before (`tcp_peer_is_proven`).
    pub fn syn(
        &mut self,
        now: u64,
        listener: u32,
        syn: &Segment,
        proven: bool,
        peer: Peer,
    ) -> Option<Answer> {
        let Settings { backlog, syncookies, max_syn_backlog, .. } = self.settings;
        let Listener { queued, accept_queue, .. } = self.listeners[listener as usize];
        // `inet_csk_reqsk_queue_is_full`
        let full = queued > backlog;
        if full || syncookies == 2 {
            // `tcp_syn_flood_action`
            if syncookies == 0 {
                self.counters.queue_full_drop += 1;
                self.counters.listen_drops += 1;
                return None;
            }
            self.counters.queue_full_cookies += 1;
        }
        // `sk_acceptq_is_full`
        if accept_queue > backlog {
            self.counters.listen_overflows += 1;
            self.counters.listen_drops += 1;
            return None;
        }
        let segment = self.syn_ack(syn);
        if full || syncookies == 2 {
            self.counters.cookies_sent += 1;
            return Some(Answer { segment, request: None });
        }
        // Without cookies the last quarter is kept for those who are proven to be alive.
        let room = max_syn_backlog.saturating_sub(queued);
        if syncookies == 0 && room < max_syn_backlog >> 2 && !proven {
            self.counters.listen_drops += 1;
            return None;
        }
        let request = self.queue(now, listener, segment, peer);
        Some(Answer { segment, request: Some(request) })
    }

    /// The answer of who keeps nothing of a request: a SYN proxy, or a server that is not modelled.
    pub fn stateless(&self, syn: &Segment) -> Answer {
        Answer { segment: self.syn_ack(syn), request: None }
    }

    /// All requests are forgotten, as the sockets are closed; who is to be told of it.
    pub fn close(&mut self) -> Vec<u32> {
        let mut peers = Vec::new();
        for place in 0..self.requests.len() {
            if self.requests[place].alive {
                peers.extend(self.requests[place].peer);
                self.remove(place as u32);
            }
        }
        peers
    }

    /// A Fast Open request with a valid cookie: established at once (`tcp_try_fastopen`).
    pub fn fast_open(&mut self, listener: u32, syn: &Segment) -> Option<Segment> {
        let backlog = self.settings.backlog;
        if self.listeners[listener as usize].accept_queue > backlog {
            self.counters.listen_overflows += 1;
            self.counters.listen_drops += 1;
            return None;
        }
        self.enter_accept_queue(listener);
        let mut answer = self.syn_ack(syn);
        answer.ack = syn.end();
        Some(answer)
    }

    /// The client repeats its SYN: it is answered again and the timer starts anew
    /// (`tcp_check_req`).
    pub fn syn_again(&mut self, now: u64, id: RequestId) -> Option<Segment> {
        self.get(id)?;
        let request = &mut self.requests[id.place as usize];
        if now - request.answered < OUT_OF_WINDOW_RATELIMIT {
            return None;
        }
        request.answered = now;
        request.due = wheel(now, timeout(request.timeouts));
        self.timers.push(Reverse((request.due, id.place, id.use_number)));
        let answer = request.answer;
        self.note_resent(id.place);
        Some(answer)
    }

    /// The client's ACK, with or without data or FIN.
    pub fn ack(&mut self, id: RequestId, bare: bool) -> Acked {
        let Some(request) = self.get(id) else { return Acked::Unknown };
        let (timeouts, listener) = (request.timeouts, request.listener);
        if bare && timeouts < self.settings.defer_accept {
            self.requests[id.place as usize].acked = true;
            return Acked::Dropped;
        }
        if !self.accept(listener) {
            self.requests[id.place as usize].acked = true;
            return Acked::Dropped;
        }
        self.remove(id.place);
        Acked::Established
    }

    /// An ACK that carries a valid cookie (`cookie_v4_check`).
    pub fn cookie_ack(&mut self, listener: u32) -> Acked {
        if self.accept(listener) { Acked::Established } else { Acked::Dropped }
    }

    /// The client's RST.
    pub fn reset(&mut self, id: RequestId) {
        if self.get(id).is_some() {
            self.remove(id.place);
        }
    }

    /// The application accepts everything that waits.
    pub fn resume(&mut self) {
        self.stalled = false;
        for listener in &mut self.listeners {
            listener.accept_queue = 0;
        }
    }

    pub fn next_timer(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((due, ..))| *due)
    }

    /// Lets the next timer fire (`reqsk_timer_handler`).
    pub fn fire(&mut self) -> Fired {
        let Some(Reverse((now, place, use_number))) = self.timers.pop() else {
            return Fired::Nothing;
        };
        match self.get(RequestId { place, use_number }) {
            Some(request) if request.due == now => {}
            _ => return Fired::Nothing,
        }
        let request = self.requests[place as usize];
        let listener = self.listeners[request.listener as usize];
        let defer = self.settings.defer_accept;
        let mut threshold = self.settings.synack_retries;
        if listener.queued << 1 > self.settings.backlog.max(8) {
            let mut young = listener.young << 1;
            while threshold > 2 && listener.queued >= young {
                threshold -= 1;
                young <<= 1;
            }
        }
        // `syn_ack_recalc`
        let (expire, resend) = if defer == 0 {
            (request.timeouts >= threshold, true)
        } else {
            let expire =
                request.timeouts >= threshold && (!request.acked || request.timeouts >= defer);
            (expire, !request.acked || request.timeouts + 1 >= defer)
        };
        if expire {
            self.remove(place);
            return Fired::Expired { peer: request.peer };
        }
        if request.timeouts == 0 {
            self.listeners[request.listener as usize].young -= 1;
        }
        let again = &mut self.requests[place as usize];
        again.timeouts += 1;
        again.due = wheel(now, timeout(again.timeouts));
        self.timers.push(Reverse((again.due, place, use_number)));
        if !resend {
            return Fired::Nothing;
        }
        self.note_resent(place);
        Fired::Resent { answer: request.answer, peer: request.peer }
    }

    /// Requests of a listener whose SYN-ACK was sent again.
    pub fn resent(&self, listener: u32) -> impl Iterator<Item = &Segment> {
        self.requests
            .iter()
            .filter(move |request| request.alive && request.resent && request.listener == listener)
            .map(|request| &request.answer)
    }

    fn get(&self, id: RequestId) -> Option<&Request> {
        let request = &self.requests[id.place as usize];
        (request.alive && request.use_number == id.use_number).then_some(request)
    }

    /// `inet_csk_reqsk_queue_hash_add`
    fn queue(&mut self, now: u64, listener: u32, answer: Segment, peer: Peer) -> RequestId {
        let due = wheel(now, timeout(0));
        let request = Request {
            use_number: 0,
            alive: true,
            listener,
            answer,
            peer,
            timeouts: 0,
            resent: false,
            acked: false,
            due,
            answered: 0,
        };
        let place = if let Some(place) = self.free.pop() {
            let old = &mut self.requests[place as usize];
            *old = Request { use_number: old.use_number + 1, ..request };
            place
        } else {
            self.requests.push(request);
            self.requests.len() as u32 - 1
        };
        let use_number = self.requests[place as usize].use_number;
        self.timers.push(Reverse((due, place, use_number)));
        let listener = &mut self.listeners[listener as usize];
        listener.queued += 1;
        listener.young += 1;
        RequestId { place, use_number }
    }

    fn remove(&mut self, place: u32) {
        let request = &mut self.requests[place as usize];
        request.alive = false;
        let listener = &mut self.listeners[request.listener as usize];
        listener.queued -= 1;
        listener.young -= u32::from(request.timeouts == 0);
        listener.resent -= u32::from(request.resent);
        self.free.push(place);
    }

    fn note_resent(&mut self, place: u32) {
        let request = &mut self.requests[place as usize];
        if !request.resent {
            request.resent = true;
            self.listeners[request.listener as usize].resent += 1;
        }
    }

    /// Whether the accept queue takes one more (`tcp_v4_syn_recv_sock`).
    fn accept(&mut self, listener: u32) -> bool {
        if self.listeners[listener as usize].accept_queue > self.settings.backlog {
            self.counters.listen_overflows += 1;
            self.counters.listen_drops += 1;
            return false;
        }
        self.enter_accept_queue(listener);
        true
    }

    fn enter_accept_queue(&mut self, listener: u32) {
        self.listeners[listener as usize].accept_queue += u32::from(self.stalled);
    }

    fn syn_ack(&self, syn: &Segment) -> Segment {
        let flow =
            (syn.source.to_bits() as u64) ^ (syn.destination.to_bits() as u64).rotate_left(32);
        let ports = (u64::from(syn.source_port) << 16) | u64::from(syn.destination_port);
        let isn = mix(self.secret ^ mix(flow ^ mix((ports << 32) | u64::from(syn.seq.0))));
        let options: &[u8] =
            if syn.options == OptionLayout::default() { &[2] } else { &[2, 4, 8, 1, 3] };
        Segment {
            source: syn.destination,
            destination: syn.source,
            source_port: syn.destination_port,
            destination_port: syn.source_port,
            seq: SeqNumber(isn as u32),
            ack: syn.seq + 1,
            flags: Flags::SYN | Flags::ACK,
            window: 65_160,
            payload_len: 0,
            ttl: 64,
            mss: Some(1_460),
            options: layout(options),
        }
    }
}

/// TCP_DEFER_ACCEPT in repeats of the SYN-ACK (`secs_to_retrans`).
pub const fn defer_in_repeats(seconds: u32) -> u8 {
    if seconds == 0 {
        return 0;
    }
    let (mut repeats, mut timeout, mut period) = (1, 1, 1);
    while seconds > period {
        repeats += 1;
        timeout <<= 1;
        period += timeout;
    }
    repeats
}

/// Option kinds in order.
pub fn layout(kinds: &[u8]) -> OptionLayout {
    kinds
        .iter()
        .zip(0..)
        .fold(OptionLayout::default(), |layout, (kind, position)| layout.with(position, *kind))
}

/// `reqsk_timeout`
const fn timeout(timeouts: u8) -> u64 {
    let timeout = SECOND << timeouts;
    if timeout < RTO_MAX { timeout } else { RTO_MAX }
}

/// When a timer fires that is set at `now` (`calc_wheel_index`): levels of 64 slots, each slot
/// eight times as long as one of the level below.
const fn wheel(now: u64, timeout: u64) -> u64 {
    let expires = (now + timeout).div_ceil(JIFFY);
    let delta = expires - now / JIFFY;
    let mut shift = 0;
    while delta >= 63 << shift {
        shift += 3;
    }
    if shift == 0 {
        return expires * JIFFY;
    }
    // Level n begins at 63 slots of the level below.
    (((expires >> shift) + 1) << shift) * JIFFY
}
