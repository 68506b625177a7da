//! What the standard library asks of the C library for files that are not SQLite's, and SQLite's syncs of
//! its folder.
//!
//! The linker takes these for the C library's own, because a program's symbols come first.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, Call, Disk, Failure, Step};

/// Called so that the linker takes this part of the library in.
pub fn link() {
    std::hint::black_box(fsync as *const ());
    std::hint::black_box(rename as *const ());
    std::hint::black_box(fdatasync as *const ());
    std::hint::black_box(pwrite64 as *const ());
    std::hint::black_box(ftruncate64 as *const ());
    std::hint::black_box(unlink as *const ());
}

/// SQLite's own files are seen by the shim.
fn is_sqlites(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|name| name.contains(".sqlite"))
}

/// A file in a folder of the watched one, of which every write is seen.
fn watched(fd: c_int) -> Option<(Arc<Disk>, String)> {
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    disk::of(&path).filter(|(_, name)| name.contains('/') && !is_sqlites(name))
}

/// What a call answers that is to fail.
fn fail(failure: Failure) -> c_int {
    let errno = match failure {
        Failure::Io => libc::EIO,
        Failure::Full => libc::ENOSPC,
        Failure::ReadOnly => libc::EROFS,
    };
    // SAFETY: the C library gives each thread its own.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, count: usize, at: i64) -> isize {
    // SAFETY: the caller's arguments, passed on.
    let write = || unsafe { libc::syscall(libc::SYS_pwrite64, fd, from, count, at) as isize };
    let Some((disk, file)) = watched(fd) else { return write() };
    if let Some(failure) = disk.fails(Call::Write, &file) {
        return fail(failure) as isize;
    }
    let written = std::cell::Cell::new(0);
    let work = || {
        written.set(write());
        written.get() > 0
    };
    let step = || {
        let count = usize::try_from(written.get()).expect("it was written");
        // SAFETY: so many bytes were just written from there.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), count) }.to_vec();
        Step::Written { file, at: usize::try_from(at).expect("a place in a file"), bytes }
    };
    disk.note(work, step);
    written.get()
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, to: i64) -> c_int {
    // SAFETY: the caller's arguments, passed on.
    let cut = || unsafe { libc::syscall(libc::SYS_ftruncate, fd, to) as c_int };
    let Some((disk, file)) = watched(fd) else { return cut() };
    if let Some(failure) = disk.fails(Call::Write, &file) {
        return fail(failure);
    }
    let result = cut();
    let to = usize::try_from(to).unwrap_or(0);
    disk.note(|| result == 0, || Step::Cut { file, to });
    result
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: a plain system call; a bad descriptor is an error of it.
    let sync = || unsafe { libc::syscall(libc::SYS_fdatasync, fd) as c_int };
    let Some((disk, file)) = watched(fd) else { return sync() };
    disk.take_time();
    if let Some(failure) = disk.fails(Call::Sync, &file) {
        disk.note(|| true, || Step::SyncFailed(file));
        return fail(failure);
    }
    let result = sync();
    disk.note(|| result == 0, || Step::Synced(file));
    result
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's path ends with a zero, as the C library asks for.
    let (name, remove) = unsafe {
        (absolute(path), || libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) as c_int)
    };
    let watched = disk::of(&name).filter(|(_, name)| name.contains('/') && !is_sqlites(name));
    let Some((disk, file)) = watched else { return remove() };
    let mut result = -1;
    let work = || {
        result = remove();
        result == 0
    };
    disk.note(work, || Step::Removed(file));
    result
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
