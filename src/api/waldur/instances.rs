//! `/api/openstack-instances/`: the machines whose volumes are backed up, and the product of a restore.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, Transaction};
use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::fields::{Fields, Text};
use super::links::{self, INSTANCES};
use super::listing::{link_filter, order, states, uuid_filter};
use super::{backups as backups_api, schedules as schedules_api, uuid_segment};
use crate::api::text::{parse_uuid, timestamp};
use crate::catalog::events::{self, NewEvent, Severity};
use crate::catalog::images::{self, Flavor, Image};
use crate::catalog::instances::{self, Instance};
use crate::catalog::list::{self, Filter, Page};
use crate::catalog::volumes::{self, NewVolume, Volume};
use crate::catalog::{backups, jobs, new_uuid, projects, schedules};
use crate::clock;
use crate::engine::orders;
use crate::engine::places::{self, Reach};
use crate::engine::restore::remove_files;
use crate::http::Response;
use crate::model::instance::InstanceState;
use crate::model::quota::{QuotaName, gib, mib};
use crate::model::volume::VolumeState;
use crate::source;

/// Embedded backups of one instance or schedule; the list itself has all.
pub const EMBEDDED: i64 = 300;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| register(context))]),
        [uuid] => context.methods(&[
            ("GET", &|| show(context, uuid)),
            ("PUT", &|| update(context, uuid, false)),
            ("PATCH", &|| update(context, uuid, true)),
            ("DELETE", &|| destroy(context, uuid)),
        ]),
        [uuid, "start"] => context.methods(&[("POST", &|| switch(context, uuid, "start"))]),
        [uuid, "stop"] => context.methods(&[("POST", &|| switch(context, uuid, "stop"))]),
        [uuid, "restart"] => context.methods(&[("POST", &|| switch(context, uuid, "restart"))]),
        [uuid, "unlink"] => context.methods(&[("POST", &|| unlink(context, uuid))]),
        _ => Err(ApiError::not_found()),
    }
}

/// The instance that a link in a body names, if the user sees it; otherwise the field's error.
pub fn linked(context: &Context, c: &Connection, fields: &mut Fields, name: &str, uuid: Option<String>) -> Result<Option<Instance>, ApiError> {
    let Some(uuid) = uuid else { return Ok(None) };
    let instance = instances::get(c, &uuid)?.filter(|instance| context.can_see(instance.project_id).is_ok());
    if instance.is_none() {
        fields.error(name, links::DOES_NOT_EXIST);
    }
    Ok(instance)
}

const SYSTEM_SIZE: &str = "(SELECT sum(v.size) FROM instance_volume iv JOIN volume v ON v.id = iv.volume_id WHERE iv.instance_id = i.id AND iv.bootable)";
const DATA_SIZE: &str = "(SELECT sum(v.size) FROM instance_volume iv JOIN volume v ON v.id = iv.volume_id WHERE iv.instance_id = i.id AND NOT iv.bootable)";
const ORDERS: [(&str, &str); 8] = [
    ("name", "i.name"),
    ("state", "i.state"),
    ("created", "i.created"),
    ("ram", "i.ram"),
    ("cores", "i.cores"),
    ("project_name", "p.name"),
    ("system_volume_size", SYSTEM_SIZE),
    ("data_volume_size", DATA_SIZE),
];

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        for (name, column) in [("name", "i.name"), ("description", "i.description"), ("project_name", "p.name")] {
            for text in context.params(name) {
                filter.contains(column, text);
            }
        }
        uuid_filter(context, &mut filter, "uuid", "i.uuid")?;
        link_filter(context, &mut filter, "project", links::PROJECTS, "p.uuid")?;
        let states = states(context.params("state"), InstanceState::from_display)?;
        if !states.is_empty() {
            filter.one_of("i.state", states.into_iter().map(|state| state.as_str().to_string()));
        }
        for (name, column) in [("cores", "i.cores"), ("ram", "i.ram")] {
            for number in context.params(name).iter().filter_map(|text| text.parse::<i64>().ok()) {
                filter.equals(column, number);
            }
        }
        context.only_visible(&mut filter, "i.project_id");
        let count = list::count(c, instances::FROM, &filter)?;
        let paging = context.page(count, &order(context, &ORDERS, "i.created", "i.id"))?;
        let rows = instances::rows(c, &filter, &paging.page)?;
        let items = rows.iter().map(|instance| to_json(context, c, instance)).collect::<Result<_, _>>()?;
        Ok(context.list(&paging, items))
    })
}

