//! Scrubbing: what is stored is read again, pack by pack, and compared with its hashes.
//!
//! Each look is one short read transaction that sees a table of contents together with the bytes it tells of, so a compaction
//! beside it is never taken for damage. Between two looks nothing is held: whoever paces the work may sleep as long as it likes.

use rusqlite::Connection;

use super::codec::Decoder;
use super::format::{Address, Encoding, Entry, Hash, PACK_BYTES, PACK_SLOTS, ZERO_HASH};
use super::read::{self, Fetched, LARGEST_CHUNK, Wanted, What};
use super::toc::Stored;
use super::{Store, StoreError};

/// A stored chunk that cannot be given back.
#[derive(Debug, Clone)]
pub struct Bad {
    pub address: Address,
    /// Its name, if the table of contents can be believed.
    pub hash: Hash,
    pub reason: String,
    /// It was found before.
    pub known: bool,
    /// If nothing needs it, its base may have been removed before it: that is no damage.
    pub delta: bool,
}

/// How much of a pack is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All of it if it lies in the coffer. Of an object one chunk, drawn by lot; all of it if there is something wrong with that.
    Sample,
    All,
}

/// A pack that is to be read.
pub struct Due {
    /// When it was verified.
    pub at: i64,
    pub pack: i64,
    /// Where it lies: 0 in the coffer.
    pub repository: i64,
}

/// What the look through a pack has found.
#[derive(Debug, Default)]
pub struct PackReport {
    pub chunks: u64,
    /// Stored bytes of its chunks that were read.
    pub bytes: u64,
    /// Those of which nothing was read, because the sample stands for them.
    pub spared: u64,
    pub bad: Vec<Bad>,
}

/// A pack's table of contents in memory, and where the look through it has come to.
enum Look {
    /// There is no such pack any more.
    Gone,
    /// Its table of contents is, so nothing in it can be found.
    Unreadable(String),
    Slots(Slots),
}

/// Some consecutive slots of a pack with their stored bytes, and those of the bases of deltas among them.
struct Slots {
    entries: Vec<(usize, Entry)>,
    fetched: Fetched,
    /// By place in `entries`: why they could not be read.
    faults: Vec<Option<String>>,
}

/// Memory that is used again.
struct Tools {
    decoder: Decoder,
    stored: Vec<u8>,
    base: Vec<u8>,
    raw: Vec<u8>,
}

impl Store {
    /// Up to `limit` packs that were not verified since `before`, by (when, number), from beyond `after` on.
    pub fn scrub_due(&self, before: i64, after: (i64, i64), limit: usize) -> Result<Vec<Due>, StoreError> {
        self.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT at, pack, ifnull(repository, 0) FROM verified LEFT JOIN pack_toc ON id = pack
                 WHERE at < ?1 AND (at, pack) > (?2, ?3) ORDER BY at, pack LIMIT ?4",
            )?;
            let rows = statement.query_map((before, after.0, after.1, limit as i64), |row| {
                Ok(Due { at: row.get(0)?, pack: row.get(1)?, repository: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, rusqlite::Error>>()?)
        })
    }

