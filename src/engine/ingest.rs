//! From a source into the store: spans of the volume are read, hashed, looked up and compressed by several threads; the
//! calling thread puts the results back in order and stores them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::EngineError;
use crate::source::{Buffer, Source};
use crate::store::codec::{self, Base, Encoder};
use crate::store::format::{Address, CHUNK_SIZE, Encoding, Hash, ZERO_HASH};
use crate::store::{Home, Ingest, Same, Sealed, Step, Store, StoreError, Writer};

/// Bytes read at once. Larger reads are not faster, smaller ones cost more time in the kernel.
const SPAN: u64 = 1 << 20;
/// Spans handed out and not yet stored. While a transaction is committed the workers go on with what was handed out.
const AHEAD: usize = 64;
/// Of what the file system says to be unchanged, one span in so many is read all the same.
const AUDITED: u64 = 100;
/// How far the threads that read, hash and compress stand back (nice(2); on Linux it counts for the calling thread alone).
const NICENESS: i32 = 10;
const CHUNK: u64 = CHUNK_SIZE as u64;

/// How far a job is. Written by the job, read by whoever wants to know.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the volumes.
    pub total: AtomicU64,
    /// Bytes done, holes included.
    pub read: AtomicU64,
    /// Of these, bytes that were not in the store before.
    pub new: AtomicU64,
    /// Bytes added to the store, after compression.
    pub stored: AtomicU64,
}

/// A volume whose bytes are all stored. Keep it until the transaction with its [`Ingested::commit`] is committed.
pub struct Ingested {
    sealed: Sealed,
    /// The file was written to while it was read: what is stored may be a mixture of several moments.
    pub modified: bool,
}

impl Ingested {
    /// Inserts the volume map within the caller's transaction and returns its id.
    pub fn commit(&self, tx: &rusqlite::Transaction) -> Result<i64, StoreError> {
        self.sealed.commit(tx)
    }

    /// Bytes of the volume.
    pub fn size(&self) -> u64 {
        self.sealed.size
    }

    pub fn chunk_size(&self) -> u32 {
        self.sealed.chunk_size
    }

    /// The ids of its segments; 0 for zeros.
    pub fn segments(&self) -> &[i64] {
        &self.sealed.segments
    }

    /// The hash that names its content.
    pub fn hash(&self) -> Hash {
        self.sealed.hash
    }

    /// Chunks added to the store.
    #[cfg(test)]
    pub fn added(&self) -> u64 {
        self.sealed.added
    }

    /// Bytes added to the store.
    pub fn stored(&self) -> u64 {
        self.sealed.stored
    }

    /// Objects of data that it has added: packs in a repository, chunks in the coffer.
    pub fn objects(&self) -> u64 {
        match self.sealed.repository() {
            0 => self.sealed.added,
            _ => self.sealed.packs,
        }
    }
}

/// What is known of a volume before it is read.
#[derive(Debug, Default)]
pub struct Known {
    /// The map of an earlier version of it.
    pub previous: Option<i64>,
    /// All ranges in which it differs from that, ascending; None if everything may.
    pub changed: Option<Vec<Range<u64>>>,
}

/// Takes a volume in, to be stored at `home`, with this many threads beside the calling one. On failure nothing of it can be seen, and what was stored
/// already is found again by the next try, or removed by the next garbage collection.
pub fn ingest(
    store: &Store,
    home: Home,
    source: &Source,
    known: &Known,
    workers: usize,
    progress: &Progress,
    cancel: &AtomicBool,
) -> Result<Ingested, EngineError> {
    let ingest = store.begin(home, known.previous)?;
    let finished = std::thread::scope(|scope| {
        let (work, to_do) = bounded::<Work>(AHEAD);
        let (finished, done) = bounded::<Result<Done, EngineError>>(AHEAD);
        for _ in 0..workers.max(1) {
            let (to_do, finished, ingest) = (to_do.clone(), finished.clone(), &ingest);
            scope.spawn(move || Worker::run(source, ingest, to_do, finished));
        }
        drop((to_do, finished));
        Intake { source, changed: known.changed.as_deref(), writer: ingest.writer(), chunk: 0, progress, cancel }.run(work, done)
    })?;
    let modified = source.check().map_err(EngineError::Source)?;
    Ok(Ingested { sealed: ingest.seal(finished), modified })
}

/// The same for a volume that is stored already, by its map: what the other place has not is stored there.
pub fn transfer(
    store: &Store,
    home: Home,
    map_id: i64,
    workers: usize,
    progress: &Progress,
    cancel: &AtomicBool,
) -> Result<Ingested, EngineError> {
    let count = |step: Step| {
        progress.read.fetch_add(step.read, Ordering::Relaxed);
        progress.new.fetch_add(step.new, Ordering::Relaxed);
        progress.stored.fetch_add(step.stored, Ordering::Relaxed);
    };
    Ok(Ingested { sealed: store.transfer(map_id, home, workers, &count, cancel)?, modified: false })
}

