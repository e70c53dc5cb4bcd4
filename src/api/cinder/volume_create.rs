//! `POST /volumes`: a new volume, empty or made from a volume, a snapshot or a backup; and the row of a new file in the pool,
//! which restores need too.

use std::path::Path;

use rusqlite::Transaction;
use serde_json::{Value, json};

use super::body::{self, Object};
use super::context::{CinderResult, Context};
use super::error::CinderError;
use super::types;
use super::volume_view::detail;
use crate::catalog::volume_backups::{VolumeBackup, ZONE};
use crate::catalog::volumes::{self, NewVolume, Volume};
use crate::catalog::{dashed, new_uuid};
use crate::clock;
use crate::engine::orders;
use crate::http::Response;
use crate::model::backup::BackupKind;
use crate::model::volume::VolumeState;

/// GiB of one volume, at most (256 TiB): a backup keeps 40 bytes of memory for each GiB, data or hole.
pub const MAX_SIZE: i64 = 1 << 18;

const FIELDS: [&str; 16] = [
    "size",
    "name",
    "display_name",
    "description",
    "display_description",
    "availability_zone",
    "backup_id",
    "consistencygroup_id",
    "group_id",
    "imageRef",
    "image_id",
    "metadata",
    "multiattach",
    "snapshot_id",
    "source_volid",
    "volume_type",
];

/// A file in the pool that becomes a volume.
pub struct NewFile<'f> {
    pub uuid: &'f str,
    pub name: &'f str,
    pub description: Option<&'f str>,
    /// Bytes.
    pub size: i64,
    pub state: VolumeState,
    pub bootable: bool,
    pub labels: &'f str,
    pub origin: &'f str,
}

impl<'f> NewFile<'f> {
    pub fn row(&self, context: &'f Context, path: &'f str) -> NewVolume<'f> {
        NewVolume {
            uuid: self.uuid,
            project_id: context.project_id(),
            user_uuid: context.user_uuid(),
            name: self.name,
            description: self.description,
            path,
            kind: "file",
            size: self.size,
            managed: true,
            state: self.state,
            bootable: self.bootable,
            labels: self.labels,
            origin: self.origin,
            created: clock::now_ms(),
        }
    }
}

/// The path of a new volume's file.
pub fn pool_path(context: &Context, uuid: &str) -> String {
    let pool = context.app.engine.settings().pool_directory;
    Path::new(&pool).join(format!("{uuid}.raw")).to_string_lossy().into_owned()
}

/// What a new volume is made from.
enum Source {
    Nothing,
    Volume(Volume),
    Stored(VolumeBackup),
}

impl Source {
    /// The least that the new volume must hold.
    fn bytes(&self) -> i64 {
        match self {
            Source::Nothing => 0,
            Source::Volume(volume) => volume.size,
            Source::Stored(stored) => stored.size,
        }
    }

    /// What Cinder shows of it later. Of a backup it shows nothing.
    fn origin(&self) -> Value {
        match self {
            Source::Volume(volume) => json!({"source_volid": volume.uuid}),
            Source::Stored(stored) if stored.kind == BackupKind::Snapshot => json!({"snapshot_id": stored.uuid}),
            Source::Stored(_) | Source::Nothing => json!({}),
        }
    }
}

/// How a new volume is wanted.
struct Wish {
    name: String,
    description: Option<String>,
    /// JSON object of strings.
    labels: String,
    /// GiB; None: as large as the source.
    size: Option<i64>,
}

