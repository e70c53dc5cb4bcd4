//! Volumes whose packs lie in a repository, through a store of objects in memory that can be made to fail.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::ingest::{Ingested, Known, Progress, ingest, transfer};
use super::path_tests::Bench;
use super::EngineError;
use crate::objects::{Cancel, Listed, ObjectError, Objects};
use crate::store::format::{CHUNK_SIZE, Hash, PACK_BYTES};
use crate::store::{Adopted, Depth, GcOptions, Home, Mark, Remote, Store, StoreError};

const CHUNK: usize = CHUNK_SIZE as usize;
const ID: i64 = 7;

/// Objects by name, shared by all hosts that use them, and what goes wrong.
#[derive(Clone)]
struct Cloud(Arc<Inner>, Cancel);

impl Default for Cloud {
    fn default() -> Cloud {
        Cloud(Arc::default(), Arc::new(|| false))
    }
}

#[derive(Default)]
struct Inner {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    puts: AtomicU64,
    /// Bytes that were got.
    got: AtomicU64,
    gets: AtomicU64,
    /// Answers to come that have a wrong bit.
    flipping: AtomicU64,
    /// Nothing is answered.
    silent: AtomicBool,
    /// From this put on all fail; 0: none.
    failing_from: AtomicU64,
    /// Done once, when an object whose name begins so has been put.
    after_put: Mutex<Option<(&'static str, Box<dyn FnOnce() + Send>)>>,
}

impl Objects for Cloud {
    fn put(&self, name: &str, body: &[u8]) -> Result<(), ObjectError> {
        let number = self.0.puts.fetch_add(1, Ordering::SeqCst) + 1;
        if self.0.failing_from.load(Ordering::SeqCst) != 0 && number >= self.0.failing_from.load(Ordering::SeqCst) {
            return Err(ObjectError::Unreachable { host: "cloud".into(), error: "the network is down".into() });
        }
        let known = self.0.objects.lock().unwrap().insert(name.to_string(), body.to_vec());
        assert!(known.is_none_or(|known| known == body), "{name} is written over with something else");
        let hook = self.0.after_put.lock().unwrap().take_if(|(prefix, _)| name.starts_with(*prefix));
        if let Some((_, hook)) = hook {
            hook();
        }
        Ok(())
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, limit: usize) -> Result<Vec<u8>, ObjectError> {
        self.0.gets.fetch_add(1, Ordering::SeqCst);
        while self.0.silent.load(Ordering::SeqCst) {
            if self.1() {
                return Err(ObjectError::Cancelled);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let objects = self.0.objects.lock().unwrap();
        let bytes = objects.get(name).ok_or_else(|| ObjectError::NotFound(name.into()))?;
        let bytes = match range {
            Some(range) => bytes.get(range.start as usize..(range.end as usize).min(bytes.len())).unwrap_or_default(),
            None => bytes,
        };
        assert!(bytes.len() <= limit);
        self.0.got.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        let mut bytes = bytes.to_vec();
        if self.0.flipping.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            bytes[0] ^= 1;
        }
        Ok(bytes)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, ObjectError> {
        Ok(self.0.objects.lock().unwrap().get(name).map(|bytes| bytes.len() as u64))
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.0.objects.lock().unwrap().remove(name);
        Ok(())
    }

    fn until(&self, cancel: Cancel) -> Box<dyn Objects> {
        Box::new(Cloud(self.0.clone(), cancel))
    }

    fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>, ObjectError> {
        let objects = self.0.objects.lock().unwrap();
        let found = objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        Ok(found.map(|(name, bytes)| Listed { name: name.clone(), size: bytes.len() as u64 }).take(3).collect())
    }
}

impl Cloud {
    fn names(&self, prefix: &str) -> Vec<String> {
        self.0.objects.lock().unwrap().keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    fn after_put(&self, prefix: &'static str, hook: impl FnOnce() + Send + 'static) {
        *self.0.after_put.lock().unwrap() = Some((prefix, Box::new(hook)));
    }

    fn uploads(&self) -> u64 {
        self.0.puts.load(Ordering::SeqCst)
    }
}

/// A coffer that uses the cloud.
struct Host {
    bench: Bench,
    remote: Arc<Remote>,
}

impl Host {
    fn new(cloud: &Cloud, writer: &str) -> Host {
        let bench = Bench::new();
        let mark = Mark { writer: writer.into(), epoch: 0 };
        Host::with(bench, cloud, mark)
    }

    fn with(bench: Bench, cloud: &Cloud, mark: Mark) -> Host {
        bench.store.remotes.replace([Remote::new(ID, "cloud".into(), cloud, 3, mark, Arc::default())].into_iter());
        let remote = bench.store.remote(ID).unwrap();
        Host { bench, remote }
    }

    fn taking(cloud: &Cloud, writer: &str, over: bool) -> Host {
        let host = Host::new(cloud, writer);
        host.remote.accept(host.remote.take(over).unwrap());
        host
    }

    fn try_back_up(&self, bytes: &[u8]) -> Result<i64, EngineError> {
        let source = self.bench.image("far.img", bytes);
        let ingested = self.bench.store.upload(&self.remote, &Arc::default(), |upload| {
            let previous = Some(self.bench.number("SELECT ifnull(max(id), 0) FROM volume_map"));
            let known = Known { previous, changed: None };
            let ingested = ingest(&self.bench.store, Home::Repository(upload), &source, &known, 3, &Progress::default(), &AtomicBool::new(false))?;
            upload.finish(ingested.segments())?;
            Ok::<_, EngineError>(ingested)
        })?;
        Ok(self.bench.commit(&ingested))
    }

    /// Stores what a map has in the cloud too.
    fn try_copy(&self, map: i64) -> Result<i64, EngineError> {
        let copied = self.bench.store.upload(&self.remote, &Arc::default(), |upload| {
            let copied = transfer(&self.bench.store, Home::Repository(upload), map, 3, &Progress::default(), &AtomicBool::new(false))?;
            upload.finish(copied.segments())?;
            Ok::<_, EngineError>(copied)
        })?;
        Ok(self.bench.commit(&copied))
    }

    fn copy_here(&self, map: i64) -> Result<Ingested, EngineError> {
        transfer(&self.bench.store, Home::Coffer, map, 3, &Progress::default(), &AtomicBool::new(false))
    }

    fn back_up(&self, bytes: &[u8]) -> i64 {
        self.try_back_up(bytes).unwrap()
    }

    fn collect(&self) {
        self.bench.gc(0.0);
        // What was compacted is sent again.
        self.bench.store.upload(&self.remote, &Arc::default(), |upload| upload.finish_all()).unwrap();
        assert_eq!(self.bench.store.sweep(&self.remote).unwrap(), 0);
        self.bench.store.empty_trash(&self.remote, true, &AtomicBool::new(false)).unwrap();
    }

    /// Looks at one chunk of each pack. Returns how many chunks are found damaged.
    fn sample(&self) -> usize {
        let packs = self.bench.store.scrub_due(i64::MAX, (i64::MIN, 0), 1000).unwrap();
        let look = |pack| self.bench.store.scrub_pack(pack, Depth::Sample, |_| Ok(())).unwrap().unwrap().bad.len();
        packs.iter().map(|due| look(due.pack)).sum()
    }

    fn empty_trash(&self) -> Result<u64, StoreError> {
        self.bench.store.empty_trash(&self.remote, true, &AtomicBool::new(false))
    }

    fn adopt(&self) -> Adopted {
        self.bench.store.adopt(&self.remote, &AtomicBool::new(false), &|_| {}).unwrap()
    }

    /// A volume of this content, of which only the objects are known.
    fn take_in(&self, adopted: &Adopted, bytes: &[u8], (names, hash): &(Vec<Option<Hash>>, Hash)) -> Option<i64> {
        self.bench.write(|tx| Store::adopt_map(tx, ID, adopted, bytes.len() as u64, CHUNK_SIZE, names, hash))
    }

    fn assert_restores(&self, map: i64, bytes: &[u8]) {
        assert!(self.bench.restore(map, bytes.len()).unwrap() == bytes);
    }
}

fn random(seed: u64, chunks: usize) -> Vec<u8> {
    let mut bytes = vec![0; chunks * CHUNK];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_volume_goes_to_the_repository_and_comes_back() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let mut bytes = random(1, 100);
    bytes[20 * CHUNK..30 * CHUNK].fill(0);
    let first = host.back_up(&bytes);
    assert_eq!(host.bench.number("SELECT count(*) FROM pack"), 0, "packs leave the coffer when they are sent");
    assert_eq!(cloud.names("packs/").len(), 90usize.div_ceil(PACK_BYTES / CHUNK));
    assert_eq!(cloud.names("segments/").len(), 1);
    let sent = cloud.uploads();
    let again = host.back_up(&bytes);
    assert_eq!(cloud.uploads(), sent, "nothing has changed");
    bytes[50 * CHUNK] ^= 1;
    let second = host.back_up(&bytes);
    assert_eq!(cloud.uploads(), sent + 2, "one pack and one segment");
    host.assert_restores(second, &bytes);
    bytes[50 * CHUNK] ^= 1;
    host.assert_restores(first, &bytes);
    host.assert_restores(again, &bytes);
    assert!(host.bench.store.check_map(second, &|_| {}, &AtomicBool::new(false)).unwrap().corrupt.is_empty());
}

#[test]
fn what_lies_in_the_coffer_is_not_shared_with_a_repository() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 40);
    let here = host.bench.back_up(&bytes);
    let there = host.back_up(&bytes);
    host.bench.delete(here);
    host.bench.gc(0.0);
    assert_eq!(host.bench.number("SELECT count(*) FROM pack"), 0);
    host.assert_restores(there, &bytes);
    let here = host.bench.back_up(&bytes);
    host.bench.delete(there);
    host.collect();
    assert!(cloud.names("packs/").is_empty() && cloud.names("segments/").is_empty());
    host.assert_restores(here, &bytes);
}

#[test]
fn what_was_sent_before_a_failure_is_not_sent_again() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 400);
    let packs = 400usize.div_ceil(PACK_BYTES / CHUNK);
    cloud.0.failing_from.store(cloud.uploads() + 6, Ordering::SeqCst);
    let error = host.try_back_up(&bytes).err().unwrap();
    assert!(error.to_string().contains("repository cloud: cloud cannot be reached: the network is down"), "{error}");
    assert_eq!(host.bench.number("SELECT count(*) FROM volume_map"), 0);
    cloud.0.failing_from.store(0, Ordering::SeqCst);
    let mark = host.remote.mark();
    let host = Host::with(host.bench.reopen(), &cloud, mark);
    let map = host.back_up(&bytes);
    assert_eq!(cloud.names("packs/").len(), packs);
    host.assert_restores(map, &bytes);
}

