//! Which allocator the program has.

/// glibc's allocator keeps what a burst of sessions once used; this one gives it back. Windows keeps its own, which
/// does so, too.
#[cfg(all(feature = "mimalloc", unix))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
