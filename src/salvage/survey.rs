//! What is in the file: first what the trees of its tables lead to, then what no tree leads to any more, known by its shape.

use std::collections::HashSet;

use super::btree::{self, Kind, Place, Row};
use super::pages::{Pages, Use};
use super::strays::Strays;
use crate::store::format::{ENTRY_BYTES, Hash};

/// Columns with uuids hold text of 32 bytes, those with hashes 32 bytes; as SQLite writes their kinds.
const TEXT_32: u64 = 13 + 2 * 32;
const BYTES_32: u64 = 12 + 2 * 32;
/// Bytes of a name or an identifier that are read.
const LONGEST_NAME: usize = 255;

/// What a row is, by the number and kinds of its columns: no two tables of a coffer have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Pack,
    Toc,
    Segment,
    Map,
    Backup,
    Part,
}

impl Shape {
    fn of(row: &Row) -> Option<Shape> {
        let serials: Vec<u64> = row.serials().collect();
        let integer = |serial: u64| matches!(serial, 1..=6 | 8 | 9);
        let bytes = |serial: u64, multiple: u64| serial >= 12 && serial.is_multiple_of(2) && ((serial - 12) / 2).is_multiple_of(multiple);
        // What format 4 added to tables of the store, at their ends; rows that were written before do not have it.
        let place = |rest: &[u64]| match *rest {
            [repository, object, staged] => integer(repository) && integer(staged) && (object == 0 || object >= 13 && object % 2 == 1),
            _ => rest.is_empty(),
        };
        match serials[..] {
            [0, data] if bytes(data, 1) => Some(Shape::Pack),
            [0, format, slots, stored, entries, ref rest @ ..]
                if integer(format) && integer(slots) && integer(stored) && bytes(entries, ENTRY_BYTES as u64) && place(rest) =>
            {
                Some(Shape::Toc)
            }
            [0, BYTES_32, format, chunks, ref rest @ ..] if integer(format) && bytes(chunks, 8) && place(rest) => Some(Shape::Segment),
            [0, BYTES_32, size, chunk_size, segments, ref rest @ ..]
                if integer(size) && integer(chunk_size) && bytes(segments, 8) && rest.len() < 2 =>
            {
                Some(Shape::Map)
            }
            [0, TEXT_32, ..] if [BACKUP.columns, BACKUP_3.columns, BACKUP_1.columns].contains(&serials.len()) => Some(Shape::Backup),
            [0, TEXT_32, backup, ..] if integer(backup) => {
                let fits = |at: &PartColumns| serials.len() == at.columns && integer(serials[at.position]);
                (fits(&PART) || fits(&PART_1)).then_some(Shape::Part)
            }
            _ => None,
        }
    }
}

/// Which columns of `backup` matter. Older formats have fewer.
struct BackupColumns {
    columns: usize,
    created: usize,
    metadata: usize,
}

const BACKUP: BackupColumns = BackupColumns { columns: 22, created: 12, metadata: 19 };
const BACKUP_3: BackupColumns = BackupColumns { columns: 20, ..BACKUP };
const BACKUP_1: BackupColumns = BackupColumns { columns: 16, created: 9, metadata: 15 };

/// The same of `volume_backup`.
struct PartColumns {
    columns: usize,
    position: usize,
    name: usize,
    map: usize,
}

const PART: PartColumns = PartColumns { columns: 25, position: 5, name: 8, map: 13 };
const PART_1: PartColumns = PartColumns { columns: 11, position: 3, name: 5, map: 8 };

/// Rows by their ids. Of several with one id, those that a tree led to come first.
#[derive(Default)]
pub struct Rows(Vec<(i64, Place)>);

impl Rows {
    fn sort(&mut self) {
        self.0.sort_by_key(|(id, _)| *id);
        self.0.dedup();
    }

    /// All rows of this id.
    pub fn of(&self, id: i64) -> impl Iterator<Item = Place> {
        let from = self.0.partition_point(|(at, _)| *at < id);
        self.0[from..].iter().take_while(move |(at, _)| *at == id).map(|(_, place)| *place)
    }

    /// One row of each id.
    pub fn first_of_each(&self) -> impl Iterator<Item = (i64, Place)> {
        self.0.chunk_by(|a, b| a.0 == b.0).filter_map(|rows| rows.first()).copied()
    }
}

/// What the catalog says of a volume in a backup.
#[derive(Debug, Clone)]
pub struct Part {
    pub uuid: String,
    pub map: i64,
    pub position: i64,
    pub name: String,
    pub backup: Option<Backup>,
}

#[derive(Debug, Clone)]
pub struct Backup {
    pub uuid: String,
    /// Milliseconds since 1970.
    pub created: i64,
    /// Name of the instance; None of a volume's backup or snapshot.
    pub instance: Option<String>,
}

#[derive(Default)]
pub struct Survey {
    pub packs: Rows,
    pub tocs: Rows,
    pub segments: Rows,
    pub maps: Rows,
    pub strays: Strays,
    backups: Rows,
    parts: Rows,
    /// The names of all segments, which tell one whose id was lost.
    pub segment_names: Vec<(Hash, Place)>,
    /// Rows that no tree led to.
    pub found: u64,
}

