//! What a volume needs from its repository is brought before it is asked for: the windows of the volume are taken together in
//! batches, and threads bring the bytes of some batches at the same time, in few large ranges and none twice. So the line to
//! the repository is busy however long each request takes, and memory is bounded by the batches.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rusqlite::Connection;

use super::StoreError;
use super::format::Address;
use super::object::pack_head_bytes;
use super::read::{Plan, Run, Window};
use super::remote::Remote;
use super::toc::Stored;
use crate::objects::{ObjectError, Objects};

/// Bytes that a batch brings, about; a little more than two packs.
const BATCH_BYTES: usize = 16 << 20;
/// Windows of a batch, at most.
const BATCH_WINDOWS: usize = 64;
/// Batches that are being brought or read: enough for all connections, within bounds.
const FEWEST_BATCHES: usize = 4;
const MOST_BATCHES: usize = 16;
/// Bytes that are brought at once, about.
const PIECE_BYTES: usize = 8 << 20;
/// Of what is not needed, so much is brought rather than asked around.
const GAP: usize = 128 << 10;
/// How often who waits looks whether to go on waiting.
const LOOK: Duration = Duration::from_millis(200);

/// Where a chunk's stored bytes lie in an object.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Spot {
    object: Arc<str>,
    /// Bytes before the pack's own.
    head: usize,
    /// In the pack.
    from: usize,
    to: usize,
}

/// Where these chunks lie; None for what is not in an object, or cannot be told where.
pub(super) fn spots(c: &Connection, addresses: &[Address]) -> Result<Vec<Option<Spot>>, rusqlite::Error> {
    let mut order: Vec<usize> = (0..addresses.len()).filter(|at| !addresses[*at].is_zero()).collect();
    order.sort_unstable_by_key(|at| addresses[*at]);
    let mut spots = vec![None; addresses.len()];
    for group in order.chunk_by(|a, b| addresses[*a].pack() == addresses[*b].pack()) {
        let stored = Stored::load(c, addresses[group[0]].pack())?;
        let Some((stored, toc)) = stored.as_ref().and_then(|stored| Some((stored, stored.toc()?))) else { continue };
        let Some(object) = stored.object.as_deref().map(Arc::from) else { continue };
        for at in group {
            let Some(entry) = toc.entry(addresses[*at].slot()).filter(|entry| entry.encoding().is_some()) else { continue };
            let (from, to) = (entry.offset as usize, entry.offset as usize + entry.stored as usize);
            // A damaged entry: who reads the chunk says so.
            if to as u64 <= stored.stored && from < to {
                spots[*at] = Some(Spot { object: Arc::clone(&object), head: pack_head_bytes(toc.slots()), from, to });
            }
        }
    }
    Ok(spots)
}

/// Some windows and what they need.
pub(super) struct Batch {
    pieces: Vec<Piece>,
    /// Pieces that are not there yet.
    missing: AtomicUsize,
    /// Until everything is there.
    windows: Mutex<Vec<(Arc<Plan>, Range<usize>)>>,
    room: Arc<Room>,
}

/// A range of an object.
struct Piece {
    spot: Spot,
    /// Unset if the object is not what it should be: whoever needs it asks again, and is told.
    bytes: OnceLock<Vec<u8>>,
}

impl Batch {
    /// Copies a part of a pack, if it is here.
    pub fn copy(&self, object: &str, run: &Run, to: &mut [u8]) -> bool {
        let mut at = run.from;
        // A run may go on in the next piece.
        for piece in self.pieces.iter().filter(|piece| *piece.spot.object == *object) {
            let Some(bytes) = piece.bytes.get().filter(|_| (piece.spot.from..piece.spot.to).contains(&at)) else { continue };
            let end = run.to.min(piece.spot.to);
            to[at - run.from..end - run.from].copy_from_slice(&bytes[at - piece.spot.from..end - piece.spot.from]);
            at = end;
            if at == run.to {
                return true;
            }
        }
        false
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        *self.room.taken() -= 1;
        self.room.freed.notify_all();
    }
}

/// Batches that there are.
#[derive(Default)]
struct Room {
    taken: Mutex<usize>,
    freed: Condvar,
}

