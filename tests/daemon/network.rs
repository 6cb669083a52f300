//! A network that can be cut: each node's address is a proxy of the test, and what one node sends
//! to another can be held back in either direction.
//!
//! A cut delays bytes like a real one: they come when it is healed, if the connection still lives.
//! Which node dials is asked of the kernel, since TLS hides it: the process that has the other
//! end of the connection.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::spawn;

use crate::harness::wait_until;

/// The proxies of a cluster. Their threads end with it.
pub struct Network {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The process of each node.
    pids: Vec<Option<u32>>,
    /// `cut[a][b]`: nothing gets from a to b.
    cut: Vec<Vec<bool>>,
    ended: bool,
    sockets: Vec<TcpStream>,
}

impl Network {
    /// A proxy for each of these addresses.
    pub fn start(targets: &[SocketAddr]) -> Self {
        let count = targets.len();
        let state = State {
            pids: vec![None; count],
            cut: vec![vec![false; count]; count],
            ended: false,
            sockets: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut addresses = Vec::new();
        for (to, target) in targets.iter().copied().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            addresses.push(listener.local_addr().unwrap());
            let shared = shared.clone();
            spawn(move || {
                for socket in listener.incoming() {
                    let shared = shared.clone();
                    if shared.lock().ended {
                        return;
                    }
                    if let Ok(socket) = socket {
                        spawn(move || shared.carry(socket, to, target));
                    }
                }
            });
        }
        Self { shared, addresses }
    }

    /// Where the nodes are to be dialed.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// A node was started as this process.
    pub fn runs_as(&self, node: usize, pid: u32) {
        self.shared.lock().pids[node] = Some(pid);
        self.shared.changed.notify_all();
    }

    /// Nothing gets from one node to another any more.
    pub fn cut(&self, from: usize, to: usize) {
        self.shared.lock().cut[from][to] = true;
    }

    /// Nothing gets to or from a node any more.
    pub fn isolate(&self, node: usize) {
        let mut state = self.shared.lock();
        for other in (0..state.cut.len()).filter(|other| *other != node) {
            state.cut[node][other] = true;
            state.cut[other][node] = true;
        }
    }

    /// Everything gets everywhere again.
    pub fn heal(&self) {
        for row in &mut self.shared.lock().cut {
            row.fill(false);
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        for socket in &state.sockets {
            // A socket whose peer is gone cannot be shut down, and need not be.
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        for address in &self.addresses {
            // Wakes the listener, so that it sees the end.
            let _ = TcpStream::connect(address);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits until bytes may pass. False when the network has ended.
    fn pass(&self, from: usize, to: usize) -> bool {
        let state = self.lock();
        let held = |state: &mut State| !state.ended && state.cut[from][to];
        !self.changed.wait_while(state, held).unwrap().ended
    }

    /// One connection of a node to another.
    fn carry(self: Arc<Self>, dialed: TcpStream, to: usize, target: SocketAddr) {
        let Some(from) = self.dialer(&dialed) else { return };
        if !self.pass(from, to) {
            return;
        }
        let Ok(onward) = TcpStream::connect(target) else { return };
        for socket in [&dialed, &onward] {
            socket.set_nodelay(true).unwrap();
            self.lock().sockets.push(socket.try_clone().unwrap());
        }
        let (back_from, back_to) = (onward.try_clone().unwrap(), dialed.try_clone().unwrap());
        let shared = self.clone();
        spawn(move || shared.pump(back_from, back_to, to, from));
        self.pump(dialed, onward, from, to);
    }

    fn pump(&self, mut source: TcpStream, mut sink: TcpStream, from: usize, to: usize) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = source.read(&mut buffer).unwrap_or(0);
            if !self.pass(from, to) || read == 0 || sink.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // The end of one direction is told like its bytes; a daemon never half-closes a link.
        let _ = sink.shutdown(Shutdown::Both);
        let _ = source.shutdown(Shutdown::Both);
    }

    /// Which node has the other end of a connection; nothing when the connection is gone first.
    fn dialer(&self, dialed: &TcpStream) -> Option<usize> {
        let port = dialed.peer_addr().ok()?.port();
        wait_until("the dialer is known", || {
            let Some(inode) = inode_of(port) else { return Some(None) };
            let pids = self.lock().pids.clone();
            let owns = |pid: &Option<u32>| pid.is_some_and(|pid| has_socket(pid, &inode));
            pids.iter().position(owns).map(Some).or(self.lock().ended.then_some(None))
        })
    }
}

/// The inode of the socket that is bound to this loopback port and connected (proc(5)).
fn inode_of(port: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let connected = fields.get(3).is_some_and(|state| *state == "01");
        (connected && fields[1] == local).then(|| fields[9].to_owned())
    })
}

fn has_socket(pid: u32, inode: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let wanted = format!("socket:[{inode}]");
    entries.flatten().any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())
    })
}