#[test]
fn little_is_got_where_little_is_needed() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    host.back_up(&random(1, 200));
    // A volume that shares two chunks far apart with the other.
    let mut bytes = random(1, 200);
    bytes[CHUNK..150 * CHUNK].fill(0);
    bytes[151 * CHUNK..].fill(0);
    let map = host.back_up(&bytes);
    let before = cloud.0.got.load(Ordering::SeqCst);
    host.assert_restores(map, &bytes);
    let got = cloud.0.got.load(Ordering::SeqCst) - before;
    assert!(got <= 2 * CHUNK as u64, "{got}");
}

#[test]
fn all_is_got_once_and_in_large_ranges() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let mut bytes = random(1, 1500);
    host.back_up(&bytes);
    // Now every tenth chunk lies in other packs.
    (0..1500).step_by(10).for_each(|chunk| bytes[chunk * CHUNK] ^= 1);
    let map = host.back_up(&bytes);
    let (got, gets) = (cloud.0.got.load(Ordering::SeqCst), cloud.0.gets.load(Ordering::SeqCst));
    host.assert_restores(map, &bytes);
    let (got, gets) = (cloud.0.got.load(Ordering::SeqCst) - got, cloud.0.gets.load(Ordering::SeqCst) - gets);
    let packs = cloud.names("packs/").len() as u64;
    // A chunk that is another now is brought with what lies on both sides of it.
    assert!(got <= (bytes.len() + 150 * CHUNK) as u64 && gets <= 2 * packs, "{got} bytes in {gets} of {packs} packs");
}

