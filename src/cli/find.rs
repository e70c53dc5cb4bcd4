//! From what a user types to the object that is meant: a uuid, a name, or the beginning of a uuid. What fits several
//! objects is refused with the list of them, because a guess here could restore or delete the wrong thing.

use serde_json::Value;

use super::CliError;
use super::client::Client;
use super::output::field;

/// A kind of object: where the API keeps it and how users name it.
pub struct Kind {
    pub noun: &'static str,
    pub collection: &'static str,
    /// The fields a user may give instead of the uuid.
    names: &'static [&'static str],
}

pub const PROJECT: Kind = Kind { noun: "project", collection: "/api/projects/", names: &["name"] };
pub const USER: Kind = Kind { noun: "user", collection: "/api/users/", names: &["username"] };
pub const FLAVOR: Kind = Kind { noun: "flavor", collection: "/api/openstack-flavors/", names: &["name"] };
pub const IMAGE: Kind = Kind { noun: "image", collection: "/api/openstack-images/", names: &["name"] };
pub const INSTANCE: Kind = Kind { noun: "instance", collection: "/api/openstack-instances/", names: &["name"] };
pub const VOLUME: Kind = Kind { noun: "volume", collection: "/ops/volumes/", names: &["name", "path"] };
pub const BACKUP: Kind = Kind { noun: "backup", collection: "/api/openstack-backups/", names: &["description"] };
/// Of a volume alone: made by OpenStack clients.
pub const VOLUME_BACKUP: Kind = Kind { noun: "backup", collection: "/ops/volume-backups/", names: &["name"] };
pub const SCHEDULE: Kind = Kind { noun: "schedule", collection: "/api/openstack-backup-schedules/", names: &["description"] };

/// Beginnings of uuids shorter than this are not tried: they would fit by chance.
const SHORTEST_BEGINNING: usize = 4;

impl Kind {
    /// The URL path of an object of this kind.
    pub fn path(&self, object: &Value) -> String {
        format!("{}{}/", self.collection, field(object, "uuid"))
    }

    /// The one object that `text` means.
    pub fn find(&self, client: &Client, text: &str) -> Result<Value, CliError> {
        self.find_any(client, text)?.ok_or_else(|| CliError::failed(format!("there is no {} {text:?}", self.noun)))
    }

    /// The same; None if there is none.
    fn find_any(&self, client: &Client, text: &str) -> Result<Option<Value>, CliError> {
        if let Some(uuid) = as_uuid(text) {
            match client.get(&format!("{}{uuid}/", self.collection)) {
                Err(CliError::Api { status: 404, .. }) => (),
                other => return other.map(Some),
            }
        }
        self.choose(client.list(self.collection)?, text)
    }

    fn choose(&self, objects: Vec<Value>, text: &str) -> Result<Option<Value>, CliError> {
        let named = |o: &Value| self.names.iter().any(|name| o.get(name).and_then(Value::as_str) == Some(text));
        let mut fitting: Vec<Value> = objects.iter().filter(|o| named(o)).cloned().collect();
        if fitting.is_empty() && text.len() >= SHORTEST_BEGINNING {
            let beginning = text.replace('-', "").to_ascii_lowercase();
            fitting = objects.into_iter().filter(|o| !beginning.is_empty() && field(o, "uuid").starts_with(&beginning)).collect();
        }
        match fitting.len() {
            1 => Ok(Some(fitting.remove(0))),
            0 => Ok(None),
            _ => Err(CliError::failed(format!(
                "{text:?} fits more than one {}; give the uuid of one of these:\n{}",
                self.noun,
                fitting.iter().map(|o| self.candidate(o)).collect::<Vec<_>>().join("\n")
            ))),
        }
    }

    fn candidate(&self, object: &Value) -> String {
        let mut words = vec![field(object, "uuid")];
        let more = self.names.iter().chain(&["project_name", "instance_name", "volume_name", "created_at", "created"]);
        words.extend(more.filter(|name| object.get(**name).is_some_and(|v| v.as_str().is_some_and(|t| !t.is_empty()))).map(|name| field(object, name)));
        words.join("  ")
    }
}

/// The backup that `text` means, of an instance or of a volume alone, and which of the two.
pub fn backup(client: &Client, text: &str) -> Result<(&'static Kind, Value), CliError> {
    let mut found = Vec::new();
    for kind in [&BACKUP, &VOLUME_BACKUP] {
        if let Some(backup) = kind.find_any(client, text)? {
            found.push((kind, backup));
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(CliError::failed(format!("there is no backup {text:?}"))),
        _ => {
            let candidates: Vec<String> = found.iter().map(|(kind, backup)| kind.candidate(backup)).collect();
            Err(CliError::failed(format!("{text:?} fits more than one backup; give the uuid of one of these:\n{}", candidates.join("\n"))))
        }
    }
}

/// The project named, or the only one there is.
pub fn project(client: &Client, name: Option<&str>) -> Result<Value, CliError> {
    if let Some(name) = name {
        return PROJECT.find(client, name);
    }
    let mut projects = client.list(PROJECT.collection)?;
    match projects.len() {
        1 => Ok(projects.remove(0)),
        0 => Err(CliError::failed("there is no project yet; `cofferd project add NAME` makes one")),
        _ => {
            let names: Vec<String> = projects.iter().map(|p| field(p, "name")).collect();
            Err(CliError::failed(format!("say which project with --project: {}", names.join(", "))))
        }
    }
}

/// The API's spelling of a whole uuid.
fn as_uuid(text: &str) -> Option<String> {
    uuid::Uuid::try_parse(text).ok().map(|uuid| uuid.simple().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects() -> Vec<Value> {
        vec![
            json!({"uuid": "aaaa1111", "name": "web", "project_name": "p1"}),
            json!({"uuid": "aaaa2222", "name": "web", "project_name": "p2"}),
            json!({"uuid": "bbbb3333", "name": "aaaa"}),
        ]
    }

    fn choose(text: &str) -> Result<String, String> {
        let found = INSTANCE.choose(objects(), text).map_err(|e| e.to_string())?;
        found.map(|o| field(&o, "uuid")).ok_or_else(|| "none".into())
    }

    #[test]
    fn names_come_before_beginnings_of_uuids() {
        assert_eq!(choose("aaaa").unwrap(), "bbbb3333");
        assert_eq!(choose("aaaa2").unwrap(), "aaaa2222");
        assert_eq!(choose("BBBB-3").unwrap(), "bbbb3333");
    }

    #[test]
    fn what_fits_none_or_several_is_refused() {
        assert_eq!(choose("bbb").unwrap_err(), "none");
        assert_eq!(choose("----").unwrap_err(), "none");
        let error = choose("web").unwrap_err();
        assert!(error.contains("aaaa1111  web  p1") && error.contains("aaaa2222  web  p2"), "{error}");
    }
}
