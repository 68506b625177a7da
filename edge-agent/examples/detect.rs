//! `detect MODEL RUNTIME FILE [THRESHOLD [WIDTH [DUMP-FOLDER]]]`: what the detector finds in a file, as
//! JSON lines.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use picket_edge_agent::detect::{DetectSettings, command};

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut word = |name| words.next().with_context(|| format!("{name} is missing"));
    let settings = serde_json::json!({
        "model": word("MODEL")?,
        "runtime_library": word("RUNTIME")?,
    });
    let mut settings: DetectSettings = serde_json::from_value(settings)?;
    let file = PathBuf::from(word("FILE")?);
    if let Ok(threshold) = word("THRESHOLD") {
        settings.score_threshold = threshold.parse()?;
    }
    if let Ok(width) = word("WIDTH") {
        settings.input_width_px = width.parse()?;
    }
    let dump = word("DUMP-FOLDER").ok().map(PathBuf::from);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let began = std::time::Instant::now();
    let format = command::Format::Json;
    let frames = command::run(&settings, &file, format, dump.as_deref(), &mut out)?;
    out.flush()?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    eprintln!("{frames} frames, {:.1} ms each, all included", ms / frames.max(1) as f64);
    Ok(())
}
