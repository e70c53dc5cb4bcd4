//! `cofferd inspect`: a look into the file: its packs, segments and volume maps.

use clap::Args;

use super::{CliError, Context, output};

/// Look into the coffer file: packs, segments, volume maps
#[derive(Args)]
pub struct Inspect {
    /// The chunks of one pack
    #[arg(long, value_name = "ID", conflicts_with = "map")]
    pack: Option<u64>,
    /// The segments of one volume map
    #[arg(long, value_name = "ID")]
    map: Option<u64>,
}

pub fn run(args: &Inspect, context: &Context) -> Result<(), CliError> {
    let query = match (args.pack, args.map) {
        (Some(pack), _) => format!("?pack={pack}"),
        (None, Some(map)) => format!("?map={map}"),
        (None, None) => String::new(),
    };
    context.show(&context.client()?.get(&format!("/ops/inspect/{query}"))?, output::details)
}
