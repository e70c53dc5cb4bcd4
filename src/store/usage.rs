//! What each owner of volume maps takes of the store, and what of that would come back if only it were gone.
//!
//! As a collection does, this goes from maps to segments to addresses; but a slot gets its owner instead of a mark, and
//! [`SHARED`] when a second one reaches it. The tables of contents then say how many bytes each slot is. Each segment is read
//! once, however many maps have it, and each table of contents once or, with deltas, twice. Memory: 4 bytes a slot and 16 a
//! segment, so 42 MiB for 10 TiB of distinct data, and nothing afterwards.
//!
//! Everything is read in short transactions. What is damaged or dropped meanwhile counts as nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use super::format::{self, Address, FORMAT_WITH_DELTAS, SEGMENT_CHUNKS, Toc};
use super::slots::Slots;
use super::{Store, StoreError};

/// Volume maps read in one transaction.
const MAPS_AT_ONCE: i64 = 64;
/// Segments, or tables of contents, read in one transaction.
const ROWS_AT_ONCE: usize = 128;

/// Owners in the tables here are numbered from 1.
const NOBODY: u32 = 0;
/// Reached by several owners, or by a map that nobody claims.
const SHARED: u32 = u32::MAX;

/// That an owner has a volume map. Several may have the same, and one may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub map: i64,
    /// A number from 0 on.
    pub owner: u32,
}

/// Bytes of distinct chunks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Before compression.
    pub raw: u64,
    /// In packs.
    pub stored: u64,
}

impl Size {
    fn add(&mut self, raw: u32, stored: u32) {
        self.raw += u64::from(raw);
        self.stored += u64::from(stored);
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Usage {
    /// For each claim: bytes of the volume that are not chunks of zeros.
    pub data: Vec<u64>,
    /// For each owner: what nobody else reaches, so what a collection frees once all its maps are deleted.
    pub exclusive: Vec<Size>,
    /// What any map reaches.
    pub all: Size,
}

/// A segment that some map has.
struct Segment {
    id: i64,
    owner: u32,
    /// Chunks that are not zeros.
    data: u16,
    /// The last chunk, which may reach beyond the end of the volume, is not zeros.
    ends_in_data: bool,
}

impl Store {
    /// Counts for these claims, which are ordered. Set to true, `cancel` ends it early with an error.
    pub fn usage(&self, claims: &[Claim], cancel: &AtomicBool) -> Result<Usage, StoreError> {
        let slots = Slots::new(self.packs()?);
        let owners = vec![NOBODY; slots.len()];
        let mut count = Count { store: self, cancel, slots, owners };
        let mut segments = count.segments(claims)?;
        count.own_chunks(&mut segments)?;
        count.own_bases()?;
        let (exclusive, all) = count.sizes(claims.iter().map(|claim| claim.owner as usize + 1).max().unwrap_or(0))?;
        Ok(Usage { data: count.data(claims, &segments)?, exclusive, all })
    }
}

struct Count<'a> {
    store: &'a Store,
    cancel: &'a AtomicBool,
    slots: Slots,
    /// Of each slot.
    owners: Vec<u32>,
}

impl Count<'_> {
    /// The segments of all maps, ascending, each with its owner.
    fn segments(&self, claims: &[Claim]) -> Result<Vec<Segment>, StoreError> {
        let mut segments: Vec<Segment> = Vec::new();
        self.each_map(|map, _, _, ids| {
            let owner = claims_of(claims, map).iter().fold(NOBODY, |owner, claim| both(owner, claim.owner + 1));
            let owner = if owner == NOBODY { SHARED } else { owner };
            let new = ids.iter().filter(|id| **id != 0).map(|id| Segment { id: *id, owner, data: 0, ends_in_data: false });
            segments.extend(new);
            // Long rows in order already: sorting is merging.
            segments.sort_by_key(|segment| segment.id);
            segments.dedup_by(|later, first| {
                let same = later.id == first.id;
                if same {
                    first.owner = both(first.owner, later.owner);
                }
                same
            });
        })?;
        Ok(segments)
    }

