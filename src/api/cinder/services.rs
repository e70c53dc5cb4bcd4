//! `/os-services` and `/os-availability-zone`: the parts of a Cinder that clients look for. Here they are one daemon
//! (Cinder contract 4.2).

use serde_json::{Value, json};

use super::context::{CinderResult, Context};
use super::wire::Time;
use crate::catalog::volume_backups::ZONE;
use crate::clock;
use crate::http::Response;

/// The name of this host.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where volumes are, as `host@backend#pool`.
pub fn volume_host() -> String {
    format!("{}@cofferd#pool", host())
}

pub fn list(context: &Context) -> CinderResult {
    context.admin_only()?;
    let host = host();
    let services = [
        ("cinder-backup", host.clone()),
        ("cinder-scheduler", host.clone()),
        ("cinder-volume", format!("{host}@cofferd")),
    ];
    let wanted = |binary: &str, host: &str| {
        // A host's name alone stands for all that is on it.
        let on_host = |wanted: &str| host == wanted || host.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('@'));
        context.param("binary").is_none_or(|wanted| wanted == binary) && context.param("host").is_none_or(on_host)
    };
    let view = |(binary, host): &(&str, String)| {
        let mut view = json!({
            "binary": binary,
            "host": host,
            "zone": ZONE,
            "status": "enabled",
            "state": "up",
            "updated_at": Time(clock::now_ms()),
            "disabled_reason": null,
        });
        if context.since(7) {
            view["cluster"] = Value::Null;
        }
        if *binary == "cinder-volume" {
            view["replication_status"] = "disabled".into();
            view["active_backend_id"] = Value::Null;
            view["frozen"] = false.into();
            if context.since(49) {
                view["backend_state"] = "up".into();
            }
        }
        view
    };
    let services: Vec<Value> = services.iter().filter(|(binary, host)| wanted(binary, host)).map(view).collect();
    Ok(Response::json(200, &json!({"services": services})))
}

pub fn zones(_: &Context) -> CinderResult {
    Ok(Response::json(200, &json!({"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": true}}]})))
}
