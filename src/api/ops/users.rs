//! What the administrator needs to set up a user's OpenStack clients.

use serde_json::{Value, json};

use crate::api::auth::openstack::{Caller, Level};
use crate::api::auth::{self, HashPermit};
use crate::api::text::parse_uuid;
use crate::api::waldur::context::{ApiResult, Context};
use crate::api::waldur::error::ApiError;
use crate::api::waldur::fields::Text;
use crate::api::waldur::uuid_segment;
use crate::catalog::credentials::{self, Credential};
use crate::catalog::users::{self, User};
use crate::catalog::{new_uuid, projects};
use crate::clock;
use crate::http::Response;

pub fn route(context: &Context, user: &str, rest: &[&str]) -> ApiResult {
    match rest {
        ["openstack"] => context.methods(&[("GET", &|| openstack(context, user))]),
        ["credentials"] => context.methods(&[("POST", &|| create_credential(context, user))]),
        _ => Err(ApiError::not_found()),
    }
}

fn find(c: &rusqlite::Connection, user: &str) -> Result<User, ApiError> {
    users::get(c, &uuid_segment(user)?)?.ok_or_else(ApiError::not_found)
}

/// Whether and where the user can log in.
fn openstack(context: &Context, user: &str) -> ApiResult {
    context.read(|c| {
        let user = find(c, user)?;
        let projects = match Caller::of_user(c, user.id)? {
            Some(caller) => caller.projects(c)?,
            None => Vec::new(),
        };
        let projects: Vec<Value> = projects.iter().map(|project| json!({"uuid": project.uuid, "name": project.name})).collect();
        let body = json!({
            "username": user.username,
            "is_active": user.is_active,
            "has_password": user.password.is_some(),
            "projects": projects,
            "region": context.app.config().auth.region,
        });
        Ok(Response::json(200, &body))
    })
}

/// {project: uuid}: an application credential with all that the user may there. The answer is the only time that its secret is
/// shown.
fn create_credential(context: &Context, user: &str) -> ApiResult {
    context.read(|c| find(c, user))?;
    let mut fields = context.fields(false)?;
    let project = fields.text("project", &Text::required(36)).unwrap_or_default();
    fields.finish()?;
    let secret = auth::new_token().map_err(|e| ApiError::detail(503, format!("No randomness from the kernel: {e}")))?;
    let hash = hash(&secret)?;
    context.write(|tx| {
        let user = find(tx, user)?;
        let (project_id, level) = part_in(tx, &user, &project)?;
        let uuid = new_uuid();
        let credential = Credential {
            id: 0,
            name: format!("openrc-{}", &uuid[..8]),
            uuid,
            user_id: user.id,
            project_id,
            description: "made by the administrator".into(),
            secret: hash,
            level,
            created: clock::now_ms(),
            expires: None,
        };
        credentials::insert(tx, &credential)?;
        Ok(Response::json(201, &json!({"id": credential.uuid, "name": credential.name, "secret": secret})))
    })
}

/// The project of this uuid, and what the user may do there.
fn part_in(c: &rusqlite::Connection, user: &User, project: &str) -> Result<(i64, Level), ApiError> {
    let none = || ApiError::field("project", "The user has no role in such a project.");
    let uuid = parse_uuid(project).ok_or_else(none)?;
    let project = projects::get(c, &uuid)?.ok_or_else(none)?;
    let level = Caller::of_user(c, user.id)?.map_or(Level::None, |caller| caller.level(project.id));
    if level == Level::None { Err(none()) } else { Ok((project.id, level)) }
}

fn hash(secret: &str) -> Result<String, ApiError> {
    let busy = || ApiError::detail(503, "Too many logins at once; try again in a second.").with_header("Retry-After", "1".into());
    let _permit = HashPermit::wait().ok_or_else(busy)?;
    auth::hash_password(secret).map_err(|e| ApiError::detail(503, format!("The secret cannot be hashed: {e}")))
}