#[test]
fn what_suffers_on_its_way_is_got_again_and_is_no_damage() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 60);
    let map = host.back_up(&bytes);
    cloud.0.flipping.store(1, Ordering::SeqCst);
    host.assert_restores(map, &bytes);
    assert_eq!(cloud.0.flipping.load(Ordering::SeqCst), 0);
    let sent = cloud.uploads();
    host.back_up(&bytes);
    assert_eq!(cloud.uploads(), sent, "what is sound there is shared as before");
    cloud.0.flipping.store(u64::MAX, Ordering::SeqCst);
    let error = host.bench.restore(map, bytes.len()).unwrap_err();
    assert!(matches!(error, EngineError::Corrupt { .. }), "{error}");
}

#[test]
fn a_restore_that_is_cancelled_does_not_wait_for_the_repository() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 200);
    let map = host.back_up(&bytes);
    cloud.0.silent.store(true, Ordering::SeqCst);
    let asked = cloud.0.gets.load(Ordering::SeqCst);
    let cancel = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let check = scope.spawn(|| host.bench.store.check_map(map, &|_| {}, &cancel));
        while cloud.0.gets.load(Ordering::SeqCst) == asked {
            std::thread::yield_now();
        }
        cancel.store(true, Ordering::SeqCst);
        check.join().unwrap()
    });
    assert!(matches!(result, Err(StoreError::Cancelled)), "{result:?}");
}

