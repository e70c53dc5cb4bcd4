//! Orders about instances: back one up, restore a backup to a new one.

use rusqlite::Transaction;
use serde_json::{Value, json};

use super::{Refusal, begin_restore, fits, log};
use crate::catalog::backups::{self, Backup, NewBackup};
use crate::catalog::events::Severity;
use crate::catalog::images::{Flavor, Image};
use crate::catalog::instances::{self, Instance};
use crate::catalog::jobs::{self, JobKind};
use crate::catalog::new_uuid;
use crate::catalog::schedules::Schedule;
use crate::catalog::repositories;
use crate::catalog::volume_backups::{self, Face, NewVolumeBackup, Part};
use crate::catalog::volumes::{self, NewVolume, Volume};
use crate::clock;
use crate::model::backup::BackupKind;
use crate::model::instance::InstanceState;
use crate::model::quota::{QuotaName, gib, mib};
use crate::model::retention;
use crate::model::volume::VolumeState;

/// A backup of `instance`, by hand or because `schedule` fired for an instant, to the place of this name or, if it is empty, the
/// default one. Returns the new backup's id and uuid.
pub fn back_up(
    tx: &Transaction,
    instance: &Instance,
    user_uuid: &str,
    description: &str,
    schedule: Option<(&Schedule, i64)>,
    repository: &str,
) -> Result<(i64, String), Refusal> {
    if !instance.state.is_stable() {
        return Err(Refusal::Unstable);
    }
    let volumes = volumes::of_instance(tx, instance.id)?;
    if let Some(volume) = volumes.iter().find(|volume| !volume.state.is_whole()) {
        return Err(Refusal::NotWhole { volume: volume.title(), state: volume.state });
    }
    one_bootable(volumes.iter().map(|v| v.bootable))?;
    if !repositories::is_place(tx, repository)? {
        return Err(Refusal::NoRepository(repository.to_string()));
    }
    let repository = repositories::destination(tx, Some(repository).filter(|name| !name.is_empty()))?;
    let size: i64 = volumes.iter().map(|v| v.size).sum();
    let gigabytes = volumes.iter().map(|v| gib(v.size)).sum();
    let additions =
        [(QuotaName::Storage, size), (QuotaName::Backups, volumes.len() as i64), (QuotaName::BackupGigabytes, gigabytes)];
    fits(tx, instance.project_id, &additions)?;
    let now = clock::now_ms();
    let counter = match schedule {
        Some(_) => Some(instances::count_backup(tx, instance.id)?),
        None => None,
    };
    // While nobody knows what day it is, nobody knows when the days of a backup are over.
    let kept_until = schedule.filter(|_| clock::is_set(now)).and_then(|(schedule, _)| {
        let days = u32::try_from(schedule.retention_time).unwrap_or(0);
        retention::kept_until(clock::from_ms(now), days).map(|at| at.timestamp_millis())
    });
    let uuid = new_uuid();
    let new = NewBackup {
        uuid: &uuid,
        kind: BackupKind::Instance,
        project_id: instance.project_id,
        user_uuid,
        instance_id: Some(instance.id),
        schedule: schedule.map(|(schedule, trigger_at)| (schedule.id, trigger_at)),
        description,
        created_at: now,
        kept_until,
        metadata: metadata(instance, &volumes, counter),
        size,
        repository_id: repository.map(|repository| repository.id),
    };
    let id = backups::insert(tx, &new)?;
    for volume in &volumes {
        let face = Face { title: Some(&volume.name), data_timestamp: Some(now), ..Face::default() };
        volume_backups::insert(tx, &NewVolumeBackup::of(volume, &new_uuid(), id, BackupKind::Instance, now, face))?;
    }
    jobs::insert(tx, JobKind::Create, id, None, &Value::Null, now)?;
    let context = json!({"instance_name": instance.name, "instance_uuid": instance.uuid,
        "schedule_uuid": schedule.map(|(schedule, _)| &schedule.uuid)});
    log(tx, instance.project_id, &uuid, "resource_backup_creation_scheduled", Severity::Info, context, || {
        format!("Backup of {} has been scheduled.", instance.name)
    })?;
    Ok((id, uuid))
}

/// Where a restore makes its new machine, and with what profile.
pub struct NewMachine<'a> {
    pub name: Option<&'a str>,
    pub image: &'a Image,
    pub flavor: &'a Flavor,
    /// End Online instead of Offline.
    pub start: bool,
    /// Who asks for it.
    pub user_uuid: &'a str,
    /// Directory for the new volume files.
    pub directory: &'a std::path::Path,
}

