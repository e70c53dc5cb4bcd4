//! What the administrator needs to set up a user's OpenStack clients.

use serde_json::{Value, json};

use crate::api::auth::openstack::{Caller, Level};
use crate::api::auth::{self, HashPermit};
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
    let mut fields = context.fields(false)?;
    let project = fields.text("project", &Text::required(36)).unwrap_or_default();
    fields.finish()?;
    let random = |e| ApiError::detail(503, format!("No randomness from the kernel: {e}"));
    let secret = auth::new_token().map_err(random)?;
    let busy = || ApiError::detail(503, "Too many logins at once; try again in a second.").with_header("Retry-After", "1".into());
    let permit = HashPermit::take().ok_or_else(busy)?;
    let hash = auth::hash_password(&secret).map_err(|e| ApiError::detail(503, format!("The secret cannot be hashed: {e}")))?;
    drop(permit);
    context.write(|tx| {
        let user = find(tx, user)?;
        let no_project = || ApiError::field("project", "The user has no role in such a project.");
        let project = projects::get(tx, &uuid_segment(&project).map_err(|_| no_project())?)?.ok_or_else(no_project)?;
        let level = Caller::of_user(tx, user.id)?.map_or(Level::None, |caller| caller.level(project.id));
        if level == Level::None {
            return Err(no_project());
        }
        let uuid = new_uuid();
        let credential = Credential {
            id: 0,
            name: format!("openrc-{}", &uuid[..8]),
            uuid,
            user_id: user.id,
            project_id: project.id,
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
