//! The scrub: what is stored is read again, the pack first that was not read for the longest time, so that what a disk loses
//! is known, and where it can be is mended, before somebody needs it.
//!
//! In the background it reads at a low rate what was not read for some weeks; of packs in repositories only a sample. What it finds damaged, the backups concerned get
//! whole again from another copy or from their live volume; else they are Erred. How far it has come is written
//! down from time to time, so a restart goes on where it was.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ingest::Progress;
use super::places::open_source;
use super::{Engine, EngineError, orders};
use crate::catalog::backups::{self, Backup};
use crate::catalog::copies;
use crate::catalog::events::Severity;
use crate::catalog::volume_backups::{self, Part};
use crate::catalog::volumes;
use crate::clock;
use crate::model::backup::BackupState;
use crate::source::{Buffer, Source};
use crate::store::format::Address;
use crate::store::{self, Bad, Concern, Corrupt, Depth, Place, StoreError};

/// Packs, and time, after which is written down what was verified.
const PACKS_AT_ONCE: usize = 64;
const LONGEST_BATCH: Duration = Duration::from_secs(30);
/// Between two passes, also if one could not deal with all that it found.
const REST: Duration = Duration::from_secs(600);
/// How long a clock that was set, or another configuration, may go unnoticed.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// How soon the end of the daemon ends a rest.
const SLICE: Duration = Duration::from_millis(50);
/// Slow reads are caught up with for this long; after a longer pause it goes on at its rate.
const CREDIT: Duration = Duration::from_secs(1);
/// Everybody else goes first (nice(2); on Linux it counts for the calling thread alone).
const NICENESS: i32 = 10;
/// Parts of volumes that a report names; more are only counted.
const NAMED: usize = 1000;

/// How fast to read, in stored bytes a second.
#[derive(Clone, Copy)]
pub enum Rate {
    /// As configured at each moment; what is switched off ends.
    Configured,
    Fixed(u64),
    Unlimited,
}

/// What a scrub has found.
#[derive(Default)]
pub struct ScrubReport {
    packs: u64,
    chunks: u64,
    /// Stored bytes.
    bytes: u64,
    /// Damaged parts of volumes that could not be mended, and the backups that have them.
    corrupt: Vec<Value>,
    backups: HashSet<String>,
    /// Parts that were damaged and are whole now.
    healed: Vec<Value>,
    /// Damaged chunks that no backup needs.
    unused: u64,
    /// Packs whose damage is not dealt with for good, mostly because running work uses it. They stay due.
    unsettled: u64,
    /// Repositories that could not be read, and why. What lies there stays due.
    unreachable: BTreeMap<String, String>,
}

impl ScrubReport {
    pub fn to_json(&self) -> Value {
        let mut backups: Vec<&String> = self.backups.iter().collect();
        backups.sort_unstable();
        json!({"packs": self.packs, "chunks": self.chunks, "bytes": self.bytes, "corrupt": self.corrupt, "healed": self.healed,
            "backups": backups, "unused": self.unused, "unsettled": self.unsettled, "unreachable": self.unreachable})
    }
}

impl Engine {
    /// What only the daemon does, never a command that opens the coffer for a moment.
    pub fn start_scrub(self: &Arc<Engine>) -> std::io::Result<()> {
        let scrubber = self.clone();
        self.spawn("scrub", move || scrubber.keep_scrubbing())
    }

    fn keep_scrubbing(&self) {
        let _ = rustix::process::nice(NICENESS);
        let mut not_before = Instant::now();
        while let Some(before) = self.next_scrub(not_before) {
            match self.scrub(before, Rate::Configured, Depth::Sample, &Progress::default(), &self.maintenance.stop) {
                Ok(report) => log::debug!("scrub: {}", report.to_json()),
                Err(EngineError::Cancelled) => {}
                Err(error) => log::error!("the scrub stopped and begins again later: {error}"),
            }
            not_before = Instant::now() + REST;
            // It has left caches behind.
            self.note_activity();
        }
    }

    /// Sleeps until a pack is due. Returns up to when those were verified that are; None: the engine stops.
    fn next_scrub(&self, not_before: Instant) -> Option<i64> {
        loop {
            let settings = self.settings().scrub;
            let before = clock::now_ms() - settings.every.as_millis() as i64;
            let oldest = self.store.scrub_oldest().unwrap_or_else(|error| {
                log::error!("cannot look for what is to be scrubbed: {error}");
                None
            });
            let due = oldest.filter(|_| settings.bytes_per_second > 0).map(|at| Duration::from_millis((at - before).max(0) as u64));
            let rest = due.unwrap_or(LOOK_AGAIN).max(not_before.saturating_duration_since(Instant::now()));
            if rest.is_zero() {
                // What becomes due in a moment is read in one go with it.
                return Some(before + 1);
            }
            // At least until the clock shows another time.
            if !self.maintenance.rest(rest.clamp(SLICE, LOOK_AGAIN)) {
                return None;
            }
        }
    }