fn find(context: &Context, c: &Connection, uuid: &str) -> Result<Instance, ApiError> {
    let instance = instances::get(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)?;
    context.can_see(instance.project_id)?;
    Ok(instance)
}

fn show(context: &Context, uuid: &str) -> ApiResult {
    context.read(|c| {
        let instance = find(context, c, uuid)?;
        Ok(Response::json(200, &to_json(context, c, &instance)?))
    })
}

fn update(context: &Context, uuid: &str, partial: bool) -> ApiResult {
    context.write(|tx| {
        let instance = find(context, tx, uuid)?;
        context.can_write(instance.project_id)?;
        let mut fields = context.fields(partial)?;
        let name = fields.text("name", &Text::required(150)).unwrap_or_else(|| instance.name.clone());
        let description = fields.text("description", &Text::optional(500)).unwrap_or_else(|| instance.description.clone());
        fields.finish()?;
        if !instance.state.is_stable() {
            return Err(ApiError::detail(409, "Modification allowed in stable states only"));
        }
        instances::set_texts(tx, instance.id, &name, &description)?;
        let instance = find(context, tx, uuid)?;
        Ok(Response::json(200, &to_json(context, tx, &instance)?))
    })
}

/// Removes the record; files that cofferd made for it go too, registered disks are never touched.
fn destroy(context: &Context, uuid: &str) -> ApiResult {
    let gone = context.write(|tx| {
        let instance = find(context, tx, uuid)?;
        context.can_write(instance.project_id)?;
        if backups::instance_has_backups(tx, instance.id)? {
            return Err(ApiError::detail(409, "Cannot delete instance that has backups."));
        }
        if !instance.state.is_destroyable() {
            return Err(ApiError::detail(409, "Performing destroy operation is not allowed for resource in its current state"));
        }
        remove(tx, &instance, orders::discard_volume, "resource_deletion_succeeded", "deleted")
    })?;
    // At once, because it may be what makes room. If the daemon dies before, the promised work is still there.
    remove_files(&gone);
    context.app.engine.wake();
    Ok(Response::json(202, &json!({"status": "destroy was scheduled"})))
}

/// Forgets the machine without touching it.
fn unlink(context: &Context, uuid: &str) -> ApiResult {
    context.write(|tx| {
        let instance = find(context, tx, uuid)?;
        context.can_write(instance.project_id)?;
        if backups::instance_has_backups(tx, instance.id)? {
            return Err(ApiError::detail(409, "Cannot delete instance that has backups."));
        }
        // What is being made or changed right now would be finished for nobody.
        if !instance.state.is_stable() && instance.state != InstanceState::Erred {
            return Err(ApiError::detail(409, "Performing unlink operation is not allowed for resource in its current state"));
        }
        remove(tx, &instance, orders::forget_volume, "resource_unlink_succeeded", "unlinked")
    })?;
    Ok(Response::json(202, &json!({"status": "unlink was scheduled"})))
}

/// Removes the record and, in the way that is given, those of its volumes that come and go with it, which are returned: disks of the
/// host, and what a restore made for it. A volume that was made on its own (in Cinder's face) is only detached.
fn remove(
    tx: &Transaction,
    instance: &Instance,
    remove_volume: fn(&Transaction, &Volume) -> Result<(), orders::Refusal>,
    kind: &str,
    word: &str,
) -> Result<Vec<Volume>, ApiError> {
    let mut gone = volumes::of_instance(tx, instance.id)?;
    gone.retain(|volume| !volume.managed || is_made_for(volume, instance));
    instances::delete(tx, instance.id)?;
    for volume in &gone {
        remove_volume(tx, volume).map_err(|refusal| ApiError::detail(409, format!("Volume {}: {refusal}.", volume.name)))?;
    }
    log(tx, instance, kind, format!("Instance {} has been {word}.", instance.name))?;
    Ok(gone)
}

