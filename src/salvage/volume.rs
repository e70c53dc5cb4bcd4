//! One stored volume, put together again as far as it is there. What was proved, what only seems right and what is lost are told
//! apart: a volume is a tree of hashes, so each level tells which of the levels around it is to be believed.

use std::ops::Range;

use super::btree::{Place, Row};
use super::chunks::{Chunks, NO_CONTENTS, Read};
use super::pages::Pages;
use super::survey::Survey;
use crate::source::{Buffer, SourceError, Target};
use crate::store::LARGEST_CHUNK;
use crate::store::format::{self, Address, Hash, SEGMENT_CHUNKS, ZERO_HASH};

/// Bytes of a list of segments: that of a volume of half a pebibyte.
const MOST_SEGMENTS: usize = 4 << 20;
/// Rows with the same id that are tried for the sake of one segment.
const MOST_CHOICES: usize = 4;
const SMALLEST_CHUNK: usize = 4096;

/// A volume map as it was found.
#[derive(Debug, Clone)]
pub struct Map {
    pub size: u64,
    chunk_size: usize,
    hash: Hash,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy)]
enum Segment {
    Zeros,
    At(Place, Hash),
    Lost,
}

impl Segment {
    fn name(self) -> Option<Hash> {
        match self {
            Segment::Zeros => Some(ZERO_HASH),
            Segment::At(_, name) => Some(name),
            Segment::Lost => None,
        }
    }
}

/// A part of the volume, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub range: Range<u64>,
    pub reason: String,
}

/// What came of a volume.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Holes in the file, where there may have been anything.
    pub lost: Vec<Fault>,
    /// Written, and each chunk is one that was stored; whether it belongs there could not be proved.
    pub doubtful: Vec<Fault>,
}

impl Outcome {
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.doubtful.is_empty()
    }

    fn lose(&mut self, range: Range<u64>, reason: &str) {
        add(&mut self.lost, range, reason);
    }
}

fn add(faults: &mut Vec<Fault>, range: Range<u64>, reason: &str) {
    match faults.last_mut().filter(|last| last.range.end == range.start && last.reason == reason) {
        Some(last) => last.range.end = range.end,
        None => faults.push(Fault { range, reason: reason.to_owned() }),
    }
}

/// A segment whose chunks do not make its name.
struct Unproved {
    segment: usize,
    /// The name that its chunks do make; None if not all of theirs are known.
    name: Option<Hash>,
    /// Chunks that were written though they have another name than the one they are listed under.
    renamed: Vec<Range<u64>>,
}

impl Map {
    /// The map with this id.
    pub fn find(pages: &Pages, survey: &Survey, id: i64) -> Option<Map> {
        let found: Vec<Map> = survey.maps.of(id).filter_map(|place| Map::load(pages, survey, place)).collect();
        found.iter().find(|map| map.is_proved()).or(found.first()).cloned()
    }

    fn load(pages: &Pages, survey: &Survey, place: Place) -> Option<Map> {
        let row = Row::load(pages, place)?;
        let integer = |column| row.integer(pages, &survey.strays, column);
        let hash = row.bytes(pages, &survey.strays, 1, 32)?.try_into().ok()?;
        let ids = format::segments_from_bytes(&row.bytes(pages, &survey.strays, 4, MOST_SEGMENTS)?)?;
        let segments = ids.into_iter().map(|id| match id {
            0 => Segment::Zeros,
            _ => survey.segments.of(id).find_map(|at| Some(Segment::At(at, survey.hash(pages, at)?))).unwrap_or(Segment::Lost),
        });
        let mut map = Map { size: integer(2)? as u64, chunk_size: 0, hash, segments: segments.collect() };
        map.find_lost_segment(survey, integer(3)?);
        // What is wrong with the size of the chunks shows in the map's name.
        let written = usize::try_from(integer(3)?).unwrap_or(0);
        let possible: Vec<usize> = [written].into_iter().chain((12..).map(|bits| 1 << bits).take_while(|n| *n <= LARGEST_CHUNK)).collect();
        let mut fitting = possible.into_iter().filter_map(|chunk_size| map.with_chunks_of(chunk_size));
        let first = fitting.next()?;
        Some(if first.is_proved() { first } else { fitting.find(Map::is_proved).unwrap_or(first) })
    }

