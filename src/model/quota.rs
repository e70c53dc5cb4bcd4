//! Quotas of a project: names, units and the rule.

/// -1 as a limit.
pub const UNLIMITED: i64 = -1;

/// What can be limited. Storage and ram are shown in MiB, gigabytes in GiB, the rest are counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaName {
    /// Full sizes of volumes, of their snapshots and of all backups.
    Storage,
    Ram,
    Vcpu,
    Instances,
    Volumes,
    Snapshots,
    /// Of volumes and snapshots.
    Gigabytes,
    /// Volumes in backups.
    Backups,
    BackupGigabytes,
    /// Of one volume; never used up.
    PerVolumeGigabytes,
    /// Cinder's volume groups, of which there are none.
    Groups,
}

const NAMES: [(QuotaName, &str); 11] = [
    (QuotaName::Storage, "storage"),
    (QuotaName::Ram, "ram"),
    (QuotaName::Vcpu, "vcpu"),
    (QuotaName::Instances, "instances"),
    (QuotaName::Volumes, "volumes"),
    (QuotaName::Snapshots, "snapshots"),
    (QuotaName::Gigabytes, "gigabytes"),
    (QuotaName::Backups, "backups"),
    (QuotaName::BackupGigabytes, "backup_gigabytes"),
    (QuotaName::PerVolumeGigabytes, "per_volume_gigabytes"),
    (QuotaName::Groups, "groups"),
];

impl QuotaName {
    pub fn all() -> impl Iterator<Item = QuotaName> {
        NAMES.into_iter().map(|(name, _)| name)
    }

    /// Those that Cinder's quota sets have (Cinder contract 4.2).
    pub fn of_cinder() -> impl Iterator<Item = QuotaName> {
        QuotaName::all().filter(|name| !matches!(name, QuotaName::Storage | QuotaName::Ram | QuotaName::Vcpu | QuotaName::Instances))
    }

    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(name, _)| *name == self).map_or("", |(_, text)| text)
    }

    pub fn from_stored(text: &str) -> Option<QuotaName> {
        NAMES.iter().find(|(_, known)| *known == text).map(|(name, _)| *name)
    }
}

/// Bytes as MiB, rounded up: what a part of a MiB costs.
pub fn mib(bytes: i64) -> i64 {
    bytes.div_euclid(1 << 20) + i64::from(bytes.rem_euclid(1 << 20) != 0)
}

/// Bytes as GiB, rounded up, as Cinder counts.
pub fn gib(bytes: i64) -> i64 {
    bytes.div_euclid(1 << 30) + i64::from(bytes.rem_euclid(1 << 30) != 0)
}

/// More than this cannot be counted. (A sum that would overflow is one more.)
const MOST: i64 = i64::MAX - 1;

/// A quota as it stands: limit and usage in the quota's own unit, except storage usage and deltas, which are bytes.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub name: QuotaName,
    pub limit: i64,
    pub usage: i64,
}

impl Standing {
    /// Why `delta` more is too much, or None. Exactly full is allowed. Storage usage and delta are bytes.
    pub fn refusal(&self, project: &str, delta: i64) -> Option<String> {
        let required = self.usage.saturating_add(delta);
        let unit = if self.name == QuotaName::Storage { 1 << 20 } else { 1 };
        // Where nobody has set a limit there is that of counting: sizes are only promised.
        let limit = if self.limit == UNLIMITED { MOST / unit } else { self.limit };
        let over = delta > 0 && required > limit.saturating_mul(unit).min(MOST);
        let shown = if self.name == QuotaName::Storage { mib(required) } else { required };
        over.then(|| format!("{project} \"{}\" quota is over limit. Required: {shown}, limit: {limit}.", self.name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_full_is_allowed_and_one_byte_more_is_not() {
        let storage = Standing { name: QuotaName::Storage, limit: 2, usage: 1 << 20 };
        assert_eq!(storage.refusal("p", 1 << 20), None);
        assert_eq!(
            storage.refusal("p", (1 << 20) + 1).unwrap(),
            "p \"storage\" quota is over limit. Required: 3, limit: 2."
        );
    }

    #[test]
    fn unlimited_ends_where_counting_does() {
        let storage = |limit, usage| Standing { name: QuotaName::Storage, limit, usage };
        assert_eq!(storage(UNLIMITED, i64::MAX >> 1).refusal("p", 1 << 60), None);
        assert_eq!(
            storage(UNLIMITED, i64::MAX - 5).refusal("p", 1 << 20).unwrap(),
            "p \"storage\" quota is over limit. Required: 8796093022208, limit: 8796093022207."
        );
        assert!(storage(i64::MAX, i64::MAX - 5).refusal("p", 1 << 20).is_some());
        assert_eq!(storage(UNLIMITED, i64::MAX).refusal("p", 0), None);
    }

    #[test]
    fn mib_rounds_up() {
        assert_eq!((mib(0), mib(1), mib(1 << 20), mib((1 << 20) + 1)), (0, 1, 1, 2));
        assert_eq!((gib(0), gib(1), gib(1 << 30), gib((1 << 30) + 1)), (0, 1, 1, 2));
    }
}
