//! Who sends a request: tokens, passwords, the local administrator, and what each may see and write.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use rusqlite::Connection;

use crate::catalog::users::{self, User};
use crate::clock;
use crate::http::{Peer, Request};
use crate::model::role::{Access, Role};

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
    match peer {
        Peer::Unix { uid: Some(uid) } if uid == 0 || uid == rustix::process::getuid().as_raw() => {
            let user = users::any_staff(connection)?.ok_or(AuthError::None)?;
            Ok(Identity::load(connection, user)?)
        }
        _ => Err(AuthError::None),
    }
}

// ---- tokens and passwords

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

/// argon2id with 9 MiB and 4 passes (an OWASP recommendation), one at a time, so that logins cannot eat the host's memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn hasher() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(9216, 4, 1, None).unwrap_or_default())
}

/// Hashes under way or waiting: more than these would hold every worker of the HTTP server.
static HASHING: AtomicU32 = AtomicU32::new(0);
const MOST_HASHING: u32 = 2;

/// Leave to hash one password, to be held while it is done.
pub struct HashPermit(());

impl HashPermit {
    /// None: too many others are at it; try again in a second.
    pub fn take() -> Option<HashPermit> {
        let taken = HASHING.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < MOST_HASHING).then_some(n + 1));
        taken.is_ok().then_some(HashPermit(()))
    }
}

impl Drop for HashPermit {
    fn drop(&mut self) {
        HASHING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A PHC string; the error tells of a lack of memory or randomness.
pub fn hash_password(password: &str) -> Result<String, String> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    hasher().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|e| e.to_string())
}

/// Takes the same time whether there is a password to compare with or not.
pub fn verify_password(password: &str, phc: Option<&str>) -> bool {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    match phc.map(argon2::password_hash::phc::PasswordHash::new) {
        Some(Ok(hash)) => hasher().verify_password(password.as_bytes(), &hash).is_ok(),
        _ => {
            let _ = hasher().hash_password(password.as_bytes());
            false
        }
    }
}

/// Waldur's rule: at least 7 characters, with a digit and a letter.
pub fn password_faults(password: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if password.chars().count() < 7 {
        faults.push("Password must be at least 7 characters long.");
    }
    if !password.chars().any(|c| c.is_ascii_digit()) {
        faults.push("Password must contain one or more digits.");
    }
    if !password.chars().any(char::is_alphabetic) {
        faults.push("Password must contain one or more letters.");
    }
    faults
}

/// Failed logins of one user from one address, so that a password cannot be guessed at leisure.
pub struct Throttle {
    attempts: u32,
    window: Duration,
    /// How many since when.
    failures: Mutex<HashMap<Who, (u32, Instant)>>,
}

/// A user name as it was tried, and the address it came from (None: the Unix socket).
type Who = (String, Option<IpAddr>);

/// The table is swept when it has grown to this many entries.
const REMEMBERED_FAILURES: usize = 10_000;

impl Throttle {
    pub fn new(attempts: u32, window: Duration) -> Throttle {
        Throttle { attempts, window, failures: Mutex::default() }
    }

    fn key(username: &str, peer: Peer) -> Who {
        let address = match peer {
            Peer::Tcp(address) => Some(address),
            Peer::Unix { .. } => None,
        };
        (username.to_string(), address)
    }

    /// May this user try from there? Otherwise the seconds to wait.
    pub fn check(&self, username: &str, peer: Peer) -> Result<(), u64> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.get(&Throttle::key(username, peer)) {
            Some((count, since)) if *count >= self.attempts && since.elapsed() < self.window => {
                Err((self.window - since.elapsed()).as_secs().max(1))
            }
            _ => Ok(()),
        }
    }

    pub fn record(&self, username: &str, peer: Peer, success: bool) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Throttle::key(username, peer);
        if success {
            failures.remove(&key);
            return;
        }
        if failures.len() >= REMEMBERED_FAILURES {
            failures.retain(|_, (_, since)| since.elapsed() < self.window);
        }
        let entry = failures.entry(key).or_insert((0, Instant::now()));
        if entry.1.elapsed() >= self.window {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_verify_only_with_themselves() {
        let phc = hash_password("secret123").unwrap();
        assert!(phc.starts_with("$argon2id$"));
        assert!(verify_password("secret123", Some(&phc)));
        assert!(!verify_password("secret124", Some(&phc)));
        assert!(!verify_password("secret123", None));
    }

    #[test]
    fn the_throttle_counts_failures_of_one_user_from_one_address() {
        let throttle = Throttle::new(2, Duration::from_secs(60));
        let peer = Peer::Tcp("127.0.0.1".parse().unwrap());
        throttle.record("alice", peer, false);
        assert!(throttle.check("alice", peer).is_ok());
        throttle.record("alice", peer, false);
        assert!(throttle.check("alice", peer).is_err());
        assert!(throttle.check("bob", peer).is_ok());
        throttle.record("alice", peer, true);
        assert!(throttle.check("alice", peer).is_ok());
    }

    #[test]
    fn tokens_are_forty_hex_digits() {
        let token = new_token().unwrap();
        assert_eq!(token.len(), 40);
        assert!(token.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(token, new_token().unwrap());
    }
}
