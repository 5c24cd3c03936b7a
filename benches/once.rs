//! A look at the half-open connections of a busy host: `synwatch --once`, and what people type
//! else.
//!
//! `cargo bench --bench once` prints the table of docs/performance.md in about a minute. Needs
//! root. An argument is the number of rounds, 7 without one.

#[path = "../tests/support/mod.rs"]
mod support;

mod common;

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::measure::{self, Run, is_installed};
use common::table::{self, figure, median, range, thousands};
use socket2::{Domain, Socket, Type};
use support::flood::Flood;
use support::lab::{ATTACKER_V4, Family, Lab, Settings, service};
use support::program::SYNWATCH;
use support::truth::KernelTruth;

/// The port of the service that is flooded and that has all the connections.
const PORT: u16 = 4434;
/// Half-open connections to begin with.
const HALF_OPEN: u32 = 33_000;
/// SYNs per second until there are as many.
const FLOOD_RATE: u32 = 15_000;
/// Connections that stand.
const ESTABLISHED: u16 = 19_000;
/// The kernel drops young requests once the SYN queue is half full (`reqsk_timer_handler`).
const BACKLOG: u32 = 4 * HALF_OPEN;
/// Until the SYN-ACKs of the flood have been sent four times; from then on they come seldom.
const SETTLING: Duration = Duration::from_secs(8);
/// No command takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// The first client's port.
const FIRST_CLIENT: u16 = 20_000;
/// What makes this program the service.
const SERVE: &str = "serve";

/// A way to look.
struct Look {
    /// As one types it.
    command: &'static str,
    program: &'static str,
    /// The half-open connections that it tells of.
    count: fn(&str) -> Option<u64>,
}

const LOOKS: [Look; 4] = [
    Look { command: "synwatch --once --duration 0", program: SYNWATCH, count: told },
    Look {
        // As for everybody but root: the lengths of the queues cannot be asked for.
        command: "setpriv --bounding-set=-bpf synwatch --once --duration 0",
        program: "setpriv",
        count: told,
    },
    Look {
        command: "netstat -nap | grep SYN_RECV | wc -l",
        program: "netstat",
        count: |text| text.trim().parse().ok(),
    },
    Look {
        command: "ss -n state syn-recv | wc -l",
        program: "ss",
        // One line is the names of the columns.
        count: |text| text.trim().parse::<u64>().ok()?.checked_sub(1),
    },
];

/// What synwatch tells.
fn told(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("half_open=")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().any(|argument| argument == SERVE) {
        match serve()? {}
    }
    if !support::requires_root() {
        return Ok(());
    }
    let rounds = common::rounds(7);
    let lab = Lab::new(Settings {
        somaxconn: BACKLOG,
        max_syn_backlog: BACKLOG,
        // Half-open for more than ten minutes.
        synack_retries: 12,
        ..Settings::default()
    });
    // A veth that is full has TCP forget the request whose SYN-ACK it could not repeat.
    lab.victim.ip("link add sink type ifb");
    lab.victim.ip("link set sink up");
    lab.victim.ip("route replace default dev sink");
    let target = service(Family::V4, PORT);
    let _server = Server::start(&lab)?;
    connect(&lab, target)?;
    let seconds = f64::from(HALF_OPEN) / f64::from(FLOOD_RATE);
    Flood::random(target, FLOOD_RATE, Duration::from_secs_f64(seconds)).start(&lab).join();
    thread::sleep(SETTLING);

    let mut truth = KernelTruth::of(&lab);
    let looks: Vec<&Look> = LOOKS.iter().filter(|look| is_usable(look)).collect();
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); looks.len()];
    let mut half_open = Vec::new();
    for round in 0..rounds {
        for turn in 0..looks.len() {
            let index = (round + turn) % looks.len();
            half_open.push(truth.count(PORT).half_open as f64);
            // In the namespace by this thread: no other program stands between.
            runs[index].push(lab.victim.run(|| measure::run(&mut shell(looks[index]), LIMIT))?);
        }
    }
    half_open.push(truth.count(PORT).half_open as f64);
    let established = lab.victim.run(sockets_in_use)?.saturating_sub(1);
    print(&looks, &runs, range(half_open), established);
    Ok(())
}

