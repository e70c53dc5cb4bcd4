//! Long operations that an administrator asked for and waits on: check, scrub, gc, snapshot, restore to a path. They live in
//! memory only; what must survive a restart is a job.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::ingest::Progress;

/// The kind of task that a restore job reports to.
pub const RESTORE: &str = "restore";
/// The kind of task that goes on where it was when it is begun again, so that the daemon's end does not wait for it.
pub const SCRUB: &str = "scrub";
/// Finished tasks that can still be asked about.
const REMEMBERED: usize = 100;

pub struct Task {
    pub id: u64,
    pub kind: &'static str,
    pub progress: Progress,
    pub cancel: Arc<AtomicBool>,
    /// None while it runs.
    outcome: Mutex<Option<Result<Value, String>>>,
}

#[derive(Default)]
pub struct Tasks {
    last_id: AtomicU64,
    tasks: Mutex<BTreeMap<u64, Arc<Task>>>,
}

impl Tasks {
    pub fn begin(&self, kind: &'static str) -> Arc<Task> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let task = Arc::new(Task {
            id,
            kind,
            progress: Progress::default(),
            cancel: Arc::default(),
            outcome: Mutex::new(None),
        });
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.insert(id, task.clone());
        while tasks.len() > REMEMBERED {
            let Some(oldest) = tasks.values().find(|task| task.is_over()).map(|task| task.id) else { break };
            tasks.remove(&oldest);
        }
        task
    }

    pub fn get(&self, id: u64) -> Option<Arc<Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Asks every running task to end soon.
    pub fn cancel_all(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).values() {
            task.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Is there work that no job does? A restore is a job, and one that has not begun must not hold up the end. A scrub ends by
    /// itself.
    pub fn any_running(&self) -> bool {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).values().any(|task| ![RESTORE, SCRUB].contains(&task.kind) && !task.is_over())
    }
}

impl Task {
    pub fn finish(&self, outcome: Result<Value, String>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    pub fn is_over(&self) -> bool {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub fn to_json(&self) -> Value {
        let (state, error, result) = match &*self.outcome.lock().unwrap_or_else(PoisonError::into_inner) {
            None => ("running", String::new(), Value::Null),
            Some(Ok(result)) => ("done", String::new(), result.clone()),
            Some(Err(error)) => ("failed", error.clone(), Value::Null),
        };
        json!({"id": self.id, "kind": self.kind, "state": state, "error_message": error,
            "progress": progress_json(&self.progress), "result": result})
    }
}

/// Counters in bytes.
pub fn progress_json(progress: &Progress) -> Value {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    json!({"total": of(&progress.total), "read": of(&progress.read), "new": of(&progress.new), "stored": of(&progress.stored)})
}
