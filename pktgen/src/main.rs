//! `xvip-pktgen`: the traffic source and checker. It does not exist yet; this program says so.

use clap::Parser;

/// Sends and checks traffic through xvip.
///
/// Not written yet: this version sends nothing. What exists for measuring is `xvip-perf core`, the
/// packet path in memory. Only --help and --version are understood.
#[derive(Parser)]
#[command(name = "xvip-pktgen", version)]
struct Arguments {}

fn main() -> anyhow::Result<()> {
    Arguments::parse();
    anyhow::bail!("the packet generator is not written yet; `xvip-perf core` measures in memory")
}
