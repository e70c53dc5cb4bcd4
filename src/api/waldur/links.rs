//! Hyperlinks: how objects name each other on Waldur's wire.

use crate::api::text::parse_uuid;

/// A collection, as it stands in URLs.
pub const BACKUPS: &str = "openstack-backups";
pub const SCHEDULES: &str = "openstack-backup-schedules";
pub const INSTANCES: &str = "openstack-instances";
pub const IMAGES: &str = "openstack-images";
pub const FLAVORS: &str = "openstack-flavors";
pub const USERS: &str = "users";
pub const PROJECTS: &str = "projects";
pub const CUSTOMERS: &str = "customers";
pub const QUOTAS: &str = "quotas";
pub const PROJECT_PERMISSIONS: &str = "project-permissions";
pub const CUSTOMER_PERMISSIONS: &str = "customer-permissions";
pub const EVENTS: &str = "events";

/// All collections, as the root lists them.
pub const COLLECTIONS: [&str; 12] = [
    CUSTOMER_PERMISSIONS,
    CUSTOMERS,
    EVENTS,
    SCHEDULES,
    BACKUPS,
    FLAVORS,
    IMAGES,
    INSTANCES,
    PROJECT_PERMISSIONS,
    PROJECTS,
    QUOTAS,
    USERS,
];

pub const NO_MATCH: &str = "Invalid hyperlink - No URL match.";
pub const INCORRECT_MATCH: &str = "Invalid hyperlink - Incorrect URL match.";
pub const DOES_NOT_EXIST: &str = "Invalid hyperlink - Object does not exist.";

/// The collection a path segment names; the singular spelling of backups and schedules is an alias.
pub fn collection(segment: &str) -> Option<&'static str> {
    match segment {
        "openstack-backup" => Some(BACKUPS),
        "openstack-backup-schedule" => Some(SCHEDULES),
        _ => COLLECTIONS.into_iter().find(|name| *name == segment),
    }
}

/// The uuid that a link to a member of `wanted` names. The host is ignored, only the path counts.
pub fn resolve(link: &str, wanted: &str) -> Result<String, &'static str> {
    let path = path_of(link).ok_or(NO_MATCH)?;
    let mut segments = path.trim_matches('/').split('/');
    if segments.next() != Some("api") {
        return Err(NO_MATCH);
    }
    let found = segments.next().and_then(collection).ok_or(NO_MATCH)?;
    let rest: Vec<&str> = segments.collect();
    match rest.as_slice() {
        [] => Err(INCORRECT_MATCH),
        [uuid] => {
            let uuid = parse_uuid(uuid).ok_or(NO_MATCH)?;
            if found == wanted { Ok(uuid) } else { Err(INCORRECT_MATCH) }
        }
        _ => Err(NO_MATCH),
    }
}

/// The path of an absolute http(s) URL or of a bare path, without query and fragment.
fn path_of(link: &str) -> Option<&str> {
    let scheme_end = link.find("://");
    let path = match scheme_end {
        Some(end) if matches!(link[..end].to_ascii_lowercase().as_str(), "http" | "https") => {
            let rest = &link[end + 3..];
            &rest[rest.find('/')?..]
        }
        Some(_) => return None,
        None if link.starts_with('/') => link,
        None => return None,
    };
    path.split(['?', '#']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "a04a26e46def4724a0841abcb81926ac";

    #[test]
    fn links_resolve_by_their_path_alone() {
        let dashed = "A04A26E4-6DEF-4724-A084-1ABCB81926AC";
        for link in [
            format!("http://example.com/api/openstack-instances/{UUID}/"),
            format!("HTTPS://other:8443/api/openstack-instances/{UUID}"),
            format!("/api/openstack-instances/{UUID}/?x=y"),
            format!("/api/openstack-instances/{dashed}/"),
        ] {
            assert_eq!(resolve(&link, INSTANCES).as_deref(), Ok(UUID), "{link}");
        }
        assert_eq!(resolve(&format!("/api/openstack-backup/{UUID}/"), BACKUPS).as_deref(), Ok(UUID));
    }

    #[test]
    fn wrong_links_say_what_is_wrong() {
        for link in ["some_random_url", "", "/", "http://h", "ftp://h/api/users/", "/api/nothing/x/", "/api/openstack-instances/xyz/"] {
            assert_eq!(resolve(link, INSTANCES), Err(NO_MATCH), "{link}");
        }
        assert_eq!(resolve(&format!("http://h/api/openstack-backups/{UUID}/"), INSTANCES), Err(INCORRECT_MATCH));
        assert_eq!(resolve("http://h/api/openstack-backups/", INSTANCES), Err(INCORRECT_MATCH));
        assert_eq!(resolve(&format!("/api/openstack-backups/{UUID}/restore/"), BACKUPS), Err(NO_MATCH));
    }
}
