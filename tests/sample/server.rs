//! Our HTTP server on a loopback port, in a thread of its own; it ends with the value.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use synwatch::http::{Settings, State, bind, serve};
use synwatch_core::metrics::Exporter;
use synwatch_core::observe::Snapshot;
use tokio::sync::{oneshot, watch};

pub struct Server {
    pub address: SocketAddr,
    pub reports: watch::Sender<Arc<Snapshot>>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(report: Snapshot, settings: Settings) -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (reports, receiver) = watch::channel(Arc::new(report));
        let (shutdown, stop) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let state = State::new(receiver, Exporter::default, "/metrics");
            let stop = async { stop.await.unwrap_or(()) };
            runtime.block_on(serve(listener, state, settings, stop)).unwrap();
        });
        Self { address, reports, shutdown: Some(shutdown), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
