//! Giving memory back to the system. The only module with unsafe code: glibc offers no other way.
//!
//! A backup leaves freed buffers scattered over the heaps of its threads; without this an idle daemon would keep its peak.
#![allow(unsafe_code)]

/// Keeps the heaps few and small (mallopt(3)). Call it before the first thread is started.
///
/// All threads share four: one for each of dozens of threads would multiply what lies unused, and with fewer the workers of the
/// HTTP server wait for each other. Large buffers get memory of their own, and the unused end of a heap goes back once it is
/// large; left alone, both limits would grow with the largest buffer ever freed, and [`trim`] does not reach the ends of heaps.
pub fn bound_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 4);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 2 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
    }
}

/// Returns freed memory of all heaps to the system (malloc_trim(3)).
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes no pointers and locks the heaps it looks at; it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