/// A span to be read.
struct Work {
    number: u64,
    range: Range<u64>,
    trust: Trust,
}

/// What is known of a span before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Nothing.
    Read,
    /// The file system says that it has not changed.
    Unchanged,
    /// It says so, and it is read all the same, to see whether that is true.
    Audit,
}

/// A span that was read.
struct Done {
    number: u64,
    range: Range<u64>,
    chunks: Vec<Chunk>,
}

enum Chunk {
    Zero,
    Known(Hash, Address),
    New { hash: Hash, raw: u32, encoding: Encoding, stored: Vec<u8> },
}

/// Tells the calling thread when a worker panics, or it would wait for ever for that worker's span.
struct Alarm<'a>(&'a Sender<Result<Done, EngineError>>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Err(EngineError::Cancelled)); // the panic itself follows when the threads are joined
        }
    }
}

/// One thread's tools.
struct Worker<'a> {
    source: &'a Source,
    ingest: &'a Ingest<'a>,
    buffer: Buffer,
    encoder: Encoder,
}

impl Worker<'_> {
    fn run(source: &Source, ingest: &Ingest, to_do: Receiver<Work>, finished: Sender<Result<Done, EngineError>>) {
        let _alarm = Alarm(&finished);
        // Hashing and compressing take every core there is; whoever asks something meanwhile goes first. The thread ends with the job.
        let _ = rustix::process::nice(NICENESS);
        let encoder = match Encoder::new() {
            Ok(encoder) => encoder,
            Err(e) => {
                let _ = finished.send(Err(StoreError::Codec(e).into()));
                return;
            }
        };
        let mut worker = Worker { source, ingest, buffer: Buffer::new(SPAN as usize), encoder };
        for work in to_do {
            // The receiver is gone only if the job has failed already.
            if finished.send(worker.process(work)).is_err() {
                return;
            }
        }
    }

    fn process(&mut self, work: Work) -> Result<Done, EngineError> {
        let Work { number, range, trust } = work;
        let chunks = match trust {
            Trust::Unchanged => self.same(&range)?,
            _ => None,
        };
        let chunks = match chunks {
            Some(chunks) => chunks,
            None => self.read(&range, trust == Trust::Audit)?,
        };
        Ok(Done { number, range, chunks })
    }

    /// The chunks as the previous version has them; None if one of them must be read.
    fn same(&self, range: &Range<u64>) -> Result<Option<Vec<Chunk>>, EngineError> {
        let mut chunks = Vec::with_capacity((SPAN / CHUNK) as usize);
        for chunk in numbers(range) {
            chunks.push(match self.ingest.same(chunk)? {
                Some(Same::Zero) => Chunk::Zero,
                Some(Same::Chunk(hash, address)) => Chunk::Known(hash, address),
                None => return Ok(None),
            });
        }
        Ok(Some(chunks))
    }

    fn read(&mut self, range: &Range<u64>, audit: bool) -> Result<Vec<Chunk>, EngineError> {
        let span = self.source.read(range.start, (range.end - range.start) as usize, &mut self.buffer).map_err(EngineError::Source)?;
        self.source.check_size().map_err(EngineError::Source)?;
        let mut chunks = Vec::with_capacity((SPAN / CHUNK) as usize);
        for (chunk, bytes) in numbers(range).zip(codec::chunks(span)) {
            let zero = codec::is_zero(bytes);
            let hash = if zero { ZERO_HASH } else { *blake3::hash(bytes).as_bytes() };
            if audit {
                confirm(self.ingest.same(chunk)?, hash, chunk * CHUNK)?;
            }
            if zero {
                chunks.push(Chunk::Zero);
                continue;
            }
            chunks.push(match self.ingest.find(chunk, &hash)? {
                Some(address) => Chunk::Known(hash, address),
                None => {
                    let base = self.ingest.base(chunk)?;
                    let base = base.as_ref().map(|base| Base { address: base.address, raw: &base.raw, stored: base.stored });
                    let (encoding, stored) = self.encoder.encode(bytes, base);
                    if let Some(base) = base {
                        self.ingest.judge(chunk, base.address, encoding);
                    }
                    Chunk::New { hash, raw: bytes.len() as u32, encoding, stored }
                }
            });
        }
        Ok(chunks)
    }
}

/// The numbers of the chunks in a range of a volume.
fn numbers(range: &Range<u64>) -> Range<u64> {
    range.start / CHUNK..range.end.div_ceil(CHUNK)
}

/// Fails if what was said to be the same is not.
fn confirm(same: Option<Same>, found: Hash, offset: u64) -> Result<(), EngineError> {
    match same {
        Some(Same::Zero) if found != ZERO_HASH => Err(EngineError::Unchanged { offset }),
        Some(Same::Chunk(hash, _)) if found != hash => Err(EngineError::Unchanged { offset }),
        _ => Ok(()),
    }
}

