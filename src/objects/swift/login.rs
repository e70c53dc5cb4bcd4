//! How a token and the address of the account are come by: Swift's own login (v1), or Keystone v3 with a password or an application
//! credential and its catalog. A token is renewed before it ends; one thread does so while the others wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;
use url::Url;

use crate::objects::http::{Answer, Ask, Http};
use crate::objects::retry::Cancel;
use crate::objects::{Credentials, ObjectError, Settings};

const ANSWER_LIMIT: usize = 4 << 20;
/// A token is renewed when so little of its time is left, or a fifth of it.
const RENEW: Duration = Duration::from_secs(300);
/// How long a token is taken to be good for if the server does not say.
const UNTOLD: Duration = Duration::from_secs(3600);

pub struct Session {
    pub token: String,
    pub storage: Url,
    renew_at: Instant,
}

pub struct Login {
    address: Url,
    /// Instead of the one that the server names.
    storage: Option<Url>,
    way: Way,
    session: Mutex<Option<Arc<Session>>>,
}

enum Way {
    V1 { user: String, key: String },
    V3 { request: Value, region: Option<String>, interface: String },
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: Option<String>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    r#type: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    url: String,
    region: Option<String>,
    region_id: Option<String>,
}

impl Login {
    pub fn new(settings: &Settings, credentials: &Credentials) -> Result<Login, ObjectError> {
        let parse = |text: &str| Url::parse(text).map_err(|_| ObjectError::Settings("auth_url or endpoint is no address".to_owned()));
        let mut address = parse(settings.auth_url.as_deref().unwrap_or_default())?;
        let way = match settings.auth_version {
            1 => v1(settings, credentials)?,
            _ => {
                let path = address.path().trim_end_matches('/');
                let path = if path.ends_with("/v3") { format!("{path}/auth/tokens") } else { format!("{path}/v3/auth/tokens") };
                address.set_path(&path);
                Way::V3 { request: v3(settings, credentials)?, region: settings.region.clone(), interface: settings.interface.clone() }
            }
        };
        let storage = settings.endpoint.as_deref().map(parse).transpose()?;
        Ok(Login { address, storage, way, session: Mutex::new(None) })
    }

    pub fn address(&self) -> &Url {
        &self.address
    }

    /// The token that is there, or a new one if it ends soon.
    pub fn session(&self, http: &Http, cancel: &Cancel) -> Result<Arc<Session>, ObjectError> {
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = current.as_ref().filter(|session| Instant::now() < session.renew_at) {
            return Ok(session.clone());
        }
        let session = Arc::new(self.log_in(http, cancel)?);
        *current = Some(session.clone());
        Ok(session)
    }

