//! Where a chunk of a given hash may lie: the in-memory index over all chunks of the coffer, 10 to 13 bytes for each.
//!
//! An entry is one word: 24 bits of the hash and the 40 bits of the address. So a hit is a candidate only, to be confirmed
//! against the hash in the pack's table of contents; one probe in some million finds a false one. Tables are open addressing
//! with linear probing. The words do not hold enough of the hash to be placed anew in a larger table, so a full table stays
//! and a further one is added: while they are small as large as all before it, later a quarter of that, so that growing never takes
//! much at once. The next start makes one of them again.

use super::format::{Address, Hash};

const EMPTY: u64 = 0;
/// A removed entry between others. No address is below 4096, so neither marker can be an entry.
const GONE: u64 = 1;
const ADDRESS_BITS: u32 = 40;
const SMALLEST_TABLE: usize = 1 << 12;
/// Words of all tables up to which a further one doubles them.
const SMALL: usize = 1 << 16;

pub struct Index {
    tables: Vec<Table>,
}

struct Table {
    words: Box<[u64]>,
    /// Entries and removed entries: what makes probes long.
    used: usize,
    entries: usize,
}

impl Index {
    /// An index with room for this many entries and a tenth more.
    pub fn with_capacity(entries: usize) -> Index {
        Index { tables: vec![Table::new(entries + entries / 10)] }
    }

    /// All places where a chunk with this hash may lie.
    pub fn candidates(&self, hash: &Hash) -> Vec<Address> {
        let mut found = Vec::new();
        for table in &self.tables {
            table.probe(hash, |_, word| {
                if word >> ADDRESS_BITS == tag(hash) {
                    found.push(Address::from_bits(word & ((1 << ADDRESS_BITS) - 1)));
                }
                false
            });
        }
        found
    }

    pub fn contains(&self, hash: &Hash, address: Address) -> bool {
        self.tables.iter().any(|table| table.find(hash, entry(hash, address)).is_some())
    }

    /// Adds an entry; does nothing if it is there.
    pub fn insert(&mut self, hash: &Hash, address: Address) {
        if self.contains(hash, address) {
            return;
        }
        let word = entry(hash, address);
        // The newest table first: it is the one with room, unless much was removed.
        match self.tables.iter_mut().rev().find(|table| table.has_room()) {
            Some(table) => table.insert(hash, word),
            None => {
                let words: usize = self.tables.iter().map(|table| table.words.len()).sum();
                let mut table = Table::with_words(if words < SMALL { words } else { words / 4 });
                table.insert(hash, word);
                self.tables.push(table);
            }
        }
    }

    /// Removes an entry; false if it is not there.
    pub fn remove(&mut self, hash: &Hash, address: Address) -> bool {
        self.tables.iter_mut().any(|table| table.remove(hash, entry(hash, address)))
    }

    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.entries).sum()
    }

    /// Memory in use.
    pub fn bytes(&self) -> usize {
        self.tables.iter().map(|table| size_of_val(&*table.words)).sum()
    }
}

impl Table {
    fn new(entries: usize) -> Table {
        Table::with_words((entries + entries / 4 + 1).max(SMALLEST_TABLE))
    }

    fn with_words(words: usize) -> Table {
        Table { words: vec![EMPTY; words].into_boxed_slice(), used: 0, entries: 0 }
    }

    /// At most four words in five are in use.
    fn has_room(&self) -> bool {
        self.used < self.words.len() / 5 * 4
    }

    /// Visits the words where an entry of this hash may be, until `visit` returns true or the row ends; there is always an
    /// empty word. Returns the place where it stopped.
    fn probe(&self, hash: &Hash, mut visit: impl FnMut(usize, u64) -> bool) -> usize {
        let mut at = home(hash, self.words.len());
        while self.words[at] != EMPTY && !visit(at, self.words[at]) {
            at = self.next(at);
        }
        at
    }

    fn find(&self, hash: &Hash, wanted: u64) -> Option<usize> {
        let at = self.probe(hash, |_, word| word == wanted);
        (self.words[at] == wanted).then_some(at)
    }

    fn insert(&mut self, hash: &Hash, word: u64) {
        let at = self.probe(hash, |_, word| word == GONE);
        self.used += usize::from(self.words[at] == EMPTY);
        self.entries += 1;
        self.words[at] = word;
    }

    fn remove(&mut self, hash: &Hash, word: u64) -> bool {
        let Some(mut at) = self.find(hash, word) else {
            return false;
        };
        self.entries -= 1;
        self.words[at] = GONE;
        // At the end of a row a removed entry separates nothing: take it and those before it away.
        if self.words[self.next(at)] == EMPTY {
            while self.words[at] == GONE {
                self.words[at] = EMPTY;
                self.used -= 1;
                at = at.checked_sub(1).unwrap_or(self.words.len() - 1);
            }
        }
        true
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.words.len() { 0 } else { at + 1 }
    }
}

fn entry(hash: &Hash, address: Address) -> u64 {
    tag(hash) << ADDRESS_BITS | address.bits()
}