    /// Reads and verifies all packs that were not verified since `before`, and deals with what is damaged.
    pub fn scrub(
        &self,
        before: i64,
        rate: Rate,
        depth: Depth,
        progress: &Progress,
        cancel: &AtomicBool,
    ) -> Result<ScrubReport, EngineError> {
        progress.total.store(self.store.scrub_due_bytes(before)?, Ordering::Relaxed);
        let (report, unreachable) = (ScrubReport::default(), HashSet::new());
        Pass { engine: self, rate, depth, progress, cancel, paid: Instant::now(), report, unreachable, batch: Batch::new() }.run(before)
    }
}

struct Pass<'a> {
    engine: &'a Engine,
    rate: Rate,
    depth: Depth,
    progress: &'a Progress,
    cancel: &'a AtomicBool,
    /// When what was read so far would have been read at just the rate.
    paid: Instant,
    report: ScrubReport,
    /// Repositories that are asked nothing more.
    unreachable: HashSet<i64>,
    batch: Batch,
}

/// What was read since it was last written down.
struct Batch {
    begun: Instant,
    /// Found whole.
    packs: Vec<i64>,
    /// Found damaged, and what in them.
    damaged: Vec<i64>,
    bad: Vec<Bad>,
}

impl Batch {
    fn new() -> Batch {
        Batch { begun: Instant::now(), packs: Vec::new(), damaged: Vec::new(), bad: Vec::new() }
    }
}

impl Pass<'_> {
    fn run(mut self, before: i64) -> Result<ScrubReport, EngineError> {
        let mut last = (i64::MIN, 0);
        loop {
            let due = self.engine.store.scrub_due(before, last, PACKS_AT_ONCE)?;
            if due.is_empty() {
                self.settle()?;
                return Ok(self.report);
            }
            for due in due {
                last = (due.at, due.pack);
                if self.unreachable.contains(&due.repository) {
                    continue;
                }
                match self.read(due.pack) {
                    Ok(()) => {}
                    Err(StoreError::Repository(name, reason)) => {
                        log::warn!("repository {name} cannot be scrubbed now: {reason}");
                        self.unreachable.insert(due.repository);
                        self.report.unreachable.insert(name, reason);
                    }
                    Err(error) => {
                        // What was read is not read again; damage is found again by the next pass.
                        self.engine.store.set_verified(&self.batch.packs, clock::now_ms())?;
                        return Err(error.into());
                    }
                }
                if self.batch.packs.len() + self.batch.damaged.len() >= PACKS_AT_ONCE || self.batch.begun.elapsed() >= LONGEST_BATCH {
                    self.settle()?;
                }
            }
        }
    }

    fn read(&mut self, pack: i64) -> Result<(), StoreError> {
        let (engine, rate, cancel, paid) = (self.engine, self.rate, self.cancel, &mut self.paid);
        pause(engine, rate, cancel, paid, 0)?;
        let Some(found) = engine.store.scrub_pack(pack, self.depth, |bytes| pause(engine, rate, cancel, paid, bytes))? else { return Ok(()) };
        self.report.packs += 1;
        self.report.chunks += found.chunks;
        self.report.bytes += found.bytes;
        self.progress.read.fetch_add(found.bytes + found.spared, Ordering::Relaxed);
        if found.bad.is_empty() {
            self.batch.packs.push(pack);
        } else {
            self.batch.damaged.push(pack);
            self.batch.bad.extend(found.bad);
        }
        Ok(())
    }

    /// Deals with what is damaged, then writes down what was verified.
    fn settle(&mut self) -> Result<(), EngineError> {
        let batch = std::mem::replace(&mut self.batch, Batch::new());
        self.engine.store.set_verified(&batch.packs, clock::now_ms())?;
        if batch.bad.is_empty() {
            return Ok(());
        }
        match self.engine.deal_with(batch.bad, &mut self.report, self.cancel) {
            Ok(true) => return Ok(self.engine.store.set_verified(&batch.damaged, clock::now_ms())?),
            Ok(false) => {}
            Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
            // The other packs are looked through all the same; these stay due.
            Err(error) => log::error!("which backups need what is damaged cannot be found out: {error}"),
        }
        self.report.unsettled += batch.damaged.len() as u64;
        Ok(())
    }
}

