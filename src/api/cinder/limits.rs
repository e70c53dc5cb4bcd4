//! `/limits`: what the project may use and what it uses (Cinder contract 4.2).

use serde_json::{Map, Value, json};

use super::context::{CinderResult, Context};
use crate::catalog::projects;
use crate::http::Response;
use crate::model::quota::QuotaName;

const NAMES: [(QuotaName, &str, &str); 5] = [
    (QuotaName::Volumes, "maxTotalVolumes", "totalVolumesUsed"),
    (QuotaName::Snapshots, "maxTotalSnapshots", "totalSnapshotsUsed"),
    (QuotaName::Gigabytes, "maxTotalVolumeGigabytes", "totalGigabytesUsed"),
    (QuotaName::Backups, "maxTotalBackups", "totalBackupsUsed"),
    (QuotaName::BackupGigabytes, "maxTotalBackupGigabytes", "totalBackupGigabytesUsed"),
];

pub fn show(context: &Context) -> CinderResult {
    context.read(|c| {
        let project = projects::by_id(c, context.project_id())?;
        let quotas = projects::quotas(c, &project)?;
        let mut absolute: Map<String, Value> = Map::new();
        for (name, limit, used) in NAMES {
            if let Some(quota) = quotas.iter().find(|quota| quota.standing.name == name) {
                absolute.insert(limit.into(), quota.standing.limit.into());
                absolute.insert(used.into(), quota.standing.usage.into());
            }
        }
        Ok(Response::json(200, &json!({"limits": {"rate": [], "absolute": absolute}})))
    })
}
