//! The threads of the program: the only place that starts one.
//!
//! Capabilities and the Landlock sandbox belong to a thread and to the threads that it starts. So
//! the order of the start decides about the rights of every thread, and the compiler holds it:
//!
//! | state of the calling thread | what it may do | how it is reached |
//! |---|---|---|
//! | [`Unconfined`] | start the inspector, which keeps two capabilities | as the program starts |
//! | [`Confined`] | start any other thread, and an asynchronous runtime | [`Unconfined::confine`] |
//!
//! Whatever starts a thread takes a `&Confined`, which nothing else makes. It stays with its
//! thread, and each thread that is started gets one of its own.
//!
//! ```compile_fail,E0277
//! use synwatch::sys::threads::{Confined, Unconfined};
//!
//! // A thread that is not confined has no way to get the proof from one that is.
//! fn pass_on(confined: Confined) {
//!     std::thread::spawn(move || drop(confined));
//! }
//! ```
//!
//! `clippy.toml` forbids the functions that start threads, and they are allowed in this module
//! only.

#![expect(clippy::disallowed_methods, reason = "it is the one that starts them")]

use std::io;
use std::marker::PhantomData;
use std::thread::{self, JoinHandle, Scope};

use tokio::runtime::Runtime;

use crate::sys::Needs;
use crate::sys::privileges::{self, INSPECT_PROCESSES};
use crate::sys::sandbox;

/// Keeps a value on its thread: a pointer is neither sent nor shared.
type OfThisThread = PhantomData<*const ()>;

/// The calling thread with all the privileges that it was started with.
pub struct Unconfined(OfThisThread);

impl Unconfined {
    /// The calling thread, as it is.
    #[must_use]
    pub const fn of_this_thread() -> Self {
        Self(PhantomData)
    }

    /// Starts the one thread that is older than the sandbox. It does `prepare`, gives up all
    /// privileges but [`INSPECT_PROCESSES`], and does `run`.
    ///
    /// It names the owners of sockets, by the links in `/proc/PID/fd`. A thread cannot inherit the
    /// capabilities for that from one that has dropped them. And Landlock forbids it to any thread
    /// in a sandbox, as it forbids debugging.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start_inspector<T>(
        &self,
        name: &str,
        prepare: impl FnOnce() -> T + Send + 'static,
        run: impl FnOnce(T) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let name = name.to_owned();
        thread::Builder::new().name(name.clone()).spawn(move || {
            let prepared = prepare();
            if let Err(error) = privileges::drop_except(&INSPECT_PROCESSES) {
                tracing::warn!(%error, "the {name} thread cannot drop its privileges");
            }
            run(prepared);
        })
    }

    /// Gives up what `needs` does not name: capabilities first, then the view of the file system.
    ///
    /// # Errors
    /// Capabilities remain that should not. A kernel without Landlock is no error.
    pub fn confine(self, needs: &Needs) -> Result<Confined, privileges::Error> {
        privileges::drop_except(&needs.capabilities)?;
        tracing::debug!("{}", sandbox::confine(needs));
        Ok(Confined(PhantomData))
    }
}

/// Proof that the calling thread has given up its privileges and is in the sandbox.
#[derive(Debug)]
pub struct Confined(OfThisThread);

impl Confined {
    /// Starts a thread, which is confined as this one is.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        run: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        thread::Builder::new().name(name.to_owned()).spawn(move || run(&Self(PhantomData)))
    }

    /// An asynchronous runtime on this thread; it may start others for what blocks.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn runtime(&self) -> io::Result<Runtime> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    }
}

/// Starts a thread of `replay`, which reads files and keeps the rights of who started it: it opens
/// nothing that takes a privilege.
pub fn spawn_scoped<'scope>(scope: &'scope Scope<'scope, '_>, run: impl FnOnce() + Send + 'scope) {
    scope.spawn(run);
}

/// Runs `test` on a confined thread of its own, for the tests of what starts threads.
#[cfg(test)]
pub(crate) fn confined<T: Send>(needs: &Needs, test: impl FnOnce(&Confined) -> T + Send) -> T {
    let run =
        || test(&Unconfined::of_this_thread().confine(needs).expect("privileges can be given up"));
    thread::scope(|scope| scope.spawn(run).join().expect("the test passes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::privileges::{Capability, has};

    #[test]
    fn a_thread_is_confined_as_the_one_that_starts_it() {
        let keep = Needs { capabilities: vec![Capability::CAP_NET_RAW], ..Needs::default() };
        for (needs, kept) in [(Needs::default(), false), (keep, has(Capability::CAP_NET_RAW))] {
            confined(&needs, |confined| {
                let started = confined.spawn("deeper", move |confined| {
                    let rights = move || {
                        assert_eq!(has(Capability::CAP_NET_RAW), kept);
                        assert!(!has(Capability::CAP_SYS_ADMIN));
                    };
                    rights();
                    confined.spawn("deepest", move |_| rights()).unwrap().join().unwrap();
                });
                started.unwrap().join().unwrap();
            });
        }
    }

    #[test]
    fn the_inspector_keeps_what_it_takes_to_look_into_processes() {
        let [raw, trace] = [Capability::CAP_NET_RAW, Capability::CAP_SYS_PTRACE].map(has);
        let prepare = || has(Capability::CAP_NET_RAW);
        let run = move |had| {
            assert_eq!(had, raw);
            assert!(!has(Capability::CAP_NET_RAW));
            assert_eq!(has(Capability::CAP_SYS_PTRACE), trace);
        };
        Unconfined::of_this_thread()
            .start_inspector("inspector", prepare, run)
            .unwrap()
            .join()
            .unwrap();
    }
}
