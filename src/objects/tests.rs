//! What every place must do, tried on a directory here and, by tests/objects, on servers: COFFERD_TEST_OBJECTS names a file with
//! the settings of a place that is empty.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn opened(path: &Path) -> Box<dyn Objects> {
    let settings: Settings = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let credentials = settings.credentials.as_deref().map_or(Ok(Credentials::default()), Credentials::read).unwrap();
    open_with(&settings, &credentials).unwrap()
}

fn named() -> Box<dyn Objects> {
    opened(&PathBuf::from(std::env::var("COFFERD_TEST_OBJECTS").expect("COFFERD_TEST_OBJECTS names a file with settings")))
}

/// A directory with a prefix, and what keeps it.
fn directory() -> (tempfile::TempDir, Box<dyn Objects>) {
    let keep = tempfile::tempdir().unwrap();
    let settings: Settings = toml::from_str(&format!("kind = 'directory'\ndirectory = {:?}\nprefix = 'p/q'", keep.path())).unwrap();
    let objects = open_with(&settings, &Credentials::default()).unwrap();
    (keep, objects)
}

fn all(objects: &dyn Objects, prefix: &str) -> Vec<Listed> {
    let mut found: Vec<Listed> = Vec::new();
    loop {
        let after = found.last().map_or_else(String::new, |listed| listed.name.clone());
        let page = objects.list(prefix, &after).unwrap();
        if page.is_empty() {
            return found;
        }
        found.extend(page);
    }
}

fn names(listed: &[Listed]) -> Vec<&str> {
    listed.iter().map(|listed| listed.name.as_str()).collect()
}

fn noise(size: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn whole_objects_and_ranges(objects: &dyn Objects) {
    for size in [0, 1, 1000, 3 << 20] {
        let body = noise(size, 1);
        objects.put("packs/one", &body).unwrap();
        assert_eq!(objects.size("packs/one").unwrap(), Some(size as u64));
        assert_eq!(objects.get("packs/one", None, size).unwrap(), body);
        if size > 0 {
            assert!(matches!(objects.get("packs/one", None, size - 1), Err(ObjectError::TooLarge { .. })), "{size}");
        }
    }
    let (body, size) = (noise(3 << 20, 1), 3 << 20);
    for range in [0..1, 0..size, 1000..70_000, size - 1..size] {
        let wanted = &body[range.start as usize..range.end as usize];
        assert_eq!(objects.get("packs/one", Some(range.clone()), wanted.len()).unwrap(), wanted, "{range:?}");
        assert!(matches!(objects.get("packs/one", Some(range.clone()), wanted.len() - 1), Err(ObjectError::TooLarge { .. })), "{range:?}");
    }
    for range in [size - 1..size + 1, size..size + 1, 10 * size..11 * size] {
        assert!(matches!(objects.get("packs/one", Some(range.clone()), 4 << 20), Err(ObjectError::Short { .. })), "{range:?}");
    }
    objects.put("packs/one", b"other").unwrap();
    assert_eq!(objects.get("packs/one", None, 100).unwrap(), b"other");
    objects.delete("packs/one").unwrap();
}

fn what_is_not_there(objects: &dyn Objects) {
    assert!(matches!(objects.get("none", None, 10), Err(ObjectError::NotFound(_))));
    assert!(matches!(objects.get("none/at/all", Some(0..5), 10), Err(ObjectError::NotFound(_))));
    assert_eq!(objects.size("none").unwrap(), None);
    objects.delete("none").unwrap();
    assert_eq!(objects.list("none", "").unwrap(), []);
    for bad in ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a b", "a?b", "ä", "a\nb", &"n".repeat(513)] {
        assert!(matches!(objects.put(bad, b"x"), Err(ObjectError::Settings(_))), "{bad:?}");
        assert!(objects.get(bad, None, 1).is_err() && objects.size(bad).is_err() && objects.delete(bad).is_err(), "{bad:?}");
    }
}

