//! Waiting for work that the API does in the background, with a progress bar when somebody is watching.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::client::Client;
use super::output::field;
use super::{CliError, Context};

/// Short jobs are noticed quickly, long ones cost little.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Bytes, rate and remaining time on standard error; nothing when that is no terminal or with `--json`.
pub struct Bar(ProgressBar);

impl Bar {
    pub fn new(context: &Context, what: &str) -> Bar {
        let bar = if context.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let template = "{msg} {bar:30} {percent:>3}% {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        Bar(bar)
    }

    /// Shows the API's `progress` object.
    pub fn update(&self, progress: &Value) {
        if let (Some(total), Some(read)) = (progress["total"].as_u64(), progress["read"].as_u64()) {
            self.position(read, total);
        }
    }

    pub fn position(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Asks `target` until `busy` says no more; returns the last answer.
pub fn wait(client: &Client, bar: &Bar, target: &str, busy: impl Fn(&Value) -> bool) -> Result<Value, CliError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let object = client.get(target)?;
        if !busy(&object) {
            return Ok(object);
        }
        bar.update(&object["progress"]);
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Starts a task by posting `body` to `target` and waits for its end. A failed one is an error with its message.
pub fn run_task(client: &Client, bar: &Bar, target: &str, body: Value) -> Result<Value, CliError> {
    let task = format!("/ops/tasks/{}/", field(&client.post(target, body)?, "task"));
    let ended = wait(client, bar, &task, |task| task["state"] == "running")?;
    match ended["state"].as_str() {
        Some("done") => Ok(ended),
        _ => Err(CliError::failed(field(&ended, "error_message"))),
    }
}
