//! `/users/{id}/application_credentials`: what a user's programs log in with. A user makes them, with a token of his own; an
//! administrator may look at those of others and delete them.
//!
//! They are always restricted: with a token that comes from one, none can be made, seen or deleted.

use serde_json::{Map, Value, json};

use super::fault::{Fault, IdentityResult};
use super::{Context, timestamp};
use crate::api::auth::openstack::{Caller, CallerError, Level};
use crate::api::auth::{self, HashPermit};
use crate::api::text::{parse_timestamp, parse_uuid};
use crate::catalog::credentials::{self, Credential};
use crate::catalog::users::{self, User};
use crate::catalog::{new_uuid, projects};
use crate::clock;
use crate::http::Response;

/// That one user may have.
const MOST: usize = 100;
const MAX_NAME: usize = 255;
/// A secret may be chosen, but not so short that it could be guessed.
const SECRET_LENGTH: std::ops::RangeInclusive<usize> = 8..=1024;

pub fn route(context: &Context, user: &str, rest: &[&str]) -> IdentityResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context, user)), ("POST", &|| create(context, user))]),
        [id] => context.methods(&[("GET", &|| show(context, user, id)), ("DELETE", &|| delete(context, user, id))]),
        _ => Err(Fault::not_found()),
    }
}

/// The user whose credentials are asked for. Whether there are other users is nobody's business.
fn subject(context: &Context, caller: &Caller, user: &str) -> Result<User, Fault> {
    if caller.credential().is_some() {
        return Err(Fault::forbidden("A token of an application credential cannot manage application credentials."));
    }
    let uuid = parse_uuid(user).unwrap_or_default();
    if uuid == caller.user_uuid() {
        return Ok(caller.identity.user.clone());
    }
    match caller.is_admin() {
        true => context.app.db.read(|c| users::get(c, &uuid))?.ok_or_else(Fault::not_found),
        false => Err(Fault::forbidden("Application credentials are each user's own.")),
    }
}

fn list(context: &Context, user: &str) -> IdentityResult {
    let user = subject(context, &context.caller()?, user)?;
    let name = context.param("name");
    let found = context.app.db.read(|c| {
        let found = credentials::of_user(c, user.id)?.into_iter().filter(|found| name.as_ref().is_none_or(|name| *name == found.name));
        found.map(|found| describe(context, c, &user, &found)).collect::<Result<Vec<_>, Fault>>()
    })?;
    let links = json!({"self": context.url(&path(&user)), "previous": null, "next": null});
    Ok(Response::json(200, &json!({"application_credentials": found, "links": links})))
}

fn show(context: &Context, user: &str, id: &str) -> IdentityResult {
    let user = subject(context, &context.caller()?, user)?;
    context.app.db.read(|c| {
        let found = find(c, &user, id)?;
        Ok(Response::json(200, &json!({"application_credential": describe(context, c, &user, &found)?})))
    })
}

fn delete(context: &Context, user: &str, id: &str) -> IdentityResult {
    let user = subject(context, &context.caller()?, user)?;
    context.app.db.write(|tx| {
        credentials::delete(tx, find(tx, &user, id)?.id)?;
        Ok(Response::empty(204))
    })
}

fn find(c: &rusqlite::Connection, user: &User, id: &str) -> Result<Credential, Fault> {
    let found = credentials::get(c, &parse_uuid(id).ok_or_else(Fault::not_found)?)?;
    found.filter(|found| found.user_id == user.id).ok_or_else(Fault::not_found)
}

fn create(context: &Context, user: &str) -> IdentityResult {
    let caller = context.caller()?;
    let user = subject(context, &caller, user)?;
    if user.uuid != caller.user_uuid() {
        return Err(Fault::forbidden("A user makes his own application credentials."));
    }
    let scope = context.app.db.read(|c| caller.in_project(c, None))?;
    let order = Order::read(&context.body()?, scope.level, clock::now_ms())?;
    let secret = match order.secret {
        Some(secret) => secret,
        None => auth::new_token()?,
    };
    let credential = Credential {
        id: 0,
        uuid: new_uuid(),
        user_id: user.id,
        project_id: scope.project.id,
        name: order.name,
        description: order.description,
        secret: hash(&secret)?,
        level: order.level,
        created: clock::now_ms(),
        expires: order.expires,
    };
    context.app.db.write(|tx| {
        if credentials::of_user(tx, user.id)?.len() >= MOST {
            return Err(Fault::forbidden(format!("The number of application credentials exceeds {MOST}; delete some first.")));
        }
        if !credentials::insert(tx, &credential)? {
            return Err(Fault::conflict(format!("You have an application credential \"{}\" already.", credential.name)));
        }
        let mut body = describe(context, tx, &user, &credential)?;
        body["secret"] = json!(secret);
        Ok(Response::json(201, &json!({"application_credential": body})))
    })
}

fn hash(secret: &str) -> Result<String, Fault> {
    let _permit = HashPermit::wait().ok_or(CallerError::Busy(1))?;
    auth::hash_password(secret).map_err(|e| Fault::unavailable(format!("The secret cannot be hashed: {e}")))
}

/// What is asked for.
#[derive(Debug)]
struct Order {
    name: String,
    description: String,
    /// None: one is to be made up.
    secret: Option<String>,
    level: Level,
    expires: Option<i64>,
}

