//! Several capture threads in the daemon, each with a source and a shard of its own.
//!
//! A thread holds its shard while it works on a block of frames; four times a second the thread
//! that owns the engine takes all shards, judges, and puts them back. So neither waits for the
//! other longer than that takes: no thread holds two shards, and none takes another while the owner
//! waits.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synwatch_core::engine::{Engine, Parted, STEP, Shard};
use synwatch_core::observe::CaptureStats;
use synwatch_core::sampling::{FlowKey, Hasher};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{Fragments, Segment, Skip};

use super::feed::{Intake, Selector, feed};
use super::load::{Load, thread_time};
use super::{Clock, Host};
use crate::capture::{self, Selection, Source};
use crate::sys::threads::Confined;

/// The capture threads.
pub struct CaptureWorkers {
    engine: Parted,
    slots: Arc<ShardSlots>,
    control: Arc<Control>,
    threads: Vec<JoinHandle<Result<(), capture::Error>>>,
    /// One for each thread.
    loads: Vec<Load>,
    name: &'static str,
}

/// The shards, where the threads and the owner of the engine reach them.
struct ShardSlots {
    /// Closed while the shards are assembled. A thread under load takes its shard again so soon
    /// after it has put it down that whoever waits for that alone has not woken up yet, time after
    /// time.
    gate: Mutex<()>,
    list: Box<[ShardSlot]>,
}

impl ShardSlots {
    /// Takes a shard, as one of the threads does, which has none then.
    fn take(&self, shard: usize) -> MutexGuard<'_, Option<Shard>> {
        drop(lock(&self.gate));
        lock(&self.list[shard].shard)
    }

    /// The shard that keeps a flow.
    fn shard_of(&self, flow: &FlowKey) -> usize {
        let count = NonZeroUsize::new(self.list.len()).unwrap_or(NonZeroUsize::MIN);
        flow.hash.sampling_hash().shard(count)
    }
}

/// What is shared with one thread: its shard, and what it says of itself.
#[derive(Default)]
struct ShardSlot {
    /// None only while the engine has it, which holds the lock then.
    shard: Mutex<Option<Shard>>,
    stats: Mutex<CaptureStats>,
    /// Processor time of the thread in nanoseconds.
    used: AtomicU64,
}

/// What the owner of the engine tells all threads, and what the first of them tells it.
struct Control {
    stop: AtomicBool,
    /// Another with every step.
    selection: Mutex<Arc<Selection>>,
    host: Mutex<Arc<Host>>,
    interfaces: Mutex<Vec<String>>,
}

/// How long a thread waits for frames before it looks into [`Control`].
const PATIENCE: Duration = Duration::from_millis(500);

