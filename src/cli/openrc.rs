//! `cofferd openrc`: what the OpenStack clients of a user need to know, as a file for a shell.

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::find::USER;
use super::output::field;
use super::{CliError, Context};
use crate::config::Config;
use crate::logging::plain;

/// Print a file that sets up the OpenStack clients of a user
#[derive(Args)]
#[command(after_help = "Example: cofferd openrc ada > ada.rc; then `source ada.rc` and `openstack volume backup list`.")]
pub struct Openrc {
    /// Name of the user
    user: String,
    /// May be left out when the user has only one
    #[arg(long, short)]
    project: Option<String>,
    /// Make an application credential and put it in, instead of asking for the password: for programs
    #[arg(long)]
    credential: bool,
    /// Where clients reach the daemon, if that is not as this host does: http(s)://HOST[:PORT]
    #[arg(long)]
    url: Option<String>,
}

/// What could be set from another file and would get in the way.
const CLEARED: &str = "unset OS_CLOUD OS_TOKEN OS_AUTH_TYPE OS_ENDPOINT OS_USER_ID OS_USER_DOMAIN_ID OS_PROJECT_ID OS_PROJECT_DOMAIN_ID \
    OS_TENANT_ID OS_TENANT_NAME OS_DOMAIN_ID OS_DOMAIN_NAME OS_SYSTEM_SCOPE OS_TRUST_ID OS_APPLICATION_CREDENTIAL_ID \
    OS_APPLICATION_CREDENTIAL_NAME OS_APPLICATION_CREDENTIAL_SECRET CINDER_ENDPOINT\n";

/// As POSIX shells understand it, also where any failing command ends them (`set -e`) and where there is no terminal. What is typed
/// after the prompt is not shown. The prompt goes to standard error, so that the file can be used within a pipe.
const ASK: &str = r#"if [ -z "${OS_PASSWORD:-}" ]; then
    stty -echo 2> /dev/null || true
    printf 'Password of %s: ' "$OS_USERNAME" >&2
    IFS= read -r OS_PASSWORD || true
    stty echo 2> /dev/null || true
    printf '\n' >&2
fi
export OS_PASSWORD
"#;

pub fn run(args: &Openrc, context: &Context) -> Result<(), CliError> {
    let config = context.config()?;
    let client = Client::connect(&config)?;
    let user = USER.find(&client, &args.user)?;
    let path = format!("/ops/users/{}", field(&user, "uuid"));
    let facts = client.get(&format!("{path}/openstack/"))?;
    check_login(&facts, args.credential)?;
    let project = choose_project(&facts, args.project.as_deref())?;
    let base = match &args.url {
        Some(url) => checked_url(url)?,
        None => own_url(&client, &config)?,
    };
    let mut settings = vec![("OS_AUTH_URL", format!("{base}/identity/v3")), ("OS_IDENTITY_API_VERSION", "3".into())];
    if args.credential {
        let credential = client.post(&format!("{path}/credentials/"), json!({"project": field(project, "uuid")}))?;
        settings.push(("OS_AUTH_TYPE", "v3applicationcredential".into()));
        settings.push(("OS_APPLICATION_CREDENTIAL_ID", field(&credential, "id")));
        settings.push(("OS_APPLICATION_CREDENTIAL_SECRET", field(&credential, "secret")));
    } else {
        settings.extend(password_settings(&facts, project));
    }
    settings.push(("OS_REGION_NAME", field(&facts, "region")));
    settings.push(("OS_INTERFACE", "public".into()));
    settings.push(("OS_VOLUME_API_VERSION", "3.71".into())); // the newest, so that clients offer all there is
    let text = render(&settings, args.credential);
    let object: serde_json::Map<String, Value> = settings.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect();
    context.show(&Value::Object(object), |_| text)
}

fn check_login(facts: &Value, credential: bool) -> Result<(), CliError> {
    let name = field(facts, "username");
    if facts["is_active"] != true {
        return Err(CliError::failed(format!("{name} is disabled; `cofferd user enable {name}` undoes that")));
    }
    if facts["has_password"] != true && !credential {
        return Err(CliError::failed(format!(
            "{name} has no password: set one with `cofferd user passwd {name}`, or add --credential to log in without"
        )));
    }
    Ok(())
}

/// The project named, by name or uuid, or the only one.
fn choose_project<'f>(facts: &'f Value, wanted: Option<&str>) -> Result<&'f Value, CliError> {
    let user = field(facts, "username");
    let all: Vec<&Value> = facts["projects"].as_array().into_iter().flatten().collect();
    let names = || all.iter().map(|p| field(p, "name")).collect::<Vec<_>>().join(", ");
    let fits = |project: &Value| {
        wanted.is_none_or(|wanted| field(project, "name") == wanted || field(project, "uuid") == wanted.replace('-', "").to_lowercase())
    };
    let fitting: Vec<&Value> = all.iter().copied().filter(|p| fits(p)).collect();
    match (fitting.as_slice(), wanted) {
        ([project], _) => Ok(project),
        _ if all.is_empty() => {
            Err(CliError::failed(format!("{user} has no role in any project; `cofferd role add {user} member --project NAME` gives one")))
        }
        ([], Some(wanted)) => Err(CliError::failed(format!("{user} has no project {wanted:?}, but: {}", names()))),
        (_, Some(wanted)) => Err(CliError::failed(format!("{user} has more than one project {wanted:?}; give its uuid"))),
        (_, None) => Err(CliError::failed(format!("say which project with --project: {}", names()))),
    }
}

