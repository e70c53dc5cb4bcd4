//! Rows of SQLite's tables, decoded so that no bytes whatever can do harm (sqlite.org/fileformat2.html, 1.5 and 2.1).

use std::ops::Range;

use super::pages::{PAGE, Pages};
use super::strays::Strays;

const INTERIOR: u8 = 5;
const LEAF: u8 = 13;
/// Bytes of the file's header, before the first page's own.
const FILE_HEADER: usize = 100;
/// Bytes of a row in an overflow page.
const IN_OVERFLOW: usize = PAGE - 4;
/// Bytes of a row that stay in its leaf, at most, and at least if it has more than that.
const MOST_LOCAL: usize = PAGE - 35;
const LEAST_LOCAL: usize = (PAGE - 12) * 32 / 255 - 23;
/// No row of a coffer is longer; SQLite takes none that is.
const LONGEST: u64 = 1 << 30;
/// No table of a coffer has more columns.
const MOST_COLUMNS: usize = 64;

/// Where a row lies: page and byte in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub page: u32,
    pub at: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Interior,
    Leaf,
}

fn header(number: u32) -> usize {
    if number == 1 { FILE_HEADER } else { 0 }
}

/// What a page of a table is; None for any other page.
pub fn kind(pages: &Pages, number: u32) -> Option<Kind> {
    let mut first = [0];
    pages.read(number, header(number), &mut first);
    match first[0] {
        INTERIOR => Some(Kind::Interior),
        LEAF => Some(Kind::Leaf),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u32> {
    bytes.get(at..at + len).map(|bytes| bytes.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)))
}

/// Where the cells of a page begin. `pointers`: bytes from the page's header to the list of them.
fn cells(page: &[u8], number_of_page: u32, pointers: usize) -> impl Iterator<Item = usize> {
    let start = header(number_of_page);
    let count = number(page, start + 3, 2).unwrap_or(0) as usize;
    let list = start + pointers;
    (0..count.min(PAGE / 2)).map_while(move |n| number(page, list + 2 * n, 2)).map(|at| at as usize)
}

/// The rows of a leaf.
pub fn rows(page: &[u8], number: u32) -> impl Iterator<Item = Row> {
    cells(page, number, 8).filter_map(move |at| Row::parse(page, Place { page: number, at: at as u16 }))
}

/// The pages below an interior page.
pub fn children(page: &[u8], page_number: u32) -> Vec<u32> {
    let below = cells(page, page_number, 12).filter_map(|at| number(page, at, 4));
    below.chain(number(page, header(page_number) + 8, 4)).collect()
}

/// One row of a table, as much of it as lies in its leaf.
pub struct Row {
    pub id: i64,
    pub place: Place,
    length: usize,
    local: Vec<u8>,
    overflow: Option<u32>,
    columns: Vec<Column>,
}

struct Column {
    serial: u64,
    bytes: Range<usize>,
}

impl Row {
    pub fn load(pages: &Pages, place: Place) -> Option<Row> {
        Row::parse(&pages.page(place.page)?, place)
    }

    fn parse(page: &[u8], place: Place) -> Option<Row> {
        let mut at = place.at as usize;
        let length = varint(page, &mut at)?;
        let id = varint(page, &mut at)? as i64;
        let length = (4..=LONGEST).contains(&length).then_some(length as usize)?;
        let in_leaf = match length {
            ..=MOST_LOCAL => length,
            _ => {
                let fitting = LEAST_LOCAL + (length - LEAST_LOCAL) % IN_OVERFLOW;
                if fitting <= MOST_LOCAL { fitting } else { LEAST_LOCAL }
            }
        };
        let local = page.get(at..at + in_leaf)?;
        let overflow = match in_leaf < length {
            true => Some(number(page, at + in_leaf, 4)?),
            false => None,
        };
        let columns = columns(local, length)?;
        Some(Row { id, place, length, local: local.to_vec(), overflow, columns })
    }

    /// What kind of value each column has (sqlite.org/fileformat2.html, 2.1): 0 for NULL, from 12 on the length of bytes or text.
    pub fn serials(&self) -> impl Iterator<Item = u64> + Clone {
        self.columns.iter().map(|column| column.serial)
    }

    /// Where the row goes on, page by page, as far as that can be found.
    pub fn chain(&self, pages: &Pages, strays: &Strays) -> Vec<u32> {
        let wanted = (self.length - self.local.len()).div_ceil(IN_OVERFLOW);
        let mut chain = Vec::new();
        let leaf = self.place.page;
        let others = || pages.page(leaf).map_or(Vec::new(), |page| rows(&page, leaf).filter_map(|row| row.overflow).collect());
        let mut next = self.overflow.map(|page| strays.first(pages, leaf, page, others));
        while let Some(page) = next.filter(|page| chain.len() < wanted && pages.is_there(*page)) {
            chain.push(page);
            next = strays.next(pages, page);
        }
        chain
    }

