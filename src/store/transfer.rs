//! From one place into another: a stored volume is stored once more, without its source. What the other place has of its chunks is
//! only listed; the rest is read, compared with its name, and stored as it is. Deltas are put together first, because their bases
//! need not be there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::codec::{Decoder, Encoder};
use super::format::{Address, Encoding, Hash, SEGMENT_CHUNKS};
use super::intake::{Finished, Home, Ingest, Sealed, Writer};
use super::read::{Corrupt, Fetched, MapReader, Plan, ReadError, WINDOW_BYTES, Wanted, What, damaged_base, fetch};
use super::{Store, StoreError};

/// Windows handed out and not yet stored.
const AHEAD: usize = 16;
/// How far the threads stand back (nice(2)): nobody waits for them as for a restore.
const NICENESS: i32 = 10;

/// What was done since the last call: bytes of the volume, those of them that were not there before, and what these take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Step {
    pub read: u64,
    pub new: u64,
    pub stored: u64,
}

impl Store {
    /// Stores a volume that is stored already at another place, with this many threads beside the calling one. The first damaged
    /// chunk that is not there yet ends it; what was stored until then is found again by the next try, unless a
    /// collection has taken it.
    pub fn transfer(
        &self,
        map_id: i64,
        home: Home,
        workers: usize,
        progress: &dyn Fn(Step),
        cancel: &AtomicBool,
    ) -> Result<Sealed, ReadError> {
        let reader = MapReader::open(self, map_id)?;
        if let Some(corrupt) = reader.check_top()?.into_iter().next() {
            return Err(ReadError::Corrupt(corrupt));
        }
        let ingest = self.begin(home, None)?;
        let finished = std::thread::scope(|scope| {
            let (work, to_do) = bounded::<Work>(AHEAD);
            let (finished, done) = bounded::<Result<Done, ReadError>>(AHEAD);
            for _ in 0..workers.max(1) {
                let (to_do, finished, reader, ingest) = (to_do.clone(), finished.clone(), &reader, &ingest);
                scope.spawn(move || Worker::run(self, reader, ingest, to_do, finished));
            }
            drop((to_do, finished));
            let writer = ingest.writer_of(reader.chunk_size() as u32);
            Intake { reader: &reader, writer, progress, cancel }.run(work, done)
        })?;
        Ok(ingest.seal(finished))
    }
}

/// A window to be looked at.
struct Work {
    number: u64,
    plan: Arc<Plan>,
    segment: usize,
    chunks: Range<usize>,
}

struct Done {
    number: u64,
    chunks: Vec<Chunk>,
}

enum Chunk {
    Zeros(u64),
    Known(Hash, Address),
    New { hash: Hash, raw: u32, encoding: Encoding, stored: Vec<u8> },
}

/// Tells the calling thread when a worker panics, or it would wait for ever for that worker's window.
struct Alarm<'a>(&'a Sender<Result<Done, ReadError>>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Err(StoreError::Cancelled.into())); // the panic itself follows when the threads are joined
        }
    }
}

/// One thread's tools.
struct Worker<'a> {
    store: &'a Store,
    reader: &'a MapReader<'a>,
    ingest: &'a Ingest<'a>,
    decoder: Decoder,
    encoder: Encoder,
    stored: Vec<u8>,
}

/// A chunk that the other place has not.
#[derive(Clone, Copy)]
struct Missing {
    /// Its number in the segment.
    chunk: usize,
    hash: Hash,
    address: Address,
}

impl<'a> Worker<'a> {
    fn run(
        store: &'a Store,
        reader: &'a MapReader<'a>,
        ingest: &'a Ingest<'a>,
        to_do: Receiver<Work>,
        finished: Sender<Result<Done, ReadError>>,
    ) {
        let _alarm = Alarm(&finished);
        let _ = rustix::process::nice(NICENESS);
        let tools = Decoder::new().and_then(|decoder| Ok((decoder, Encoder::new()?)));
        let (decoder, encoder) = match tools {
            Ok(tools) => tools,
            Err(e) => {
                let _ = finished.send(Err(StoreError::Codec(e).into()));
                return;
            }
        };
        let mut worker = Worker { store, reader, ingest, decoder, encoder, stored: Vec::new() };
        for work in to_do {
            let chunks = worker.window(&work);
            // The receiver is gone only if the work has failed already.
            if finished.send(chunks.map(|chunks| Done { number: work.number, chunks })).is_err() {
                return;
            }
        }
    }

