//! How many of the flows are looked at: as many as the budget allows.
//!
//! Below the budget every flow is tracked. Above it the services that take most of it are looked at
//! by sample, each at a level of its own, so that the others stay exact; only where no single
//! service stands out are the flows of all sampled alike. Levels rise at once and fall after two
//! seconds of calm.

use std::sync::Arc;

use crate::engine::services::Services;
use crate::flow::{End, Fill, Hasher, Sampling, SamplingLevel, ServiceId};
use crate::stats::STEP;

/// Steps of calm before a level falls.
const CALM: u32 = 8;
/// What a level is lowered to may take so much of the budget: the rest is hysteresis.
const COMFORT: f64 = 0.7;
/// A service that takes less of the budget than this is not worth a level of its own.
const WORTH: f64 = 0.125;
/// A change of levels is over when every flow that began before it has ended its handshake: as long
/// as a half-open connection lives (`tcp_synack_retries` = 5: 63 s), in steps.
const SETTLED: u32 = 65 * 4;
/// Share of the places of the flow table that handshakes may take. Above it more and more of them
/// find the places of their set taken.
const HANDSHAKES: f64 = 0.5;
/// The same of all flows whose loss would be one.
const FLOWS: f64 = 0.9;
/// Steps that the table is given to empty itself after a level rose.
const PATIENCE: u32 = 8;

/// A service that is sampled by itself.
#[derive(Clone, Copy, Debug)]
struct Heavy {
    service: ServiceId,
    level: SamplingLevel,
    /// The highest level that flows which are still underway began at, and how long that is to be
    /// remembered.
    settled: SamplingLevel,
    steps: u32,
    /// The highest level that was asked for while it was calm, and for how long.
    wanted: SamplingLevel,
    calm: u32,
}

impl Heavy {
    const fn new(service: ServiceId) -> Self {
        let none = SamplingLevel::ALL;
        Self { service, level: none, settled: none, steps: 0, wanted: none, calm: 0 }
    }

    /// Rises to `needed` at once, falls to `wanted` after calm; whether it rose.
    fn adjust(&mut self, needed: SamplingLevel, wanted: SamplingLevel) -> bool {
        if self.level >= self.settled {
            self.settled = self.level;
            self.steps = 0;
        } else {
            self.steps += 1;
            if self.steps >= SETTLED {
                self.settled = self.level;
                self.steps = 0;
            }
        }
        if needed > self.level {
            self.level = needed;
            self.settled = self.settled.max(needed);
            self.calm = 0;
            return true;
        }
        if wanted >= self.level {
            self.calm = 0;
        } else {
            self.wanted = if self.calm == 0 { wanted } else { self.wanted.max(wanted) };
            self.calm += 1;
            if self.calm >= CALM {
                self.level = self.wanted;
                self.calm = 0;
            }
        }
        false
    }

    fn is_exact(&self) -> bool {
        self.level == SamplingLevel::ALL && self.settled == SamplingLevel::ALL
    }
}

/// Keeps the budget.
pub struct Sampler {
    /// Packets that were handled in the last step.
    packets: f64,
    /// Packets that may be handled in a step.
    budget: f64,
    /// The same as far as the processor's time allows.
    affordable: f64,
    /// The services with levels of their own.
    heavy: Vec<Heavy>,
    /// The rest of the world.
    general: Heavy,
    /// Steps that the table has left to empty itself.
    patience: u32,
    levels: Arc<Levels>,
}

/// The levels in force, for those who look at packets.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    /// Whether every flow is looked at, and was when any that is underway began.
    exact: bool,
    /// Those of flows that begin now.
    now: Sampling,
    /// Those at which flows are known that began before.
    settled: Sampling,
    /// Those of flows that begin now, by service.
    services: Vec<(ServiceId, SamplingLevel)>,
}

impl Levels {
    /// Every flow is looked at.
    fn exact() -> Self {
        Self { exact: true, ..Self::default() }
    }

    /// The level of a flow that begins now, and the one at which flows are known that began before.
    #[inline]
    pub fn of_flow(&self, ends: [End; 2]) -> (SamplingLevel, SamplingLevel) {
        if self.exact {
            (SamplingLevel::ALL, SamplingLevel::ALL)
        } else {
            self.of_sampled_flow(ends)
        }
    }

    #[inline(never)]
    fn of_sampled_flow(&self, ends: [End; 2]) -> (SamplingLevel, SamplingLevel) {
        (self.now.level(ends), self.settled.level(ends))
    }

