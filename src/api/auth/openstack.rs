//! Who sends an OpenStack request, and in which project it is meant.
//!
//! Known are: Keystone's tokens and those of the API (`X-Auth-Token`), a user name and password with each request (HTTP Basic),
//! `Authorization: Token` as in Waldur's dialect, and the local administrator of the Unix socket. With `auth.noauth` also
//! nothing at all, for clients of this host.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rusqlite::Connection;

use super::{AuthError, HashPermit, Identity, by_token, local_administrator, token_hash, verify_password};
use crate::api::proxy::client;
use crate::api::text::parse_uuid;
use crate::app::App;
use crate::catalog::projects::{self, Project};
use crate::catalog::sessions::{self, Token};
use crate::catalog::{credentials, users};
use crate::clock;
use crate::config::Config;
use crate::http::{Peer, Request};

pub use crate::model::role::Level;

/// What clients send as a token when they are told that none is needed.
const NO_TOKEN: &str = "notused";
/// The project that is meant when somebody who has all of them names none.
const DEFAULT_PROJECT: &str = "default";
/// Longest user name and password that are looked at.
const MAX_NAME: usize = 128;
const MAX_PASSWORD: usize = 1024;

/// Who sends an OpenStack request, before its project is known.
pub struct Caller {
    pub identity: Identity,
    /// The one project that a scoped token is for.
    scope: Option<i64>,
    /// The most that an application credential lets its user do.
    ceiling: Level,
    /// The application credential that the token comes from.
    credential: Option<i64>,
    /// The project that a `user:project` token names.
    named: Option<String>,
}

/// Why a request has no caller. No text tells whether a user exists.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    #[error("{0}")]
    Unauthorized(String),
    #[error("Too many logins; try again in {0} seconds.")]
    Busy(u64),
    #[error(transparent)]
    Catalog(#[from] rusqlite::Error),
}

impl CallerError {
    pub fn unauthorized(message: &str) -> CallerError {
        CallerError::Unauthorized(message.to_owned())
    }
}

impl From<AuthError> for CallerError {
    fn from(error: AuthError) -> CallerError {
        match error {
            AuthError::Catalog(error) => error.into(),
            AuthError::None => CallerError::unauthorized("Authentication is required: send X-Auth-Token or Authorization."),
            other => CallerError::Unauthorized(other.to_string()),
        }
    }
}

/// A caller in a project.
pub struct Scope {
    pub project: Project,
    pub level: Level,
}

/// Why a request has no project.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// The project named is not the token's, or none is named and there are several.
    #[error("{0}")]
    Mismatch(String),
    /// The project named is none of the caller's, whether there is one or not.
    #[error("{0}")]
    NoRole(String),
    #[error(transparent)]
    Catalog(#[from] rusqlite::Error),
}

pub fn authenticate(app: &Arc<App>, request: &Request) -> Result<Caller, CallerError> {
    if let Some(named) = without_credentials(&app.config(), request) {
        let user = app.db.read(local_staff)?;
        return Ok(Caller { named, ..Caller::unscoped(user) });
    }
    if let Some(token) = request.header("x-auth-token") {
        return app.db.read(|c| holder_of(c, token.trim()));
    }
    match request.header("authorization").map(|value| value.split_once(' ').unwrap_or((value, ""))) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => by_password(app, client(&app.config(), request), rest),
        Some(_) => app.db.read(|c| Ok(Caller::unscoped(by_token(c, request.header("authorization").unwrap_or_default())?))),
        None => app.db.read(|c| Ok(Caller::unscoped(local_administrator(c, request.peer)?))),
    }
}

/// The caller that a token stands for.
fn holder_of(c: &Connection, token: &str) -> Result<Caller, CallerError> {
    let invalid = || CallerError::unauthorized("The token is not valid: it has expired, was revoked, or never was.");
    let found = sessions::by_hash(c, &token_hash(token), clock::now_ms())?.ok_or_else(invalid)?;
    Caller::holder(c, &found)?.ok_or_else(invalid)
}

/// The text of a `Basic` credential.
pub fn basic(encoded: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()
}

fn by_password(app: &App, peer: Peer, encoded: &str) -> Result<Caller, CallerError> {
    let malformed = || CallerError::unauthorized("Authorization: Basic needs base64 of user:password.");
    let text = basic(encoded).ok_or_else(malformed)?;
    let (name, password) = text.split_once(':').ok_or_else(malformed)?;
    let user = app.db.read(|c| users::by_name(c, name))?;
    let right = prove(app, name, peer, password, user.as_ref().and_then(|user| user.password.as_deref()))?;
    match user.filter(|user| right && user.is_active) {
        Some(user) => Ok(Caller::unscoped(app.db.read(|c| Identity::load(c, user))?)),
        None => Err(CallerError::unauthorized("Wrong user name or password.")),
    }
}

