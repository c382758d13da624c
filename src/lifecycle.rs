//! Signals of the operating system.

#[cfg(unix)]
pub mod told;

use std::io;

/// What the operating system asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To end; the signal's name.
    Shutdown(&'static str),
    /// To read the configuration again (SIGHUP).
    Reload,
    /// To let another process take over (SIGUSR1).
    HandOver,
}

/// The signals that are listened to: SIGTERM, SIGINT, SIGHUP and SIGUSR1 (elsewhere than on Unix: Ctrl-C).
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 4],
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When signals cannot be waited for.
    #[cfg(unix)]
    pub fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let kinds =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined1()];
        let [terminate, interrupt, hangup, user] = kinds.map(signal);
        Ok(Self { signals: [terminate?, interrupt?, hangup?, user?] })
    }

    /// The next one. Cancel safe.
    ///
    /// # Errors
    /// Never on Unix.
    #[cfg(unix)]
    pub async fn next(&mut self) -> io::Result<Request> {
        let [terminate, interrupt, hangup, user] = &mut self.signals;
        Ok(tokio::select! {
            _ = terminate.recv() => Request::Shutdown("SIGTERM"),
            _ = interrupt.recv() => Request::Shutdown("SIGINT"),
            _ = hangup.recv() => Request::Reload,
            _ = user.recv() => Request::HandOver,
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

/// What the service manager is told (systemd's sd_notify; elsewhere nobody listens, and nothing is said).
pub mod manager {
    use sd_notify::NotifyState;
    use tracing::debug;

    /// Sessions are served, and the configuration is in force.
    pub fn ready() {
        tell(&[NotifyState::Ready]);
    }

    /// Another configuration is being read; [`ready`] ends that.
    pub fn reloading() {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    /// The end has begun.
    pub fn stopping() {
        tell(&[NotifyState::Stopping]);
    }

    /// Gives a sign of life as often as the unit's `WatchdogSec` wants it, for as long as tasks are run.
    pub async fn watchdog() {
        let Some(limit) = sd_notify::watchdog_enabled() else { return };
        let mut ticks = tokio::time::interval(limit / 2);
        loop {
            ticks.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    }

    fn tell(state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            debug!(%error, "cannot tell the service manager");
        }
    }
}