fn tag(hash: &Hash) -> u64 {
    u64::from_le_bytes([hash[8], hash[9], hash[10], 0, 0, 0, 0, 0])
}

/// Spreads hashes evenly over any number of words: the high part of hash times words.
fn home(hash: &Hash, words: usize) -> usize {
    let prefix = u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
    ((u128::from(prefix) * words as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn hash(n: u64) -> Hash {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn address(n: u64) -> Address {
        Address::from_bits(4096 + n)
    }

    #[test]
    fn what_was_inserted_is_found_through_growth_and_nothing_else() {
        let mut index = Index::with_capacity(0);
        for n in 0..100_000 {
            index.insert(&hash(n), address(n));
        }
        assert_eq!(index.len(), 100_000);
        for n in 0..100_000 {
            assert!(index.candidates(&hash(n)).contains(&address(n)));
        }
        let false_hits: usize = (100_000..200_000).map(|n| index.candidates(&hash(n)).len()).sum();
        assert!(false_hits < 10, "{false_hits}");
        assert!(index.bytes() < 100_000 * 13);
    }

    #[test]
    fn growing_takes_at_most_a_quarter_at_once() {
        let mut index = Index::with_capacity(0);
        let mut before = index.bytes();
        for n in 0..500_000 {
            index.insert(&hash(n), address(n));
            let now = index.bytes();
            assert!(now == before || now <= 8 * SMALL || now <= before + before / 4);
            // Just after a table was added it is at most a fifth emptier than a full one.
            assert!(before <= 8 * SMALL || now <= (n as usize + 1) * 13);
            before = now;
        }
        assert_eq!(index.len(), 500_000);
        assert!(index.tables.len() < 20, "{}", index.tables.len());
    }

    #[test]
    fn an_index_made_for_its_entries_takes_eleven_bytes_for_each() {
        let mut index = Index::with_capacity(1_000_000);
        for n in 0..1_000_000 {
            index.insert(&hash(n), address(n));
        }
        assert_eq!(index.tables.len(), 1);
        assert!(index.bytes() <= 1_000_000 * 11 + 8);
    }

    /// `BENCH=10485760 cargo test --release -- --ignored --nocapture index_bench`
    #[test]
    #[ignore = "a measurement; BENCH: how many entries"]
    fn index_bench() {
        let entries: u64 = std::env::var("BENCH").unwrap().parse().unwrap();
        for (how, capacity) in [("made for them", entries as usize), ("grown", 0)] {
            let mut index = Index::with_capacity(capacity);
            let mut time = |what: &str, f: &mut dyn FnMut(&mut Index, u64)| {
                let started = std::time::Instant::now();
                (0..entries).for_each(|n| f(&mut index, n));
                eprintln!("{how}, {what}: {:.0} ns", started.elapsed().as_nanos() as f64 / entries as f64);
            };
            time("the hash alone", &mut |_, n| _ = std::hint::black_box(hash(n)));
            time("insert", &mut |index, n| index.insert(&hash(n), address(n)));
            time("find", &mut |index, n| _ = std::hint::black_box(index.candidates(&hash(n))));
            time("miss", &mut |index, n| _ = std::hint::black_box(index.candidates(&hash(n + entries))));
            let (bytes, tables) = (index.bytes(), index.tables.len());
            eprintln!("{how}: {bytes} bytes, {:.1} an entry, {tables} tables", bytes as f64 / entries as f64);
        }
    }

    #[test]
    fn inserting_twice_is_inserting_once() {
        let mut index = Index::with_capacity(10);
        index.insert(&hash(1), address(1));
        index.insert(&hash(1), address(1));
        index.insert(&hash(1), address(2));
        assert_eq!(index.len(), 2);
        assert_eq!(index.candidates(&hash(1)), [address(1), address(2)]);
        assert!(index.remove(&hash(1), address(1)));
        assert!(!index.remove(&hash(1), address(1)));
        assert_eq!(index.candidates(&hash(1)), [address(2)]);
    }

    #[test]
    fn random_inserts_and_removals_agree_with_a_set() {
        let mut index = Index::with_capacity(0);
        let mut model = HashSet::new();
        let mut random = 1u64;
        for _ in 0..200_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let n = (random >> 33) % 5_000;
            if random >> 63 == 0 {
                index.insert(&hash(n), address(n));
                model.insert(n);
            } else {
                assert_eq!(index.remove(&hash(n), address(n)), model.remove(&n));
            }
        }
        assert_eq!(index.len(), model.len());
        for n in 0..5_000 {
            assert_eq!(index.contains(&hash(n), address(n)), model.contains(&n));
        }
        assert!(index.tables.len() <= 3, "removed entries are used again");
    }

    #[test]
    fn removing_everything_leaves_no_trace() {
        let mut index = Index::with_capacity(0);
        (0..3_000).for_each(|n| index.insert(&hash(n), address(n)));
        assert!((0..3_000).all(|n| index.remove(&hash(n), address(n))));
        assert_eq!(index.len(), 0);
        assert!(index.tables.iter().all(|table| table.words.iter().all(|word| *word == EMPTY) && table.used == 0));
    }
}
