//! Chunks by their addresses or, where that is not what it should be any more, by their names.

use std::collections::HashMap;
use std::rc::Rc;

use super::btree::{Place, Row};
use super::pages::Pages;
use super::survey::Survey;
use crate::store::LARGEST_CHUNK;
use crate::store::codec::Decoder;
use crate::store::format::{self, Address, ENTRY_BYTES, Encoding, Entry, Hash, PACK_SLOTS, SEGMENT_CHUNKS, Toc};

/// Rows kept for the next chunks, of each kind.
const KEPT: usize = 128;
/// Stored bytes of one chunk: what cannot be compressed is stored as it is.
const MOST_STORED: usize = LARGEST_CHUNK + 4096;
/// Places of chunks with one name, or rows with one id, that are tried.
const MOST_TRIES: usize = 8;

/// Bytes of an object's name.
const LONGEST_OBJECT: usize = 1024;

pub const NO_CONTENTS: &str = "the table of contents that lists it is lost";

/// A table of contents.
struct Contents {
    format: i64,
    entries: Vec<u8>,
    /// Of a repository, in which the pack lies.
    object: Option<String>,
}

/// A pack's row, and the pages on which it goes on.
struct Pack {
    row: Row,
    chain: Vec<u32>,
}

pub struct Chunks<'a> {
    pages: &'a Pages,
    survey: &'a Survey,
    decoder: Decoder,
    contents: HashMap<Place, Option<Rc<Contents>>>,
    packs: HashMap<Place, Option<Rc<Pack>>>,
    /// Beginnings of names, and addresses; sorted.
    names: Vec<(u64, u64)>,
    stored: Vec<u8>,
}

/// What became of a chunk that was to be read.
pub enum Read {
    /// The bytes are those of its name.
    Whole,
    /// They can be read, and have another name. Is it the bytes or the name that is damaged?
    Other(Hash),
    Lost(String),
}

