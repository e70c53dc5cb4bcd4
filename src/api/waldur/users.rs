//! `/api/users/`.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::context::{ApiResult, Context};
use super::error::ApiError;
use super::fields::{Fields, Text};
use super::links::USERS;
use super::listing::{order, uuid_filter};
use super::login::LOGIN;
use super::uuid_segment;
use crate::api::auth;
use crate::api::text::timestamp;
use crate::catalog::list::Filter;
use crate::catalog::new_uuid;
use crate::catalog::sessions;
use crate::catalog::users::{self, User};
use crate::clock;
use crate::http::Response;

pub fn route(context: &Context, rest: &[&str]) -> ApiResult {
    match rest {
        [] => context.methods(&[("GET", &|| list(context)), ("POST", &|| create(context))]),
        [uuid] => context.methods(&[
            ("GET", &|| context.read(|c| Ok(Response::json(200, &to_json(context, &find(context, c, uuid)?))))),
            ("PUT", &|| update(context, uuid, false)),
            ("PATCH", &|| update(context, uuid, true)),
            ("DELETE", &|| delete(context, uuid)),
        ]),
        [uuid, "password"] => context.methods(&[("POST", &|| set_password(context, uuid))]),
        _ => Err(ApiError::not_found()),
    }
}

const ORDERS: [(&str, &str); 4] = [("username", "username"), ("full_name", "full_name"), ("email", "email"), ("date_joined", "created")];

fn list(context: &Context) -> ApiResult {
    context.read(|c| {
        let mut filter = Filter::default();
        if !context.identity.is_staff() {
            // Others neither see staff nor those who are gone; everybody sees himself.
            let me = rusqlite::types::Value::Integer(context.identity.user.id);
            filter.push("(id = ? OR (NOT is_staff AND is_active))", [me]);
        }
        if context.query.iter().any(|(key, _)| key == "current") {
            filter.equals("id", context.identity.user.id);
        }
        for name in context.params("username") {
            filter.equals("username", name.to_string());
        }
        for column in ["full_name", "native_name", "email", "job_title", "organization", "description"] {
            for text in context.params(column) {
                filter.contains(column, text);
            }
        }
        uuid_filter(context, &mut filter, "uuid", "uuid")?;
        let count = crate::catalog::list::count(c, "user", &filter)?;
        let paging = context.page(count, &order(context, &ORDERS, "created", "id"))?;
        let (_, rows) = users::list(c, &filter, &paging.page)?;
        Ok(context.list(&paging, rows.iter().map(|user| to_json(context, user)).collect()))
    })
}

fn find(context: &Context, c: &Connection, uuid: &str) -> Result<User, ApiError> {
    let user = users::get(c, &uuid_segment(uuid)?)?.ok_or_else(ApiError::not_found)?;
    let visible = context.identity.is_staff() || user.id == context.identity.user.id || (!user.is_staff && user.is_active);
    if visible { Ok(user) } else { Err(ApiError::not_found()) }
}

fn create(context: &Context) -> ApiResult {
    context.staff_only()?;
    let mut fields = context.fields(false)?;
    let mut user = User { uuid: new_uuid(), is_active: true, created: clock::now_ms(), ..User::default() };
    read_username(&mut fields, &mut user);
    read_profile(&mut fields, &mut user);
    read_rights(&mut fields, &mut user);
    let password = read_password(&mut fields, false);
    // The fields are judged before the costly hash.
    fields.finish()?;
    user.password = password.map(|password| hash(&password)).transpose()?;
    context.write(|tx| {
        if users::by_name(tx, &user.username)?.is_some() {
            return Err(ApiError::field("username", "This field must be unique."));
        }
        users::insert(tx, &user)?;
        Ok(context.created(&context.link(USERS, &user.uuid), &to_json(context, &user)))
    })
}

fn update(context: &Context, uuid: &str, partial: bool) -> ApiResult {
    context.write(|tx| {
        let mut user = find(context, tx, uuid)?;
        let staff = context.identity.is_staff();
        if !staff && user.id != context.identity.user.id {
            return Err(ApiError::forbidden());
        }
        let mut fields = context.fields(partial)?;
        if staff {
            let old_name = user.username.clone();
            read_username(&mut fields, &mut user);
            if user.username != old_name && users::by_name(tx, &user.username)?.is_some() {
                fields.error("username", "This field must be unique.");
            }
            read_rights(&mut fields, &mut user);
        }
        read_profile(&mut fields, &mut user);
        fields.finish()?;
        users::update(tx, &user)?;
        if !user.is_active {
            // They must not come to life again with the user.
            sessions::end_all_of(tx, user.id)?;
        }
        keep_an_administrator(tx)?;
        Ok(Response::json(200, &to_json(context, &user)))
    })
}

