//! Sees to it that what was written to the WAL is on its way to the disk while the next transaction is made, so that the
//! checkpoint, which must wait until all of it is there, finds most of that done. Nothing relies on it, but where it fails nothing
//! else can be relied on either (sync.rs).

use std::fs::File;
use std::path::Path;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};

pub(super) struct Flusher {
    /// None when it ends, or if there is no flushing.
    wanted: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// The WAL keeps its inode as long as the writer is open. SQLite has no locks on it that closing a descriptor could drop;
    /// they are on the coffer and the shared memory.
    pub fn start(wal: &Path) -> Flusher {
        let (wanted, orders) = bounded(1);
        let started = File::open(wal).and_then(|wal| {
            std::thread::Builder::new().name("flush".into()).spawn(move || {
                for () in orders {
                    if let Err(e) = wal.sync_data() {
                        super::sync::end(&e.to_string());
                    }
                }
            })
        });
        match started {
            Ok(thread) => Flusher { wanted: Some(wanted), thread: Some(thread) },
            Err(_) => Flusher { wanted: None, thread: None },
        }
    }

    /// Does not wait; one that is under way and one more are enough.
    pub fn begin(&self) {
        if let Some(wanted) = &self.wanted {
            let _ = wanted.try_send(());
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
