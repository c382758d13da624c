//! Which allocator the program has.

/// glibc's allocator keeps what a burst of sessions once used; this one gives it back. Windows keeps its own, which
/// does so, too.
#[cfg(all(feature = "jemalloc", unix))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
