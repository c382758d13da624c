//! What every Unix has.

pub(crate) mod files;
pub(crate) mod local;
pub mod manager;
pub mod paths;
pub mod service;
pub mod signals;
pub(crate) mod tcp;
pub mod told;

/// Every session and every connection takes a file descriptor, and the soft limit is often just 1,024. The hard
/// limit is what the administrator means.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| (soft, hard)));
    match raised {
        Ok((soft, hard)) => tracing::debug!(soft, hard, "raised the limit of file descriptors"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of file descriptors"),
    }
}

/// Whether standard error is shown in colours.
#[must_use]
pub fn shows_colours() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// What this host is called.
pub(crate) fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// How many descriptors this process may have.
pub(crate) fn descriptor_limit() -> usize {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}
