//! Services of Windows. Here are none: systemd and its like run `imapool run` as it is.

use std::io;
use std::path::Path;

/// Whether there are such services here.
pub const AVAILABLE: bool = false;

/// Why it was not done: there are no such services.
#[derive(Debug, thiserror::Error)]
#[error("services of this kind are Windows's own: here a service manager such as systemd starts imapool run")]
pub struct ServiceError;

/// Where a service writes its log: nowhere.
pub type LogFiles = fn() -> io::Sink;

/// Does nothing.
///
/// # Errors
/// Always.
pub fn install(_: &Path, _: Option<&str>) -> Result<String, ServiceError> {
    Err(ServiceError)
}

/// Does nothing.
///
/// # Errors
/// Always.
pub fn uninstall() -> Result<String, ServiceError> {
    Err(ServiceError)
}

/// Does nothing.
///
/// # Errors
/// Always.
pub fn start() -> Result<String, ServiceError> {
    Err(ServiceError)
}

/// Does nothing.
///
/// # Errors
/// Always.
pub fn stop() -> Result<String, ServiceError> {
    Err(ServiceError)
}

/// Runs nothing.
///
/// # Errors
/// Always.
pub fn run(_: impl FnOnce() -> u32 + Send + 'static) -> Result<(), ServiceError> {
    Err(ServiceError)
}

/// Opens nothing.
///
/// # Errors
/// Always.
pub fn log_files(_: &Path) -> io::Result<LogFiles> {
    Err(io::ErrorKind::Unsupported.into())
}
