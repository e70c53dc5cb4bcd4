//! Giving a volume back: windows of a few MiB are read in parallel, each in one short read transaction, and every level of
//! the volume's hash tree is computed again, so that a changed bit anywhere is found and never passed on.

use std::collections::HashMap;
use std::ops::{DerefMut, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::blob::Blob;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OptionalExtension};

use super::ahead::{self, Ahead, Batch};
use super::codec::Decoder;
use super::format::{self, Address, Encoding, Entry, Hash, SEGMENT_CHUNKS, ZERO_HASH};
use super::state::Lease;
use super::toc::Stored;
use super::{Store, StoreError};

/// Bytes of the volume that are read at once.
pub(super) const WINDOW_BYTES: usize = 4 << 20;
/// Bytes of a chunk, at most.
pub const LARGEST_CHUNK: usize = WINDOW_BYTES;
/// Stored bytes that are read at once. A window of our own making takes half of it, but a base may be many times as large as what
/// is made from it, and a pack may name the same bytes again and again.
const MOST_AT_ONCE: usize = 4 * LARGEST_CHUNK;
/// Segment names looked up in one transaction.
const NAMES_AT_ONCE: usize = 256;

/// A part of a volume that cannot be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    /// Where it begins in the volume.
    pub offset: u64,
    pub length: u64,
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{} bytes at offset {} are damaged in the coffer: {}", .0.length, .0.offset, .0.reason)]
    Corrupt(Corrupt),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> ReadError {
        ReadError::Store(error.into())
    }
}

/// What [`MapReader::for_each`] hands out. Pieces come in no particular order and do not overlap.
pub enum Piece<'a> {
    Zeros {
        offset: u64,
        length: u64,
    },
    /// Verified bytes.
    Data {
        offset: u64,
        bytes: &'a [u8],
    },
    Bad(Corrupt),
}

/// A stored volume opened for reading; safe from garbage collection until dropped.
pub struct MapReader<'a> {
    store: &'a Store,
    size: u64,
    chunk_size: usize,
    hash: Vec<u8>,
    segments: Vec<i64>,
    repository: i64,
    _lease: Lease,
}

/// The chunks of one segment.
pub(super) struct Plan {
    /// Its number in the volume.
    segment: usize,
    addresses: Vec<Address>,
    hashes: Vec<Hash>,
    /// Why it cannot be what it was when it was stored.
    fault: Option<String>,
}

impl Plan {
    /// Why it cannot be what it was when it was stored.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Name and place of a chunk, by its number in the segment; None if there is none or the segment is not what it was.
    pub(super) fn chunk(&self, number: usize) -> Option<(Hash, Address)> {
        let place = self.hashes.get(number).copied().zip(self.addresses.get(number).copied());
        place.filter(|_| self.fault.is_none())
    }
}

/// Some consecutive chunks of a segment.
pub(super) struct Window {
    pub plan: Arc<Plan>,
    pub chunks: Range<usize>,
    /// What was brought for it from a repository.
    pub batch: Option<Arc<Batch>>,
}

/// How windows come to who reads them.
enum Way<'a> {
    Here(crossbeam_channel::Sender<Window>),
    /// What they need is brought first.
    Far(Ahead<'a>),
}

/// One thread's tools.
struct Tools<B> {
    decoder: Decoder,
    stored: Vec<u8>,
    /// Raw bytes of the base of a delta.
    base: Vec<u8>,
    raw: B,
}

impl<'a> MapReader<'a> {
    pub fn open(store: &'a Store, map_id: i64) -> Result<MapReader<'a>, ReadError> {
        let row = store.db.read(|c| {
            c.prepare_cached("SELECT hash, size, chunk_size, segments, repository FROM volume_map WHERE id = ?1")?
                .query_row([map_id], |row| {
                    let size = row.get::<_, i64>(1)? as u64;
                    Ok((row.get::<_, Vec<u8>>(0)?, size, row.get::<_, i64>(2)?, row.get::<_, Vec<u8>>(3)?, row.get::<_, i64>(4)?))
                })
                .optional()
        })?;
        let (hash, size, chunk_size, segments, repository) = row.ok_or(StoreError::NoSuchMap(map_id))?;
        let damaged = |reason: &str| ReadError::Corrupt(Corrupt { offset: 0, length: size, reason: reason.to_string() });
        let chunk_size = usize::try_from(chunk_size)
            .ok()
            .filter(|n| n.is_power_of_two() && (4096..=LARGEST_CHUNK).contains(n))
            .ok_or_else(|| damaged("the volume map has an impossible chunk size"))?;
        let segments = format::segments_from_bytes(&segments)
            .filter(|ids| ids.len() as u64 == size.div_ceil((chunk_size * SEGMENT_CHUNKS) as u64))
            .ok_or_else(|| damaged("the volume map does not fit the size of the volume"))?;
        let lease = Lease::new(&store.state);
        lease.hold_segments(segments.iter().copied());
        // Only if the map is still there was it there when its segments began to be held.
        if !store.db.read(|c| c.prepare_cached("SELECT 1 FROM volume_map WHERE id = ?1")?.exists([map_id]))? {
            return Err(StoreError::NoSuchMap(map_id).into());
        }
        Ok(MapReader { store, size, chunk_size, hash, segments, repository, _lease: lease })
    }

    /// Bytes of the volume.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Chunks of the volume.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(self.chunk_size as u64)
    }

