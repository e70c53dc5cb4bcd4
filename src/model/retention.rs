//! How long backups are kept: by age (`retention_time` of the schedule) and by number (`maximal_number_of_backups`). The two
//! are independent, and the number wins: a backup kept for ever is still pruned (Waldur contract, retention and
//! maximal number of backups).

use super::backup::{BackupAction, BackupState};
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

/// What pruning has to know of one backup. The caller passes the backups of one schedule; manual backups and those of other
/// schedules never count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneCandidate {
    pub id: i64,
    pub state: BackupState,
    pub created_at: DateTime<Utc>,
}

/// Until when a backup started at `started` is kept: so many times 24 hours, whatever the clocks do. 0 days is for ever,
/// `None`. Times past the year 9999, which RFC 3339 cannot write, become the beginning of its last day.
pub fn kept_until(started: DateTime<Utc>, retention_days: u32) -> Option<DateTime<Utc>> {
    if retention_days == 0 {
        return None;
    }
    let last_day = NaiveDate::from_ymd_opt(9999, 12, 31)?.and_time(NaiveTime::MIN).and_utc();
    let until = started.checked_add_signed(TimeDelta::days(retention_days.into()));
    Some(until.map_or(last_day, |until| until.min(last_day)))
}

/// May the expiry job delete this backup at `now`? Its time must be strictly past. A backup that is being restored waits
/// for a later pass; one that failed has nothing to wait for.
pub fn expired(state: BackupState, kept_until: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    state.allows(BackupAction::Delete) && kept_until.is_some_and(|until| until < now)
}

