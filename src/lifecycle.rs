//! Signals of the operating system.

use std::io;

/// Waits for the signal to shut down: SIGTERM or SIGINT (elsewhere than on Unix: Ctrl-C); gives its name.
///
/// # Errors
/// When signals cannot be waited for.
#[cfg(unix)]
pub async fn termination() -> io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// See the other one.
#[cfg(not(unix))]
pub async fn termination() -> io::Result<&'static str> {
    tokio::signal::ctrl_c().await.map(|()| "Ctrl-C")
}
