//! A real service and its real clients.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::lab::Lab;
use super::netns::Namespace;

/// Threads of a [`Service`]; more clients at once wait in the accept queue.
const SERVERS: usize = 16;
/// Threads of [`connections`].
const WORKERS: usize = 4;
/// Nothing in a lab takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one of the [`Clients`] waits for its answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(4);
/// How often [`Clients`] look what has come.
const CLIENT_PERIOD: Duration = Duration::from_millis(10);

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

/// A listener that accepts, reads a request and answers.
pub struct Service {
    listener: Arc<TcpListener>,
    workers: Vec<JoinHandle<()>>,
    answered: Arc<AtomicU64>,
    gate: Arc<Gate>,
}

/// What a worker passes before it serves a connection.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set_closed(&self, closed: bool) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(closed, |closed| *closed));
    }
}

impl Service {
    /// Listens on `address` of the victim with the given backlog.
    pub fn start(lab: &Lab, address: SocketAddr, backlog: i32) -> Self {
        Self::start_on(&lab.victim, address, backlog)
    }

    /// The same of another host.
    pub fn start_on(host: &Namespace, address: SocketAddr, backlog: i32) -> Self {
        let listen = || -> io::Result<TcpListener> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(backlog)?;
            Ok(socket.into())
        };
        let listener = host.run(listen);
        let listener = listener.unwrap_or_else(|error| panic!("listen on {address}: {error}"));
        let listener = Arc::new(listener);
        let answered = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(Gate::default());
        let workers = (0..SERVERS)
            .map(|_| {
                let (listener, answered) = (Arc::clone(&listener), Arc::clone(&answered));
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    while let Ok((stream, _)) = listener.accept() {
                        gate.pass();
                        // A client that hangs up early is its own affair.
                        answered.fetch_add(u64::from(answer(stream).is_ok()), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { listener, workers, answered, gate }
    }

    /// Stops to serve and to call `accept()`: each worker hangs on one connection more.
    pub fn stall(&self) {
        self.gate.set_closed(true);
    }

    /// Serves again.
    pub fn resume(&self) {
        self.gate.set_closed(false);
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
        self.resume();
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

/// Honest clients that come at a fixed rate, whether those before them were served or not.
pub struct Clients {
    worker: JoinHandle<Served>,
    stop: Arc<AtomicBool>,
}

/// How it went for [`Clients`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// Those who got their answer.
    pub answered: u64,
    /// Those who were refused, or gave up.
    pub failed: u64,
}

impl Clients {
    /// `rate` connections a second from `addresses` in turn, until [`Clients::stop`].
    pub fn start(lab: &Lab, target: SocketAddr, addresses: &[IpAddr], rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, addresses) = (Arc::clone(&stop), addresses.to_vec());
        let worker = lab.attacker.spawn(move || {
            let started = Instant::now();
            let (mut served, mut opened, mut waiting) = (Served::default(), 0, Vec::new());
            loop {
                let stopped = told.load(Ordering::Relaxed);
                if stopped && waiting.is_empty() {
                    return served;
                }
                let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as usize;
                let due = if stopped { opened } else { due };
                for index in opened..due {
                    match Client::open(addresses[index % addresses.len()], target) {
                        Ok(client) => waiting.push(client),
                        Err(_) => served.failed += 1,
                    }
                }
                opened = due;
                waiting.retain_mut(|client| match client.progress() {
                    Ok(true) => {
                        served.answered += 1;
                        false
                    }
                    Ok(false) => true,
                    Err(_) => {
                        served.failed += 1;
                        false
                    }
                });
                thread::sleep(CLIENT_PERIOD);
            }
        });
        Self { worker, stop }
    }

    /// Lets no more come, and waits for those who are there.
    pub fn stop(self) -> Served {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("the clients' thread")
    }
}

/// One of [`Clients`], who never blocks.
struct Client {
    stream: TcpStream,
    since: Instant,
    asked: bool,
}

impl Client {
    fn open(from: IpAddr, target: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.set_nonblocking(true)?;
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(Self { stream: socket.into(), since: Instant::now(), asked: false })
    }

    /// Goes as far as it can; `true` once the answer is complete.
    fn progress(&mut self) -> io::Result<bool> {
        let outcome = if self.asked {
            self.stream.read(&mut [0; 1024]).map(|length| length == 0)
        } else {
            self.stream.write(&[Ending::ServerFirst as u8; 16]).map(|_| {
                self.asked = true;
                false
            })
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let patient = self.since.elapsed() < CLIENT_PATIENCE;
                if patient { Ok(false) } else { Err(io::ErrorKind::TimedOut.into()) }
            }
            outcome => outcome,
        }
    }
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
