//! What the service manager is told.

use super::service;

/// Sessions are served.
pub fn ready() {
    service::tell(service::State::Running);
}

/// Another configuration is being read: a service of Windows has no such state.
pub fn reloading() {}

/// The end has begun.
pub fn stopping() {
    service::tell(service::State::Stopping(0));
}

/// Waits for the end, for as long as the service manager does.
pub async fn until(end: impl Future<Output = ()>) {
    service::until(end).await;
}

/// The service manager wants no sign of life.
pub async fn watchdog() {
    std::future::ready(()).await;
}