/// A slash sorts between other characters, so a file system's own order is another.
fn lists_in_order(objects: &dyn Objects) {
    let mut wanted = ["l/a-b", "l/a.b", "l/a/b", "l/a/c/d", "l/a0", "l/A", "l/b", "l/b_1", "lx"];
    for name in wanted {
        objects.put(name, name.as_bytes()).unwrap();
    }
    wanted.sort_unstable();
    let found = all(objects, "l");
    assert_eq!(names(&found), wanted);
    assert!(found.iter().all(|listed| listed.size == listed.name.len() as u64), "{found:?}");
    assert_eq!(names(&all(objects, "l/a")), ["l/a-b", "l/a.b", "l/a/b", "l/a/c/d", "l/a0"]);
    assert_eq!(names(&all(objects, "l/a/")), ["l/a/b", "l/a/c/d"]);
    assert_eq!(names(&objects.list("l/", "l/a/b").unwrap()), ["l/a/c/d", "l/a0", "l/b", "l/b_1"]);
    // After a name that is not there.
    assert_eq!(names(&objects.list("l/", "l/a/bb").unwrap())[0], "l/a/c/d");
    assert_eq!(objects.list("l/a", "l/b").unwrap(), []);
    for name in wanted {
        objects.delete(name).unwrap();
    }
    assert_eq!(all(objects, ""), []);
}

fn many_threads(objects: &dyn Objects) {
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            scope.spawn(move || {
                let (name, body) = (format!("t/{thread}"), noise(300_000, thread));
                objects.put(&name, &body).unwrap();
                assert_eq!(objects.get(&name, None, body.len()).unwrap(), body);
                objects.delete(&name).unwrap();
            });
        }
    });
}

/// Random work beside a map that does the same.
fn random_work(objects: &dyn Objects, steps: usize) {
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for _ in 0..steps {
        let random = getrandom::u64().unwrap();
        let name = format!("r/{}", ["a", "a.b", "a/b", "c", "c-d/e"][(random % 5) as usize]).replace("a/b", "x/b");
        match random >> 8 & 3 {
            0 => {
                objects.delete(&name).unwrap();
                model.remove(&name);
            }
            1 => assert_eq!(objects.size(&name).unwrap(), model.get(&name).map(|body| body.len() as u64)),
            _ => {
                let body = noise((random >> 16 & 0xffff) as usize, random as u8);
                objects.put(&name, &body).unwrap();
                model.insert(name, body);
            }
        }
    }
    assert_eq!(names(&all(objects, "r/")), model.keys().collect::<Vec<_>>());
    for (name, body) in &model {
        assert_eq!(&objects.get(name, None, 1 << 20).unwrap(), body);
        objects.delete(name).unwrap();
    }
}

fn cancelled(objects: &dyn Objects) {
    objects.put("kept", &noise(1 << 20, 3)).unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    // In the middle of the transfer.
    let middle = objects.until(Arc::new(move || counter.fetch_add(1, Ordering::Relaxed) > 2));
    assert!(matches!(middle.put("never", &noise(8 << 20, 4)), Err(ObjectError::Cancelled)));
    let at_once = objects.until(Arc::new(|| true));
    assert!(matches!(at_once.get("kept", None, 1 << 20), Err(ObjectError::Cancelled)));
    assert_eq!(objects.size("never").unwrap(), None);
    assert_eq!(objects.size("kept").unwrap(), Some(1 << 20));
    objects.delete("kept").unwrap();
}

fn everything(objects: &dyn Objects, steps: usize) {
    whole_objects_and_ranges(objects);
    what_is_not_there(objects);
    lists_in_order(objects);
    many_threads(objects);
    random_work(objects, steps);
    cancelled(objects);
    try_out(objects).unwrap();
    assert_eq!(all(objects, ""), []);
}

#[test]
#[ignore = "tests/objects names a server"]
fn a_server_does_all_that_is_asked_of_a_place() {
    everything(&*named(), 40);
}

