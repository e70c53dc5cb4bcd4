//! Export and import of backups as records that can outlive the catalog (Cinder contract 1.9, 1.10). A record names its data by
//! the hash of the content, so an edited record can be imported beside the original, and both then refer to the same data.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use super::body;
use super::context::{CinderResult, Context};
use super::error::CinderError;
use super::wire::Id;
use crate::api::text::{parse_timestamp, parse_uuid};
use crate::catalog::volume_backups::Face;
use crate::catalog::{dashed, meta};
use crate::clock;
use crate::engine::orders::{self, ImportedBackup, Refusal};
use crate::http::Response;
use crate::model::backup::BackupState;
use crate::model::quota::gib;
use crate::store::Store;

/// Clients demand that it begins like a module of Cinder's.
pub const SERVICE: &str = "cinder.backup.drivers.cofferd.CofferdBackupDriver";
/// What importers must find in a record.
const REQUIRED: [&str; 7] = ["id", "display_name", "display_description", "container", "size", "service_metadata", "object_count"];
const NO_VOLUME: &str = "00000000000000000000000000000000";
/// GiB in a record; more bytes than there are in a volume.
const MAX_SIZE: i64 = 1 << 30;

pub fn export(context: &Context, id: &str) -> CinderResult {
    context.read(|c| {
        let backup = context.backup(c, id)?;
        context.admin_only()?;
        if backup.state != BackupState::Ready {
            return Err(CinderError::refused("backup", Refusal::State(backup.state)));
        }
        let hash = match backup.map_id {
            Some(map_id) => Store::map_hash(c, map_id)?,
            None => None,
        };
        let hash = hash.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let record = json!({
            "id": dashed(&backup.uuid),
            "user_id": backup.user_uuid,
            "project_id": backup.project_uuid,
            "volume_id": dashed(&backup.volume_uuid),
            "host": super::services::host(),
            "availability_zone": backup.zone,
            "container": backup.container,
            "parent_id": backup.parent_uuid.as_deref().map(dashed),
            "status": backup.state.cinder_name(),
            "fail_reason": backup.fail_reason,
            "size": gib(backup.size),
            "display_name": backup.title,
            "display_description": backup.description,
            "service_metadata": hash,
            "service": SERVICE,
            "object_count": backup.objects,
            "temp_volume_id": null,
            "temp_snapshot_id": null,
            "num_dependent_backups": i64::from(backup.has_children),
            "snapshot_id": backup.snapshot_uuid.as_deref().map(dashed),
            "data_timestamp": backup.data_timestamp.map(zulu),
            "restore_volume_id": null,
            "metadata": parsed(&backup.labels),
            "encryption_key_id": null,
            "created_at": zulu(backup.created),
            "updated_at": backup.updated.map(zulu),
            "deleted_at": null,
            "deleted": false,
            "driver_info": {
                "coffer": meta::get(c, meta::COFFER_UUID)?,
                "bytes": backup.size,
                "volume": {"name": backup.volume_name, "description": backup.volume_description,
                    "metadata": parsed(&backup.volume_labels), "bootable": backup.bootable},
            },
        });
        let url = BASE64_STANDARD.encode(record.to_string());
        Ok(Response::json(200, &json!({"backup-record": {"backup_service": SERVICE, "backup_url": url}})))
    })
}

