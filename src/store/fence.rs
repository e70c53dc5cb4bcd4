//! One writer to a repository. No object store's conditional writes can be relied on, so nothing is ever written over: who takes
//! a repository leaves a mark with a number above all that are there, and who finds a mark above his own has lost it.
//!
//! A writer that was stopped for an hour between looking and writing does no harm by writing, since all names are its own. By
//! deleting it could: so what is about to be deleted is announced first, then the marks are looked at once more (trash.rs),
//! and whoever takes a repository reads the announcements after his mark is there, and uses nothing of what they name. One of the
//! two sees the other.

use std::sync::atomic::Ordering;

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
            Some(newest) if newest.epoch >= ours.epoch => Err(self.says(if newest.writer == ours.writer {
                "is newer than this coffer: the coffer is a copy that was put back, or runs twice, or an attachment did not come to its end; \
                 `cofferd repository attach` compares the two, and nothing is written there before"
            } else if ours.epoch == 0 {
                "belongs to another coffer, or is one of this one under another name; give each a prefix of its own, or take this one over \
                 with `cofferd repository attach`"
            } else {
                "has been taken over by another coffer; what is there stays readable, but this one may write there no more, unless \
                 `cofferd repository attach` takes it back"
            })),
            _ if ours.epoch == 0 => Err(self.says("has not been opened yet; try again")),
            _ => Err(self.says(
                "has lost the mark of its writer: it points to another place than before, or somebody has deleted objects there; \
                 correct the configuration, or let `cofferd repository attach` make a new one",
            )),
        }
    }

    /// Takes a repository that nobody has, or whose writer is gone if `over` says so. Returns the mark, which is there now and keeps
    /// everybody else away; this coffer writes there from [`Remote::accept`] on.
    pub fn take(&self, over: bool) -> Result<Mark, StoreError> {
        let mut mark = self.mark();
        let newest = self.newest().map_err(|e| self.failed(e))?;
        if let Some(newest) = &newest
            && newest.writer != mark.writer
            && !over
        {
            return self.guard().map(|()| mark);
        }
        mark.epoch = newest.map_or(0, |newest| newest.epoch) + 1;
        self.put_mark(&mark)?;
        Ok(mark)
    }

    /// The first use since the start gets a mark of its own, so that a copy of the coffer, which has an older one, may not write.
    /// `note` keeps its number before it is there.
    pub fn renew(&self, note: impl FnOnce(i64) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let old = self.mark();
        let half_way = Mark { epoch: old.epoch - 1, ..old.clone() };
        let (former, mark) = match self.newest().map_err(|e| self.failed(e))? {
            // The last one was noted and not put.
            Some(newest) if newest == half_way => (newest, old),
            _ => {
                self.guard()?;
                (old.clone(), Mark { epoch: old.epoch + 1, ..old })
            }
        };
        note(mark.epoch)?;
        // Before it is put: it may be there although the answer was lost.
        self.set_mark(mark.clone());
        self.put_mark(&mark)?;
        self.accept(mark);
        if let Err(error) = self.objects.delete(&name(&former)) {
            log::debug!("the former mark stays in repository {}: {error}", self.name);
        }
        Ok(())
    }

    /// From now on this coffer writes there.
    pub fn accept(&self, mark: Mark) {
        self.set_mark(mark);
        self.renewed.store(true, Ordering::Relaxed);
    }

    fn set_mark(&self, mark: Mark) {
        *self.mark.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = mark;
    }

    /// Was it taken, or used, since the start?
    pub fn is_renewed(&self) -> bool {
        self.renewed.load(Ordering::Relaxed)
    }

    fn put_mark(&self, mark: &Mark) -> Result<(), StoreError> {
        self.objects.put(&name(mark), hostname().as_bytes()).map_err(|e| self.failed(e))?;
        // Of two that do so at once, the one whose mark comes last in order is the writer.
        if self.newest().map_err(|e| self.failed(e))?.as_ref() != Some(mark) {
            return Err(self.says("is being taken over by another coffer at this moment"));
        }
        Ok(())
    }

    /// Has another coffer, or this one in a state that it does not remember, written here since this one did? None: nobody ever has.
    pub fn is_anothers(&self) -> Result<Option<bool>, StoreError> {
        let newest = self.newest().map_err(|e| self.failed(e))?;
        Ok(newest.map(|newest| newest != self.mark()))
    }

    /// Whether an object that is missing is missed: where nobody has ever written, it is the place that is not the right one.
    pub(super) fn check_place(&self) -> Result<(), StoreError> {
        match self.newest().map_err(|e| self.failed(e))? {
            Some(_) => Ok(()),
            None => Err(self.says("has no object and no mark of a writer: is it mounted, and are container and prefix the right ones?")),
        }
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

fn name(mark: &Mark) -> String {
    format!("{PREFIX}{:016x}-{}", mark.epoch, mark.writer)
}

fn parse(name: &str) -> Option<Mark> {
    let (epoch, writer) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some(Mark { epoch: i64::from_str_radix(epoch, 16).ok()?, writer: writer.to_string() })
}

/// For people who look at the mark.
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
