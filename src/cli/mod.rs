//! The command line: what each command is called, takes and prints. One file a command; each is a client of the API.
//!
//! Exit status: 0 done, 1 failed (also: something is corrupt), 2 wrong usage. Results go to standard output, as a table or
//! with `--json` as the API gave them; everything else goes to standard error.

mod backup;
mod check;
mod client;
mod completions;
mod delete;
mod demo;
mod events;
mod find;
mod flavor;
mod gc;
mod image;
mod init;
mod inspect;
mod install;
mod instance;
mod list;
mod man;
mod openrc;
mod output;
mod progress;
mod project;
mod quota;
mod replicate;
mod repository;
mod restore;
mod role;
mod salvage;
mod schedule;
mod scrub;
mod serve;
mod show;
mod snapshot;
mod space;
mod stats;
mod token;
mod user;
mod volume;
mod wire;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

use client::Client;

use crate::config::Config;

/// Each paragraph is one line: clap wraps it.
const AFTER_HELP: &str = concat!(
    "Commands talk to the running daemon through its socket, or open the coffer themselves when no daemon runs. ",
    "Wherever the name of something is meant, its uuid or an unambiguous beginning of that does as well.\n\n",
    "Files: the configuration is /etc/cofferd/cofferd.toml for root, else ~/.config/cofferd/cofferd.toml; ",
    "the state lies in /var/lib/cofferd for the service, else in ~/.local/state/cofferd.\n\n",
    "Exit status: 0 done, 1 failed, 2 wrong usage."
);

#[derive(Parser)]
#[command(name = "cofferd", version, about, after_help = AFTER_HELP, propagate_version = true)]
pub struct Cli {
    /// Configuration file
    #[arg(long, short, global = true, value_name = "FILE", env = "COFFERD_CONFIG")]
    config: Option<PathBuf>,
    /// Print what the API answers, as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Demo(demo::Demo),
    Init(init::Init),
    Backup(backup::Backup),
    List(list::List),
    Show(show::Show),
    Restore(restore::Restore),
    Delete(delete::Delete),
    #[command(subcommand)]
    Schedule(schedule::Schedule),
    #[command(subcommand)]
    Instance(instance::Instance),
    #[command(subcommand)]
    Volume(volume::Volume),
    #[command(subcommand)]
    Flavor(flavor::Flavor),
    #[command(subcommand)]
    Image(image::Image),
    #[command(subcommand)]
    Project(project::Project),
    #[command(subcommand)]
    User(user::User),
    #[command(subcommand)]
    Role(role::Role),
    #[command(subcommand)]
    Token(token::Token),
    Openrc(openrc::Openrc),
    #[command(subcommand)]
    Quota(quota::Quota),
    #[command(subcommand)]
    Repository(repository::Repository),
    Replicate(replicate::Replicate),
    Check(check::Check),
    Scrub(scrub::Scrub),
    Gc(gc::Gc),
    Stats(stats::Stats),
    Inspect(inspect::Inspect),
    Salvage(salvage::Salvage),
    Snapshot(snapshot::Snapshot),
    Events(events::Events),
    Install(install::Install),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Complete in itself: says what to do next.
    #[error("{0}")]
    Failed(String),
    /// The API refused.
    #[error("{}", refusal(*status, body))]
    Api { status: u16, body: Value },
    /// Nobody reads the output any more, as in `cofferd list | head -1`.
    #[error("standard output: {0}")]
    Output(std::io::Error),
    /// The log has it already.
    #[error("see the log")]
    Told,
}

impl CliError {
    pub fn failed(message: impl Into<String>) -> CliError {
        CliError::Failed(message.into())
    }
}

/// What every command gets besides its own arguments.
pub struct Context {
    config_file: Option<PathBuf>,
    json: bool,
}

impl Context {
    fn config(&self) -> Result<Config, CliError> {
        Config::load(self.config_file.as_deref()).map_err(|e| CliError::failed(e.to_string()))
    }

    fn client(&self) -> Result<Client, CliError> {
        Client::connect(&self.config()?)
    }

    /// Prints a result: the value itself with `--json`, else what `human` makes of it.
    fn show(&self, value: &Value, human: impl FnOnce(&Value) -> String) -> Result<(), CliError> {
        match self.json {
            true => print(&output::json(value)),
            false => print(&human(value)),
        }
    }

