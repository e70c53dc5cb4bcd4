//! What to do when the disk does not confirm that it has written.
//!
//! After a failed fsync(2) the kernel forgets that the pages were to be written: the next fsync reports success, though what the
//! first one was about may be nowhere but in memory. So no later commit may be relied on that builds on an earlier one. SQLite
//! goes on as if nothing had happened. cofferd ends instead, before anybody is told of anything that came later; systemd starts it
//! again. The next start reads what can be read, verifies the WAL's checksums, and writes all of the WAL to the coffer anew.

use rusqlite::ffi;

/// Ends the process if the disk did not confirm. The error of a copy elsewhere is not to be asked about here.
pub(super) fn judge<T>(result: Result<T, rusqlite::Error>) -> Result<T, rusqlite::Error> {
    if let Err(error) = &result
        && is_unconfirmed(error)
    {
        end(&error.to_string());
    }
    result
}

pub(super) fn end(reason: &str) -> ! {
    let message = format!("the disk did not confirm what was written to the coffer ({reason}); cofferd ends here, so that nothing relies on it");
    match log::log_enabled!(log::Level::Error) {
        true => log::error!("{message}"),
        false => eprintln!("error: {message}"),
    }
    std::process::exit(1)
}

fn is_unconfirmed(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|e| matches!(e.extended_code, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC))
}