/// Where the running daemon listens, or would.
fn own_url(client: &Client, config: &Config) -> Result<String, CliError> {
    let status = client.get("/ops/status/")?;
    if let Some(url) = status["listening"].as_array().and_then(|urls| urls.first()) {
        return Ok(url.as_str().unwrap_or_default().to_owned());
    }
    match config.http.listen.iter().find(|address| address.port() != 0) {
        Some(address) => Ok(format!("http://{}", crate::daemon::reachable(*address))),
        None => Err(CliError::failed("the daemon does not run and its port is not known; start it, or say --url")),
    }
}

fn checked_url(url: &str) -> Result<String, CliError> {
    let url = url.trim_end_matches('/');
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic())) {
        true => Ok(url.to_owned()),
        false => Err(CliError::failed(format!("{url:?} is no URL like https://backup.example.org"))),
    }
}

fn password_settings(facts: &Value, project: &Value) -> Vec<(&'static str, String)> {
    vec![
        ("OS_USERNAME", field(facts, "username")),
        ("OS_USER_DOMAIN_NAME", "Default".into()),
        // Names need not be unique; clients that know the id go by it.
        ("OS_PROJECT_ID", field(project, "uuid")),
        ("OS_PROJECT_NAME", field(project, "name")),
        ("OS_PROJECT_DOMAIN_NAME", "Default".into()),
    ]
}

fn render(settings: &[(&str, String)], credential: bool) -> String {
    let mut text = String::from("# OpenStack clients for cofferd. In a shell: source THIS_FILE; openstack volume backup list\n");
    if credential {
        text += "# Keep this file to yourself: it holds a secret that is as good as a password.\n";
        text += "unset OS_USERNAME OS_PASSWORD OS_USER_DOMAIN_NAME OS_PROJECT_NAME OS_PROJECT_DOMAIN_NAME\n";
    }
    if !credential {
        text += "# It asks for the password unless OS_PASSWORD is set already; after a wrong one: unset OS_PASSWORD.\n";
        // Another user's would be wrong.
        let username = settings.iter().find(|(name, _)| *name == "OS_USERNAME").map_or("", |(_, value)| value);
        text += &format!("[ -z \"${{OS_USERNAME:-}}\" ] || [ \"$OS_USERNAME\" = {} ] || unset OS_PASSWORD\n", quoted(username));
    }
    text += CLEARED;
    for (name, value) in settings {
        text += &format!("export {name}={}\n", quoted(value));
    }
    if !credential {
        text += ASK;
    }
    text
}

/// For a shell, whatever is in it.
fn quoted(value: &str) -> String {
    format!("'{}'", plain(value).replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Value {
        json!({"username": "ada", "is_active": true, "has_password": true, "region": "RegionOne", "projects": [
            {"uuid": "aa".repeat(16), "name": "shop"}, {"uuid": "bb".repeat(16), "name": "twins"}, {"uuid": "cc".repeat(16), "name": "twins"},
        ]})
    }

    #[test]
    fn quotes_hold_whatever_a_name_has() {
        assert_eq!(quoted("it's $HOME `x` \"y\" \\"), r#"'it'\''s $HOME `x` "y" \'"#);
        assert!(!quoted("a\nexport B=1").contains('\n'));
    }

    #[test]
    fn the_project_is_the_one_named_or_the_only_one() {
        let facts = facts();
        let choose = |wanted| choose_project(&facts, wanted).map(|p| field(p, "uuid")).map_err(|e| e.to_string());
        assert_eq!(choose(Some("shop")).unwrap(), "aa".repeat(16));
        assert_eq!(choose(Some("CCCCCCCC-cccc-cccc-cccc-cccccccccccc")).unwrap(), "cc".repeat(16));
        assert!(choose(None).unwrap_err().contains("--project: shop, twins, twins"));
        assert!(choose(Some("twins")).unwrap_err().contains("uuid"));
        assert!(choose(Some("moon")).unwrap_err().contains("\"moon\""));
        let one = json!({"username": "ada", "projects": [{"uuid": "x", "name": "shop"}]});
        assert_eq!(field(choose_project(&one, None).unwrap(), "name"), "shop");
        let none = json!({"username": "ada", "projects": []});
        assert!(choose_project(&none, None).unwrap_err().to_string().contains("cofferd role add ada"));
    }

    #[test]
    fn who_cannot_log_in_is_told_how() {
        let with = |key: &str, credential| {
            let mut facts = facts();
            facts[key] = json!(false);
            check_login(&facts, credential).map_err(|e| e.to_string())
        };
        assert!(with("has_password", false).unwrap_err().contains("cofferd user passwd ada"));
        assert!(with("has_password", true).is_ok());
        assert!(with("is_active", true).unwrap_err().contains("cofferd user enable ada"));
    }

    #[test]
    fn urls_are_looked_at() {
        assert_eq!(checked_url("https://b.example.org/").unwrap(), "https://b.example.org");
        for wrong in ["b.example.org", "ftp://x", "https://", "http://a b"] {
            assert!(checked_url(wrong).is_err(), "{wrong}");
        }
    }
}
