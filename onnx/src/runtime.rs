//! ONNX Runtime, loaded from a shared library when the program starts.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;

/// The loaded library. A process has one for good: ONNX Runtime cannot be loaded twice.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
    version: String,
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The file is not there.
    #[error("{section}.runtime_library: cannot read {}", path.display())]
    Missing {
        /// Of the config.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is there and is no ONNX Runtime, or too old a one.
    #[error("{section}.runtime_library: {} is not an ONNX Runtime that can be used", path.display())]
    Load {
        /// Of the config.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: ort::LoadDynamicError,
    },
    /// It does not start.
    #[error("ONNX Runtime from {} does not start", path.display())]
    Start {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ort::Error,
    },
    /// Another one is in use already.
    #[error(
        "{section}.runtime_library: {} cannot be loaded, {} is in use until the program is restarted",
        path.display(), loaded.display()
    )]
    OtherLoaded {
        /// Of the config.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// What is in use.
        loaded: PathBuf,
    },
}

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Loads the library, or gives the one that is loaded. `section` of the config names it in
    /// `runtime_library`.
    pub fn load(section: &'static str, path: &Path) -> Result<Self, RuntimeError> {
        let library = path.canonicalize().map_err(|source| RuntimeError::Missing {
            section,
            path: path.to_owned(),
            source,
        })?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some(runtime) if runtime.library == library => return Ok(runtime.clone()),
            Some(runtime) => {
                let loaded = runtime.library.clone();
                return Err(RuntimeError::OtherLoaded { section, path: path.to_owned(), loaded });
            }
            None => {}
        }
        let environment = ort::init_from(&library)
            .map_err(|source| RuntimeError::Load { section, path: path.to_owned(), source })?
            .with_name("picket")
            // Picket tells nobody what it computes.
            .with_telemetry(false)
            .build()
            .map_err(|source| RuntimeError::Start { path: path.to_owned(), source })?;
        let runtime = Self {
            environment,
            version: version(&library).unwrap_or_else(|| "unknown".to_owned()),
            library,
        };
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// Version of the library, such as `1.23.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The library's file.
    pub fn library(&self) -> &Path {
        &self.library
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// The version that the loaded library gives, such as `1.23.2`. `ort` reads it too, and keeps it to
/// itself; its build info names a branch, not a version.
fn version(library: &Path) -> Option<String> {
    let path = CString::new(library.as_os_str().as_bytes()).ok()?;
    // SAFETY: `path` is a C string that outlives the call. NOLOAD only finds what `ort` has loaded,
    // so no code of the library runs here that has not run before.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: `handle` was given just now, and the name is a C string.
    let symbol = unsafe { libc::dlsym(handle, c"OrtGetApiBase".as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: ONNX Runtime's C API declares this function with this type since its first release, and
    // `ort` has called it by the same declaration before.
    let base = unsafe {
        let get: unsafe extern "C" fn() -> *const ort::sys::OrtApiBase =
            std::mem::transmute(symbol);
        get().as_ref()?
    };
    // SAFETY: the function gives a C string that lives as long as the library, which `ort` never
    // unloads. The handle is not closed either: it is one more count on a library that stays.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    Some(version.to_string_lossy().into_owned())
}
