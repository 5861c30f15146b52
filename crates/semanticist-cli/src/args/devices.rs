//! Arguments of `devices`.

use clap::Args;

/// List what there is to compute with: the processor, and graphics cards if this build can use them
#[derive(Debug, Args)]
pub struct Devices {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