    /// After its token was refused. Another thread may have a newer one already.
    pub fn forget(&self, refused: &Arc<Session>) {
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|session| Arc::ptr_eq(session, refused)) {
            *current = None;
        }
    }

    fn log_in(&self, http: &Http, cancel: &Cancel) -> Result<Session, ObjectError> {
        match &self.way {
            Way::V1 { user, key } => {
                let headers = vec![("x-auth-user", user.clone()), ("x-auth-key", key.clone())];
                let ask = Ask { method: Method::GET, url: &self.address, headers, body: None, limit: ANSWER_LIMIT };
                let answer = self.accepted(http.ask(ask, cancel)?)?;
                let lifetime = answer.header("x-auth-token-expires").and_then(|text| text.parse().ok()).map_or(UNTOLD, Duration::from_secs);
                let storage = answer.header("x-storage-url").and_then(|text| Url::parse(text).ok());
                self.begin(answer.header("x-auth-token"), storage, lifetime, || self.unexpected("a login without X-Storage-Url"))
            }
            Way::V3 { request, region, interface } => {
                let body = request.to_string();
                let headers = vec![("content-type", "application/json".to_owned()), ("accept", "application/json".to_owned())];
                let ask = Ask { method: Method::POST, url: &self.address, headers, body: Some(body.as_bytes()), limit: ANSWER_LIMIT };
                let answer = self.accepted(http.ask(ask, cancel)?)?;
                let found: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|_| self.unexpected("a login that is not Keystone's"))?;
                let lifetime = found.token.expires_at.as_deref().and_then(time_left).unwrap_or(UNTOLD);
                let storage = object_store(&found.token.catalog, region.as_deref(), interface);
                self.begin(answer.header("x-subject-token"), storage, lifetime, || {
                    let wanted = region.as_ref().map_or_else(String::new, |region| format!(" in region {region}"));
                    let text = format!(
                        "the catalog of {} has no {interface} endpoint of object-store{wanted}{}; set region, interface or endpoint",
                        self.host(),
                        there_are(&found.token.catalog)
                    );
                    ObjectError::Settings(text)
                })
            }
        }
    }

    fn begin(&self, token: Option<&str>, storage: Option<Url>, lifetime: Duration, none: impl Fn() -> ObjectError) -> Result<Session, ObjectError> {
        let storage = self.storage.clone().or(storage).ok_or_else(none)?;
        let token = token.ok_or_else(|| self.unexpected("a login without a token"))?.to_owned();
        log::debug!("logged in at {}, account at {}", self.host(), storage.origin().ascii_serialization());
        Ok(Session { token, storage, renew_at: Instant::now() + lifetime - RENEW.min(lifetime / 5) })
    }

    fn accepted(&self, answer: Answer) -> Result<Answer, ObjectError> {
        match answer.status {
            200..300 => Ok(answer),
            404 => {
                let text = format!("there is no login at {}{}: correct auth_url or auth_version", self.host(), self.address.path());
                Err(ObjectError::Settings(text))
            }
            _ => Err(answer.failure(&format!("the login at {}", self.host()), "the login")),
        }
    }

    fn host(&self) -> String {
        self.address.origin().ascii_serialization()
    }

    fn unexpected(&self, what: &str) -> ObjectError {
        ObjectError::Unexpected { place: self.host(), what: what.to_owned() }
    }
}

fn v1(settings: &Settings, credentials: &Credentials) -> Result<Way, ObjectError> {
    let user = settings.user.clone().or_else(|| credentials.user.clone());
    match (user, credentials.password.clone()) {
        (Some(user), Some(key)) => Ok(Way::V1 { user, key }),
        (None, _) => Err(ObjectError::Settings("Swift's own login needs user, for example \"account:user\"".to_owned())),
        (_, None) => Err(ObjectError::Settings("Swift's own login needs ST_KEY in the file that `credentials` names".to_owned())),
    }
}

/// The body of the login.
fn v3(settings: &Settings, credentials: &Credentials) -> Result<Value, ObjectError> {
    let user = settings.user.clone().or_else(|| credentials.user.clone());
    let user = |more: Value| {
        let mut object = json!({"name": user, "domain": {"name": settings.user_domain}});
        if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
            object.extend(more);
        }
        object
    };
    let needs = |text: &str| Err(ObjectError::Settings(format!("Keystone's login needs {text}")));
    let has_user = settings.user.is_some() || credentials.user.is_some();
    if let Some(secret) = &credentials.application_secret {
        let credential = match (&credentials.application_id, &credentials.application_name) {
            (Some(id), _) => json!({"id": id, "secret": secret}),
            (None, Some(name)) if has_user => json!({"name": name, "secret": secret, "user": user(json!({}))}),
            (None, Some(_)) => return needs("user with OS_APPLICATION_CREDENTIAL_NAME"),
            (None, None) => return needs("OS_APPLICATION_CREDENTIAL_ID with OS_APPLICATION_CREDENTIAL_SECRET"),
        };
        return Ok(json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}}));
    }
    let Some(password) = &credentials.password else {
        return needs("OS_PASSWORD, or OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET, in the file that `credentials` names");
    };
    let (true, Some(project)) = (has_user, &settings.project) else { return needs("user and project with OS_PASSWORD") };
    Ok(json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": user(json!({"password": password}))}},
        "scope": {"project": {"name": project, "domain": {"name": settings.project_domain}}},
    }}))
}

fn time_left(expires_at: &str) -> Option<Duration> {
    let at = chrono::DateTime::parse_from_rfc3339(expires_at).ok()?;
    (at.with_timezone(&chrono::Utc) - chrono::Utc::now()).to_std().ok()
}

