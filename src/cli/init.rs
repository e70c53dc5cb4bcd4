//! `cofferd init`: makes the coffer before the first start, for who wants the token without a daemon.

use clap::Args;
use serde_json::json;

use super::{CliError, Context};
use crate::daemon;

/// Make a new coffer with the staff user admin and show its token
#[derive(Args)]
pub struct Init {}

pub fn run(_: &Init, context: &Context) -> Result<(), CliError> {
    let config = context.config()?;
    let coffer = config.coffer();
    if coffer.exists() {
        return Err(CliError::failed(format!("there is a coffer already at {}; nothing was changed", coffer.display())));
    }
    let app = daemon::open_patiently(&config).map_err(|e| CliError::failed(e.to_string()))?;
    let token = app.first_token().map(str::to_owned);
    app.shutdown(config.shutdown_deadline);
    let made = json!({"coffer": coffer, "user": "admin", "token": token, "token_file": config.admin_token()});
    context.show(&made, |_| {
        let token = token.as_deref().unwrap_or("-");
        format!(
            "made {}\nadmin token (shown once, saved in {}): {token}\nnext: cofferd serve\n",
            coffer.display(),
            config.admin_token().display()
        )
    })
}
