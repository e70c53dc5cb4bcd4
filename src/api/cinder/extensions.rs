//! `/extensions`: what older clients look into before they use backups (Cinder contract 4.2).

use serde_json::{Value, json};

use super::context::CinderResult;
use super::error::CinderError;
use crate::http::Response;

/// Name, alias and description.
const EXTENSIONS: [(&str, &str, &str); 9] = [
    ("AvailabilityZones", "os-availability-zone", "The availability zones"),
    ("Backups", "backups", "Backups of volumes"),
    ("ExtendedSnapshotAttributes", "os-extended-snapshot-attributes", "Project and progress of snapshots"),
    ("Quotas", "os-quota-sets", "Limits of projects"),
    ("QuotaClasses", "os-quota-class-sets", "Limits of projects that have none of their own"),
    ("Services", "os-services", "The parts of the service"),
    ("VolumeActions", "os-volume-actions", "Attach, detach, extend and the like"),
    ("VolumeHostAttribute", "os-vol-host-attr", "Where a volume is"),
    ("VolumeTenantAttribute", "os-vol-tenant-attr", "The project of a volume"),
];

pub fn route(rest: &[&str]) -> CinderResult {
    match rest {
        [] => Ok(Response::json(200, &json!({"extensions": EXTENSIONS.iter().map(view).collect::<Vec<_>>()}))),
        [alias] => match EXTENSIONS.iter().find(|(_, known, _)| known == alias) {
            Some(extension) => Ok(Response::json(200, &json!({"extension": view(extension)}))),
            None => Err(CinderError::no_such("Extension", alias)),
        },
        _ => Err(CinderError::not_found()),
    }
}

fn view((name, alias, description): &(&str, &str, &str)) -> Value {
    json!({"name": name, "alias": alias, "description": description, "updated": "2026-11-01T00:00:00+00:00", "links": []})
}
