//! What each backup takes of the coffer, and what deleting it would free. Counting reads every segment and table of contents,
//! some seconds for tens of terabytes; so it is done when somebody asks, by one thread at a time, and kept for as long as no
//! backup comes or goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use super::Engine;
use crate::catalog::volume_backups;
use crate::store::{Claim, Size, StoreError, Usage};

#[derive(Default)]
pub struct Space {
    /// Taken by whoever counts, for as long as it takes.
    known: Mutex<Option<Arc<Report>>>,
    stop: AtomicBool,
}

impl Space {
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was counted.
pub struct Report {
    /// (map, backup), by map. Maps never change and their numbers are never used again, so equal lists have equal results.
    maps: Vec<(i64, i64)>,
    /// Backups with data, by id.
    backups: Vec<i64>,
    usage: Usage,
    /// By the place of the backup in the list.
    data: Vec<u64>,
}

/// What one backup takes. A backup that holds nothing takes nothing.
#[derive(Default, Clone, Copy)]
pub struct Share {
    /// Bytes of its volumes that are not chunks of zeros.
    pub data: u64,
    /// What only it needs, and deleting it frees.
    pub exclusive: Size,
}

#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    #[error("the space is being counted; ask again in a moment")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for SpaceError {
    fn from(error: rusqlite::Error) -> SpaceError {
        SpaceError::Store(error.into())
    }
}

impl Report {
    fn new(maps: Vec<(i64, i64)>, count: impl FnOnce(&[Claim]) -> Result<Usage, StoreError>) -> Result<Report, StoreError> {
        let mut backups: Vec<i64> = maps.iter().map(|(_, backup)| *backup).collect();
        backups.sort_unstable();
        backups.dedup();
        let place = |backup: &i64| backups.binary_search(backup).unwrap_or_else(|_| unreachable!("made of the same list"));
        let claims: Vec<Claim> = maps.iter().map(|(map, backup)| Claim { map: *map, owner: place(backup) as u32 }).collect();
        let usage = count(&claims)?;
        let mut data = vec![0; backups.len()];
        claims.iter().zip(&usage.data).for_each(|(claim, bytes)| data[claim.owner as usize] += bytes);
        Ok(Report { maps, backups, usage, data })
    }

    pub fn of(&self, backup: i64) -> Share {
        let share = |at| Share { data: self.data[at], exclusive: self.usage.exclusive[at] };
        self.backups.binary_search(&backup).map(share).unwrap_or_default()
    }

    /// Bytes of all volumes of all backups that are not chunks of zeros.
    pub fn data(&self) -> u64 {
        self.data.iter().sum()
    }

    /// What all backups need.
    pub fn all(&self) -> Size {
        self.usage.all
    }
}

impl Engine {
    /// What each backup takes.
    pub fn space(&self) -> Result<Arc<Report>, SpaceError> {
        self.counting(|known| {
            let maps = self.db.read(volume_backups::maps)?;
            if let Some(report) = known.as_ref().filter(|report| report.maps == maps) {
                return Ok(report.clone());
            }
            let report = Arc::new(Report::new(maps, |claims| self.store.usage(claims, &self.space.stop))?);
            *known = Some(report.clone());
            Ok(report)
        })
    }

    /// What deleting all of these together frees.
    pub fn freed_by(&self, backups: &[i64]) -> Result<Size, SpaceError> {
        self.counting(|_| {
            let claims: Vec<Claim> = self
                .db
                .read(volume_backups::maps)?
                .into_iter()
                .map(|(map, backup)| Claim { map, owner: u32::from(!backups.contains(&backup)) })
                .collect();
            Ok(self.store.usage(&claims, &self.space.stop)?.exclusive.first().copied().unwrap_or_default())
        })
    }

    /// A second one would only take the disk from the first, and a thread from other requests.
    fn counting<T>(&self, count: impl FnOnce(&mut Option<Arc<Report>>) -> Result<T, SpaceError>) -> Result<T, SpaceError> {
        match self.space.known.try_lock() {
            Ok(mut known) => count(&mut known),
            Err(TryLockError::Poisoned(poisoned)) => count(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(SpaceError::Busy),
        }
    }
}
