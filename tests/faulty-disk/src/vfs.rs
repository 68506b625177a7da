//! The shim before SQLite's own VFS.
//!
//! SQLite asks for `szOsFile` bytes for each file: ours come first, the real file behind them in the
//! same piece of memory, as SQLite's own shims do it (`test_vfs.c`). Locks and shared memory are
//! passed on as they are.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, null_mut};
use std::sync::{Arc, OnceLock};

use rusqlite::ffi;

use crate::disk::{self, Call, Disk, Failure, Step};

/// A file as SQLite holds it; the real one lies behind it.
#[repr(C)]
struct ShimFile {
    base: ffi::sqlite3_file,
    real: *mut ffi::sqlite3_file,
    /// A `Watched` that was boxed; null where the folder is not watched.
    watched: *mut Watched,
}

struct Watched {
    disk: Arc<Disk>,
    name: String,
}

/// The VFS that SQLite would use without us. It lives as long as the process.
struct Real(*mut ffi::sqlite3_vfs);
// SAFETY: SQLite's VFS objects are made for use by any thread at once, and never change.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

/// Makes the shim the process's default VFS, once.
pub fn register() {
    REAL.get_or_init(|| {
        // SAFETY: asking for the default VFS and registering another are safe at any time after
        // `sqlite3_initialize`, which both call. The shim's object is leaked: it must live for ever.
        unsafe {
            let real = ffi::sqlite3_vfs_find(ptr::null());
            assert!(!real.is_null(), "SQLite has no default VFS");
            // What is not replaced is the real one's own function. Those take nothing from the object
            // but the longest path and `pAppData`, which are copied with it.
            let mut shim = ptr::read(real);
            let ours = size_of::<ShimFile>().next_multiple_of(8);
            shim.szOsFile += c_int::try_from(ours).expect("a small struct");
            shim.pNext = null_mut();
            shim.zName = c"faulty".as_ptr();
            shim.xOpen = Some(open);
            shim.xDelete = Some(delete);
            let shim = Box::leak(Box::new(shim));
            let registered = ffi::sqlite3_vfs_register(shim, 1);
            assert_eq!(registered, ffi::SQLITE_OK, "the shim cannot be registered");
            Real(real)
        }
    });
}

fn real_vfs() -> *mut ffi::sqlite3_vfs {
    REAL.get().expect("registered before it is used").0
}

/// A path that SQLite gives; null for a temporary file, which is nobody's.
unsafe fn watched(path: *const c_char) -> Option<Watched> {
    if path.is_null() {
        return None;
    }
    // SAFETY: not null, and SQLite ends its paths with a zero.
    let path = unsafe { CStr::from_ptr(path) };
    let (disk, name) = disk::of(Path::new(OsStr::from_bytes(path.to_bytes())))?;
    Some(Watched { disk, name })
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    path: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives `szOsFile` bytes, of which the first are ours and the rest the real file's.
    unsafe {
        let shim = file.cast::<ShimFile>();
        let behind = size_of::<ShimFile>().next_multiple_of(8);
        (*shim).real = file.cast::<u8>().add(behind).cast();
        (*shim).watched = null_mut();
        (*shim).base.pMethods = ptr::null();
        let is_new = !path.is_null()
            && !Path::new(OsStr::from_bytes(CStr::from_ptr(path).to_bytes())).exists();
        let real = real_vfs();
        let Some(real_open) = (*real).xOpen else { return ffi::SQLITE_CANTOPEN };
        let result = real_open(real, path, (*shim).real, flags, out_flags);
        if (*(*shim).real).pMethods.is_null() {
            return result;
        }
        (*shim).base.pMethods = &METHODS;
        if let Some(watched) = watched(path) {
            if is_new {
                watched.disk.note(|| true, || Step::Created(watched.name.clone()));
            }
            (*shim).watched = Box::into_raw(Box::new(watched));
        }
        result
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, path: *const c_char, sync: c_int) -> c_int {
    let real = real_vfs();
    // SAFETY: the real VFS's own function, with its own object and SQLite's arguments.
    let work = || unsafe {
        (*real).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| delete(real, path, sync))
    };
    // SAFETY: SQLite's path.
    let Some(watched) = (unsafe { watched(path) }) else {
        return work();
    };
    // Not within `note`: where `sync` asks for it, the folder's sync is noted by `calls`.
    watched.disk.note(|| true, || Step::Removed(watched.name.clone()));
    work()
}

unsafe fn real_file(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: every file that has our methods was made by `open`.
    unsafe { (*file.cast::<ShimFile>()).real }
}

unsafe fn watch_of<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a Watched> {
    // SAFETY: made by `open`; it lives until `close`, which SQLite calls last.
    unsafe { (*file.cast::<ShimFile>()).watched.as_ref() }
}

/// Passes a call on to the real file as it is.
macro_rules! pass_on {
    ($name:ident, $method:ident, $or:expr $(, $arg:ident: $type:ty)*) => {
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $arg: $type)*) -> c_int {
            // SAFETY: the real file's own method, with the arguments that SQLite gave.
            unsafe {
                let real = real_file(file);
                (*(*real).pMethods).$method.map_or($or, |method| method(real $(, $arg)*))
            }
        }
    };
}

