//! What differs between two states of a file, found by comparing where their bytes lie and without reading any.
//!
//! A reflink copy shares the blocks of its file until one of the two is written to, and then the new bytes go elsewhere
//! (ioctl_ficlonerange(2)). As long as the older copy exists its blocks are taken, so where both copies lie at one address they
//! hold the same bytes. Addresses come from FIEMAP (Documentation/filesystems/fiemap.rst).
//!
//! The answer errs on one side only: what is called unchanged is unchanged. Everything that is not understood counts as changed,
//! and what should not be is an error, after which the file has to be read.

use std::io;
use std::ops::Range;

use fiemap::{Fiemap, FiemapExtent, FiemapExtentFlags as Flags, FiemapFlags};
use rustix::fs::FsWord;

use super::{Kind, Source, SourceError};

const XFS: FsWord = 0x5846_5342;
const BTRFS: FsWord = 0x9123_683e;

/// Flags with which an address says where plain bytes lie. All others are doubts: not written yet, inline, compressed (the address
/// is then that of the whole compressed extent, wherever in it the bytes are), encrypted, or unknown to this program.
const UNDERSTOOD: Flags = Flags::LAST.union(Flags::SHARED).union(Flags::UNWRITTEN);

/// The kernel writes these structures (linux/fiemap.h).
const _: () = assert!(size_of::<FiemapExtent>() == 56 && std::mem::offset_of!(FiemapExtent, fe_flags) == 40);

/// True on file systems whose extents are known to be told as [`changes`] needs it: XFS and Btrfs. Layers above them that answer
/// for another file system have another number.
pub fn trusted(source: &Source) -> bool {
    source.kind == Kind::File && rustix::fs::fstatfs(&source.file).is_ok_and(|found| [XFS, BTRFS].contains(&found.f_type))
}

/// The ranges of `new` that may differ from `old`, in order and apart, widened to whole multiples of `granule` (but not beyond the
/// end), so that there are never more than half as many of them as granules. Everything else is byte for byte the same, and zeros
/// stay zeros. Where the sizes differ, that begins with the granule that the shorter one ends in.
///
/// Both must be reflink copies, `old` the earlier one, that nobody writes to (see [`super::reflink`]).
pub fn changes(old: &Source, new: &Source, granule: u64) -> Result<Vec<Range<u64>>, SourceError> {
    comparable(old, new).map_err(|e| doubt(new, e))?;
    let look = || compare(pieces(old), pieces(new), old.size, new.size, granule);
    // The two maps are not read at the same moment. Whatever moves blocks meanwhile (balancing, defragmentation, deduplication)
    // keeps the bytes but not the addresses, and an address that has just been left might be taken for the other's.
    let first = look()?;
    if look()? != first {
        return Err(doubt(new, io::Error::other("they are being moved")));
    }
    Ok(first)
}

/// Fails unless an address means the same for both.
fn comparable(old: &Source, new: &Source) -> io::Result<()> {
    let (one, other) = (rustix::fs::fstatfs(&old.file)?, rustix::fs::fstatfs(&new.file)?);
    // Of a file on its realtime device XFS tells that device's number of blocks. Addresses there count from 0 again.
    let same = old.identity.device == new.identity.device && one.f_blocks == other.f_blocks;
    match same && trusted(old) && trusted(new) {
        true => Ok(()),
        false => Err(io::Error::other("the file system is not one where that is safe")),
    }
}

fn doubt(source: &Source, error: io::Error) -> SourceError {
    SourceError::Extents { path: source.path.clone(), error }
}

/// The map of a file, a few extents at a time.
fn pieces(source: &Source) -> impl Iterator<Item = Result<Piece, SourceError>> {
    let extents = Fiemap::with_flags(&source.file, FiemapFlags::SYNC).map(|found| {
        found.map(|e| Extent { logical: e.fe_logical, physical: e.fe_physical, length: e.fe_length, flags: e.fe_flags })
    });
    Pieces { extents, ahead: None, last: true, end: 0, at: 0, size: source.size }.map(|piece| piece.map_err(|e| doubt(source, e)))
}

/// An extent as FIEMAP tells it.
#[derive(Debug, Clone, Copy)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    flags: Flags,
}

