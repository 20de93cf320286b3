//! A network address for a sandbox of its own.
//!
//! ```text
//!   sandbox            node
//!   eth0 ADDRESS ───── hd<instance><number>      a pair of links; the route to ADDRESS leads here
//!        │
//!        └ default via GATEWAY, which is an address of the node's loopback: all sandboxes have the same
//! ```
//!
//! It is of IPv4 only: IPv6 is off at both ends of the pair, and refused by the rules besides.
//!
//! | file | owns |
//! |---|---|
//! | `netlink` | messages to the kernel and its answers |
//! | `docker` | a say in the filter of a Docker that manages iptables |
//! | `link` | links, addresses, routes |
//! | `message` | messages to nf_tables |
//! | `rules` | what may go where |
//! | `step` | a step of a rule, in the kernel's words |
//! | `tally` | what is counted of each address |
//!
//! A sandbox's number is in a file in its directory, from before its link is made until after it is gone, so that the next
//! daemon knows whose it is. The gateway and the rules are there as long as any sandbox needs them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns};

use super::EngineError;
use crate::network::{Counted, Counter};
use rules::Rules;
use tally::Tally;

mod docker;
mod link;
mod message;
mod netlink;
mod rules;
mod step;
mod tally;

/// The file with a sandbox's number.
const FILE: &str = "nat";

/// The sandbox's end of its link.
const INSIDE: &str = "eth0";

/// Where the gateway's address is.
const LOOPBACK: &str = "lo";

/// The node passes packets on.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Letters of the instance in the name of a link. A link's name has 15, and a number up to five.
const INSTANCE_LETTERS: usize = 8;

/// Whether the kernel has nf_tables and lets this process use them. Changes nothing.
///
/// # Errors
/// The kernel's word on it.
pub fn probe() -> io::Result<()> {
    rules::probe()
}

/// What the operator chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Tells the links of this daemon from those of another.
    pub instance: String,
    /// The addresses of sandboxes; the first is the gateway's. Between /12 and /30.
    pub subnet: Ipv4Net,
    /// Ranges that sandboxes do not reach.
    pub refused: Vec<Ipv4Net>,
    /// Ranges that they do, all the same.
    pub reachable: Vec<Ipv4Net>,
}

impl Settings {
    /// Where sandboxes find the node, and their resolver.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.address(0)
    }

    /// The gateway's address for 0, those of sandboxes from 1 on.
    fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.subnet.network().to_bits() + 1 + number)
    }
}

/// The network of all sandboxes that have addresses.
#[derive(Debug, Clone)]
pub struct Nat {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// How the names of links begin; also the name of the rules.
    prefix: String,
    state: Mutex<State>,
}

/// Changed only by whoever also changes the kernel, under the lock, on a thread that may block.
#[derive(Debug, Default)]
struct State {
    numbers: BTreeSet<u32>,
    /// Gateway and rules are there.
    installed: bool,
}

/// What is counted of one sandbox.
#[derive(Debug)]
struct Account {
    shared: Arc<Shared>,
    address: Ipv4Addr,
}

impl Counter for Account {
    fn read(&self) -> io::Result<Counted> {
        let read = |tally: Tally| tally.read(&self.shared.prefix, self.address);
        Ok(Counted { connected: read(Tally::Connected)?, refused: read(Tally::Refused)? })
    }
}

/// The counter of the sandbox that has this directory, if it has an address.
#[must_use]
pub fn counter(nat: &Result<Nat, String>, directory: &Path) -> Option<Arc<dyn Counter>> {
    let shared = Arc::clone(&nat.as_ref().ok()?.shared);
    let number = number_of(directory).ok().flatten()?;
    let address = shared.settings.address(number);
    Some(Arc::new(Account { shared, address }))
}

/// The network that a sandbox gets its address of, if there is one here.
///
/// # Errors
/// [`EngineError::NetworkUnsupported`], with what `nat` says is missing.
pub fn required(nat: &Result<Nat, String>) -> Result<&Nat, EngineError> {
    nat.as_ref().map_err(|lack| EngineError::NetworkUnsupported { mode: "nat", lack: lack.clone() })
}

