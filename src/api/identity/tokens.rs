//! `/auth/tokens`: logging in, looking at a token, ending it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rusqlite::Connection;
use serde_json::{Map, Value, json};

use super::claim::{Claim, CredentialName, DOMAIN_ID, DOMAIN_NAME, Named, Proof, Wish};
use super::fault::{Fault, IdentityResult};
use super::{Context, catalog, timestamp};
use crate::api::auth::openstack::{Caller, Level, prove};
use crate::api::auth::{new_token, token_hash};
use crate::api::proxy::client;
use crate::api::text::parse_uuid;
use crate::catalog::credentials::{self, Credential};
use crate::catalog::projects::{self, Project};
use crate::catalog::sessions::{self, Session, Token};
use crate::catalog::users::{self, User};
use crate::clock;
use crate::http::Response;

/// Tokens of one user that stay valid side by side. A client of the command line makes one for each command.
const KEPT: i64 = 1000;

pub fn create(context: &Context) -> IdentityResult {
    let claim = Claim::read(&context.body()?)?;
    // Hashing takes its time, so it comes before the transaction, which looks again at what was proved.
    let proven = examine(context, &claim.proof)?;
    let secret = new_token()?;
    let audit_id = new_audit_id()?;
    let now = clock::now_ms();
    let body = context.app.db.write(|tx| {
        let grant = proven.grant(tx, now, context)?;
        let session = grant.session(tx, &claim.scope, &audit_id)?;
        let token = sessions::insert(tx, &token_hash(&secret), grant.user_id, &session, now, grant.expires)?;
        sessions::prune(tx, grant.user_id, KEPT, context.app.engine.clock.confirmed_ms())?;
        let holder = Caller::holder(tx, &token)?.ok_or_else(refused)?;
        describe(context, tx, &token, &holder)
    })?;
    Ok(Response::json(201, &body).with_header("X-Subject-Token", secret))
}

pub fn show(context: &Context) -> IdentityResult {
    let caller = context.caller()?;
    context.app.db.read(|c| {
        let (secret, token) = subject(context, c, &caller)?;
        let holder = Caller::holder(c, &token)?.ok_or_else(Fault::not_found)?;
        Ok(Response::json(200, &describe(context, c, &token, &holder)?).with_header("X-Subject-Token", secret))
    })
}

pub fn revoke(context: &Context) -> IdentityResult {
    let caller = context.caller()?;
    context.app.db.write(|tx| {
        let (_, token) = subject(context, tx, &caller)?;
        sessions::delete(tx, token.id)?;
        Ok(Response::empty(204))
    })
}

/// The token that the request is about: one of the caller's own, or for an administrator any.
fn subject<'a>(context: &'a Context, c: &Connection, caller: &Caller) -> Result<(&'a str, Token), Fault> {
    let secret = context.request.header("x-subject-token").ok_or_else(|| Fault::bad_request("X-Subject-Token is missing."))?;
    let token = sessions::by_hash(c, &token_hash(secret), clock::now_ms())?;
    let token = token.filter(|token| token.session.is_some()).ok_or_else(Fault::not_found)?;
    match caller.is_admin() || token.user_id == caller.identity.user.id {
        true => Ok((secret, token)),
        false => Err(Fault::forbidden("The token is somebody else's.")),
    }
}

fn refused() -> Fault {
    Fault::unauthorized("Wrong user, password, token or project.")
}

/// 128 random bits as text.
fn new_audit_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

// ---- who logs in

/// What a login has proved, as it was when that was looked at.
enum Proven {
    Password(User),
    Credential(Credential),
    /// By its hash.
    Token([u8; 32]),
}

/// What may become of it.
struct Grant {
    user_id: i64,
    methods: String,
    /// Of the login that this one goes back to.
    audit_id: Option<String>,
    expires: i64,
    source_id: Option<i64>,
    credential: Option<Credential>,
}