impl Room {
    fn taken(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there are at most so many; an error if that is not wanted any more.
    fn wait(&self, most: usize, cancel: &AtomicBool, stop: &AtomicBool) -> Result<MutexGuard<'_, usize>, StoreError> {
        let mut taken = self.taken();
        while *taken > most && !stop.load(Ordering::Relaxed) {
            if cancel.load(Ordering::Relaxed) {
                return Err(StoreError::Cancelled);
            }
            taken = self.freed.wait_timeout(taken, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(taken)
    }
}

/// Brings what the windows need that are handed in, and passes them on when it is there.
pub(super) struct Ahead<'a> {
    work: Sender<(Arc<Batch>, usize)>,
    ready: Sender<Window>,
    batches: usize,
    room: Arc<Room>,
    cancel: &'a AtomicBool,
    stop: &'a AtomicBool,
}

impl<'a> Ahead<'a> {
    /// Starts as many threads as the repository takes connections. They end when this is dropped and all is brought, or when
    /// `stop` is set; then nothing is brought any more, and what was handed in may be lost.
    pub fn start<'s>(
        scope: &'s std::thread::Scope<'s, '_>,
        remote: &'s Remote,
        ready: Sender<Window>,
        cancel: &'a AtomicBool,
        stop: &'a Arc<AtomicBool>,
        fail: impl Fn(StoreError) + Clone + Send + 's,
    ) -> Ahead<'a> {
        let (work, to_do) = crossbeam_channel::unbounded();
        for _ in 0..remote.connections {
            let (objects, to_do, ready, fail) = (remote.until(stop), to_do.clone(), ready.clone(), fail.clone());
            scope.spawn(move || {
                if let Err(error) = bring_all(&*objects, to_do, &ready) {
                    fail(remote.failed(error));
                }
            });
        }
        let batches = (remote.connections / 2 + 2).clamp(FEWEST_BATCHES, MOST_BATCHES);
        Ahead { work, ready, batches, room: Arc::default(), cancel, stop }
    }

    /// Takes windows of one segment, in their order. Waits while too much is under way.
    pub fn add(&self, plan: &Arc<Plan>, spots: &[Option<Spot>], windows: impl Iterator<Item = Range<usize>>) -> Result<(), StoreError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for window in windows {
            bytes += spots[window.clone()].iter().flatten().map(|spot| spot.to - spot.from).sum::<usize>();
            batch.push(window);
            if bytes >= BATCH_BYTES || batch.len() == BATCH_WINDOWS {
                self.begin(plan, spots, std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.begin(plan, spots, batch) }
    }

    fn begin(&self, plan: &Arc<Plan>, spots: &[Option<Spot>], windows: Vec<Range<usize>>) -> Result<(), StoreError> {
        let pieces = pieces(windows.iter().flat_map(|window| spots[window.clone()].iter().flatten()));
        *self.room.wait(self.batches - 1, self.cancel, self.stop)? += 1;
        let count = pieces.len();
        let windows = windows.into_iter().map(|window| (plan.clone(), window)).collect();
        let batch = Arc::new(Batch { pieces, missing: AtomicUsize::new(count), windows: Mutex::new(windows), room: self.room.clone() });
        if count == 0 {
            pass_on(&batch, &self.ready);
        }
        // There are no receivers any more only if all have failed, which is told already.
        (0..count).for_each(|piece| drop(self.work.send((batch.clone(), piece))));
        Ok(())
    }

    /// Waits until all that was handed in is read.
    pub fn finish(self) -> Result<(), StoreError> {
        self.room.wait(0, self.cancel, self.stop).map(drop)
    }
}

fn bring_all(objects: &dyn Objects, to_do: Receiver<(Arc<Batch>, usize)>, ready: &Sender<Window>) -> Result<(), ObjectError> {
    for (batch, number) in to_do {
        let Piece { spot, bytes } = &batch.pieces[number];
        let range = (spot.head + spot.from) as u64..(spot.head + spot.to) as u64;
        match objects.get(&spot.object, Some(range), spot.to - spot.from) {
            Ok(brought) => drop(bytes.set(brought)),
            Err(ObjectError::NotFound(_) | ObjectError::Short { .. }) => {}
            Err(error) => return Err(error),
        }
        if batch.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            pass_on(&batch, ready);
        }
    }
    Ok(())
}

fn pass_on(batch: &Arc<Batch>, ready: &Sender<Window>) {
    let windows = std::mem::take(&mut *batch.windows.lock().unwrap_or_else(PoisonError::into_inner));
    for (plan, chunks) in windows {
        // Nobody reads any more only if all have failed.
        let _ = ready.send(Window { plan, chunks, batch: Some(batch.clone()) });
    }
}

/// The ranges in which these are brought, those of one object by where they lie.
fn pieces<'s>(spots: impl Iterator<Item = &'s Spot>) -> Vec<Piece> {
    let mut order = HashMap::new();
    let mut objects: Vec<Vec<Spot>> = Vec::new();
    for spot in spots {
        let number = *order.entry(&spot.object).or_insert(objects.len());
        if number == objects.len() {
            objects.push(Vec::new());
        }
        objects[number].push(spot.clone());
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for mut spots in objects {
        spots.sort_unstable_by_key(|spot| (spot.from, spot.to));
        let first = pieces.len();
        for spot in spots {
            match pieces[first..].last_mut().map(|piece| &mut piece.spot) {
                Some(last) if spot.to <= last.to => {}
                Some(last) if spot.from <= last.to + GAP && last.to - last.from < PIECE_BYTES => last.to = spot.to,
                _ => pieces.push(Piece { spot, bytes: OnceLock::new() }),
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(spots: &[(&str, usize, usize)]) -> Vec<(String, usize, usize)> {
        let spots: Vec<Spot> = spots.iter().map(|(object, from, to)| Spot { object: Arc::from(*object), head: 0, from: *from, to: *to }).collect();
        pieces(spots.iter()).into_iter().map(|piece| (piece.spot.object.to_string(), piece.spot.from, piece.spot.to)).collect()
    }

    #[test]
    fn what_lies_together_is_brought_together() {
        let found = ranges(&[("b", 100, 200), ("a", 50, 60), ("b", 0, 100), ("b", 150, 180), ("a", 50, 60), ("b", 200 + GAP, 300 + GAP), ("a", 61 + GAP, 62 + GAP)]);
        assert_eq!(found, [("b".into(), 0, 300 + GAP), ("a".into(), 50, 60), ("a".into(), 61 + GAP, 62 + GAP)]);
        let large = ranges(&[("a", 0, PIECE_BYTES), ("a", PIECE_BYTES, PIECE_BYTES + 5)]);
        assert_eq!(large, [("a".into(), 0, PIECE_BYTES), ("a".into(), PIECE_BYTES, PIECE_BYTES + 5)]);
    }
}
