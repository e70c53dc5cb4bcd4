//! Asking what backups take of the coffer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::CliError;
use super::client::Client;
use super::output::field;

/// Where the API says it.
const SPACE: &str = "/ops/space/";
/// How often to ask while somebody else has it counted, and for how long: much longer than counting takes.
const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(120);

/// One call of the API that has space counted; the daemon counts for one client at a time.
pub fn ask(client: &Client, method: &str, target: &str, body: Option<Value>) -> Result<Value, CliError> {
    let start = Instant::now();
    loop {
        match client.call(method, target, body.clone()) {
            Err(CliError::Api { status: 503, .. }) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}

/// What one backup takes.
pub fn of(client: &Client, backup: &Value) -> Result<Value, CliError> {
    ask(client, "GET", &format!("{SPACE}{}/", field(backup, "uuid")), None)
}

/// What deleting these backups together would free.
pub fn freed_by(client: &Client, backups: &[Value]) -> Result<Value, CliError> {
    let uuids: Vec<String> = backups.iter().map(|backup| field(backup, "uuid")).collect();
    ask(client, "POST", SPACE, Some(json!({"backups": uuids})))
}

/// Puts into each backup, as `space`, what it takes; into one that has gone meanwhile, nothing.
pub fn add_to(client: &Client, backups: &mut [Value]) -> Result<(), CliError> {
    // Counted first and then listed: the pages of the list come from what is known by then.
    ask(client, "GET", &format!("{SPACE}?page_size=1"), None)?;
    let mut known: HashMap<String, Value> = client.list(SPACE)?.into_iter().map(|space| (field(&space, "uuid"), space)).collect();
    for backup in backups {
        backup["space"] = known.remove(&field(backup, "uuid")).unwrap_or_default();
    }
    Ok(())
}
