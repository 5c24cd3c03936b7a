//! Several threads at one replay: this one reads and decodes, each of the others works on a shard.
//!
//! The shards are handed out when there is a batch for them, and called in before a step ends, so
//! what comes out does not depend on the threads. Steps with few segments are done on the spot.

use std::mem;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, Scope};

use synwatch_core::engine::{Engine, LATEST, Parted, Shard};
use synwatch_core::sampling::FlowKey;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{Segment, Skip};

use crate::app::session::Intake;
use crate::sys::threads::spawn_scoped;

/// Segments of a batch.
const BATCH: usize = 1_024;
/// Batches that may wait for a worker.
const AHEAD: usize = 4;

struct Arrived {
    at: Timestamp,
    interface: u32,
    flow: FlowKey,
    segment: Segment,
}

type Batch = Vec<Arrived>;

enum Job {
    Take(Box<Shard>),
    Work(Batch),
    GiveBack,
}

struct Worker {
    jobs: SyncSender<Job>,
    done: Receiver<Box<Shard>>,
    /// Batches that can be filled again.
    spare: Receiver<Batch>,
}

/// An engine and the threads that work on its shards.
pub struct ReplayWorkers {
    engine: Parted,
    /// The shards, while the workers do not have them.
    shards: Vec<Shard>,
    workers: Vec<Worker>,
    /// What is gathered for each shard.
    batches: Vec<Batch>,
    skips: Vec<(Option<Timestamp>, Skip)>,
    last: Timestamp,
}

impl ReplayWorkers {
    /// Runs `work` with a thread for each shard of `engine`, and gives it back.
    pub fn with<T>(engine: Engine, work: impl FnOnce(&mut Self) -> T) -> (Engine, T) {
        thread::scope(|scope| {
            let (engine, shards) = engine.part();
            let count = shards.len();
            let mut this = Self {
                engine,
                shards,
                workers: (0..count).map(|_| Worker::start(scope)).collect(),
                batches: (0..count).map(|_| Batch::with_capacity(BATCH)).collect(),
                skips: Vec::new(),
                last: Timestamp::EPOCH,
            };
            let outcome = work(&mut this);
            let last = this.last;
            this.call_in(|engine| engine.reach(last));
            (this.engine.join(this.shards), outcome)
        })
    }

    /// Hands out what is gathered for a shard.
    fn hand_out(&mut self, shard: usize) {
        // They have them already where there are none here.
        for (worker, shard) in self.workers.iter().zip(self.shards.drain(..)) {
            worker.give(Job::Take(Box::new(shard)));
        }
        let worker = &self.workers[shard];
        let empty = worker.spare.try_recv().unwrap_or_else(|_| Batch::with_capacity(BATCH));
        worker.give(Job::Work(mem::replace(&mut self.batches[shard], empty)));
    }

    /// Has everything done that is gathered, and then `work` with the whole engine.
    fn call_in(&mut self, work: impl FnOnce(&mut Engine)) {
        if self.shards.is_empty() {
            (0..self.batches.len()).for_each(|shard| self.hand_out(shard));
            self.workers.iter().for_each(|worker| worker.give(Job::GiveBack));
            self.shards.extend(self.workers.iter().map(Worker::take_back));
        }
        for (shard, batch) in self.shards.iter_mut().zip(&mut self.batches) {
            take_in(shard, batch);
        }
        let skips = self.skips.drain(..);
        let (shards, ()) = self.engine.assemble(mem::take(&mut self.shards), |engine| {
            skips.for_each(|(at, skip)| engine.handle_skip(at, skip));
            work(engine);
        });
        self.shards = shards;
    }

    /// Lets steps end that are over by `at`.
    #[inline]
    fn reach(&mut self, at: Timestamp) {
        self.last = self.last.max(at.min(LATEST));
        if at >= self.engine.step_end() {
            self.call_in(|engine| engine.reach(at));
        }
    }
}

impl Intake for ReplayWorkers {
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
        // Time runs backwards in no shard: what came late in the file counts as of the latest of
        // all, not of its shard.
        let at = at.min(LATEST).max(self.last);
        self.reach(at);
        let flow = self.engine.hasher().flow(&segment);
        let shard = flow.hash.sampling_hash().shard(self.engine.shards());
        let batch = &mut self.batches[shard];
        batch.push(Arrived { at, interface, flow, segment });
        if batch.len() == BATCH {
            self.hand_out(shard);
        }
    }

    fn skip(&mut self, at: Option<Timestamp>, skip: Skip) {
        if let Some(at) = at {
            self.reach(at);
        }
        self.skips.push((at, skip));
        if self.skips.len() == BATCH {
            self.call_in(|_| ());
        }
    }

    fn flush(&mut self) {}
}

impl Worker {
    fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> Self {
        let (jobs, for_worker) = sync_channel(AHEAD);
        let (give_back, done) = channel();
        let (return_batch, spare) = channel();
        spawn_scoped(scope, move || run(&for_worker, &give_back, &return_batch));
        Self { jobs, done, spare }
    }

    fn give(&self, job: Job) {
        // Where a worker has panicked, so does whoever waits for it.
        let _ = self.jobs.send(job);
    }

    fn take_back(&self) -> Shard {
        *self.done.recv().unwrap_or_else(|_| panic!("a thread that works on a shard has panicked"))
    }
}

/// What a worker does.
fn run(jobs: &Receiver<Job>, give_back: &Sender<Box<Shard>>, spare: &Sender<Batch>) {
    let mut shard = None;
    for job in jobs {
        match job {
            Job::Take(given) => shard = Some(given),
            Job::Work(mut batch) => {
                if let Some(shard) = &mut shard {
                    take_in(shard, &mut batch);
                }
                // Nobody takes them at the end.
                let _ = spare.send(batch);
            }
            Job::GiveBack => {
                if let Some(shard) = shard.take() {
                    let _ = give_back.send(shard);
                }
            }
        }
    }
}

/// Has a shard take in a batch.
fn take_in(shard: &mut Shard, batch: &mut Batch) {
    for Arrived { at, interface, flow, segment } in batch.drain(..) {
        if shard.queue_segment(at, interface, flow, &segment) {
            shard.handle_queue();
        }
    }
    shard.handle_queue();
}