    /// When the pack was verified that was so the longest ago; None without packs.
    pub fn scrub_oldest(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.db.read(|c| c.query_row("SELECT min(at) FROM verified", [], |row| row.get(0)))?)
    }

    /// Bytes in packs that were not verified since `before`.
    pub fn scrub_due_bytes(&self, before: i64) -> Result<u64, StoreError> {
        let sum = "SELECT ifnull(sum(stored), 0) FROM verified JOIN pack_toc ON id = pack WHERE at < ?1";
        Ok(self.db.read(|c| c.query_row(sum, [before], |row| row.get::<_, i64>(0)))? as u64)
    }

    /// No pack was verified later than now: the clock was ahead.
    pub fn forget_future(&self, now: i64) -> rusqlite::Result<()> {
        self.db.write(|tx| tx.execute("UPDATE verified SET at = ?1 WHERE at > ?1", [now])).map(|_| ())
    }

    /// These packs were read now, and what was damaged is dealt with.
    pub fn set_verified(&self, packs: &[i64], at: i64) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        self.db.write(|tx| {
            let mut statement = tx.prepare_cached("UPDATE verified SET at = ?2 WHERE pack = ?1")?;
            packs.iter().try_for_each(|pack| statement.execute((pack, at)).map(drop))?;
            Ok(())
        })
    }

    /// Reads the chunks of a pack and verifies them; later backups do not share what is damaged. `pace` is called with each
    /// number of bytes that were read, while nothing is held; its error ends the work. None: there is no such pack any more.
    pub fn scrub_pack(
        &self,
        pack: i64,
        depth: Depth,
        mut pace: impl FnMut(u64) -> Result<(), StoreError>,
    ) -> Result<Option<PackReport>, StoreError> {
        if depth == Depth::Sample
            && let Some(report) = self.sample_pack(pack)?
        {
            pace(report.bytes)?;
            return Ok(Some(report));
        }
        let decoder = Decoder::new().map_err(StoreError::Codec)?;
        let mut tools = Tools { decoder, stored: Vec::new(), base: Vec::new(), raw: Vec::new() };
        let mut report = PackReport::default();
        let mut slot = 0;
        loop {
            let slots = match self.look(pack, slot, PACK_BYTES, &mut tools.stored)? {
                Look::Gone => return Ok(None),
                Look::Unreadable(reason) => {
                    let bad = |slot| Bad { address: Address::new(pack, slot), hash: ZERO_HASH, reason: reason.clone(), known: true, delta: false };
                    report.bad = (0..PACK_SLOTS).map(bad).collect();
                    return Ok(Some(report));
                }
                Look::Slots(slots) => slots,
            };
            let Some((last, _)) = slots.entries.last() else { break };
            slot = last + 1;
            report.chunks += slots.entries.iter().filter(|(_, entry)| !entry.is_dead()).count() as u64;
            report.bytes += slots.entries.iter().map(|(_, entry)| u64::from(entry.stored)).sum::<u64>();
            pace(tools.stored.len() as u64)?;
            for bad in slots.verify(pack, &mut tools) {
                // By itself: one bad block of the disk spoils a whole read, and not every error comes twice.
                if bad.address.pack() == pack
                    && let Look::Slots(alone) = self.look(pack, bad.address.slot(), 0, &mut tools.stored)?
                {
                    report.bad.extend(alone.verify(pack, &mut tools));
                }
            }
        }
        let news: Vec<_> = report.bad.iter().filter(|bad| !bad.known).map(|bad| (bad.address, bad.hash)).collect();
        self.distrust(&news);
        Ok(Some(report))
    }

    /// Reads one chunk of a pack that lies in an object. None if there is none, or it is not as it was stored.
    fn sample_pack(&self, pack: i64) -> Result<Option<PackReport>, StoreError> {
        let Some(stored) = self.db.read(|c| Stored::load(c, pack)).or_else(|e| read::damage(e).map(|_| None))? else { return Ok(None) };
        let (Some(object), Some(toc)) = (&stored.object, stored.toc()) else { return Ok(None) };
        let live: Vec<Entry> = toc.entries().filter(|entry| !entry.is_dead()).collect();
        let lot = getrandom::u64().map_err(|e| StoreError::Damaged(format!("no random numbers: {e}")))?;
        let Some(entry) = live.get(lot.checked_rem(live.len() as u64).unwrap_or_default() as usize) else { return Ok(None) };
        let whole = self.remote(stored.repository)?.is_whole(object, toc.slots(), entry)?;
        let bytes = u64::from(entry.stored);
        Ok(whole.then(|| PackReport { chunks: 1, bytes, spared: stored.stored.saturating_sub(bytes), bad: Vec::new() }))
    }

    /// Reads slots from this one on, until they have about so many bytes, at least one.
    fn look(&self, pack: i64, first: usize, bytes: usize, stored: &mut Vec<u8>) -> Result<Look, StoreError> {
        let mut look = self.db.read(|c| {
            let toc = match Stored::load(c, pack) {
                Ok(Some(toc)) => toc,
                Ok(None) if is_known(c, pack)? => return Ok(Look::Unreadable(format!("pack {pack} has no table of contents"))),
                Ok(None) => return Ok(Look::Gone),
                Err(e) => return read::damage(e).map(Look::Unreadable),
            };
            let Some(toc) = toc.toc() else {
                return Ok(Look::Unreadable(format!("the table of contents of pack {pack} cannot be read")));
            };
            let (mut entries, mut cost) = (Vec::new(), 0);
            for (slot, entry) in toc.entries().enumerate().skip(first) {
                if !entries.is_empty() && cost >= bytes {
                    break;
                }
                // A delta needs its base, which is about as large as its raw bytes at most.
                cost += entry.stored as usize + entry.base().map_or(0, |_| entry.raw as usize);
                entries.push((slot, entry));
            }
            loop {
                stored.clear();
                let mut faults: Vec<_> = entries.iter().map(|(slot, entry)| implausible(pack, *slot, entry)).collect();
                let whole = entries.iter().enumerate().filter(|(place, (_, entry))| !entry.is_dead() && faults[*place].is_none());
                let wanted: Vec<Wanted> = whole
                    .map(|(place, (slot, entry))| Wanted {
                        place,
                        address: Address::new(pack, *slot),
                        what: What::Chunk { hash: entry.hash, raw: entry.raw as usize },
                    })
                    .collect();
                match read::fetch(c, &wanted, stored, &mut faults)? {
                    Some(fetched) => return Ok(Look::Slots(Slots { entries, fetched, faults })),
                    None => entries.truncate(entries.len() / 2),
                }
            }
        })?;
        if let Look::Slots(slots) = &mut look {
            self.bring(&slots.fetched.far, stored, &mut slots.faults)?;
        }
        Ok(look)
    }
}