#[test]
fn collection_sends_what_is_left_of_a_pack_again_and_then_removes_the_old_one() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 64);
    let first = host.back_up(&bytes);
    let mut other = bytes.clone();
    for chunk in (0..64).filter(|chunk| chunk % 4 != 0) {
        other[chunk * CHUNK] ^= 1;
    }
    let second = host.back_up(&other);
    let before = cloud.names("packs/");
    host.bench.delete(first);
    host.bench.gc(0.0);
    assert!(host.bench.number("SELECT count(*) FROM pack WHERE id IN (SELECT id FROM pack_toc WHERE staged)") > 0);
    assert_eq!(cloud.names("packs/"), before, "the old ones stay until the new ones are there");
    host.assert_restores(second, &other);
    host.collect();
    assert_eq!(host.bench.number("SELECT count(*) FROM pack"), 0);
    assert_eq!(host.bench.number("SELECT count(*) FROM trash"), 0);
    let after = cloud.names("packs/");
    assert_eq!(after.len(), before.len());
    assert_ne!(after, before);
    host.assert_restores(second, &other);
}

#[test]
fn another_host_restores_from_the_objects_alone() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let mut bytes = random(1, 1100);
    let first = host.back_up(&bytes);
    let old = bytes.clone();
    (0..40).for_each(|chunk| bytes[chunk * CHUNK] ^= 1);
    let second = host.back_up(&bytes);
    host.bench.delete(first);
    host.collect();
    let (names, hash) = host.bench.content(second);
    drop((host, old));
    let rescue = Host::new(&cloud, "two");
    let error = rescue.try_back_up(&bytes).err().unwrap();
    assert!(error.to_string().contains("belongs to another coffer"), "{error}");
    rescue.bench.back_up(&random(9, 50)); // so that packs have other numbers here
    let mark = rescue.remote.take(true).unwrap();
    assert_eq!(mark.epoch, 2);
    rescue.remote.accept(mark);
    let adopted = rescue.bench.store.adopt(&rescue.remote, &AtomicBool::new(false), &|_| {}).unwrap();
    assert!(adopted.unreadable.is_empty() && adopted.packs > 30 && adopted.segments == 2, "{adopted:?}");
    let map = rescue.bench.write(|tx| Store::adopt_map(tx, ID, &adopted, bytes.len() as u64, CHUNK_SIZE, &names, &hash)).unwrap();
    rescue.assert_restores(map, &bytes);
    let sent = cloud.uploads();
    let again = rescue.back_up(&bytes);
    assert_eq!(cloud.uploads(), sent, "all of it is known");
    rescue.assert_restores(again, &bytes);
    let twice = rescue.bench.store.adopt(&rescue.remote, &AtomicBool::new(false), &|_| {}).unwrap();
    assert_eq!((twice.packs, rescue.bench.number("SELECT count(*) FROM segment")), (0, 3));
}

#[test]
fn a_host_that_was_replaced_neither_writes_nor_deletes() {
    let cloud = Cloud::default();
    let stale = Host::taking(&cloud, "one", false);
    let bytes = random(1, 60);
    let map = stale.back_up(&bytes);
    let doomed = stale.back_up(&random(2, 60));
    stale.bench.delete(doomed);
    stale.bench.gc(0.0);
    let owner = Host::taking(&cloud, "two", true);
    let packs = cloud.names("packs/");
    for result in [
        stale.try_back_up(&random(3, 60)).map(drop).map_err(|e| e.to_string()),
        stale.bench.store.empty_trash(&stale.remote, true, &AtomicBool::new(false)).map(drop).map_err(|e| e.to_string()),
    ] {
        assert!(result.as_ref().is_err_and(|e| e.contains("has been taken over by another coffer")), "{result:?}");
    }
    assert_eq!(cloud.names("packs/"), packs);
    stale.assert_restores(map, &bytes);
    // What another that has not looked again has announced to delete is not built upon.
    let dying: Vec<String> = stale.bench.write(|tx| Ok(tx.prepare("SELECT object FROM trash")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?));
    cloud.put("trash/0000000000000001-one", dying.join("\n").as_bytes()).unwrap();
    let adopted = owner.bench.store.adopt(&owner.remote, &AtomicBool::new(false), &|_| {}).unwrap();
    assert!(!cloud.names("trash/").is_empty());
    assert_eq!(adopted.packs as usize, 60usize.div_ceil(PACK_BYTES / CHUNK));
    let again = owner.back_up(&random(2, 60));
    cloud.names("trash/").iter().for_each(|name| {
        let listed = cloud.get(name, None, 1 << 20).unwrap();
        String::from_utf8(listed).unwrap().lines().for_each(|object| cloud.delete(object).unwrap());
    });
    owner.assert_restores(again, &random(2, 60));
}

