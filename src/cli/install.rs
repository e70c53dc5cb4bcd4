//! `cofferd install`: puts the binary and everything around it where systemd, man and the shells look for it.
//!
//! Nothing is started or enabled, and an existing configuration is left as it is.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use super::{CliError, Context, completions, man};

const SERVICE: &str = include_str!("../../systemd/cofferd.service");
const SOCKET: &str = include_str!("../../systemd/cofferd.socket");
const SYSUSERS: &str = include_str!("../../systemd/sysusers.d/cofferd.conf");
const TMPFILES: &str = include_str!("../../systemd/tmpfiles.d/cofferd.conf");
const DISKS: &str = include_str!("../../systemd/cofferd.service.d/disks.conf.example");
const CONFIG: &str = include_str!("../../systemd/cofferd.toml");
const NGINX: &str = include_str!("../../systemd/nginx.conf.example");

/// Where the unit says the binary is; replaced when another prefix is chosen.
const UNIT_BINARY: &str = "/usr/local/bin/cofferd";

/// Install the binary, units, manual pages and completions
#[derive(Args)]
pub struct Install {
    /// Install below this directory, as for a package
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Where the binary, units and pages go
    #[arg(long, default_value = "/usr/local")]
    prefix: PathBuf,
}

pub fn run(args: &Install, context: &Context) -> Result<(), CliError> {
    if !args.prefix.is_absolute() {
        return Err(CliError::failed("--prefix must be an absolute path"));
    }
    let place = Place { root: args.root.clone(), prefix: args.prefix.clone(), done: Vec::new() };
    let done = place.install()?;
    context.show(&json!({"installed": done}), |_| {
        let files: String = done.iter().map(|path| format!("  {}\n", path.display())).collect();
        format!("installed\n{files}{}", next_steps(&args.root))
    })
}

fn next_steps(root: &Path) -> String {
    if root != Path::new("/") {
        return String::new();
    }
    "next, as root:\n  \
       systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload\n  \
       edit /etc/cofferd/cofferd.toml (volumes.roots) and grant the disks: systemctl edit cofferd\n  \
       systemctl enable --now cofferd\n  \
       cofferd instance add NAME --volume /path/to/disk.img\n"
        .to_owned()
}

struct Place {
    root: PathBuf,
    prefix: PathBuf,
    done: Vec<PathBuf>,
}

impl Place {
    fn install(mut self) -> Result<Vec<PathBuf>, CliError> {
        let binary = std::env::current_exe().and_then(fs::read).map_err(|e| CliError::failed(format!("this binary: {e}")))?;
        let target = self.prefix.join("bin/cofferd");
        let service = SERVICE.replace(UNIT_BINARY, &target.to_string_lossy());
        self.put(&target, &binary, 0o755)?;
        for (path, text) in [
            ("lib/systemd/system/cofferd.service", service.as_str()),
            ("lib/systemd/system/cofferd.socket", SOCKET),
            ("lib/sysusers.d/cofferd.conf", SYSUSERS),
            ("lib/tmpfiles.d/cofferd.conf", TMPFILES),
            ("share/doc/cofferd/disks.conf.example", DISKS),
            ("share/doc/cofferd/nginx.conf.example", NGINX),
            ("share/bash-completion/completions/cofferd", &completions::script(Shell::Bash)),
            ("share/zsh/site-functions/_cofferd", &completions::script(Shell::Zsh)),
            ("share/fish/vendor_completions.d/cofferd.fish", &completions::script(Shell::Fish)),
        ] {
            self.put(&self.prefix.join(path), text.as_bytes(), 0o644)?;
        }
        self.put_pages()?;
        let config = Path::new("/etc/cofferd/cofferd.toml");
        if !self.below_root(config).exists() {
            self.put(config, CONFIG.as_bytes(), 0o644)?;
        }
        Ok(self.done)
    }

    fn put_pages(&mut self) -> Result<(), CliError> {
        let pages = self.prefix.join("share/man/man1");
        let directory = self.below_root(&pages);
        man::write(&directory).map_err(|e| CliError::failed(format!("{}: {e}", directory.display())))?;
        self.done.push(pages.join("cofferd*.1"));
        Ok(())
    }

    /// Writes a file under a new name and moves it into place, so that a running binary can be replaced and no reader sees a
    /// half-written file.
    fn put(&mut self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), CliError> {
        let target = self.below_root(path);
        let fresh = target.with_extension("cofferd-new");
        let written = || -> io::Result<()> {
            fs::create_dir_all(target.parent().unwrap_or(Path::new("/")))?;
            fs::write(&fresh, bytes)?;
            fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
            fs::rename(&fresh, &target)
        };
        written().map_err(|e| CliError::failed(format!("{}: {e}", target.display())))?;
        self.done.push(path.to_path_buf());
        Ok(())
    }

    fn below_root(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}