impl CaptureWorkers {
    /// Starts a thread for each of `sources`, which are for the shards of `engine` in their order.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(
        confined: &Confined,
        sources: Vec<Box<dyn Source>>,
        engine: Engine,
        host: &Host,
        clock: Clock,
    ) -> io::Result<Self> {
        let (engine, shards) = engine.part();
        let list = shards.into_iter();
        let slot = |shard| ShardSlot { shard: Mutex::new(Some(shard)), ..ShardSlot::default() };
        let first = sources.first();
        let hasher = *engine.hasher();
        let mut workers = Self {
            engine,
            slots: Arc::new(ShardSlots { gate: Mutex::default(), list: list.map(slot).collect() }),
            control: Arc::new(Control {
                stop: AtomicBool::new(false),
                selection: Mutex::default(),
                host: Mutex::new(Arc::new(host.clone())),
                interfaces: Mutex::new(first.map_or_else(Vec::new, |source| source.interfaces())),
            }),
            threads: Vec::with_capacity(sources.len()),
            loads: sources.iter().map(|_| Load::of_new_thread()).collect(),
            name: first.map_or("none", |source| source.name()),
        };
        for (number, source) in sources.into_iter().enumerate() {
            let (slots, control) = (Arc::clone(&workers.slots), Arc::clone(&workers.control));
            let worker = Worker { number, source, hasher, clock, slots, control };
            // Where there is no thread, those that there are end with the workers.
            let name = format!("capture-{number}");
            workers.threads.push(confined.spawn(&name, move |_| worker.watch())?);
        }
        Ok(workers)
    }

    /// Runs `work` on the engine with all of its shards.
    pub fn assemble<T>(&mut self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let _gate = lock(&self.slots.gate);
        let mut places: Vec<_> = self.slots.list.iter().map(|slot| lock(&slot.shard)).collect();
        let shards = places.iter_mut().filter_map(|place| place.take()).collect();
        let (shards, outcome) = self.engine.assemble(shards, work);
        for (place, shard) in places.iter_mut().zip(shards) {
            **place = Some(shard);
        }
        outcome
    }

    /// When the present step of the engine ends.
    pub fn step_end(&self) -> Timestamp {
        self.engine.step_end()
    }

    /// What all sources together have received and dropped.
    pub fn stats(&self) -> CaptureStats {
        self.slots.list.iter().fold(CaptureStats::default(), |mut sum, slot| {
            let stats = *lock(&slot.stats);
            sum.received += stats.received;
            sum.dropped += stats.dropped;
            sum
        })
    }

    /// The part of a processor's time that the thread takes that has most to do, since the last
    /// call.
    pub fn load(&mut self) -> f64 {
        let used = |slot: &ShardSlot| Duration::from_nanos(slot.used.load(Ordering::Relaxed));
        let loads = self.loads.iter_mut().zip(&self.slots.list);
        loads.map(|(load, slot)| load.share_of(used(slot))).fold(0.0, f64::max)
    }

    /// The name of the sources.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The interfaces listened on.
    pub fn interfaces(&self) -> Vec<String> {
        lock(&self.control.interfaces).clone()
    }

    /// Has all sources pass what is selected.
    pub fn select(&self, selection: Selection) {
        *lock(&self.control.selection) = Arc::new(selection);
    }

    /// Tells all threads of a change of the host.
    pub fn learn(&self, host: &Host) {
        *lock(&self.control.host) = Arc::new(host.clone());
    }

    /// How the first thread ended that has, where one has.
    pub fn ended(&mut self) -> Option<Result<(), capture::Error>> {
        let ended = self.threads.iter().position(JoinHandle::is_finished)?;
        Some(join(self.threads.swap_remove(ended)))
    }
}

impl Drop for CaptureWorkers {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Whatever the end of the daemon is, it is told already.
            let _ = thread.join();
        }
    }
}

/// How a thread ended; its panic goes on here.
fn join(thread: JoinHandle<Result<(), capture::Error>>) -> Result<(), capture::Error> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panics ends the daemon.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the threads.
struct Worker {
    number: usize,
    source: Box<dyn Source>,
    hasher: Hasher,
    clock: Clock,
    slots: Arc<ShardSlots>,
    control: Arc<Control>,
}

impl Worker {
    fn watch(mut self) -> Result<(), capture::Error> {
        let mut selector = Selector::default();
        let mut selected = Arc::default();
        // All fragments come to the first source, so its store is the only one that is ever filled.
        let mut fragments = Fragments::new(self.hasher.state());
        let mut next_look = Instant::now();
        while !self.control.stop.load(Ordering::Relaxed) {
            let host = Arc::clone(&lock(&self.control.host));
            let mut intake = BlockIntake {
                number: self.number,
                hasher: &self.hasher,
                slots: &self.slots,
                own: None,
                strays: Vec::new(),
            };
            let clock = self.clock;
            let correction = || clock.correction();
            feed(&mut intake, self.source.as_mut(), PATIENCE, correction, &host, &mut fragments)?;
            let slot = &self.slots.list[self.number];
            // With every block: of figures as old as a step the owner of the engine would see none
            // in one and two in the next.
            let used = u64::try_from(thread_time().as_nanos()).unwrap_or(u64::MAX);
            slot.used.store(used, Ordering::Relaxed);
            let now = Instant::now();
            if now >= next_look {
                next_look = now + STEP;
                *lock(&slot.stats) = self.source.stats();
                if self.number == 0 {
                    *lock(&self.control.interfaces) = self.source.interfaces();
                }
            }
            let selection = Arc::clone(&lock(&self.control.selection));
            if !Arc::ptr_eq(&selection, &selected) {
                selector.select(self.source.as_mut(), &selection);
                selected = selection;
            }
        }
        Ok(())
    }
}

/// Takes in the frames of one block.
struct BlockIntake<'a> {
    number: usize,
    hasher: &'a Hasher,
    slots: &'a ShardSlots,
    /// Its shard, from the first frame on.
    own: Option<MutexGuard<'a, Option<Shard>>>,
    /// Segments of the flows of other shards: where the kernel cannot tell a flow, it comes to the
    /// first source.
    strays: Vec<Stray>,
}

