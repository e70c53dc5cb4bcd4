//! The demo's disk: a raw image with a FAT file system and files in it, made, changed and read without mounting anything.
//!
//! The contents are made up but the same on every run: text that compresses, pictures that do not, and free space that is a
//! hole in the image.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use fatfs::{Dir, FileSystem, FormatVolumeOptions, FsOptions};

/// Of the whole image, in bytes.
pub const SIZE: u64 = 64 << 20;
const NOTES: usize = 16;
const NOTE_BYTES: usize = 256 << 10;
const PHOTOS: usize = 6;
const PHOTO_BYTES: usize = 2 << 20;
const LOG_BYTES: usize = 8 << 20;

/// A file that both versions of the disk have, with different text.
pub const NOTE: &str = "docs/note-01.txt";

/// Makes the image with its file system and files. Returns how many files there are and their bytes together.
pub fn make(path: &Path) -> io::Result<(usize, u64)> {
    let mut image = File::options().read(true).write(true).create_new(true).open(path)?;
    image.set_len(SIZE)?;
    fatfs::format_volume(&mut image, FormatVolumeOptions::new().volume_label(*b"COFFERDEMO "))?;
    with_files(path, |root| {
        for directory in ["docs", "logs", "photos"] {
            root.create_dir(directory)?;
        }
        for n in 1..=NOTES {
            write(root, &format!("docs/note-{n:02}.txt"), &note(n, 1))?;
        }
        for n in 1..=PHOTOS {
            write(root, &format!("photos/photo-{n}.jpg"), &Noise::new(n as u64).bytes(PHOTO_BYTES))?;
        }
        write(root, "logs/app.log", &log(0, LOG_BYTES))
    })?;
    Ok((NOTES + PHOTOS + 1, (NOTES * NOTE_BYTES + PHOTOS * PHOTO_BYTES + LOG_BYTES) as u64))
}

/// What a day does to a disk: one file edited, one grown, one added, one deleted.
pub fn change(path: &Path) -> io::Result<()> {
    with_files(path, |root| {
        root.remove(NOTE)?;
        write(root, NOTE, &note(1, 2))?;
        write(root, "photos/photo-new.jpg", &Noise::new(99).bytes(PHOTO_BYTES / 2))?;
        root.remove("docs/note-16.txt")?;
        let mut file = root.open_file("logs/app.log")?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        file.write_all(&log(1, 64 << 10))
    })
}

/// The first line of a text file in the image.
pub fn first_line(path: &Path, name: &str) -> io::Result<String> {
    let fs = FileSystem::new(File::options().read(true).write(true).open(path)?, FsOptions::new())?;
    let mut text = Vec::new();
    fs.root_dir().open_file(name)?.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}

/// BLAKE3 of the image's bytes, holes included.
pub fn hash(path: &Path) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

fn with_files(path: &Path, f: impl FnOnce(&Dir<'_, File>) -> io::Result<()>) -> io::Result<()> {
    let fs = FileSystem::new(File::options().read(true).write(true).open(path)?, FsOptions::new())?;
    f(&fs.root_dir())?;
    fs.unmount()
}

fn write(root: &Dir<'_, File>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = root.create_file(name)?;
    file.write_all(bytes)?;
    file.flush()
}

fn note(number: usize, version: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "backup", "volume", "chunk", "the", "of", "restore", "and", "schedule", "a", "disk", "is", "in", "segment", "to", "that", "host",
    ];
    let mut noise = Noise::new((number * 100 + version) as u64);
    let mut text = format!("note {number}, version {version}\n");
    while text.len() < NOTE_BYTES {
        text += WORDS[noise.next() as usize % WORDS.len()];
        text.push(if noise.next().is_multiple_of(12) { '\n' } else { ' ' });
    }
    text.into_bytes()
}

fn log(day: u64, bytes: usize) -> Vec<u8> {
    let mut noise = Noise::new(1000 + day);
    let mut text = String::new();
    for n in 0.. {
        if text.len() >= bytes {
            break;
        }
        text += &format!("day {day} request {n} took {} ms, status {}\n", noise.next() % 900, 200 + noise.next() % 5);
    }
    text.truncate(bytes);
    text.into_bytes()
}

/// xorshift64*: noise that is the same each time and does not compress.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn bytes(mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_holds_what_was_written_and_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        make(&one).unwrap();
        make(&two).unwrap();
        assert_eq!(hash(&one).unwrap(), hash(&two).unwrap());
        assert_eq!(std::fs::metadata(&one).unwrap().len(), SIZE);
        assert_eq!(first_line(&one, NOTE).unwrap(), "note 1, version 1");
        change(&one).unwrap();
        assert_ne!(hash(&one).unwrap(), hash(&two).unwrap());
        assert_eq!(first_line(&one, NOTE).unwrap(), "note 1, version 2");
        assert!(first_line(&one, "docs/note-16.txt").is_err());
    }
}
