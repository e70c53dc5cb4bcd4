//! Who sends a request: tokens, passwords, the local administrator, and what each may see and write. Here is what both dialects
//! share and how Waldur's requests are authenticated; OpenStack's are in `openstack`, all about passwords is in `password`.

pub mod openstack;
mod password;

use rusqlite::Connection;

use crate::catalog::users::{self, User};
use crate::clock;
use crate::http::{Peer, Request};
use crate::model::role::{Access, Role};

pub use password::{HashPermit, Throttle, Verified, hash_password, password_faults, verify_password};

/// Who is asking.
pub struct Identity {
    pub user: User,
    /// None: all projects (an owner of the customer).
    roles: Vec<(Option<i64>, Role)>,
}

impl Identity {
    fn load(connection: &Connection, user: User) -> rusqlite::Result<Identity> {
        let roles = users::roles_of(connection, user.id)?;
        Ok(Identity { user, roles })
    }

    pub fn is_staff(&self) -> bool {
        self.user.is_staff
    }

    /// What this user may do with the things of a project: the best of all the roles held there.
    pub fn access(&self, project_id: i64) -> Access {
        if self.user.is_staff {
            return Access::Write;
        }
        let here = |(project, _): &&(Option<i64>, Role)| project.is_none_or(|id| id == project_id);
        self.roles.iter().filter(here).map(|(_, role)| role.access()).max().unwrap_or(Access::None)
    }

    /// The projects this user sees; None: all.
    pub fn visible_projects(&self) -> Option<Vec<i64>> {
        if self.user.is_staff || self.roles.iter().any(|(project, _)| project.is_none()) {
            return None;
        }
        Some(self.roles.iter().filter_map(|(project, _)| *project).collect())
    }

    /// Owner of the customer, or staff.
    pub fn is_owner(&self) -> bool {
        self.user.is_staff || self.roles.iter().any(|(_, role)| *role == Role::Owner)
    }
}

/// Why a request has no identity; the text is Waldur's.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("Authentication credentials were not provided.")]
    None,
    #[error("Invalid token. No credentials provided.")]
    Empty,
    #[error("Invalid token. Token string should not contain spaces.")]
    Spaces,
    #[error("Invalid token.")]
    Unknown,
    #[error("User inactive or deleted.")]
    Inactive,
    #[error(transparent)]
    Catalog(#[from] rusqlite::Error),
}

/// `Authorization: Token <key>`; on the Unix socket root and the daemon's own user need none.
pub fn authenticate(connection: &Connection, request: &Request, query_token: Option<&str>) -> Result<Identity, AuthError> {
    match request.header("authorization").or(query_token) {
        Some(credentials) => by_token(connection, credentials),
        None => local_administrator(connection, request.peer),
    }
}

fn by_token(connection: &Connection, credentials: &str) -> Result<Identity, AuthError> {
    let mut words = credentials.split_ascii_whitespace();
    match words.next() {
        Some(scheme) if scheme.eq_ignore_ascii_case("token") => {}
        _ => return Err(AuthError::None),
    }
    let token = words.next().ok_or(AuthError::Empty)?;
    if words.next().is_some() {
        return Err(AuthError::Spaces);
    }
    let user = users::by_token(connection, &token_hash(token), clock::now_ms())?.ok_or(AuthError::Unknown)?;
    if !user.is_active {
        return Err(AuthError::Inactive);
    }
    Ok(Identity::load(connection, user)?)
}

fn local_administrator(connection: &Connection, peer: Peer) -> Result<Identity, AuthError> {
    if !peer.is_administrator() {
        return Err(AuthError::None);
    }
    let user = users::any_staff(connection)?.ok_or(AuthError::None)?;
    Ok(Identity::load(connection, user)?)
}

// ---- tokens

/// 160 random bits as 40 hex digits.
pub fn new_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the coffer keeps of a token. Tokens are random, so a fast hash is enough, and looking one up by its hash leaks
/// nothing by its timing.
pub fn token_hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_forty_hex_digits() {
        let token = new_token().unwrap();
        assert_eq!(token.len(), 40);
        assert!(token.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(token, new_token().unwrap());
    }
}