/// After so many bytes were read, sleeps as long as the rate demands. Fails when the work is to end.
fn pause(engine: &Engine, rate: Rate, cancel: &AtomicBool, paid: &mut Instant, bytes: u64) -> Result<(), StoreError> {
    let rate = match rate {
        Rate::Configured => match engine.settings().scrub.bytes_per_second {
            0 => return Err(StoreError::Cancelled),
            rate => Some(rate),
        },
        Rate::Fixed(rate) => Some(rate.max(1)),
        Rate::Unlimited => None,
    };
    if let Some(rate) = rate {
        let earliest = Instant::now().checked_sub(CREDIT).unwrap_or(*paid);
        *paid = earliest.max(*paid) + Duration::from_secs_f64(bytes as f64 / rate as f64);
    }
    loop {
        if cancel.load(Ordering::Relaxed) || engine.is_stopping() {
            return Err(StoreError::Cancelled);
        }
        let rest = paid.saturating_duration_since(Instant::now());
        if rest.is_zero() || rate.is_none() {
            return Ok(());
        }
        std::thread::sleep(rest.min(SLICE));
    }
}

// ---- what becomes of damage

/// What has become of damaged chunks.
#[derive(Default)]
struct Cure {
    /// Where each was had from.
    healed: HashMap<Address, String>,
    /// Those that are nowhere.
    lost: HashSet<Address>,
}

/// What one backup has of the damage: by the number of the volume.
#[derive(Default)]
struct Share {
    corrupt: Vec<(i64, Corrupt)>,
    healed: Vec<(i64, Corrupt)>,
}

impl Engine {
    /// Mends what can be mended, and marks the backups that cannot. False if running work must be waited for: it may yet make
    /// a backup of what is damaged.
    fn deal_with(&self, bad: Vec<Bad>, report: &mut ScrubReport, cancel: &AtomicBool) -> Result<bool, EngineError> {
        let _one_at_a_time = self.scrub_dealing.lock().unwrap_or_else(PoisonError::into_inner);
        let concern = self.store.concern(bad, cancel)?;
        report.unused += concern.unused;
        if concern.unused > 0 {
            log::warn!("{} chunks that no backup needs are damaged in the coffer; look after its disk", concern.unused);
        }
        let mut cure = Cure::default();
        let stored = match self.heal(&concern, &mut cure, cancel) {
            Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
            // What was looked for in vain is lost all the same. Of the rest nothing bad may be said: the next pass looks again.
            Err(error) => {
                log::error!("damaged data cannot be stored anew: {error}");
                cure.healed.clear();
                false
            }
            Ok(()) => true,
        };
        let mut shares: BTreeMap<i64, Share> = BTreeMap::new();
        for places in concern.places.chunk_by(|a, b| a.map == b.map) {
            let parts = self.db.read(|c| volume_backups::of_map(c, places[0].map))?;
            if let Some(place) = places.iter().find(|place| cure.lost.contains(&place.address)) {
                self.break_off_copy(place.map, place.offset, &concern.bad[&place.address].reason)?;
            }
            let corrupt: Vec<&Place> = places.iter().filter(|place| cure.lost.contains(&place.address)).collect();
            let whole: Vec<&Place> = places.iter().filter(|place| cure.healed.contains_key(&place.address)).collect();
            let corrupt = together(&corrupt, |place| concern.bad[&place.address].reason.clone());
            let whole = together(&whole, |place| cure.healed[&place.address].clone());
            for (uuid, position, place) in self.db.read(|c| copies::of_map(c, places[0].map))? {
                let entry = |bad: &Corrupt, key: &str, what: &str| {
                    let mut entry = json!({"backup": uuid, "volume": position, "offset": bad.offset, "length": bad.length});
                    entry[key] = json!(format!("{} ({what} in {place})", bad.reason));
                    entry
                };
                log::warn!("the copy of backup {uuid} in {place} was damaged");
                let room = |list: &Vec<Value>| NAMED.saturating_sub(list.len());
                report.corrupt.extend(corrupt.iter().take(room(&report.corrupt)).map(|bad| entry(bad, "reason", "a copy, which is made again,")));
                report.healed.extend(whole.iter().take(room(&report.healed)).map(|bad| entry(bad, "source", "for its copy")));
            }
            for (backup, part) in parts {
                let share = shares.entry(backup).or_default();
                share.corrupt.extend(corrupt.iter().map(|bad| (part.position, bad.clone())));
                share.healed.extend(whole.iter().map(|bad| (part.position, bad.clone())));
            }
        }
        if stored && concern.places.iter().any(|place| place.repository != 0 && cure.healed.contains_key(&place.address)) {
            self.maintenance.request(); // which sends it
        }
        for (backup, share) in shares {
            if let Some(backup) = self.db.read(|c| backups::by_id(c, backup))? {
                self.tell(&backup, &share, report)?;
            }
        }
        Ok(stored && !concern.unsettled)
    }

