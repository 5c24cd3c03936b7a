//! Two network namespaces of our own with a veth between them, and connections over it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Namespaces `server` and `client`, each with an interface `veth0` and the addresses of
/// [`Lab::SERVER`] and `.2`. Removed when dropped.
pub struct Lab {
    pub server: String,
    pub client: String,
}

/// Runs `ip` with the words of `arguments`; whether it succeeded.
pub fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    output.is_ok_and(|output| output.status.success())
}

impl Lab {
    pub const SERVER: [&'static str; 2] = ["192.0.2.1", "2001:db8::1"];

    /// `None`, with the reason printed, where namespaces cannot be made.
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("capture-{}-{number}", std::process::id());
        let lab = Self { server: format!("{prefix}-s"), client: format!("{prefix}-c") };
        let Self { server, client } = &lab;
        if ip(&format!("netns add {server}")) && ip(&format!("netns add {client}")) {
            assert!(ip(&format!("-n {server} link set lo up")));
            lab.connect();
            return Some(lab);
        }
        eprintln!("skipped: network namespaces need root and the ip command");
        None
    }

    /// Makes the veth pair.
    pub fn connect(&self) {
        let Self { server, client } = self;
        assert!(ip(&format!(
            "link add veth0 netns {server} type veth peer name veth0 netns {client}"
        )));
        for (name, host) in [(server, 1), (client, 2)] {
            assert!(ip(&format!("-n {name} addr add 192.0.2.{host}/24 dev veth0")));
            assert!(ip(&format!("-n {name} addr add 2001:db8::{host}/64 dev veth0 nodad")));
            assert!(ip(&format!("-n {name} link set veth0 up")));
        }
    }

    /// Opens `count` connections from one namespace to another, sends data over each both ways,
    /// and closes them.
    pub fn talk(from: &str, to: &str, address: &str, count: usize) {
        const DATA: [u8; 3000] = [7; 3000];
        let address: IpAddr = address.parse().unwrap();
        let listener = inside(to, move || TcpListener::bind((address, 0)).unwrap());
        let target: SocketAddr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().take(count) {
                let mut stream = stream.unwrap();
                stream.read_to_end(&mut Vec::new()).unwrap();
                stream.write_all(&DATA).unwrap();
            }
        });
        inside(from, move || {
            for _ in 0..count {
                let mut stream = TcpStream::connect(target).unwrap();
                stream.write_all(&DATA).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                assert_eq!(answer.len(), DATA.len());
            }
        });
        server.join().unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.server));
        ip(&format!("netns del {}", self.client));
    }
}

/// Runs `job` on a thread of its own in a network namespace.
pub fn inside<T: Send>(namespace: &str, job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(namespace);
                job()
            })
            .join()
            .unwrap()
    })
}

/// Moves the calling thread to a network namespace.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    // SAFETY: no pointers; it changes the calling thread alone.
    assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
}