impl Nat {
    /// Opens it with what the sandboxes below a directory have, and removes the links of those that are not there.
    ///
    /// # Errors
    /// Those of the kernel and of the file system.
    fn open(settings: Settings, sandboxes: &Path) -> io::Result<Self> {
        let mut numbers = BTreeSet::new();
        for entry in fs::read_dir(sandboxes)? {
            numbers.extend(number_of(&entry?.path())?);
        }
        let letters = settings.instance.len().min(INSTANCE_LETTERS);
        let prefix = format!("hd{}", &settings.instance[..letters]);
        let state = Mutex::new(State { numbers, installed: false });
        let shared = Shared { settings, prefix, state };
        shared.sweep()?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same, or what is missing for it, for people.
    ///
    /// # Errors
    /// Those of `settings`, and those of opening it.
    pub fn try_open(settings: Result<Settings, String>, sandboxes: &Path) -> Result<Self, String> {
        Self::open(settings?, sandboxes).map_err(|error| format!("the kernel does not let it be made: {error}"))
    }

    /// Where sandboxes find their resolver.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.shared.settings.gateway()
    }

    /// Attaches a sandbox by its first process, which has nothing but a loopback so far; if it has a bandwidth, it sends and
    /// gets no more bytes a second than that.
    ///
    /// # Errors
    /// Those of the kernel; [`Nat::detach`] removes what was made.
    pub async fn attach(&self, directory: &Path, pid: u32, bandwidth: Option<u64>) -> io::Result<()> {
        let (shared, directory) = (Arc::clone(&self.shared), directory.to_owned());
        blocking(move || shared.attach(&directory, pid, bandwidth)).await
    }

    /// Changes the bandwidth of a sandbox; of one that has no address, it does nothing.
    ///
    /// # Errors
    /// Those of the kernel.
    pub async fn limit(&self, directory: &Path, pid: u32, bandwidth: u64) -> io::Result<()> {
        let (shared, directory) = (Arc::clone(&self.shared), directory.to_owned());
        blocking(move || shared.limit(&directory, pid, bandwidth)).await
    }

    /// Removes what there is of a sandbox; of one that has no address, there is nothing.
    ///
    /// # Errors
    /// Those of the kernel; it can be tried again.
    pub async fn detach(&self, directory: &Path) -> io::Result<()> {
        let (shared, directory) = (Arc::clone(&self.shared), directory.to_owned());
        blocking(move || shared.detach(&directory)).await
    }
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What the kernel has, it is asked for; a number too many in the set costs an address.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, number: u32) -> String {
        format!("{}{number:x}", self.prefix)
    }

    fn rules(&self) -> Rules<'_> {
        let Settings { subnet, refused, reachable, .. } = &self.settings;
        Rules {
            table: &self.prefix,
            prefix: &self.prefix,
            gateway: self.settings.gateway(),
            subnet: *subnet,
            refused,
            reachable,
        }
    }

    /// Removes links that are no sandbox's, and everything if there is no sandbox.
    fn sweep(&self) -> io::Result<()> {
        let mut state = self.lock();
        let known: BTreeSet<String> = state.numbers.iter().map(|number| self.link(*number)).collect();
        for name in link::list(&self.prefix)? {
            if !known.contains(&name) {
                tracing::info!(link = name, "removing what an earlier daemon left");
                link::remove(&name)?;
            }
        }
        if state.numbers.is_empty() { self.uninstall(&mut state) } else { self.install(&mut state) }
    }

    fn attach(&self, directory: &Path, pid: u32, bandwidth: Option<u64>) -> io::Result<()> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        let mut state = self.lock();
        let number = self.claim(&mut state, directory)?;
        self.install(&mut state)?;
        drop(state);
        let (name, address, gateway) = (self.link(number), self.settings.address(number), self.settings.gateway());
        link::make_pair(&name, INSIDE, namespace.as_fd())?;
        forgo_ipv6(&name)?;
        // A packet from an address to which the way leads elsewhere is dropped.
        fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "1")?;
        link::add_route(&name, address, Some(gateway))?;
        inside(namespace, move || {
            forgo_ipv6(INSIDE)?;
            link::set_up(INSIDE)?;
            link::add_address(INSIDE, address)?;
            link::add_route(INSIDE, gateway, None)?;
            link::add_default_route(INSIDE, gateway)
        })?;
        bandwidth.map_or(Ok(()), |bandwidth| self.limit(directory, pid, bandwidth))
    }

    /// Each end of the pair bounds what it sends; nobody in the sandbox may change that.
    fn limit(&self, directory: &Path, pid: u32, bandwidth: u64) -> io::Result<()> {
        let Some(number) = number_of(directory)? else { return Ok(()) };
        link::limit(&self.link(number), bandwidth)?;
        inside(File::open(format!("/proc/{pid}/ns/net"))?, move || link::limit(INSIDE, bandwidth))
    }

    /// The first number that is free, written down.
    fn claim(&self, state: &mut State, directory: &Path) -> io::Result<u32> {
        // Neither the network's own address, nor the gateway's, nor the one for all.
        let hosts = (1_u32 << (32 - self.settings.subnet.prefix_len())) - 3;
        let number = (1..=hosts).find(|number| !state.numbers.contains(number));
        let number = number.ok_or_else(|| io::Error::new(io::ErrorKind::QuotaExceeded, "no address is left"))?;
        fs::write(directory.join(FILE), number.to_string())?;
        state.numbers.insert(number);
        Ok(number)
    }

    fn detach(&self, directory: &Path) -> io::Result<()> {
        let Some(number) = number_of(directory)? else { return Ok(()) };
        // Takes the kernel 20 ms, in which others can be attached: the number is not free before.
        link::remove(&self.link(number))?;
        let mut state = self.lock();
        fs::remove_file(directory.join(FILE))?;
        state.numbers.remove(&number);
        if state.numbers.is_empty() {
            return self.uninstall(&mut state);
        }
        tally::forget(&self.prefix, self.settings.address(number))
    }

    fn install(&self, state: &mut State) -> io::Result<()> {
        if !state.installed {
            self.install_own()?;
            state.installed = true;
        }
        // Docker may have come, or have begun anew, since the last time.
        docker::join(&self.prefix)
    }

    fn install_own(&self) -> io::Result<()> {
        self.rules().install()?;
        link::add_address(LOOPBACK, self.settings.gateway())?;
        if fs::read_to_string(FORWARDING)?.trim() == "0" {
            tracing::info!("the node passes packets on from now on ({FORWARDING})");
            fs::write(FORWARDING, "1")?;
        }
        Ok(())
    }

    fn uninstall(&self, state: &mut State) -> io::Result<()> {
        // Without rules of this daemon's, the address is not this daemon's either.
        docker::leave(&self.prefix)?;
        if self.rules().remove()? {
            link::remove_address(LOOPBACK, self.settings.gateway())?;
        }
        state.installed = false;
        Ok(())
    }
}