/// Restores make the files of an instance in a directory of its own.
fn is_made_for(volume: &Volume, instance: &Instance) -> bool {
    Path::new(&volume.path).parent().and_then(Path::file_name).is_some_and(|name| name == instance.uuid.as_str())
}

/// start, stop and restart change the record only: cofferd keeps disks, it does not run machines.
fn switch(context: &Context, uuid: &str, action: &str) -> ApiResult {
    context.write(|tx| {
        let instance = find(context, tx, uuid)?;
        context.can_write(instance.project_id)?;
        let state = match (action, instance.state) {
            ("start", InstanceState::Offline) | ("restart", InstanceState::Online) => InstanceState::Online,
            ("stop", InstanceState::Online) => InstanceState::Offline,
            _ => {
                let message = format!("Performing {action} operation is not allowed for resource in its current state");
                return Err(ApiError::detail(409, message));
            }
        };
        if state == InstanceState::Online {
            volumes::of_instance(tx, instance.id)?.iter().try_for_each(can_be_run_on)?;
        }
        instances::set_state(tx, instance.id, state, "")?;
        Ok(Response::json(202, &json!({"status": format!("{action} was scheduled")})))
    })
}

fn can_be_run_on(volume: &Volume) -> Result<(), ApiError> {
    let why = match volume.status {
        VolumeState::RestoringBackup | VolumeState::Extending => "try again later",
        _ if !volume.state.is_whole() => orders::NOT_WHOLE,
        _ => return Ok(()),
    };
    Err(ApiError::detail(409, format!("Volume {} is {}; {why}.", volume.name, volume.status.as_str())))
}

// ---- registration

/// A volume of a new instance as the body names it.
enum Wanted {
    Path { path: String, name: String },
    Registered { volume: Box<Volume> },
}

fn register(context: &Context) -> ApiResult {
    context.staff_only()?;
    let mut fields = context.fields(false)?;
    let name = fields.text("name", &Text::required(150)).unwrap_or_default();
    let description = fields.text("description", &Text::optional(500)).unwrap_or_default();
    let project = fields.link("project", true, links::PROJECTS);
    let flavor = fields.link("flavor", false, links::FLAVORS);
    let image = fields.link("image", false, links::IMAGES);
    let tags = fields.strings("tags").unwrap_or_default();
    let key_name = fields.text("key_name", &Text::optional(150)).unwrap_or_default();
    let key_fingerprint = fields.text("key_fingerprint", &Text::optional(150)).unwrap_or_default();
    let user_data = fields.text("user_data", &Text::verbatim(65536)).unwrap_or_default();
    let probes = probe_all(context, fields.get("volumes"))?;
    let (uuid, body) = context.write(|tx| {
        let project = found(&mut fields, "project", project, |uuid| projects::get(tx, uuid))?;
        let flavor = found(&mut fields, "flavor", flavor, |uuid| images::flavor(tx, uuid))?;
        let image = found(&mut fields, "image", image, |uuid| images::image(tx, uuid))?;
        let wanted = read_volumes(tx, &mut fields, project.as_ref().map(|p| p.id), &probes)?;
        fields.finish()?;
        let project = project.ok_or_else(ApiError::not_found)?;
        let instance = Instance {
            id: 0,
            uuid: new_uuid(),
            project_id: project.id,
            project_uuid: project.uuid.clone(),
            project_name: project.name.clone(),
            name: name.clone(),
            description: description.clone(),
            state: InstanceState::Offline,
            error_message: String::new(),
            cores: flavor.as_ref().map_or(0, |f: &Flavor| f.cores),
            ram: flavor.as_ref().map_or(0, |f| f.ram),
            flavor_name: flavor.as_ref().map(|f| f.name.clone()).unwrap_or_default(),
            image_name: image.as_ref().map(|i: &Image| i.name.clone()).unwrap_or_default(),
            min_ram: image.as_ref().map_or(0, |i| i.min_ram),
            min_disk: image.as_ref().map_or(0, |i| i.min_disk),
            key_name: key_name.clone(),
            key_fingerprint: key_fingerprint.clone(),
            user_data: user_data.clone(),
            tags: tags.clone(),
            internal_ips: Vec::new(),
            external_ips: Vec::new(),
            created: clock::now_ms(),
        };
        insert(context, tx, &instance, &wanted)?;
        log(tx, &instance, "resource_creation_succeeded", format!("Instance {} has been registered.", instance.name))?;
        let instance = find(context, tx, &instance.uuid)?;
        Ok((instance.uuid.clone(), to_json(context, tx, &instance)?))
    })?;
    Ok(context.created(&context.link(INSTANCES, &uuid), &body))
}