    /// None if this cannot be.
    fn with_chunks_of(&self, chunk_size: usize) -> Option<Map> {
        let possible = chunk_size.is_power_of_two() && (SMALLEST_CHUNK..=LARGEST_CHUNK).contains(&chunk_size);
        let map = Map { chunk_size, ..self.clone() };
        (possible && map.size > 0 && self.segments.len() as u64 == self.size.div_ceil(map.segment_size())).then_some(map)
    }

    /// If one segment alone is missing, it may be there under another id: then its name fits.
    fn find_lost_segment(&mut self, survey: &Survey, chunk_size: i64) {
        let mut lost = self.segments.iter().enumerate().filter(|(_, segment)| matches!(segment, Segment::Lost)).map(|(at, _)| at);
        let (Some(at), None, Ok(chunk_size)) = (lost.next(), lost.next(), u32::try_from(chunk_size)) else { return };
        let mut names: Vec<Hash> = self.segments.iter().map(|segment| segment.name().unwrap_or(ZERO_HASH)).collect();
        for (name, place) in &survey.segment_names {
            names[at] = *name;
            if format::map_hash(self.size, chunk_size, &names) == self.hash {
                self.segments[at] = Segment::At(*place, *name);
                return;
            }
        }
    }

    fn segment_size(&self) -> u64 {
        (self.chunk_size * SEGMENT_CHUNKS) as u64
    }

    fn range(&self, segment: usize) -> Range<u64> {
        let start = (segment as u64).saturating_mul(self.segment_size()).min(self.size);
        start..start.saturating_add(self.segment_size()).min(self.size)
    }

    fn is_named(&self, names: &[Hash]) -> bool {
        format::map_hash(self.size, self.chunk_size as u32, names) == self.hash
    }

    /// Are all segments there, and do their names make that of the map?
    fn is_proved(&self) -> bool {
        let names: Option<Vec<Hash>> = self.segments.iter().map(|segment| segment.name()).collect();
        names.is_some_and(|names| self.is_named(&names))
    }

    /// Writes the volume to a new file of its size. `progress` is told of bytes that are done.
    pub fn write(&self, chunks: &mut Chunks, target: &Target, progress: &dyn Fn(u64)) -> Result<Outcome, SourceError> {
        let mut outcome = Outcome::default();
        let mut unproved = Vec::new();
        let mut buffer = Buffer::new(self.chunk_size);
        for (number, segment) in self.segments.iter().enumerate() {
            match segment {
                Segment::Zeros => {}
                Segment::Lost => outcome.lose(self.range(number), "its segment is lost"),
                Segment::At(place, name) => {
                    unproved.extend(self.write_segment(number, *place, name, chunks, target, &mut buffer, &mut outcome, progress)?);
                }
            }
            progress(self.range(number).end);
        }
        self.judge(unproved, target, &mut outcome)?;
        outcome.lost.sort_by_key(|fault| fault.range.start);
        target.sync()?;
        Ok(outcome)
    }