/// A segment of another shard.
struct Stray {
    shard: usize,
    at: Timestamp,
    interface: u32,
    flow: FlowKey,
    segment: Segment,
}

impl BlockIntake<'_> {
    fn own(&mut self) -> Option<&mut Shard> {
        self.own.get_or_insert_with(|| self.slots.take(self.number)).as_mut()
    }
}

impl Intake for BlockIntake<'_> {
    #[inline]
    fn frame(
        &mut self,
        at: Timestamp,
        interface: u32,
        decode: impl FnOnce(&mut Segment) -> Result<(), Skip>,
    ) {
        let mut segment = Segment::default();
        if let Err(skip) = decode(&mut segment) {
            return self.skip(Some(at), skip);
        }
        let flow = self.hasher.flow(&segment);
        let shard = self.slots.shard_of(&flow);
        if shard != self.number {
            return self.strays.push(Stray { shard, at, interface, flow, segment });
        }
        if let Some(shard) = self.own()
            && shard.queue_segment(at, interface, flow, &segment)
        {
            shard.handle_queue();
        }
    }

    fn skip(&mut self, _at: Option<Timestamp>, skip: Skip) {
        if let Some(shard) = self.own() {
            shard.skip(skip);
        }
    }

    fn flush(&mut self) {
        if let Some(mut own) = self.own.take()
            && let Some(shard) = own.as_mut()
        {
            shard.handle_queue();
        }
        // One shard at a time, each flow in its order.
        self.strays.sort_by_key(|stray| stray.shard);
        for strays in self.strays.chunk_by(|one, next| one.shard == next.shard) {
            if let Some(shard) = self.slots.take(strays[0].shard).as_mut() {
                for Stray { at, interface, flow, segment, .. } in strays {
                    if shard.queue_segment(*at, *interface, *flow, segment) {
                        shard.handle_queue();
                    }
                }
                shard.handle_queue();
            }
        }
        self.strays.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Needs, threads::confined};
    use synwatch_core::engine::Settings;
    use synwatch_core::wire::Flags;

    #[test]
    fn segments_of_other_shards_come_to_those() {
        const SYNS: u16 = 300;
        let start = Timestamp::from_nanos(1_000_000_000);
        let shards = NonZeroUsize::new(3).expect("some");
        let mut engine =
            Engine::sharded(Settings { flows: 1 << 12, ..Settings::default() }, shards);
        engine.reach(start);
        let hasher = *engine.hasher();
        // Without sources there are no threads either.
        let workers = confined(&Needs::default(), |confined| {
            CaptureWorkers::start(confined, Vec::new(), engine, &Host::default(), Clock::start())
        });
        let mut workers = workers.expect("no thread is needed");
        let slots = Arc::clone(&workers.slots);
        let mut intake = BlockIntake {
            number: 1,
            hasher: &hasher,
            slots: &slots,
            own: None,
            strays: Vec::new(),
        };
        for port in 0..SYNS {
            let syn = Segment { source_port: port, flags: Flags::SYN, ..Segment::default() };
            intake.frame(start, 1, |segment| {
                *segment = syn;
                Ok(())
            });
        }
        assert!(intake.own.is_some() && intake.strays.len() > usize::from(SYNS) / 2);
        intake.flush();
        assert!(intake.own.is_none() && intake.strays.is_empty());
        let totals = workers.assemble(|engine| {
            engine.tick(start + STEP);
            engine.snapshot(start + STEP).document.totals
        });
        assert_eq!((totals.syn.value, totals.syn_retransmitted.value), (u64::from(SYNS), 0));
        // Each is where its repeat finds it.
        for port in 0..SYNS {
            let syn = Segment { source_port: port, flags: Flags::SYN, ..Segment::default() };
            let (flow, at) = (hasher.flow(&syn), start + STEP * 4);
            let mut place = slots.take(slots.shard_of(&flow));
            let shard = place.as_mut().expect("it is back");
            shard.queue_segment(at, 1, flow, &syn);
            shard.handle_queue();
        }
        let totals = workers.assemble(|engine| engine.snapshot(start + STEP * 4).document.totals);
        assert_eq!(totals.syn_retransmitted.value, u64::from(SYNS));
    }
}