#[test]
fn a_lost_object_is_damage_and_an_unreachable_repository_is_not() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 60);
    let map = host.back_up(&bytes);
    let lost = cloud.names("packs/").remove(0);
    cloud.delete(&lost).unwrap();
    let error = host.bench.restore(map, bytes.len()).unwrap_err();
    assert!(matches!(error, EngineError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(&lost), "{error}");
    host.bench.store.remotes.replace([].into_iter());
    let error = host.bench.restore(map, bytes.len()).unwrap_err();
    assert!(matches!(error, EngineError::Store(StoreError::Repository(..))), "{error}");
}

#[test]
fn the_scrub_reads_a_sample_and_all_of_a_pack_in_which_something_is_wrong() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    host.back_up(&random(1, 100));
    let before = cloud.0.got.load(Ordering::SeqCst);
    assert_eq!(host.sample(), 0);
    let got = cloud.0.got.load(Ordering::SeqCst) - before;
    let packs = cloud.names("packs/");
    assert!(got <= (packs.len() * CHUNK) as u64, "{got} bytes for {} packs", packs.len());
    cloud.delete(&packs[3]).unwrap();
    assert_eq!(host.sample(), host.bench.number(&format!("SELECT slots FROM pack_toc WHERE object = '{}'", packs[3])) as usize);
}

#[test]
fn what_a_repository_has_lost_is_stored_there_anew_and_never_listed_from_elsewhere() {
    for in_the_coffer in [true, false] {
        let cloud = Cloud::default();
        let host = Host::taking(&cloud, "one", false);
        let bytes = random(1, 60);
        if in_the_coffer {
            host.bench.back_up(&bytes);
        }
        let map = host.back_up(&bytes);
        cloud.delete(&cloud.names("packs/")[1]).unwrap();
        let lost = host.sample();
        let volumes: &[(i64, &[u8])] = if in_the_coffer { &[] } else { &[(map, &bytes)] };
        assert_eq!(host.bench.mend(volumes), if in_the_coffer { (0, lost) } else { (lost, 0) });
        host.assert_restores(map, &bytes);
        host.bench.store.upload(&host.remote, &Arc::default(), |upload| upload.finish_all()).unwrap();
        let (names, hash) = host.bench.content(map);
        let rescue = Host::taking(&cloud, "two", true);
        let adopted = rescue.bench.store.adopt(&rescue.remote, &AtomicBool::new(false), &|_| {}).unwrap();
        let map = rescue.bench.write(|tx| Store::adopt_map(tx, ID, &adopted, bytes.len() as u64, CHUNK_SIZE, &names, &hash)).unwrap();
        rescue.assert_restores(map, &bytes);
    }
}

/// Packs of format 2 have deltas.
const DELTAS: &str = "SELECT count(*) FROM pack_toc WHERE format = 2 AND repository = 0";

#[test]
fn what_is_stored_here_goes_to_the_repository_without_its_source() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let mut bytes = random(1, 1500);
    bytes[100 * CHUNK..1300 * CHUNK].fill(0);
    bytes.truncate(1499 * CHUNK + 77);
    let first = host.bench.back_up(&bytes);
    let before = bytes.clone();
    (0..40).for_each(|chunk| bytes[chunk * CHUNK + 9] ^= 1);
    let second = host.bench.back_up(&bytes);
    assert!(host.bench.number(DELTAS) > 0);
    let progress = Progress::default();
    let copied = host.bench.store.upload(&host.remote, &Arc::default(), |upload| {
        let copied = transfer(&host.bench.store, Home::Repository(upload), second, 3, &progress, &AtomicBool::new(false))?;
        upload.finish(copied.segments())?;
        Ok::<_, EngineError>(copied)
    });
    let copied = copied.unwrap();
    assert_eq!(copied.hash(), host.bench.content(second).1, "it has the same name");
    assert_eq!(progress.read.into_inner(), bytes.len() as u64);
    assert_eq!((progress.stored.into_inner(), copied.added()), (copied.stored(), 300));
    let copy = host.bench.commit(&copied);
    drop(copied);
    assert_eq!(host.bench.number("SELECT count(*) FROM pack_toc WHERE format = 2 AND repository <> 0"), 0, "there are no deltas there");
    host.bench.delete(first);
    host.bench.delete(second);
    host.collect();
    assert_eq!(host.bench.number("SELECT count(*) FROM pack"), 0, "what it was copied from is gone");
    host.assert_restores(copy, &bytes);
    // And back again; what is known in its new place is not fetched.
    let here = host.bench.back_up(&before);
    let got = cloud.0.got.load(Ordering::SeqCst);
    let back = host.bench.commit(&host.copy_here(copy).unwrap());
    let got = cloud.0.got.load(Ordering::SeqCst) - got;
    assert!(got <= (40 * CHUNK + PACK_BYTES) as u64 + 100_000, "{got}");
    host.bench.delete(copy);
    host.bench.delete(here);
    host.collect();
    assert!(cloud.names("packs/").is_empty());
    host.assert_restores(back, &bytes);
}

