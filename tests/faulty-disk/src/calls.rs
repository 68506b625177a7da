//! `fsync` and `rename` of the C library, as this process sees them: what the standard library does to
//! files that are not SQLite's, and SQLite's syncs of its folder.
//!
//! The linker takes these for the C library's own, because a program's symbols come first.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::disk::{self, Step};

/// Called so that the linker takes this part of the library in.
pub fn link() {
    std::hint::black_box(fsync as *const ());
    std::hint::black_box(rename as *const ());
}

/// SQLite's own files are seen by the shim.
fn is_sqlites(name: &str) -> bool {
    name.contains(".sqlite")
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: a plain system call; a bad descriptor is an error of it.
    let result = unsafe { libc::syscall(libc::SYS_fsync, fd) };
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    if let (0, Ok(path)) = (result, path) {
        note_sync(&path);
    }
    c_int::try_from(result).unwrap_or(-1)
}

fn note_sync(path: &Path) {
    if let Some(disk) = disk::of_folder(path) {
        return disk.note(|| true, || Step::NamesSynced);
    }
    if let Some((disk, file)) = disk::of(path)
        && !is_sqlites(&file)
        && let Ok(content) = std::fs::read(path)
    {
        disk.note(|| true, || Step::SyncedWhole { file, content });
    }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's paths end with a zero, as the C library asks for.
    let (old, new) = unsafe { (absolute(from), absolute(to)) };
    let watched = disk::of(&old).map(|(disk, from)| (disk, from, std::fs::read(&old)));
    // SAFETY: as above.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) };
    if let (0, Some((disk, from, Ok(content))), Some((_, to))) = (result, watched, disk::of(&new)) {
        disk.note(|| true, || Step::Renamed { from, to, content });
    }
    c_int::try_from(result).unwrap_or(-1)
}

/// SAFETY: the path must end with a zero.
unsafe fn absolute(path: *const c_char) -> PathBuf {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path.to_path_buf(),
    }
}