    /// Fills `out` with bytes of the row from `at` on. False if they are not all there.
    pub fn read(&self, pages: &Pages, chain: &[u32], mut at: usize, mut out: &mut [u8]) -> bool {
        if at.checked_add(out.len()).is_none_or(|end| end > self.length) {
            return false;
        }
        while !out.is_empty() {
            let n = match at.checked_sub(self.local.len()) {
                None => {
                    let n = out.len().min(self.local.len() - at);
                    out[..n].copy_from_slice(&self.local[at..at + n]);
                    n
                }
                Some(beyond) => {
                    let n = out.len().min(IN_OVERFLOW - beyond % IN_OVERFLOW);
                    let read = chain.get(beyond / IN_OVERFLOW).is_some_and(|p| pages.read(*p, 4 + beyond % IN_OVERFLOW, &mut out[..n]));
                    if !read {
                        return false;
                    }
                    n
                }
            };
            at += n;
            out = &mut out[n..];
        }
        true
    }

    /// Fills `out` with bytes of a column from `at` on.
    pub fn read_column(&self, pages: &Pages, chain: &[u32], column: usize, at: usize, out: &mut [u8]) -> bool {
        let Some(column) = self.columns.get(column) else { return false };
        let fits = at.checked_add(out.len()).is_some_and(|end| end <= column.bytes.len());
        fits && self.read(pages, chain, column.bytes.start + at, out)
    }

    /// All bytes of a column, if they are there and not more than `most`.
    pub fn bytes(&self, pages: &Pages, strays: &Strays, column: usize, most: usize) -> Option<Vec<u8>> {
        let range = self.columns.get(column)?.bytes.clone();
        if range.len() > most {
            return None;
        }
        let chain = if range.end > self.local.len() { self.chain(pages, strays) } else { Vec::new() };
        let mut bytes = vec![0; range.len()];
        self.read(pages, &chain, range.start, &mut bytes).then_some(bytes)
    }

    pub fn text(&self, pages: &Pages, strays: &Strays, column: usize, most: usize) -> Option<String> {
        self.bytes(pages, strays, column, most).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// An integer that lies in the leaf, as all do but those after long text.
    pub fn integer(&self, pages: &Pages, strays: &Strays, column: usize) -> Option<i64> {
        match self.columns.get(column)?.serial {
            8 => Some(0),
            9 => Some(1),
            1..=6 => {
                let bytes = self.bytes(pages, strays, column, 8)?;
                let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
                Some(bytes.iter().fold(if negative { -1 } else { 0 }, |all: i64, byte| all << 8 | i64::from(*byte)))
            }
            _ => None,
        }
    }
}

/// The columns of a record. None if they do not make up its length.
fn columns(local: &[u8], length: usize) -> Option<Vec<Column>> {
    let mut at = 0;
    let end = usize::try_from(varint(local, &mut at)?).ok()?;
    let (mut columns, mut body) = (Vec::new(), end);
    while at < end && columns.len() < MOST_COLUMNS {
        let serial = varint(local, &mut at)?;
        let len = match serial {
            0 | 8 | 9 => 0,
            1..=4 => serial,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            _ => (serial - 12) / 2,
        };
        let after = body.checked_add(usize::try_from(len).ok()?)?;
        columns.push(Column { serial, bytes: body..after });
        body = after;
    }
    (at == end && body == length).then_some(columns)
}

/// A number of one to nine bytes.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for n in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if n == 8 {
            return Some(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_to_nine_bytes() {
        for (bytes, value) in [(&[5][..], 5), (&[0x81, 0], 128), (&[0xff; 9], u64::MAX), (&[0x80, 0x80, 1], 1)] {
            let mut at = 0;
            assert_eq!((varint(bytes, &mut at), at), (Some(value), bytes.len()));
        }
        assert_eq!((varint(&[0x80], &mut 0), varint(&[], &mut 0)), (None, None));
    }

    #[test]
    fn any_bytes_are_rows_or_none() {
        let mut page = vec![0; PAGE];
        for seed in 0..200_u32 {
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut page);
            page[0] = LEAF;
            assert!(rows(&page, 7).count() <= PAGE / 2);
            assert!(rows(&page, 1).count() <= PAGE / 2);
            children(&page, 7);
        }
        assert!(rows(&page[..20], 7).count() <= PAGE / 2);
    }
}