fn found<T>(fields: &mut Fields, name: &str, uuid: Option<String>, get: impl FnOnce(&str) -> rusqlite::Result<Option<T>>) -> Result<Option<T>, ApiError> {
    let Some(uuid) = uuid else { return Ok(None) };
    let object = get(&uuid)?;
    if object.is_none() {
        fields.error(name, links::DOES_NOT_EXIST);
    }
    Ok(object)
}

/// What lies at the paths that a request names.
type Probes = HashMap<String, Result<source::Probe, String>>;

/// Before the transaction: opening a path may last as long as its device likes, and nobody else is to wait for that.
fn probe_all(context: &Context, items: Option<&Value>) -> Result<Probes, ApiError> {
    let mut probes = Probes::new();
    for item in items.and_then(Value::as_array).into_iter().flatten() {
        if let Some(uuid) = item.get("volume").and_then(Value::as_str) {
            let volume = context.read(|c| Ok(parse_uuid(uuid).map(|uuid| volumes::get(c, &uuid)).transpose()?.flatten()))?;
            if let Some(volume) = volume {
                let probe = places::open_source(Path::new(&volume.path), &context.app.engine.settings()).map(|source| source.probe());
                let probe = probe.map_err(|error| error.to_string());
                probes.insert(volume.path, probe);
            }
        } else if let Some(path) = item.get("path").and_then(Value::as_str) {
            probes.insert(path.to_string(), probe(context, path));
        }
    }
    Ok(probes)
}

/// The `volumes` field: a list of {path, bootable, name} or {volume, bootable}. Every fault is the field's error.
fn read_volumes(tx: &Transaction, fields: &mut Fields, project_id: Option<i64>, probes: &Probes) -> Result<Vec<(Wanted, source::Probe, bool)>, ApiError> {
    let items = match fields.get("volumes").cloned() {
        None => {
            fields.error("volumes", "This field is required.");
            return Ok(Vec::new());
        }
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(_) => {
            fields.error("volumes", "Expected a list of at least one volume.");
            return Ok(Vec::new());
        }
    };
    let mut volumes: Vec<(Wanted, source::Probe, bool)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match read_volume(tx, item, index, project_id, probes)? {
            Ok(volume) if volumes.iter().any(|(_, probe, _)| probe.path == volume.1.path) => {
                fields.error("volumes", format!("{} is named twice.", volume.1.path.display()));
            }
            Ok(volume) => volumes.push(volume),
            Err(message) => fields.error("volumes", message),
        }
    }
    // A single volume boots unless it is said otherwise.
    if let [(_, _, bootable)] = volumes.as_mut_slice()
        && items[0].get("bootable").is_none()
    {
        *bootable = true;
    }
    let bootable = volumes.iter().filter(|(.., bootable)| *bootable).count();
    if volumes.len() == items.len() && bootable != 1 {
        fields.error("volumes", format!("Exactly one volume must be bootable, but {bootable} are."));
    }
    Ok(volumes)
}

type Checked = Result<(Wanted, source::Probe, bool), String>;

