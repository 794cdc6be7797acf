//! The way to the disk.

use std::fmt::Debug;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;
use redb::backends::FileBackend;

/// Opens a file, new or there already, as what redb reads and writes. Tests put their own in its place.
pub type Backends = Arc<dyn Fn(&Path) -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// The real files.
pub fn files() -> Backends {
    Arc::new(|path| {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let backend = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(backend) as Box<dyn StorageBackend>)
    })
}

/// redb takes a backend by its type; this is the one type it gets.
///
/// It keeps back what is written until it is let through: opening a file repairs it where that is needed, and a file
/// that turns out to be beyond repair must stay as it was.
#[derive(Debug, Clone)]
pub struct AnyBackend(Arc<Shield>);

#[derive(Debug)]
struct Shield {
    file: Box<dyn StorageBackend>,
    /// Whether `held` has anything to say; so that reading costs no lock once the file is open.
    holding: AtomicBool,
    held: Mutex<Held>,
}

/// What was done to the file since it was opened, in order.
#[derive(Debug, Default)]
struct Held {
    length: u64,
    operations: Vec<Operation>,
}

#[derive(Debug)]
enum Operation {
    Write(u64, Vec<u8>),
    SetLength(u64),
    Sync,
}

impl AnyBackend {
    pub fn holding_back(file: Box<dyn StorageBackend>) -> io::Result<Self> {
        let held = Held { length: file.len()?, operations: Vec::new() };
        let holding = AtomicBool::new(true);
        Ok(Self(Arc::new(Shield { file, holding, held: Mutex::new(held) })))
    }

    /// Does to the file what was kept back, syncs included, and keeps nothing back from now on.
    pub fn let_through(&self) -> io::Result<()> {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        for operation in std::mem::take(&mut held.operations) {
            match operation {
                Operation::Write(offset, data) => self.0.file.write(offset, &data)?,
                Operation::SetLength(length) => self.0.file.set_len(length)?,
                Operation::Sync => self.0.file.sync_data()?,
            }
        }
        self.0.holding.store(false, Ordering::Release);
        Ok(())
    }

    /// What is held back; none if nothing is any more.
    fn held(&self) -> Option<MutexGuard<'_, Held>> {
        let held = || self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.holding.load(Ordering::Acquire).then(held)
    }
}

impl Held {
    /// Reads the file as it would be.
    fn read(&self, file: &dyn StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let on_disk = file.len()?.clamp(offset, end) - offset;
        let (there, beyond) = out.split_at_mut(on_disk as usize);
        file.read(offset, there)?;
        beyond.fill(0);
        for operation in &self.operations {
            match operation {
                Operation::Write(at, data) => {
                    let from = (*at).max(offset);
                    let to = (at + data.len() as u64).min(end);
                    if from < to {
                        let source = &data[(from - at) as usize..(to - at) as usize];
                        out[(from - offset) as usize..(to - offset) as usize]
                            .copy_from_slice(source);
                    }
                }
                Operation::SetLength(length) => {
                    let cut = (*length).clamp(offset, end) - offset;
                    out[cut as usize..].fill(0);
                }
                Operation::Sync => {}
            }
        }
        Ok(())
    }
}

impl StorageBackend for AnyBackend {
    fn len(&self) -> Result<u64, io::Error> {
        match self.held() {
            Some(held) => Ok(held.length),
            None => self.0.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        match self.held() {
            Some(held) => held.read(&*self.0.file, offset, out),
            None => self.0.file.read(offset, out),
        }
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        match self.held() {
            Some(mut held) => {
                held.length = len;
                held.operations.push(Operation::SetLength(len));
                Ok(())
            }
            None => self.0.file.set_len(len),
        }
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        match self.held() {
            Some(mut held) => {
                held.operations.push(Operation::Sync);
                Ok(())
            }
            None => self.0.file.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        match self.held() {
            Some(mut held) => {
                held.length = held.length.max(offset + data.len() as u64);
                held.operations.push(Operation::Write(offset, data.to_vec()));
                Ok(())
            }
            None => self.0.file.write(offset, data),
        }
    }

    fn close(&self) -> Result<(), io::Error> {
        self.0.file.close()
    }
}
