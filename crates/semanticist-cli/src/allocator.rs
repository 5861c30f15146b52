//! The memory allocator, and how it is set.
//!
//! Every tensor operation allocates its result. Memory that went back to the operating system must be
//! cleared by it before it can be used again, which took a fifth of a training step; so nothing goes
//! back.

use std::ffi::c_int;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which libmimalloc-sys does not name.
const PURGE_DELAY: c_int = 15;

/// Keeps freed memory for the next tensor, unless `MIMALLOC_PURGE_DELAY` says otherwise.
pub fn keep_freed_memory() {
    // SAFETY: sets a number that the allocator reads; allowed at any time.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

/// The processor time that this process has had, its own and the system's for it, on all cores.
pub fn processor_time() -> Duration {
    let (mut user, mut system) = (0usize, 0usize);
    let none = std::ptr::null_mut();
    // SAFETY: writes the two numbers that have a place, milliseconds, and skips null pointers.
    unsafe {
        libmimalloc_sys::mi_process_info(none, &raw mut user, &raw mut system, none, none, none, none, none)
    };
    Duration::from_millis((user + system) as u64)
}

/// The most memory that this process has had, in bytes.
pub fn peak_memory() -> u64 {
    let mut peak = 0usize;
    let none = std::ptr::null_mut();
    // SAFETY: writes the one number that has a place, and skips null pointers.
    unsafe { libmimalloc_sys::mi_process_info(none, none, none, none, &raw mut peak, none, none, none) };
    peak as u64
}
