//! What the service manager is told (systemd's sd_notify; where nobody listens, nothing is said).

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

/// Waits for the end; how long that may take is the unit's to say (`TimeoutStopSec`).
pub async fn until(end: impl Future<Output = ()>) {
    end.await;
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