    #[allow(clippy::too_many_arguments)]
    fn write_segment(
        &self,
        number: usize,
        place: Place,
        name: &Hash,
        chunks: &mut Chunks,
        target: &Target,
        buffer: &mut Buffer,
        outcome: &mut Outcome,
        progress: &dyn Fn(u64),
    ) -> Result<Option<Unproved>, SourceError> {
        let range = self.range(number);
        let count = (range.end - range.start).div_ceil(self.chunk_size as u64) as usize;
        let Some(addresses) = chunks.addresses(place).filter(|addresses| addresses.len() == count) else {
            outcome.lose(range, "its list of chunks is unreadable");
            return Ok(None);
        };
        let (choice, names) = choose(chunks, &addresses, name);
        let listed: Option<Vec<Hash>> = names.iter().copied().collect();
        let proved = listed.is_some_and(|names| format::segment_hash(&names) == *name);
        let mut unproved = Unproved { segment: number, name: None, renamed: Vec::new() };
        let mut found = names.clone();
        for (at, address) in addresses.iter().enumerate().filter(|(_, address)| !address.is_zero()) {
            let start = range.start + (at * self.chunk_size) as u64;
            let chunk = start..(start + self.chunk_size as u64).min(range.end);
            progress(start);
            let raw = &mut buffer[..(chunk.end - chunk.start) as usize];
            let read = match &names[at] {
                Some(name) => chunks.read(*address, name, choice, raw),
                None => Read::Lost(NO_CONTENTS.to_owned()),
            };
            match read {
                Read::Whole => target.write(start, raw)?,
                Read::Other(_) if proved => outcome.lose(chunk, "its bytes do not match its hash"),
                Read::Other(other) => {
                    target.write(start, raw)?;
                    found[at] = Some(other);
                    unproved.renamed.push(chunk);
                }
                Read::Lost(reason) => outcome.lose(chunk, &reason),
            }
        }
        if !proved {
            unproved.name = found.into_iter().collect::<Option<Vec<Hash>>>().map(|names| format::segment_hash(&names));
        }
        Ok((!proved && unproved.name != Some(*name)).then_some(unproved))
    }

    /// Decides what is to be thought of the segments that do not prove themselves.
    fn judge(&self, unproved: Vec<Unproved>, target: &Target, outcome: &mut Outcome) -> Result<(), SourceError> {
        let Some(listed) = self.segments.iter().map(|segment| segment.name()).collect::<Option<Vec<Hash>>>() else {
            return self.doubt(unproved, target, outcome);
        };
        if unproved.is_empty() {
            if !self.is_named(&listed) {
                add(&mut outcome.doubtful, 0..self.size, "the volume map does not match its hash");
            }
            return Ok(());
        }
        let mut names = listed;
        for one in &unproved {
            names[one.segment] = one.name.unwrap_or(names[one.segment]);
        }
        // The map's name is over those of the segments: a name that fits there is right, whatever the segment's row says.
        match self.is_named(&names) && unproved.iter().all(|one| one.name.is_some()) {
            true => Ok(()),
            false => self.doubt(unproved, target, outcome),
        }
    }

    fn doubt(&self, unproved: Vec<Unproved>, target: &Target, outcome: &mut Outcome) -> Result<(), SourceError> {
        for one in unproved {
            for chunk in one.renamed {
                target.zero(chunk.start, chunk.end - chunk.start)?;
                outcome.lose(chunk, "its bytes do not match its hash");
            }
            add(&mut outcome.doubtful, self.range(one.segment), "its list of chunks does not match its hash");
        }
        Ok(())
    }
}

/// Which of several rows with one id to ask: those whose names make the segment's, else the first ones. Names that are not known
/// are None.
fn choose(chunks: &mut Chunks, addresses: &[Address], name: &Hash) -> (usize, Vec<Option<Hash>>) {
    let mut names = |choice| -> Vec<Option<Hash>> {
        addresses.iter().map(|at| if at.is_zero() { Some(ZERO_HASH) } else { chunks.entry(*at, choice).map(|entry| entry.hash) }).collect()
    };
    let first = names(0);
    let mut choices = (0..MOST_CHOICES).map(|choice| (choice, if choice == 0 { first.clone() } else { names(choice) }));
    let right = choices.find(|(_, names)| {
        let known: Option<Vec<Hash>> = names.iter().copied().collect();
        known.is_some_and(|names| format::segment_hash(&names) == *name)
    });
    right.unwrap_or((0, first))
}