impl Survey {
    pub fn new(pages: &Pages, progress: &dyn Fn(u64, u64)) -> Survey {
        let mut survey = Survey::default();
        let seen = survey.walk(pages);
        let total = pages.count();
        for (n, number) in pages.numbers().enumerate() {
            if n.is_multiple_of(256) {
                progress(n as u64, total);
            }
            let goes_on = survey.strays.note(pages, number);
            let unknown = !goes_on && !seen.contains(&number) && pages.usage(number) != Use::Free;
            if unknown && btree::kind(pages, number) == Some(Kind::Leaf) {
                survey.found += survey.take_leaf(pages, number);
            }
        }
        survey.strays.sort();
        for rows in [
            &mut survey.packs, &mut survey.tocs, &mut survey.segments, &mut survey.maps, &mut survey.backups, &mut survey.parts,
        ] {
            rows.sort();
        }
        survey.segment_names = survey.segments.0.iter().filter_map(|(_, place)| Some((survey.hash(pages, *place)?, *place))).collect();
        survey
    }

    /// Follows the trees of all tables. Returns their pages.
    fn walk(&mut self, pages: &Pages) -> HashSet<u32> {
        let mut seen = HashSet::new();
        let mut roots = Vec::new();
        for leaf in leaves(pages, 1, &mut seen) {
            let Some(page) = pages.page(leaf) else { continue };
            roots.extend(btree::rows(&page, leaf).filter_map(|row| {
                let no = Strays::default();
                let table = row.text(pages, &no, 0, LONGEST_NAME)? == "table";
                u32::try_from(row.integer(pages, &no, 3)?).ok().filter(|root| table && *root > 1)
            }));
        }
        for root in roots {
            for leaf in leaves(pages, root, &mut seen) {
                self.take_leaf(pages, leaf);
            }
        }
        seen
    }

    /// Takes the rows of a leaf that matter; returns how many.
    fn take_leaf(&mut self, pages: &Pages, number: u32) -> u64 {
        let Some(page) = pages.page(number) else { return 0 };
        let mut taken = 0;
        for row in btree::rows(&page, number) {
            let rows = match Shape::of(&row) {
                Some(Shape::Pack) => &mut self.packs,
                Some(Shape::Toc) => &mut self.tocs,
                Some(Shape::Segment) => &mut self.segments,
                Some(Shape::Map) => &mut self.maps,
                Some(Shape::Backup) => &mut self.backups,
                Some(Shape::Part) => &mut self.parts,
                None => continue,
            };
            rows.0.push((row.id, row.place));
            taken += 1;
        }
        taken
    }

    /// The name in the second column of a segment or map.
    pub fn hash(&self, pages: &Pages, place: Place) -> Option<Hash> {
        Row::load(pages, place)?.bytes(pages, &self.strays, 1, 32)?.try_into().ok()
    }

    /// What the catalog knows of volumes whose bytes were stored completely.
    pub fn parts(&self, pages: &Pages) -> Vec<Part> {
        self.parts.first_of_each().filter_map(|(_, place)| self.part(pages, place)).collect()
    }

    fn part(&self, pages: &Pages, place: Place) -> Option<Part> {
        let row = Row::load(pages, place)?;
        let at = if row.serials().count() == PART.columns { PART } else { PART_1 };
        let text = |column| row.text(pages, &self.strays, column, LONGEST_NAME);
        let integer = |column| row.integer(pages, &self.strays, column);
        let backup = self.backups.of(integer(2)?).find_map(|place| self.backup(pages, place));
        Some(Part {
            uuid: text(1)?,
            map: integer(at.map)?,
            position: integer(at.position).unwrap_or(0),
            name: text(at.name).unwrap_or_default(),
            backup,
        })
    }

    fn backup(&self, pages: &Pages, place: Place) -> Option<Backup> {
        /// Of the JSON in a backup's row.
        const MOST_METADATA: usize = 4 << 20;
        let row = Row::load(pages, place)?;
        let at = if row.serials().count() == BACKUP_1.columns { BACKUP_1 } else { BACKUP };
        let metadata = row.bytes(pages, &self.strays, at.metadata, MOST_METADATA).unwrap_or_default();
        let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap_or_default();
        Some(Backup {
            uuid: row.text(pages, &self.strays, 1, LONGEST_NAME)?,
            created: row.integer(pages, &self.strays, at.created)?,
            instance: metadata["name"].as_str().map(str::to_owned),
        })
    }
}

/// The leaves of the tree below a page. What should be part of it and is not a page of a table any more is taken for a leaf.
fn leaves(pages: &Pages, root: u32, seen: &mut HashSet<u32>) -> Vec<u32> {
    let (mut leaves, mut open) = (Vec::new(), vec![root]);
    while let Some(number) = open.pop() {
        if !pages.is_there(number) || !seen.insert(number) {
            continue;
        }
        match btree::kind(pages, number) {
            Some(Kind::Interior) => open.extend(pages.page(number).map_or(Vec::new(), |page| btree::children(&page, number))),
            _ => leaves.push(number),
        }
    }
    leaves
}
