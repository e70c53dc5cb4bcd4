//! The states an instance (a virtual machine's record) can be in, with Waldur's names for them.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    ProvisioningScheduled,
    Provisioning,
    Online,
    Offline,
    StartingScheduled,
    Starting,
    StoppingScheduled,
    Stopping,
    Erred,
    DeletionScheduled,
    Deleting,
    ResizingScheduled,
    Resizing,
    RestartingScheduled,
    Restarting,
}

use InstanceState::*;

/// Each state with its name in the coffer and on Waldur's wire.
const NAMES: [(InstanceState, &str, &str); 15] = [
    (ProvisioningScheduled, "provisioning_scheduled", "Provisioning Scheduled"),
    (Provisioning, "provisioning", "Provisioning"),
    (Online, "online", "Online"),
    (Offline, "offline", "Offline"),
    (StartingScheduled, "starting_scheduled", "Starting Scheduled"),
    (Starting, "starting", "Starting"),
    (StoppingScheduled, "stopping_scheduled", "Stopping Scheduled"),
    (Stopping, "stopping", "Stopping"),
    (Erred, "erred", "Erred"),
    (DeletionScheduled, "deletion_scheduled", "Deletion Scheduled"),
    (Deleting, "deleting", "Deleting"),
    (ResizingScheduled, "resizing_scheduled", "Resizing Scheduled"),
    (Resizing, "resizing", "Resizing"),
    (RestartingScheduled, "restarting_scheduled", "Restarting Scheduled"),
    (Restarting, "restarting", "Restarting"),
];

impl InstanceState {
    fn names(self) -> (&'static str, &'static str) {
        NAMES.iter().find(|(state, ..)| *state == self).map_or(("", ""), |(_, stored, display)| (stored, display))
    }

    /// The name in the coffer.
    pub fn as_str(self) -> &'static str {
        self.names().0
    }

    /// The name on Waldur's wire.
    pub fn display(self) -> &'static str {
        self.names().1
    }

    pub fn from_stored(name: &str) -> Option<InstanceState> {
        NAMES.iter().find(|(_, stored, _)| *stored == name).map(|(state, ..)| *state)
    }

    pub fn from_display(name: &str) -> Option<InstanceState> {
        NAMES.iter().find(|(.., display)| *display == name).map(|(state, ..)| *state)
    }

    /// Only a stable instance may be backed up or changed.
    pub fn is_stable(self) -> bool {
        matches!(self, Online | Offline)
    }

    /// May the record be destroyed in this state?
    pub fn is_destroyable(self) -> bool {
        matches!(self, Offline | Erred)
    }

    pub fn is_going(self) -> bool {
        matches!(self, DeletionScheduled | Deleting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_names() {
        for (state, stored, display) in NAMES {
            assert_eq!(InstanceState::from_stored(stored), Some(state));
            assert_eq!(InstanceState::from_display(display), Some(state));
            assert_eq!((state.as_str(), state.display()), (stored, display));
        }
    }
}
