//! The backup and its state machine. There is one machine; each dialect has its own names for the states.
//!
//! ```text
//! (create) -> BackingUp -ok-> Ready -restore-> Restoring -> Ready
//!                 |             |                  |
//!                 +-fail-> Erred <---corrupt data--+        (Erred -> Ready: a check finds mended data whole)
//!                            |  |
//!                            +--+-delete-> Deleting -> (gone)
//! ```

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackupKind {
    /// All volumes of an instance (Waldur).
    Instance,
    /// One volume (Cinder's backup).
    Volume,
    /// One volume, to make volumes and backups from (Cinder's snapshot). Stays Ready while it is read.
    Snapshot,
}

impl BackupKind {
    /// The name in the coffer.
    pub fn as_str(self) -> &'static str {
        match self {
            BackupKind::Instance => "instance",
            BackupKind::Volume => "volume",
            BackupKind::Snapshot => "snapshot",
        }
    }

    pub fn from_stored(name: &str) -> Option<BackupKind> {
        [BackupKind::Instance, BackupKind::Volume, BackupKind::Snapshot].into_iter().find(|kind| kind.as_str() == name)
    }

    /// What it is called in messages and, before `_`, in the names of events.
    pub fn noun(self) -> &'static str {
        match self {
            BackupKind::Instance | BackupKind::Volume => "backup",
            BackupKind::Snapshot => "snapshot",
        }
    }
}

/// Where a backup stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackupState {
    /// Complete; every byte of it is stored.
    Ready,
    /// Promised, queued or being read; nothing of it can be restored yet.
    BackingUp,
    /// Being restored; as good as Ready, but locked.
    Restoring,
    /// On its way out; the row goes with the data.
    Deleting,
    /// Its making failed, or its stored data was found corrupt.
    Erred,
}

/// What a user may ask of an existing backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupAction {
    Restore,
    Delete,
    Modify,
}

impl BackupState {
    pub const ALL: [BackupState; 5] =
        [BackupState::Ready, BackupState::BackingUp, BackupState::Restoring, BackupState::Deleting, BackupState::Erred];

    /// The name in the coffer.
    pub fn as_str(self) -> &'static str {
        match self {
            BackupState::Ready => "ready",
            BackupState::BackingUp => "backing_up",
            BackupState::Restoring => "restoring",
            BackupState::Deleting => "deleting",
            BackupState::Erred => "erred",
        }
    }

    pub fn from_stored(name: &str) -> Option<BackupState> {
        BackupState::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Waldur's name, exactly as it is written on the wire.
    pub fn display(self) -> &'static str {
        match self {
            BackupState::Ready => "Ready",
            BackupState::BackingUp => "Backing up",
            BackupState::Restoring => "Restoring",
            BackupState::Deleting => "Deleting",
            BackupState::Erred => "Erred",
        }
    }

    /// Cinder's name, for its backups and snapshots.
    pub fn cinder_name(self) -> &'static str {
        match self {
            BackupState::Ready => "available",
            BackupState::BackingUp => "creating",
            BackupState::Restoring => "restoring",
            BackupState::Deleting => "deleting",
            BackupState::Erred => "error",
        }
    }

    pub fn from_display(name: &str) -> Option<BackupState> {
        BackupState::ALL.into_iter().find(|state| state.display() == name)
    }

    /// May a user do this now? An Erred backup can be deleted, or it could never be removed.
    pub fn allows(self, action: BackupAction) -> bool {
        match action {
            BackupAction::Restore | BackupAction::Modify => self == BackupState::Ready,
            BackupAction::Delete => matches!(self, BackupState::Ready | BackupState::Erred),
        }
    }

    /// Counts towards a schedule's maximal number of backups ("active" backups).
    pub fn is_active(self) -> bool {
        matches!(self, BackupState::Ready | BackupState::BackingUp | BackupState::Restoring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for state in BackupState::ALL {
            assert_eq!(BackupState::from_stored(state.as_str()), Some(state));
            assert_eq!(BackupState::from_display(state.display()), Some(state));
        }
        assert_eq!(BackupState::from_display("ready"), None);
    }

    #[test]
    fn only_settled_backups_take_orders() {
        let allowed = |action| BackupState::ALL.into_iter().filter(|s| s.allows(action)).collect::<Vec<_>>();
        assert_eq!(allowed(BackupAction::Restore), [BackupState::Ready]);
        assert_eq!(allowed(BackupAction::Modify), [BackupState::Ready]);
        assert_eq!(allowed(BackupAction::Delete), [BackupState::Ready, BackupState::Erred]);
    }
}