/// A link of this network namespace neither sends nor takes IPv6, not even to find neighbours. Where the kernel has none, there
/// is nothing to do.
fn forgo_ipv6(link: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Does something in another network namespace. It is the thread's for good, so the thread is one that ends.
fn inside(namespace: File, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let enter = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    let working = std::thread::Builder::new().name("nat".to_owned()).spawn(enter)?;
    working.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// The number of the sandbox that has this directory.
fn number_of(directory: &Path) -> io::Result<Option<u32>> {
    let path: PathBuf = directory.join(FILE);
    match fs::read_to_string(&path) {
        // Of one that was torn off, no link was made.
        Ok(text) => Ok(text.parse().ok()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(subnet: &str) -> Shared {
        let settings = Settings {
            instance: "0123456789ab".to_owned(),
            subnet: subnet.parse().unwrap(),
            refused: Vec::new(),
            reachable: Vec::new(),
        };
        Shared { settings, prefix: "hd01234567".to_owned(), state: Mutex::default() }
    }

    #[test]
    fn numbers_are_used_again_and_run_out() {
        let shared = shared("198.18.0.0/29");
        let directory = tempfile::tempdir().unwrap();
        let mut state = State::default();
        let numbers: Vec<u32> = (0..5).map(|_| shared.claim(&mut state, directory.path()).unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        assert_eq!(shared.settings.address(5), Ipv4Addr::new(198, 18, 0, 6));
        assert_eq!(shared.claim(&mut state, directory.path()).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        state.numbers.remove(&3);
        assert_eq!(shared.claim(&mut state, directory.path()).unwrap(), 3);
        assert_eq!(number_of(directory.path()).unwrap(), Some(3));
    }

    #[test]
    fn the_longest_name_of_a_link_is_one() {
        assert_eq!(shared("198.0.0.0/12").link((1 << 20) - 3).len(), 15);
    }

    #[test]
    fn what_is_no_number_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(number_of(directory.path()).unwrap(), None);
        fs::write(directory.path().join(FILE), "").unwrap();
        assert_eq!(number_of(directory.path()).unwrap(), None);
    }
}
