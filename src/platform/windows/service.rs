//! imapool as a service of Windows.

/// How the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Sessions are served.
    Running,
    /// The end has begun.
    Stopping,
}

/// Tells the service manager, if it has started this process.
pub(super) fn tell(_: State) {}

/// The service manager wants this process to end.
pub(super) async fn stopped() {
    std::future::pending().await
}
