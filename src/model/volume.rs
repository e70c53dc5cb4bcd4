//! The states of a volume, with Cinder's names for them, which are also ours.
//!
//! Only lasting states are kept with the volume. That it is being backed up, written to by a restore, or used by a running
//! machine follows from jobs and instances (catalog/volumes.rs), so it can never be left over.

/// Where a volume stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VolumeState {
    Creating,
    Available,
    InUse,
    Reserved,
    Attaching,
    Detaching,
    Maintenance,
    Extending,
    BackingUp,
    RestoringBackup,
    Deleting,
    Error,
    ErrorDeleting,
    ErrorExtending,
    ErrorRestoring,
}

use VolumeState::*;

const NAMES: [(VolumeState, &str); 15] = [
    (Creating, "creating"),
    (Available, "available"),
    (InUse, "in-use"),
    (Reserved, "reserved"),
    (Attaching, "attaching"),
    (Detaching, "detaching"),
    (Maintenance, "maintenance"),
    (Extending, "extending"),
    (BackingUp, "backing-up"),
    (RestoringBackup, "restoring-backup"),
    (Deleting, "deleting"),
    (Error, "error"),
    (ErrorDeleting, "error_deleting"),
    (ErrorExtending, "error_extending"),
    (ErrorRestoring, "error_restoring"),
];

impl VolumeState {
    /// The name in the coffer and on Cinder's wire.
    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }

    pub fn from_stored(name: &str) -> Option<VolumeState> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(state, _)| *state)
    }

    /// May it be backed up or a snapshot be made of it? `force`: although something uses it.
    pub fn can_be_read(self, force: bool) -> bool {
        self == Available || (force && self == InUse)
    }

    /// Does it hold what its owner has put there? Not before it was made as a whole, and not after a restore that came to a bad end.
    pub fn is_whole(self) -> bool {
        !matches!(self, Creating | Error | ErrorRestoring)
    }

    /// May the volume be deleted (Cinder contract 4.2)?
    pub fn can_be_deleted(self) -> bool {
        matches!(self, Available | Error | ErrorExtending | ErrorRestoring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_name() {
        for (state, name) in NAMES {
            assert_eq!((VolumeState::from_stored(name), state.as_str()), (Some(state), name));
        }
    }

    #[test]
    fn only_idle_volumes_are_read_or_deleted() {
        let may = |rule: &dyn Fn(VolumeState) -> bool| NAMES.iter().map(|(s, _)| *s).filter(|s| rule(*s)).collect::<Vec<_>>();
        assert_eq!(may(&|s| s.can_be_read(false)), [Available]);
        assert_eq!(may(&|s| s.can_be_read(true)), [Available, InUse]);
        assert_eq!(may(&|s| !s.is_whole()), [Creating, Error, ErrorRestoring]);
        assert_eq!(may(&VolumeState::can_be_deleted), [Available, Error, ErrorExtending, ErrorRestoring]);
    }
}
