//! Who owns a listening socket: its systemd unit (by cgroup) and its process (by `/proc/PID/fd`).
//!
//! Reading every descriptor of every process is what makes `netstat -p` slow, so nothing is looked
//! up twice: a socket is searched for when it first appears, its cgroup tells where, and from then
//! on one readlink per sample confirms that its process still holds it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, openat, readlinkat_raw};
use rustix::io::Errno;
use synwatch_core::observe::Process;
use synwatch_core::time::Timestamp;

use super::dump::ListenSocket;

/// Descriptors looked at per process. Servers open their listeners before their connections, and
/// descriptors are numbered from the lowest free one up.
const MAX_DESCRIPTORS: usize = 1024;

/// Octets for the names of descriptors that are read at once: some 40 of them. The kernel does work
/// for each that it names, and a server with ten thousand connections has its listeners among the
/// first.
const NAMES: usize = 1024;

/// Octets of a link's target that are read: those of a socket's need at most 19.
const TARGET: usize = 32;

/// The time between two searches: a host that opens new listeners all the time (FTP, test runners)
/// must not be searched all the time.
const SEARCH_INTERVAL: Duration = Duration::from_secs(10);

/// Mount points of cgroup version 2: beside version 1 ("hybrid"), or alone.
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// The owners of the listening sockets, by the sockets' cookies.
#[derive(Default)]
pub(super) struct Owners {
    known: HashMap<u64, Owner>,
    next_search: Timestamp,
    /// Some process could not be looked into, so an owner may be missing.
    denied: bool,
}

#[derive(Default)]
struct Owner {
    process: Process,
    inode: u32,
    cgroup: Option<u64>,
    /// The link that leads to the socket.
    link: Option<PathBuf>,
    searched: bool,
}

impl Owners {
    /// Forgets sockets that are gone, looks for the owners of new ones.
    pub fn update(&mut self, now: Timestamp, sockets: &[ListenSocket]) {
        let current: HashSet<u64> = sockets.iter().map(|socket| socket.cookie).collect();
        self.known.retain(|cookie, owner| {
            current.contains(cookie)
                && owner.link.as_deref().is_none_or(|l| leads_to(l, owner.inode))
        });
        for socket in sockets {
            self.known.entry(socket.cookie).or_insert_with(|| Owner {
                inode: socket.inode,
                cgroup: socket.cgroup,
                ..Owner::default()
            });
        }
        let waiting = self.known.values().any(|owner| !owner.searched);
        if waiting && now >= self.next_search {
            self.next_search = now + SEARCH_INTERVAL;
            self.search();
        }
    }

    /// The owner of a socket, as far as it is known.
    pub fn of(&self, socket: &ListenSocket) -> Option<&Process> {
        let process = &self.known.get(&socket.cookie)?.process;
        (*process != Process::default()).then_some(process)
    }

    /// Why owners are missing.
    pub fn problem(&self) -> Option<String> {
        let missing =
            self.known.values().filter(|o| o.searched && o.inode != 0 && o.link.is_none()).count();
        (self.denied && missing > 0).then(|| {
            format!(
                "process of {missing} listening socket(s) unknown: /proc/PID/fd of other users \
                 needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
            )
        })
    }

    fn search(&mut self) {
        let mut wanted: Vec<&mut Owner> =
            self.known.values_mut().filter(|owner| !owner.searched).collect();
        let ids = wanted.iter().filter_map(|owner| owner.cgroup).collect();
        let root = cgroup_root().unwrap_or(Path::new("/"));
        let cgroups = cgroup_root().map(|root| find_cgroups(root, ids)).unwrap_or_default();
        for owner in &mut wanted {
            owner.searched = true;
            owner.process.unit = owner
                .cgroup
                .and_then(|id| cgroups.get(&id)?.strip_prefix(root).ok())
                .and_then(unit);
        }

        let mut holders = Holders::new(wanted.iter().map(|owner| owner.inode));
        let members: BTreeSet<u32> = cgroups.values().flat_map(|path| members(path)).collect();
        holders.search(members);
        if !holders.wanted.is_empty() {
            // Held outside the cgroup that created it, or no cgroup known.
            holders.search(all_processes());
        }
        self.denied |= holders.denied;
        for owner in wanted {
            if let Some((pid, link)) = holders.found.get(&owner.inode) {
                owner.link = Some(link.clone());
                owner.process.pid = Some(*pid);
                owner.process.name = process_name(*pid);
                owner.process.unit = owner.process.unit.take().or_else(|| process_unit(*pid));
            }
        }
    }
}

