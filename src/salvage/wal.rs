//! The write-ahead log (sqlite.org/fileformat2.html, 4): the newest version of each page that was committed.
//!
//! SQLite takes nothing that comes after the first damaged frame. Here it is left out alone: each frame's checksum goes on from
//! that of the one before, which is written in it, so the later ones can still be verified.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::pages::PAGE;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const FRAME: usize = FRAME_HEADER + PAGE;
/// The last bit: checksums read words as big endian.
const MAGIC: u32 = 0x377f_0682;

pub struct Wal {
    file: File,
    /// Where the newest committed version of each page lies.
    pages: BTreeMap<u32, u64>,
    damaged: u64,
}

type Sums = (u32, u32);

impl Wal {
    /// None if there is none, or nothing in it.
    pub fn open(path: &Path) -> io::Result<Option<Wal>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut header = [0; HEADER];
        if file.read_exact_at(&mut header, 0).is_err() {
            return Ok(None);
        }
        let mut wal = Wal { file, pages: BTreeMap::new(), damaged: 0 };
        for big in [false, true] {
            if wal.load(&header, big) {
                return Ok(Some(wal));
            }
        }
        Ok(None)
    }

    /// Where a page lies, if there is one of this number.
    pub fn place(&self, number: u32) -> Option<(&File, u64)> {
        self.pages.get(&number).map(|at| (&self.file, *at))
    }

    /// The numbers of the pages that the file is too short for.
    pub fn beyond(&self, in_file: u32) -> impl Iterator<Item = u32> {
        self.pages.range(in_file.saturating_add(1)..).map(|(number, _)| *number)
    }

    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Finds the committed pages. False if these checksums fit nothing.
    fn load(&mut self, header: &[u8; HEADER], big: bool) -> bool {
        let word = |bytes: &[u8], at: usize| bytes[at..at + 4].iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
        let salts = (word(header, 16), word(header, 20));
        let written = (word(header, 24), word(header, 28));
        let whole = word(header, 0) == MAGIC | u32::from(big) && checksum((0, 0), &header[..24], big) == written;
        let mut before = whole.then_some(written);
        let mut fresh: Vec<(u32, u64)> = Vec::new();
        let (mut bad, mut frame, mut at) = (u64::from(!whole), vec![0; FRAME], HEADER as u64);
        while self.file.read_exact_at(&mut frame, at).is_ok() {
            let (number, committed) = (word(&frame, 0), word(&frame, 4));
            let found = (word(&frame, 8), word(&frame, 12));
            let sums = (word(&frame, 16), word(&frame, 20));
            // Frames of an earlier round have neither of the header's numbers, unless it is the header that is damaged.
            let ours = found == salts || !whole && (found.0 == salts.0 || found.1 == salts.1);
            let good = ours && before.is_some_and(|sums_before| {
                checksum(checksum(sums_before, &frame[..8], big), &frame[FRAME_HEADER..], big) == sums
            });
            before = Some(sums);
            if good && number > 0 {
                fresh.push((number, at + FRAME_HEADER as u64));
                if committed > 0 {
                    self.pages.extend(fresh.drain(..));
                    self.damaged += std::mem::take(&mut bad);
                }
            } else {
                bad += 1;
            }
            at += FRAME as u64;
        }
        !self.pages.is_empty()
    }
}

/// Goes on with the sums over bytes, a multiple of 8.
fn checksum((mut one, mut two): Sums, bytes: &[u8], big: bool) -> Sums {
    let word = |bytes: [u8; 4]| if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    let (words, _) = bytes.as_chunks::<4>();
    for pair in words.chunks_exact(2) {
        one = one.wrapping_add(word(pair[0])).wrapping_add(two);
        two = two.wrapping_add(word(pair[1])).wrapping_add(one);
    }
    (one, two)
}
