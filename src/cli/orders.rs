//! Decides how `quorumctl` and a guard speak: with what the command begins, and when it is over at
//! the latest.
//!
//! One socket pair for each guard, whose end is the guard's standard input. `begin` carries what
//! the command's standard input is, and what is added to its environment, since that is known only
//! when the lock is held. `until` follows whenever the daemon has confirmed the lease. The end of
//! the stream is the end of `quorumctl`. Both ends are the same program, so that the form may
//! change with any version.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use tokio::io::Interest;

use crate::client::BootInstant;

/// Longest order that a guard takes, in bytes: a name of 4 KiB and two paths, in hexadecimal.
const ORDER_BYTES_MAX: usize = 64 * 1024;

/// The end of `quorumctl`.
pub(super) struct Orders(UnixStream);

/// The end of a guard.
pub(super) struct Obeyed {
    stream: tokio::net::UnixStream,
    buffer: Vec<u8>,
    until: Option<BootInstant>,
}

/// With what a command begins.
pub(super) struct Begin {
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The standard input.
    pub(super) input: OwnedFd,
}

impl Orders {
    /// With the end that becomes a guard's standard input.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        // A guard that is stopped must not hold up whoever must stop the command in time.
        ours.set_nonblocking(true)?;
        Ok((Self(ours), theirs.into()))
    }

    /// Lets the guard start the command.
    pub(super) fn begin(
        &self,
        environment: &[(&str, &OsStr)],
        input: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut order = "begin".to_owned();
        for (name, value) in environment {
            order.push_str(&format!(" {name}={}", hex(value.as_bytes())));
        }
        order.push('\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let input = [input];
        ancillary.push(SendAncillaryMessage::ScmRights(&input));
        let data = [IoSlice::new(order.as_bytes())];
        let sent = sendmsg(&self.0, &data, &mut ancillary, SendFlags::NOSIGNAL)?;
        if sent < order.len() {
            return Err(io::Error::other("the guard's socket takes no whole order"));
        }
        Ok(())
    }

    /// From then on the guard kills the command by itself.
    pub(super) fn until(&self, deadline: BootInstant) {
        let order = format!("until {}\n", deadline.since_boot().as_nanos());
        // A guard that is gone or stopped kills nobody; the next confirmation comes soon.
        let _ = (&self.0).write(order.as_bytes());
    }
}

impl Obeyed {
    /// Waits for the order to begin; nothing when `quorumctl` is gone instead.
    pub(super) fn begin() -> io::Result<Option<(Begin, Self)>> {
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut buffer = Vec::new();
        let mut input = None;
        while !buffer.contains(&b'\n') {
            if receive(&socket, &mut buffer, &mut input)? == 0 {
                return Ok(None);
            }
        }
        socket.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(socket)?;
        let mut orders = Self { stream, buffer, until: None };
        let environment = orders.take_line().and_then(|line| parse_begin(&line));
        let (Some(environment), Some(input)) = (environment, input) else {
            return Err(io::Error::other("the order to begin makes no sense"));
        };
        orders.obey();
        Ok(Some((Begin { environment, input }, orders)))
    }

    /// Resolves at the next order, or when the deadline has passed; the answer is whether there may
    /// be more orders. May be dropped at any time.
    pub(super) async fn next(&mut self) -> bool {
        loop {
            tokio::select! {
                ready = self.stream.readable() => if ready.is_err() {
                    return false;
                },
                () = passed(self.until) => return true,
            }
            let (stream, buffer) = (&self.stream, &mut self.buffer);
            match stream.try_io(Interest::READABLE, || read(stream, buffer)) {
                Ok(0) => return false,
                Ok(_) => {
                    self.obey();
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }

    /// Whether the last deadline has passed.
    pub(super) fn is_overdue(&mut self) -> bool {
        let is_over = |until: Option<BootInstant>| until.is_some_and(|at| at <= BootInstant::now());
        if !is_over(self.until) {
            return false;
        }
        // This process may have been stopped, and what was said meanwhile not been read.
        while matches!(read(&self.stream, &mut self.buffer), Ok(1..)) {
            self.obey();
        }
        is_over(self.until)
    }

    fn obey(&mut self) {
        while let Some(line) = self.take_line() {
            let nanos = line.strip_prefix("until ").and_then(|nanos| nanos.parse::<u64>().ok());
            let at = nanos.map(|nanos| BootInstant::from_since_boot(Duration::from_nanos(nanos)));
            self.until = self.until.max(at);
        }
    }

    fn take_line(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        String::from_utf8(line).ok().map(|line| line.trim_end().to_owned())
    }
}

async fn passed(until: Option<BootInstant>) {
    match until {
        Some(until) => until.reached().await,
        None => std::future::pending().await,
    }
}

/// One blocking read that also takes a descriptor, if one comes along.
fn receive(
    socket: &UnixStream,
    buffer: &mut Vec<u8>,
    input: &mut Option<OwnedFd>,
) -> io::Result<usize> {
    let mut chunk = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut chunk)];
    let got = loop {
        match recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got?.bytes,
        }
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            *input = descriptors.next().or(input.take());
        }
    }
    append(buffer, &chunk[..got])?;
    Ok(got)
}

fn read(stream: &tokio::net::UnixStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 4096];
    let (_, got) = recv(stream, &mut chunk, RecvFlags::DONTWAIT)?;
    append(buffer, &chunk[..got])?;
    Ok(got)
}

fn append(buffer: &mut Vec<u8>, chunk: &[u8]) -> io::Result<()> {
    if buffer.len() + chunk.len() > ORDER_BYTES_MAX {
        return Err(io::Error::other("an order is too long"));
    }
    buffer.extend_from_slice(chunk);
    Ok(())
}

fn parse_begin(line: &str) -> Option<Vec<(OsString, OsString)>> {
    let mut words = line.split(' ');
    if words.next() != Some("begin") {
        return None;
    }
    words
        .map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((name.into(), OsString::from_vec(unhex(value)?)))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_means_itself() {
        let line = format!("begin A={} B=", hex(b"x =\n\xff"));
        let environment = parse_begin(&line).unwrap();
        assert_eq!(environment[0], ("A".into(), OsString::from_vec(b"x =\n\xff".to_vec())));
        assert_eq!(environment[1], ("B".into(), OsString::new()));
        assert_eq!(parse_begin("begin"), Some(Vec::new()));
        for bad in ["", "until 5", "begin A", "begin A=f", "begin A=xy"] {
            assert_eq!(parse_begin(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn deadlines_move_forwards_and_the_end_is_told() {
        let (orders, theirs) = Orders::pair().unwrap();
        let socket = UnixStream::from(theirs);
        socket.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(socket).unwrap();
        let mut obeyed = Obeyed { stream, buffer: Vec::new(), until: None };
        let now = BootInstant::now();
        orders.until(now + Duration::from_millis(400));
        assert!(obeyed.next().await);
        orders.until(now);
        assert!(obeyed.next().await);
        assert_eq!(obeyed.until, Some(now + Duration::from_millis(400)));
        // Said, and not read before the earlier deadline has passed.
        orders.until(now + Duration::from_millis(800));
        (now + Duration::from_millis(400)).reached().await;
        assert!(!obeyed.is_overdue());
        assert_eq!(obeyed.until, Some(now + Duration::from_millis(800)));
        assert!(obeyed.next().await);
        assert!(obeyed.is_overdue());
        obeyed.until = None;
        drop(orders);
        assert!(!obeyed.next().await);
    }
}
