//! SIGTERM, SIGINT, SIGHUP and SIGUSR1.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::platform::Request;

/// The signals that are listened to.
#[derive(Debug)]
pub struct Signals {
    signals: [Signal; 4],
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When signals cannot be waited for.
    pub fn new() -> io::Result<Self> {
        let kinds =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined1()];
        let [terminate, interrupt, hangup, user] = kinds.map(signal);
        Ok(Self { signals: [terminate?, interrupt?, hangup?, user?] })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Request {
        let [terminate, interrupt, hangup, user] = &mut self.signals;
        tokio::select! {
            _ = terminate.recv() => Request::Shutdown("SIGTERM"),
            _ = interrupt.recv() => Request::Shutdown("SIGINT"),
            _ = hangup.recv() => Request::Reload,
            _ = user.recv() => Request::HandOver,
        }
    }
}