pub fn import(context: &Context) -> CinderResult {
    let fields = body::unwrap(context.request, "backup-record")?;
    fields.only(&["backup_service", "backup_url"])?;
    let service = fields.text("backup_service")?.flatten().filter(|service| !service.is_empty());
    let service = service.ok_or_else(|| CinderError::bad_request("backup_service is required."))?;
    let url = fields.get("backup_url").and_then(Value::as_str).filter(|url| !url.is_empty());
    let url = url.ok_or_else(|| CinderError::bad_request("backup_url is required and must be a string."))?;
    context.admin_only()?;
    let record = Record::read(url)?;
    let uuid = record.uuid("id").ok_or_else(|| record.wrong("id"))?;
    let size = record.map["size"].as_i64().filter(|size| (0..=MAX_SIZE).contains(size)).ok_or_else(|| record.wrong("size"))?;
    let hash = record.text("service_metadata").filter(|_| service == SERVICE).and_then(|text| from_hex(&text));
    let (volume, labels) = (record.value("driver_info")["volume"].clone(), labels_of(record.value("metadata")));
    let (title, description, container) = (record.text("display_name"), record.text("display_description"), record.text("container"));
    let (zone, snapshot) = (record.text("availability_zone"), record.uuid("snapshot_id"));
    let volume_labels = labels_of(&volume["metadata"]);
    let import = ImportedBackup {
        uuid: &uuid,
        project_id: context.project_id(),
        user_uuid: context.user_uuid(),
        face: Face {
            title: title.as_deref(),
            description: description.as_deref(),
            labels: &labels,
            container: container.as_deref(),
            zone: zone.as_deref(),
            parent_id: None,
            snapshot_uuid: snapshot.as_deref(),
            data_timestamp: record.time("data_timestamp").or_else(|| record.time("created_at")),
        },
        volume_uuid: &record.uuid("volume_id").unwrap_or_else(|| NO_VOLUME.into()),
        volume_name: volume["name"].as_str().unwrap_or_default(),
        volume_description: volume["description"].as_str(),
        volume_labels: &volume_labels,
        bootable: volume["bootable"].as_bool().unwrap_or(false),
        objects: record.map["object_count"].as_i64().unwrap_or(0).max(0),
        size: size << 30,
        map_hash: hash.as_deref(),
    };
    let backup = context.write(|tx| orders::import(tx, &import).map_err(|refusal| CinderError::refused("backup", refusal)))?;
    // It gets its name only after the answer, say Cinder's clients.
    Ok(Response::json(201, &json!({"backup": {"id": Id(&backup.uuid), "name": null, "links": context.links("backups", &backup.uuid)}})))
}

/// A decoded record; its fields are whatever somebody has written into it.
struct Record {
    map: Map<String, Value>,
}

impl Record {
    fn read(url: &str) -> Result<Record, CinderError> {
        let wrong = |what: &str| CinderError::bad_request(format!("backup_url: {what}."));
        let bytes = BASE64_STANDARD.decode(url).map_err(|_| wrong("this is no base64"))?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => {
                let record = Record { map };
                match REQUIRED.iter().find(|key| !record.map.contains_key(**key)) {
                    Some(key) => Err(wrong(&format!("the record has no \"{key}\""))),
                    None => Ok(record),
                }
            }
            _ => Err(wrong("what it encodes is no JSON object")),
        }
    }

    fn wrong(&self, key: &str) -> CinderError {
        CinderError::bad_request(format!("backup_url: \"{key}\" of the record cannot be what it says."))
    }

    fn value(&self, key: &str) -> &Value {
        self.map.get(key).unwrap_or(&Value::Null)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.map.get(key)?.as_str().map(|text| text.chars().take(255).collect())
    }

    fn uuid(&self, key: &str) -> Option<String> {
        parse_uuid(self.map.get(key)?.as_str()?)
    }

    fn time(&self, key: &str) -> Option<i64> {
        parse_timestamp(self.map.get(key)?.as_str()?).map(|time| time.timestamp_millis())
    }
}

/// Fuzz target: a record as somebody may have edited it. Whatever is read from it could have been given by a client.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let spaced = [BASE64_STANDARD.encode(data), String::from_utf8_lossy(data).into_owned()];
    for record in spaced.iter().filter_map(|url| Record::read(url).ok()) {
        for key in REQUIRED {
            let (text, uuid) = (record.text(key), record.uuid(key));
            assert!(text.is_none_or(|text| text.chars().count() <= 255));
            assert!(uuid.is_none_or(|uuid| parse_uuid(&uuid).as_ref() == Some(&uuid)));
            assert!(record.time(key).is_none_or(|time| parse_timestamp(&zulu(time)).is_some()));
            assert!(serde_json::from_str::<Map<String, Value>>(&labels_of(record.value(key))).is_ok_and(|labels| body::check_labels(&labels).is_ok()));
        }
        assert!(record.text("service_metadata").and_then(|text| from_hex(&text)).is_none_or(|hash| hash.len() == 32));
    }
}

/// Metadata in a record, or none if it is none that could have been given to us.
fn labels_of(value: &Value) -> String {
    match value {
        Value::Object(labels) if body::check_labels(labels).is_ok() => value.to_string(),
        _ => "{}".into(),
    }
}

/// Whole seconds with Z (Cinder contract 0.4).
fn zulu(ms: i64) -> String {
    clock::from_ms(ms).to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16)).collect::<Result<_, _>>().ok()).flatten()
}