    fn window(&mut self, work: &Work) -> Result<Vec<Chunk>, ReadError> {
        let mut chunks = Vec::with_capacity(work.chunks.len());
        let mut missing = Vec::new();
        for chunk in work.chunks.clone() {
            let Some((hash, address)) = work.plan.chunk(chunk) else { return Err(self.corrupt(work.segment, chunk, "it is not listed")) };
            if address.is_zero() {
                chunks.push(Some(Chunk::Zeros(1)));
                continue;
            }
            let number = (work.segment * SEGMENT_CHUNKS + chunk) as u64;
            let known = self.ingest.find(number, &hash)?.map(|address| Chunk::Known(hash, address));
            if known.is_none() {
                missing.push(Missing { chunk, hash, address });
            }
            chunks.push(known);
        }
        let mut faults = Vec::new();
        self.load(work, &missing, &mut chunks, &mut faults)?;
        if !faults.is_empty() {
            self.load_again(work, faults, &mut chunks)?;
        }
        Ok(chunks.into_iter().flatten().collect())
    }

    /// A later backup of the same data may have moved the segment to better chunks since it was read.
    fn load_again(&mut self, work: &Work, faults: Vec<(Missing, String)>, chunks: &mut [Option<Chunk>]) -> Result<(), ReadError> {
        let fresh = self.reader.plan(work.segment)?;
        let mut missing = Vec::new();
        let mut first = None;
        for (old, reason) in faults {
            match fresh.chunk(old.chunk) {
                Some((hash, address)) if address != old.address => missing.push(Missing { hash, address, ..old }),
                _ => _ = first.get_or_insert((old, reason)),
            }
        }
        let mut faults = Vec::new();
        self.load(work, &missing, chunks, &mut faults)?;
        match first.or_else(|| faults.into_iter().next()) {
            Some((bad, reason)) => Err(self.corrupt(work.segment, bad.chunk, &reason)),
            None => Ok(()),
        }
    }

    /// Reads chunks and puts them in their places; those that cannot be had are distrusted.
    fn load(
        &mut self,
        work: &Work,
        missing: &[Missing],
        chunks: &mut [Option<Chunk>],
        bad: &mut Vec<(Missing, String)>,
    ) -> Result<(), ReadError> {
        if missing.is_empty() {
            return Ok(());
        }
        let mut wanted: Vec<Wanted> = missing
            .iter()
            .enumerate()
            .map(|(place, m)| Wanted { place, address: m.address, what: What::Chunk { hash: m.hash, raw: self.length(work.segment, m.chunk) } })
            .collect();
        wanted.sort_unstable_by_key(|wanted| wanted.address);
        let mut stored = std::mem::take(&mut self.stored);
        stored.clear();
        let mut faults = vec![None; missing.len()];
        let Some(fetched) = self.store.db.read(|c| fetch(c, &wanted, &mut stored, &mut faults))? else {
            self.stored = stored;
            let (first, second) = missing.split_at(missing.len() / 2);
            self.load(work, first, chunks, bad)?;
            return self.load(work, second, chunks, bad);
        };
        let Fetched { found, bases, far } = fetched;
        self.store.bring(&far, &mut stored, &mut faults)?;
        let mut bases = bases.into_iter().map(|base| (base.place, base)).collect::<BTreeMap<_, _>>();
        for piece in found.iter().filter(|piece| faults[piece.place].is_none()).collect::<Vec<_>>() {
            let mut base = Vec::new();
            if let Encoding::Delta { .. } = piece.encoding {
                // If it could not be read, the fault is noted already.
                let Some(found) = bases.remove(&piece.place) else { continue };
                base.resize(found.raw, 0);
                if let Err(reason) = found.decode(&mut self.decoder, &stored, &[], &mut base) {
                    faults[piece.place] = Some(damaged_base(&reason));
                    self.store.distrust(&[(found.address, found.hash)]);
                    continue;
                }
            }
            let mut raw = vec![0; piece.raw];
            if let Err(reason) = piece.decode(&mut self.decoder, &stored, &base, &mut raw) {
                faults[piece.place] = Some(reason);
                continue;
            }
            let (encoding, bytes) = match piece.encoding {
                Encoding::Delta { .. } => self.encoder.encode(&raw, None),
                encoding => (encoding, stored[piece.stored.clone()].to_vec()),
            };
            let place = missing[piece.place].chunk - work.chunks.start;
            chunks[place] = Some(Chunk::New { hash: piece.hash, raw: raw.len() as u32, encoding, stored: bytes });
        }
        self.stored = stored;
        let faults: Vec<_> = missing.iter().zip(faults).filter_map(|(m, fault)| Some((*m, fault?))).collect();
        self.store.distrust(&faults.iter().map(|(m, _)| (m.address, m.hash)).collect::<Vec<_>>());
        bad.extend(faults);
        Ok(())
    }

    /// Bytes of a chunk.
    fn length(&self, segment: usize, chunk: usize) -> usize {
        let start = self.reader.segment_range(segment).start + (chunk * self.reader.chunk_size()) as u64;
        (self.reader.size() - start).min(self.reader.chunk_size() as u64) as usize
    }

