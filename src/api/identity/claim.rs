//! What a login claims: who it is, the proof, and the project that the token shall be for. Pure reading of the body.
//!
//! There is one domain. Names may come with it, by id or by name, or without it; another domain has no users and no projects.

use serde_json::{Map, Value};

pub const DOMAIN_ID: &str = "default";
pub const DOMAIN_NAME: &str = "Default";

/// Longest text that is looked at; names and ids are shorter.
const MAX_TEXT: usize = 1024;

#[derive(Debug, PartialEq)]
pub struct Claim {
    pub proof: Proof,
    pub scope: Wish,
}

#[derive(Debug, PartialEq)]
pub enum Proof {
    Password { user: Named, password: String },
    Token(String),
    Credential { credential: CredentialName, secret: String },
}

/// A user or a project.
#[derive(Debug, PartialEq)]
pub enum Named {
    Id(String),
    Name(String),
}

#[derive(Debug, PartialEq)]
pub enum CredentialName {
    Id(String),
    /// Names are each user's own.
    Of { user: Named, name: String },
}

/// The scope that is asked for.
#[derive(Debug, PartialEq)]
pub enum Wish {
    Nothing,
    Unscoped,
    Project(Named),
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ClaimError {
    #[error("{0}")]
    Malformed(String),
    /// Well said, but nothing that could be granted here.
    #[error("{0}")]
    Refused(&'static str),
}

impl Claim {
    /// Reads the body of `POST /auth/tokens`. What is not known in it is not looked at.
    pub fn read(body: &Value) -> Result<Claim, ClaimError> {
        let body = Part { path: String::new(), map: body.as_object().ok_or_else(|| malformed("The body must be an object."))? };
        let auth = body.part("auth")?;
        Ok(Claim { proof: proof(&auth.part("identity")?)?, scope: wish(&auth)? })
    }
}

/// An object within the body, and the way to it.
struct Part<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Part<'a> {
    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value; null is as good as none.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn optional_part(&self, key: &str) -> Result<Option<Part<'a>>, ClaimError> {
        let path = self.name(key);
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Part { path, map })),
            Some(_) => Err(malformed(format!("{path} must be an object."))),
        }
    }

    fn part(&self, key: &str) -> Result<Part<'a>, ClaimError> {
        self.optional_part(key)?.ok_or_else(|| malformed(format!("{} is missing.", self.name(key))))
    }

    fn optional_text(&self, key: &str) -> Result<Option<String>, ClaimError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= MAX_TEXT => Ok(Some(text.clone())),
            Some(_) => Err(malformed(format!("{} must be a string of at most {MAX_TEXT} bytes.", self.name(key)))),
        }
    }

    fn text(&self, key: &str) -> Result<String, ClaimError> {
        self.optional_text(key)?.ok_or_else(|| malformed(format!("{} is missing.", self.name(key))))
    }

    /// `id`, or `name` in the domain.
    fn named(&self) -> Result<Named, ClaimError> {
        self.check_domain()?;
        match (self.optional_text("id")?, self.optional_text("name")?) {
            (Some(id), _) => Ok(Named::Id(id)),
            (None, Some(name)) => Ok(Named::Name(name)),
            (None, None) => Err(malformed(format!("{} needs an id or a name.", self.path))),
        }
    }

    fn check_domain(&self) -> Result<(), ClaimError> {
        let Some(domain) = self.optional_part("domain")? else { return Ok(()) };
        let known = match (domain.optional_text("id")?, domain.optional_text("name")?) {
            (Some(id), _) => is_domain_id(&id),
            (None, Some(name)) => name.eq_ignore_ascii_case(DOMAIN_NAME),
            (None, None) => return Err(malformed(format!("{} needs an id or a name.", domain.path))),
        };
        if known { Ok(()) } else { Err(ClaimError::Refused("Wrong user, password, domain or project.")) }
    }
}

