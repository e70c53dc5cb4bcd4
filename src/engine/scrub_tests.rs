//! Scrubbing as the store does it: bits that change are found where they are, backups that need them are named, and whole data
//! takes the place of damaged data.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::path_tests::{Bench, CHUNK, Random, noise, random_image};
use crate::store::format::Address;
use crate::store::{Bad, Concern, Depth};

impl Bench {
    /// Reads all packs; each is verified now, in the order of their age.
    fn scrub(&self, at: i64) -> Vec<Bad> {
        let due = self.store.scrub_due(i64::MAX, (i64::MIN, 0), usize::MAX >> 1).unwrap();
        assert!(due.is_sorted_by_key(|due| (due.at, due.pack)));
        let mut found = Vec::new();
        for due in &due {
            found.extend(self.store.scrub_pack(due.pack, Depth::All, |_| Ok(())).unwrap().unwrap().bad);
        }
        self.store.set_verified(&due.iter().map(|due| due.pack).collect::<Vec<_>>(), at).unwrap();
        found
    }

    fn concern_of(&self, bad: Vec<Bad>) -> Concern {
        self.store.concern(bad, &AtomicBool::new(false)).unwrap()
    }

    fn concern(&self) -> Concern {
        self.concern_of(self.scrub(7))
    }

    /// (map, number of the chunk) of what backups need and cannot have.
    fn needed(&self) -> BTreeSet<(i64, u64)> {
        self.concern().places.iter().map(|place| (place.map, place.offset / CHUNK as u64)).collect()
    }

    /// Stores what is damaged anew from these volumes. Returns how many chunks came from them, and how many from copies.
    pub(super) fn mend(&self, volumes: &[(i64, &[u8])]) -> (usize, usize) {
        let concern = self.concern();
        let mut mender = self.store.mender().unwrap();
        let (mut put, mut copied) = (BTreeSet::new(), BTreeSet::new());
        for place in &concern.places {
            let bad = &concern.bad[&place.address];
            if put.contains(&place.address) || copied.contains(&place.address) {
                continue;
            }
            if mender.find_copy(place, bad).unwrap() {
                copied.insert(place.address);
                continue;
            }
            for (_, bytes) in volumes.iter().filter(|(map, _)| *map == place.map) {
                let raw = &bytes[place.offset as usize..][..place.length as usize];
                if mender.put(place, bad, raw).unwrap() {
                    put.insert(place.address);
                }
            }
        }
        mender.commit(&concern).unwrap();
        (put.len(), copied.len())
    }
}

#[test]
fn any_damage_to_a_pack_is_found_and_what_is_whole_is_not_blamed() {
    const PACK: u64 = 32;
    let entry = |slot: usize, byte: usize| slot * 56 + byte;
    let one: BTreeSet<u64> = BTreeSet::from([7]);
    let all: BTreeSet<u64> = (0..PACK).collect();
    for (table, column, byte, expected) in [
        ("pack", "data", Some(7 * CHUNK + 100), &one),
        ("pack_toc", "entries", Some(entry(7, 3)), &one),  // hash
        ("pack_toc", "entries", Some(entry(7, 33)), &one), // offset
        ("pack_toc", "entries", Some(entry(7, 37)), &one), // stored length
        ("pack_toc", "entries", Some(entry(7, 43)), &one), // raw length, far too large
        ("pack_toc", "entries", Some(entry(7, 44)), &one), // encoding that there is none of
        ("pack_toc", "format", None, &all),
        ("pack", "id", None, &all),
        ("pack_toc", "id", None, &all),
    ] {
        let bench = Bench::new();
        let map = bench.back_up(&noise(1, 100 * CHUNK));
        let other = bench.back_up(&noise(2, 10 * CHUNK));
        assert!(bench.scrub(7).is_empty());
        match byte {
            Some(byte) => bench.flip(table, column, 1, byte),
            None => bench.execute(&format!("UPDATE {table} SET {column} = 99 WHERE id = 1")),
        }
        let expected: BTreeSet<_> = expected.iter().map(|chunk| (map, *chunk)).collect();
        assert_eq!(bench.needed(), expected, "{table}.{column} {byte:?}");
        let _ = other;
    }
    // A living slot that looks like a dead one.
    let bench = Bench::new();
    let map = bench.back_up(&noise(1, 10 * CHUNK));
    bench.execute("UPDATE pack_toc SET entries = CAST(substr(entries, 1, 44) || x'00' || substr(entries, 46) AS BLOB)");
    assert_eq!(bench.needed(), BTreeSet::from([(map, 0)]));
}

