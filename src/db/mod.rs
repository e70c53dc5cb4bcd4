//! The coffer file: how it is created, opened and locked, with one writer and pooled readers.
//!
//! All writing goes through one connection behind a mutex, one `BEGIN IMMEDIATE` transaction a call; readers are separate
//! connections that see a consistent snapshot for the length of one closure. Only the writer checkpoints. A lock file beside
//! the coffer keeps every second process out, because two writers would break the in-memory index of the store.
//!
//! Why these settings: DESIGN.md, "The file".

mod flusher;
mod pulse;
mod sync;
mod upgrade;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::durable;
use pulse::{Pulse, Writing};

const SCHEMA: &str = include_str!("../../schema.sql");
/// Marks the file as a coffer (`PRAGMA application_id`): the bytes "Coff".
pub const APPLICATION_ID: i32 = 0x436f_6666;
/// Version of the file's layout (`PRAGMA user_version`).
pub const FORMAT_VERSION: i32 = 4;
/// Two writers could lose commits in WAL mode before this release (sqlite.org/wal.html, "The WAL-Reset Bug").
const OLDEST_SQLITE: i32 = 3_051_003;
/// Readers that may be open at once; a further one waits.
const MAX_READERS: usize = 24;
/// Readers kept open when idle.
const KEPT_READERS: usize = 4;
/// A reader's page cache in KiB: the pages that one list needs, so that the next one finds them.
const READER_CACHE_KIB: i64 = 2 * 1024;
/// Free bytes that backups leave on the coffer's disk, for the bookkeeping that gives space back.
const RESERVE: u64 = 32 << 20;
/// The writer's page cache in KiB: above 1.5 times the largest transaction (a pack), or SQLite would spill early.
const WRITER_CACHE_KIB: i64 = 16 * 1024;
/// A commit of the writer that leaves this many pages (64 MiB) in the WAL checkpoints them: even a small change writes a
/// dozen 64 KiB pages. Whoever writes much calls [`Db::checkpoint`] at times that suit it. SQLite's own way to do so keeps the
/// errors to itself.
const WAL_DUE_PAGES: usize = 1024;
/// The WAL is truncated when it has grown past this many bytes and no reader needs it.
const WAL_LIMIT: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("{0} is in use by another cofferd (process {1}); stop it first, or let the command talk to it")]
    Locked(PathBuf, String),
    #[error("{0} is not a coffer: it is some other file; choose another state directory, or if it was one, see `cofferd salvage`")]
    NotACoffer(PathBuf),
    #[error("{0} is damaged: {1}; keep a copy of it as it is, and get out what is still there with `cofferd salvage`")]
    Damaged(PathBuf, rusqlite::Error),
    #[error("{path} was written by a newer cofferd (format {found}, this one knows {known}); upgrade cofferd", known = FORMAT_VERSION)]
    TooNew { path: PathBuf, found: i32 },
    #[error("{0} lies on a network file system ({1}), where SQLite's locks cannot be trusted; use a local disk")]
    NetworkFileSystem(PathBuf, &'static str),
    #[error("the linked SQLite is older than 3.51.3 and can lose commits; rebuild cofferd with its bundled SQLite")]
    OldSqlite,
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
    #[error("the coffer's database says: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// An open coffer. Dropping it closes the connections and gives the lock back.
pub struct Db {
    path: PathBuf,
    writer: Mutex<Connection>,
    pulse: Pulse,
    readers: Mutex<Readers>,
    reader_back: Condvar,
    /// In the WAL after the last commit.
    wal_pages: Arc<AtomicUsize>,
    flusher: flusher::Flusher,
    _lock: File,
}

struct Readers {
    idle: Vec<Connection>,
    lent: usize,
}

impl Db {
    /// Opens the coffer at `path`, or creates it with mode 0600. Fails at once when another process has it.
    pub fn open(path: &Path) -> Result<Db, DbError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(DbError::OldSqlite);
        }
        refuse_network_file_system(path)?;
        let lock = take_lock(path)?;
        let mut writer = open_writer(path).map_err(|e| match e {
            DbError::Sqlite(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                DbError::Damaged(path.to_path_buf(), e)
            }
            e => e,
        })?;
        let wal_pages = Arc::new(AtomicUsize::new(0));
        let count = wal_pages.clone();
        writer.wal_hook(Some(move |_: &mut Wal, pages| {
            count.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Db {
            path: path.to_path_buf(),
            writer: Mutex::new(writer),
            pulse: Pulse::default(),
            readers: Mutex::new(Readers { idle: Vec::new(), lent: 0 }),
            reader_back: Condvar::new(),
            wal_pages,
            flusher: flusher::Flusher::start(&wal_path(path)),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` in one immediate transaction; it is committed if `f` returns Ok and rolled back otherwise.
    pub fn write<T, E: From<rusqlite::Error>>(&self, f: impl FnOnce(&Transaction) -> Result<T, E>) -> Result<T, E> {
        let mut writer = self.writer();
        let value = transact(&mut writer, f)?;
        if self.wal_pages.load(Ordering::Relaxed) >= WAL_DUE_PAGES {
            // What was committed is safe where it is; readers may hold this up, and a full disk.
            if let Err(e) = writer.note(writer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))) {
                log::warn!("the write-ahead log cannot be moved into the coffer yet: {e}");
            }
        }
        Ok(value)
    }

    /// The same, but a power cut may take it back until the next [`Db::write`] or checkpoint has ended, which makes durable all that
    /// came before it: one wait for the disk for many transactions. A crash of the process takes nothing back.
    pub fn write_ahead<T, E: From<rusqlite::Error>>(&self, f: impl FnOnce(&Transaction) -> Result<T, E>) -> Result<T, E> {
        let mut writer = self.writer();
        writer.pragma_update(None, "synchronous", "NORMAL")?;
        let written = transact(&mut writer, f);
        writer.pragma_update(None, "synchronous", "FULL")?;
        drop(writer);
        self.flusher.begin();
        written
    }

    /// Runs `f` on a reader inside one read transaction. Keep it short: a long reader holds up the checkpoint.
    pub fn read<T, E: From<rusqlite::Error>>(&self, f: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        let reader = self.lend()?;
        let tx = reader.connection().unchecked_transaction()?;
        let value = f(&tx)?;
        tx.finish()?;
        Ok(value)
    }

    /// Moves committed pages from the WAL into the file; truncates the WAL once it is large. Called by whoever has just
    /// written much, never by readers.
    pub fn checkpoint(&self) -> Result<(), rusqlite::Error> {
        let writer = self.writer();
        let large = std::fs::metadata(wal_path(&self.path)).is_ok_and(|m| m.len() > WAL_LIMIT);
        // On a full disk the WAL's own length is what is missing.
        let mode = if large || !self.has_room_for(0) { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        // TRUNCATE waits for readers up to the busy time-out; failing to get there is no error, the next call tries again.
        writer.note(writer.query_row(mode, [], |_| Ok(())))
    }

    /// Is there room to write this many bytes and then still to move the WAL into the file and to delete backups? Without
    /// that reserve a full disk could not even be cleaned up.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let directory = directory_of(&self.path);
        let wal = std::fs::metadata(wal_path(&self.path)).map_or(0, |m| m.len());
        let growth = (wal + bytes).saturating_sub(self.free_inside().unwrap_or(0));
        match rustix::fs::statvfs(directory) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize) >= growth + bytes + RESERVE,
            Err(_) => true, // the write itself will tell
        }
    }

    /// The same, and if there is too little room, gives back what the WAL takes before it gives up.
    pub fn make_room_for(&self, bytes: u64) -> Result<bool, rusqlite::Error> {
        if self.has_room_for(bytes) {
            return Ok(true);
        }
        self.empty_wal()?;
        Ok(self.has_room_for(bytes))
    }

    /// Bytes of free pages, which are used before the file grows.
    fn free_inside(&self) -> Result<u64, rusqlite::Error> {
        self.read(|c| {
            let number = |name| c.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(|n| n as u64);
            Ok(number("freelist_count")? * number("page_size")?)
        })
    }

    /// Gives the memory of the page caches back, and the WAL's room on the disk; worth it when a burst of work is over.
    pub fn rest(&self) -> Result<(), rusqlite::Error> {
        lock(&self.readers).idle.clear();
        self.empty_wal()?;
        self.writer().execute_batch("PRAGMA shrink_memory")
    }

    /// Checkpoints all and empties the WAL, so that the coffer is one file again; at shutdown.
    pub fn close(&self) -> Result<(), rusqlite::Error> {
        lock(&self.readers).idle.clear();
        self.empty_wal()
    }

    fn empty_wal(&self) -> Result<(), rusqlite::Error> {
        let writer = self.writer();
        writer.note(empty_wal(&writer))
    }

    /// The last change that was tried has failed because of the disk.
    pub fn is_failing(&self) -> bool {
        self.pulse.is_failing()
    }

    /// How long the present change has been under way.
    pub fn busy(&self) -> Duration {
        self.pulse.busy()
    }

    /// Gives up to `pages` free pages back to the file system. Returns how many are still free.
    pub fn shrink(&self, pages: u32) -> Result<u64, rusqlite::Error> {
        let writer = self.writer();
        {
            // Each step frees one page: the statement must be run to its end.
            let mut statement = writer.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut rows = statement.query([])?;
            while sync::judge(rows.next().map(|row| row.is_some()))? {}
        }
        writer.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
    }

    /// Writes a consistent, compact copy of the coffer to a new file (mode 0600), which appears only when it is whole. Returns
    /// its size in bytes. Others go on reading and writing meanwhile.
    pub fn snapshot(&self, path: &Path) -> Result<u64, DbError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let io = |e| DbError::Io(path.to_path_buf(), e);
        let file = start_copy(&partial).map_err(|e| DbError::Io(partial.clone(), e))?;
        let copied = self.copy_into(&partial).and_then(|()| {
            file.sync_all().map_err(io)?;
            rustix::fs::renameat_with(rustix::fs::CWD, &partial, rustix::fs::CWD, path, rustix::fs::RenameFlags::NOREPLACE)
                .map_err(|e| io(e.into()))?;
            durable::sync_name(path).map_err(io)
        });
        if copied.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        copied?;
        std::fs::metadata(path).map(|m| m.len()).map_err(io)
    }

    fn copy_into(&self, path: &Path) -> Result<(), DbError> {
        // A connection of its own: VACUUM cannot run inside a transaction.
        let connection = open_reader(&self.path)?;
        let text = path.to_str().ok_or_else(|| DbError::Io(path.to_path_buf(), std::io::ErrorKind::InvalidInput.into()))?;
        connection.execute("VACUUM INTO ?", [text])?;
        Ok(())
    }

    fn writer(&self) -> Writing<'_> {
        Writing::new(lock(&self.writer), &self.pulse)
    }

    fn lend(&self) -> Result<Lent<'_>, rusqlite::Error> {
        let mut readers = lock(&self.readers);
        while readers.lent >= MAX_READERS {
            readers = self.reader_back.wait(readers).unwrap_or_else(PoisonError::into_inner);
        }
        let connection = match readers.idle.pop() {
            Some(connection) => connection,
            None => open_reader(&self.path)?,
        };
        readers.lent += 1;
        Ok(Lent { db: self, connection: Some(connection) })
    }
}

fn transact<T, E: From<rusqlite::Error>>(writer: &mut Writing, f: impl FnOnce(&Transaction) -> Result<T, E>) -> Result<T, E> {
    // The connection is this thread's alone, and only one transaction is made of it.
    let tx = writer.note(Transaction::new_unchecked(writer, TransactionBehavior::Immediate))?;
    let value = f(&tx)?;
    writer.note(tx.commit())?;
    Ok(value)
}

/// A reader that goes back to the pool when dropped.
struct Lent<'a> {
    db: &'a Db,
    connection: Option<Connection>,
}

impl Lent<'_> {
    fn connection(&self) -> &Connection {
        self.connection.as_ref().unwrap_or_else(|| unreachable!("taken only by drop"))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut readers = lock(&self.db.readers);
        readers.lent -= 1;
        if let Some(connection) = self.connection.take()
            && readers.idle.len() < KEPT_READERS
        {
            readers.idle.push(connection);
        }
        self.db.reader_back.notify_one();
    }
}

/// A panic in one closure must not lock everybody else out: the transaction was rolled back when it unwound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn wal_path(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    PathBuf::from(wal)
}

fn take_lock(path: &Path) -> Result<File, DbError> {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let lock_path = path.with_extension("lock");
    let io = |e| DbError::Io(lock_path.clone(), e);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock_path).map_err(io)?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        return Err(DbError::Locked(path.to_path_buf(), holder.trim().to_string()));
    }
    file.set_len(0).map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

/// Makes the empty file, mode 0600, that VACUUM INTO demands. One that a killed daemon left there is used again; whoever is
/// still writing it holds its lock.
fn start_copy(partial: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).custom_flags(no_follow).open(partial)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    // Its writer may have finished and renamed it before it gave the lock back.
    if std::fs::symlink_metadata(partial)?.ino() != file.metadata()?.ino() {
        return Err(std::io::ErrorKind::ResourceBusy.into());
    }
    file.set_len(0)?;
    Ok(file)
}

fn refuse_network_file_system(path: &Path) -> Result<(), DbError> {
    let directory = directory_of(path);
    let stat = rustix::fs::statfs(directory).map_err(|e| DbError::Io(directory.to_path_buf(), e.into()))?;
    // Magic numbers from statfs(2).
    let name = match stat.f_type as u64 & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x0102_1997 => "9p",
        0x5346_414f => "AFS",
        0x00c3_6400 => "Ceph",
        _ => return Ok(()),
    };
    Err(DbError::NetworkFileSystem(directory.to_path_buf(), name))
}

fn open_writer(path: &Path) -> Result<Connection, DbError> {
    use std::os::unix::fs::OpenOptionsExt;
    // SQLite gives the WAL the mode of the main file, so this also keeps the WAL private.
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| DbError::Io(path.to_path_buf(), e))?;
    let left_behind = std::fs::metadata(wal_path(path)).is_ok_and(|wal| wal.len() > 0);
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let not_a_database = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => DbError::NotACoffer(path.to_path_buf()),
        _ => DbError::Sqlite(e),
    };
    let empty = connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0)).map_err(not_a_database)?;
    if empty {
        // Both must come before the first table.
        connection.pragma_update(None, "page_size", 65536)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What a statement may have to undo is kept in memory: it is little, and /var/tmp is nothing to depend on.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", WAL_LIMIT as i64)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(128);
    if empty {
        create(&mut connection)?;
    }
    let found = check_format(path, &connection)?;
    if found < FORMAT_VERSION {
        upgrade::from_format(found, &mut connection)?;
    }
    // What an earlier run left in the WAL may never have reached the disk (sync.rs): it is written to the file before anything is
    // built on it. Else the WAL keeps its room, which is what deletions on a full disk are written to.
    if left_behind {
        match sync::judge(empty_wal(&connection)) {
            // It is there to be read all the same. A sync that fails has ended the process already.
            Err(e) if matches!(e.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure)) => {
                log::warn!("the write-ahead log cannot be moved into the coffer: {e}");
            }
            emptied => emptied?,
        }
    }
    Ok(connection)
}

fn empty_wal(writer: &Connection) -> Result<(), rusqlite::Error> {
    writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn create(connection: &mut Connection) -> Result<(), DbError> {
    let tx = Transaction::new(connection, TransactionBehavior::Immediate)?;
    tx.execute_batch(SCHEMA)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", FORMAT_VERSION)?;
    tx.commit()?;
    Ok(())
}

/// The format that the file has, if this program can read it.
fn check_format(path: &Path, connection: &Connection) -> Result<i32, DbError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    if pragma("application_id")? != APPLICATION_ID {
        return Err(DbError::NotACoffer(path.to_path_buf()));
    }
    match pragma("user_version")? {
        found if found > FORMAT_VERSION => Err(DbError::TooNew { path: path.to_path_buf(), found }),
        found => Ok(found),
    }
}

fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_coffer_has_the_settings_that_cannot_be_changed_later() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("coffer.db")).unwrap();
        let value = |name: &str| db.read(|c| c.pragma_query_value(None, name, |r| r.get::<_, i64>(0))).unwrap();
        assert_eq!(value("page_size"), 65536);
        assert_eq!(value("auto_vacuum"), 2);
        assert_eq!(value("user_version"), i64::from(FORMAT_VERSION));
    }

    #[test]
    fn a_second_opener_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coffer.db");
        let first = Db::open(&path).unwrap();
        let error = Db::open(&path).err().unwrap().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        Db::open(&path).unwrap();
    }

    #[test]
    fn foreign_and_newer_files_are_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coffer.db");
        std::fs::write(&path, b"precious text that is no database, long enough to be read as a header of one hundred bytes or more......").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(Db::open(&path), Err(DbError::NotACoffer(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);

        let path = dir.path().join("newer.db");
        drop(Db::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Db::open(&path), Err(DbError::TooNew { found: 99, .. })));
    }

    #[test]
    fn a_snapshot_begins_anew_what_a_killed_one_left_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("coffer.db")).unwrap();
        let (copy, partial) = (dir.path().join("copy.db"), dir.path().join("copy.db.partial"));
        std::fs::write(&partial, "half of a coffer").unwrap();
        let size = db.snapshot(&copy).unwrap();
        assert_eq!(std::fs::metadata(&copy).unwrap().len(), size);
        assert!(!partial.exists());
        let message = db.snapshot(&copy).err().unwrap().to_string();
        assert!(message.contains("copy.db: File exists"), "{message}");
        assert!(!partial.exists());

        let writing = start_copy(&partial).unwrap();
        let message = db.snapshot(&dir.path().join("copy.db")).err().unwrap().to_string();
        assert!(message.contains("copy.db.partial"), "{message}");
        assert!(partial.exists());
        drop(writing);
    }

    #[test]
    fn it_is_known_how_long_the_writer_is_at_one_change() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("coffer.db")).unwrap();
        assert_eq!(db.busy(), Duration::ZERO);
        let pause = Duration::from_millis(20);
        let within = db.write(|_| {
            std::thread::sleep(pause);
            Ok::<_, rusqlite::Error>(db.busy())
        });
        assert!(within.unwrap() >= pause);
        assert_eq!(db.busy(), Duration::ZERO);
    }

    #[test]
    fn a_failed_transaction_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("coffer.db")).unwrap();
        let failed: Result<(), rusqlite::Error> = db.write(|tx| {
            tx.execute("INSERT INTO meta VALUES ('a', 'b')", [])?;
            Err(rusqlite::Error::InvalidQuery)
        });
        assert!(failed.is_err());
        let n: i64 = db.read(|c| c.query_row("SELECT count(*) FROM meta", [], |r| r.get(0))).unwrap();
        assert_eq!(n, 0);
    }
}