/// Where a range of a file lies. The pieces of a file follow each other without gaps.
#[derive(Debug)]
struct Piece {
    range: Range<u64>,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Nowhere, or in blocks that were never written to.
    Zeros,
    At(u64),
    Unknown,
}

impl Piece {
    /// Where the byte at this offset lies.
    fn place_of(&self, offset: u64) -> Place {
        match self.place {
            Place::At(start) => Place::At(start + (offset - self.range.start)),
            place => place,
        }
    }
}

/// Turns extents into pieces that cover the file from 0 to `size`.
struct Pieces<I> {
    extents: I,
    /// The next extent, if there is a hole before it.
    ahead: Option<Extent>,
    /// The last extent seen says that it is the last one.
    last: bool,
    /// Where the last extent seen ends.
    end: u64,
    at: u64,
    size: u64,
}

impl<I: Iterator<Item = io::Result<Extent>>> Pieces<I> {
    /// The next extent. The kernel promises that they are in order and apart, and marks the last one; we do not go on without.
    fn extent(&mut self) -> io::Result<Option<Extent>> {
        if let Some(extent) = self.ahead.take() {
            return Ok(Some(extent));
        }
        let Some(extent) = self.extents.next().transpose()? else {
            return if self.last { Ok(None) } else { Err(io::Error::other("the last one is missing")) };
        };
        let in_order = extent.length > 0 && extent.logical >= self.end && extent.physical.checked_add(extent.length).is_some();
        self.end = match extent.logical.checked_add(extent.length) {
            Some(end) if in_order => end,
            _ => return Err(io::Error::other(format!("{extent:?} is impossible after byte {}", self.end))),
        };
        self.last = extent.flags.contains(Flags::LAST);
        Ok(Some(extent))
    }

    fn piece(&mut self) -> io::Result<Piece> {
        let start = self.at;
        let (end, place) = match self.extent()? {
            None => (self.size, Place::Zeros),
            Some(extent) if extent.logical > start => {
                self.ahead = Some(extent);
                (extent.logical, Place::Zeros)
            }
            Some(extent) => (self.end, place_of(&extent)),
        };
        // There may be extents beyond the end of a file.
        self.at = end.min(self.size);
        Ok(Piece { range: start..self.at, place })
    }
}

impl<I: Iterator<Item = io::Result<Extent>>> Iterator for Pieces<I> {
    type Item = io::Result<Piece>;

    fn next(&mut self) -> Option<io::Result<Piece>> {
        (self.at < self.size).then(|| self.piece())
    }
}

fn place_of(extent: &Extent) -> Place {
    if !UNDERSTOOD.contains(extent.flags) {
        Place::Unknown
    } else if extent.flags.contains(Flags::UNWRITTEN) {
        Place::Zeros
    } else if extent.physical == 0 {
        Place::Unknown // both file systems begin with a superblock
    } else {
        Place::At(extent.physical)
    }
}

/// Walks through both files at once.
fn compare<E>(
    mut old: impl Iterator<Item = Result<Piece, E>>,
    mut new: impl Iterator<Item = Result<Piece, E>>,
    old_size: u64,
    new_size: u64,
    granule: u64,
) -> Result<Vec<Range<u64>>, E> {
    let mut changed = Changed { ranges: Vec::new(), granule, size: new_size };
    let (mut before, mut after) = (old.next().transpose()?, new.next().transpose()?);
    let mut at = 0;
    while let (Some(one), Some(other)) = (&before, &after) {
        let end = one.range.end.min(other.range.end);
        let same = match (one.place_of(at), other.place_of(at)) {
            (Place::Zeros, Place::Zeros) => true,
            (Place::At(one), Place::At(other)) => one == other,
            _ => false,
        };
        if !same {
            changed.add(at..end);
        }
        at = end;
        if one.range.end == at {
            before = old.next().transpose()?;
        }
        if other.range.end == at {
            after = new.next().transpose()?;
        }
    }
    if old_size != new_size {
        changed.add(at..new_size);
    }
    Ok(changed.ranges)
}

/// Collects ranges that come in order.
struct Changed {
    ranges: Vec<Range<u64>>,
    granule: u64,
    size: u64,
}

impl Changed {
    fn add(&mut self, range: Range<u64>) {
        let start = range.start / self.granule * self.granule;
        let end = range.end.div_ceil(self.granule).saturating_mul(self.granule).min(self.size);
        match self.ranges.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ if start < end => self.ranges.push(start..end),
            _ => {}
        }
    }
}

