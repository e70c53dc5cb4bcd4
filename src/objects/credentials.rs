//! The secrets of a repository, from a file that nobody else can read: TOML or KEY=VALUE lines, with the names that S3's and
//! OpenStack's own clients use. They are shown nowhere, not even by `Debug`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::ObjectError;

const LARGEST: u64 = 64 << 10;
const NAMES: &str = "aws_access_key_id, aws_secret_access_key, aws_session_token; OS_USERNAME, OS_PASSWORD, \
                     OS_APPLICATION_CREDENTIAL_ID, OS_APPLICATION_CREDENTIAL_NAME, OS_APPLICATION_CREDENTIAL_SECRET; ST_USER, ST_KEY";

#[derive(Clone, Default)]
pub struct Credentials {
    pub access_key: Option<String>,
    pub secret_key: Option<String>,
    pub session_token: Option<String>,
    /// Of Swift's own login, or Keystone's.
    pub user: Option<String>,
    pub password: Option<String>,
    pub application_id: Option<String>,
    pub application_name: Option<String>,
    pub application_secret: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Credentials(***)")
    }
}

impl Credentials {
    /// Reads `path`; a name without a slash is a file in `$CREDENTIALS_DIRECTORY`.
    pub fn read(path: &Path) -> Result<Credentials, ObjectError> {
        let services = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|directory| directory.is_absolute());
        Credentials::read_with(path, services.as_deref())
    }

    fn read_with(path: &Path, services: Option<&Path>) -> Result<Credentials, ObjectError> {
        let path = match (path.is_absolute(), services) {
            (true, _) => path.to_path_buf(),
            (false, Some(directory)) => directory.join(path),
            (false, None) => {
                let text = format!("credentials {}: a name without a slash is a credential of the service (LoadCredential= in its unit), and there is none here", path.display());
                return Err(ObjectError::Settings(text));
            }
        };
        let wrong = |why: String| ObjectError::Settings(format!("credentials {}: {why}", path.display()));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::LOOP) => return Err(wrong("it is a symbolic link; name the file it leads to".to_owned())),
            Err(error) => return Err(wrong(std::io::Error::from(error).to_string())),
        };
        let found = file.metadata().map_err(|error| wrong(error.to_string()))?;
        if !found.is_file() {
            return Err(wrong("it is no regular file".to_owned()));
        }
        // Root tries out with `repository add` what the daemon's user is to read.
        let own = rustix::process::geteuid().as_raw();
        if own != 0 && found.uid() != 0 && found.uid() != own {
            return Err(wrong("it belongs to another user; it must be yours or root's".to_owned()));
        }
        // systemd's own directory is closed to others, whatever the modes in it.
        let forbidden = if services.is_some_and(|directory| path.starts_with(directory)) { 0o037 } else { 0o077 };
        if found.mode() & forbidden != 0 {
            return Err(wrong(format!("others may read it (mode {:04o}): chmod 600 it", found.mode() & 0o7777)));
        }
        if found.len() > LARGEST {
            return Err(wrong("it is too large to be a file of credentials".to_owned()));
        }
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text).map_err(|_| wrong("it is no text in UTF-8, or cannot be read".to_owned()))?;
        parse(&text).map_err(wrong)
    }

    /// All that must not be seen.
    pub fn secrets(&self) -> Vec<String> {
        [&self.secret_key, &self.session_token, &self.password, &self.application_secret].into_iter().flatten().cloned().collect()
    }
}

/// An error names a line or a key, never a value.
fn parse(text: &str) -> Result<Credentials, String> {
    let pairs = match toml::from_str::<BTreeMap<String, String>>(text) {
        Ok(pairs) => pairs.into_iter().collect(),
        Err(_) => lines(text)?,
    };
    let mut found = Credentials::default();
    for (key, value) in pairs {
        let field = match key.to_ascii_lowercase().as_str() {
            "aws_access_key_id" => &mut found.access_key,
            "aws_secret_access_key" => &mut found.secret_key,
            "aws_session_token" => &mut found.session_token,
            "os_username" | "st_user" => &mut found.user,
            "os_password" | "st_key" => &mut found.password,
            "os_application_credential_id" => &mut found.application_id,
            "os_application_credential_name" => &mut found.application_name,
            "os_application_credential_secret" => &mut found.application_secret,
            _ if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => return Err(format!("unknown key {key}, expected one of {NAMES}")),
            _ => return Err(format!("an unknown key, expected one of {NAMES}")),
        };
        if value.is_empty() {
            return Err(format!("{key} is empty"));
        }
        if field.replace(value).is_some() {
            return Err(format!("{key} is there twice, or with another name for the same"));
        }
    }
    Ok(found)
}

