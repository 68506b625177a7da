//! A time of day that a test sets, for one program: `stack/clock.c`, made here and loaded into it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::checkout::repository;

/// A program's clock, wrong or right. Its program must be started with [`Clock::environment`].
pub struct Clock {
    library: PathBuf,
    said: PathBuf,
    file: File,
}

impl Clock {
    /// A clock that is right, and kept by a time source.
    pub fn right(dir: &Path) -> Result<Self> {
        let (library, said) = (dir.join("clock.so"), dir.join("clock"));
        let source = repository().join("tests/stack/clock.c");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .output()
            .context("start cc; is a C compiler installed (make deps)?")?;
        let complaints = String::from_utf8_lossy(&made.stderr).into_owned();
        ensure!(made.status.success(), "cc {}: {complaints}", source.display());
        let clock = Self { library, file: File::create(&said)?, said };
        clock.say(0, true)?;
        Ok(clock)
    }

    /// Behind by so much, and nothing keeps it.
    pub fn fall_behind(&self, by: Duration) -> Result<()> {
        self.say(-i64::try_from(by.as_nanos())?, false)
    }

    /// A time source sets it, and keeps it from now on.
    pub fn find_time(&self) -> Result<()> {
        self.say(0, true)
    }

    /// Both numbers at once: no program may see the one without the other.
    fn say(&self, off_ns: i64, is_kept: bool) -> Result<()> {
        let words = [off_ns.to_ne_bytes(), i64::from(is_kept).to_ne_bytes()].concat();
        Ok(self.file.write_all_at(&words, 0)?)
    }

    /// What its program is started with.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("PICKET_TEST_CLOCK", &self.said)]
    }
}