    /// The level of a service's flows that begin now.
    pub fn of_service(&self, service: ServiceId) -> SamplingLevel {
        let own = self.services.iter().find(|(heavy, _)| *heavy == service);
        own.map_or(self.now.general, |(_, level)| *level)
    }
}

/// What a service took in the last step.
#[derive(Clone, Copy, Debug)]
struct Load {
    service: ServiceId,
    /// Packets, as many as there would have been without sampling.
    packets: f64,
    level: SamplingLevel,
}

impl Sampler {
    /// Keeps to `packets_per_second`; there is no limit where none is given.
    pub fn new(packets_per_second: Option<u32>) -> Self {
        let budget = packets_per_second
            .map_or(f64::INFINITY, |packets| f64::from(packets.max(1)) * STEP.as_secs_f64());
        Self {
            packets: 0.0,
            budget,
            affordable: f64::INFINITY,
            heavy: Vec::new(),
            general: Heavy::new(ServiceId::OTHER),
            patience: 0,
            levels: Arc::new(Levels::exact()),
        }
    }

    /// Which flows are looked at now.
    pub fn now(&self) -> &Sampling {
        &self.levels.now
    }

    /// The levels in force.
    pub fn levels(&self) -> Arc<Levels> {
        Arc::clone(&self.levels)
    }

    /// Whether every flow is looked at, and was when any that is underway began.
    pub fn is_exact(&self) -> bool {
        self.heavy.is_empty() && self.general.is_exact()
    }

    /// The highest level at which flows of a service stand for others.
    pub fn level(&self, service: ServiceId) -> SamplingLevel {
        self.entry(service).map_or(self.general.settled, |heavy| heavy.settled)
    }

    /// The level of a service's flows that begin now.
    pub fn level_now(&self, service: ServiceId) -> SamplingLevel {
        self.entry(service).map_or(self.general.level, |heavy| heavy.level)
    }

    fn entry(&self, service: ServiceId) -> Option<&Heavy> {
        self.heavy.iter().find(|heavy| heavy.service == service)
    }

    /// The highest level at which flows stand for others.
    pub fn highest_settled(&self) -> SamplingLevel {
        let heavy = self.heavy.iter().map(|heavy| heavy.settled).max().unwrap_or_default();
        heavy.max(self.general.settled)
    }

    /// The highest level in force.
    pub fn highest(&self) -> SamplingLevel {
        self.heavy.iter().map(|heavy| heavy.level).max().unwrap_or_default().max(self.general.level)
    }

    /// Takes in what part of a processor's time the last step took, of which no more than `limit`
    /// may be taken.
    pub fn afford(&mut self, share: f64, limit: f64) {
        self.affordable = if share > limit {
            (self.packets * limit / share).max(1.0)
        } else {
            self.affordable * 1.1
        };
    }

    /// Ends a step; whether a level rose.
    pub fn end_step(&mut self, services: &Services, hasher: &Hasher, fill: Fill) -> bool {
        self.packets = f64::from(services.packets());
        let budget = self.budget.min(self.affordable);
        let too_full = fill.handshakes > HANDSHAKES || fill.flows > FLOWS;
        self.patience = self.patience.saturating_sub(1);
        if self.is_exact() && !too_full && self.packets <= budget {
            return false;
        }
        let loads = self.loads(services, hasher);
        let mut needed = assign(&loads, budget);
        let mut wanted = assign(&loads, budget * COMFORT);
        // Each level less lets twice as many flows in.
        let room = (COMFORT * HANDSHAKES / fill.handshakes).min(COMFORT * FLOWS / fill.flows);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let fewer = room.log2().max(0.0) as u8;
        for (wanted, load) in wanted.iter_mut().zip(&loads) {
            *wanted =
                (*wanted).max(SamplingLevel::new(load.level.exponent().saturating_sub(fewer)));
        }
        if too_full && self.patience == 0 {
            self.patience = PATIENCE;
            // Whoever takes most of what comes up gives half of it.
            let most = loads
                .iter()
                .zip(&mut needed)
                .max_by(|(a, _), (b, _)| a.sampled(a.level).total_cmp(&b.sampled(b.level)));
            if let Some((load, needed)) = most {
                *needed = (*needed).max(SamplingLevel::new(load.level.exponent() + 1));
            }
        }
        let rose = self.apply(&loads, &needed, &wanted);
        self.compile(services, hasher);
        rose
    }