#[test]
fn what_is_there_already_is_only_listed() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let mut bytes = random(1, 200);
    let first = host.bench.back_up(&bytes);
    host.try_copy(first).unwrap();
    let sent = cloud.uploads();
    host.try_copy(first).unwrap();
    assert_eq!(cloud.uploads(), sent, "all of it is there");
    bytes[7 * CHUNK] ^= 1;
    let second = host.bench.back_up(&bytes);
    let copy = host.try_copy(second).unwrap();
    assert_eq!(cloud.uploads(), sent + 2, "one pack and one segment");
    host.assert_restores(copy, &bytes);
}

#[test]
fn a_copy_that_was_interrupted_goes_on_where_it_was() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 400);
    let map = host.bench.back_up(&bytes);
    cloud.0.failing_from.store(cloud.uploads() + 6, Ordering::SeqCst);
    let error = host.try_copy(map).err().unwrap();
    assert!(error.to_string().contains("the network is down"), "{error}");
    cloud.0.failing_from.store(0, Ordering::SeqCst);
    let mark = host.remote.mark();
    let host = Host::with(host.bench.reopen(), &cloud, mark);
    let copy = host.try_copy(map).unwrap();
    assert_eq!(cloud.names("packs/").len(), 400usize.div_ceil(PACK_BYTES / CHUNK), "nothing is sent twice");
    host.assert_restores(copy, &bytes);
}

#[test]
fn what_is_damaged_is_not_copied_unless_it_is_there_already() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 100);
    let map = host.bench.back_up(&bytes);
    let whole = host.try_copy(map).unwrap();
    host.bench.flip("pack", "data", 2, CHUNK + 5);
    host.try_copy(map).unwrap();
    host.bench.delete(whole);
    host.bench.execute("DELETE FROM volume_map WHERE repository <> 0");
    host.collect();
    assert!(cloud.names("packs/").is_empty());
    let error = host.try_copy(map).err().unwrap();
    let place = (PACK_BYTES / CHUNK + 1) * CHUNK;
    assert!(matches!(&error, EngineError::Corrupt { offset, .. } if *offset == place as u64), "{error:?}");
    // It is stored anew, in place, from where it is whole.
    let again = host.back_up(&bytes);
    let mended = host.copy_here(again).unwrap();
    assert_eq!(mended.added(), 1);
    host.assert_restores(map, &bytes);
}

#[test]
fn the_size_of_chunks_is_kept() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let small = CHUNK / 4;
    let bytes = random(3, 10)[..9 * CHUNK + 100].to_vec();
    // As an older format has stored it.
    let ingest = host.bench.store.begin(Home::Coffer, None).unwrap();
    let old = host.bench.store.store_in_chunks_of(ingest, &bytes, small as u32);
    let map = host.bench.write(|tx| old.commit(tx));
    let copy = host.try_copy(map).unwrap();
    assert_eq!(host.bench.number(&format!("SELECT chunk_size FROM volume_map WHERE id = {copy}")), small as i64);
    assert_eq!(host.bench.content(copy).1, host.bench.content(map).1);
    host.bench.delete(map);
    host.collect();
    host.assert_restores(copy, &bytes);
}

#[test]
fn nothing_is_removed_as_long_as_something_waits_to_be_sent() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 64);
    let first = host.back_up(&bytes);
    let mut other = bytes.clone();
    (0..64).filter(|chunk| chunk % 4 != 0).for_each(|chunk| other[chunk * CHUNK] ^= 1);
    let second = host.back_up(&other);
    let content = host.bench.content(second);
    host.bench.delete(first);
    host.bench.gc(0.0);
    assert!(host.bench.store.is_staged(ID).unwrap() && host.bench.store.has_trash(ID).unwrap());
    let before = cloud.names("");
    assert_eq!(host.empty_trash().unwrap(), 0);
    assert_eq!(cloud.names(""), before);
    // At every moment the objects alone give back what is there.
    let rescue = Host::taking(&cloud, "two", true);
    let map = rescue.take_in(&rescue.adopt(), &other, &content).unwrap();
    rescue.assert_restores(map, &other);
}