pass_on!(read, xRead, ffi::SQLITE_IOERR_READ, to: *mut c_void, count: c_int, at: i64);
pass_on!(real_write, xWrite, ffi::SQLITE_IOERR_WRITE, from: *const c_void, count: c_int, at: i64);
pass_on!(real_truncate, xTruncate, ffi::SQLITE_IOERR_TRUNCATE, to: i64);
pass_on!(real_sync, xSync, ffi::SQLITE_IOERR_FSYNC, flags: c_int);
pass_on!(real_close, xClose, ffi::SQLITE_IOERR_CLOSE);
pass_on!(file_size, xFileSize, ffi::SQLITE_IOERR_FSTAT, size: *mut i64);
pass_on!(lock, xLock, ffi::SQLITE_IOERR_LOCK, level: c_int);
pass_on!(unlock, xUnlock, ffi::SQLITE_IOERR_UNLOCK, level: c_int);
pass_on!(check_lock, xCheckReservedLock, ffi::SQLITE_IOERR_CHECKRESERVEDLOCK, out: *mut c_int);
pass_on!(control, xFileControl, ffi::SQLITE_NOTFOUND, op: c_int, arg: *mut c_void);
pass_on!(sector_size, xSectorSize, 512);
pass_on!(characteristics, xDeviceCharacteristics, 0);
pass_on!(shm_map, xShmMap, ffi::SQLITE_IOERR_SHMMAP,
    page: c_int, size: c_int, extend: c_int, to: *mut *mut c_void);
pass_on!(shm_lock, xShmLock, ffi::SQLITE_IOERR_SHMLOCK, from: c_int, count: c_int, flags: c_int);
pass_on!(shm_unmap, xShmUnmap, ffi::SQLITE_IOERR_SHMMAP, delete: c_int);

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as in `pass_on`.
    unsafe {
        let real = real_file(file);
        if let Some(barrier) = (*(*real).pMethods).xShmBarrier {
            barrier(real);
        }
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the last call for this file: nothing looks at its watch afterwards.
    unsafe {
        let shim = file.cast::<ShimFile>();
        let watched = std::mem::replace(&mut (*shim).watched, null_mut());
        if !watched.is_null() {
            drop(Box::from_raw(watched));
        }
        real_close(file)
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: i64,
) -> c_int {
    // SAFETY: made by `open`, and the arguments are SQLite's.
    unsafe {
        let Some(watched) = watch_of(file) else { return real_write(file, from, count, at) };
        if let Some(failure) = watched.disk.fails(Call::Write, &watched.name) {
            return code(failure, ffi::SQLITE_IOERR_WRITE);
        }
        let mut result = ffi::SQLITE_OK;
        let step = || {
            let count = usize::try_from(count).expect("SQLite writes forward");
            let bytes = std::slice::from_raw_parts(from.cast::<u8>(), count).to_vec();
            let at = usize::try_from(at).expect("a place in a file");
            Step::Written { file: watched.name.clone(), at, bytes }
        };
        let work = || {
            result = real_write(file, from, count, at);
            result == ffi::SQLITE_OK
        };
        watched.disk.note(work, step);
        result
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, to: i64) -> c_int {
    // SAFETY: as in `write`.
    unsafe {
        let Some(watched) = watch_of(file) else { return real_truncate(file, to) };
        if let Some(failure) = watched.disk.fails(Call::Write, &watched.name) {
            return code(failure, ffi::SQLITE_IOERR_TRUNCATE);
        }
        let mut result = ffi::SQLITE_OK;
        let work = || {
            result = real_truncate(file, to);
            result == ffi::SQLITE_OK
        };
        let to = usize::try_from(to).expect("a length");
        watched.disk.note(work, || Step::Cut { file: watched.name.clone(), to });
        result
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as in `write`.
    unsafe {
        let Some(watched) = watch_of(file) else { return real_sync(file, flags) };
        watched.disk.take_time();
        if let Some(failure) = watched.disk.fails(Call::Sync, &watched.name) {
            watched.disk.note(|| true, || Step::SyncFailed(watched.name.clone()));
            return code(failure, ffi::SQLITE_IOERR_FSYNC);
        }
        // The real sync is not within `note`: it may sync the folder too, which `calls` notes. A write
        // of another thread between the two would count as synced; SQLite's locks allow none.
        let result = real_sync(file, flags);
        if result == ffi::SQLITE_OK {
            watched.disk.note(|| true, || Step::Synced(watched.name.clone()));
        }
        result
    }
}

/// What SQLite's own VFS answers for it. It has no word for a file system that became read-only under
/// an open file.
fn code(failure: Failure, io: c_int) -> c_int {
    match failure {
        Failure::Io | Failure::ReadOnly => io,
        Failure::Full => ffi::SQLITE_FULL,
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Without `xFetch`: memory maps would pass us by.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_lock),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
