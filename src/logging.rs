//! The log: one line a record on standard error, in the form that whoever reads it there understands.
//!
//! When standard error is the journal, each line begins with its syslog priority (`<3>`, sd-daemon(3)); otherwise with a
//! time. Text from outside (a path, a request) may hold line ends and control characters, so every line of a record gets its
//! own beginning and control characters are replaced: no text can pass for a record of its own.

use std::io::Write;

use env_logger::Builder;
use log::{Level, LevelFilter, Record};

/// Names the variable with the level: `info`, or by module as in `cofferd::http=debug,warn`.
const LEVEL_VARIABLE: &str = "COFFERD_LOG";
/// These show heads and addresses of requests, with tokens and signatures in them; what matters of that `objects::http` logs.
const SILENT: [&str; 4] = ["ureq", "ureq_proto", "rustls", "rustls_native_certs"];

/// Starts logging at `level` unless `COFFERD_LOG` says otherwise, and sends panics through it.
pub fn start(level: LevelFilter) {
    let journal = stderr_is_the_journal();
    let mut builder = Builder::new();
    match std::env::var(LEVEL_VARIABLE) {
        Ok(filters) => builder.parse_filters(&filters),
        Err(_) => builder.filter_level(level),
    };
    // One write a record, so that records of several threads do not mix.
    builder.format(move |out, record| match is_silent(record.target()) {
        true => Ok(()),
        false => out.write_all(lines(record, journal, &now()).as_bytes()),
    });
    if builder.try_init().is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            log::error!("thread {}: {panic}", thread.name().unwrap_or("without a name"));
        }));
    }
}

fn is_silent(target: &str) -> bool {
    SILENT.contains(&target.split_once("::").map_or(target, |(crate_name, _)| crate_name))
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// A record as it is written: at least one line, each marked as part of this record.
fn lines(record: &Record, journal: bool, now: &str) -> String {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let mut text = String::new();
    for line in record.args().to_string().split('\n') {
        let line = plain(line);
        text += &match journal {
            true => format!("<{priority}>{line}\n"),
            false => format!("{now} {:5} {line}\n", record.level()),
        };
    }
    text
}

/// `text` without characters that could steer a terminal, end a line, or show it in another order than it has.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if steers(c) && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Control characters, line and paragraph separators, and the marks of Unicode's bidirectional algorithm (UAX 9).
pub fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// systemd.exec(5): `JOURNAL_STREAM` holds device and inode of the journal's stream; standard error may have been redirected.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(level: Level, journal: bool, text: &str) -> String {
        lines(&Record::builder().level(level).args(format_args!("{text}")).build(), journal, "T")
    }

    #[test]
    fn priorities_are_those_of_syslog() {
        let cases = [(Level::Error, 3), (Level::Warn, 4), (Level::Info, 6), (Level::Debug, 7), (Level::Trace, 7)];
        for (level, priority) in cases {
            assert_eq!(written(level, true, "a"), format!("<{priority}>a\n"));
        }
        assert_eq!(written(Level::Warn, false, "a"), "T WARN  a\n");
    }

    #[test]
    fn the_libraries_that_would_show_secrets_are_silent() {
        for target in ["ureq", "ureq::run", "ureq_proto::client", "rustls::client::hs"] {
            assert!(is_silent(target), "{target}");
        }
        assert!(!is_silent("cofferd::objects::http") && !is_silent("ureqs"));
    }

    #[test]
    fn no_text_can_pass_for_another_record() {
        let forged = "path /a\n<0>the disk is on fire\r<1>x\u{1b}[2J";
        let journal = written(Level::Info, true, forged);
        for line in journal.lines() {
            assert!(line.starts_with("<6>"), "{line:?}");
        }
        assert_eq!(journal.lines().count(), 2);
        assert!(!journal.contains(['\r', '\u{1b}']), "{journal:?}");
        assert_eq!(plain("gpj.\u{202e}exe\u{9b}2J\u{2028}"), "gpj.\u{fffd}exe\u{fffd}2J\u{fffd}");
        assert!(written(Level::Info, false, forged).lines().all(|line| line.starts_with("T INFO ")));
    }
}