#[test]
fn a_directory_does_all_that_is_asked_of_a_place() {
    let (keep, objects) = directory();
    everything(&*objects, 300);
    let left: Vec<_> = std::fs::read_dir(keep.path().join("p/q")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_directory_is_listed_page_by_page() {
    let (keep, objects) = directory();
    objects.put("d/first", b"").unwrap();
    for n in 0..2500 {
        std::fs::write(keep.path().join(format!("p/q/d/{n:04}")), "").unwrap();
    }
    assert_eq!(objects.list("d/", "").unwrap().len(), PAGE);
    assert_eq!(all(&*objects, "").len(), 2501);
}

#[test]
fn what_others_left_in_a_directory_is_not_listed() {
    let (keep, objects) = directory();
    objects.put("a", b"1").unwrap();
    let inner = keep.path().join("p/q");
    std::fs::write(inner.join(".new-0123456789abcdef"), "cut").unwrap();
    std::fs::create_dir(inner.join("lost+found")).unwrap();
    std::fs::write(inner.join("lost+found/x"), "x").unwrap();
    std::os::unix::fs::symlink(inner.join("a"), inner.join("link")).unwrap();
    assert_eq!(names(&all(&*objects, "")), ["a"]);
}

#[test]
fn a_directory_that_is_not_mounted_is_not_made() {
    let (keep, objects) = directory();
    let path = keep.path().to_path_buf();
    drop(keep);
    assert!(matches!(objects.put("a", b"1"), Err(ObjectError::NoPlace(_))));
    assert!(matches!(objects.get("a", None, 1), Err(ObjectError::NoPlace(_))));
    assert!(matches!(objects.size("a"), Err(ObjectError::NoPlace(_))));
    assert!(matches!(objects.delete("a"), Err(ObjectError::NoPlace(_))));
    assert!(matches!(objects.list("", ""), Err(ObjectError::NoPlace(_))));
    assert!(!path.exists());
}

/// A kind whose lists are wrong.
struct Liar(Vec<Listed>);

impl Backend for Liar {
    fn put(&self, _: &str, _: &[u8], _: &Cancel) -> Result<(), ObjectError> {
        Ok(())
    }
    fn get(&self, _: &str, _: Option<Range<u64>>, _: usize, _: &Cancel) -> Result<Vec<u8>, ObjectError> {
        Ok(vec![0; 3])
    }
    fn size(&self, _: &str, _: &Cancel) -> Result<Option<u64>, ObjectError> {
        Ok(None)
    }
    fn delete(&self, _: &str, _: &Cancel) -> Result<(), ObjectError> {
        Ok(())
    }
    fn list(&self, _: &str, _: &str, _: &Cancel) -> Result<Vec<Listed>, ObjectError> {
        Ok(self.0.clone())
    }
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_errors() {
    let liar = |names: &[&str]| {
        let listed = names.iter().map(|name| Listed { name: (*name).to_owned(), size: 1 }).collect();
        Client { backend: Arc::new(Liar(listed)), place: "here".into(), prefix: "p/".into(), patience: Patience::of(Duration::ZERO), cancel: Arc::new(|| false) }
    };
    assert_eq!(names(&liar(&["p/a", "p/b"]).list("", "").unwrap()), ["a", "b"]);
    for wrong in [&["p/b", "p/a"][..], &["p/a", "p/a"], &["q/a"], &["p"]] {
        assert!(matches!(liar(wrong).list("", ""), Err(ObjectError::Unexpected { .. })), "{wrong:?}");
    }
    // A server that does not know `after` would make the walk endless.
    assert!(matches!(liar(&["p/a", "p/b"]).list("", "a"), Err(ObjectError::Unexpected { .. })));
    let liar = liar(&[]);
    assert_eq!(liar.get("a", Some(0..3), 3).unwrap(), [0; 3]);
    assert!(liar.get("a", Some(0..2), 3).is_err() && liar.get("a", Some(0..4), 4).is_err() && liar.get("a", None, 2).is_err());
}

/// Its puts end with a broken connection; what it says without a body is the reason.
struct Unread(Option<u16>);

impl Backend for Unread {
    fn put(&self, _: &str, _: &[u8], _: &Cancel) -> Result<(), ObjectError> {
        Err(ObjectError::Unreachable { host: "h".into(), error: "reset".into() })
    }
    fn get(&self, _: &str, _: Option<Range<u64>>, _: usize, _: &Cancel) -> Result<Vec<u8>, ObjectError> {
        Ok(Vec::new())
    }
    fn size(&self, _: &str, _: &Cancel) -> Result<Option<u64>, ObjectError> {
        match self.0 {
            Some(status) => Err(ObjectError::Refused { place: "p".into(), status, message: String::new(), remedy: String::new() }),
            None => Ok(None),
        }
    }
    fn delete(&self, _: &str, _: &Cancel) -> Result<(), ObjectError> {
        Ok(())
    }
    fn list(&self, _: &str, _: &str, _: &Cancel) -> Result<Vec<Listed>, ObjectError> {
        Ok(Vec::new())
    }
}

#[test]
fn a_put_that_breaks_because_it_is_refused_is_told_as_refused() {
    let put = |backend| {
        let patience = Patience::of(Duration::ZERO);
        Client { backend: Arc::new(backend), place: "here".into(), prefix: String::new(), patience, cancel: Arc::new(|| false) }.put("a", b"x")
    };
    assert!(matches!(put(Unread(Some(403))), Err(ObjectError::Refused { status: 403, .. })));
    assert!(matches!(put(Unread(None)), Err(ObjectError::GaveUp { attempts: 3, .. })));
}