/// KEY=VALUE as shells and the files of AWS's clients have it.
fn lines(text: &str) -> Result<Vec<(String, String)>, String> {
    let (mut pairs, mut sections) = (Vec::new(), 0);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') && line.ends_with(']') {
            sections += 1;
            if sections > 1 {
                return Err(format!("line {number}: there is more than one section; keep the one that is meant"));
            }
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (key, value) = line.split_once('=').ok_or_else(|| format!("line {number}: expected KEY=VALUE"))?;
        let value = unquoted(value.trim()).ok_or_else(|| format!("line {number}: a quotation mark is missing"))?;
        pairs.push((key.trim().to_owned(), value));
    }
    Ok(pairs)
}

fn unquoted(value: &str) -> Option<String> {
    let Some(quote) = value.chars().next().filter(|c| ['"', '\''].contains(c)) else { return Some(value.to_owned()) };
    let inner = value[1..].strip_suffix(quote)?;
    if quote == '\'' {
        return Some(inner.to_owned());
    }
    let (mut out, mut chars) = (String::new(), inner.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('"' | '\\' | '$' | '`') => out.push(c),
                c => out.extend(['\\', c]),
            },
            '"' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_usual_ways_to_write_them_are_understood() {
        for text in [
            "aws_access_key_id = \"AK\"\naws_secret_access_key = 's e=c\"r'\n",
            "[default]\naws_access_key_id = AK\naws_secret_access_key = s e=c\"r\n",
            "# key\nexport AWS_ACCESS_KEY_ID=AK\nexport AWS_SECRET_ACCESS_KEY=\"s e=c\\\"r\"\n",
        ] {
            let found = parse(text).unwrap();
            assert_eq!((found.access_key.as_deref(), found.secret_key.as_deref()), (Some("AK"), Some("s e=c\"r")), "{text}");
            assert_eq!(found.password, None);
        }
        let found = parse("OS_PASSWORD='pa$s'\nOS_USERNAME=ada\n").unwrap();
        assert_eq!((found.user.as_deref(), found.password.as_deref()), (Some("ada"), Some("pa$s")));
        assert_eq!(parse("ST_KEY=k\n").unwrap().password.as_deref(), Some("k"));
    }

    #[test]
    fn what_is_wrong_is_told_without_its_value() {
        for (text, part) in [
            ("OS_PASWORD=hunter2", "unknown key OS_PASWORD"),
            ("hunter2", "line 1"),
            ("OS_PASSWORD=\"hunter2", "line 1: a quotation mark"),
            ("OS_PASSWORD=", "is empty"),
            ("OS_PASSWORD=hunter2\nST_KEY=hunter2", "twice"),
            ("[a]\nOS_PASSWORD=x\n[b]\nOS_PASSWORD=hunter2", "more than one section"),
            ("hunter2 is my password=1", "an unknown key"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{text:?} gave {error:?}");
        }
        let found = parse("OS_PASSWORD=hunter2").unwrap();
        assert!(!format!("{found:?}").contains("hunter2"));
        assert_eq!(found.secrets(), ["hunter2"]);
    }

    #[test]
    fn a_file_that_others_can_read_or_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        std::fs::write(&path, "ST_KEY=hunter2").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        for good in [0o600, 0o400] {
            mode(good);
            assert!(Credentials::read_with(&path, None).is_ok(), "{good:o}");
        }
        for bad in [0o640, 0o604, 0o660, 0o610, 0o644] {
            mode(bad);
            let error = Credentials::read_with(&path, None).unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{bad:04o}")), "{error}");
        }
        // systemd's, which the group may read.
        mode(0o440);
        assert!(Credentials::read_with(Path::new("c"), Some(directory.path())).is_ok());
        assert!(Credentials::read_with(&path, None).is_err());
        mode(0o444);
        assert!(Credentials::read_with(Path::new("c"), Some(directory.path())).is_err());
        assert!(Credentials::read_with(Path::new("c"), None).unwrap_err().to_string().contains("LoadCredential"));
        mode(0o600);
        symlink(&path, directory.path().join("link")).unwrap();
        assert!(Credentials::read_with(&directory.path().join("link"), None).unwrap_err().to_string().contains("symbolic link"));
        assert!(Credentials::read_with(directory.path(), None).unwrap_err().to_string().contains("no regular file"));
        assert!(Credentials::read_with(&directory.path().join("none"), None).unwrap_err().to_string().contains("No such file"));
    }
}
