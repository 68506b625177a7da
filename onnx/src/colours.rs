//! What becomes of a picture's colours before a model sees them, as its description says it.

use picket_service::config::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Order of the colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// Default of `scale`.
pub fn one() -> f32 {
    1.0
}

/// Default of `std`.
pub fn ones() -> [f32; 3] {
    [1.0; 3]
}

/// Refuses numbers that cannot work, by the names that they have in a description.
pub fn check(scale: f32, mean: &[f32; 3], std: &[f32; 3]) -> Result<(), Problem> {
    if !scale.is_finite() || scale == 0.0 {
        return Err(Problem::new("scale", format!("{scale} must be a number other than 0")));
    }
    if !mean.iter().all(|mean| mean.is_finite()) {
        return Err(Problem::new("mean", "must be three numbers"));
    }
    if !std.iter().all(|std| std.is_finite() && *std != 0.0) {
        return Err(Problem::new("std", "must be three numbers other than 0"));
    }
    Ok(())
}

/// The same as a factor and an offset for each colour: (colour * `scale` - `mean`) / `std` is
/// colour * factor + offset.
pub fn numbers(scale: f32, mean: [f32; 3], std: [f32; 3]) -> ([f32; 3], [f32; 3]) {
    (std.map(|std| scale / std), [0, 1, 2].map(|channel| -mean[channel] / std[channel]))
}
