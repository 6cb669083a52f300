//! systemd's file-descriptor store: it keeps the pidfds of bound processes while the daemon is
//! restarted (sd_notify(3), `FDSTORE=1`), and hands them back by name.
//!
//! An aid and no more: without it processes are found again by their numbers. What is made of the
//! descriptors that come back is decided in `adopt.rs`.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::sync::mpsc;

use crate::host::{Process, ProcessIdentity};

/// What the names of stored pidfds begin with. The rest is the identity of the process.
pub const STORED_PROCESS_PREFIX: &str = "process-";

/// Orders that wait for systemd. When it reads no more, further ones are dropped: a descriptor that
/// was not stored is not needed, one too many is dropped after the next start.
const ORDERS_MAX: usize = 1_024;

/// The way to the store; leads nowhere when the daemon was not started by systemd.
#[derive(Debug)]
pub(super) struct FdStore {
    /// Sent by whoever binds and unbinds, received by the one task that talks to systemd. Closed
    /// when there is no store.
    orders: Option<mpsc::Sender<Order>>,
}

#[derive(Debug)]
enum Order {
    Drop(String),
    Keep(Arc<Process>),
}

impl FdStore {
    /// The store of the unit that this process belongs to, if `NOTIFY_SOCKET` names one and the
    /// unit keeps descriptors: systemd says so in `FDSTORE` since version 254.
    pub(super) fn of_environment() -> Self {
        let number = |value: &OsStr| value.to_str().and_then(|text| text.parse::<u32>().ok());
        if env::var_os("FDSTORE").as_deref().and_then(number) == Some(0) {
            return Self { orders: None };
        }
        let Some(address) = env::var_os("NOTIFY_SOCKET") else { return Self { orders: None } };
        match connect(&address) {
            Ok(socket) => {
                let (orders, received) = mpsc::channel(ORDERS_MAX);
                tokio::spawn(serve(socket, received));
                Self { orders: Some(orders) }
            }
            Err(error) => {
                tracing::debug!(%error, "systemd keeps no descriptors");
                Self { orders: None }
            }
        }
    }

    /// Has the pidfd kept under the name of the process.
    pub(super) fn keep(&self, process: &Arc<Process>) {
        if process.identity().is_lasting() {
            self.order(|| Order::Keep(process.clone()));
        }
    }

    /// Has it dropped.
    pub(super) fn drop_process(&self, identity: &ProcessIdentity) {
        self.order(|| Order::Drop(stored_name(identity)));
    }

    /// Has a descriptor dropped that came back under this name.
    pub(super) fn drop_name(&self, name: &str) {
        self.order(|| Order::Drop(name.to_owned()));
    }

    fn order(&self, order: impl FnOnce() -> Order) {
        if let Some(orders) = &self.orders
            && orders.try_send(order()).is_err()
        {
            tracing::debug!("systemd is not told of a descriptor: it is behind");
        }
    }
}

fn stored_name(identity: &ProcessIdentity) -> String {
    format!("{STORED_PROCESS_PREFIX}{identity}")
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().split_first() {
        Some((b'@', name)) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        _ => socket.connect(address)?,
    }
    Ok(socket)
}

/// Tells systemd, one order after the other, away from the threads of callers: it may be slow.
async fn serve(socket: UnixDatagram, mut orders: mpsc::Receiver<Order>) {
    let socket = Arc::new(socket);
    while let Some(order) = orders.recv().await {
        let socket = socket.clone();
        let sent = tokio::task::spawn_blocking(move || send(&socket, &order)).await;
        if let Ok(Err(error)) = sent {
            tracing::debug!(%error, "systemd could not be told of a descriptor");
        }
    }
}

fn send(socket: &UnixDatagram, order: &Order) -> io::Result<()> {
    match order {
        Order::Drop(name) => {
            socket.send(format!("FDSTOREREMOVE=1\nFDNAME={name}\n").as_bytes())?;
            Ok(())
        }
        Order::Keep(process) => {
            let name = stored_name(process.identity());
            // Not polled: an exit that happens while the daemon is away is found by the descriptor.
            let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
            send_with(socket, text.as_bytes(), process.as_fd())
        }
    }
}

fn send_with(socket: &UnixDatagram, text: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(socket, &[IoSlice::new(text)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::{Order, send, stored_name};
    use crate::host::process::Found;
    use crate::host::{Process, ProcessIdentity};

    #[test]
    fn a_pidfd_goes_to_the_store_with_its_name_and_comes_back_as_the_same_process() {
        let (daemon, systemd) = UnixDatagram::pair().unwrap();
        let process = Arc::new(Process::open(std::process::id()).unwrap());
        send(&daemon, &Order::Keep(process.clone())).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 512];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg(&systemd, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let text = String::from_utf8(buffer[..received.bytes].to_vec()).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap();
        assert_eq!(name, stored_name(process.identity()));
        assert!(text.starts_with("FDSTORE=1\n"), "{text}");
        let identity: ProcessIdentity = name.strip_prefix("process-").unwrap().parse().unwrap();
        let kept = descriptors.pop();
        assert!(kept.is_some());
        assert!(matches!(Process::find(&identity, kept), Found::Alive(found) if found == *process));
    }

    #[test]
    fn a_descriptor_is_dropped_by_name() {
        let (daemon, systemd) = UnixDatagram::pair().unwrap();
        send(&daemon, &Order::Drop("process-x".to_owned())).unwrap();
        let mut buffer = [0; 512];
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"FDSTOREREMOVE=1\nFDNAME=process-x\n");
    }
}
