//! Passwords: how they are hashed and compared, what makes one good enough, and how guessing them is slowed down.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};

use crate::http::Peer;

/// argon2id with 9 MiB and 4 passes (an OWASP recommendation), one at a time, so that logins cannot eat the host's memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn hasher() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(9216, 4, 1, None).unwrap_or_default())
}

/// Who hashes now.
struct Line {
    hashing: u32,
    /// How many had to wait, since when.
    waited: u32,
    since: Option<Instant>,
}

static LINE: Mutex<Line> = Mutex::new(Line { hashing: 0, waited: 0, since: None });
static MOVED: Condvar = Condvar::new();
/// Hashes under way: more than these would hold every worker of the HTTP server.
const MOST_HASHING: u32 = 2;
/// Waiting holds workers too. A script that starts some dozens of clients at once is let through; a flood is refused.
const MOST_WAITS: u32 = 50;
const WAITS_WINDOW: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

impl Line {
    fn lock() -> MutexGuard<'static, Line> {
        LINE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_wait(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= WAITS_WINDOW) {
            (self.waited, self.since) = (0, Some(now));
        }
        self.waited += 1;
        self.waited <= MOST_WAITS
    }
}

/// Leave to hash one password, to be held while it is done.
pub struct HashPermit(());

impl HashPermit {
    /// None: too many others are at it; try again in a second.
    pub fn take() -> Option<HashPermit> {
        HashPermit::take_from(&mut Line::lock())
    }

    /// The same, but waits a little for its turn.
    pub fn wait() -> Option<HashPermit> {
        let (mut line, start) = (Line::lock(), Instant::now());
        if line.hashing >= MOST_HASHING && !line.may_wait(start) {
            return None;
        }
        while line.hashing >= MOST_HASHING {
            let left = LONGEST_WAIT.checked_sub(start.elapsed())?;
            line = MOVED.wait_timeout(line, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        HashPermit::take_from(&mut line)
    }

    fn take_from(line: &mut Line) -> Option<HashPermit> {
        let free = line.hashing < MOST_HASHING;
        line.hashing += u32::from(free);
        // Made only if it is free: a permit that is dropped gives a place back.
        free.then(|| HashPermit(()))
    }
}

impl Drop for HashPermit {
    fn drop(&mut self) {
        Line::lock().hashing -= 1;
        MOVED.notify_one();
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

/// Passwords that were right a moment ago. A client of HTTP Basic sends one with each request, and a hash for each would make
/// it slow and hold up the logins of others. An entry is found only while the stored hash is the same, so a new password
/// counts at once.
pub struct Verified {
    /// Random in each process, so that an entry tells nothing to somebody who sees only it.
    key: [u8; 32],
    seen: Mutex<HashMap<[u8; 32], Instant>>,
}

const VERIFIED_LIFE: Duration = Duration::from_secs(60);
/// More users than this within the life, and the oldest must hash again.
const VERIFIED_MOST: usize = 1000;

impl Verified {
    pub fn new() -> Result<Verified, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Verified { key, seen: Mutex::default() })
    }

    fn name(&self, password: &str, phc: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The length keeps the two apart. The stored hash has a salt of its own, so it stands for its user as well.
        hasher.update(&(phc.len() as u64).to_le_bytes()).update(phc.as_bytes()).update(password.as_bytes());
        *hasher.finalize().as_bytes()
    }

    pub fn knows(&self, password: &str, phc: &str) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&self.name(password, phc)).is_some_and(|at| at.elapsed() < VERIFIED_LIFE)
    }

    pub fn remember(&self, password: &str, phc: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= VERIFIED_MOST {
            seen.retain(|_, at| at.elapsed() < VERIFIED_LIFE / 2);
        }
        if seen.len() < VERIFIED_MOST {
            seen.insert(self.name(password, phc), Instant::now());
        }
    }
}

/// Failed logins, so that a password cannot be guessed at leisure: of one user from one place, and of all users together from one
/// place, for whom else would a list of names be good? Never of one user from everywhere, or whoever knows a name could lock it out;
/// what many places can try together is bounded by how fast passwords are hashed.
pub struct Throttle {
    attempts: u32,
    window: Duration,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// How many since when.
    failures: HashMap<Who, (u32, Instant)>,
    /// Who has logged in from where: what others try from there is no reason to turn them away.
    known: HashMap<Who, Instant>,
}

/// A user name as it was tried, None: whoever; and the place it came from, None: the Unix socket.
type Who = (Option<String>, Option<IpAddr>);

/// A place may fail with this many users' worth of attempts: several people, or a machine of them, may be behind one address.
const USERS_OF_A_PLACE: u32 = 10;
/// A table is swept when it has grown to this many entries.
const REMEMBERED: usize = 10_000;
const KNOWN_LIFE: Duration = Duration::from_secs(30 * 86_400);