/// Fuzz target: two maps, as a file system tells them or as none should. Wherever a byte may differ the answer says so.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let mut input = crate::fuzz::Input(data);
    let granule = [512, 4096, 1 << 20][input.below(3) as usize];
    let sizes = [0, 1].map(|_| input.number(3));
    let wild = input.below(4) == 0;
    let maps: [Vec<Extent>; 2] = std::array::from_fn(|_| {
        let mut at = 0;
        let extents = (0..input.below(12)).map(|_| match wild {
            true => Extent { logical: input.number(8), physical: input.number(8), length: input.number(8), flags: Flags::from_bits_retain(input.number(4) as u32) },
            false => {
                let (logical, length) = (at + input.below(3) * input.number(2), 1 + input.number(2));
                at = logical + length;
                let odd = [Flags::empty(), Flags::SHARED, Flags::UNWRITTEN, Flags::ENCODED][input.below(4) as usize];
                Extent { logical, physical: input.below(4) * 65_536 + logical % 65_536, length, flags: odd }
            }
        });
        let mut extents: Vec<Extent> = extents.collect();
        if let Some(last) = extents.last_mut().filter(|_| !wild || input.below(2) == 0) {
            last.flags |= Flags::LAST;
        }
        extents
    });
    let pieces = |map: &[Extent], size| {
        let extents = map.to_vec().into_iter().map(Ok::<_, io::Error>);
        Pieces { extents, ahead: None, last: true, end: 0, at: 0, size }
    };
    let [old, new] = &maps;
    let Ok(changed) = compare(pieces(old, sizes[0]), pieces(new, sizes[1]), sizes[0], sizes[1], granule) else { return };
    assert!(changed.iter().all(|range| range.start < range.end && range.end <= sizes[1] && range.start % granule == 0));
    assert!(changed.windows(2).all(|pair| pair[0].end < pair[1].start));
    // Of what comes in no order only as much is read as the file needs.
    if maps.iter().any(|map| map.windows(2).any(|pair| pair[0].logical.saturating_add(pair[0].length) > pair[1].logical)) {
        return;
    }
    let place = |map: &[Extent], at| match map.iter().find(|e| e.logical <= at && at - e.logical < e.length) {
        Some(extent) => Piece { range: extent.logical..extent.logical + extent.length, place: place_of(extent) }.place_of(at),
        None => Place::Zeros,
    };
    let edges = maps.iter().flatten().flat_map(|e| [e.logical, e.logical.saturating_add(e.length)]).chain(sizes).chain([1]);
    for at in edges.flat_map(|edge| [edge.wrapping_sub(1), edge]).filter(|at| *at < sizes[1]) {
        let same = at < sizes[0]
            && match (place(old, at), place(new, at)) {
                (Place::Zeros, Place::Zeros) => true,
                (Place::At(one), Place::At(other)) => one == other,
                _ => false,
            };
        assert!(same || changed.iter().any(|range| range.contains(&at)), "byte {at} may differ: {maps:?}, {sizes:?}: {changed:?}");
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // that is meant
mod tests {
    use super::*;
    use crate::source::tests::Random;

    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 48;

    /// A file system with few blocks, so that freed ones are soon used again.
    struct Disk {
        /// Of each block, how many files share it and what it holds.
        blocks: Vec<(u32, u64)>,
        random: Random,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Slot {
        Hole,
        Unwritten(usize),
        Data(usize),
        /// Its address says nothing.
        Compressed(usize),
    }

    type Image = Vec<Slot>;

    impl Disk {
        fn take(&mut self) -> usize {
            loop {
                let block = 1 + self.random.below(self.blocks.len() as u64 - 1) as usize;
                if self.blocks[block].0 == 0 {
                    self.blocks[block].0 = 1;
                    return block;
                }
            }
        }

        fn share(&mut self, slot: Slot, by: i32) {
            if let Slot::Unwritten(block) | Slot::Data(block) | Slot::Compressed(block) = slot {
                self.blocks[block].0 = self.blocks[block].0.checked_add_signed(by).unwrap();
            }
        }

        fn content(&self, slot: Option<&Slot>) -> Option<u64> {
            slot.map(|slot| match slot {
                Slot::Hole | Slot::Unwritten(_) => 0,
                Slot::Data(block) | Slot::Compressed(block) => self.blocks[*block].1,
            })
        }

        /// Changes the slot in place if nobody shares its block, else elsewhere.
        fn disturb(&mut self, slot: Slot) -> Slot {
            let kind = self.random.below(8);
            let block = match slot {
                Slot::Unwritten(block) | Slot::Data(block) if kind != 0 && self.blocks[block].0 == 1 => block,
                _ => {
                    self.share(slot, -1);
                    if kind == 0 {
                        return Slot::Hole;
                    }
                    self.take()
                }
            };
            if kind == 1 {
                return Slot::Unwritten(block);
            }
            self.blocks[block].1 = self.random.below(5);
            if kind == 2 { Slot::Compressed(block) } else { Slot::Data(block) }
        }

        /// As FIEMAP might tell it: neighbours are one extent or not, as it happens.
        fn extents(&mut self, image: &Image) -> Vec<io::Result<Extent>> {
            let mut extents: Vec<Extent> = Vec::new();
            for (logical, slot) in (0..).step_by(BLOCK as usize).zip(image) {
                let (physical, flags) = match *slot {
                    Slot::Hole => continue,
                    Slot::Unwritten(block) => (block, Flags::UNWRITTEN),
                    Slot::Data(block) => (block, Flags::empty()),
                    Slot::Compressed(_) => (7, Flags::ENCODED),
                };
                let shared = if self.random.below(2) == 0 { Flags::SHARED } else { Flags::empty() };
                let extent = Extent { logical, physical: physical as u64 * BLOCK, length: BLOCK, flags: flags | shared };
                match extents.last_mut() {
                    Some(last)
                        if last.logical + last.length == logical
                            && last.physical + last.length == extent.physical
                            && last.flags.bits() == extent.flags.bits()
                            && self.random.below(4) > 0 =>
                    {
                        last.length += BLOCK;
                    }
                    _ => extents.push(extent),
                }
            }
            if let Some(last) = extents.last_mut() {
                last.flags |= Flags::LAST;
            }
            extents.into_iter().map(Ok).collect()
        }
    }

    fn pieces(extents: Vec<io::Result<Extent>>, size: u64) -> Pieces<std::vec::IntoIter<io::Result<Extent>>> {
        Pieces { extents: extents.into_iter(), ahead: None, last: true, end: 0, at: 0, size }
    }

    #[test]
    fn what_differs_is_found_and_what_lies_where_it_lay_is_not() {
        let mut different = 0;
        for seed in 0..3000 {
            let mut disk = Disk { blocks: vec![(0, 0); 1 + 3 * BLOCKS as usize], random: Random(seed) };
            let mut image: Image = vec![Slot::Hole; 1 + disk.random.below(BLOCKS) as usize];
            let mut old: Option<Image> = None;
            for _ in 0..6 {
                for _ in 0..disk.random.below(40) {
                    let number = disk.random.below(image.len() as u64) as usize;
                    image[number] = disk.disturb(image[number]);
                }
                if disk.random.below(4) == 0 {
                    let len = 1 + disk.random.below(BLOCKS) as usize;
                    image.drain(len.min(image.len())..).collect::<Vec<_>>().into_iter().for_each(|slot| disk.share(slot, -1));
                    image.resize(len, Slot::Hole);
                }
                let new = image.clone();
                new.iter().for_each(|slot| disk.share(*slot, 1));
                if let Some(old) = old.replace(new.clone()) {
                    let (before, after) = (disk.extents(&old), disk.extents(&new));
                    let (old_size, new_size) = (old.len() as u64 * BLOCK, new.len() as u64 * BLOCK);
                    let granule = 1 + disk.random.below(3 * BLOCK);
                    let compare = |granule| {
                        let (before, after) = (before.iter().map(same).collect(), after.iter().map(same).collect());
                        super::compare(pieces(before, old_size), pieces(after, new_size), old_size, new_size, granule).unwrap()
                    };
                    let (exact, coarse) = (compare(BLOCK), compare(granule));
                    assert!(coarse.windows(2).all(|pair| pair[0].end < pair[1].start));
                    assert!(coarse.iter().all(|range| range.start % granule == 0 && (range.end % granule == 0 || range.end == new_size)));
                    for (number, slot) in new.iter().enumerate() {
                        let at = number as u64 * BLOCK;
                        let zeros = |slot: Option<&Slot>| matches!(slot, Some(Slot::Hole | Slot::Unwritten(_)));
                        let unchanged = match (old.get(number), slot) {
                            (Some(Slot::Data(one)), Slot::Data(other)) => one == other,
                            (one, other) => zeros(one) && zeros(Some(other)),
                        };
                        assert_eq!(exact.iter().any(|range| range.contains(&at)), !unchanged, "seed {seed}, block {number}");
                        if disk.content(old.get(number)) != disk.content(Some(slot)) {
                            different += 1;
                            assert!(!unchanged, "seed {seed}, block {number}: the rule is wrong");
                            assert!(coarse.iter().any(|range| range.start <= at && at + BLOCK <= range.end), "seed {seed}, block {number}");
                        }
                    }
                    old.iter().for_each(|slot| disk.share(*slot, -1));
                }
            }
        }
        assert!(different > 50_000, "{different}");
    }

    fn same(extent: &io::Result<Extent>) -> io::Result<Extent> {
        Ok(*extent.as_ref().unwrap())
    }

    #[test]
    fn whoever_works_in_granules_reads_the_end_anew_when_it_has_moved() {
        let whole = |length| Ok(Extent { logical: 0, physical: 1 << 20, length, flags: Flags::LAST });
        let changed = |old, new| {
            super::compare(pieces(vec![whole(1 << 20)], old), pieces(vec![whole(1 << 20)], new), old, new, 4096).unwrap()
        };
        assert!(changed(10_000, 10_000).is_empty());
        assert_eq!(changed(10_000, 20_000), [8192..20_000]);
        assert_eq!(changed(20_000, 10_000), [8192..10_000]);
        assert!(changed(20_000, 8192).is_empty());
        assert_eq!(changed(8192, 8193), [8192..8193]);
    }

    #[test]
    fn a_map_that_cannot_be_is_refused_and_a_flag_that_is_not_understood_is_a_change() {
        let extent = |logical, length, flags| Extent { logical, physical: 1 << 30, length, flags };
        let look = |extents: &[Extent]| {
            let read = || pieces(extents.iter().copied().map(Ok).collect(), 1 << 20);
            super::compare(read(), read(), 1 << 20, 1 << 20, 1)
        };
        let (none, last) = (Flags::empty(), Flags::LAST);
        assert!(look(&[]).unwrap().is_empty());
        assert!(look(&[extent(0, 4096, none), extent(4096, 8192, last)]).unwrap().is_empty());
        // Room beyond the end, and an extent that reaches there.
        assert!(look(&[extent(0, 2 << 20, none), extent(3 << 20, 4096, last)]).unwrap().is_empty());
        for bit in [1, 2, 3, 7, 8, 9, 10, 12, 20, 31] {
            let flags = last | Flags::from_bits_retain(1 << bit);
            assert_eq!(look(&[extent(4096, 8192, flags)]).unwrap(), [4096..12288], "{flags:?}");
        }
        assert_eq!(look(&[Extent { physical: 0, ..extent(4096, 8192, last) }]).unwrap(), [4096..12288]);
        for impossible in [
            vec![extent(8192, 4096, none), extent(0, 4096, last)],
            vec![extent(0, 4096, none), extent(0, 4096, last)],
            vec![extent(0, 8192, none), extent(4096, 8192, last)],
            vec![extent(0, 0, last)],
            vec![extent(4096, u64::MAX - 4095, last)],
            vec![Extent { physical: u64::MAX - 5, ..extent(0, 4096, last) }],
            vec![extent(0, 4096, none)],
        ] {
            look(&impossible).unwrap_err();
        }
        let mut failed = pieces(vec![Err(io::ErrorKind::PermissionDenied.into())], 4096);
        assert_eq!(failed.next().unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_file_system_that_is_not_known_is_not_compared() {
        let dir = std::path::Path::new("/dev/shm");
        let Ok(file) = tempfile::NamedTempFile::new_in(dir) else { return };
        std::fs::write(file.path(), b"bytes").unwrap();
        let source = Source::open(file.path()).unwrap();
        assert!(!trusted(&source));
        assert!(matches!(changes(&source, &source, 1), Err(SourceError::Extents { .. })));
    }
}