fn delete(context: &Context, uuid: &str) -> ApiResult {
    context.write(|tx| {
        let user = find(context, tx, uuid)?;
        context.staff_only()?;
        users::delete(tx, user.id)?;
        keep_an_administrator(tx)?;
        Ok(Response::empty(204))
    })
}

/// Without an active staff user nobody could administer the coffer any more.
fn keep_an_administrator(c: &Connection) -> Result<(), ApiError> {
    match users::any_staff(c)? {
        Some(_) => Ok(()),
        None => Err(ApiError::detail(409, "This is the last active staff user; make another one first.")),
    }
}

fn set_password(context: &Context, uuid: &str) -> ApiResult {
    let user = context.read(|c| find(context, c, uuid))?;
    if !context.identity.is_staff() && user.id != context.identity.user.id {
        return Err(ApiError::forbidden());
    }
    let mut fields = context.fields(false)?;
    let password = read_password(&mut fields, true);
    fields.finish()?;
    let password = password.map(|password| hash(&password)).transpose()?;
    context.write(|tx| {
        // Hashing takes its time: what others have changed of the user meanwhile must stay.
        users::set_password(tx, user.id, password.as_deref())?;
        // Whoever had the old password must not stay logged in with it.
        users::delete_tokens_of(tx, user.id, LOGIN)?;
        sessions::end_all_of(tx, user.id)?;
        Ok(Response::json(200, &json!({"detail": "Password has been successfully updated."})))
    })
}

fn hash(password: &str) -> Result<String, ApiError> {
    auth::hash_password(password).map_err(|error| ApiError::detail(503, format!("The password cannot be hashed: {error}")))
}

fn read_username(fields: &mut Fields, user: &mut User) {
    let Some(name) = fields.text("username", &Text::required(128)) else { return };
    if name.chars().all(|c| c.is_alphanumeric() || "@.+-_".contains(c)) {
        user.username = name;
    } else {
        fields.error("username", "Enter a valid username. It may hold letters, digits and @.+-_ only.");
    }
}

fn read_profile(fields: &mut Fields, user: &mut User) {
    let mut read = |name: &str, max: usize, value: &mut String| {
        if let Some(text) = fields.text(name, &Text::optional(max)) {
            *value = text;
        }
    };
    read("full_name", 100, &mut user.full_name);
    read("native_name", 100, &mut user.native_name);
    read("job_title", 40, &mut user.job_title);
    read("phone_number", 255, &mut user.phone_number);
    read("organization", 80, &mut user.organization);
    read("description", 500, &mut user.description);
    let mut email = user.email.clone();
    read("email", 254, &mut email);
    if email.is_empty() || is_email(&email) {
        user.email = email;
    } else {
        fields.error("email", "Enter a valid email address.");
    }
    fields.drop_null("civil_number");
    if let Some(number) = fields.text("civil_number", &Text::optional(50)) {
        user.civil_number = Some(number).filter(|n| !n.is_empty());
    }
}

fn read_rights(fields: &mut Fields, user: &mut User) {
    user.is_staff = fields.boolean("is_staff").unwrap_or(user.is_staff);
    user.is_active = fields.boolean("is_active").unwrap_or(user.is_active);
}

fn is_email(text: &str) -> bool {
    let clean = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
    matches!(text.rsplit_once('@'), Some((local, domain)) if clean(local) && clean(domain) && domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.'))
}

/// The password exactly as sent, if it is good enough.
fn read_password(fields: &mut Fields, required: bool) -> Option<String> {
    fields.text("password", &Text { required, ..Text::not_blank(1024) })?;
    let password = fields.get("password").and_then(Value::as_str).map(str::to_string);
    let Some(password) = password else {
        fields.error("password", "Not a valid string.");
        return None;
    };
    for fault in auth::password_faults(&password) {
        fields.error("password", fault);
    }
    Some(password)
}

fn to_json(context: &Context, user: &User) -> Value {
    let mut body = json!({
        "url": context.link(USERS, &user.uuid),
        "uuid": user.uuid,
        "username": user.username,
        "full_name": user.full_name,
        "native_name": user.native_name,
        "job_title": user.job_title,
        "email": user.email,
        "phone_number": user.phone_number,
        "organization": user.organization,
        "organization_approved": false,
        "civil_number": user.civil_number,
        "description": user.description,
        "date_joined": timestamp(user.created),
    });
    if context.identity.is_staff() {
        body["is_staff"] = json!(user.is_staff);
        body["is_active"] = json!(user.is_active);
    }
    body
}