/// The backups to delete, oldest first, so that at most `maximal_number` active ones remain.
///
/// Only Ready ones are deleted. One that is being made or restored counts but is passed over, and the oldest Ready one
/// goes instead; if there is none, more than `maximal_number` remain until a later pass. The newest Ready one always
/// stays, so that pruning never leaves a schedule without a backup to restore from.
/// Of the same age, the one with the lower id is older.
pub fn prune_victims(backups: &[PruneCandidate], maximal_number: u32) -> Vec<i64> {
    let active = backups.iter().filter(|backup| backup.state.is_active()).count();
    let excess = active.saturating_sub(usize::try_from(maximal_number).unwrap_or(usize::MAX));
    let mut ready: Vec<&PruneCandidate> = backups.iter().filter(|backup| backup.state == BackupState::Ready).collect();
    ready.sort_unstable_by_key(|backup| (backup.created_at, backup.id));
    ready.pop();
    ready.iter().take(excess).map(|backup| backup.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackupState::{BackingUp, Deleting, Erred, Ready, Restoring};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// Backups in the order of their making, ids from 1.
    fn made(states: &[BackupState]) -> Vec<PruneCandidate> {
        let first = at("2026-11-21T02:00:00Z");
        let with_id = states.iter().zip(1..);
        with_id.map(|(&state, id)| PruneCandidate { id, state, created_at: first + TimeDelta::days(id) }).collect()
    }

    #[test]
    fn kept_so_many_days() {
        let started = at("2027-03-27T01:30:15Z");
        for (days, until) in [
            (0, None),
            (1, Some("2027-03-28T01:30:15Z")),
            (3, Some("2027-03-30T01:30:15Z")),
            (365, Some("2028-03-26T01:30:15Z")),
            (2_147_483_647, Some("9999-12-31T00:00:00Z")),
            (u32::MAX, Some("9999-12-31T00:00:00Z")),
        ] {
            assert_eq!(kept_until(started, days), until.map(at), "{days} days");
        }
        assert_eq!(kept_until(DateTime::<Utc>::MAX_UTC, 1), Some(at("9999-12-31T00:00:00Z")));
        assert_eq!(kept_until(DateTime::<Utc>::MAX_UTC, 0), None);
    }

    #[test]
    fn longer_retention_never_ends_sooner() {
        let started = at("2026-11-21T02:00:00Z");
        let ends: Vec<_> = (0..32).map(|power| kept_until(started, 1 << power)).collect();
        assert!(ends.is_sorted() && ends[0] > Some(started), "{ends:?}");
    }

    #[test]
    fn expiry() {
        let now = at("2026-11-21T02:00:00Z");
        let (past, future) = (now - TimeDelta::nanoseconds(1), now + TimeDelta::nanoseconds(1));
        for state in BackupState::ALL {
            let idle = matches!(state, Ready | Erred);
            for (until, due) in [(None, false), (Some(past), true), (Some(now), false), (Some(future), false)] {
                assert_eq!(expired(state, until, now), due && idle, "{state:?} until {until:?}");
            }
        }
    }

    #[test]
    fn pruning() {
        let cases: &[(&[BackupState], u32, &[i64])] = &[
            (&[], 1, &[]),
            (&[Ready], 1, &[]),
            (&[Ready, Ready], 2, &[]),
            (&[Ready, Ready, Ready], 2, &[1]),
            (&[Ready, Ready, Ready, Ready], 1, &[1, 2, 3]),
            (&[Ready, Ready, Deleting], 1, &[1]),
            (&[Deleting, Ready, Ready], 2, &[]),
            (&[Erred, Ready, Erred, Ready, Erred], 2, &[]),
            (&[Erred, Ready, Erred, Ready, Erred], 1, &[2]),
            (&[Restoring, Ready, Ready], 2, &[2]),
            (&[Restoring, Ready], 1, &[]),
            (&[Ready, Ready, BackingUp], 2, &[1]),
            (&[Ready, BackingUp], 1, &[]),
            (&[BackingUp, BackingUp], 1, &[]),
            (&[Ready, Ready], 0, &[1]),
            (&[Ready, Ready], u32::MAX, &[]),
        ];
        for (states, maximal_number, victims) in cases {
            assert_eq!(prune_victims(&made(states), *maximal_number), *victims, "{states:?}, at most {maximal_number}");
        }
    }

    #[test]
    fn pruning_goes_by_age_then_id() {
        let age = |id, created_at: &str| PruneCandidate { id, state: Ready, created_at: at(created_at) };
        let (old, new) = ("2026-11-21T02:00:00Z", "2026-11-21T02:00:00.001Z");
        let backups = [age(9, old), age(1, new), age(8, old), age(2, new)];
        assert_eq!(prune_victims(&backups, 1), [8, 9, 1]);
    }

    /// Every combination of states of up to six backups, against what the rule promises.
    #[test]
    fn pruning_keeps_its_promises() {
        for length in 0..=6u32 {
            for number in 0..5usize.pow(length) {
                let states: Vec<_> = (0..length).map(|place| BackupState::ALL[number / 5usize.pow(place) % 5]).collect();
                let backups = made(&states);
                for maximal_number in 0..=7 {
                    let victims = prune_victims(&backups, maximal_number);
                    check_promises(&backups, maximal_number as usize, &victims);
                    let mut shuffled = backups.clone();
                    shuffled.reverse();
                    shuffled.rotate_left(backups.len() / 3);
                    assert_eq!(prune_victims(&shuffled, maximal_number), victims, "{states:?}: the order of rows matters");
                }
            }
        }
    }

    fn check_promises(backups: &[PruneCandidate], maximal_number: usize, victims: &[i64]) {
        let story = format!("{backups:?}, at most {maximal_number}: {victims:?}");
        let gone = |backup: &PruneCandidate| victims.contains(&backup.id);
        let ready: Vec<_> = backups.iter().filter(|backup| backup.state == Ready).collect();
        let removed = backups.iter().filter(|backup| gone(backup)).count();
        assert_eq!(removed, victims.len(), "each victim exists and is named once: {story}");
        assert!(backups.iter().all(|backup| !gone(backup) || backup.state == Ready), "only Ready ones go: {story}");
        assert!(ready.last().is_none_or(|newest| !gone(newest)), "the newest Ready one stays: {story}");
        assert!(ready.iter().is_sorted_by_key(|backup| !gone(backup)), "the oldest go first: {story}");
        let active = backups.iter().filter(|backup| matches!(backup.state, Ready | BackingUp | Restoring)).count();
        assert!(removed == 0 || active - removed >= maximal_number, "no more than needed: {story}");
        let could_go = ready.len().saturating_sub(1) - removed;
        assert!(active - removed <= maximal_number || could_go == 0, "as many as possible: {story}");
    }
}