/// The calling thread's part: hands out spans, takes results, stores them in the order of the volume.
struct Intake<'a> {
    source: &'a Source,
    /// See [`Known::changed`].
    changed: Option<&'a [Range<u64>]>,
    writer: Writer<'a>,
    /// Number of the next chunk to be stored.
    chunk: u64,
    progress: &'a Progress,
    cancel: &'a AtomicBool,
}

impl Intake<'_> {
    fn run(mut self, work: Sender<Work>, done: Receiver<Result<Done, EngineError>>) -> Result<crate::store::Finished, EngineError> {
        let mut spans = Spans { source: self.source, at: 0, data: 0..0 };
        let mut auditor = Auditor::new(self.changed);
        let mut early = BTreeMap::new();
        let (mut given, mut stored) = (0, 0);
        let mut all_given = false;
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            while !all_given && given - stored < AHEAD as u64 {
                match spans.next()? {
                    Some(range) => {
                        // Fails only if all workers have ended, and then an error is waiting in `done`.
                        let trust = auditor.trust(&range);
                        let _ = work.send(Work { number: given, range, trust });
                        given += 1;
                    }
                    None => all_given = true,
                }
            }
            if stored == given {
                break;
            }
            let result = done.recv().map_err(|_| EngineError::Cancelled)??;
            early.insert(result.number, result);
            while let Some(next) = early.remove(&stored) {
                self.store(next)?;
                stored += 1;
            }
        }
        self.zeros_until(self.source.size())?;
        Ok(self.writer.finish(self.source.size())?)
    }

    fn store(&mut self, done: Done) -> Result<(), EngineError> {
        self.zeros_until(done.range.start)?;
        for chunk in done.chunks {
            match chunk {
                Chunk::Zero => self.writer.put_zeros(1)?,
                Chunk::Known(hash, address) => self.writer.put_known(hash, address)?,
                Chunk::New { hash, raw, encoding, stored } => {
                    let added = self.writer.put_new(hash, raw, encoding, stored)?;
                    if added > 0 {
                        self.progress.new.fetch_add(u64::from(raw), Ordering::Relaxed);
                        self.progress.stored.fetch_add(added, Ordering::Relaxed);
                    }
                }
            }
            self.chunk += 1;
        }
        self.progress.read.fetch_add(done.range.end - done.range.start, Ordering::Relaxed);
        Ok(())
    }

    /// Everything up to this offset is a hole.
    fn zeros_until(&mut self, offset: u64) -> Result<(), EngineError> {
        let end = offset.div_ceil(CHUNK);
        if end > self.chunk {
            self.progress.read.fetch_add(offset - self.chunk * CHUNK, Ordering::Relaxed);
            self.writer.put_zeros(end - self.chunk)?;
            self.chunk = end;
        }
        Ok(())
    }
}

/// Says what need not be read, and picks what is read all the same.
struct Auditor<'a> {
    /// What has changed and does not lie before the last span; None: everything may have.
    changed: Option<&'a [Range<u64>]>,
    random: u64,
}

impl<'a> Auditor<'a> {
    fn new(changed: Option<&'a [Range<u64>]>) -> Auditor<'a> {
        // Without a random number nothing can be audited, so nothing is trusted.
        let random = getrandom::u64().ok();
        Auditor { changed: changed.filter(|_| random.is_some()), random: random.unwrap_or_default() }
    }

    /// Spans come in ascending order.
    fn trust(&mut self, span: &Range<u64>) -> Trust {
        let Some(changed) = &mut self.changed else { return Trust::Read };
        *changed = &changed[changed.iter().take_while(|range| range.end <= span.start).count()..];
        if changed.first().is_some_and(|range| range.start < span.end) {
            return Trust::Read;
        }
        // Knuth's generator (MMIX): its high bits are random enough.
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if (self.random >> 33).is_multiple_of(AUDITED) { Trust::Audit } else { Trust::Unchanged }
    }
}

/// Cuts the data of a source into spans of whole chunks.
struct Spans<'a> {
    source: &'a Source,
    at: u64,
    /// The extent that is being cut, widened to whole chunks.
    data: Range<u64>,
}

impl Spans<'_> {
    fn next(&mut self) -> Result<Option<Range<u64>>, EngineError> {
        if self.at >= self.data.end {
            let Some(data) = self.source.next_data(self.at).map_err(EngineError::Source)? else {
                return Ok(None);
            };
            let start = (data.start / CHUNK * CHUNK).max(self.at);
            self.data = start..data.end.next_multiple_of(CHUNK).min(self.source.size());
            self.at = start;
        }
        let start = self.at;
        self.at = (start / SPAN * SPAN + SPAN).min(self.data.end);
        Ok(Some(start..self.at))
    }
}
