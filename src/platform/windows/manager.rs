//! What the service manager is told, and when it wants an end, where it has started this process.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windows_service::service::{ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType};
use windows_service::service_control_handler::ServiceStatusHandle;

/// How long the start may take, and the end, before the host goes on with its shutdown.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// After so long commands that run are waited for no longer, whatever `limits.drain_timeout` says.
const LONGEST_DRAIN: Duration = Duration::from_secs(50);
/// How often the service manager hears that the end goes on, and how long it waits for that.
const SIGN_OF_LIFE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(15));

/// By which the service manager is told, once it has called.
pub(super) static STATUS: OnceLock<ServiceStatusHandle> = OnceLock::new();
/// Cancelled when it wants an end.
pub(super) static STOP: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// The configuration is read.
pub(super) fn starting() -> ServiceStatus {
    ServiceStatus { wait_hint: PATIENCE, ..status(ServiceState::StartPending) }
}

fn running() -> ServiceStatus {
    let controls_accepted = ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN;
    ServiceStatus { controls_accepted, ..status(ServiceState::Running) }
}

/// The end has begun; how often that was told before.
fn ending(told: u32) -> ServiceStatus {
    ServiceStatus { checkpoint: told, wait_hint: SIGN_OF_LIFE.1, ..status(ServiceState::StopPending) }
}

/// It is over, with this exit status.
pub(super) fn over(exit: u32) -> ServiceStatus {
    let exit_code = if exit == 0 { ServiceExitCode::NO_ERROR } else { ServiceExitCode::ServiceSpecific(exit) };
    ServiceStatus { exit_code, ..status(ServiceState::Stopped) }
}

/// In this state, in which nothing is asked of it.
fn status(current_state: ServiceState) -> ServiceStatus {
    ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state,
        controls_accepted: ServiceControlAccept::empty(),
        exit_code: ServiceExitCode::NO_ERROR,
        checkpoint: 0,
        wait_hint: Duration::ZERO,
        process_id: None,
    }
}

/// Sessions are served.
pub fn ready() {
    tell(running());
}

/// Another configuration is being read: a service of Windows has no such state.
pub fn reloading() {}

/// The end has begun.
pub fn stopping() {
    tell(ending(0));
}

/// Tells the service manager, if it has started this process.
pub(super) fn tell(status: ServiceStatus) {
    if let Some(handle) = STATUS.get()
        && let Err(error) = handle.set_service_status(status)
    {
        tracing::debug!(%error, "cannot tell the service manager");
    }
}

/// Waits for the end, for as long as the service manager and the host's shutdown do, and no longer; and has the service
/// manager know meanwhile that it goes on.
pub async fn until(end: impl Future<Output = ()>) {
    if STATUS.get().is_none() {
        return end.await;
    }
    if !ends_in_time(end, |told| tell(ending(told))).await {
        tracing::warn!("the service manager waits no longer: sessions that are left are cut off");
    }
}

/// Whether this ended within [`LONGEST_DRAIN`]; how often it was told before goes to `tell`, at times.
async fn ends_in_time(end: impl Future<Output = ()>, mut tell: impl FnMut(u32)) -> bool {
    let mut told = 1;
    let mut signs = tokio::time::interval(SIGN_OF_LIFE.0);
    let end = tokio::time::timeout(LONGEST_DRAIN, end);
    tokio::pin!(end);
    loop {
        tokio::select! {
            ended = &mut end => return ended.is_ok(),
            _ = signs.tick() => {
                tell(told);
                told += 1;
            }
        }
    }
}

/// The service manager wants no sign of life.
pub async fn watchdog() {
    std::future::ready(()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_told_what_it_restarts_a_service_for() {
        assert_eq!(over(0).exit_code, ServiceExitCode::NO_ERROR);
        assert_eq!(over(2).exit_code, ServiceExitCode::ServiceSpecific(2));
        assert_eq!(over(2).current_state, ServiceState::Stopped);
        // Who is about to end hears no second call.
        assert!(ending(0).controls_accepted.is_empty());
        assert!(running().controls_accepted.contains(ServiceControlAccept::STOP));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_waited_for_as_long_as_the_service_manager_waits() {
        let mut told = Vec::new();
        let drain = Duration::from_secs(365 * 24 * 60 * 60);
        assert!(!ends_in_time(tokio::time::sleep(drain), |number| told.push(number)).await);
        // It has to hear another number each time, and before it has lost patience.
        let number = u32::try_from(told.len()).unwrap();
        assert_eq!(told, (1..=number).collect::<Vec<_>>());
        assert!(SIGN_OF_LIFE.0 * (number + 1) >= LONGEST_DRAIN, "{number}");
        assert!(SIGN_OF_LIFE.0 < SIGN_OF_LIFE.1 && LONGEST_DRAIN < PATIENCE);
        assert!(ends_in_time(std::future::ready(()), |_| ()).await);
    }

    #[tokio::test]
    async fn an_end_that_was_wanted_stays_wanted() {
        STOP.cancel();
        STOP.cancelled().await;
        STOP.cancelled().await;
    }
}