fn examine(context: &Context, proof: &Proof) -> Result<Proven, Fault> {
    let (app, peer) = (context.app, client(&context.app.config(), context.request));
    match proof {
        Proof::Token(token) => Ok(Proven::Token(token_hash(token))),
        Proof::Password { user, password } => {
            let found = app.db.read(|c| find_user(c, user))?;
            let (Named::Id(tried) | Named::Name(tried)) = user;
            let who = found.as_ref().map_or(tried, |user| &user.username);
            let right = prove(app, who, peer, password, found.as_ref().and_then(|user| user.password.as_deref()))?;
            found.filter(|_| right).map(Proven::Password).ok_or_else(refused)
        }
        Proof::Credential { credential, secret } => {
            let found = app.db.read(|c| find_credential(c, credential))?;
            // No user's name has a blank, so these count apart from passwords.
            let who = match (&found, credential) {
                (Some(found), _) => format!("credential {}", found.uuid),
                (None, CredentialName::Id(tried) | CredentialName::Of { name: tried, .. }) => format!("credential {tried}"),
            };
            let right = prove(app, &who, peer, secret, found.as_ref().map(|found| found.secret.as_str()))?;
            found.filter(|_| right).map(Proven::Credential).ok_or_else(refused)
        }
    }
}

fn find_user(c: &Connection, user: &Named) -> rusqlite::Result<Option<User>> {
    match user {
        Named::Id(id) => parse_uuid(id).map_or(Ok(None), |uuid| users::get(c, &uuid)),
        Named::Name(name) => users::by_name(c, name),
    }
}

fn find_credential(c: &Connection, credential: &CredentialName) -> rusqlite::Result<Option<Credential>> {
    match credential {
        CredentialName::Id(id) => parse_uuid(id).map_or(Ok(None), |uuid| credentials::get(c, &uuid)),
        CredentialName::Of { user, name } => match find_user(c, user)? {
            Some(user) => credentials::by_name(c, user.id, name),
            None => Ok(None),
        },
    }
}

impl Proven {
    /// What the proof is good for, unless it has lost its force meanwhile.
    fn grant(&self, tx: &Connection, now: i64, context: &Context) -> Result<Grant, Fault> {
        let life = context.app.config().auth.keystone_token_lifetime.as_millis() as i64;
        let plain = |user_id, method: &str| Grant {
            user_id,
            methods: method.to_owned(),
            audit_id: None,
            expires: now.saturating_add(life),
            source_id: None,
            credential: None,
        };
        match self {
            Proven::Password(then) => {
                let user = users::by_id(tx, then.id)?.filter(|user| user.password == then.password).ok_or_else(refused)?;
                Ok(plain(user.id, "password"))
            }
            Proven::Credential(then) => {
                let found = credentials::by_id(tx, then.id)?.filter(|found| found.secret == then.secret);
                let found = found.filter(|found| found.expires.is_none_or(|end| end > now)).ok_or_else(refused)?;
                let mut grant = plain(found.user_id, "application_credential");
                grant.expires = grant.expires.min(found.expires.unwrap_or(i64::MAX));
                Ok(Grant { credential: Some(found), ..grant })
            }
            Proven::Token(hash) => {
                let token = sessions::by_hash(tx, hash, now)?.ok_or_else(refused)?;
                Grant::from_token(tx, &token, plain(token.user_id, "token"))
            }
        }
    }
}

impl Grant {
    /// A token for a token: it lives no longer, and ends with what the first was got with.
    fn from_token(tx: &Connection, token: &Token, plain: Grant) -> Result<Grant, Fault> {
        let Some(session) = &token.session else {
            let expires = plain.expires.min(token.expires.unwrap_or(i64::MAX));
            return Ok(Grant { source_id: Some(token.id), expires, ..plain });
        };
        let methods = std::iter::once("token").chain(session.methods.split(' ').filter(|method| *method != "token"));
        Ok(Grant {
            methods: methods.collect::<Vec<_>>().join(" "),
            audit_id: session.audit_ids.split(' ').next_back().map(str::to_owned),
            expires: token.expires.unwrap_or(plain.expires),
            source_id: session.source_id,
            credential: match session.credential_id {
                Some(id) => credentials::by_id(tx, id)?,
                None => None,
            },
            ..plain
        })
    }