impl Throttle {
    pub fn new(attempts: u32, window: Duration) -> Throttle {
        Throttle { attempts, window, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// May this user try from there? Otherwise the seconds to wait.
    pub fn check(&self, username: &str, peer: Peer) -> Result<(), u64> {
        let seen = self.seen();
        let (user, place) = keys(username, peer);
        let full = |who: &Who, most: u32| match seen.failures.get(who) {
            Some((count, since)) if *count >= most && since.elapsed() < self.window => Some((self.window - since.elapsed()).as_secs().max(1)),
            _ => None,
        };
        let known = seen.known.get(&user).is_some_and(|at| at.elapsed() < KNOWN_LIFE);
        let wait = full(&user, self.attempts);
        match wait.or_else(|| full(&place, self.attempts.saturating_mul(USERS_OF_A_PLACE)).filter(|_| !known)) {
            Some(seconds) => Err(seconds),
            None => Ok(()),
        }
    }

    pub fn record(&self, username: &str, peer: Peer, success: bool) {
        let mut seen = self.seen();
        let (user, place) = keys(username, peer);
        if success {
            seen.failures.remove(&user);
            if seen.known.len() >= REMEMBERED {
                seen.known.retain(|_, at| at.elapsed() < self.window);
            }
            if seen.known.len() < REMEMBERED {
                seen.known.insert(user, Instant::now());
            }
            return;
        }
        log::warn!("a login as {username:?} from {peer} was refused: there is no such user, or the password is wrong");
        if seen.failures.len() >= REMEMBERED {
            seen.failures.retain(|_, (_, since)| since.elapsed() < self.window);
        }
        for who in [user, place] {
            let entry = seen.failures.entry(who).or_insert((0, Instant::now()));
            if entry.1.elapsed() >= self.window {
                *entry = (0, Instant::now());
            }
            entry.0 = entry.0.saturating_add(1);
        }
    }
}

fn keys(username: &str, peer: Peer) -> (Who, Who) {
    let place = match peer {
        Peer::Tcp(IpAddr::V6(address)) => Some(network(address)),
        Peer::Tcp(address) => Some(address),
        Peer::Unix { .. } => None,
    };
    ((Some(username.to_string()), place), (None, place))
}

/// The /64 that an IPv6 address is of: whoever has one of its addresses has all 2^64 of them (RFC 4291, 2.5.1).
fn network(address: Ipv6Addr) -> IpAddr {
    Ipv6Addr::from(u128::from(address) >> 64 << 64).into()
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
    fn some_wait_for_their_turn_and_a_flood_does_not() {
        let permits = (HashPermit::wait().unwrap(), HashPermit::take().unwrap());
        assert!(HashPermit::take().is_none());
        let waiting = std::thread::spawn(|| HashPermit::wait().is_some());
        std::thread::sleep(Duration::from_millis(50));
        drop(permits.0);
        assert!(waiting.join().unwrap());
        let mut line = Line { hashing: 0, waited: 0, since: None };
        let now = Instant::now();
        assert_eq!((0..MOST_WAITS * 2).filter(|_| line.may_wait(now)).count(), MOST_WAITS as usize);
        assert!(line.may_wait(now + WAITS_WINDOW));
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
    fn a_place_is_bounded_whatever_the_names_but_who_is_known_there_is_let_in() {
        let throttle = Throttle::new(2, Duration::from_secs(60));
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        throttle.record("alice", peer("2001:db8::1"), true);
        for n in 0..2 * USERS_OF_A_PLACE {
            assert!(throttle.check("bob", peer("2001:db8::ffff")).is_ok());
            throttle.record(&format!("nobody{n}"), peer(&format!("2001:db8::{n:x}")), false);
        }
        assert!(throttle.check("bob", peer("2001:db8::ffff")).is_err());
        assert!(throttle.check("bob", peer("2001:db8:0:1::1")).is_ok());
        assert!(throttle.check("alice", peer("2001:db8::2")).is_ok());
        throttle.record("alice", peer("2001:db8::3"), false);
        throttle.record("alice", peer("2001:db8::4"), false);
        assert!(throttle.check("alice", peer("2001:db8::5")).is_err());
    }

    #[test]
    fn only_what_was_verified_against_the_same_hash_is_known() {
        let verified = Verified::new().unwrap();
        verified.remember("secret123", "$argon2id$a");
        assert!(verified.knows("secret123", "$argon2id$a"));
        assert!(!verified.knows("secret124", "$argon2id$a"));
        assert!(!verified.knows("secret123", "$argon2id$b"), "the password has changed since");
        assert!(!verified.knows("asecret123", "$argon2id$"), "no other split of the same text");
    }

    #[test]
    fn the_memory_of_verified_passwords_is_bounded() {
        let verified = Verified::new().unwrap();
        for n in 0..VERIFIED_MOST + 10 {
            verified.remember(&n.to_string(), "phc");
        }
        assert_eq!(verified.seen.lock().unwrap().len(), VERIFIED_MOST);
    }
}