/// Whether this is the password of whom the throttle knows as `who`. Takes the same time whether there is a stored hash or
/// not; only what was right a moment ago is quick. The throttle comes first, or it could be asked at leisure what is right.
pub fn prove(app: &App, who: &str, peer: Peer, password: &str, phc: Option<&str>) -> Result<bool, CallerError> {
    if who.len() > MAX_NAME || password.len() > MAX_PASSWORD {
        return Ok(false);
    }
    app.throttle.check(who, peer).map_err(CallerError::Busy)?;
    if phc.is_some_and(|phc| app.verified.knows(password, phc)) {
        return Ok(true);
    }
    let _permit = HashPermit::wait().ok_or(CallerError::Busy(1))?;
    // Others have failed while this one waited.
    app.throttle.check(who, peer).map_err(CallerError::Busy)?;
    // Another request may have found out meanwhile.
    if phc.is_some_and(|phc| app.verified.knows(password, phc)) {
        return Ok(true);
    }
    let right = verify_password(password, phc);
    app.throttle.record(who, peer, right);
    if let Some(phc) = phc.filter(|_| right) {
        app.verified.remember(password, phc);
    }
    Ok(right)
}

// ---- without credentials

/// Whether `auth.noauth` lets this request in as it is; inside, the project that its token names.
fn without_credentials(config: &Config, request: &Request) -> Option<Option<String>> {
    if !config.auth.noauth || !is_from_this_host(request) {
        return None;
    }
    match request.header("x-auth-token").map(str::trim) {
        Some(NO_TOKEN) => Some(None),
        Some(token) => token.split_once(':').map(|(_, project)| Some(project.to_owned()).filter(|p| !p.is_empty())),
        None => request.header("authorization").is_none().then_some(None),
    }
}

/// The peer alone does not tell: a proxy on this host speaks for others, and a web page can make a browser on this host
/// send requests, to a name of its own that leads here as well (DNS rebinding).
fn is_from_this_host(request: &Request) -> bool {
    let near = match request.peer {
        Peer::Tcp(address) => address.is_loopback(),
        Peer::Unix { .. } => true,
    };
    let passed_on = |name: &str| name.starts_with("x-forwarded") || ["forwarded", "x-real-ip", "via", "origin"].contains(&name);
    // A page elsewhere can have a browser fetch from an address of this host, too.
    let elsewhere = |name: &str, value: &str| name == "sec-fetch-site" && !matches!(value, "none" | "same-origin");
    near && names_this_host(request.host()) && !request.headers.iter().any(|(name, value)| passed_on(name) || elsewhere(name, value))
}

/// An address or `localhost`, with or without a port: no name that somebody else could give to this host.
fn names_this_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, _)| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::Ipv4Addr>().is_ok()
}

fn local_staff(c: &Connection) -> Result<Identity, CallerError> {
    let nobody = || CallerError::unauthorized("There is no active staff user to act as.");
    Ok(Identity::load(c, users::any_staff(c)?.ok_or_else(nobody)?)?)
}

// ---- what a caller may do, and where

impl Caller {
    fn unscoped(identity: Identity) -> Caller {
        Caller { identity, scope: None, ceiling: Level::Admin, credential: None, named: None }
    }

    /// A user with all that is his; None if he is disabled or gone.
    pub fn of_user(c: &Connection, user_id: i64) -> rusqlite::Result<Option<Caller>> {
        match users::by_id(c, user_id)?.filter(|user| user.is_active) {
            Some(user) => Ok(Some(Caller::unscoped(Identity::load(c, user)?))),
            None => Ok(None),
        }
    }

    /// Whom a token stands for; None if its user is disabled or has lost the part in its project.
    pub fn holder(c: &Connection, token: &Token) -> rusqlite::Result<Option<Caller>> {
        let Some(user) = Caller::of_user(c, token.user_id)? else { return Ok(None) };
        let session = token.session.as_ref();
        let credential = match session.and_then(|session| session.credential_id) {
            Some(id) => credentials::by_id(c, id)?,
            None => None,
        };
        let caller = Caller {
            scope: session.and_then(|session| session.project_id),
            ceiling: credential.as_ref().map_or(Level::Admin, |credential| credential.level),
            credential: credential.map(|credential| credential.id),
            ..user
        };
        let homeless = caller.scope.is_some_and(|id| caller.level(id) == Level::None);
        Ok(Some(caller).filter(|_| !homeless))
    }

