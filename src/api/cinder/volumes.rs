//! `/volumes`: registered disks of the host, and sparse raw files that are made here (Cinder contract 4.2).

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::Value as SqlValue;
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{self, Object};
use super::context::{CinderResult, Context};
use super::error::CinderError;
use super::listing::{Collection, Column, Listing};
use super::metadata::{self, Labels, Owner};
use super::wire::{Id, Links, Time};
use super::{services, types, volume_actions};
use crate::api::text::parse_timestamp;
use crate::catalog::list::Filter;
use crate::catalog::volume_backups::{VolumeBackup, ZONE};
use crate::catalog::volumes::{self, NewVolume, Volume};
use crate::catalog::{dashed, new_uuid};
use crate::clock;
use crate::engine::orders;
use crate::http::Response;
use crate::model::quota::gib;
use crate::model::volume::VolumeState;

/// GiB of one volume, at most: what the largest file systems can hold in a file.
const MAX_SIZE: i64 = 8 << 20;

pub const COLLECTION: Collection = Collection {
    name: "volumes",
    noun: "Volume",
    from: volumes::FROM,
    uuid: "v.uuid",
    created: "v.created",
    id: "v.id",
    project: "v.project_id",
    condition: "",
    columns: &[
        ("id", Column::Uuid("v.uuid")),
        ("name", Column::Text("v.name")),
        ("display_name", Column::Text("v.name")),
        ("description", Column::Text("v.description")),
        ("status", Column::Text(volumes::STATUS)),
        ("size", Column::Number("((v.size + 1073741823) >> 30)")),
        ("bootable", Column::Flag(volumes::BOOTABLE)),
        ("availability_zone", Column::Text("'nova'")),
        ("volume_type_id", Column::Text("'7a8c5d8e-3c6f-4e3a-9d3f-c0ffe4d00001'")),
        ("created_at", Column::Time("v.created")),
        ("updated_at", Column::Time("v.updated")),
        ("project_id", Column::Uuid("p.uuid")),
        ("user_id", Column::Uuid("v.user_uuid")),
    ],
    filters: &["name", "status", "availability_zone", "size", "description", "volume_type_id"],
    like: &["name", "status", "description"],
};

pub fn route(context: &Context, method: &str, rest: &[&str]) -> CinderResult {
    match (method, rest) {
        ("GET", []) => list(context, false),
        ("GET", ["detail"]) => list(context, true),
        ("GET", ["summary"]) if context.since(12) => totals(context),
        ("POST", []) => create(context),
        ("GET", [id]) => show(context, super::member(id)),
        ("PUT", [id]) => update(context, super::member(id)),
        ("DELETE", [id]) => delete(context, super::member(id)),
        ("POST", [id, "action"]) => volume_actions::act(context, id),
        (_, [id, "metadata", rest @ ..]) => metadata::route(context, Owner::Volume, method, id, rest),
        _ => Err(CinderError::not_found()),
    }
}

// ---- lists

fn list(context: &Context, detailed: bool) -> CinderResult {
    context.read(|c| {
        let listing = Listing::read(context, c, &COLLECTION, |filter, name, text| special_filter(context, filter, name, text))?;
        let rows = listing.rows(|filter, page| volumes::rows(c, filter, page))?;
        let last = rows.last().map(|volume| volume.uuid.as_str());
        let count = |filter: &Filter| volumes::count(c, filter);
        match detailed {
            true => {
                let items: Vec<Detail> = rows.iter().map(|volume| detail(context, volume, true)).collect();
                listing.answer(context, &COLLECTION, &items, last, count)
            }
            false => {
                let items: Vec<Summary> = rows.iter().map(|volume| summary(context, volume)).collect();
                listing.answer(context, &COLLECTION, &items, last, count)
            }
        }
    })
}

