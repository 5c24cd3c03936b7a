//! Tests that wait run side by side, so what they send adds up. Each waits for its turn to send.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

/// What the tests send at once, in SYNs a second for each processor: a third of what it can take.
/// More would only measure how late a machine is that has too much to do.
const MOST: u32 = 4_000;
/// A whole connection costs as much as so many SYNs.
pub const CONNECTION: u32 = 4;

/// Permission to send, until dropped. A holder must not wait for a second turn: two that do would wait
/// for ever.
pub struct Turn {
    rate: u32,
}

struct Line {
    /// What those who have their turn send, in SYNs a second.
    sent: u32,
    /// Who came so far, and whose turn has come.
    came: u64,
    served: u64,
}

static LINE: Mutex<Line> = Mutex::new(Line { sent: 0, came: 0, served: 0 });
static CHANGED: Condvar = Condvar::new();

impl Turn {
    /// Waits until `rate` SYNs a second can be sent, and all who came before have their turn.
    pub fn wait(rate: u32) -> Self {
        let processors = thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let mut line = LINE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = line.came;
        line.came += 1;
        let line = CHANGED.wait_while(line, |line| {
            let has_room = line.sent == 0 || line.sent + rate <= MOST * processors;
            line.served != number || !has_room
        });
        let mut line = line.unwrap_or_else(PoisonError::into_inner);
        line.served += 1;
        line.sent += rate;
        CHANGED.notify_all();
        Self { rate }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        LINE.lock().unwrap_or_else(PoisonError::into_inner).sent -= self.rate;
        CHANGED.notify_all();
    }
}