/// A new instance with the backup's volumes and the chosen profile. Returns the new instance's uuid.
pub fn restore_to_new_instance(tx: &Transaction, backup: &Backup, machine: &NewMachine) -> Result<String, Refusal> {
    let parts = volume_backups::parts(tx, backup.id)?;
    one_bootable(parts.iter().map(|part| part.bootable))?;
    let recorded: Value = serde_json::from_str(&backup.metadata).unwrap_or(Value::Null);
    fits_profile(&recorded, &parts, machine)?;
    let size: i64 = parts.iter().map(|part| part.size).sum();
    let (image, flavor) = (machine.image, machine.flavor);
    let additions = [
        (QuotaName::Storage, size),
        (QuotaName::Vcpu, flavor.cores),
        (QuotaName::Ram, flavor.ram),
        (QuotaName::Instances, 1),
        (QuotaName::Volumes, parts.len() as i64),
        (QuotaName::Gigabytes, parts.iter().map(|part| gib(part.size)).sum()),
    ];
    fits(tx, backup.project_id, &additions)?;
    let now = clock::now_ms();
    let instance = Instance { project_id: backup.project_id, created: now, ..as_recorded(&recorded, backup, image, flavor, machine.name) };
    let instance_id = instances::insert(tx, &instance)?;
    for part in &parts {
        let uuid = new_uuid();
        let path = machine.directory.join(&instance.uuid).join(format!("{}.raw", uuid));
        let volume = NewVolume {
            uuid: &uuid,
            project_id: backup.project_id,
            user_uuid: machine.user_uuid,
            name: &part.name,
            description: None,
            path: &path.to_string_lossy(),
            kind: "file",
            size: part.size,
            managed: true,
            state: VolumeState::Creating,
            bootable: part.bootable,
            labels: "{}",
            origin: "{}",
            created: now,
        };
        let volume_id = volumes::insert(tx, &volume)?;
        volumes::attach(tx, instance_id, part.position, volume_id, part.bootable)?;
    }
    let target = json!({"instance": instance_id, "start": machine.start});
    begin_restore(tx, backup, None, &target)?;
    backups::insert_restoration(tx, backup.id, instance_id, now)?;
    Ok(instance.uuid)
}

fn one_bootable(flags: impl Iterator<Item = bool>) -> Result<(), Refusal> {
    match flags.filter(|bootable| *bootable).count() {
        1 => Ok(()),
        n => Err(Refusal::Bootable(n)),
    }
}

fn fits_profile(recorded: &Value, parts: &[Part], machine: &NewMachine) -> Result<(), Refusal> {
    let min_ram = machine.image.min_ram.max(recorded["min_ram"].as_i64().unwrap_or(0));
    if machine.flavor.ram < min_ram {
        let message = format!("RAM of flavor is not enough for selected image {min_ram}");
        return Err(Refusal::Profile { field: "flavor", message });
    }
    let system = parts.iter().find(|part| part.bootable).map_or(0, |part| part.size);
    if mib(system) < machine.image.min_disk {
        let message = format!(
            "The backup's system volume has {} MiB, less than the {} MiB that the selected image needs",
            mib(system),
            machine.image.min_disk
        );
        return Err(Refusal::Profile { field: "image", message });
    }
    Ok(())
}

/// The instance as it was when it was backed up, with a new identity and the chosen profile.
fn as_recorded(recorded: &Value, backup: &Backup, image: &Image, flavor: &Flavor, name: Option<&str>) -> Instance {
    let before = Instance::recorded(recorded);
    let recorded_name = recorded["name"].as_str().unwrap_or(&backup.subject);
    Instance {
        uuid: new_uuid(),
        project_id: backup.project_id,
        name: name.unwrap_or(recorded_name).to_string(),
        state: InstanceState::ProvisioningScheduled,
        cores: flavor.cores,
        ram: flavor.ram,
        flavor_name: flavor.name.clone(),
        min_ram: image.min_ram.max(before.min_ram),
        min_disk: image.min_disk.max(before.min_disk),
        ..before
    }
}

/// What a backup remembers of its instance. Never a host path: metadata is shown to everybody who sees the backup.
fn metadata(instance: &Instance, volumes: &[Volume], counter: Option<i64>) -> Value {
    let volume = |v: &Volume| {
        json!({"uuid": v.uuid, "position": v.position, "name": v.name, "size": mib(v.size), "size_bytes": v.size, "bootable": v.bootable})
    };
    let system = volumes.iter().find(|v| v.bootable).map_or(0, |v| v.size);
    let total: i64 = volumes.iter().map(|v| v.size).sum();
    json!({
        "name": instance.name,
        "description": instance.description,
        "cores": instance.cores,
        "ram": instance.ram,
        "min_ram": instance.min_ram,
        "min_disk": instance.min_disk,
        "flavor_name": instance.flavor_name,
        "image_name": instance.image_name,
        "key_name": instance.key_name,
        "key_fingerprint": instance.key_fingerprint,
        "user_data": instance.user_data,
        "tags": instance.tags,
        "size": mib(total),
        "system_volume_size": mib(system),
        "data_volume_size": mib(total - system),
        "volumes": volumes.iter().map(volume).collect::<Vec<_>>(),
        "counter": counter,
    })
}
