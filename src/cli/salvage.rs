//! `cofferd salvage`: volumes out of a damaged coffer, without a daemon and without SQLite.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::output::{self, byte_field, field};
use super::progress::Bar;
use super::{CliError, Context};
use crate::salvage::{self, Fault, Outcome, Reader, SalvageError, Version};
use crate::source::SourceError;

/// Bytes of one part of a file's name: three of them and what is between fit into any file system.
const LONGEST_WORD: usize = 60;
/// Faults of one volume that are shown on a terminal; all of them with --json.
const SHOWN: usize = 20;

/// Pull all readable volumes out of a damaged coffer
///
/// For a coffer that cannot be opened any more; what can be opened is better restored. The file, and its -wal beside it, are only
/// read, and no daemon may have it open. Each volume of each backup becomes a new sparse file; every chunk is verified by its hash.
/// What cannot be read is left as a hole and listed.
#[derive(Args)]
pub struct Salvage {
    /// The coffer file, or a copy of it
    coffer: PathBuf,
    /// Directory for the files; nothing in it is overwritten
    #[arg(long, value_name = "DIRECTORY", required_unless_present = "list")]
    to: Option<PathBuf>,
    /// Say what is there, and write nothing
    #[arg(long, conflicts_with = "to")]
    list: bool,
    /// Only this backup: its uuid, or the beginning of it
    #[arg(long, value_name = "UUID")]
    backup: Option<String>,
}

pub fn run(args: &Salvage, context: &Context) -> Result<(), CliError> {
    let bar = Bar::new(context, "looking for pages");
    let page = |n: u64| n << 16;
    let salvage = salvage::Salvage::open(&args.coffer, &|done, total| bar.position(page(done), page(total))).map_err(failed)?;
    drop(bar);
    let versions = wanted(salvage.versions(), args.backup.as_deref())?;
    let report = match &args.to {
        Some(directory) => {
            let directory = make(directory).map_err(|e| CliError::failed(format!("{}: {e}", directory.display())))?;
            let mut reader = salvage.reader().map_err(|e| CliError::failed(e.to_string()))?;
            versions.iter().map(|version| write(&mut reader, version, &directory, context)).collect::<Result<Vec<_>, _>>()?
        }
        None => versions.iter().map(describe).collect(),
    };
    let remarks = salvage.remarks();
    context.show(&json!({"volumes": report, "remarks": remarks}), |_| text(&report, &remarks))?;
    if report.is_empty() {
        return Err(CliError::failed(format!("{}: no volume is stored in it, as far as can be seen; is it a coffer?", args.coffer.display())));
    }
    match (args.to.is_some(), report.iter().filter(|volume| volume["state"] != "whole").count()) {
        (true, n) if n > 0 => Err(CliError::failed(format!("{n} of {} volumes are not whole", report.len()))),
        _ => Ok(()),
    }
}

fn failed(error: SalvageError) -> CliError {
    CliError::failed(error.to_string())
}

fn wanted(versions: Vec<Version>, backup: Option<&str>) -> Result<Vec<Version>, CliError> {
    let Some(beginning) = backup else { return Ok(versions) };
    let uuids = |version: &Version| -> Vec<String> {
        let part = version.part.iter();
        part.flat_map(|part| part.backup.iter().map(|backup| backup.uuid.clone()).chain([part.uuid.clone()])).collect()
    };
    let found: Vec<Version> =
        versions.into_iter().filter(|version| uuids(version).iter().any(|uuid| uuid.starts_with(beginning))).collect();
    let different: HashSet<String> = found.iter().filter_map(|version| uuids(version).into_iter().next()).collect();
    match different.len() {
        0 => Err(CliError::failed(format!("no catalog row that can be read tells of a backup {beginning}; see --list"))),
        1 => Ok(found),
        n => Err(CliError::failed(format!("{n} backups begin with {beginning}"))),
    }
}

fn make(directory: &Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    directory.canonicalize()
}