    /// Where its bytes lie: 0 in the coffer.
    pub fn repository(&self) -> i64 {
        self.repository
    }

    pub(super) fn chunk_size(&self) -> usize {
        self.chunk_size
    }

    /// The ids of the segments; 0 for zeros.
    pub(super) fn segments(&self) -> &[i64] {
        &self.segments
    }

    /// Verifies the top of the tree: all segments are there and make the name of the volume's content.
    pub fn check_top(&self) -> Result<Vec<Corrupt>, StoreError> {
        let mut hashes = Vec::with_capacity(self.segments.len());
        let mut corrupt = Vec::new();
        for ids in self.segments.chunks(NAMES_AT_ONCE) {
            let first = hashes.len();
            let names = self.store.db.read(|c| ids.iter().map(|id| segment_name(c, *id)).collect::<Result<Vec<_>, _>>())?;
            for (at, name) in names.into_iter().enumerate() {
                if name.is_none() {
                    corrupt.push(self.bad_segment(first + at, "its segment is missing"));
                }
                hashes.push(name.unwrap_or(ZERO_HASH));
            }
        }
        if corrupt.is_empty() && format::map_hash(self.size, self.chunk_size as u32, &hashes)[..] != self.hash {
            // One of the segments' names may be to blame.
            for segment in (0..self.segments.len()).filter(|segment| self.segments[*segment] != 0) {
                if let Some(fault) = self.plan(segment)?.fault {
                    corrupt.push(self.bad_segment(segment, &fault));
                }
            }
            if corrupt.is_empty() {
                corrupt.push(Corrupt { offset: 0, length: self.size, reason: "the volume map does not match its hash".to_string() });
            }
        }
        Ok(corrupt)
    }

