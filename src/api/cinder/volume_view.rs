//! What clients see of a volume: exactly the keys of Cinder contract 4.2 and, by revision, 3.3, because clients forbid others.

use serde::Serialize;
use serde_json::Value;

use super::context::Context;
use super::metadata::{self, Labels};
use super::wire::{Id, Links, Time};
use super::{services, types};
use crate::catalog::dashed;
use crate::catalog::volume_backups::ZONE;
use crate::catalog::volumes::Volume;
use crate::model::quota::gib;
use crate::model::volume::VolumeState;

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
pub struct Summary<'v> {
    id: Id<'v>,
    name: Option<&'v str>,
    links: Links<'v>,
}

pub fn summary<'v>(context: &'v Context, volume: &'v Volume) -> Summary<'v> {
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