impl Order {
    /// `most` is what the caller has, and so what can be given.
    fn read(body: &Value, most: Level, now: i64) -> Result<Order, Fault> {
        let wrong = || Fault::bad_request("application_credential must be an object.");
        let fields = body.get("application_credential").and_then(Value::as_object).ok_or_else(wrong)?;
        refuse_what_is_not_offered(fields)?;
        let name = text(fields, "name", 1..=MAX_NAME)?.ok_or_else(|| Fault::bad_request("name is missing."))?;
        let expires = match text(fields, "expires_at", 1..=64)? {
            None => None,
            Some(time) => Some(future(&time, now).ok_or_else(|| Fault::bad_request("expires_at must be a time in the future."))?),
        };
        Ok(Order {
            name,
            description: text(fields, "description", 0..=MAX_NAME)?.unwrap_or_default(),
            secret: text(fields, "secret", SECRET_LENGTH)?,
            level: level(fields, most)?,
            expires,
        })
    }
}

fn refuse_what_is_not_offered(fields: &Map<String, Value>) -> Result<(), Fault> {
    match fields.get("unrestricted") {
        None | Some(Value::Null | Value::Bool(false)) => (),
        Some(Value::Bool(true)) => return Err(Fault::bad_request("Application credentials are always restricted here.")),
        Some(_) => return Err(Fault::bad_request("unrestricted must be true or false.")),
    }
    match fields.get("access_rules") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(rules)) if rules.is_empty() => Ok(()),
        Some(_) => Err(Fault::bad_request("access_rules are not offered here; a role of reader allows reading only.")),
    }
}

fn text(fields: &Map<String, Value>, key: &str, length: std::ops::RangeInclusive<usize>) -> Result<Option<String>, Fault> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if length.contains(&text.len()) => Ok(Some(text.clone())),
        Some(_) => Err(Fault::bad_request(format!("{key} must be a string of {} to {} bytes.", length.start(), length.end()))),
    }
}

fn future(time: &str, now: i64) -> Option<i64> {
    parse_timestamp(time).map(|time| time.timestamp_millis()).filter(|time| *time > now)
}

/// The highest of the roles named; without any, all that the caller has.
fn level(fields: &Map<String, Value>, most: Level) -> Result<Level, Fault> {
    let roles = match fields.get("roles") {
        None | Some(Value::Null) => return Ok(most),
        Some(Value::Array(roles)) if roles.is_empty() => return Ok(most),
        Some(Value::Array(roles)) => roles,
        Some(_) => return Err(Fault::bad_request("roles must be a list.")),
    };
    let named = |role: &Value| ["id", "name"].iter().find_map(|key| role.get(key)).and_then(Value::as_str).and_then(Level::from_stored);
    let levels: Option<Vec<Level>> = roles.iter().map(named).collect();
    let levels = levels.ok_or_else(|| Fault::bad_request("roles must name admin, member or reader, by id or name."))?;
    let wanted = levels.into_iter().max().unwrap_or(most);
    if wanted > most {
        return Err(Fault::forbidden(format!("You do not have the role {} in the project.", wanted.as_str())));
    }
    Ok(wanted)
}

fn path(user: &User) -> String {
    format!("/users/{}/application_credentials", user.uuid)
}

fn describe(context: &Context, c: &rusqlite::Connection, user: &User, credential: &Credential) -> Result<Value, Fault> {
    let role = |name: &&str| json!({"id": name, "name": name, "domain_id": null, "description": null, "options": {}});
    Ok(json!({
        "id": credential.uuid,
        "name": credential.name,
        "description": credential.description,
        "user_id": user.uuid,
        "project_id": projects::by_id(c, credential.project_id)?.uuid,
        "system": null,
        "roles": credential.level.roles().iter().map(role).collect::<Vec<_>>(),
        // Without a zone, other than in tokens: Keystone does so, and gophercloud insists.
        "expires_at": credential.expires.map(|time| timestamp(time).trim_end_matches('Z').to_owned()),
        "unrestricted": false,
        "links": {"self": context.url(&format!("{}/{}", path(user), credential.uuid))},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: Value) -> Result<Order, Fault> {
        Order::read(&json!({"application_credential": fields}), Level::Member, 1_000)
    }

    #[test]
    fn a_name_is_enough() {
        let order = read(json!({"name": "cron", "secret": null, "expires_at": null, "roles": [], "access_rules": [], "unrestricted": false})).unwrap();
        assert_eq!((order.name.as_str(), order.secret, order.expires, order.level), ("cron", None, None, Level::Member));
    }

    #[test]
    fn roles_can_only_be_fewer() {
        let with = |roles: Value| read(json!({"name": "n", "roles": roles})).map(|order| order.level);
        assert_eq!(with(json!([{"name": "reader"}])).unwrap(), Level::Reader);
        assert_eq!(with(json!([{"id": "reader"}, {"id": "member"}])).unwrap(), Level::Member);
        assert!(with(json!([{"name": "admin"}])).is_err());
    }

    #[test]
    fn wrong_fields_are_refused() {
        for fields in [
            json!({}), json!({"name": ""}), json!({"name": 7}), json!({"name": "x".repeat(256)}),
            json!({"name": "n", "secret": "short"}), json!({"name": "n", "secret": ["x"]}),
            json!({"name": "n", "expires_at": "yesterday"}), json!({"name": "n", "expires_at": "1970-01-01T00:00:00Z"}),
            json!({"name": "n", "expires_at": 7}), json!({"name": "n", "roles": "member"}), json!({"name": "n", "roles": [7]}),
            json!({"name": "n", "roles": [{"name": "king"}]}), json!({"name": "n", "roles": [{}]}),
            json!({"name": "n", "unrestricted": true}), json!({"name": "n", "unrestricted": "no"}),
            json!({"name": "n", "access_rules": [{"path": "/"}]}), json!({"name": "n", "description": 1}),
        ] {
            assert!(read(fields.clone()).is_err(), "{fields}");
        }
        assert!(Order::read(&json!([]), Level::Member, 0).is_err());
    }
}