fn is_usable(look: &Look) -> bool {
    let usable = look.program == SYNWATCH || is_installed(look.program);
    if !usable {
        eprintln!("skipped: {} is not installed", look.program);
    }
    usable
}

fn shell(look: &Look) -> Command {
    let mut command = if look.program == SYNWATCH {
        let mut command = Command::new(SYNWATCH);
        command.args(look.command.split_whitespace().skip(1));
        command
    } else {
        let mut command = Command::new("sh");
        // Only the shell knows where this synwatch is.
        let synwatch = format!(" {SYNWATCH} ");
        command.args(["-c", &look.command.replace(" synwatch ", &synwatch)]);
        command
    };
    command.env("NO_COLOR", "1").stderr(Stdio::null());
    command
}

fn print(looks: &[&Look], runs: &[Vec<Run>], half_open: (f64, f64), established: u64) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let wall = |runs: &[Run]| median(runs.iter().map(|run| milliseconds(run.wall)));
    let cpu = |runs: &[Run]| median(runs.iter().map(|run| milliseconds(run.cpu)));
    println!(
        "{} to {} half-open and {} established connections; {}; median of {} rounds\n",
        thousands(half_open.0 as i64),
        thousands(half_open.1 as i64),
        thousands(established as i64),
        table::machine(),
        runs[0].len(),
    );
    table::head(&[
        "command",
        "ms",
        "from",
        "to",
        "CPU, ms",
        "counted",
        "times synwatch",
        "times its CPU",
    ]);
    for (look, of_look) in looks.iter().zip(runs) {
        let (low, high) = range(of_look.iter().map(|run| milliseconds(run.wall)));
        let counts = of_look.iter().filter_map(|run| (look.count)(&run.output));
        table::row(&[
            format!("`{}`", look.command.replace('|', "\\|")),
            figure(wall(of_look)),
            figure(low),
            figure(high),
            figure(cpu(of_look)),
            thousands(median(counts.map(|count| count as f64)) as i64),
            figure(wall(of_look) / wall(&runs[0])),
            figure(cpu(of_look) / cpu(&runs[0])),
        ]);
    }
}

/// TCP sockets of the calling thread's namespace that listen or are connected.
fn sockets_in_use() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/sockstat")?;
    let count = text.split_once("TCP: inuse ").and_then(|(_, rest)| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).ok_or_else(|| io::Error::other("odd sockstat"))
}

/// The service in a process of its own: what starts the commands must have few descriptors, since
/// each has to shed them.
struct Server(Child);

impl Server {
    fn start(lab: &Lab) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = lab.victim.run(|| command.spawn())?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let server = Self(child);
        if line.is_empty() {
            Err(io::Error::other("the service does not start"))
        } else {
            Ok(server)
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The service: keeps all connections, until nobody holds its standard input any more.
fn serve() -> io::Result<std::convert::Infallible> {
    allow_descriptors(u64::from(ESTABLISHED) + 100)?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&service(Family::V4, PORT).into())?;
    socket.listen(BACKLOG.cast_signed())?;
    let listener = TcpListener::from(socket);
    println!("listening");
    io::stdout().flush()?;
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let streams: io::Result<Vec<TcpStream>> =
        listener.incoming().take(ESTABLISHED.into()).collect();
    let _streams = streams?;
    loop {
        thread::park();
    }
}

/// Lets this process have `count` descriptors, as far as it may.
fn allow_descriptors(count: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a valid structure that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = count;
    limit.rlim_max = limit.rlim_max.max(count);
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Connects clients to `target` and has their ends vanish without a word, so that the only process
/// with many descriptors is the service.
fn connect(lab: &Lab, target: SocketAddr) -> io::Result<()> {
    lab.attacker.run(|| {
        for port in (FIRST_CLIENT..).take(ESTABLISHED.into()) {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(IpAddr::V4(ATTACKER_V4), port).into())?;
            socket.connect(&target.into())?;
            vanish(&socket)?;
        }
        Ok(())
    })
}

/// Has a socket close without a FIN or RST: what is in repair belongs to another host (tcp(7)).
fn vanish(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to an int of the length given, and outlives the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
