//! One writer to a repository. No object store's conditional writes can be relied on, so nothing is ever written over: who takes
//! a repository leaves a mark with a number above all that are there, and who finds a mark above his own has lost it.
//!
//! A writer that was stopped for an hour between looking and writing does no harm by writing, since all names are its own. By
//! deleting it could: so what is about to be deleted is announced first, then the marks are looked at once more (trash.rs),
//! and whoever takes a repository reads the announcements after his mark is there, and uses nothing of what they name. One of the
//! two sees the other.

use super::StoreError;
use super::remote::Remote;
use crate::objects::ObjectError;

const PREFIX: &str = "writer/";

/// Who a coffer is in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Its own there, made once.
    pub writer: String,
    /// 0: none yet.
    pub epoch: i64,
}

impl Remote {
    pub fn mark(&self) -> Mark {
        self.mark.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Fails if this coffer is not, or is no longer, the writer here.
    pub fn guard(&self) -> Result<(), StoreError> {
        let (ours, newest) = (self.mark(), self.newest().map_err(|e| self.failed(e))?);
        match newest {
            Some(newest) if newest == ours => Ok(()),
            Some(newest) if newest.epoch >= ours.epoch => Err(self.says(if ours.epoch == 0 {
                "belongs to another coffer; give each coffer a prefix of its own, or take this one over with `cofferd repository attach`"
            } else {
                "has been taken over by another coffer; what is there stays readable, but this one may write there no more"
            })),
            _ if ours.epoch == 0 => Err(self.says("has not been opened yet; try again")),
            _ => Err(self.says(
                "has lost the mark of its writer: it points to another place than before, or somebody has deleted objects there; \
                 correct the configuration, or let `cofferd repository attach` make a new one",
            )),
        }
    }

    /// Takes a repository that nobody has, or whose writer is gone if `over` says so. Returns the number of the mark, which the
    /// caller keeps.
    pub fn take(&self, over: bool) -> Result<i64, StoreError> {
        let mut mark = self.mark();
        let newest = self.newest().map_err(|e| self.failed(e))?;
        if let Some(newest) = &newest
            && newest.writer != mark.writer
            && !over
        {
            return self.guard().map(|()| mark.epoch);
        }
        mark.epoch = newest.map_or(0, |newest| newest.epoch) + 1;
        let name = format!("{PREFIX}{:016x}-{}", mark.epoch, mark.writer);
        self.objects.put(&name, hostname().as_bytes()).map_err(|e| self.failed(e))?;
        // Of two that do so at once, the one whose mark comes last in order is the writer.
        if self.newest().map_err(|e| self.failed(e))?.as_ref() != Some(&mark) {
            return Err(self.says("is being taken over by another coffer at this moment"));
        }
        *self.mark.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = mark.clone();
        Ok(mark.epoch)
    }

    /// Has another coffer written here since this one did?
    pub fn is_anothers(&self) -> Result<bool, StoreError> {
        let newest = self.newest().map_err(|e| self.failed(e))?;
        Ok(newest.is_some_and(|newest| newest.writer != self.mark().writer))
    }

    fn newest(&self) -> Result<Option<Mark>, ObjectError> {
        let mut newest = None;
        let mut after = String::new();
        loop {
            let page = self.objects.list(PREFIX, &after)?;
            let Some(last) = page.last() else { return Ok(newest) };
            after = last.name.clone();
            newest = page.iter().filter_map(|object| parse(&object.name)).next_back().or(newest);
        }
    }

    pub(super) fn says(&self, what: &str) -> StoreError {
        StoreError::Repository(self.name.clone(), what.into())
    }
}

fn parse(name: &str) -> Option<Mark> {
    let (epoch, writer) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some(Mark { epoch: i64::from_str_radix(epoch, 16).ok()?, writer: writer.to_string() })
}

/// For people who look at the mark.
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
