//! Settings of the memory allocator.
#![allow(unsafe_code)]

/// Keeps freed memory for reuse, if the allocator is glibc's.
///
/// A model runs block by block and uses the same large buffers again and again. By default their pages go back to the
/// kernel each time and come back zeroed, page by page: about 15 % of the time that X^T X takes for a model of 1.1
/// billion weights. What is kept is what the largest block needed.
pub fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: these calls only set numbers, and happen before any thread is started. If one is refused, nothing
        // changes.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        }
    }
}