    /// What the caller may do in a project: an administrator everything everywhere, others with a scoped token nothing
    /// outside its scope.
    pub fn level(&self, project_id: i64) -> Level {
        let level = self.unbound_level(project_id);
        match self.scope {
            Some(scope) if scope != project_id && level < Level::Admin => Level::None,
            _ => level,
        }
    }

    /// The same without regard to the scope: what a new token for that project would give.
    pub fn unbound_level(&self, project_id: i64) -> Level {
        let own = match self.identity.is_staff() {
            true => Level::Admin,
            false => self.identity.access(project_id).into(),
        };
        own.min(self.ceiling)
    }

    pub fn is_admin(&self) -> bool {
        self.identity.is_staff() && self.ceiling == Level::Admin
    }

    pub fn user_uuid(&self) -> &str {
        &self.identity.user.uuid
    }

    /// The application credential the caller's token comes from: such a token is for that one purpose only.
    pub fn credential(&self) -> Option<i64> {
        self.credential
    }

    /// The project that a request is about; `named` is what its URL says, an id or a name.
    pub fn in_project(&self, c: &Connection, named: Option<&str>) -> Result<Scope, ScopeError> {
        let project = match (self.scope, named.or(self.named.as_deref())) {
            (Some(scope), named) => within(projects::by_id(c, scope)?, named)?,
            (None, Some(named)) => self.find(c, named)?,
            (None, None) => self.only_project(c)?,
        };
        Ok(Scope { level: self.level(project.id), project })
    }

    fn find(&self, c: &Connection, named: &str) -> Result<Project, ScopeError> {
        let mine = |project: &Project| self.level(project.id) > Level::None;
        let by_id = match parse_uuid(named) {
            Some(uuid) => projects::get(c, &uuid)?.filter(mine),
            None => None,
        };
        if let Some(project) = by_id {
            return Ok(project);
        }
        let mut projects: Vec<Project> = projects::by_name(c, named)?.into_iter().filter(mine).collect();
        match (projects.pop(), projects.is_empty()) {
            (Some(project), true) => Ok(project),
            (Some(_), false) => Err(ScopeError::Mismatch(format!("More than one project is called \"{named}\"; give its id."))),
            (None, _) => Err(ScopeError::NoRole(format!("You have no role in a project \"{named}\"."))),
        }
    }

    fn only_project(&self, c: &Connection) -> Result<Project, ScopeError> {
        let mut projects = self.projects(c)?;
        if projects.is_empty() {
            return Err(ScopeError::NoRole("You have no role in any project.".into()));
        }
        if projects.len() > 1 && self.identity.is_owner() {
            projects.retain(|project| project.name == DEFAULT_PROJECT);
        }
        match (projects.pop(), projects.is_empty()) {
            (Some(project), true) => Ok(project),
            _ => Err(ScopeError::Mismatch("There is more than one project; name the one that is meant in the URL.".into())),
        }
    }

    /// The projects that the caller could have a token for.
    pub fn projects(&self, c: &Connection) -> rusqlite::Result<Vec<Project>> {
        let bound = self.scope.filter(|_| self.credential.is_some());
        let mine = |project: &Project| bound.is_none_or(|id| id == project.id) && self.unbound_level(project.id) > Level::None;
        Ok(projects::all(c)?.into_iter().filter(mine).collect())
    }
}