    /// Prints a list: a JSON array, or a table.
    fn show_list(&self, entries: Vec<Value>, columns: &[output::Column]) -> Result<(), CliError> {
        self.show(&Value::Array(entries), |list| output::table(columns, list.as_array().map_or(&[], Vec::as_slice)))
    }
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context { config_file: cli.config, json: cli.json };
    match run(cli.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Told) => ExitCode::FAILURE,
        Err(CliError::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(e) => {
            let text = e.to_string();
            let text: Vec<String> = text.lines().map(crate::logging::plain).collect();
            eprintln!("error: {}", text.join("\n       "));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, context: &Context) -> Result<(), CliError> {
    // A command says itself what went wrong; only the service and the demo log.
    match &command {
        Command::Serve(_) => crate::logging::start(log::LevelFilter::Info),
        Command::Demo(_) => crate::logging::start(log::LevelFilter::Warn),
        _ => (),
    }
    match command {
        Command::Serve(args) => serve::run(&args, context),
        Command::Demo(args) => demo::run(&args, context),
        Command::Init(args) => init::run(&args, context),
        Command::Backup(args) => backup::run(&args, context),
        Command::List(args) => list::run(&args, context),
        Command::Show(args) => show::run(&args, context),
        Command::Restore(args) => restore::run(&args, context),
        Command::Delete(args) => delete::run(&args, context),
        Command::Schedule(args) => schedule::run(&args, context),
        Command::Instance(args) => instance::run(&args, context),
        Command::Volume(args) => volume::run(&args, context),
        Command::Flavor(args) => flavor::run(&args, context),
        Command::Image(args) => image::run(&args, context),
        Command::Project(args) => project::run(&args, context),
        Command::User(args) => user::run(&args, context),
        Command::Role(args) => role::run(&args, context),
        Command::Token(args) => token::run(&args, context),
        Command::Openrc(args) => openrc::run(&args, context),
        Command::Quota(args) => quota::run(&args, context),
        Command::Repository(args) => repository::run(&args, context),
        Command::Replicate(args) => replicate::run(&args, context),
        Command::Check(args) => check::run(&args, context),
        Command::Scrub(args) => scrub::run(&args, context),
        Command::Gc(args) => gc::run(&args, context),
        Command::Stats(args) => stats::run(&args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Salvage(args) => salvage::run(&args, context),
        Command::Snapshot(args) => snapshot::run(&args, context),
        Command::Events(args) => events::run(&args, context),
        Command::Install(args) => install::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::Man(args) => man::run(&args, context),
    }
}

/// The API's error in words: `detail` alone, else one line for each field.
fn refusal(status: u16, body: &Value) -> String {
    let Some(object) = body.as_object() else { return format!("the daemon answered with status {status}") };
    if let Some(detail) = object.get("detail").and_then(Value::as_str) {
        return match status {
            401 => format!("{detail} Run the command as root or as the user that runs the daemon."),
            _ => detail.to_owned(),
        };
    }
    let lines: Vec<String> = object
        .iter()
        .map(|(field, messages)| match field.as_str() {
            "non_field_errors" => words(messages),
            _ => format!("{field}: {}", words(messages)),
        })
        .collect();
    lines.join("\n")
}

fn words(messages: &Value) -> String {
    match messages {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_is_explained() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    /// clap looks for this only in a debug build, and tests run the release build.
    #[test]
    fn no_option_hides_another() {
        fn check(command: &clap::Command) {
            let mut seen = std::collections::HashSet::new();
            for argument in command.get_arguments() {
                let short = argument.get_short().map(String::from);
                for flag in short.into_iter().chain(argument.get_long().map(str::to_owned)) {
                    assert!(seen.insert(flag.clone()), "{} has two options {flag}", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
    }

    #[test]
    fn refusals_are_readable() {
        assert_eq!(refusal(409, &json!({"detail": "Cannot delete", "status": "x"})), "Cannot delete");
        let body = json!({"name": ["This field is required."], "non_field_errors": ["One.", "Two."]});
        assert_eq!(refusal(400, &body), "name: This field is required.\nOne. Two.");
        assert_eq!(refusal(500, &Value::Null), "the daemon answered with status 500");
    }
}