fn describe(version: &Version) -> Value {
    let part = version.part.as_ref();
    let backup = part.and_then(|part| part.backup.as_ref());
    json!({
        "backup": backup.map(|backup| &backup.uuid),
        "created": backup.map(|backup| crate::clock::from_ms(backup.created).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
        "instance": backup.and_then(|backup| backup.instance.as_ref()),
        "volume": part.map(|part| &part.name),
        "map": version.map_id,
        "size": version.size(),
        "state": if version.size().is_some() { "listed" } else { "lost" },
    })
}

fn write(reader: &mut Reader, version: &Version, directory: &Path, context: &Context) -> Result<Value, CliError> {
    let mut report = describe(version);
    let Some(size) = version.size() else { return Ok(report) };
    let name = name(version);
    let bar = Bar::new(context, &name);
    let progress = |done| bar.position(done, size);
    let mut path = directory.join(format!("{name}.img"));
    let mut number = 1;
    let outcome = loop {
        match reader.write(version, &path, &progress) {
            Err(SalvageError::Target(SourceError::Exists(_))) => {
                number += 1;
                path = directory.join(format!("{name}-{number}.img"));
            }
            // The others may fit, or have names that this file system takes.
            Err(error @ SalvageError::Target(_)) => {
                report["state"] = json!("failed");
                report["reason"] = json!(error.to_string());
                return Ok(report);
            }
            written => break written.map_err(failed)?.unwrap_or_default(),
        }
    };
    report["file"] = json!(path);
    report["state"] = json!(state(&outcome));
    report["lost_bytes"] = json!(outcome.lost.iter().map(|fault| fault.range.end - fault.range.start).sum::<u64>());
    report["lost"] = faults(&outcome.lost);
    report["doubtful"] = faults(&outcome.doubtful);
    Ok(report)
}

fn state(outcome: &Outcome) -> &'static str {
    match outcome.lost.is_empty() {
        _ if outcome.is_whole() => "whole",
        true => "doubtful",
        false => "damaged",
    }
}

fn faults(faults: &[Fault]) -> Value {
    let one = |fault: &Fault| json!({"offset": fault.range.start, "length": fault.range.end - fault.range.start, "reason": fault.reason});
    faults.iter().map(one).collect()
}

/// `<instance>-<time of the backup, or number of the map>-<volume>`, of harmless characters.
fn name(version: &Version) -> String {
    let part = version.part.as_ref();
    let backup = part.and_then(|part| part.backup.as_ref());
    let instance = backup.map(|backup| backup.instance.as_deref().unwrap_or("volume"));
    let time = backup.map(|backup| crate::clock::from_ms(backup.created).format("%Y%m%dT%H%M%SZ").to_string());
    let time = time.filter(|time| time.len() == "20260101T000000Z".len()).unwrap_or_else(|| format!("map{}", version.map_id));
    let volume = match part {
        Some(part) if !part.name.is_empty() => part.name.clone(),
        Some(part) => format!("volume{}", part.position),
        None => "volume".to_owned(),
    };
    [instance.unwrap_or("unknown"), &time, volume.trim_end_matches(".img")].map(word).join("-")
}

fn word(text: &str) -> String {
    let harmless = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '_' | '+') { c } else { '_' };
    let mut word = String::new();
    for c in text.chars().map(harmless) {
        if word.len() + c.len_utf8() > LONGEST_WORD {
            break;
        }
        word.push(c);
    }
    match word.trim_start_matches('.') {
        "" => "_".to_owned(),
        word => word.to_owned(),
    }
}

fn text(report: &[Value], remarks: &[String]) -> String {
    let columns: [output::Column; 6] = [
        ("BACKUP", |v| field(v, "backup")),
        ("INSTANCE", |v| field(v, "instance")),
        ("CREATED", |v| output::time(v, "created")),
        ("VOLUME", |v| field(v, "volume")),
        ("SIZE", |v| byte_field(v, "size")),
        ("STATE", |v| field(v, "state")),
    ];
    let mut text = output::table(&columns, report);
    for volume in report {
        if let Some(file) = volume["file"].as_str() {
            text += &format!("{}  {}\n", field(volume, "state"), crate::logging::plain(file));
        }
        if let Some(reason) = volume["reason"].as_str() {
            text += &format!("  failed: {}\n", crate::logging::plain(reason));
        }
        for kind in ["lost", "doubtful"] {
            let faults = volume[kind].as_array().map_or(&[][..], Vec::as_slice);
            for fault in faults.iter().take(SHOWN) {
                text += &format!("  {kind}: {} bytes at {}: {}\n", fault["length"], fault["offset"], field(fault, "reason"));
            }
            if faults.len() > SHOWN {
                text += &format!("  {kind}: {} more, see --json\n", faults.len() - SHOWN);
            }
        }
    }
    text + &remarks.iter().map(|remark| format!("{remark}\n")).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_harmless() {
        assert_eq!(word("web 1/../x"), "web_1_.._x");
        assert_eq!(word("../../etc"), "_.._etc");
        assert_eq!((word(""), word("..")), ("_".to_owned(), "_".to_owned()));
        assert_eq!(word("\u{1b}[2J\n-rf"), "__2J__rf");
        // A file system bounds the bytes of a name, not its letters.
        assert_eq!(word(&"ä".repeat(300)), "ä".repeat(LONGEST_WORD / 2));
    }
}