fn beginning(name: &Hash) -> u64 {
    name.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl<'a> Chunks<'a> {
    pub fn new(pages: &'a Pages, survey: &'a Survey) -> std::io::Result<Chunks<'a>> {
        let decoder = Decoder::new()?;
        let mut chunks =
            Chunks { pages, survey, decoder, contents: HashMap::new(), packs: HashMap::new(), names: Vec::new(), stored: Vec::new() };
        for (pack, place) in survey.tocs.first_of_each() {
            let contents = chunks.contents(place);
            let entries = contents.iter().flat_map(|contents| contents.entries()).enumerate();
            let named = entries.filter(|(_, entry)| !entry.is_dead());
            chunks.names.extend(named.map(|(slot, entry)| (beginning(&entry.hash), Address::new(pack, slot).bits())));
        }
        chunks.names.sort_unstable();
        Ok(chunks)
    }

    /// What is known of the chunk at an address. `choice`: which of several rows of one id is asked.
    pub fn entry(&mut self, address: Address, choice: usize) -> Option<Entry> {
        let places: Vec<Place> = self.survey.tocs.of(address.pack()).take(MOST_TRIES).collect();
        let contents = self.contents(*places.get(choice).or(places.last())?)?;
        let entry = Toc::parse(contents.format, &contents.entries)?.entry(address.slot())?;
        (!entry.is_dead()).then_some(entry)
    }

    /// The list of a segment.
    pub fn addresses(&self, segment: Place) -> Option<Vec<Address>> {
        let row = Row::load(self.pages, segment)?;
        let format = row.integer(self.pages, &self.survey.strays, 2)?;
        let bytes = row.bytes(self.pages, &self.survey.strays, 3, 8 * SEGMENT_CHUNKS)?;
        format::addresses_from_bytes(format, &bytes)
    }

    /// Fills `raw` with the chunk of this name, which should be at this address.
    pub fn read(&mut self, address: Address, name: &Hash, choice: usize, raw: &mut [u8]) -> Read {
        let found = match self.entry(address, choice) {
            Some(entry) => self.decode(address.pack(), &entry, raw),
            None => Err(NO_CONTENTS.to_owned()),
        };
        match found {
            Ok(hash) if hash == *name => Read::Whole,
            _ if self.read_elsewhere(address, name, raw, true) => Read::Whole,
            Ok(other) => Read::Other(other),
            Err(reason) => Read::Lost(reason),
        }
    }

    /// Looks for the chunk in other places than this one. `raw` is changed only if it is found. Without `deltas` for a base: else one
    /// could lead to the next for ever.
    fn read_elsewhere(&mut self, address: Address, name: &Hash, raw: &mut [u8], deltas: bool) -> bool {
        let wanted = beginning(name);
        let from = self.names.partition_point(|(at, _)| *at < wanted);
        let places = self.names[from..].iter().take_while(|(at, _)| *at == wanted).map(|(_, bits)| Address::from_bits(*bits));
        let places: Vec<Address> = places.filter(|place| *place != address).take(MOST_TRIES).collect();
        let mut copy = vec![0; if places.is_empty() { 0 } else { raw.len() }];
        for place in places {
            let Some(entry) = self.entry(place, 0).filter(|entry| entry.hash == *name) else { continue };
            if entry.base().is_some() && !deltas {
                continue;
            }
            if self.decode(place.pack(), &entry, &mut copy).is_ok_and(|hash| hash == *name) {
                raw.copy_from_slice(&copy);
                return true;
            }
        }
        false
    }

    /// Fills `raw` with a chunk of this pack and returns the name that its bytes have.
    fn decode(&mut self, pack: i64, entry: &Entry, raw: &mut [u8]) -> Result<Hash, String> {
        if entry.raw as usize != raw.len() || entry.stored as usize > MOST_STORED {
            return Err("its length in the table of contents is impossible".to_owned());
        }
        let encoding = entry.encoding().ok_or("its encoding is none that there is")?;
        let base = match encoding {
            Encoding::Delta { base } => self.base(base)?,
            _ => Vec::new(),
        };
        let contents = self.survey.tocs.of(pack).next().and_then(|place| self.contents(place));
        let mut found = Err(match contents.and_then(|contents| contents.object.clone()) {
            Some(object) => format!("its pack is {object} of a repository; `cofferd repository attach` reads what lies there"),
            None => "its pack is lost".to_owned(),
        });
        let places: Vec<Place> = self.survey.packs.of(pack).take(MOST_TRIES).collect();
        for place in places {
            let Some(pack) = self.pack(place) else { continue };
            self.stored.resize(entry.stored as usize, 0);
            found = match pack.row.read_column(self.pages, &pack.chain, 1, entry.offset as usize, &mut self.stored) {
                true => self.decoder.decode(encoding, &self.stored, &base, raw).map(|()| *blake3::hash(raw).as_bytes()),
                false => Err("its pack is not all there".to_owned()),
            };
            if found.as_ref().is_ok_and(|hash| *hash == entry.hash) {
                break;
            }
        }
        found
    }

    /// The raw bytes of a chunk that others are deltas to. Whether they are right will show in what is made of them.
    fn base(&mut self, address: Address) -> Result<Vec<u8>, String> {
        let entry = self.entry(address, 0).ok_or("it is a delta, and the table of contents that lists its base is lost")?;
        if entry.base().is_some() || entry.raw as usize > LARGEST_CHUNK {
            return Err("it is a delta to something that is no base".to_owned());
        }
        let mut raw = vec![0; entry.raw as usize];
        let found = self.decode(address.pack(), &entry, &mut raw);
        let right = found.as_ref().is_ok_and(|hash| *hash == entry.hash) || self.read_elsewhere(address, &entry.hash, &mut raw, false);
        match found {
            Err(reason) if !right => Err(format!("it is a delta, and its base cannot be read: {reason}")),
            _ => Ok(raw),
        }
    }

    fn contents(&mut self, place: Place) -> Option<Rc<Contents>> {
        if let Some(known) = self.contents.get(&place) {
            return known.clone();
        }
        let loaded = Row::load(self.pages, place).and_then(|row| {
            let format = row.integer(self.pages, &self.survey.strays, 1)?;
            let entries = row.bytes(self.pages, &self.survey.strays, 4, PACK_SLOTS * ENTRY_BYTES)?;
            let object = row.text(self.pages, &self.survey.strays, 6, LONGEST_OBJECT);
            Some(Rc::new(Contents { format, entries, object }))
        });
        if self.contents.len() >= KEPT {
            self.contents.clear();
        }
        self.contents.insert(place, loaded.clone());
        loaded
    }

    fn pack(&mut self, place: Place) -> Option<Rc<Pack>> {
        if let Some(known) = self.packs.get(&place) {
            return known.clone();
        }
        let loaded = Row::load(self.pages, place).map(|row| {
            let chain = row.chain(self.pages, &self.survey.strays);
            Rc::new(Pack { row, chain })
        });
        if self.packs.len() >= KEPT {
            self.packs.clear();
        }
        self.packs.insert(place, loaded.clone());
        loaded
    }
}

impl Contents {
    fn entries(&self) -> impl Iterator<Item = Entry> {
        Toc::parse(self.format, &self.entries).into_iter().flat_map(Toc::entries)
    }
}
