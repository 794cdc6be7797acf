//! A disk whose power can be cut.
//!
//! What has been written since the last sync is kept beside what is durable. An image is what a power cut could leave:
//! of each sector, what is durable or any of the versions written since; of the lengths, any of those set since. So
//! writes are lost, torn and reordered at will, as the contract of `fdatasync` allows.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rand::Rng;
use redb::StorageBackend;

use crate::storage::Backends;

pub const SECTOR: usize = 512;

/// What is called at each sync, before it takes effect, and when the disk is asked to: the disk as it is then.
pub type Hook = Box<dyn FnMut(&Content) + Send>;

/// How the disk misbehaves.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// A sync says that it is done, and does nothing.
    pub sync_lies: bool,
    /// After so many writes and syncs more, everything that writes fails.
    pub operations_left: Option<u64>,
    /// Only syncs count, and fail.
    pub only_syncs: bool,
    pub kind: Option<io::ErrorKind>,
}

#[derive(Default)]
pub struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Versions of sectors that no sync has made durable, oldest first.
    unsynced: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    lengths: Vec<usize>,
}

impl Content {
    fn holding(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), current: bytes, ..Self::default() }
    }

    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.current.len());
            if !range.is_empty() {
                self.durable[range.clone()].copy_from_slice(&self.current[range]);
            }
        }
        self.lengths.clear();
    }

    /// Notes the present content of the sectors of a range.
    fn note(&mut self, start: usize, end: usize) {
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            let mut version = [0; SECTOR];
            let length = self.current.len();
            let range = (sector * SECTOR).min(length)..((sector + 1) * SECTOR).min(length);
            version[..range.len()].copy_from_slice(&self.current[range]);
            self.unsynced.entry(sector).or_default().push(version);
        }
    }

    pub fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty() || !self.lengths.is_empty()
    }

    /// What a power cut now could leave.
    pub fn image(&self, random: &mut impl Rng) -> Vec<u8> {
        let mut image = self.durable.clone();
        let choice = random.random_range(0..=self.lengths.len());
        if choice > 0 {
            image.resize(self.lengths[choice - 1], 0);
        }
        // Now and then everything, or nothing, or most of it is kept.
        let kept = [0.0, 0.05, 0.5, 0.95, 1.0][random.random_range(0..5)];
        for (sector, versions) in &self.unsynced {
            if !random.random_bool(kept) {
                continue;
            }
            let latest = random.random_bool(0.7);
            let version =
                if latest { versions.len() - 1 } else { random.random_range(0..versions.len()) };
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(image.len());
            if range.start < range.end {
                image[range.clone()].copy_from_slice(&versions[version][..range.len()]);
            }
        }
        image
    }
}

#[derive(Default)]
struct Inner {
    content: Content,
    faults: Faults,
    hook: Option<Hook>,
}

/// A file on such a disk. Clones are the same file.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Inner>>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    pub fn holding(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.0.lock().unwrap().content = Content::holding(bytes);
        disk
    }

    /// The only file there is, whatever its path.
    pub fn backends(&self) -> Backends {
        let disk = self.clone();
        Arc::new(move |_: &Path| Ok(Box::new(disk.clone()) as Box<dyn StorageBackend>))
    }

    pub fn on_sync(&self, hook: Option<Hook>) {
        self.0.lock().unwrap().hook = hook;
    }

    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().unwrap().faults = faults;
    }

    pub fn with_content<T>(&self, look: impl FnOnce(&Content) -> T) -> T {
        look(&self.0.lock().unwrap().content)
    }

    /// What the kernel still has when the process dies.
    pub fn current(&self) -> Vec<u8> {
        self.with_content(|content| content.current.clone())
    }

    fn change(&self, is_sync: bool, change: impl FnOnce(&mut Inner)) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        let faults = &mut inner.faults;
        if let Some(left) = &mut faults.operations_left
            && (is_sync || !faults.only_syncs)
        {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => return Err(faults.kind.unwrap_or(io::ErrorKind::Other).into()),
            }
        }
        change(&mut inner);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().content.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.0.lock().unwrap();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let bytes = inner.content.current.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(false, |inner| {
            let content = &mut inner.content;
            let (before, after) = (content.current.len(), len as usize);
            content.current.resize(after, 0);
            content.lengths.push(after);
            // Versions beyond the end must not come back if the file grows again.
            if after < before {
                content.note(after, before.min(content.durable.len()).max(after));
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(true, |inner| {
            if let Some(hook) = &mut inner.hook {
                hook(&inner.content);
            }
            if !inner.faults.sync_lies {
                inner.content.sync();
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(false, |inner| {
            let (start, content) = (offset as usize, &mut inner.content);
            let end = start + data.len();
            if content.current.len() < end {
                content.current.resize(end, 0);
                content.lengths.push(end);
            }
            content.current[start..end].copy_from_slice(data);
            content.note(start, end);
        })
    }
}
