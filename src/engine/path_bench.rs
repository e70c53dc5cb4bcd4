//! Times one step of the data path on a real image. Not a test: it asserts nothing and runs only when asked for, by
//! `BENCH="ingest COFFER IMAGE" cargo test --release -- --ignored --nocapture path_bench` (also `ingest COFFER IMAGE PREVIOUS_MAP`, `emit COFFER MAP NEW_FILE`,
//! `check COFFER MAP`, `open COFFER`, `delete COFFER MAP`, `gc COFFER`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::emit::emit;
use super::ingest::{Known, Progress, ingest};
use crate::db::Db;
use crate::source::{Source, Target};
use crate::store::{GcOptions, Store};

#[test]
#[ignore = "a measurement on images that the caller names"]
fn path_bench() {
    let line = std::env::var("BENCH").unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let started = Instant::now();
    let db = Arc::new(Db::open(Path::new(words[1])).unwrap());
    let store = Store::open(db.clone()).unwrap();
    eprintln!("open {:.3} s", started.elapsed().as_secs_f64());
    let workers = std::env::var("WORKERS").map_or(4, |n| n.parse().unwrap());
    let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
    let map = || words[2].parse().unwrap();
    let started = Instant::now();
    match words[0] {
        "ingest" => {
            let known = Known { previous: words.get(3).map(|map| map.parse().unwrap()), changed: None };
            let done = ingest(&store, crate::store::Home::Coffer, &Source::open(Path::new(words[2])).unwrap(), &known, workers, &progress, &cancel).unwrap();
            let map = db.write(|tx| done.commit(tx)).unwrap();
            eprintln!("map {map}, new {} MiB, stored {} MiB", progress.new.load(std::sync::atomic::Ordering::Relaxed) >> 20, done.stored() >> 20);
        }
        "emit" => {
            let size = db.read(|c| c.query_row("SELECT size FROM volume_map WHERE id = ?1", [words[2]], |row| row.get::<_, i64>(0))).unwrap();
            let target = Target::create(Path::new(words[3]), size as u64).unwrap();
            emit(&store, map(), &target, true, workers, &progress, &cancel).unwrap();
        }
        "check" => eprintln!("{:?}", store.check_map(map(), &|_| {}, &cancel).unwrap()),
        "delete" => db.write(|tx| Store::delete_map(tx, map())).unwrap(),
        "gc" => {
            let options = GcOptions { dead_fraction: 0.0, pause: Duration::ZERO, cancel: &cancel, spared: Vec::new() };
            eprintln!("{:?}", store.gc(&options).unwrap());
        }
        _ => eprintln!("{:?}", store.stats().unwrap()),
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().nth(1).unwrap().to_string();
    eprintln!("{line}: {:.2} s, peak {} KiB, now {} KiB", started.elapsed().as_secs_f64(), memory("VmHWM"), memory("VmRSS"));
}