/// The search for the processes that hold sockets.
struct Holders {
    /// Inodes still to be found.
    wanted: HashSet<u32>,
    /// Process and link by inode.
    found: HashMap<u32, (u32, PathBuf)>,
    seen: HashSet<u32>,
    denied: bool,
}

impl Holders {
    fn new(inodes: impl Iterator<Item = u32>) -> Self {
        let wanted = inodes.filter(|inode| *inode != 0).collect();
        Self { wanted, found: HashMap::new(), seen: HashSet::new(), denied: false }
    }

    /// Looks into processes in order of their ids, so that a parent comes before the workers that
    /// share its socket; into process 1 last, because systemd keeps the sockets that it hands on.
    fn search(&mut self, processes: BTreeSet<u32>) {
        let last = processes.contains(&1).then_some(1);
        for pid in processes.into_iter().filter(|pid| *pid != 1).chain(last) {
            if self.wanted.is_empty() {
                return;
            }
            if self.seen.insert(pid)
                && let Err(error) = self.search_process(pid)
            {
                // Anything else is a process or a descriptor that is gone.
                self.denied |= io::Error::from(error).kind() == io::ErrorKind::PermissionDenied;
            }
        }
    }

    fn search_process(&mut self, pid: u32) -> Result<(), Errno> {
        let path = format!("/proc/{pid}/fd");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, &path, flags, Mode::empty())?;
        let mut names = [MaybeUninit::uninit(); NAMES];
        let mut names = RawDir::new(&directory, &mut names);
        let mut target = [0; TARGET];
        let mut seen = 0;
        while let Some(name) = names.next().transpose()?
            && seen < MAX_DESCRIPTORS
        {
            // "." and "..".
            if name.file_type() != FileType::Symlink {
                continue;
            }
            seen += 1;
            let inode = match readlinkat_raw(&directory, name.file_name(), &mut target) {
                Ok(length) => target.get(..length).and_then(socket_inode),
                Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(error),
                // Closed meanwhile.
                Err(_) => None,
            };
            if let Some(inode) = inode
                && self.wanted.remove(&inode)
            {
                let link = Path::new(&path).join(OsStr::from_bytes(name.file_name().to_bytes()));
                self.found.insert(inode, (pid, link));
                if self.wanted.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The inode in the target of a link of `/proc/PID/fd`: `socket:[4711]`.
fn socket_inode(target: &[u8]) -> Option<u32> {
    str::from_utf8(target).ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn leads_to(link: &Path, inode: u32) -> bool {
    fs::read_link(link)
        .is_ok_and(|target| socket_inode(target.as_os_str().as_bytes()) == Some(inode))
}

fn all_processes() -> BTreeSet<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .map_while(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn process_name(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

fn process_unit(pid: u32) -> Option<String> {
    unit_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The unit in the text of `/proc/PID/cgroup` (lines of hierarchy:controllers:path): that of cgroup
/// version 2 (no controllers), else of systemd's own hierarchy.
fn unit_in(cgroups: &str) -> Option<String> {
    ["", "name=systemd"].iter().find_map(|wanted| {
        cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            if controllers == *wanted { unit(Path::new(path)) } else { None }
        })
    })
}

/// The processes in a cgroup.
fn members(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The systemd unit that a cgroup (its path within the hierarchy) belongs to: the innermost
/// service, socket or scope, else simply the last part.
fn unit(path: &Path) -> Option<String> {
    let parts = || path.iter().rev().filter_map(|part| part.to_str()).filter(|part| *part != "/");
    parts()
        .find(|part| [".service", ".socket", ".scope"].iter().any(|kind| part.ends_with(kind)))
        .or_else(|| parts().next())
        .map(str::to_owned)
}

/// Where the cgroup tree (version 2) is mounted, if it is.
fn cgroup_root() -> Option<&'static Path> {
    CGROUP_ROOTS.iter().map(Path::new).find(|root| root.join("cgroup.controllers").exists())
}

/// The directories of the cgroups with these ids. The id is the inode number of the directory
/// (`cgroup_id`, `kernfs_ino`). Goes through the tree level by level, until all are found.
fn find_cgroups(root: &Path, mut ids: HashSet<u64>) -> HashMap<u64, PathBuf> {
    let mut found = HashMap::new();
    if let Ok(metadata) = fs::metadata(root)
        && ids.remove(&metadata.ino())
    {
        found.insert(metadata.ino(), root.to_owned());
    }
    let mut level = vec![root.to_owned()];
    while !level.is_empty() && !ids.is_empty() {
        let mut next = Vec::new();
        for entry in level.iter().flat_map(fs::read_dir).flatten().map_while(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if ids.remove(&entry.ino()) {
                    found.insert(entry.ino(), entry.path());
                }
                next.push(entry.path());
            }
        }
        level = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn unit_is_the_innermost_service_socket_or_scope() {
        for (path, expected) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/docker.service/supervisor", Some("docker.service")),
            ("user.slice/user-1000.slice/user@1000.service/app.slice/dev.scope", Some("dev.scope")),
            ("/system.slice/ssh.socket", Some("ssh.socket")),
            ("/lxc/web", Some("web")),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(unit(Path::new(path)).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn unit_of_a_process_comes_from_version_2_or_systemd() {
        assert_eq!(unit_in("0::/system.slice/ssh.service\n").as_deref(), Some("ssh.service"));
        let hybrid = "9:memory:/x\n1:name=systemd:/system.slice/ssh.service\n0::/\n";
        assert_eq!(unit_in(hybrid).as_deref(), Some("ssh.service"));
        assert_eq!(unit_in("5:devices:/a\nodd line\n0::/\n"), None);
    }

    #[test]
    fn socket_inode_reads_only_sockets() {
        assert_eq!(socket_inode(b"socket:[4711]"), Some(4711));
        assert_eq!(socket_inode(b"pipe:[4711]"), None);
        assert_eq!(socket_inode(b"socket:[]"), None);
        assert_eq!(socket_inode(b"/dev/null"), None);
    }

    #[test]
    fn cgroups_are_found_by_inode() {
        let root = tempfile::tempdir().unwrap();
        let nginx = root.path().join("system.slice/nginx.service");
        fs::create_dir_all(&nginx).unwrap();
        fs::write(nginx.join("cgroup.procs"), "812\n813\n").unwrap();
        let id = fs::metadata(&nginx).unwrap().ino();
        let found = find_cgroups(root.path(), HashSet::from([id, u64::MAX]));
        assert_eq!(found, HashMap::from([(id, nginx.clone())]));
        assert_eq!(members(&nginx), [812, 813]);
        assert!(members(root.path()).is_empty());
    }

    fn listen() -> (TcpListener, u32) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let target = fs::read_link(link).unwrap();
        (listener, socket_inode(target.as_os_str().as_bytes()).unwrap())
    }

    #[test]
    fn a_socket_is_found_behind_more_names_than_are_read_at_once() {
        // A name takes 24 octets (`struct linux_dirent64`).
        let files = std::iter::repeat_with(|| fs::File::open("/dev/null").unwrap());
        let _before: Vec<_> = files.take(2 * NAMES / 24).collect();
        let (_listener, inode) = listen();
        let own = std::process::id();
        let mut holders = Holders::new([inode].into_iter());
        holders.search(BTreeSet::from([own]));
        let (pid, link) = &holders.found[&inode];
        assert_eq!(*pid, own);
        assert!(leads_to(link, inode));
        assert!(!holders.denied);
    }

    #[test]
    fn an_owner_is_looked_up_once_and_again_when_it_lets_go() {
        let (listener, inode) = listen();
        let socket = ListenSocket {
            address: [127, 0, 0, 1].into(),
            port: 1,
            dual_stack: false,
            accept_queue: 0,
            backlog: 1,
            cookie: 99,
            inode,
            cgroup: None,
        };
        let sockets = [socket.clone()];
        let mut owners = Owners::default();
        let start = Timestamp::EPOCH;
        owners.update(start, &sockets);
        assert_eq!(owners.of(&socket).unwrap().pid, Some(std::process::id()));
        assert!(owners.of(&socket).unwrap().name.is_some());

        drop(listener);
        owners.update(start + Duration::from_secs(1), &sockets);
        assert_eq!(owners.of(&socket), None, "let go, and the next search is not due");
        owners.update(start + SEARCH_INTERVAL, &sockets);
        assert_eq!(owners.of(&socket).and_then(|process| process.pid), None);
        owners.update(start + SEARCH_INTERVAL, &[]);
        assert!(owners.known.is_empty());
    }
}