    fn corrupt(&self, segment: usize, chunk: usize, reason: &str) -> ReadError {
        let offset = self.reader.segment_range(segment).start + (chunk * self.reader.chunk_size()) as u64;
        ReadError::Corrupt(Corrupt { offset, length: self.length(segment, chunk) as u64, reason: reason.to_string() })
    }
}

/// The calling thread's part: hands out windows, takes results, stores them in the order of the volume.
struct Intake<'a> {
    reader: &'a MapReader<'a>,
    writer: Writer<'a>,
    progress: &'a dyn Fn(Step),
    cancel: &'a AtomicBool,
}

impl Intake<'_> {
    fn run(mut self, work: Sender<Work>, done: Receiver<Result<Done, ReadError>>) -> Result<Finished, ReadError> {
        let mut windows = Windows { reader: self.reader, segment: 0, rest: None };
        let mut early = BTreeMap::new();
        let (mut given, mut stored) = (0, 0);
        let mut all_given = false;
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(StoreError::Cancelled.into());
            }
            while !all_given && given - stored < AHEAD as u64 {
                match windows.next()? {
                    Some(Window::Zeros(count)) => drop(early.insert(given, vec![Chunk::Zeros(count)])),
                    // Fails only if all workers have ended, and then an error is waiting in `done`.
                    Some(Window::Chunks { plan, segment, chunks }) => _ = work.send(Work { number: given, plan, segment, chunks }),
                    None => {
                        all_given = true;
                        continue;
                    }
                }
                given += 1;
            }
            while let Some(next) = early.remove(&stored) {
                self.store(next)?;
                stored += 1;
            }
            if stored < given {
                let result = done.recv().map_err(|_| StoreError::Cancelled)??;
                early.insert(result.number, result.chunks);
            } else if all_given {
                return Ok(self.writer.finish(self.reader.size())?);
            }
        }
    }

    fn store(&mut self, chunks: Vec<Chunk>) -> Result<(), StoreError> {
        let mut step = Step::default();
        let before = self.writer.bytes();
        for chunk in chunks {
            match chunk {
                Chunk::Zeros(count) => self.writer.put_zeros(count)?,
                Chunk::Known(hash, address) => self.writer.put_known(hash, address)?,
                Chunk::New { hash, raw, encoding, stored } => {
                    let added = self.writer.put_new(hash, raw, encoding, stored)?;
                    if added > 0 {
                        step.new += u64::from(raw);
                        step.stored += added;
                    }
                }
            }
        }
        step.read = self.writer.bytes().min(self.reader.size()) - before.min(self.reader.size());
        (self.progress)(step);
        Ok(())
    }
}

enum Window {
    /// So many chunks of zeros.
    Zeros(u64),
    Chunks { plan: Arc<Plan>, segment: usize, chunks: Range<usize> },
}

/// Cuts a stored volume into windows.
struct Windows<'a> {
    reader: &'a MapReader<'a>,
    segment: usize,
    /// What is left of this segment.
    rest: Option<(Arc<Plan>, Range<usize>)>,
}

impl Windows<'_> {
    fn next(&mut self) -> Result<Option<Window>, ReadError> {
        let Some(id) = self.reader.segments().get(self.segment) else { return Ok(None) };
        let segment = self.segment;
        let range = self.reader.segment_range(segment);
        let count = (range.end - range.start).div_ceil(self.reader.chunk_size() as u64);
        if *id == 0 {
            self.segment += 1;
            return Ok(Some(Window::Zeros(count)));
        }
        let (plan, chunks) = match self.rest.take() {
            Some(rest) => rest,
            None => {
                let plan = self.reader.plan(segment)?;
                if let Some(fault) = plan.fault() {
                    return Err(ReadError::Corrupt(self.reader.bad_segment(segment, fault)));
                }
                (Arc::new(plan), 0..count as usize)
            }
        };
        let end = (chunks.start + WINDOW_BYTES / self.reader.chunk_size()).min(chunks.end);
        if end < chunks.end {
            self.rest = Some((plan.clone(), end..chunks.end));
        } else {
            self.segment += 1;
        }
        Ok(Some(Window::Chunks { plan, segment, chunks: chunks.start..end }))
    }
}

#[cfg(test)]
impl Store {
    /// A volume as a format with other chunks would have stored it.
    pub(crate) fn store_in_chunks_of<'a>(&'a self, ingest: Ingest<'a>, bytes: &[u8], chunk_size: u32) -> Sealed {
        let mut writer = ingest.writer_of(chunk_size);
        for chunk in bytes.chunks(chunk_size as usize) {
            writer.put_new(*blake3::hash(chunk).as_bytes(), chunk.len() as u32, Encoding::Raw, chunk.to_vec()).unwrap();
        }
        let finished = writer.finish(bytes.len() as u64).unwrap();
        ingest.seal(finished)
    }
}