    /// Stores damaged chunks anew, as far as they can be had.
    fn heal(&self, concern: &Concern, cure: &mut Cure, cancel: &AtomicBool) -> Result<(), EngineError> {
        if concern.places.is_empty() {
            return Ok(());
        }
        let mut mender = self.store.mender()?;
        let mut disks = Disks { engine: self, open: HashMap::new(), parts: HashMap::new(), buffer: None };
        for place in &concern.places {
            let bad = &concern.bad[&place.address];
            if cure.healed.contains_key(&place.address) {
                continue;
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            if mender.find_copy(place, bad)? {
                cure.healed.insert(place.address, "another copy".to_string());
            } else if let Some(label) = disks.find(place, |raw| mender.put(place, bad, raw))? {
                cure.healed.insert(place.address, format!("the live {label}"));
            }
        }
        cure.lost = concern.bad.keys().filter(|address| !cure.healed.contains_key(address)).copied().collect();
        Ok(mender.commit(concern)?)
    }

    /// Writes down what has become of one backup's data.
    fn tell(&self, backup: &Backup, share: &Share, report: &mut ScrubReport) -> Result<(), EngineError> {
        let entry = |key: &str, (volume, part): &(i64, Corrupt)| {
            let mut entry = json!({"backup": backup.uuid, "volume": volume, "offset": part.offset, "length": part.length});
            entry[key] = json!(part.reason);
            entry
        };
        let room = |list: &Vec<Value>| NAMED.saturating_sub(list.len());
        report.corrupt.extend(share.corrupt.iter().take(room(&report.corrupt)).map(|part| entry("reason", part)));
        report.healed.extend(share.healed.iter().take(room(&report.healed)).map(|part| entry("source", part)));
        if let Some((volume, first)) = share.corrupt.first() {
            report.backups.insert(backup.uuid.clone());
            if matches!(backup.state, BackupState::Ready | BackupState::Restoring) {
                log::error!("backup {} is damaged: volume {volume}, byte {}: {}", backup.uuid, first.offset, first.reason);
                self.mark_damaged(backup, *volume, first.offset, &first.reason)?;
            }
        }
        if let Some((volume, first)) = share.healed.first() {
            let bytes: u64 = share.healed.iter().map(|(_, part)| part.length).sum();
            let message = format!(
                "{bytes} bytes of a backup of {} were damaged, the first at byte {} of volume {volume}; they have been stored anew from {}.",
                backup.subject, first.offset, first.reason
            );
            log::warn!("backup {}: {message}", backup.uuid);
            // Other damage may have made it Erred.
            let hint = match backup.state {
                BackupState::Erred => format!(" `cofferd check {}` makes it Ready if it is whole now.", backup.uuid),
                _ => String::new(),
            };
            self.db.write(|tx| orders::log_backup(tx, backup, "resource_backup_healed", Severity::Warning, || message + &hint))?;
        }
        Ok(())
    }
}

/// Places of one volume in order, neighbours with the same text as one.
fn together(places: &[&Place], text: impl Fn(&Place) -> String) -> Vec<Corrupt> {
    let parts = places.iter().map(|place| Corrupt { offset: place.offset, length: place.length, reason: text(place) });
    store::report(0, 0, parts.collect()).corrupt
}

/// The volumes that backups were made of, as they are now.
struct Disks<'a> {
    engine: &'a Engine,
    /// By id; None if it cannot be read.
    open: HashMap<i64, Option<Source>>,
    /// By map: what was made of which volume.
    parts: HashMap<i64, Vec<(i64, Part)>>,
    buffer: Option<Buffer>,
}

impl Disks<'_> {
    /// Offers what the volumes have at this place now until it is taken. Returns the name of the volume that had it.
    fn find(&mut self, place: &Place, mut take: impl FnMut(&[u8]) -> Result<bool, StoreError>) -> Result<Option<String>, EngineError> {
        if !self.parts.contains_key(&place.map) {
            let parts = self.engine.db.read(|c| volume_backups::of_map(c, place.map))?;
            self.parts.insert(place.map, parts);
        }
        let mut asked = HashSet::new();
        for (_, part) in &self.parts[&place.map] {
            let Some(volume) = part.volume_id.filter(|volume| asked.insert(*volume)) else { continue };
            let source = self.open.entry(volume).or_insert_with(|| open(self.engine, volume));
            let Some(source) = source.as_ref().filter(|source| source.size() >= place.offset + place.length) else { continue };
            let buffer = self.buffer.get_or_insert_with(|| Buffer::new(store::LARGEST_CHUNK));
            // What cannot be read now may be had elsewhere.
            if let Ok(raw) = source.read(place.offset, place.length as usize, buffer)
                && take(raw)?
            {
                return Ok(Some(part.label()));
            }
        }
        Ok(None)
    }
}

fn open(engine: &Engine, volume: i64) -> Option<Source> {
    let volume = engine.db.read(|c| volumes::by_id(c, volume)).ok()??;
    open_source(Path::new(&volume.path), &engine.settings()).ok()
}