    /// What each service takes, that of the rest of the world last. More services than can have
    /// levels of their own are part of it.
    fn loads(&self, services: &Services, hasher: &Hasher) -> Vec<Load> {
        let load = |service: ServiceId, packets: u32| Load {
            service,
            packets: f64::from(packets) * f64::from(self.level_now(service).weight()),
            level: self.level_now(service),
        };
        let mut loads: Vec<Load> = services
            .ids()
            .filter(|id| services.get(*id).counts.packets > 0 || self.entry(*id).is_some())
            .map(|id| load(id, services.get(id).counts.packets))
            .collect();
        let is_heavy = |load: &Load| self.entry(load.service).is_some();
        loads.sort_by(|a, b| is_heavy(b).cmp(&is_heavy(a)).then(b.packets.total_cmp(&a.packets)));
        // As many as the kernel's filter has room for.
        let mut ends = 0;
        let directory = services.directory();
        let own = loads.iter().take(MOST).take_while(|load| {
            ends += directory.ends(load.service, hasher).count();
            ends <= Sampling::HEAVY
        });
        let few = loads.split_off(own.count());
        let others = services.get(ServiceId::OTHER).counts.packets
            + few.iter().map(|load| services.get(load.service).counts.packets).sum::<u32>();
        loads.push(load(ServiceId::OTHER, others));
        loads
    }

    fn apply(
        &mut self,
        loads: &[Load],
        needed: &[SamplingLevel],
        wanted: &[SamplingLevel],
    ) -> bool {
        let mut rose = false;
        for ((load, needed), wanted) in loads.iter().zip(needed).zip(wanted) {
            if load.service == ServiceId::OTHER {
                rose |= self.general.adjust(*needed, *wanted);
                continue;
            }
            let is_it = |heavy: &&mut Heavy| heavy.service == load.service;
            if let Some(heavy) = self.heavy.iter_mut().find(is_it) {
                rose |= heavy.adjust(*needed, *wanted);
            } else if *needed > self.general.level {
                let mut heavy = Heavy { service: load.service, ..self.general };
                rose |= heavy.adjust(*needed, *wanted);
                self.heavy.push(heavy);
            }
        }
        let general = (self.general.level, self.general.settled);
        self.heavy.retain(|heavy| {
            (heavy.level, heavy.settled) > general
                && loads.iter().any(|load| load.service == heavy.service)
        });
        rose
    }

    /// Levels by service become levels by end.
    fn compile(&mut self, services: &Services, hasher: &Hasher) {
        let mut levels = Levels {
            exact: self.is_exact(),
            now: Sampling { general: self.general.level, heavy: Vec::new() },
            settled: Sampling { general: self.general.settled, heavy: Vec::new() },
            services: self.heavy.iter().map(|heavy| (heavy.service, heavy.level)).collect(),
        };
        let directory = services.directory();
        for heavy in &self.heavy {
            for end in directory.ends(heavy.service, hasher) {
                levels.now.heavy.push((end, heavy.level));
                levels.settled.heavy.push((end, heavy.settled));
            }
        }
        self.levels = Arc::new(levels);
    }
}

/// Services with levels of their own: half of the ends that can have one, since one on a wildcard
/// address has several.
const MOST: usize = Sampling::HEAVY / 2;

impl Load {
    /// Packets that come up at a level.
    fn sampled(&self, level: SamplingLevel) -> f64 {
        self.packets / f64::from(level.weight())
    }
}

/// The lowest levels that keep all loads together within a budget. Who takes most gives first; the
/// rest of the world, the last of the loads, only where no service takes much.
fn assign(loads: &[Load], budget: f64) -> Vec<SamplingLevel> {
    let mut levels = vec![SamplingLevel::ALL; loads.len()];
    let Some(general) = loads.len().checked_sub(1) else { return levels };
    loop {
        let taken = |index: usize| loads[index].sampled(levels[index]);
        if (0..loads.len()).map(taken).sum::<f64>() <= budget {
            return levels;
        }
        let most = (0..general).max_by(|a, b| taken(*a).total_cmp(&taken(*b)));
        let index = match most {
            Some(most) if taken(most) >= WORTH * budget => most,
            _ => general,
        };
        if levels[index] == SamplingLevel::MAX {
            return levels;
        }
        levels[index] = SamplingLevel::new(levels[index].exponent() + 1);
    }
}