/// Filters that are more than a comparison with a column.
fn special_filter(context: &Context, filter: &mut Filter, name: &str, text: &str) -> Result<bool, CinderError> {
    match name {
        // Strict since 3.2; before, what is no boolean matches nothing.
        "bootable" => {
            match body::boolean_word(text) {
                Some(flag) => filter.equals(volumes::BOOTABLE, i64::from(flag)),
                None if context.since(2) => return Err(CinderError::bad_request(format!("bootable: \"{text}\" is neither true nor false."))),
                None => filter.nothing(),
            }
            Ok(true)
        }
        "metadata" => {
            for (key, value) in parse_labels(text)? {
                filter.push("json_extract(v.labels, ?) = ?", [SqlValue::Text(json_path(&key)), SqlValue::Text(value)]);
            }
            Ok(true)
        }
        "created_at" | "updated_at" if context.since(60) => {
            let column = if name == "created_at" { "v.created" } else { "v.updated" };
            compare_times(filter, column, name, text)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// `{'key': 'value'}`: JSON, or what Python prints of a dictionary.
fn parse_labels(text: &str) -> Result<Labels, CinderError> {
    let parsed = serde_json::from_str(text).or_else(|_| serde_json::from_str(&text.replace('\'', "\"")));
    parsed.map_err(|_| CinderError::bad_request("metadata: this is no dictionary of strings."))
}

/// The path of a key in a JSON object of strings.
fn json_path(key: &str) -> String {
    format!("$.\"{}\"", key.replace('"', ""))
}

/// `gt:2026-01-01T00:00:00,lt:...`, or one time alone.
fn compare_times(filter: &mut Filter, column: &str, name: &str, text: &str) -> Result<(), CinderError> {
    for part in text.split(',') {
        let operator = part.split_once(':').and_then(|(word, time)| {
            let operator = match word {
                "gt" => ">",
                "gte" => ">=",
                "eq" => "=",
                "neq" => "<>",
                "lt" => "<",
                "lte" => "<=",
                _ => return None,
            };
            Some((operator, time))
        });
        let (operator, time) = operator.unwrap_or(("=", part));
        let time = parse_timestamp(time).ok_or_else(|| CinderError::bad_request(format!("{name}: \"{time}\" is no time.")))?;
        filter.push(format!("{column} {operator} ?"), [SqlValue::Integer(time.timestamp_millis())]);
    }
    Ok(())
}

/// `/volumes/summary`: how many, how large, and since 3.36 which metadata.
fn totals(context: &Context) -> CinderResult {
    context.read(|c| {
        let mut filter = Filter::default();
        if !(context.is_admin() && context.flag("all_tenants")?) {
            filter.equals(COLLECTION.project, context.project_id());
        }
        let (count, size) = (volumes::count(c, &filter)?, volumes::gigabytes(c, &filter)?);
        let mut summary = json!({"total_count": count, "total_size": size});
        if context.since(36) {
            let all = crate::catalog::list::Page { order: "v.id".into(), limit: -1, offset: 0 };
            let mut metadata: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for volume in volumes::rows(c, &filter, &all)? {
                for (key, value) in metadata::parse(&volume.labels) {
                    let values = metadata.entry(key).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
            summary["metadata"] = json!(metadata);
        }
        Ok(Response::json(200, &json!({"volume-summary": summary})))
    })
}

fn show(context: &Context, id: &str) -> CinderResult {
    context.read(|c| Ok(Response::json(200, &json!({"volume": detail(context, &context.volume(c, id)?, true)}))))
}

// ---- making

const FIELDS: [&str; 14] = [
    "size",
    "name",
    "display_name",
    "description",
    "display_description",
    "availability_zone",
    "consistencygroup_id",
    "group_id",
    "imageRef",
    "image_id",
    "metadata",
    "multiattach",
    "snapshot_id",
    "source_volid",
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

fn create(context: &Context) -> CinderResult {
    let body = body::parse(context.request)?;
    body.only(&["volume", "OS-SCH-HNT:scheduler_hints"])?;
    let fields = body.object("volume")?.ok_or_else(|| CinderError::bad_request("\"volume\" is required."))?;
    if context.since(53) {
        let mut allowed = FIELDS.to_vec();
        allowed.extend(["volume_type", "backup_id"]);
        fields.only(&allowed)?;
    }
    let text = |name: &str, older: &str| Ok::<_, CinderError>(fields.name(name)?.flatten().or(fields.name(older)?.flatten()));
    let name = text("name", "display_name")?.unwrap_or_default();
    let description = fields.description("description")?.flatten().or(fields.description("display_description")?.flatten());
    let labels = fields.labels("metadata")?.flatten().unwrap_or_else(|| "{}".into());
    let size = fields.integer("size")?;
    if size.is_some_and(|size| !(1..=MAX_SIZE).contains(&size)) {
        return Err(CinderError::bad_request(format!("size: a whole number of GiB from 1 to {MAX_SIZE} is required.")));
    }
    let (snapshot_id, source_id) = (fields.uuid("snapshot_id")?, fields.uuid("source_volid")?);
    let backup_id = if context.since(47) { fields.uuid("backup_id")? } else { None };
    refuse_foreign(&fields)?;
    let sources = [&snapshot_id, &source_id, &backup_id].into_iter().flatten().count();
    if sources > 1 {
        return Err(CinderError::bad_request("Only one of snapshot_id, source_volid and backup_id can be the source."));
    }
    if sources == 0 && size.is_none() {
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
        insert(context, tx, &source, size, &name, description.as_deref(), &labels)
    })?;
    context.app.engine.wake();
    Ok(Response::json(202, &json!({"volume": detail(context, &volume, false)})))
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

fn insert(
    context: &Context,
    tx: &rusqlite::Transaction,
    source: &Source,
    size: Option<i64>,
    name: &str,
    description: Option<&str>,
    labels: &str,
) -> Result<Volume, CinderError> {
    let uuid = new_uuid();
    let path = pool_path(context, &uuid);
    let origin = match source {
        Source::Nothing => json!({}),
        Source::Volume(volume) => json!({"source_volid": volume.uuid}),
        Source::Stored(stored) if stored.kind == crate::model::backup::BackupKind::Snapshot => json!({"snapshot_id": stored.uuid}),
        Source::Stored(_) => json!({}),
    };
    let smallest = match source {
        Source::Nothing => 0,
        Source::Volume(volume) => volume.size,
        Source::Stored(stored) => stored.size,
    };
    let new = NewFile {
        uuid: &uuid,
        name,
        description,
        size: size.map_or(smallest, |size| size << 30),
        state: VolumeState::Creating,
        bootable: matches!(source, Source::Volume(volume) if volume.bootable),
        labels,
        origin: &origin.to_string(),
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

// ---- changing

fn update(context: &Context, id: &str) -> CinderResult {
    let fields = body::unwrap(context.request, "volume")?;
    if context.since(53) {
        fields.only(&["name", "display_name", "description", "display_description", "metadata"])?;
        if fields.is_empty() {
            return Err(CinderError::bad_request("volume: there is nothing to change."));
        }
    }
    let name = fields.name("name")?.or(fields.name("display_name")?);
    let description = fields.description("description")?.or(fields.description("display_description")?);
    let labels = fields.labels("metadata")?;
    context.write(|tx| {
        let volume = context.volume(tx, id)?;
        context.member_only()?;
        let name = name.map_or_else(|| volume.name.clone(), Option::unwrap_or_default);
        let description = description.unwrap_or_else(|| volume.description.clone());
        let labels = labels.flatten().unwrap_or_else(|| volume.labels.clone());
        volumes::set_texts(tx, volume.id, &name, description.as_deref(), &labels, clock::now_ms())?;
        Ok(Response::json(200, &json!({"volume": detail(context, &context.volume(tx, id)?, false)})))
    })
}

/// `cascade` deletes its snapshots too; `force` (since 3.23, for administrators) deletes it from whatever state.
fn delete(context: &Context, id: &str) -> CinderResult {
    let cascade = context.flag("cascade")?;
    let force = context.since(23) && context.flag("force")?;
    context.write(|tx| {
        let volume = context.volume(tx, id)?;
        context.member_only()?;
        if force {
            context.admin_only()?;
        }
        let refused = |refusal| CinderError::refused("volume", refusal);
        if cascade {
            return orders::delete_volume_with_snapshots(tx, &volume, force).map_err(refused);
        }
        orders::delete_volume(tx, &volume, force).map_err(refused)
    })?;
    context.app.engine.wake();
    Ok(Response::empty(202))
}

// ---- out

/// Cinder shows the read-only flag among the labels.
fn shown_labels(volume: &Volume) -> Labels {
    let mut labels = metadata::parse(&volume.labels);
    if let Some(readonly) = volume.readonly {
        labels.insert("readonly".into(), if readonly { "True" } else { "False" }.into());
    }
    labels
}

/// Cinder's volumes may be nameless.
fn shown_name(volume: &Volume) -> Option<&str> {
    Some(volume.name.as_str()).filter(|name| !name.is_empty())
}

#[derive(Serialize)]
struct Summary<'v> {
    id: Id<'v>,
    name: Option<&'v str>,
    links: Links<'v>,
}

fn summary<'v>(context: &'v Context, volume: &'v Volume) -> Summary<'v> {
    Summary { id: Id(&volume.uuid), name: shown_name(volume), links: context.links("volumes", &volume.uuid) }
}

/// Who uses a volume: what os-attach said, or the instance it belongs to.
#[derive(Serialize)]
struct Attachment {
    id: String,
    volume_id: String,
    attachment_id: String,
    server_id: Option<String>,
    host_name: Option<String>,
    device: Option<String>,
    attached_at: Option<Time>,
}

fn attachments(volume: &Volume) -> Vec<Attachment> {
    let id = dashed(&volume.uuid);
    let attached = |server_id, host_name, device, attached_at, attachment_id| Attachment {
        id: id.clone(),
        volume_id: id.clone(),
        attachment_id,
        server_id,
        host_name,
        device,
        attached_at,
    };
    if let Some(text) = &volume.attachment {
        let said: Value = serde_json::from_str(text).unwrap_or_default();
        let text = |key: &str| said[key].as_str().map(str::to_string);
        let attachment_id = text("id").unwrap_or_else(|| id.clone());
        return vec![attached(text("server_id"), text("host_name"), text("device"), said["at"].as_i64().map(Time), attachment_id)];
    }
    match (&volume.instance_uuid, volume.status) {
        (Some(instance), VolumeState::InUse) => vec![attached(Some(dashed(instance)), None, None, None, id.clone())],
        _ => Vec::new(),
    }
}

/// Exactly the keys of Cinder contract 4.2 and, by revision, 3.3: clients forbid others.
#[derive(Serialize)]
pub struct Detail<'v> {
    id: Id<'v>,
    status: &'static str,
    /// GiB
    size: i64,
    availability_zone: &'static str,
    created_at: Time,
    updated_at: Option<Time>,
    name: Option<&'v str>,
    description: Option<&'v str>,
    volume_type: &'static str,
    snapshot_id: Option<String>,
    source_volid: Option<String>,
    metadata: Labels,
    links: Links<'v>,
    user_id: &'v str,
    bootable: &'static str,
    encrypted: bool,
    replication_status: Option<&'static str>,
    consistencygroup_id: Option<&'static str>,
    multiattach: bool,
    attachments: Vec<Attachment>,
    #[serde(rename = "os-vol-tenant-attr:tenant_id", skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'v str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    migration_status: Option<Value>,
    #[serde(flatten)]
    admin: Option<AdminDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_uuid: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_targets: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_type_id: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumes_quota: Option<bool>,
}

#[derive(Serialize)]
struct AdminDetail {
    #[serde(rename = "os-vol-host-attr:host")]
    host: String,
    #[serde(rename = "os-vol-mig-status-attr:migstat")]
    migstat: Option<&'static str>,
    #[serde(rename = "os-vol-mig-status-attr:name_id")]
    name_id: Option<&'static str>,
}

/// `shown`: for a show or a list; the answer to a creation has less.
pub fn detail<'v>(context: &'v Context, volume: &'v Volume, shown: bool) -> Detail<'v> {
    let origin: Value = serde_json::from_str(&volume.origin).unwrap_or_default();
    let made_from = |key: &str| origin[key].as_str().map(dashed);
    let null_since = |minor: u16| context.since(minor).then_some(Value::Null);
    let admin = shown && context.is_admin();
    Detail {
        id: Id(&volume.uuid),
        status: volume.status.as_str(),
        size: gib(volume.size),
        availability_zone: ZONE,
        created_at: Time(volume.created),
        updated_at: volume.updated.map(Time),
        name: shown_name(volume),
        description: volume.description.as_deref(),
        volume_type: types::NAME,
        snapshot_id: made_from("snapshot_id"),
        source_volid: made_from("source_volid"),
        metadata: shown_labels(volume),
        links: context.links("volumes", &volume.uuid),
        user_id: &volume.user_uuid,
        bootable: if volume.bootable { "true" } else { "false" },
        encrypted: false,
        replication_status: None,
        consistencygroup_id: None,
        multiattach: false,
        attachments: attachments(volume),
        tenant_id: shown.then_some(&volume.project_uuid),
        migration_status: context.is_admin().then_some(Value::Null),
        admin: admin.then(|| AdminDetail {
            host: services::volume_host(),
            migstat: None,
            name_id: None,
        }),
        group_id: null_since(13),
        provider_id: null_since(21).filter(|_| context.is_admin()),
        service_uuid: null_since(48),
        shared_targets: context.since(48).then(|| if context.since(69) { Value::Null } else { Value::Bool(false) }),
        cluster_name: null_since(61).filter(|_| context.is_admin()),
        volume_type_id: context.since(63).then_some(types::ID),
        consumes_quota: context.since(65).then_some(true),
    }
}