#[test]
fn damage_is_named_for_every_backup_that_shares_it_and_healed_for_all() {
    let bench = Bench::new();
    let first = noise(1, 100 * CHUNK + 5000);
    let mut second = first.clone();
    second[50 * CHUNK..51 * CHUNK].copy_from_slice(&noise(2, CHUNK));
    let maps = [bench.back_up(&first), bench.back_up(&second), bench.back_up(&first)];
    let elsewhere = bench.back_up(&[vec![0; 2000 * CHUNK], first[7 * CHUNK..8 * CHUNK].to_vec()].concat());
    let short = bench.concern_of(Vec::new());
    assert!(short.places.is_empty() && !short.unsettled);
    bench.flip("pack", "data", 1, 7 * CHUNK + 100);
    let concern = bench.concern();
    assert!(!concern.unsettled);
    let found: Vec<_> = concern.places.iter().map(|place| (place.map, place.offset, place.length)).collect();
    let at = |map: i64| (map, 7 * CHUNK as u64, CHUNK as u64);
    assert_eq!(found, [at(maps[0]), at(maps[1]), at(maps[2]), (elsewhere, 2000 * CHUNK as u64, CHUNK as u64)]);
    // A volume that has other bytes there now does not help; one that has them heals all.
    let mut changed = second.clone();
    changed[7 * CHUNK] ^= 1;
    assert_eq!(bench.mend(&[(maps[1], &changed)]), (0, 0));
    assert_eq!(bench.mend(&[(maps[1], &changed), (maps[2], &first)]), (1, 0));
    assert!(bench.needed().is_empty());
    for (map, bytes) in maps.iter().zip([&first, &second, &first]) {
        assert!(bench.restore(*map, bytes.len()).unwrap() == *bytes);
    }
    let bench = bench.reopen();
    bench.gc(0.0);
    assert!(bench.scrub(7).is_empty(), "the damaged copy is gone");
    for (map, bytes) in maps.iter().zip([&first, &second, &first]) {
        assert!(bench.restore(*map, bytes.len()).unwrap() == *bytes);
    }
    // The odd end of a volume can be healed too.
    let (pack, end) = (4, 4 * CHUNK + 10);
    bench.flip("pack", "data", pack, end);
    assert_eq!(bench.mend(&[(maps[0], &first)]).0, 1);
    assert!(bench.needed().is_empty());
    maps.iter().chain([&elsewhere]).for_each(|map| bench.delete(*map));
    bench.gc(0.0);
    bench.assert_empty();
    assert_eq!(bench.number("SELECT count(*) FROM verified"), 0);
}

#[test]
fn a_damaged_base_is_told_of_its_deltas_too_and_each_is_healed_by_itself() {
    let bench = Bench::new();
    let before = noise(1, 20 * CHUNK);
    let first = bench.back_up(&before);
    let mut after = before.clone();
    after[7 * CHUNK..7 * CHUNK + 100].fill(1);
    let second = bench.back_up(&after);
    bench.flip("pack", "data", 1, 7 * CHUNK + 30_000);
    // As the base's own pack shows it.
    let found = bench.store.scrub_pack(1, Depth::All, |_| Ok(())).unwrap().unwrap();
    let concern = bench.concern_of(found.bad);
    let places: Vec<_> = concern.places.iter().map(|place| (place.map, place.offset)).collect();
    assert_eq!(places, [(first, 7 * CHUNK as u64), (second, 7 * CHUNK as u64)]);
    assert_eq!(concern.unused, 0);
    // As the delta's pack does.
    let found = bench.store.scrub_pack(2, Depth::All, |_| Ok(())).unwrap().unwrap();
    assert_eq!(found.bad.iter().map(|bad| bad.address).collect::<BTreeSet<_>>(), [Address::new(1, 7), Address::new(2, 0)].into());
    // The live volume has what the second backup has.
    assert_eq!(bench.mend(&[(first, &after), (second, &after)]), (1, 0));
    assert_eq!(bench.needed(), BTreeSet::from([(first, 7)]));
    assert!(bench.restore(second, after.len()).unwrap() == after);
    // A later backup of the old data stores it anew, in another segment, and older backups get it from there.
    let third = bench.back_up(&[&before[..], &noise(9, CHUNK)].concat());
    assert_eq!(bench.mend(&[]), (0, 1));
    assert!(bench.restore(first, before.len()).unwrap() == before);
    bench.delete(third);
    bench.gc(0.0);
    assert!(bench.scrub(7).is_empty());
    assert!(bench.restore(first, before.len()).unwrap() == before);
    assert!(bench.restore(second, after.len()).unwrap() == after);
}