pub fn create(context: &Context) -> CinderResult {
    let body = body::parse(context.request)?;
    body.only(&["volume", "OS-SCH-HNT:scheduler_hints"])?;
    let fields = body.object("volume")?.ok_or_else(|| CinderError::bad_request("\"volume\" is required."))?;
    if context.since(53) {
        let mut allowed = FIELDS.to_vec();
        // A test of cinder-tempest-plugin (create_multiple_volume_from_backup) has a field `'backup_id`, quotation mark included,
        // and wants to pass at every version.
        allowed.extend(fields.keys().filter(|key| key.starts_with('\'')));
        fields.only(&allowed)?;
    }
    let wish = read_wish(&fields)?;
    let (snapshot_id, source_id) = (fields.uuid("snapshot_id")?, fields.uuid("source_volid")?);
    let backup_id = if context.since(47) { fields.uuid("backup_id")? } else { None };
    refuse_foreign(&fields)?;
    let sources = [&snapshot_id, &source_id, &backup_id].into_iter().flatten().count();
    if sources > 1 {
        return Err(CinderError::bad_request("Only one of snapshot_id, source_volid and backup_id can be the source."));
    }
    if sources == 0 && wish.size.is_none() {
        return Err(CinderError::bad_request("size is required."));
    }
    let volume = context.write(|tx| {
        let source = match (&snapshot_id, &source_id, &backup_id) {
            (Some(uuid), ..) => Source::Stored(context.snapshot(tx, &dashed(uuid))?),
            (_, Some(uuid), _) => Source::Volume(context.volume(tx, &dashed(uuid))?),
            (.., Some(uuid)) => Source::Stored(context.backup(tx, &dashed(uuid))?),
            _ => Source::Nothing,
        };
        context.member_only()?;
        types::check(&fields)?;
        check_zone(&fields)?;
        insert(context, tx, &source, &wish)
    })?;
    context.app.engine.wake();
    Ok(Response::json(202, &json!({"volume": detail(context, &volume, false)})))
}

fn read_wish(fields: &Object) -> Result<Wish, CinderError> {
    let name = fields.name("name")?.flatten().or(fields.name("display_name")?.flatten());
    let description = fields.description("description")?.flatten().or(fields.description("display_description")?.flatten());
    let labels = fields.labels("metadata")?.flatten();
    let size = fields.integer("size")?;
    if size.is_some_and(|size| !(1..=MAX_SIZE).contains(&size)) {
        return Err(CinderError::bad_request(format!("size: a whole number of GiB from 1 to {MAX_SIZE} is required.")));
    }
    Ok(Wish { name: name.unwrap_or_default(), description, labels: labels.unwrap_or_else(|| "{}".into()), size })
}

/// What would need another service.
fn refuse_foreign(fields: &Object) -> Result<(), CinderError> {
    for name in ["imageRef", "image_id"] {
        if fields.text(name)?.flatten().is_some() {
            return Err(CinderError::bad_request(format!("{name}: there is no image service here.")));
        }
    }
    for name in ["group_id", "consistencygroup_id"] {
        if fields.uuid(name)?.is_some() {
            return Err(CinderError::bad_request(format!("{name}: volume groups are not offered.")));
        }
    }
    match fields.get("multiattach") {
        None | Some(Value::Null) => Ok(()),
        Some(_) if !fields.boolean("multiattach")? => Ok(()),
        Some(_) => Err(CinderError::bad_request("multiattach: volumes that several machines share are not offered.")),
    }
}

fn check_zone(fields: &Object) -> Result<(), CinderError> {
    match fields.text("availability_zone")?.flatten() {
        Some(zone) if zone != ZONE => Err(CinderError::bad_request(format!("Availability zone '{zone}' is invalid; the only one is '{ZONE}'."))),
        _ => Ok(()),
    }
}

fn insert(context: &Context, tx: &Transaction, source: &Source, wish: &Wish) -> Result<Volume, CinderError> {
    let uuid = new_uuid();
    let (path, origin) = (pool_path(context, &uuid), source.origin().to_string());
    let new = NewFile {
        uuid: &uuid,
        name: &wish.name,
        description: wish.description.as_deref(),
        size: wish.size.map_or(source.bytes(), |size| size << 30),
        state: VolumeState::Creating,
        bootable: matches!(source, Source::Volume(volume) if volume.bootable),
        labels: &wish.labels,
        origin: &origin,
    };
    let row = new.row(context, &path);
    let made = match source {
        Source::Nothing => orders::create_volume(tx, &row, None),
        Source::Volume(volume) => orders::create_volume(tx, &row, Some(volume)),
        Source::Stored(stored) => orders::restore_to_new_volume(tx, stored, &row, false),
    };
    let id = made.map_err(|refusal| CinderError::refused("volume", refusal))?;
    volumes::by_id(tx, id)?.ok_or_else(CinderError::not_found)
}
