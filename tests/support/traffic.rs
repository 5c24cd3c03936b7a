//! A real service and its real clients.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::lab::Lab;

/// Threads of a [`Service`]; more clients at once wait in the accept queue.
const WORKERS: usize = 4;
/// Nothing in a lab takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who ends a connection, and how. The first byte of a request asks for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The server sends the answer and closes.
    ServerFirst = b'S' as isize,
    /// The client closes once it has the answer.
    ClientFirst = b'C' as isize,
    /// The client closes its half after the request, the server answers and closes the other.
    HalfClose = b'H' as isize,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ServerFirst, Self::ClientFirst, Self::HalfClose];
}

/// A listener in the victim's namespace that accepts, reads a request and answers.
pub struct Service {
    listener: Arc<TcpListener>,
    workers: Vec<JoinHandle<()>>,
    answered: Arc<AtomicU64>,
}

impl Service {
    /// Listens on `address` with the given backlog.
    pub fn start(lab: &Lab, address: SocketAddr, backlog: i32) -> Self {
        let listen = || -> io::Result<TcpListener> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(backlog)?;
            Ok(socket.into())
        };
        let listener = lab.victim.run(listen);
        let listener = listener.unwrap_or_else(|error| panic!("listen on {address}: {error}"));
        let listener = Arc::new(listener);
        let answered = Arc::new(AtomicU64::new(0));
        let workers = (0..WORKERS)
            .map(|_| {
                let (listener, answered) = (Arc::clone(&listener), Arc::clone(&answered));
                thread::spawn(move || {
                    while let Ok((stream, _)) = listener.accept() {
                        // A client that hangs up early is its own affair.
                        answered.fetch_add(u64::from(answer(stream).is_ok()), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { listener, workers, answered }
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // SAFETY: takes no pointers; the descriptor is open as long as `listener` lives. It ends
        // every accept() on the listener with an error.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; 16];
    stream.read_exact(&mut request)?;
    let mut rest = Vec::new();
    if request[0] == Ending::HalfClose as u8 {
        stream.read_to_end(&mut rest)?;
    }
    stream.write_all(&[b'.'; 512])?;
    if request[0] == Ending::ClientFirst as u8 {
        stream.read_to_end(&mut rest)?;
    }
    Ok(())
}

/// Opens `count` connections, one after the other on each of `workers` threads, spread over the
/// addresses `clients` and all ways of ending, at most `rate` a second in all. Returns how many
/// went from SYN to the last byte of the answer.
pub fn connections(
    lab: &Lab,
    target: SocketAddr,
    clients: &[IpAddr],
    count: usize,
    rate: u32,
) -> u64 {
    let workers = WORKERS;
    let pause = Duration::from_secs_f64(workers as f64 / f64::from(rate));
    let handles: Vec<_> = (0..workers)
        .map(|worker| {
            let clients = clients.to_vec();
            lab.attacker.spawn(move || {
                let mut done = 0;
                for index in (worker..count).step_by(workers) {
                    let client = clients[index % clients.len()];
                    let ending = Ending::ALL[index / clients.len() % Ending::ALL.len()];
                    match connection(client, target, ending) {
                        Ok(()) => done += 1,
                        Err(error) => eprintln!("{client} to {target}, {ending:?}: {error}"),
                    }
                    thread::sleep(pause);
                }
                done
            })
        })
        .collect();
    handles.into_iter().map(|handle| handle.join().expect("a client thread")).sum()
}

/// One connection, from the calling thread's namespace.
fn connection(client: IpAddr, target: SocketAddr, ending: Ending) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[ending as u8; 16])?;
    match ending {
        Ending::ServerFirst => {
            stream.read_to_end(&mut Vec::new())?;
        }
        Ending::ClientFirst => stream.read_exact(&mut [0; 512])?,
        Ending::HalfClose => {
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())?;
        }
    }
    Ok(())
}
