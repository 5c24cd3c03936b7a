//! What legitimate clients do, and what all do whose SYN was answered.

use std::f64::consts::TAU;

use synwatch_core::wire::{Address, Flags, OptionLayout, Segment, SeqNumber};

use crate::conn::{ACK, Conn, FIN_ACK, Next, PSH_ACK, Plan, REQUEST, RST_ACK, State};
use crate::population::Look;
use crate::random::Random;
use crate::scenario::Only;
use crate::server::{Acked, SECOND, layout};
use crate::world::{Event, World, nanos, seconds};

/// When an unanswered SYN is repeated (RFC 6298: 1 s, then twice as long each time).
const REPEATS: [u64; 3] = [SECOND, 3 * SECOND, 7 * SECOND];
/// How often a request is repeated that is not acknowledged.
const REQUEST_REPEATS: u8 = 8;
/// Share of the connections that the server closes, and that the client resets.
const CLOSED_BY_SERVER: f64 = 0.6;
const ABORTED: f64 = 0.05;
/// How long a burst of arrivals lasts.
const BURST: f64 = 20.0;
/// In what time the clients of one burst come that is an event.
const BURST_SPREAD: f64 = 0.05;

impl World<'_> {
    /// Enters the next arrival of a client.
    pub fn arrive(&mut self) {
        let rate = self.rate().max(0.01);
        let wait = self.random.exponential(1.0 / rate);
        self.schedule(self.now + nanos(wait), Event::Arrival);
    }

    /// New legitimate connections a second, now.
    fn rate(&mut self) -> f64 {
        let legitimate = self.scenario.legitimate;
        let now = seconds(self.now);
        let mut rate = legitimate.rate;
        if legitimate.swing > 0.0 {
            rate *= 1.0 - legitimate.swing * (TAU * now / legitimate.period).cos();
        }
        if legitimate.burst > 0.0 {
            let (level, since) = self.burst;
            let kept = (-(now - seconds(since)) / BURST).exp();
            let new = legitimate.burst * (1.0 - kept * kept).sqrt() * self.random.normal();
            self.burst = (level * kept + new, self.now);
            rate *= (self.burst.0 - legitimate.burst * legitimate.burst / 2.0).exp();
        }
        for crowd in &self.scenario.crowd {
            let into = self.elapsed();
            if crowd.span.contains(into) {
                let risen = (into - crowd.span.after) / crowd.ramp.max(0.001);
                rate *= 1.0 + (crowd.factor - 1.0) * risen.min(1.0);
            }
        }
        rate
    }

    /// Clients open connections at about the same time, and will again.
    pub fn burst(&mut self, number: u16) {
        let event = &self.scenario.bursts[usize::from(number)];
        if event.span.is_over(self.elapsed()) {
            return;
        }
        self.schedule(self.now + nanos(event.every), Event::Burst(number));
        self.note_attack();
        for _ in 0..event.clients {
            let wait = self.random.unit() * BURST_SPREAD;
            self.schedule(self.now + nanos(wait), Event::Client);
        }
    }

    /// A client opens a connection.
    pub fn open_connection(&mut self) {
        let legitimate = self.scenario.legitimate;
        let random = &mut self.random;
        let plan = match random.unit() {
            drawn if drawn < legitimate.silent => Plan::Vanish,
            drawn if drawn < legitimate.silent + legitimate.quiet => Plan::Quiet,
            drawn if drawn < legitimate.silent + legitimate.quiet + legitimate.fast_open => {
                Plan::FastOpen
            }
            _ => Plan::Talk,
        };
        let nat = random.chance(legitimate.cgnat);
        let mut host = if nat {
            self.population.behind_nat(random)
        } else {
            self.population.client(legitimate.one_network, random)
        };
        if plan == Plan::FastOpen {
            // Before the others, of which one may be the end of the list.
            let OptionLayout(options) = host.look.options;
            host.look.options = OptionLayout(layout(&[34]).0 | options << 4);
        }
        let client_port = if nat {
            self.nat_port = self.nat_port.wrapping_add(1);
            1_024 + self.nat_port % 64_000
        } else {
            32_768 + random.below(28_232) as u16
        };
        let rtt = random.lognormal(legitimate.rtt_ms / 1_000.0, legitimate.rtt_sigma);
        let requests = random.exponential(0.5) as u8;
        let closed_by_server = random.chance(CLOSED_BY_SERVER);
        let isn = SeqNumber(random.next() as u32);
        let conn = self.new_conn(host.address, client_port, host.look, plan, nanos(rtt), isn);
        let conn = self.open(Conn { requests_left: requests, closed_by_server, ..conn });
        self.schedule_conn(self.now, conn, Next::Syn(0));
    }

    /// A connection to the service that is still to begin.
    pub fn new_conn(
        &self,
        client: Address,
        client_port: u16,
        look: Look,
        plan: Plan,
        rtt: u64,
        isn: SeqNumber,
    ) -> Conn {
        let victim = &self.scenario.victim;
        let server = victim.address.into();
        Conn {
            client,
            server,
            client_port,
            server_port: victim.ports[0],
            listener: self.listener(server, victim.ports[0]),
            elsewhere: None,
            look,
            plan,
            state: State::SynSent,
            rtt: rtt + self.distance,
            isn,
            server_isn: SeqNumber(0),
            sent: 1,
            received: 1,
            request: None,
            cookie: false,
            requests_left: 0,
            closed_by_server: false,
            events: 0,
        }
    }

    /// A SYN-ACK leaves for a client. Where it is an answer to a SYN, `cookie` says whether it is a
    /// cookie.
    pub fn answered(&mut self, peer: Option<u32>, answer: &Segment, cookie: Option<bool>) {
        let Some(number) = peer else { return };
        let conn = self.conns[number as usize];
        match conn.plan {
            Plan::Vanish | Plan::Insist => return,
            Plan::Reset | Plan::Touch => {}
            Plan::Talk | Plan::Quiet | Plan::FastOpen => {
                if self.is_lost(conn.client) {
                    return;
                }
            }
        }
        if conn.state == State::SynSent {
            let conn = &mut self.conns[number as usize];
            conn.server_isn = answer.seq;
            conn.cookie = cookie.unwrap_or(false);
        }
        self.schedule_conn(self.now + conn.rtt, number, Next::Answer);
    }

    /// Whether a SYN-ACK gets lost on its way to a client.
    fn is_lost(&mut self, client: Address) -> bool {
        let (into, seed) = (self.elapsed(), self.seed);
        // A network is cut off, or it is not, for as long as the outage lasts.
        let network = client.prefix(if client.is_ipv4() { 16 } else { 32 });
        let network =
            Random::new(seed, (network.to_bits() >> 64 ^ network.to_bits()) as u64).unit();
        let outages = self.scenario.outage.iter();
        let share = outages
            .filter(|outage| outage.span.contains(into) && network < outage.networks)
            .map(|outage| outage.share)
            .fold(self.scenario.legitimate.loss, f64::max);
        self.random.chance(share)
    }

    /// What happens next in a connection.
    pub fn proceed(&mut self, number: u32, next: Next) {
        let conn = self.conns[number as usize];
        match next {
            Next::Syn(repeat) => self.send_syn(number, &conn, repeat),
            Next::Answer => self.answer(number, &conn),
            Next::Request(repeat) => self.send_request(number, &conn, repeat),
            Next::Reply => self.reply(number, &conn),
            Next::ReplyAck => {
                self.emit(self.now, conn.client_sends(ACK, 0), Only::Ingress);
                if conn.requests_left > 0 {
                    self.conns[number as usize].requests_left -= 1;
                    let wait = self.random.exponential(0.5);
                    self.schedule_conn(self.now + nanos(wait), number, Next::Request(0));
                } else {
                    let wait = self.random.lognormal(0.2, 1.2).min(30.0);
                    self.schedule_conn(self.now + nanos(wait), number, Next::Close);
                }
            }
            Next::Close => self.close(number, &conn),
            Next::CloseAck => {
                self.emit(self.now, conn.client_sends(FIN_ACK, 0), Only::Ingress);
                self.conns[number as usize].sent += 1;
                let last = self.conns[number as usize].server_sends(ACK, 0);
                self.emit(self.now + 10_000, last, Only::Egress);
                self.conns[number as usize].state = State::Done;
            }
            Next::LastAck => {
                self.emit(self.now, conn.client_sends(ACK, 0), Only::Ingress);
                self.conns[number as usize].state = State::Done;
            }
        }
    }

    fn send_syn(&mut self, number: u32, conn: &Conn, repeat: u8) {
        if conn.state != State::SynSent {
            return;
        }
        let syn = conn.syn();
        if let Some(request) = conn.request {
            self.emit(self.now, syn, Only::Ingress);
            if let Some(answer) = self.server.syn_again(self.now, request) {
                self.emit(self.now + 15_000, answer, Only::Egress);
                self.answered(Some(number), &answer, None);
            }
        } else if let (Plan::FastOpen, 0, Some(listener)) = (conn.plan, repeat, conn.listener) {
            self.emit(self.now, syn, Only::Ingress);
            if let Some(answer) = self.server.fast_open(listener, &syn) {
                self.emit(self.now + 15_000, answer, Only::Egress);
                let opened = &mut self.conns[number as usize];
                opened.server_isn = answer.seq;
                opened.sent = 1 + REQUEST;
                opened.state = State::Established;
                self.schedule_conn(self.now + conn.rtt, number, Next::Answer);
                self.serve(number);
                return;
            }
        } else {
            // Without Fast Open after all (RFC 7413, section 4.1.3).
            if conn.plan == Plan::FastOpen {
                self.conns[number as usize].plan = Plan::Talk;
            }
            let syn = self.conns[number as usize].syn();
            self.deliver_syn(&syn, conn.listener, Some(number));
        }
        let insists = matches!(conn.plan, Plan::Talk | Plan::Quiet | Plan::FastOpen | Plan::Insist);
        if let (true, Some(wait)) = (insists, REPEATS.get(usize::from(repeat))) {
            let before = if repeat == 0 { 0 } else { REPEATS[usize::from(repeat) - 1] };
            self.schedule_conn(self.now + wait - before, number, Next::Syn(repeat + 1));
        }
    }

    /// The client has a SYN-ACK, the first or another.
    fn answer(&mut self, number: u32, conn: &Conn) {
        match (conn.plan, conn.state) {
            (_, State::Done) => {}
            (Plan::Reset, _) => {
                let reset = Segment { ack: SeqNumber(0), ..conn.client_sends(Flags::RST, 0) };
                self.emit(self.now, reset, Only::Ingress);
                if let Some(request) = conn.request {
                    self.server.reset(request);
                    self.conns[number as usize].request = None;
                }
                self.conns[number as usize].state = State::Done;
            }
            (_, State::SynSent) => {
                self.conns[number as usize].state = State::Acked;
                let ack = self.conns[number as usize].client_sends(ACK, 0);
                self.emit(self.now, ack, Only::Ingress);
                self.acknowledge(number, true);
                match conn.plan {
                    Plan::Touch => {
                        let reset = conn.client_sends(RST_ACK, 0);
                        self.emit(self.now + 200_000, reset, Only::Ingress);
                        self.conns[number as usize].state = State::Done;
                    }
                    Plan::Quiet => {
                        let wait = 5.0 + 25.0 * self.random.unit();
                        self.schedule_conn(self.now + nanos(wait), number, Next::Close);
                    }
                    _ => self.schedule_conn(self.now + 50_000, number, Next::Request(0)),
                }
            }
            // It has answered before, and does so again.
            (_, State::Acked | State::Established) => {
                self.emit(self.now, conn.client_sends(ACK, 0), Only::Ingress);
                if conn.state == State::Acked {
                    self.acknowledge(number, true);
                }
            }
        }
    }

    /// The server has an ACK of its SYN-ACK. Whether the connection is established.
    fn acknowledge(&mut self, number: u32, bare: bool) -> bool {
        let conn = self.conns[number as usize];
        let acked = match (conn.request, conn.listener) {
            (Some(request), _) => self.server.ack(request, bare),
            (None, Some(listener)) if conn.cookie => self.server.cookie_ack(listener),
            (None, None) if conn.elsewhere.is_some() => Acked::Established,
            (None, _) => Acked::Unknown,
        };
        match acked {
            Acked::Established => {
                let conn = &mut self.conns[number as usize];
                conn.request = None;
                conn.state = State::Established;
                if self.scenario.victim.syncookies == 0 {
                    self.proven.insert(conn.client);
                }
                true
            }
            Acked::Dropped => false,
            Acked::Unknown => {
                let reset = Segment { ack: SeqNumber(0), ..conn.server_sends(Flags::RST, 0) };
                self.emit(self.now + 10_000, reset, Only::Egress);
                let conn = &mut self.conns[number as usize];
                conn.request = None;
                conn.state = State::Done;
                false
            }
        }
    }

    fn send_request(&mut self, number: u32, conn: &Conn, repeat: u8) {
        match conn.state {
            State::Established | State::Acked => {}
            State::SynSent | State::Done => return,
        }
        if repeat == 0 {
            self.emit(self.now, conn.client_sends(PSH_ACK, REQUEST), Only::Ingress);
            self.conns[number as usize].sent += REQUEST;
        } else if conn.state == State::Established {
            // The repeat was not needed.
            return;
        } else {
            let again = Segment {
                seq: conn.isn + conn.sent - REQUEST,
                ..conn.client_sends(PSH_ACK, REQUEST)
            };
            self.emit(self.now, again, Only::Ingress);
        }
        if conn.state == State::Established || self.acknowledge(number, false) {
            let ack = self.conns[number as usize].server_sends(ACK, 0);
            self.emit(self.now + 20_000, ack, Only::Egress);
            self.serve(number);
        } else if self.conns[number as usize].state == State::Acked && repeat < REQUEST_REPEATS {
            let wait = (conn.rtt + SECOND / 5) << repeat;
            self.schedule_conn(self.now + wait, number, Next::Request(repeat + 1));
        }
    }

    /// The application has a request.
    fn serve(&mut self, number: u32) {
        if self.server.stalled {
            self.conns[number as usize].events += 1;
            self.waiting.push(number);
            return;
        }
        let wait = self.random.lognormal(0.008, 1.0);
        self.schedule_conn(self.now + nanos(wait), number, Next::Reply);
    }

    fn reply(&mut self, number: u32, conn: &Conn) {
        if conn.state == State::Done {
            return;
        }
        let segments = 1 + self.random.exponential(1.0) as u64;
        for n in 0..segments.min(6) {
            let conn = &mut self.conns[number as usize];
            let segment = conn.server_sends(PSH_ACK, 1_400);
            conn.received += 1_400;
            self.emit(self.now + n * 12_000, segment, Only::Egress);
        }
        self.schedule_conn(self.now + conn.rtt, number, Next::ReplyAck);
    }

    fn close(&mut self, number: u32, conn: &Conn) {
        if conn.state == State::Done {
            return;
        }
        if self.random.chance(ABORTED) {
            self.emit(self.now, conn.client_sends(RST_ACK, 0), Only::Ingress);
            let conn = &mut self.conns[number as usize];
            conn.state = State::Done;
            if let Some(request) = conn.request.take() {
                self.server.reset(request);
            }
            return;
        }
        if conn.closed_by_server && conn.state == State::Established {
            self.emit(self.now, conn.server_sends(FIN_ACK, 0), Only::Egress);
            self.conns[number as usize].received += 1;
            self.schedule_conn(self.now + conn.rtt, number, Next::CloseAck);
            return;
        }
        self.emit(self.now, conn.client_sends(FIN_ACK, 0), Only::Ingress);
        if conn.state == State::Acked && !self.acknowledge(number, false) {
            // The server has no room; the client's repeats of its FIN are left out.
            self.conns[number as usize].state = State::Done;
            return;
        }
        self.conns[number as usize].sent += 1;
        let fin = self.conns[number as usize].server_sends(FIN_ACK, 0);
        self.emit(self.now + 100_000, fin, Only::Egress);
        self.conns[number as usize].received += 1;
        self.schedule_conn(self.now + conn.rtt, number, Next::LastAck);
    }
}
