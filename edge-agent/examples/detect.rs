//! `detect FILE --model M --runtime-library R [--json] ...`: what the detector finds in a file, without
//! an agent around it; prints how long a frame took, decoding included.

use anyhow::Context;
use clap::Parser;
use picket_edge_agent::detect::command::{self, Arguments};

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> anyhow::Result<()> {
    let arguments = Words::parse().arguments;
    let began = std::time::Instant::now();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let frames = command::run(&arguments, None, &mut out).context("detect")?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    eprintln!("{frames} frames, {:.1} ms each, decoding included", ms / frames.max(1) as f64);
    Ok(())
}
