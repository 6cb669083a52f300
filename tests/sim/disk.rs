//! A simulated disk under redb: what a crash leaves of the writes that were not synced.
//!
//! It stands alone (redb, std and the seeded generator), so that the crash tests of `src/storage/`
//! and the simulator use the same one. When to crash, fail or fill up is decided by the test.
//!
//! A write goes to the live image and is remembered. `sync_data` makes everything before it
//! durable. A crash yields the durable image with any subset of the remembered writes on top, each
//! possibly torn between sectors of 512 bytes: no promise of order without a sync, as on a real
//! disk with a cache. redb asks of a disk that one sector is written whole or not at all, and no
//! more.

#![allow(dead_code, reason = "each of the programs that include this file uses a part of it")]

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorumd::base::Rng;
use redb::StorageBackend;

const SECTOR_BYTES: usize = 512;

/// A disk with one file. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
}

/// What was asked of a disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes in those writes.
    pub bytes_written: u64,
    /// Syncs.
    pub syncs: u64,
    /// Changes of the length.
    pub resizes: u64,
}

#[derive(Debug, Default)]
struct Inner {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    counters: Counters,
    /// Writes, syncs and resizes, in one count.
    changes: u64,
    fault: Fault,
    full: bool,
    /// The change from which on the disk is full.
    full_from: Option<u64>,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

#[derive(Clone, Copy, Debug, Default)]
enum Fault {
    #[default]
    None,
    /// The change of this number fails once.
    FailOnce(u64),
    /// The change of this number and everything after it fails: the power is gone.
    PowerOff(u64),
    Off,
}

impl Disk {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file with this content, all of it durable.
    pub fn with_content(content: Vec<u8>) -> Self {
        let inner = Inner { live: content.clone(), durable: content, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The content as a running process reads it.
    pub fn content(&self) -> Vec<u8> {
        self.lock().live.clone()
    }

    /// The length as a running process sees it, in bytes.
    pub fn length(&self) -> usize {
        self.lock().live.len()
    }

    /// What was asked so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Writes, syncs and resizes so far: the places at which this disk can fail.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Makes the `nth` write, sync or resize from now on fail once; zero is the next one.
    pub fn fail_after(&self, nth: u64) {
        let mut inner = self.lock();
        inner.fault = Fault::FailOnce(inner.changes + nth);
    }

    /// Cuts the power at the `nth` write, sync or resize from now on: it and everything after it
    /// fails. Zero is the next one.
    pub fn power_off_after(&self, nth: u64) {
        let mut inner = self.lock();
        inner.fault = Fault::PowerOff(inner.changes + nth);
    }

    /// Takes back a fault that was asked for and has not happened.
    pub fn sound(&self) {
        let mut inner = self.lock();
        if !matches!(inner.fault, Fault::Off) {
            inner.fault = Fault::None;
        }
    }

    /// Whether a fault that was asked for has happened.
    pub fn has_failed(&self) -> bool {
        let inner = self.lock();
        match inner.fault {
            Fault::None => false,
            Fault::FailOnce(at) | Fault::PowerOff(at) => inner.changes > at,
            Fault::Off => true,
        }
    }

    /// While full, every write and every growth fails with `StorageFull`.
    pub fn set_full(&self, full: bool) {
        let mut inner = self.lock();
        inner.full = full;
        inner.full_from = None;
    }

    /// Fills the disk up just before the `nth` write, sync or resize from now on, until
    /// [`Disk::set_full`] says otherwise. Zero is the next one.
    pub fn full_after(&self, nth: u64) {
        let mut inner = self.lock();
        inner.full_from = Some(inner.changes + nth);
    }

    /// Changes a byte of the live and of the durable image, as rot under a running process.
    pub fn rot(&self, place: usize, mask: u8) {
        let mut inner = self.lock();
        inner.live[place] ^= mask;
        inner.durable[place] ^= mask;
    }

    /// Cuts the power now and returns what a later start finds. This disk fails from now on.
    pub fn crash(&self, rng: &mut Rng) -> Disk {
        let mut inner = self.lock();
        inner.fault = Fault::Off;
        let mut image = inner.durable.clone();
        // A beginning, all but one, only one, all; the rest is any mixture.
        let style = rng.below(5);
        let odd = rng.below(inner.unsynced.len().max(1) as u64) as usize;
        for (number, change) in inner.unsynced.iter().enumerate() {
            let keep = match style {
                0 => number < odd,
                1 => number != odd,
                2 => number == odd,
                3 => true,
                _ => rng.chance(1, 2),
            };
            match change {
                Change::Resize(length) if keep => image.resize(*length, 0),
                Change::Write { offset, data } if keep => {
                    let torn = style != 3 && rng.chance(1, 4);
                    write_sectors(&mut image, *offset, data, |_| !torn || rng.chance(1, 2));
                }
                Change::Resize(_) | Change::Write { .. } => {}
            }
        }
        Self::with_content(image)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes those sectors of `data` for which `keep` says so.
fn write_sectors(
    image: &mut Vec<u8>,
    offset: usize,
    data: &[u8],
    mut keep: impl FnMut(usize) -> bool,
) {
    let mut done = 0;
    while done < data.len() {
        let place = offset + done;
        let length = (SECTOR_BYTES - place % SECTOR_BYTES).min(data.len() - done);
        if keep(place / SECTOR_BYTES) {
            if image.len() < place + length {
                image.resize(place + length, 0);
            }
            image[place..place + length].copy_from_slice(&data[done..done + length]);
        }
        done += length;
    }
}

impl Inner {
    /// Counts a change and says whether it fails.
    fn change(&mut self) -> Result<(), Error> {
        let number = self.changes;
        self.changes += 1;
        self.full |= self.full_from.is_some_and(|from| number >= from);
        match self.fault {
            Fault::FailOnce(at) if number == at => Err(Error::other("the simulated disk fails")),
            Fault::PowerOff(at) if number >= at => Err(power_is_off()),
            Fault::Off => Err(power_is_off()),
            Fault::None | Fault::FailOnce(_) | Fault::PowerOff(_) => Ok(()),
        }
    }
}

fn power_is_off() -> Error {
    Error::other("the simulated power is off")
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.lock().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.counters.reads += 1;
        if matches!(inner.fault, Fault::Off) {
            return Err(power_is_off());
        }
        let offset = offset as usize;
        let end = offset.saturating_add(out.len());
        let bytes = inner.live.get(offset..end).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let mut inner = self.lock();
        let length = len as usize;
        let failed = inner.change();
        if failed.is_ok() && inner.full && length > inner.live.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        inner.unsynced.push(Change::Resize(length));
        failed?;
        inner.counters.resizes += 1;
        inner.live.resize(length, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.change()?;
        inner.counters.syncs += 1;
        for change in inner.unsynced.drain(..) {
            match change {
                Change::Resize(length) => inner.durable.resize(length, 0),
                Change::Write { offset, data } => {
                    write_sectors(&mut inner.durable, offset, &data, |_| true);
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut inner = self.lock();
        let offset = offset as usize;
        let failed = inner.change();
        if failed.is_ok() && inner.full {
            return Err(ErrorKind::StorageFull.into());
        }
        // A write during which the power fails may have arrived in part.
        inner.unsynced.push(Change::Write { offset, data: data.to_vec() });
        failed?;
        inner.counters.writes += 1;
        inner.counters.bytes_written += data.len() as u64;
        write_sectors(&mut inner.live, offset, data, |_| true);
        Ok(())
    }
}