/// Many clients are set up with the domain's name where its id belongs.
pub fn is_domain_id(id: &str) -> bool {
    id.eq_ignore_ascii_case(DOMAIN_ID)
}

fn malformed(message: impl Into<String>) -> ClaimError {
    ClaimError::Malformed(message.into())
}

fn proof(identity: &Part) -> Result<Proof, ClaimError> {
    match method(identity)? {
        "password" => {
            let user = identity.part("password")?.part("user")?;
            Ok(Proof::Password { user: user.named()?, password: user.text("password")? })
        }
        "token" => Ok(Proof::Token(identity.part("token")?.text("id")?)),
        "application_credential" => {
            let part = identity.part("application_credential")?;
            Ok(Proof::Credential { credential: credential(&part)?, secret: part.text("secret")? })
        }
        _ => Err(ClaimError::Refused("The methods are password, token and application_credential.")),
    }
}

/// The one method; a login with several factors is not offered.
fn method<'a>(identity: &Part<'a>) -> Result<&'a str, ClaimError> {
    let wrong = || malformed("auth.identity.methods must be a list with the name of one method.");
    match identity.get("methods").and_then(Value::as_array).map(Vec::as_slice) {
        Some([method]) => method.as_str().ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn credential(part: &Part) -> Result<CredentialName, ClaimError> {
    if let Some(id) = part.optional_text("id")? {
        return Ok(CredentialName::Id(id));
    }
    let name = part.optional_text("name")?.ok_or_else(|| malformed(format!("{} needs an id, or a name and a user.", part.path)))?;
    Ok(CredentialName::Of { user: part.part("user")?.named()?, name })
}

fn wish(auth: &Part) -> Result<Wish, ClaimError> {
    match auth.get("scope") {
        None => return Ok(Wish::Nothing),
        Some(Value::String(text)) if text == "unscoped" => return Ok(Wish::Unscoped),
        Some(_) => (),
    }
    let scope = auth.part("scope")?;
    let kinds: Vec<&str> = scope.map.keys().map(String::as_str).collect();
    match kinds.as_slice() {
        ["project"] => Ok(Wish::Project(scope.part("project")?.named()?)),
        ["unscoped"] => Ok(Wish::Unscoped),
        ["domain" | "system" | "OS-TRUST:trust"] => Err(ClaimError::Refused("Tokens are for a project, or unscoped.")),
        _ => Err(malformed("auth.scope must name one project.")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(identity: Value, scope: Value) -> Result<Claim, ClaimError> {
        Claim::read(&json!({"auth": {"identity": identity, "scope": scope}}))
    }

    fn password(user: Value) -> Value {
        json!({"methods": ["password"], "password": {"user": user}})
    }

    fn scoped(scope: Value) -> Result<Wish, ClaimError> {
        read(json!({"methods": ["token"], "token": {"id": "t"}}), scope).map(|claim| claim.scope)
    }

    #[test]
    fn users_are_named_by_id_or_by_name_in_the_one_domain() {
        let user = |fields: Value| {
            let mut user = json!({"password": "p"});
            user.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            read(password(user), Value::Null).map(|claim| claim.proof)
        };
        let by = |user: Named| Ok(Proof::Password { user, password: "p".into() });
        assert_eq!(user(json!({"id": "u"})), by(Named::Id("u".into())));
        for domain in [json!({"id": "default"}), json!({"name": "Default"}), json!({"name": "DEFAULT"}), json!({"id": "Default"}), Value::Null] {
            assert_eq!(user(json!({"name": "ada", "domain": domain})), by(Named::Name("ada".into())), "{domain}");
        }
        assert!(matches!(user(json!({"name": "ada", "domain": {"name": "heroes"}})), Err(ClaimError::Refused(_))));
        assert!(matches!(user(json!({"name": "ada", "domain": {"id": "x"}})), Err(ClaimError::Refused(_))));
    }

    #[test]
    fn credentials_are_named_by_id_or_within_a_user() {
        let credential = |part: Value| read(json!({"methods": ["application_credential"], "application_credential": part}), Value::Null);
        let claim = credential(json!({"id": "c", "secret": "s"})).unwrap();
        assert_eq!(claim.proof, Proof::Credential { credential: CredentialName::Id("c".into()), secret: "s".into() });
        let claim = credential(json!({"name": "n", "user": {"name": "ada"}, "secret": "s"})).unwrap();
        let of = CredentialName::Of { user: Named::Name("ada".into()), name: "n".into() };
        assert_eq!(claim.proof, Proof::Credential { credential: of, secret: "s".into() });
        for part in [json!({"secret": "s"}), json!({"id": "c"}), json!({"name": "n", "secret": "s"}), json!([])] {
            assert!(matches!(credential(part.clone()), Err(ClaimError::Malformed(_))), "{part}");
        }
    }

    #[test]
    fn scopes_are_one_project_or_none() {
        assert_eq!(scoped(Value::Null), Ok(Wish::Nothing));
        assert_eq!(scoped(json!("unscoped")), Ok(Wish::Unscoped));
        assert_eq!(scoped(json!({"unscoped": {}})), Ok(Wish::Unscoped));
        assert_eq!(scoped(json!({"project": {"id": "x", "name": "y"}})), Ok(Wish::Project(Named::Id("x".into()))));
        let by_name = scoped(json!({"project": {"name": "y", "domain": {"id": "default"}}}));
        assert_eq!(by_name, Ok(Wish::Project(Named::Name("y".into()))));
        for scope in [json!({"domain": {"id": "default"}}), json!({"system": {"all": true}}), json!({"project": {"name": "y", "domain": {"id": "z"}}})] {
            assert!(matches!(scoped(scope.clone()), Err(ClaimError::Refused(_))), "{scope}");
        }
        let both = json!({"project": {"id": "x"}, "unscoped": {}});
        for scope in [json!({}), json!([]), json!("all"), json!(7), json!({"project": {}}), json!({"project": "x"}), both] {
            assert!(matches!(scoped(scope.clone()), Err(ClaimError::Malformed(_))), "{scope}");
        }
    }

    #[test]
    fn what_is_malformed_is_named() {
        let long = "x".repeat(MAX_TEXT + 1);
        for (body, part) in [
            (json!([]), "The body"),
            (json!({}), "auth is missing"),
            (json!({"auth": 3}), "auth must be an object"),
            (json!({"auth": {}}), "auth.identity is missing"),
            (json!({"auth": {"identity": {}}}), "auth.identity.methods"),
            (json!({"auth": {"identity": {"methods": "password"}}}), "auth.identity.methods"),
            (json!({"auth": {"identity": {"methods": [7]}}}), "auth.identity.methods"),
            (json!({"auth": {"identity": {"methods": ["password", "totp"]}}}), "auth.identity.methods"),
            (json!({"auth": {"identity": {"methods": ["password"]}}}), "auth.identity.password is missing"),
            (json!({"auth": {"identity": password(json!({"password": "p"}))}}), "auth.identity.password.user needs an id or a name"),
            (json!({"auth": {"identity": password(json!({"id": "u"}))}}), "auth.identity.password.user.password is missing"),
            (json!({"auth": {"identity": password(json!({"id": 7, "password": "p"}))}}), "user.id must be a string"),
            (json!({"auth": {"identity": password(json!({"id": "u", "password": long}))}}), "user.password must be a string of at most"),
            (json!({"auth": {"identity": password(json!({"name": "u", "domain": {}, "password": "p"}))}}), "user.domain needs"),
        ] {
            let error = Claim::read(&body).unwrap_err();
            assert!(matches!(&error, ClaimError::Malformed(text) if text.contains(part)), "{body}: {error}");
        }
        let totp = Claim::read(&json!({"auth": {"identity": {"methods": ["totp"]}}}));
        assert!(matches!(totp, Err(ClaimError::Refused(_))));
    }
}