fn read_volume(tx: &Transaction, item: &Value, index: usize, project_id: Option<i64>, probes: &Probes) -> Result<Checked, ApiError> {
    let bootable = match item.get("bootable") {
        None => false,
        Some(Value::Bool(flag)) => *flag,
        Some(other) => return Ok(Err(format!("\"{other}\" is not a valid boolean."))),
    };
    if let Some(uuid) = item.get("volume").and_then(Value::as_str) {
        let volume = match parse_uuid(uuid) {
            Some(uuid) => volumes::get(tx, &uuid)?,
            None => None,
        };
        let Some(volume) = volume else { return Ok(Err(format!("There is no volume {uuid}."))) };
        if volume.instance_id.is_some() {
            return Ok(Err(format!("The volume {uuid} belongs to an instance already.")));
        }
        if project_id.is_some_and(|id| id != volume.project_id) {
            return Ok(Err(format!("The volume {uuid} belongs to another project.")));
        }
        if volume.status != VolumeState::Available {
            return Ok(Err(format!("The volume {uuid} is {}; only an available volume can become a disk of an instance.", volume.status.as_str())));
        }
        // None: it came up a moment ago.
        let probe = probes.get(&volume.path).cloned().unwrap_or_else(|| Err(format!("There is no volume {uuid}.")));
        return Ok(probe.map(|probe| (Wanted::Registered { volume: Box::new(volume) }, probe, bootable)));
    }
    let Some(path) = item.get("path").and_then(Value::as_str) else {
        return Ok(Err(format!("Volume {index} has no path.")));
    };
    let name = item.get("name").and_then(Value::as_str).unwrap_or_default().to_string();
    let probe = probes.get(path).cloned().unwrap_or_else(|| Err(format!("Volume {index} has no path.")));
    Ok(match probe {
        Ok(probe) => check_free(tx, probe)?.map(|probe| (Wanted::Path { path: probe.path.to_string_lossy().into_owned(), name }, probe, bootable)),
        Err(message) => Err(message),
    })
}

/// Looks at a path that may be registered: a raw image or block device under an allowed root. Not to be called in a transaction,
/// because it may last.
pub fn probe(context: &Context, path: &str) -> Result<source::Probe, String> {
    let probe = places::probe(Path::new(path), Reach::Roots, &context.app.engine.settings()).map_err(|error| error.to_string())?;
    if probe.path.to_str().is_none() {
        return Err("The path is no UTF-8.".into());
    }
    Ok(probe)
}

/// Nothing else is registered there or being made there.
pub fn check_free(tx: &Transaction, probe: source::Probe) -> Result<Result<source::Probe, String>, ApiError> {
    let text = probe.path.to_string_lossy();
    if let Some(other) = volumes::by_path(tx, &text)? {
        return Ok(Err(format!("{text} is registered already as volume {}.", other.uuid)));
    }
    if jobs::on_path(tx, &text)? {
        return Ok(Err(format!("{text} is being restored to; register it when that is over.")));
    }
    drop(text);
    Ok(Ok(probe))
}

fn insert(context: &Context, tx: &Transaction, instance: &Instance, wanted: &[(Wanted, source::Probe, bool)]) -> Result<(), ApiError> {
    let new_bytes: i64 = wanted.iter().filter(|(w, ..)| matches!(w, Wanted::Path { .. })).map(|(_, probe, _)| probe.size as i64).sum();
    let new_gigabytes = wanted.iter().filter(|(w, ..)| matches!(w, Wanted::Path { .. })).map(|(_, probe, _)| gib(probe.size as i64)).sum();
    let new_volumes = wanted.iter().filter(|(w, ..)| matches!(w, Wanted::Path { .. })).count() as i64;
    let additions = [
        (QuotaName::Storage, new_bytes),
        (QuotaName::Vcpu, instance.cores),
        (QuotaName::Ram, instance.ram),
        (QuotaName::Instances, 1),
        (QuotaName::Volumes, new_volumes),
        (QuotaName::Gigabytes, new_gigabytes),
    ];
    orders::fits(tx, instance.project_id, &additions).map_err(|refusal| ApiError::refused("create", refusal))?;
    let id = instances::insert(tx, instance)?;
    for (position, (wanted, probe, bootable)) in wanted.iter().enumerate() {
        let volume_id = match wanted {
            Wanted::Registered { volume } => volume.id,
            Wanted::Path { path, name } => insert_volume(context, tx, instance.project_id, path, name, probe)?.0,
        };
        volumes::attach(tx, id, position as i64, volume_id, *bootable)?;
    }
    Ok(())
}