    /// Reads and verifies the whole volume with this many threads and hands it out piece by piece. `buffer` makes a thread's
    /// memory of the given size; data pieces begin at a multiple of the chunk size in it. The first error stops all.
    pub fn for_each<B, E>(
        &self,
        workers: usize,
        cancel: &AtomicBool,
        buffer: impl Fn(usize) -> B + Sync,
        visit: impl Fn(Piece) -> Result<(), E> + Sync,
    ) -> Result<(), E>
    where
        B: DerefMut<Target = [u8]>,
        E: From<StoreError> + Send,
    {
        let remote = match self.repository {
            0 => None,
            repository => Some(self.store.remote(repository)?),
        };
        let failure = Mutex::new(None);
        let stop = Arc::new(AtomicBool::new(false));
        let fail = |error: E| {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            stop.store(true, Ordering::Relaxed);
        };
        // What is brought is bounded by its batches, and who brings it does not wait for who reads it.
        let (sender, receiver) = if remote.is_some() { crossbeam_channel::unbounded() } else { crossbeam_channel::bounded(workers * 2) };
        std::thread::scope(|scope| {
            for _ in 0..workers.max(1) {
                let receiver = receiver.clone();
                let (buffer, visit, fail, stop) = (&buffer, &visit, &fail, &stop);
                scope.spawn(move || {
                    let mut tools = match Tools::new(buffer(WINDOW_BYTES)) {
                        Ok(tools) => tools,
                        Err(e) => return fail(e.into()),
                    };
                    for window in receiver {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        // What was handed out before may still take long on a slow target.
                        if cancel.load(Ordering::Relaxed) {
                            return fail(StoreError::Cancelled.into());
                        }
                        if let Err(e) = self.window(&window, &mut tools, visit) {
                            return fail(e);
                        }
                    }
                });
            }
            drop(receiver);
            let fail = &fail;
            let way = match &remote {
                Some(remote) => Way::Far(Ahead::start(scope, remote, sender, cancel, &stop, |error| fail(error.into()))),
                None => Way::Here(sender),
            };
            let sent = self.send_windows(way, cancel, &stop, &buffer, &visit);
            sent.unwrap_or_else(fail);
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn send_windows<B, E>(
        &self,
        way: Way,
        cancel: &AtomicBool,
        stop: &AtomicBool,
        buffer: &impl Fn(usize) -> B,
        visit: &impl Fn(Piece) -> Result<(), E>,
    ) -> Result<(), E>
    where
        B: DerefMut<Target = [u8]>,
        E: From<StoreError>,
    {
        for segment in 0..self.segments.len() {
            if cancel.load(Ordering::Relaxed) {
                return Err(StoreError::Cancelled.into());
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let range = self.segment_range(segment);
            if self.segments[segment] == 0 {
                visit(Piece::Zeros { offset: range.start, length: range.end - range.start })?;
                continue;
            }
            let plan = Arc::new(self.plan(segment)?);
            if plan.fault.is_some() {
                self.locate_fault(&plan, buffer(WINDOW_BYTES), visit)?;
                continue;
            }
            let windows = self.windows(&plan);
            let sender = match &way {
                Way::Here(sender) => sender,
                Way::Far(ahead) => {
                    let spots = self.store.db.read(|c| Ok::<_, StoreError>(ahead::spots(c, &plan.addresses)?))?;
                    ahead.add(&plan, &spots, windows)?;
                    continue;
                }
            };
            for chunks in windows {
                if cancel.load(Ordering::Relaxed) {
                    return Err(StoreError::Cancelled.into());
                }
                if stop.load(Ordering::Relaxed) || sender.send(Window { plan: plan.clone(), chunks, batch: None }).is_err() {
                    return Ok(());
                }
            }
        }
        match way {
            Way::Here(_) => Ok(()),
            Way::Far(ahead) => Ok(ahead.finish()?),
        }
    }

    /// A segment is not what it was: finds the chunks that are to blame, or else reports it as a whole.
    fn locate_fault<B, E>(&self, plan: &Arc<Plan>, raw: B, visit: &impl Fn(Piece) -> Result<(), E>) -> Result<(), E>
    where
        B: DerefMut<Target = [u8]>,
        E: From<StoreError>,
    {
        let mut tools = Tools::new(raw)?;
        let found = std::cell::Cell::new(false);
        for chunks in self.windows(plan) {
            self.window(&Window { plan: plan.clone(), chunks, batch: None }, &mut tools, &|piece: Piece| match piece {
                Piece::Bad(corrupt) => {
                    found.set(true);
                    visit(Piece::Bad(corrupt))
                }
                _ => Ok(()),
            })?;
        }
        match &plan.fault {
            Some(fault) if !found.get() => visit(Piece::Bad(self.bad_segment(plan.segment, fault))),
            _ => Ok(()),
        }
    }

    /// The chunks of each window of a segment.
    fn windows(&self, plan: &Plan) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = WINDOW_BYTES / self.chunk_size;
        let chunks = plan.addresses.len();
        (0..chunks).step_by(step).map(move |at| at..(at + step).min(chunks))
    }

    /// The bytes of the volume in a segment.
    pub(super) fn segment_range(&self, segment: usize) -> Range<u64> {
        let bytes = (self.chunk_size * SEGMENT_CHUNKS) as u64;
        let start = segment as u64 * bytes;
        start..(start + bytes).min(self.size)
    }

    pub(super) fn bad_segment(&self, segment: usize, reason: &str) -> Corrupt {
        let range = self.segment_range(segment);
        Corrupt { offset: range.start, length: range.end - range.start, reason: reason.to_string() }
    }

    /// Loads a segment and the names of its chunks, and verifies that they make the segment's name.
    pub(super) fn plan(&self, segment: usize) -> Result<Plan, StoreError> {
        let range = self.segment_range(segment);
        let chunks = (range.end - range.start).div_ceil(self.chunk_size as u64) as usize;
        let broken = |fault: &str| Plan { segment, addresses: Vec::new(), hashes: Vec::new(), fault: Some(fault.to_string()) };
        let loaded = self.store.db.read(|c| {
            let row = c
                .prepare_cached("SELECT hash, format, chunks FROM segment WHERE id = ?1")?
                .query_row([self.segments[segment]], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?)))
                .optional()?;
            let Some((name, format, bytes)) = row else {
                return Ok::<_, rusqlite::Error>(None);
            };
            let addresses = format::addresses_from_bytes(format, &bytes).filter(|list| list.len() == chunks).unwrap_or_default();
            let hashes = names(c, &addresses)?;
            Ok(Some((name, addresses, hashes)))
        });
        let (name, addresses, hashes) = match loaded {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Ok(broken("its segment is missing")),
            Err(e) => return damage(e).map(|reason| broken(&reason)),
        };
        if addresses.is_empty() {
            return Ok(broken("its list of chunks is unreadable"));
        }
        let fault = (format::segment_hash(&hashes)[..] != name).then(|| "its list of chunks does not match its hash".to_string());
        Ok(Plan { segment, addresses, hashes, fault })
    }

    /// Reads a window and hands it out in as few pieces as possible.
    fn window<B, E>(&self, window: &Window, tools: &mut Tools<B>, visit: &impl Fn(Piece) -> Result<(), E>) -> Result<(), E>
    where
        B: DerefMut<Target = [u8]>,
        E: From<StoreError>,
    {
        let mut plan = &window.plan;
        let mut faults = self.fill(plan, &window.chunks, 0, window.batch.as_deref(), tools)?;
        if window.batch.is_some() && faults.iter().any(Option::is_some) {
            // It may have suffered on its way.
            faults = self.fill(plan, &window.chunks, 0, None, tools)?;
        }
        let fresh;
        if faults.iter().any(Option::is_some) {
            // A later backup of the same data may have moved the segment to better chunks.
            fresh = Arc::new(self.plan(plan.segment)?);
            if fresh.fault.is_none() && fresh.addresses != plan.addresses {
                plan = &fresh;
                faults = self.fill(plan, &window.chunks, 0, None, tools)?;
            }
            self.distrust(plan, window.chunks.start, &faults);
        }
        let start = self.segment_range(plan.segment).start + (window.chunks.start * self.chunk_size) as u64;
        let mut at = 0;
        while at < faults.len() {
            let chunk = |at: usize| (plan.addresses[window.chunks.start + at].is_zero(), faults[at].as_ref());
            let first = chunk(at);
            let end = (at + 1..faults.len()).find(|next| chunk(*next) != first).unwrap_or(faults.len());
            let offset = start + (at * self.chunk_size) as u64;
            let length = ((end - at) * self.chunk_size).min((self.size - offset) as usize);
            visit(match first {
                (_, Some(reason)) => Piece::Bad(Corrupt { offset, length: length as u64, reason: reason.clone() }),
                (true, None) => Piece::Zeros { offset, length: length as u64 },
                (false, None) => Piece::Data { offset, bytes: &tools.raw[at * self.chunk_size..][..length] },
            })?;
            at = end;
        }
        Ok(())
    }

    /// Reads, decodes and verifies chunks of a segment into the buffer, the first one to place `at`. Returns for each what is wrong
    /// with it.
    fn fill<B>(
        &self,
        plan: &Plan,
        chunks: &Range<usize>,
        at: usize,
        batch: Option<&Batch>,
        tools: &mut Tools<B>,
    ) -> Result<Vec<Option<String>>, StoreError>
    where
        B: DerefMut<Target = [u8]>,
    {
        let base = self.segment_range(plan.segment).start;
        let length = |chunk: usize| (self.size - base - (chunk * self.chunk_size) as u64).min(self.chunk_size as u64) as usize;
        let mut faults = vec![None; chunks.len()];
        let mut wanted: Vec<Wanted> = chunks
            .clone()
            .filter(|chunk| !plan.addresses[*chunk].is_zero())
            .map(|chunk| Wanted {
                place: chunk - chunks.start,
                address: plan.addresses[chunk],
                what: What::Chunk { hash: plan.hashes[chunk], raw: length(chunk) },
            })
            .collect();
        wanted.sort_unstable_by_key(|wanted| wanted.address);
        tools.stored.clear();
        let Some(fetched) = self.store.db.read(|c| fetch(c, &wanted, &mut tools.stored, &mut faults))? else {
            let half = chunks.start + chunks.len() / 2;
            let mut faults = self.fill(plan, &(chunks.start..half), at, batch, tools)?;
            faults.extend(self.fill(plan, &(half..chunks.end), at + half - chunks.start, batch, tools)?);
            return Ok(faults);
        };
        let Fetched { found, bases, far } = fetched;
        self.store.bring_rest(&far, batch, &mut tools.stored, &mut faults)?;
        let mut bases = bases.into_iter().map(|base| (base.place, base)).collect::<HashMap<_, _>>();
        for piece in found {
            if faults[piece.place].is_some() {
                continue;
            }
            let raw = &mut tools.raw[(at + piece.place) * self.chunk_size..][..piece.raw];
            tools.base.clear();
            if let Encoding::Delta { .. } = piece.encoding {
                // If it could not be read, the fault is noted already.
                let Some(base) = bases.remove(&piece.place) else { continue };
                tools.base.resize(base.raw, 0);
                if let Err(reason) = base.decode(&mut tools.decoder, &tools.stored, &[], &mut tools.base) {
                    faults[piece.place] = Some(damaged_base(&reason));
                    self.store.distrust(&[(base.address, base.hash)]);
                    continue;
                }
            }
            faults[piece.place] = piece.decode(&mut tools.decoder, &tools.stored, &tools.base, raw).err();
        }
        Ok(faults)
    }

    /// Sees to it that no later backup shares the chunks that were found damaged.
    fn distrust(&self, plan: &Plan, first: usize, faults: &[Option<String>]) {
        let bad = faults.iter().enumerate().filter(|(_, fault)| fault.is_some()).map(|(at, _)| first + at);
        let chunks: Vec<_> = bad.map(|chunk| (plan.addresses[chunk], plan.hashes[chunk])).collect();
        self.store.distrust(&chunks);
    }
}

impl<B> Tools<B> {
    fn new(raw: B) -> Result<Tools<B>, StoreError> {
        Ok(Tools { decoder: Decoder::new().map_err(StoreError::Codec)?, stored: Vec::new(), base: Vec::new(), raw })
    }
}

/// A chunk that is stored whole, and what it takes in the store.
pub struct FullChunk {
    pub address: Address,
    pub raw: Vec<u8>,
    pub stored: usize,
}

/// Reads and verifies a chunk of this name that is not a delta. None if it is not there or not whole; one that turns out to be
/// damaged is not shared by later backups.
pub(super) fn full_chunk(store: &Store, address: Address, hash: &Hash) -> Result<Option<FullChunk>, StoreError> {
    let (mut stored, mut faults) = (Vec::new(), [None]);
    let wanted = [Wanted { place: 0, address, what: What::Base }];
    let Fetched { found, far, .. } = store.db.read(|c| fetch(c, &wanted, &mut stored, &mut faults))?.unwrap_or_default();
    store.bring(&far, &mut stored, &mut faults)?;
    let found = found.into_iter().next().filter(|piece| piece.hash == *hash && faults[0].is_none());
    let Some(piece) = found else { return Ok(None) };
    let mut raw = vec![0; piece.raw];
    let mut decoder = Decoder::new().map_err(StoreError::Codec)?;
    match piece.decode(&mut decoder, &stored, &[], &mut raw) {
        Ok(()) => Ok(Some(FullChunk { address, raw, stored: piece.stored.len() })),
        Err(_) => {
            store.distrust(&[(address, piece.hash)]);
            Ok(None)
        }
    }
}

/// The chunk of this name at this address. None if it is not as it was stored: then later backups do not share it.
pub(super) fn whole_chunk(store: &Store, address: Address, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
    let (mut stored, mut faults) = (Vec::new(), [None]);
    let mut decoder = Decoder::new().map_err(StoreError::Codec)?;
    let Fetched { found, bases, far } = store.db.read(|c| {
        let raw = Stored::load(c, address.pack())?.and_then(|stored| Some(stored.toc()?.entry(address.slot())?.raw as usize));
        let raw = raw.unwrap_or_default().min(LARGEST_CHUNK);
        let wanted = [Wanted { place: 0, address, what: What::Chunk { hash: *hash, raw } }];
        Ok::<_, StoreError>(fetch(c, &wanted, &mut stored, &mut faults)?.unwrap_or_default())
    })?;
    store.bring(&far, &mut stored, &mut faults)?;
    let mut decode = |piece: &Found, base: &[u8]| {
        let mut raw = vec![0; piece.raw];
        piece.decode(&mut decoder, &stored, base, &mut raw).ok().map(|()| raw)
    };
    let whole = faults[0].is_none().then(|| {
        let base = bases.first().map_or(Some(Vec::new()), |base| decode(base, &[]))?;
        decode(found.first()?, &base)
    });
    let whole = whole.flatten();
    if whole.is_none() {
        store.distrust(&[(address, *hash)]);
    }
    Ok(whole)
}

/// A chunk to be read.
pub(super) struct Wanted {
    /// Its number in the window; for a base that of the chunk which needs it.
    pub place: usize,
    pub address: Address,
    pub what: What,
}

pub(super) enum What {
    /// The one that the segment lists, or the table of contents itself.
    Chunk { hash: Hash, raw: usize },
    /// Whatever a delta refers to; its content is right if the delta's is.
    Base,
}

/// A chunk whose stored bytes were read.
pub(super) struct Found {
    pub place: usize,
    pub address: Address,
    pub hash: Hash,
    pub encoding: Encoding,
    pub raw: usize,
    /// Where in the bytes read.
    pub stored: Range<usize>,
}

impl Found {
    /// Fills `raw` and verifies it; an error says what is wrong.
    pub fn decode(&self, decoder: &mut Decoder, stored: &[u8], base: &[u8], raw: &mut [u8]) -> Result<(), String> {
        decoder.decode(self.encoding, &stored[self.stored.clone()], base, raw)?;
        if *blake3::hash(raw).as_bytes() == self.hash { Ok(()) } else { Err("its bytes do not match its hash".to_string()) }
    }
}

/// What [`fetch`] has read.
#[derive(Default)]
pub(super) struct Fetched {
    pub found: Vec<Found>,
    /// The bases of deltas among them.
    pub bases: Vec<Found>,
    /// What is still to be brought before any of it is decoded: see [`Store::bring`].
    pub far: Vec<Far>,
}

/// Ranges of a pack that lies in an object, and where in the bytes read they belong.
pub(super) struct Far {
    pub repository: i64,
    pub pack: i64,
    pub object: String,
    pub slots: usize,
    pub runs: Vec<Run>,
    /// The chunks concerned, by their numbers in the window.
    pub places: Vec<usize>,
}

/// Reads the stored bytes of chunks, given by ascending address, and those of the bases of deltas among them. What cannot be
/// read gets a fault. None: all that is more than is read at once, so fewer are to be asked for; one never is.
pub(super) fn fetch(
    c: &Connection,
    wanted: &[Wanted],
    stored: &mut Vec<u8>,
    faults: &mut [Option<String>],
) -> Result<Option<Fetched>, StoreError> {
    let mut far = Vec::new();
    let Some(found) = fetch_packs(c, wanted, stored, faults, &mut far)? else { return Ok(None) };
    let mut bases: Vec<Wanted> = found
        .iter()
        .filter_map(|piece| match piece.encoding {
            Encoding::Delta { base } => Some(Wanted { place: piece.place, address: base, what: What::Base }),
            _ => None,
        })
        .collect();
    bases.sort_unstable_by_key(|base| base.address);
    Ok(fetch_packs(c, &bases, stored, faults, &mut far)?.map(|bases| Fetched { found, bases, far }))
}

/// Reads the stored bytes of chunks, given by ascending address, in as few reads as possible.
fn fetch_packs(
    c: &Connection,
    wanted: &[Wanted],
    stored: &mut Vec<u8>,
    faults: &mut [Option<String>],
    far: &mut Vec<Far>,
) -> Result<Option<Vec<Found>>, StoreError> {
    let mut found = Vec::with_capacity(wanted.len());
    for group in wanted.chunk_by(|a, b| a.address.pack() == b.address.pack()) {
        match fetch_pack(c, group, stored, faults, &mut found) {
            Ok(Reading::Here) => {}
            Ok(Reading::Far(there)) => far.push(there),
            Ok(Reading::TooMuch) => return Ok(None),
            Err(e) => {
                let reason = damage(e)?;
                found.retain(|piece: &Found| !group.iter().any(|wanted| wanted.place == piece.place));
                group.iter().for_each(|wanted| faults[wanted.place] = Some(reason.clone()));
            }
        }
    }
    Ok(Some(found))
}

/// How [`fetch_pack`] ended.
enum Reading {
    /// All is read, or has a fault.
    Here,
    /// The pack lies in an object: there is room for what is wanted, and it is to be brought.
    Far(Far),
    /// That is more than is read at once.
    TooMuch,
}

/// Reads what is wanted of one pack.
fn fetch_pack(
    c: &Connection,
    group: &[Wanted],
    stored: &mut Vec<u8>,
    faults: &mut [Option<String>],
    found: &mut Vec<Found>,
) -> Result<Reading, rusqlite::Error> {
    let pack = group[0].address.pack();
    let Some(toc) = Stored::load(c, pack)? else {
        group.iter().for_each(|wanted| faults[wanted.place] = Some(format!("pack {pack} has no table of contents")));
        return Ok(Reading::Here);
    };
    let data = if toc.object.is_some() { None } else { open_pack(c, pack)? };
    let length = match (&data, &toc.object) {
        (Some(data), _) => data.len(),
        (None, Some(_)) => toc.stored as usize,
        (None, None) => {
            group.iter().for_each(|wanted| faults[wanted.place] = Some(format!("pack {pack} is missing")));
            return Ok(Reading::Here);
        }
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut places = Vec::new();
    let mut end = stored.len();
    let mut before: Option<(Address, Range<usize>)> = None;
    for wanted in group {
        let entry = toc.toc().and_then(|toc| toc.entry(wanted.address.slot()));
        let (entry, encoding) = match plausible(entry, wanted, length) {
            Ok(entry) => entry,
            Err(reason) => {
                faults[wanted.place] = Some(reason);
                continue;
            }
        };
        let place = match &before {
            Some((address, place)) if *address == wanted.address => place.clone(),
            _ => {
                let (from, to) = (entry.offset as usize, (entry.offset + entry.stored) as usize);
                match runs.last_mut() {
                    Some(run) if run.to == from => run.to = to,
                    _ => runs.push(Run { from, to, at: end }),
                }
                let at = end;
                end += to - from;
                at..end
            }
        };
        before = Some((wanted.address, place.clone()));
        let (place_in_window, address) = (wanted.place, wanted.address);
        places.push(place_in_window);
        found.push(Found { place: place_in_window, address, hash: entry.hash, encoding, raw: entry.raw as usize, stored: place });
    }
    if end > MOST_AT_ONCE {
        return Ok(Reading::TooMuch);
    }
    stored.resize(end, 0);
    if let Some(data) = data {
        runs.iter().try_for_each(|run| data.read_at_exact(&mut stored[run.place()], run.from))?;
        return Ok(Reading::Here);
    }
    let slots = toc.toc().map_or(0, |toc| toc.slots());
    Ok(match toc.object {
        Some(object) => Reading::Far(Far { repository: toc.repository, pack, object, slots, runs, places }),
        None => Reading::Here,
    })
}

/// A range of a pack that is read at once, and where it goes.
pub(super) struct Run {
    pub from: usize,
    pub to: usize,
    at: usize,
}

impl Run {
    /// Where it goes.
    pub fn place(&self) -> Range<usize> {
        self.at..self.at + (self.to - self.from)
    }
}

/// The entry of a wanted chunk, if it can be what was stored.
fn plausible(entry: Option<Entry>, wanted: &Wanted, pack_bytes: usize) -> Result<(Entry, Encoding), String> {
    let place = format!("slot {} of pack {}", wanted.address.slot(), wanted.address.pack());
    let Some(entry) = entry else {
        return Err(format!("{place} does not exist"));
    };
    let Some(encoding) = entry.encoding() else {
        return Err(format!("{place} holds no chunk"));
    };
    let expected = match wanted.what {
        What::Chunk { hash, raw } => entry.hash == hash && entry.raw as usize == raw,
        What::Base => entry.base().is_none() && entry.raw as usize <= LARGEST_CHUNK,
    };
    let fits = expected
        && entry.stored <= entry.raw
        && entry.offset.checked_add(entry.stored).is_some_and(|end| end as usize <= pack_bytes);
    if fits { Ok((entry, encoding)) } else { Err(format!("the entry of {place} is damaged")) }
}

/// None if there is no such pack.
pub(super) fn open_pack(c: &Connection, pack: i64) -> Result<Option<Blob<'_>>, rusqlite::Error> {
    match c.blob_open(MAIN_DB, c"pack", c"data", pack, true) {
        Ok(data) => Ok(Some(data)),
        // What SQLite says about a row that does not exist.
        Err(e) if e.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_ERROR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The names of chunks by their packs' tables of contents; zeros for what cannot be found.
pub(super) fn names(c: &Connection, addresses: &[Address]) -> Result<Vec<Hash>, rusqlite::Error> {
    let mut order: Vec<usize> = (0..addresses.len()).filter(|at| !addresses[*at].is_zero()).collect();
    order.sort_unstable_by_key(|at| addresses[*at]);
    let mut names = vec![ZERO_HASH; addresses.len()];
    for group in order.chunk_by(|a, b| addresses[*a].pack() == addresses[*b].pack()) {
        let stored = Stored::load(c, addresses[group[0]].pack())?;
        let Some(toc) = stored.as_ref().and_then(Stored::toc) else { continue };
        for at in group {
            names[*at] = toc.entry(addresses[*at].slot()).map_or(ZERO_HASH, |entry| entry.hash);
        }
    }
    Ok(names)
}

/// The name of a segment; None if it does not exist.
fn segment_name(c: &Connection, id: i64) -> Result<Option<Hash>, rusqlite::Error> {
    if id == 0 {
        return Ok(Some(ZERO_HASH));
    }
    c.prepare_cached("SELECT hash FROM segment WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

/// What is wrong with a delta whose base is damaged.
pub(super) fn damaged_base(reason: &str) -> String {
    format!("the chunk that it is a delta to is damaged: {reason}")
}

/// Tells damage of what is stored, which concerns some chunks, from a failure of the database, which concerns all.
pub(super) fn damage(error: rusqlite::Error) -> Result<String, StoreError> {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure) | None => {
            Ok(format!("it cannot be read from the coffer: {error}"))
        }
        Some(_) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;
    use crate::store::Depth;
    use crate::store::codec::{Base, Encoder};

    /// Small chunks that are deltas to the largest bases there may be, all of which name the same bytes.
    fn made_up(db: &Db, chunks: usize) -> Vec<u8> {
        let mut base = vec![0; LARGEST_CHUNK];
        blake3::Hasher::new().finalize_xof().fill(&mut base);
        let of_base = Entry::new(*blake3::hash(&base).as_bytes(), 0, base.len() as u32, base.len() as u32, Encoding::Raw);
        let (mut data, mut entries, mut volume) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in 0..chunks {
            // From the end: of so large a base zstd has forgotten the beginning.
            let mut raw = base[base.len() - (chunk + 1) * 4096..][..4096].to_vec();
            raw[chunk] ^= 1;
            let base = Base { address: Address::new(1, chunk), raw: &base, stored: base.len() };
            let (encoding, stored) = Encoder::new().unwrap().encode(&raw, Some(base));
            assert_eq!(encoding, Encoding::Delta { base: base.address });
            entries.push(Entry::new(*blake3::hash(&raw).as_bytes(), data.len() as u32, stored.len() as u32, 4096, encoding));
            data.extend(stored);
            volume.extend(raw);
        }
        let name = format::segment_hash(entries.iter().map(|entry| &entry.hash));
        let addresses: Vec<Address> = (0..chunks).map(|slot| Address::new(2, slot)).collect();
        let hash = format::map_hash(volume.len() as u64, 4096, [&name]);
        db.write(|tx| {
            for (id, data, entries) in [(1, &base, &vec![of_base; chunks]), (2, &data, &entries)] {
                let (format, list) = format::entries_to_bytes(entries);
                tx.execute("INSERT INTO pack VALUES (?, ?)", (id, data))?;
                tx.execute("INSERT INTO pack_toc VALUES (?, ?, ?, ?, ?, 0, NULL, 0)", (id, format, chunks as i64, data.len() as i64, list))?;
                tx.execute("INSERT INTO verified VALUES (?, 0)", [id])?;
            }
            tx.execute("INSERT INTO segment VALUES (1, ?, 1, ?, 0, NULL, 0)", (&name[..], format::addresses_to_bytes(&addresses)))?;
            let segments = format::segments_to_bytes(&[1]);
            tx.execute("INSERT INTO volume_map VALUES (1, ?, ?, 4096, ?, 0)", (&hash[..], volume.len() as i64, segments))
        })
        .unwrap();
        volume
    }

    #[test]
    fn large_bases_of_many_small_chunks_are_not_read_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&dir.path().join("coffer.db")).unwrap());
        let volume = made_up(&db, 20);
        let wanted: Vec<Wanted> =
            (0..20).map(|slot| Wanted { place: slot, address: Address::new(1, slot), what: What::Base }).collect();
        let mut stored = Vec::new();
        assert!(db.read(|c| fetch_packs(c, &wanted, &mut stored, &mut [const { None }; 20], &mut Vec::new())).unwrap().is_none());
        assert!(stored.len() <= MOST_AT_ONCE, "{}", stored.len());

        let store = Store::open(db.clone()).unwrap();
        let found = Mutex::new(vec![0; volume.len()]);
        let visit = |piece: Piece| {
            let Piece::Data { offset, bytes } = piece else { panic!("there are only data") };
            found.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok::<_, StoreError>(())
        };
        MapReader::open(&store, 1).unwrap().for_each(1, &AtomicBool::new(false), |size| vec![0; size], visit).unwrap();
        assert!(found.into_inner().unwrap() == volume);
        let report = store.scrub_pack(2, Depth::All, |bytes| { assert!(bytes <= MOST_AT_ONCE as u64, "{bytes}"); Ok(()) }).unwrap().unwrap();
        assert_eq!((report.chunks, report.bad.len()), (20, 0));
    }
}