    fn own_chunks(&mut self, segments: &mut [Segment]) -> Result<(), StoreError> {
        for segments in segments.chunks_mut(ROWS_AT_ONCE) {
            let lists = self.store.db.read(|c| {
                let mut statement = c.prepare_cached("SELECT format, chunks FROM segment WHERE id = ?1")?;
                let list = |segment: &Segment| match statement.query_row([segment.id], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?))) {
                    Ok((format, bytes)) => Ok(format::addresses_from_bytes(format, &bytes).unwrap_or_default()),
                    Err(rusqlite::Error::QueryReturnedNoRows) => Ok(Vec::new()),
                    Err(e) => Err(e),
                };
                Ok::<_, StoreError>(segments.iter().map(list).collect::<Result<Vec<_>, _>>()?)
            })?;
            for (segment, addresses) in segments.iter_mut().zip(lists) {
                segment.ends_in_data = addresses.last().is_some_and(|address| !address.is_zero());
                for address in addresses.into_iter().filter(|address| !address.is_zero()) {
                    segment.data += 1;
                    self.own(address, segment.owner);
                }
            }
            self.check_cancelled()?;
        }
        Ok(())
    }

    /// Whoever has a delta needs its base. A base is never a delta itself.
    fn own_bases(&mut self) -> Result<(), StoreError> {
        // As schema.sql has it, so that its index over the few packs with deltas is used.
        self.each_toc(&format!("format = {FORMAT_WITH_DELTAS}"), |count, pack, toc| {
            for (slot, entry) in toc.entries().enumerate() {
                if let (Some(base), Some(place)) = (entry.base(), count.slots.place(Address::new(pack, slot))) {
                    count.own(base, count.owners[place]);
                }
            }
        })
    }

    fn own(&mut self, address: Address, owner: u32) {
        if let Some(place) = self.slots.place(address) {
            self.owners[place] = both(self.owners[place], owner);
        }
    }

    /// What each owner alone reaches, and what all do.
    fn sizes(&mut self, owners: usize) -> Result<(Vec<Size>, Size), StoreError> {
        let (mut exclusive, mut all) = (vec![Size::default(); owners], Size::default());
        self.each_toc("true", |count, pack, toc| {
            for (slot, entry) in toc.entries().enumerate() {
                let owner = count.slots.place(Address::new(pack, slot)).map_or(NOBODY, |place| count.owners[place]);
                if owner != NOBODY {
                    all.add(entry.raw, entry.stored);
                }
                if let Some(size) = (owner as usize).checked_sub(1).and_then(|owner| exclusive.get_mut(owner)) {
                    size.add(entry.raw, entry.stored);
                }
            }
        })?;
        Ok((exclusive, all))
    }

    /// Bytes of each claim's volume that are not chunks of zeros.
    fn data(&self, claims: &[Claim], segments: &[Segment]) -> Result<Vec<u64>, StoreError> {
        let mut data = vec![0; claims.len()];
        self.each_map(|map, size, chunk_size, ids| {
            let found = |id: &i64| segments.binary_search_by_key(id, |segment| segment.id).ok().map(|at| &segments[at]);
            let chunks: u64 = ids.iter().filter_map(found).map(|segment| u64::from(segment.data)).sum();
            let beyond = (chunk_size - size % chunk_size) % chunk_size;
            let beyond = if ids.last().and_then(found).is_some_and(|last| last.ends_in_data) { beyond } else { 0 };
            let first = claims.partition_point(|claim| claim.map < map);
            data[first..].iter_mut().zip(claims_of(claims, map)).for_each(|(data, _)| *data = (chunks * chunk_size).saturating_sub(beyond));
        })?;
        Ok(data)
    }

    /// Calls `f` with each map's number, size, chunk size and segments.
    fn each_map(&self, mut f: impl FnMut(i64, u64, u64, &[i64])) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let maps = self.store.db.read(|c| {
                let mut statement =
                    c.prepare_cached("SELECT id, size, chunk_size, segments FROM volume_map WHERE id > ?1 ORDER BY id LIMIT ?2")?;
                let rows = statement.query_map([after, MAPS_AT_ONCE], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)?.max(1) as u64, row.get::<_, Vec<u8>>(3)?))
                })?;
                Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?)
            })?;
            let Some((last, ..)) = maps.last() else { return Ok(()) };
            after = *last;
            for (map, size, chunk_size, bytes) in &maps {
                f(*map, *size, *chunk_size, &format::segments_from_bytes(bytes).unwrap_or_default());
            }
            self.check_cancelled()?;
        }
    }

    /// Calls `f` with each table of contents that meets the condition, and the number of its pack.
    fn each_toc(&mut self, condition: &str, mut f: impl FnMut(&mut Self, i64, Toc)) -> Result<(), StoreError> {
        let sql = format!("SELECT id, format, entries FROM pack_toc WHERE {condition} AND id > ?1 ORDER BY id LIMIT {ROWS_AT_ONCE}");
        let mut after = 0;
        loop {
            let tocs = self.store.db.read(|c| {
                let mut statement = c.prepare_cached(&sql)?;
                let rows = statement.query_map([after], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?)))?;
                Ok::<_, StoreError>(rows.collect::<Result<Vec<_>, _>>()?)
            })?;
            let Some((last, ..)) = tocs.last() else { return Ok(()) };
            after = *last;
            for (pack, format, bytes) in &tocs {
                if let Some(toc) = Toc::parse(*format, bytes) {
                    f(self, *pack, toc);
                }
            }
            self.check_cancelled()?;
        }
    }

    fn check_cancelled(&self) -> Result<(), StoreError> {
        if self.cancel.load(Ordering::Relaxed) { Err(StoreError::Cancelled) } else { Ok(()) }
    }
}

/// The claims, which are ordered, on one map.
fn claims_of(claims: &[Claim], map: i64) -> &[Claim] {
    let first = claims.partition_point(|claim| claim.map < map);
    let len = claims[first..].partition_point(|claim| claim.map == map);
    &claims[first..first + len]
}

fn both(one: u32, other: u32) -> u32 {
    match (one, other) {
        (NOBODY, owner) | (owner, NOBODY) => owner,
        (one, other) if one == other => one,
        _ => SHARED,
    }
}

const _: () = assert!(SEGMENT_CHUNKS <= u16::MAX as usize, "a segment's chunks are counted in 16 bits");
