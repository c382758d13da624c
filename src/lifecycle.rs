//! Signals of the operating system.

use std::io;

/// What the operating system asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To end; the signal's name.
    Shutdown(&'static str),
    /// To read the configuration again (SIGHUP).
    Reload,
}

/// The signals that are listened to: SIGTERM, SIGINT and SIGHUP (elsewhere than on Unix: Ctrl-C).
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 3],
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When signals cannot be waited for.
    #[cfg(unix)]
    pub fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [terminate, interrupt, hangup] = kinds.map(signal);
        Ok(Self { signals: [terminate?, interrupt?, hangup?] })
    }

    /// The next one. Cancel safe.
    ///
    /// # Errors
    /// Never on Unix.
    #[cfg(unix)]
    pub async fn next(&mut self) -> io::Result<Request> {
        let [terminate, interrupt, hangup] = &mut self.signals;
        Ok(tokio::select! {
            _ = terminate.recv() => Request::Shutdown("SIGTERM"),
            _ = interrupt.recv() => Request::Shutdown("SIGINT"),
            _ = hangup.recv() => Request::Reload,
        })
    }

    /// See the other one.
    #[cfg(not(unix))]
    pub fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// See the other one.
    #[cfg(not(unix))]
    pub async fn next(&mut self) -> io::Result<Request> {
        tokio::signal::ctrl_c().await.map(|()| Request::Shutdown("Ctrl-C"))
    }
}