fn object_stores(catalog: &[Service]) -> impl Iterator<Item = &Endpoint> {
    catalog.iter().filter(|service| service.r#type == "object-store").flat_map(|service| &service.endpoints)
}

fn object_store(catalog: &[Service], region: Option<&str>, interface: &str) -> Option<Url> {
    let fits = |endpoint: &&Endpoint| {
        let there = [&endpoint.region, &endpoint.region_id].into_iter().flatten().any(|name| Some(name.as_str()) == region);
        // Older catalogs call it publicURL.
        endpoint.interface.trim_end_matches("URL") == interface && (region.is_none() || there)
    };
    object_stores(catalog).find(fits).and_then(|endpoint| Url::parse(&endpoint.url).ok())
}

fn there_are(catalog: &[Service]) -> String {
    let found: Vec<String> =
        object_stores(catalog).map(|e| format!("{} in {}", e.interface, e.region.as_deref().or(e.region_id.as_deref()).unwrap_or("no region"))).collect();
    if found.is_empty() { String::new() } else { format!(" (there are: {})", found.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> Settings {
        toml::from_str(&format!("kind = 'swift'\nauth_url = 'http://h:5000'\ncontainer = 'c'\n{more}")).unwrap()
    }

    fn secret(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn keystone_is_asked_with_what_there_is() {
        let password = Credentials { password: secret("hunter2"), ..Credentials::default() };
        let body = v3(&settings("user = 'ada'\nproject = 'p'\nuser_domain = 'd'"), &password).unwrap();
        assert_eq!(body["auth"]["identity"]["password"]["user"], json!({"name": "ada", "domain": {"name": "d"}, "password": "hunter2"}));
        assert_eq!(body["auth"]["scope"]["project"], json!({"name": "p", "domain": {"name": "Default"}}));
        let by_id = Credentials { application_id: secret("i"), application_secret: secret("s"), ..Credentials::default() };
        let body = v3(&settings(""), &by_id).unwrap();
        assert_eq!(body, json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": {"id": "i", "secret": "s"}}}}));
        let by_name = Credentials { application_name: secret("n"), application_secret: secret("s"), user: secret("ada"), ..Credentials::default() };
        assert_eq!(v3(&settings(""), &by_name).unwrap()["auth"]["identity"]["application_credential"]["user"]["name"], "ada");
        for (more, credentials, part) in [
            ("", Credentials::default(), "OS_PASSWORD"),
            ("user = 'a'", password.clone(), "user and project"),
            ("project = 'p'", password.clone(), "user and project"),
            ("", Credentials { application_secret: secret("s"), ..Credentials::default() }, "OS_APPLICATION_CREDENTIAL_ID"),
        ] {
            assert!(v3(&settings(more), &credentials).unwrap_err().to_string().contains(part));
        }
    }

    #[test]
    fn the_version_may_be_left_out_of_the_address() {
        let credentials = Credentials { application_id: secret("i"), application_secret: secret("s"), ..Credentials::default() };
        for (url, path) in [("http://h:5000", "/v3/auth/tokens"), ("http://h/identity/v3/", "/identity/v3/auth/tokens"), ("http://h/identity", "/identity/v3/auth/tokens")] {
            let mut settings = settings("");
            settings.auth_url = Some(url.to_owned());
            assert_eq!(Login::new(&settings, &credentials).unwrap().address().path(), path);
        }
    }

    #[test]
    fn the_catalog_is_searched_by_region_and_interface() {
        let catalog: Vec<Service> = serde_json::from_value(json!([
            {"type": "volumev3", "endpoints": [{"interface": "public", "url": "http://v", "region": "one", "region_id": "one"}]},
            {"type": "object-store", "endpoints": [
                {"interface": "internal", "url": "http://i", "region": "one", "region_id": "one"},
                {"interface": "public", "url": "http://p1", "region": "one", "region_id": "one"},
                {"interface": "public", "url": "http://p2", "region": "two", "region_id": null}]},
        ]))
        .unwrap();
        let find = |region, interface| object_store(&catalog, region, interface).map(|url| url.to_string());
        assert_eq!(find(None, "public").as_deref(), Some("http://p1/"));
        assert_eq!(find(Some("two"), "public").as_deref(), Some("http://p2/"));
        assert_eq!(find(Some("one"), "internal").as_deref(), Some("http://i/"));
        assert_eq!(find(Some("three"), "public"), None);
        assert_eq!(find(Some("two"), "internal"), None);
        assert!(there_are(&catalog).contains("public in two"));
    }
}
