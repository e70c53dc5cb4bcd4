//! Whether a place works: a small object is put there, looked at, read, listed and deleted, and each step timed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ObjectError, Objects};

const SIZE: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
#[error("{step}: {error}")]
pub struct TrialError {
    /// What could not be done.
    pub step: &'static str,
    pub error: ObjectError,
}

pub struct Step {
    pub name: &'static str,
    pub time: Duration,
}

impl Step {
    pub fn to_json(&self) -> Value {
        json!({"step": self.name, "seconds": self.time.as_secs_f64()})
    }
}

/// The steps in their order, if all went well. Whatever happens, the object is not left behind if that can be helped.
pub fn try_out(objects: &dyn Objects) -> Result<Vec<Step>, TrialError> {
    let mut body = vec![0; SIZE];
    let mut random = [0; 8];
    let failed = |error: getrandom::Error| TrialError { step: "randomness", error: ObjectError::Settings(error.to_string()) };
    getrandom::fill(&mut body).and_then(|()| getrandom::fill(&mut random)).map_err(failed)?;
    let name = format!("test/{:016x}", u64::from_le_bytes(random));
    let result = steps(objects, &name, &body);
    if result.as_ref().is_err_and(|failed| !matches!(failed.error, ObjectError::Unreachable { .. })) {
        let _ = objects.delete(&name);
    }
    result
}

fn steps(objects: &dyn Objects, name: &str, body: &[u8]) -> Result<Vec<Step>, TrialError> {
    let mut done = Vec::new();
    let mut step = |what: &'static str, act: &dyn Fn() -> Result<(), ObjectError>| {
        let begun = Instant::now();
        act().map_err(|error| TrialError { step: what, error })?;
        done.push(Step { name: what, time: begun.elapsed() });
        Ok(())
    };
    let differs = |what: &str| ObjectError::Corrupt { name: name.to_owned(), why: what.to_owned() };
    step("put", &|| objects.put(name, body))?;
    step("size", &|| match objects.size(name)? {
        Some(size) if size == body.len() as u64 => Ok(()),
        found => Err(differs(&format!("its size is {found:?} where {} was put", body.len()))),
    })?;
    step("get", &|| match objects.get(name, None, body.len())? == body {
        true => Ok(()),
        false => Err(differs("it is read with other bytes")),
    })?;
    let range = body.len() as u64 / 4..body.len() as u64 / 2;
    step("get a range", &|| match objects.get(name, Some(range.clone()), body.len())? == body[range.start as usize..range.end as usize] {
        true => Ok(()),
        false => Err(differs("a part of it is read with other bytes")),
    })?;
    // A list may be behind, so that the object need not be in it.
    step("list", &|| objects.list("test/", "").map(|_| ()))?;
    step("delete", &|| objects.delete(name))?;
    step("get what is gone", &|| match objects.size(name)? {
        None => Ok(()),
        Some(_) => Err(differs("it is still there after it was deleted")),
    })?;
    Ok(done)
}