/// The project of a token, if nothing else is named.
fn within(project: Project, named: Option<&str>) -> Result<Project, ScopeError> {
    match named {
        Some(named) if named != project.name && parse_uuid(named).as_ref() != Some(&project.uuid) => {
            Err(ScopeError::Mismatch(format!("The token is for the project \"{}\", the URL names \"{named}\".", project.name)))
        }
        _ => Ok(project),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::credentials::Credential;
    use crate::catalog::new_uuid;
    use crate::catalog::sessions::Session;
    use crate::catalog::users::User;
    use crate::db::Db;
    use crate::model::role::Role;

    /// A coffer with the projects `default`, `shop`, `twins`, `twins`; ids 1 to 4.
    struct House {
        _dir: tempfile::TempDir,
        db: Db,
        projects: Vec<Project>,
    }

    impl House {
        fn new() -> House {
            let dir = tempfile::tempdir().unwrap();
            let db = Db::open(&dir.path().join("coffer.db")).unwrap();
            let make = |tx: &rusqlite::Transaction| ["default", "shop", "twins", "twins"].iter().map(|name| projects::insert(tx, name, "", 0)).collect();
            let projects = db.write(make).unwrap();
            House { _dir: dir, db, projects }
        }

        fn user(&self, is_staff: bool, roles: &[(Option<usize>, Role)]) -> i64 {
            let user = User { uuid: new_uuid(), username: new_uuid(), is_staff, is_active: true, ..User::default() };
            self.db
                .write(|tx| -> rusqlite::Result<i64> {
                    let id = users::insert(tx, &user)?;
                    for (project, role) in roles {
                        users::insert_role(tx, &new_uuid(), id, project.map(|n| self.projects[n].id), *role, 0)?;
                    }
                    Ok(id)
                })
                .unwrap()
        }

        fn unscoped(&self, user_id: i64) -> Caller {
            self.db.read(|c| Caller::of_user(c, user_id)).unwrap().unwrap()
        }

        fn scoped(&self, user_id: i64, project: usize, credential: Option<Level>) -> Option<Caller> {
            let project_id = self.projects[project].id;
            let credential_id = credential.map(|level| self.credential(user_id, project_id, level));
            let session = Session {
                methods: "password".into(),
                audit_ids: "x".into(),
                project_id: Some(project_id),
                source_id: None,
                credential_id,
            };
            let token = Token { id: 0, user_id, created: 0, expires: None, session: Some(session) };
            self.db.read(|c| Caller::holder(c, &token)).unwrap()
        }

        fn credential(&self, user_id: i64, project_id: i64, level: Level) -> i64 {
            let uuid = new_uuid();
            let credential = Credential {
                id: 0,
                uuid: uuid.clone(),
                user_id,
                project_id,
                name: uuid.clone(),
                description: String::new(),
                secret: String::new(),
                level,
                created: 0,
                expires: None,
            };
            self.db.write(|tx| credentials::insert(tx, &credential)).unwrap();
            self.db.read(|c| credentials::get(c, &uuid)).unwrap().unwrap().id
        }

        /// Which project a request with this in its URL is about, and with what rights.
        fn place(&self, caller: &Caller, named: Option<&str>) -> Result<(usize, Level), String> {
            let scope = self.db.read(|c| caller.in_project(c, named)).map_err(|e| e.to_string())?;
            let index = self.projects.iter().position(|project| project.id == scope.project.id).unwrap();
            Ok((index, scope.level))
        }
    }

    #[test]
    fn the_url_names_a_project_by_id_or_name() {
        let house = House::new();
        let member = house.unscoped(house.user(false, &[(Some(0), Role::Reader), (Some(1), Role::Member), (Some(2), Role::Admin)]));
        let id = house.projects[1].uuid.clone();
        let dashed = uuid::Uuid::parse_str(&id).unwrap().hyphenated().to_string();
        for named in ["shop", &id, &dashed, &id.to_uppercase()] {
            assert_eq!(house.place(&member, Some(named)), Ok((1, Level::Member)), "{named}");
        }
        assert_eq!(house.place(&member, Some("default")), Ok((0, Level::Reader)));
        assert_eq!(house.place(&member, Some("twins")), Ok((2, Level::Member)), "the other one is none of his");
        for named in ["", "nothing", &house.projects[3].uuid, &"0".repeat(32)] {
            assert!(house.place(&member, Some(named)).unwrap_err().contains("no role in a project"), "{named}");
        }
        let staff = house.unscoped(house.user(true, &[]));
        assert!(house.place(&staff, Some("twins")).unwrap_err().contains("give its id"));
        assert_eq!(house.place(&staff, Some(&house.projects[3].uuid)), Ok((3, Level::Admin)));
    }

    #[test]
    fn without_a_name_the_only_project_is_meant_and_for_those_with_all_the_default() {
        let house = House::new();
        assert_eq!(house.place(&house.unscoped(house.user(false, &[(Some(1), Role::Reader)])), None), Ok((1, Level::Reader)));
        let twice = house.user(false, &[(Some(1), Role::Reader), (Some(1), Role::Admin)]);
        assert_eq!(house.place(&house.unscoped(twice), None), Ok((1, Level::Member)));
        assert!(house.place(&house.unscoped(house.user(false, &[])), None).unwrap_err().contains("no role"));
        let several = house.user(false, &[(Some(0), Role::Member), (Some(1), Role::Member)]);
        assert!(house.place(&house.unscoped(several), None).unwrap_err().contains("name the one"));
        assert_eq!(house.place(&house.unscoped(house.user(false, &[(None, Role::Owner)])), None), Ok((0, Level::Member)));
        let staff = house.unscoped(house.user(true, &[]));
        assert_eq!(house.place(&staff, None), Ok((0, Level::Admin)));
        let renamed = Project { name: "other".into(), ..house.projects[0].clone() };
        house.db.write(|tx| projects::update(tx, &renamed)).unwrap();
        assert!(house.place(&staff, None).unwrap_err().contains("name the one"));
    }

    #[test]
    fn a_scoped_token_is_for_its_project() {
        let house = House::new();
        let user = house.user(false, &[(Some(0), Role::Member), (Some(1), Role::Member)]);
        let caller = house.scoped(user, 1, None).unwrap();
        for named in [None, Some("shop"), Some(house.projects[1].uuid.as_str())] {
            assert_eq!(house.place(&caller, named), Ok((1, Level::Member)));
        }
        for named in ["default", &house.projects[0].uuid, "nothing"] {
            assert!(house.place(&caller, Some(named)).unwrap_err().contains("the URL names"), "{named}");
        }
        let level = |n: usize| caller.level(house.projects[n].id);
        assert_eq!((level(0), level(1), level(2)), (Level::None, Level::Member, Level::None));
        assert_eq!(caller.unbound_level(house.projects[0].id), Level::Member);
        assert!(house.scoped(user, 2, None).is_none(), "no role there, or no more");

        let staff = house.scoped(house.user(true, &[]), 1, None).unwrap();
        assert!(house.place(&staff, Some("default")).is_err());
        assert_eq!(staff.level(house.projects[0].id), Level::Admin, "an administrator acts on what others have, in his own project");
    }

    #[test]
    fn a_credential_gives_no_more_than_it_says_and_nothing_elsewhere() {
        let house = House::new();
        let staff = house.user(true, &[]);
        let caller = house.scoped(staff, 1, Some(Level::Member)).unwrap();
        let level = |n: usize| caller.level(house.projects[n].id);
        assert_eq!((level(0), level(1), caller.is_admin()), (Level::None, Level::Member, false));
        assert!(house.scoped(staff, 1, Some(Level::Admin)).unwrap().is_admin());
        let reader = house.user(false, &[(Some(1), Role::Reader)]);
        assert_eq!(house.scoped(reader, 1, Some(Level::Member)).unwrap().level(house.projects[1].id), Level::Reader);
        assert_eq!(house.db.read(|c| caller.projects(c)).unwrap().len(), 1);
    }

    #[test]
    fn a_token_that_names_a_project_gives_way_to_the_url() {
        let house = House::new();
        let staff = house.unscoped(house.user(true, &[]));
        let caller = Caller { named: Some("shop".into()), ..staff };
        assert_eq!(house.place(&caller, None), Ok((1, Level::Admin)));
        assert_eq!(house.place(&caller, Some("default")), Ok((0, Level::Admin)));
        let caller = Caller { named: Some("nothing".into()), ..caller };
        assert!(house.place(&caller, None).is_err());
    }

    #[test]
    fn only_addresses_and_localhost_are_this_host() {
        for host in ["localhost", "LocalHost:8776", "127.0.0.1", "127.0.0.1:8776", "[::1]", "[::1]:8776", "10.0.0.1:1"] {
            assert!(names_this_host(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8776", "", ":8776", "[evil]", "::1", "127.1"] {
            assert!(!names_this_host(host), "{host}");
        }
    }

    #[test]
    fn no_credential_is_needed_only_on_this_host() {
        let request = |address: &str, host: &str, headers: &[(&str, &str)]| {
            let headers = headers.iter().copied().chain([("host", host)]).map(|(name, value)| (name.to_owned(), value.to_owned()));
            Request {
                method: "GET".into(),
                path: "/".into(),
                query: String::new(),
                headers: headers.collect(),
                body: Vec::new(),
                peer: Peer::Tcp(address.parse().unwrap()),
            }
        };
        assert!(is_from_this_host(&request("127.0.0.1", "127.0.0.1:8776", &[])));
        assert!(is_from_this_host(&request("::1", "localhost", &[("user-agent", "x")])));
        for (address, host, headers) in [
            ("10.0.0.1", "localhost", &[][..]),
            ("fe80::1", "[::1]", &[]),
            ("127.0.0.1", "evil.example", &[]),
            ("127.0.0.1", "localhost", &[("x-forwarded-for", "10.0.0.1")]),
            ("127.0.0.1", "localhost", &[("x-forwarded-anything", "")]),
            ("127.0.0.1", "localhost", &[("forwarded", "for=x")]),
            ("127.0.0.1", "localhost", &[("origin", "http://evil.example")]),
        ] {
            assert!(!is_from_this_host(&request(address, host, headers)), "{address} {host} {headers:?}");
        }
    }
}