#[test]
fn a_host_that_is_replaced_while_it_announces_what_it_deletes_deletes_nothing() {
    let cloud = Cloud::default();
    let stale = Host::taking(&cloud, "one", false);
    let doomed = stale.back_up(&random(2, 60));
    stale.bench.delete(doomed);
    stale.bench.gc(0.0);
    let packs = cloud.names("packs/");
    let theirs = cloud.clone();
    cloud.after_put("trash/", move || drop(Host::taking(&theirs, "two", true)));
    let error = stale.empty_trash().unwrap_err();
    assert!(error.to_string().contains("has been taken over by another coffer"), "{error}");
    assert_eq!(cloud.names("packs/"), packs);
    assert!(cloud.names("trash/").is_empty(), "or the next one to attach would take it for true");
}

#[test]
fn what_a_host_may_be_deleting_is_not_built_upon_by_the_one_that_replaces_it() {
    let cloud = Cloud::default();
    let stale = Host::taking(&cloud, "one", false);
    let bytes = random(2, 60);
    let doomed = stale.back_up(&bytes);
    let content = stale.bench.content(doomed);
    stale.bench.delete(doomed);
    stale.bench.gc(0.0);
    // It has looked at the mark before the other one came, and sleeps now.
    let theirs = cloud.clone();
    let announced: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = announced.clone();
    cloud.after_put("trash/", move || {
        theirs.names("trash/").iter().for_each(|name| {
            noted.lock().unwrap().extend(String::from_utf8(theirs.get(name, None, 1 << 20).unwrap()).unwrap().lines().map(str::to_string));
        });
        Host::taking(&theirs, "two", true);
    });
    stale.empty_trash().unwrap_err();
    // Not this one, which has looked again, but one that did not.
    cloud.put("trash/0000000000000001-one", announced.lock().unwrap().join("\n").as_bytes()).unwrap();
    let owner = Host::taking(&cloud, "three", true);
    let adopted = owner.adopt();
    assert_eq!((adopted.packs, adopted.segments), (0, 0));
    assert_eq!(owner.take_in(&adopted, &bytes, &content), None);
    let again = owner.back_up(&bytes);
    // It wakes up.
    let announced = announced.lock().unwrap();
    assert!(announced.len() > 2);
    announced.iter().for_each(|object| cloud.delete(object).unwrap());
    owner.assert_restores(again, &bytes);
}

#[test]
fn two_hosts_that_have_compacted_one_pack_lose_no_chunk_of_it() {
    let cloud = Cloud::default();
    let stale = Host::taking(&cloud, "one", false);
    let bytes = random(1, 60);
    let whole = stale.back_up(&bytes);
    let part = |wanted: usize| {
        let mut part = bytes.clone();
        (0..60).filter(|chunk| chunk % 3 != wanted).for_each(|chunk| part[chunk * CHUNK..(chunk + 1) * CHUNK].fill(0));
        part
    };
    let (of_stale, of_owner) = (part(0), part(1));
    stale.back_up(&of_stale);
    let map = stale.back_up(&of_owner);
    let content = stale.bench.content(map);
    stale.bench.delete(whole);
    stale.bench.delete(map);
    stale.bench.gc(0.0);
    // One after the other.
    stale.bench.store.remotes.replace([Remote::new(ID, "cloud".into(), &cloud, 1, stale.remote.mark(), Arc::default())].into_iter());
    let remote = stale.bench.store.remote(ID).unwrap();
    // The stale one has just looked at the mark, and sends what is left of the packs for it.
    let (theirs, wanted, named) = (cloud.clone(), of_owner.clone(), content.clone());
    cloud.after_put("packs/", move || {
        let owner = Host::taking(&theirs, "two", true);
        let map = owner.take_in(&owner.adopt(), &wanted, &named).unwrap();
        owner.collect();
        owner.assert_restores(map, &wanted);
    });
    stale.bench.store.upload(&remote, &Arc::default(), |upload| upload.finish_all()).unwrap();
    let keys: Vec<String> = cloud.names("packs/").iter().map(|name| name[..22].to_string()).collect();
    assert!(keys.windows(2).any(|pair| pair[0] == pair[1]), "{keys:?}");
    let third = Host::taking(&cloud, "three", true);
    let map = third.take_in(&third.adopt(), &of_owner, &content).unwrap();
    third.assert_restores(map, &of_owner);
    third.collect();
    third.assert_restores(map, &of_owner);
}

#[test]
fn what_a_failed_backup_has_sent_stays_for_the_next_one_if_it_is_spared() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 100);
    let doomed = host.back_up(&bytes);
    host.bench.delete(doomed);
    let collect = |spared| {
        let options = GcOptions { dead_fraction: 0.3, pause: std::time::Duration::ZERO, cancel: &AtomicBool::new(false), spared };
        host.bench.store.gc(&options).unwrap().packs_dropped
    };
    assert_eq!(collect(vec![(ID, 0)]), 0);
    let sent = cloud.uploads();
    let map = host.back_up(&bytes);
    assert_eq!(cloud.uploads(), sent + 1, "the segment alone");
    host.assert_restores(map, &bytes);
    host.bench.delete(map);
    assert_eq!(collect(vec![(ID, i64::MAX), (ID + 1, 0)]) as usize, 100usize.div_ceil(PACK_BYTES / CHUNK));
}