impl Slots {
    /// Decodes the chunks and compares them with their names. Returns what is damaged, bases among it.
    fn verify(mut self, pack: i64, tools: &mut Tools) -> Vec<Bad> {
        let mut bad = Vec::new();
        for piece in &self.fetched.found {
            if self.faults[piece.place].is_some() {
                continue;
            }
            tools.base.clear();
            if let Encoding::Delta { .. } = piece.encoding {
                // If it could not be read, the fault is noted already.
                let Some(base) = self.fetched.bases.iter().find(|base| base.place == piece.place) else { continue };
                tools.base.resize(base.raw, 0);
                if let Err(reason) = base.decode(&mut tools.decoder, &tools.stored, &[], &mut tools.base) {
                    self.faults[piece.place] = Some(read::damaged_base(&reason));
                    bad.push(Bad { address: base.address, hash: base.hash, reason, known: false, delta: false });
                    continue;
                }
            }
            tools.raw.resize(piece.raw, 0);
            self.faults[piece.place] = piece.decode(&mut tools.decoder, &tools.stored, &tools.base, &mut tools.raw).err();
        }
        for ((slot, entry), fault) in self.entries.iter().zip(self.faults) {
            let Some(reason) = fault else { continue };
            let (known, delta) = (entry.is_damaged(), entry.base().is_some());
            bad.push(Bad { address: Address::new(pack, *slot), hash: entry.hash, reason, known, delta });
        }
        bad
    }
}

/// Nobody but garbage collection may remove a pack, and it removes this with it.
fn is_known(c: &Connection, pack: i64) -> Result<bool, rusqlite::Error> {
    c.prepare_cached("SELECT 1 FROM verified WHERE pack = ?1")?.exists([pack])
}

/// What is wrong with an entry that nobody can have written.
fn implausible(pack: i64, slot: usize, entry: &Entry) -> Option<String> {
    let sound = match entry.encoding() {
        Some(_) => entry.raw as usize <= LARGEST_CHUNK,
        None => *entry == Entry::dead(),
    };
    (!sound).then(|| format!("the entry of slot {slot} of pack {pack} is damaged"))
}
