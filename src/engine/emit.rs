//! From the store to a target: what was verified is written, holes stay holes or are zeroed.

use std::sync::atomic::{AtomicBool, Ordering};

use super::EngineError;
use super::ingest::Progress;
use crate::source::{Buffer, SourceError, Target};
use crate::store::{Store, StoreError, codec};
use crate::store::read::{MapReader, Piece, ReadError};

/// Bytes of the smallest hole within data that is kept a hole: smaller ones cost more writes than they are worth.
const HOLE: usize = 64 << 10;

/// What is wrong with a backup whose volume map is not in the coffer.
pub const MAP_LOST: &str = "its volume map is missing";

/// Writes a stored volume to a target with this many threads, and returns when it is on the disk. `fresh`: the target is a
/// new file, all hole, so zeros need not be written. The first damaged chunk ends it; running it again is always possible.
pub fn emit(
    store: &Store,
    map_id: i64,
    target: &Target,
    fresh: bool,
    workers: usize,
    progress: &Progress,
    cancel: &AtomicBool,
) -> Result<(), EngineError> {
    let reader = MapReader::open(store, map_id).map_err(|e| match e {
        // It is the map of a backup that is there, so nobody has deleted it.
        ReadError::Store(StoreError::NoSuchMap(_)) => EngineError::Corrupt { offset: 0, reason: MAP_LOST.into() },
        e => e.into(),
    })?;
    if target.size() < reader.size() {
        let (path, found, needed) = (target.path().to_path_buf(), target.size(), reader.size());
        return Err(EngineError::Target(SourceError::TooSmall { path, found, needed }));
    }
    if let Some(corrupt) = reader.check_top()?.into_iter().next() {
        return Err(EngineError::Corrupt { offset: corrupt.offset, reason: corrupt.reason });
    }
    reader.for_each(workers, cancel, Buffer::new, |piece| {
        let done = match piece {
            Piece::Zeros { offset, length } => {
                if !fresh {
                    target.zero(offset, length).map_err(EngineError::Target)?;
                }
                length
            }
            Piece::Data { offset, bytes } => {
                write(target, fresh, offset, bytes).map_err(EngineError::Target)?;
                bytes.len() as u64
            }
            Piece::Bad(corrupt) => return Err(EngineError::Corrupt { offset: corrupt.offset, reason: corrupt.reason }),
        };
        progress.read.fetch_add(done, Ordering::Relaxed);
        Ok(())
    })?;
    target.sync().map_err(EngineError::Target)
}

/// Writes data; into a new file only what is not zero, so that it has about the holes that the volume had.
fn write(target: &Target, fresh: bool, offset: u64, bytes: &[u8]) -> Result<(), SourceError> {
    if !fresh {
        return target.write(offset, bytes);
    }
    let mut at = 0;
    for run in bytes.chunks(HOLE).collect::<Vec<_>>().chunk_by(|a, b| codec::is_zero(a) == codec::is_zero(b)) {
        let end = at + run.iter().map(|block| block.len()).sum::<usize>();
        if !codec::is_zero(run[0]) {
            target.write(offset + at as u64, &bytes[at..end])?;
        }
        at = end;
    }
    Ok(())
}