#[test]
fn damage_that_nothing_needs_is_told_once_and_a_missing_base_of_garbage_never() {
    let bench = Bench::new();
    let before = noise(1, 20 * CHUNK);
    let first = bench.back_up(&before);
    let mut after = before.clone();
    after[7 * CHUNK..7 * CHUNK + 100].fill(1);
    after[8 * CHUNK..16 * CHUNK].copy_from_slice(&noise(3, 8 * CHUNK));
    let second = bench.back_up(&after);
    let rest = bench.back_up(&after[8 * CHUNK..16 * CHUNK]);
    bench.delete(first);
    bench.delete(second);
    // The pack of the base goes, the dead delta stays where it is.
    assert_eq!(bench.gc(0.9).packs_dropped, 1);
    let concern = bench.concern();
    assert_eq!((concern.places.len(), concern.unused), (0, 0));
    bench.delete(rest);
    let bench = Bench::new();
    let map = bench.back_up(&before);
    bench.delete(map);
    bench.flip("pack", "data", 1, 100);
    assert_eq!(bench.concern().unused, 1);
    assert_eq!(bench.concern().unused, 0);
}

#[test]
fn what_running_work_uses_is_not_settled() {
    let bench = Bench::new();
    let bytes = noise(1, 100 * CHUNK);
    bench.back_up(&bytes);
    let running = bench.ingest(&bench.image("a.img", &bytes)).unwrap();
    bench.flip("pack", "data", 1, 100);
    let concern = bench.concern();
    assert!(concern.unsettled && concern.places.len() == 1);
    let late = bench.commit(&running);
    drop(running);
    let concern = bench.concern();
    assert!(!concern.unsettled && concern.places.len() == 2);
    assert_eq!(bench.mend(&[(late, &bytes)]), (1, 0));
}

#[test]
fn the_oldest_come_first_and_new_packs_are_young() {
    let bench = Bench::new();
    bench.back_up(&noise(1, 100 * CHUNK));
    let now = crate::clock::now_ms();
    let oldest = bench.store.scrub_oldest().unwrap().unwrap();
    assert!((now - 60_000..=now).contains(&oldest));
    assert_eq!(bench.store.scrub_due_bytes(now - 60_000).unwrap(), 0);
    bench.execute("UPDATE verified SET at = 100 - pack");
    let due = |before, after, limit| -> Vec<_> { bench.store.scrub_due(before, after, limit).unwrap().iter().map(|due| (due.at, due.pack)).collect() };
    assert_eq!(due(100, (i64::MIN, 0), 2), [(96, 4), (97, 3)]);
    assert_eq!(due(100, (97, 3), 2), [(98, 2), (99, 1)]);
    assert_eq!(due(98, (i64::MIN, 0), 9), [(96, 4), (97, 3)]);
    bench.store.set_verified(&[4, 77], 200).unwrap();
    assert_eq!((bench.store.scrub_oldest().unwrap(), bench.number("SELECT count(*) FROM verified")), (Some(97), 4));
    assert!(bench.store.scrub_pack(77, Depth::All, |_| Ok(())).unwrap().is_none());
    assert_eq!(bench.store.scrub_due_bytes(99).unwrap(), 2 * (32 * CHUNK) as u64);
}

#[test]
fn nothing_is_blamed_beside_backups_deletions_and_collections() {
    let bench = Bench::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bench.gc(0.0);
            }
        });
        let scrubber = scope.spawn(|| {
            let mut packs = 0;
            while !stop.load(Ordering::Relaxed) {
                for due in bench.store.scrub_due(i64::MAX, (i64::MIN, 0), 1000).unwrap() {
                    let Some(report) = bench.store.scrub_pack(due.pack, Depth::All, |_| Ok(())).unwrap() else { continue };
                    packs += 1;
                    let concern = bench.concern_of(report.bad);
                    assert!(concern.places.is_empty() && concern.unused == 0, "{concern:?}");
                }
            }
            packs
        });
        let mut random = Random(5);
        let mut kept = std::collections::VecDeque::new();
        for _ in 0..60 {
            let bytes = random_image(&mut random);
            kept.push_back((bench.back_up(&bytes), bytes));
            if kept.len() > 4 {
                bench.delete(kept.pop_front().unwrap().0);
            }
        }
        stop.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        assert!(scrubber.join().unwrap() > 0);
        for (map, bytes) in kept {
            assert!(bench.restore(map, bytes.len()).unwrap() == bytes);
        }
    });
}