/// Registers a checked path. Returns the new volume's id and uuid.
pub fn insert_volume(context: &Context, tx: &Transaction, project_id: i64, path: &str, name: &str, probe: &source::Probe) -> Result<(i64, String), ApiError> {
    let default_name = Path::new(path).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let uuid = new_uuid();
    let volume = NewVolume {
        uuid: &uuid,
        project_id,
        user_uuid: &context.identity.user.uuid,
        name: if name.is_empty() { &default_name } else { name },
        description: None,
        path,
        kind: probe.kind.as_str(),
        size: probe.size as i64,
        managed: false,
        state: VolumeState::Available,
        bootable: false,
        labels: "{}",
        origin: "{}",
        created: clock::now_ms(),
    };
    Ok((volumes::insert(tx, &volume)?, uuid))
}

fn log(tx: &Transaction, instance: &Instance, kind: &str, message: String) -> rusqlite::Result<()> {
    let context = json!({"instance_name": instance.name, "instance_uuid": instance.uuid});
    let event =
        NewEvent { kind, severity: Severity::Info, message, context, project_id: Some(instance.project_id), scope: &instance.uuid };
    events::insert(tx, clock::now_ms(), &event)
}

// ---- out

fn to_json(context: &Context, c: &Connection, instance: &Instance) -> Result<Value, ApiError> {
    let volumes = volumes::of_instance(c, instance.id)?;
    let size_of = |bootable: bool| mib(volumes.iter().filter(|v| v.bootable == bootable).map(|v| v.size).sum());
    let mut mine = Filter::default();
    mine.equals("b.instance_id", instance.id);
    let newest = Page { order: "b.created_at DESC, b.id DESC".into(), limit: EMBEDDED, offset: 0 };
    let mut backups = backups::rows(c, &mine, &newest)?;
    backups.reverse();
    let schedules = schedules::of_instance(c, instance.id)?;
    Ok(json!({
        "url": context.link(INSTANCES, &instance.uuid),
        "uuid": instance.uuid,
        "name": instance.name,
        "description": instance.description,
        "state": instance.state.display(),
        "error_message": instance.error_message,
        "resource_type": "OpenStack.Instance",
        "created": timestamp(instance.created),
        "project": context.link(links::PROJECTS, &instance.project_uuid),
        "project_uuid": instance.project_uuid,
        "project_name": instance.project_name,
        "customer": context.link(links::CUSTOMERS, &context.app.customer_uuid),
        "customer_uuid": context.app.customer_uuid,
        "cores": instance.cores,
        "ram": instance.ram,
        "disk": mib(volumes.iter().map(|v| v.size).sum()),
        "system_volume_size": size_of(true),
        "data_volume_size": size_of(false),
        "flavor_name": instance.flavor_name,
        "image_name": instance.image_name,
        "min_ram": instance.min_ram,
        "min_disk": instance.min_disk,
        "key_name": instance.key_name,
        "key_fingerprint": instance.key_fingerprint,
        "tags": instance.tags,
        "internal_ips": instance.internal_ips,
        "external_ips": instance.external_ips,
        "volumes": volumes.iter().map(|volume| volume_json(context, volume)).collect::<Vec<_>>(),
        "backups": backups.iter().map(|backup| backups_api::view(context, backup)).collect::<Vec<_>>(),
        "backup_schedules": schedules.iter().map(|s| schedules_api::to_json(context, c, s)).collect::<Result<Vec<_>, _>>()?,
    }))
}

/// Host paths are shown to staff only.
pub fn volume_json(context: &Context, volume: &Volume) -> Value {
    let mut body = json!({
        "uuid": volume.uuid,
        "name": volume.name,
        "size": mib(volume.size),
        "size_bytes": volume.size,
        "bootable": volume.bootable,
        "type": volume.kind,
        "state": volume.status.as_str(),
        "error_message": volume.error_message,
    });
    if context.identity.is_staff() {
        body["path"] = json!(volume.path);
    }
    body
}
