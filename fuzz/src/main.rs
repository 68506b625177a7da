//! The engine around one target: `PICKET_FUZZ=wire picket-fuzz [libFuzzer's options] [folders]`. The seeds
//! are written into the folder `PICKET_FUZZ_SEEDS` first.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use picket_fuzz::seeds::seeds;
use picket_fuzz::{TARGETS, Target, target};

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("PICKET_FUZZ").unwrap_or_default();
        let Some(found) = target(&name) else {
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("picket-fuzz: PICKET_FUZZ is {name:?}: it must be one of {}", names.join(", "));
            std::process::exit(2);
        };
        let _ = TARGET.set(found);
        let folder = PathBuf::from(std::env::var_os("PICKET_FUZZ_SEEDS").unwrap_or_default());
        for seed in seeds().into_iter().filter(|seed| seed.target == name) {
            if let Err(error) = std::fs::write(folder.join(&seed.name), &seed.input) {
                eprintln!("picket-fuzz: the seed {} in {}: {error}", seed.name, folder.display());
                std::process::exit(2);
            }
        }
    },
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(input);
        }
    }
);