#[test]
fn a_panic_while_a_pack_is_sent_ends_the_backup_and_no_later_one() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 100);
    cloud.after_put("packs/", || panic!("the test's own"));
    let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.try_back_up(&bytes).map(drop)));
    assert!(attempt.is_err());
    let map = host.back_up(&bytes);
    host.assert_restores(map, &bytes);
}

#[test]
fn nobody_takes_in_what_is_there_while_something_is_sent() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    host.bench.store.upload(&host.remote, &Arc::default(), |_| {
        assert!(host.remote.silence().is_none());
        Ok::<_, EngineError>(())
    }).unwrap();
    assert!(host.remote.silence().is_some());
}

#[test]
fn a_copy_of_the_coffer_may_not_write_beside_it() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let copy = Host::with(Bench::new(), &cloud, host.remote.mark());
    let kept = std::cell::Cell::new(0);
    let note = |epoch| { kept.set(epoch); Ok(()) };
    host.remote.renew(note).unwrap();
    assert_eq!((kept.get(), cloud.names("writer/").len()), (2, 1), "the former mark goes");
    let error = copy.try_back_up(&random(1, 10)).err().unwrap();
    assert!(error.to_string().contains("is newer than this coffer"), "{error}");
    assert!(copy.remote.renew(note).is_err());
    host.back_up(&random(1, 10));
    // Killed between the note and the mark.
    let next = Host::with(Bench::new(), &cloud, Mark { epoch: 3, ..host.remote.mark() });
    next.remote.renew(note).unwrap();
    assert_eq!((kept.get(), next.remote.mark().epoch), (3, 3));
    next.back_up(&random(2, 10));
    // The mark has come through, and the answer has not.
    cloud.after_put("writer/", || panic!("the test's own"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next.remote.renew(|_| Ok(())))).is_err());
    next.remote.renew(note).unwrap();
    next.back_up(&random(3, 10));
}

#[test]
fn who_is_replaced_while_the_last_object_is_stored_is_told() {
    let cloud = Cloud::default();
    let stale = Host::taking(&cloud, "one", false);
    let theirs = cloud.clone();
    cloud.after_put("backups/", move || drop(Host::taking(&theirs, "two", true)));
    let put = stale.bench.store.upload(&stale.remote, &Arc::default(), |upload| upload.put_last("backups/x", b"{}"));
    assert!(put.is_err_and(|e| e.to_string().contains("has been taken over by another coffer")));
}

#[test]
fn an_upload_ends_while_others_still_store_for_the_same_place() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let packs = 200usize.div_ceil(PACK_BYTES / CHUNK);
    let source = host.bench.image("far.img", &random(1, 200));
    let others = ingest(&host.bench.store, Home::Later(ID), &source, &Known::default(), 3, &Progress::default(), &AtomicBool::new(false)).unwrap();
    assert_eq!(host.bench.number("SELECT count(*) FROM pack_toc WHERE staged") as usize, packs);
    let before = cloud.uploads();
    host.bench.store.upload(&host.remote, &Arc::default(), |_| Ok::<_, EngineError>(())).unwrap();
    assert!(((cloud.uploads() - before) as usize) < packs, "what waits is sent by who needs it");
    drop(others);
}

#[test]
fn a_place_where_nobody_has_ever_written_is_no_damage() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 60);
    let map = host.back_up(&bytes);
    // Not mounted.
    let objects = std::mem::take(&mut *cloud.0.objects.lock().unwrap());
    let error = host.bench.restore(map, bytes.len()).unwrap_err();
    assert!(error.to_string().contains("is it mounted"), "{error}");
    *cloud.0.objects.lock().unwrap() = objects;
    host.assert_restores(map, &bytes);
    assert_eq!(host.sample(), 0);
}

#[test]
fn a_pack_that_was_cut_short_is_not_taken_in() {
    let cloud = Cloud::default();
    let host = Host::taking(&cloud, "one", false);
    let bytes = random(1, 60);
    let map = host.back_up(&bytes);
    let content = host.bench.content(map);
    let cut = cloud.names("packs/").remove(0);
    cloud.0.objects.lock().unwrap().get_mut(&cut).unwrap().pop();
    let rescue = Host::taking(&cloud, "two", true);
    let adopted = rescue.adopt();
    assert!(adopted.unreadable.contains(&cut), "{adopted:?}");
    assert_eq!(rescue.take_in(&adopted, &bytes, &content), None);
}
