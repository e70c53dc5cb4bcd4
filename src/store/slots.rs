//! A number for each slot of the packs that there are: where in a table, such as that of a collection's marks, an address has its
//! place.

use super::format::{Address, PACK_SLOTS};
use super::{Store, StoreError};

/// Number of a pack, and how many slots it has.
pub(super) type Pack = (i64, usize);

pub(super) struct Slots {
    /// Pack numbers, ascending, with the number of their first slot.
    packs: Vec<(i64, usize)>,
    len: usize,
    /// The pack found last: addresses come in long rows of the same pack.
    last: usize,
}

impl Slots {
    /// `packs` by ascending number. Others have no places.
    pub fn new(packs: impl IntoIterator<Item = Pack>) -> Slots {
        let mut len = 0;
        let packs = packs
            .into_iter()
            .map(|(pack, slots)| {
                let first = len;
                len += slots;
                (pack, first)
            })
            .collect();
        Slots { packs, len, last: 0 }
    }

    pub fn covers(&self, pack: i64) -> bool {
        self.packs.binary_search_by_key(&pack, |(number, _)| *number).is_ok()
    }

    /// All slots of all packs.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None for other packs, and for slots that do not exist.
    pub fn place(&mut self, address: Address) -> Option<usize> {
        if self.packs.get(self.last).is_none_or(|(pack, _)| *pack != address.pack()) {
            self.last = self.packs.binary_search_by_key(&address.pack(), |(pack, _)| *pack).ok()?;
        }
        let place = self.packs[self.last].1 + address.slot();
        let end = self.packs.get(self.last + 1).map_or(self.len, |(_, first)| *first);
        (place < end).then_some(place)
    }
}

impl Store {
    /// All packs that have a table of contents, by ascending number.
    pub(super) fn packs(&self) -> Result<Vec<Pack>, StoreError> {
        self.db.read(|c| {
            let mut statement = c.prepare("SELECT id, slots FROM pack_toc ORDER BY id")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.clamp(0, PACK_SLOTS as i64) as usize)))?;
            Ok(rows.collect::<Result<_, rusqlite::Error>>()?)
        })
    }

    /// The others: their tables were lost, so they may have any slot. Looking for them reads a page of every pack, a hundredth
    /// of the coffer.
    pub(super) fn packs_without_toc(&self) -> Result<Vec<Pack>, StoreError> {
        self.db.read(|c| {
            let mut statement = c.prepare("SELECT id FROM pack WHERE id NOT IN (SELECT id FROM pack_toc)")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, PACK_SLOTS)))?;
            Ok(rows.collect::<Result<_, rusqlite::Error>>()?)
        })
    }
}
