//! The pages of the file, and of the WAL beside it, as they lie on the disk.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::wal::Wal;

/// Bytes of a page in every coffer. What the header says is not asked: it may be what is damaged.
pub const PAGE: usize = 65536;
/// The page at this byte of the file holds nothing: SQLite's locks lie there.
const LOCKS_AT: u64 = 1 << 30;
const LOCK_PAGE: u32 = (LOCKS_AT / PAGE as u64) as u32 + 1;
/// Bytes that are read at once where a page cannot be read as a whole.
const BLOCK: usize = 4096;
/// Of the pointer map: bytes of an entry, and pages that one page of it describes.
const POINTER: usize = 5;
const POINTERS: u32 = (PAGE / POINTER) as u32;

/// What the pointer map says of a page (sqlite.org/fileformat2.html, 1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Free,
    /// The first page that a row of this leaf goes on with.
    First(u32),
    /// A row goes on here from that page.
    Next(u32),
    Other,
}

pub struct Pages {
    file: File,
    in_file: u32,
    wal: Option<Wal>,
    unreadable: Cell<u64>,
}

impl Pages {
    pub fn open(path: &Path) -> io::Result<Pages> {
        let file = File::open(path)?;
        let in_file = u32::try_from(file.metadata()?.len().div_ceil(PAGE as u64)).unwrap_or(u32::MAX - 1);
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let wal = Wal::open(Path::new(&wal))?;
        Ok(Pages { file, in_file, wal, unreadable: Cell::default() })
    }

    /// The numbers of all pages that hold bytes.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        (1..=self.in_file).chain(self.wal.iter().flat_map(|wal| wal.beyond(self.in_file)))
    }

    pub fn count(&self) -> u64 {
        self.numbers().size_hint().0 as u64
    }

    /// Frames of the WAL that are not what was written.
    pub fn damaged_frames(&self) -> u64 {
        self.wal.as_ref().map_or(0, Wal::damaged)
    }

    /// Blocks that the disk could not read so far.
    pub fn unreadable_blocks(&self) -> u64 {
        self.unreadable.get()
    }

    /// Fills `out` from the byte `at` of a page on. What cannot be read is zeros: all is verified later. False if there is no
    /// such page.
    pub fn read(&self, number: u32, at: usize, out: &mut [u8]) -> bool {
        let Some((file, start)) = self.place(number) else { return false };
        if at + out.len() > PAGE {
            return false;
        }
        let start = start + at as u64;
        if read_to_end(file, start, out).is_err() {
            for (n, block) in out.chunks_mut(BLOCK).enumerate() {
                if read_to_end(file, start + (n * BLOCK) as u64, block).is_err() {
                    block.fill(0);
                    self.unreadable.set(self.unreadable.get() + 1);
                }
            }
        }
        true
    }

    pub fn page(&self, number: u32) -> Option<Vec<u8>> {
        let mut page = vec![0; PAGE];
        self.read(number, 0, &mut page).then_some(page)
    }

    /// The number that an overflow page begins with: the next one of its row; 0 at the end.
    pub fn next(&self, number: u32) -> u32 {
        let mut bytes = [0; 4];
        self.read(number, 0, &mut bytes);
        u32::from_be_bytes(bytes)
    }

    pub fn is_there(&self, number: u32) -> bool {
        self.place(number).is_some()
    }

    pub fn usage(&self, number: u32) -> Use {
        let Some((page, at)) = pointer_place(number) else { return Use::Other };
        let mut entry = [0; POINTER];
        self.read(page, at, &mut entry);
        let [kind, parent @ ..] = entry;
        match (kind, u32::from_be_bytes(parent)) {
            (2, 0) => Use::Free,
            (3, parent) => Use::First(parent),
            (4, parent) => Use::Next(parent),
            _ => Use::Other,
        }
    }

    fn place(&self, number: u32) -> Option<(&File, u64)> {
        if let Some(place) = self.wal.as_ref().and_then(|wal| wal.place(number)) {
            return Some(place);
        }
        (1..=self.in_file).contains(&number).then(|| (&self.file, u64::from(number - 1) * PAGE as u64))
    }
}

/// The page of the pointer map that describes a page, and where in it; None for those that it does not describe.
fn pointer_place(number: u32) -> Option<(u32, usize)> {
    let map = number.checked_sub(2)? / (POINTERS + 1) * (POINTERS + 1) + 2;
    let map = if map == LOCK_PAGE { map + 1 } else { map };
    let at = number.checked_sub(map + 1)? as usize * POINTER;
    (at + POINTER <= PAGE).then_some((map, at))
}

/// Reads; what lies beyond the file's end is zeros.
fn read_to_end(file: &File, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match file.read_at(out, at) {
            Ok(0) => {
                out.fill(0);
                return Ok(());
            }
            Ok(n) => {
                at += n as u64;
                out = &mut out[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pointer_map_is_where_sqlite_has_it() {
        assert_eq!((pointer_place(1), pointer_place(2)), (None, None));
        assert_eq!((pointer_place(3), pointer_place(4)), (Some((2, 0)), Some((2, 5))));
        assert_eq!(pointer_place(2 + POINTERS), Some((2, (POINTERS as usize - 1) * 5)));
        assert_eq!((pointer_place(3 + POINTERS), pointer_place(4 + POINTERS)), (None, Some((3 + POINTERS, 0))));
    }
}
