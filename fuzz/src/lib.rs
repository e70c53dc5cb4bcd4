//! What the targets share: an allocator that ends the run at a piece of memory that is larger than any honest one.
//!
//! libFuzzer's own limit for that needs a sanitizer, which a stable compiler does not have.

use std::alloc::{GlobalAlloc, Layout, System};

/// The largest honest piece: a window of a volume with what it is made from, read at once.
const LARGEST: usize = 40 << 20;

struct Bounded;

fn check(size: usize) {
    if size > LARGEST {
        eprintln!("{size} bytes were asked for at once");
        std::process::abort();
    }
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// Names a target's function, with this allocator.
#[macro_export]
macro_rules! target {
    ($function:path) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $function(data));
    };
}