    /// The session for the scope that is asked for.
    fn session(&self, tx: &Connection, wish: &Wish, audit_id: &str) -> Result<Session, Fault> {
        let project_id = match (&self.credential, wish) {
            (None, Wish::Nothing | Wish::Unscoped) => None,
            (None, Wish::Project(named)) => Some(self.project(tx, named)?.id),
            (Some(credential), Wish::Nothing) => Some(credential.project_id),
            // It is for one project; some clients insist on naming one.
            (Some(credential), Wish::Project(named)) if self.project(tx, named)?.id == credential.project_id => Some(credential.project_id),
            (Some(_), _) => return Err(Fault::unauthorized("An application credential is for its own project only.")),
        };
        Ok(Session {
            methods: self.methods.clone(),
            audit_ids: self.audit_id.as_ref().map_or(audit_id.to_owned(), |first| format!("{audit_id} {first}")),
            project_id,
            source_id: self.source_id,
            credential_id: self.credential.as_ref().map(|credential| credential.id),
        })
    }

    /// A project in which the user has a role. Of several of one name none is taken: it could be the wrong one.
    fn project(&self, tx: &Connection, named: &Named) -> Result<Project, Fault> {
        let named = match named {
            Named::Id(id) => parse_uuid(id).map_or(Ok(None), |uuid| projects::get(tx, &uuid))?.into_iter().collect(),
            Named::Name(name) => projects::by_name(tx, name)?,
        };
        let user = Caller::of_user(tx, self.user_id)?.ok_or_else(refused)?;
        let mut mine: Vec<Project> = named.into_iter().filter(|project| user.level(project.id) > Level::None).collect();
        match (mine.pop(), mine.is_empty()) {
            (Some(project), true) => Ok(project),
            _ => Err(refused()),
        }
    }
}

// ---- what a token says

fn describe(context: &Context, c: &Connection, token: &Token, holder: &Caller) -> Result<Value, Fault> {
    let session = token.session.as_ref().ok_or_else(Fault::not_found)?;
    let mut body = json!({
        "methods": session.methods.split(' ').collect::<Vec<_>>(),
        "user": {
            "id": holder.user_uuid(),
            "name": holder.identity.user.username,
            "domain": domain(),
            "password_expires_at": null,
        },
        "audit_ids": session.audit_ids.split(' ').collect::<Vec<_>>(),
        "expires_at": token.expires.map(timestamp),
        "issued_at": timestamp(token.created),
    });
    if let (Some(id), Value::Object(body)) = (session.project_id, &mut body) {
        describe_scope(context, &projects::by_id(c, id)?, holder.level(id), body);
    }
    if let Some(credential) = session.credential_id.map_or(Ok(None), |id| credentials::by_id(c, id))? {
        body["application_credential"] = json!({"id": credential.uuid, "name": credential.name, "restricted": true});
    }
    Ok(json!({"token": body}))
}

fn describe_scope(context: &Context, project: &Project, level: Level, body: &mut Map<String, Value>) {
    let role = |name: &&str| json!({"id": name, "name": name});
    body.insert("is_domain".into(), json!(false));
    body.insert("project".into(), json!({"id": project.uuid, "name": project.name, "domain": domain()}));
    body.insert("roles".into(), level.roles().iter().map(role).collect());
    if context.param("nocatalog").is_none() {
        body.insert("catalog".into(), catalog::of_project(context, &project.uuid));
    }
}

fn domain() -> Value {
    json!({"id": DOMAIN_ID, "name": DOMAIN_NAME})
}
