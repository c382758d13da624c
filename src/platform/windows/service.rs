//! imapool as a service of Windows: installed once, started with the host, restarted when it fails, under an account
//! that may do nothing else.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing_appender::rolling::{InitError, RollingFileAppender, Rotation};
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept,
    ServiceErrorControl, ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo,
    ServiceSidType, ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{Error, service_dispatcher};

use super::paths;

/// What the service is called.
const NAME: &str = "imapool";
/// Its own account, which exists as long as the service does, and has no password.
const ACCOUNT: &str = r"NT SERVICE\imapool";
/// How long the end may take, before the host goes on with its shutdown: as `limits.drain_timeout` by default.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so many seconds it is started anew, the first times and from then on.
const RESTARTS: [u64; 3] = [1, 5, 30];
/// Without a failure for so long, it counts from the first again.
const FORGIVEN: Duration = Duration::from_secs(24 * 60 * 60);
/// Files of the log that are kept, one a day.
const KEPT: usize = 30;
/// How often it is looked whether the service has started or ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Whether there are such services here.
pub const AVAILABLE: bool = true;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The service manager has refused.
    #[error("cannot {what}: {}", in_words(error))]
    Manager {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        error: Error,
    },
    /// The folder of its files.
    #[error("cannot prepare {}: {error}; run this as an administrator", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It has not started or ended, though nothing was refused.
    #[error("the service is not {wanted}: see its log in {}, and the system's event log", paths::logs().display())]
    Late {
        /// What it was to be.
        wanted: &'static str,
    },
}

/// ERROR_INVALID_LEVEL
const UNKNOWN_SETTING: i32 = 124;

/// What the system said, and what to do.
fn in_words(error: &Error) -> String {
    const ACCESS_DENIED: i32 = 5;
    const NO_DISPATCHER: i32 = 1063;
    const ABSENT: i32 = 1060;
    const EXISTS: i32 = 1073;
    let Error::Winapi(error) = error else { return error.to_string() };
    let remedy = match error.raw_os_error() {
        Some(ACCESS_DENIED) => "; run this as an administrator",
        Some(NO_DISPATCHER) => "; only the service manager can do that: in a console use imapool run",
        Some(ABSENT) => "; imapool service install makes it",
        Some(EXISTS) => "; imapool service uninstall removes the old one",
        _ => "",
    };
    format!("{error}{remedy}")
}

fn failed(what: &'static str) -> impl Fn(Error) -> ServiceError {
    move |error| ServiceError::Manager { what, error }
}

fn open(what: &'static str, access: ServiceAccess) -> Result<Service, ServiceError> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).map_err(failed(what))?;
    manager.open_service(NAME, access).map_err(failed(what))
}

/// Installs the service: started with the host and after failures, with this configuration; under an account of its own
/// unless another is named. The folder of its log is made for it, and that of the configuration is closed to others.
///
/// # Errors
/// See [`ServiceError`].
pub fn install(config: &Path, account: Option<&str>) -> Result<String, ServiceError> {
    let what = "install the service";
    let failed = failed(what);
    let account = account.unwrap_or(ACCOUNT);
    let program = std::env::current_exe().map_err(|error| failed(Error::Winapi(error)))?;
    let config = std::path::absolute(config).map_err(|error| failed(Error::Winapi(error)))?;
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, access).map_err(&failed)?;
    let info = ServiceInfo {
        name: OsString::from(NAME),
        display_name: OsString::from("imapool, an IMAP proxy"),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program,
        // A service may have other variables of its environment than whoever installs it.
        launch_arguments: vec![
            "service".into(),
            "run".into(),
            "--config".into(),
            config.into(),
            "--logs".into(),
            paths::logs().into(),
        ],
        dependencies: Vec::new(),
        account_name: Some(OsString::from(account)),
        account_password: None,
    };
    let service = manager
        .create_service(&info, ServiceAccess::CHANGE_CONFIG | ServiceAccess::START | ServiceAccess::DELETE)
        .map_err(&failed)?;
    let done = configure(&service).map_err(&failed).and_then(|()| prepare_folders(account));
    if let Err(error) = done {
        // Half a service is none.
        let _gone = service.delete();
        return Err(error);
    }
    Ok(format!("installed as {account}; it starts with the host, and now by: imapool service start"))
}

/// All that is beyond its being there.
fn configure(service: &Service) -> windows_service::Result<()> {
    service.set_description("Keeps few connections to IMAP servers for many short sessions.")?;
    let restart = |after| ServiceAction { action_type: ServiceActionType::Restart, delay: Duration::from_secs(after) };
    service.update_failure_actions(ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FORGIVEN),
        reboot_msg: None,
        command: None,
        actions: Some(RESTARTS.map(restart).into()),
    })?;
    // An end with an exit status is a failure, too.
    if_known(service.set_failure_actions_on_non_crash_failures(true))?;
    if_known(service.set_config_service_sid_info(ServiceSidType::Unrestricted))?;
    if_known(service.set_preshutdown_timeout(PATIENCE))
}

/// Wine has not all settings.
fn if_known(set: windows_service::Result<()>) -> windows_service::Result<()> {
    match set {
        Err(Error::Winapi(error)) if error.raw_os_error() == Some(UNKNOWN_SETTING) => Ok(()),
        other => other,
    }
}

/// The folder of the configuration is for the system, administrators and the service to read, that of the log for the
/// service to write. By themselves, folders in `%ProgramData%` can be read by everybody.
fn prepare_folders(account: &str) -> Result<(), ServiceError> {
    const SYSTEM: &str = "*S-1-5-18:(OI)(CI)F";
    const ADMINISTRATORS: &str = "*S-1-5-32-544:(OI)(CI)F";
    let (folder, logs) = (paths::folder(), paths::logs());
    std::fs::create_dir_all(&logs).map_err(|error| ServiceError::Folder { path: logs.clone(), error })?;
    let reads = format!("{account}:(OI)(CI)RX");
    let writes = format!("{account}:(OI)(CI)M");
    let closed = ["/inheritance:r", "/grant:r", SYSTEM, "/grant:r", ADMINISTRATORS, "/grant:r", &reads];
    grant(&folder, &closed)?;
    grant(&logs, &["/grant", &writes])
}

fn grant(folder: &Path, arguments: &[&str]) -> Result<(), ServiceError> {
    let failed = |error| ServiceError::Folder { path: folder.to_owned(), error };
    let icacls = paths::of_system("icacls.exe");
    let status = Command::new(icacls).arg(folder).args(arguments).stdout(Stdio::null()).status().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(failed(io::Error::other(format!("icacls ended with {status}")))) }
}

/// Stops the service, if it runs, and removes it. Files stay.
///
/// # Errors
/// See [`ServiceError`].
pub fn uninstall() -> Result<String, ServiceError> {
    let what = "remove the service";
    let service = open(what, ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE)?;
    if state_of(&service, what)? != ServiceState::Stopped {
        service.stop().map_err(failed(what))?;
        wait_for(&service, what, ServiceState::Stopped, "stopped")?;
    }
    service.delete().map_err(failed(what))?;
    Ok(format!("removed; what is in {} is still there", paths::folder().display()))
}

/// Starts it, and waits until it serves.
///
/// # Errors
/// See [`ServiceError`].
pub fn start() -> Result<String, ServiceError> {
    let what = "start the service";
    let service = open(what, ServiceAccess::QUERY_STATUS | ServiceAccess::START)?;
    service.start::<&OsStr>(&[]).map_err(failed(what))?;
    wait_for(&service, what, ServiceState::Running, "running")?;
    Ok("running".to_owned())
}

/// Stops it as Ctrl-C would, and waits for the end.
///
/// # Errors
/// See [`ServiceError`].
pub fn stop() -> Result<String, ServiceError> {
    let what = "stop the service";
    let service = open(what, ServiceAccess::QUERY_STATUS | ServiceAccess::STOP)?;
    service.stop().map_err(failed(what))?;
    wait_for(&service, what, ServiceState::Stopped, "stopped")?;
    Ok("stopped".to_owned())
}

fn state_of(service: &Service, what: &'static str) -> Result<ServiceState, ServiceError> {
    Ok(service.query_status().map_err(failed(what))?.current_state)
}

/// No event tells of it that could be waited for without unsafe code.
fn wait_for(
    service: &Service,
    what: &'static str,
    state: ServiceState,
    word: &'static str,
) -> Result<(), ServiceError> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let found = state_of(service, what)?;
        if found == state {
            return Ok(());
        }
        if found == ServiceState::Stopped {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(ServiceError::Late { wanted: word })
}

/// What the service does, from when it is run until the service manager has called for it.
static BODY: Mutex<Option<Box<dyn FnOnce() -> u32 + Send>>> = Mutex::new(None);
/// By which the service manager is told, once it has called.
static STATUS: OnceLock<ServiceStatusHandle> = OnceLock::new();
/// Whether it wants an end.
static STOP: LazyLock<watch::Sender<bool>> = LazyLock::new(watch::Sender::default);

/// Runs as the service manager's child: calls `body` when it says so, and tells it of the exit status.
///
/// # Errors
/// Where it was not the service manager who started this process.
pub fn run(body: impl FnOnce() -> u32 + Send + 'static) -> Result<(), ServiceError> {
    *BODY.lock() = Some(Box::new(body));
    service_dispatcher::start(NAME, called).map_err(failed("run as a service"))
}

/// The service manager calls this on a thread of its own. What it hands over says nothing: no arguments are given.
extern "system" fn called(_: u32, _: *mut *mut u16) {
    let Ok(handle) = service_control_handler::register(NAME, |control| match control {
        ServiceControl::Stop | ServiceControl::Preshutdown => {
            STOP.send_replace(true);
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    }) else {
        return;
    };
    let _first = STATUS.set(handle);
    tell(State::Starting);
    let body = BODY.lock().take();
    // A panic is a failure as any.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body.map_or(1, |body| body())));
    tell(State::Ended(ended.unwrap_or(1)));
}

/// How the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It reads its configuration.
    Starting,
    /// Sessions are served.
    Running,
    /// The end has begun.
    Stopping,
    /// With this exit status.
    Ended(u32),
}

impl State {
    fn status(self) -> ServiceStatus {
        let (current_state, wait_hint) = match self {
            Self::Starting => (ServiceState::StartPending, PATIENCE),
            Self::Running => (ServiceState::Running, Duration::ZERO),
            Self::Stopping => (ServiceState::StopPending, PATIENCE),
            Self::Ended(_) => (ServiceState::Stopped, Duration::ZERO),
        };
        let exit_code = match self {
            Self::Ended(status) if status != 0 => ServiceExitCode::ServiceSpecific(status),
            _ => ServiceExitCode::NO_ERROR,
        };
        let controls_accepted = match self {
            Self::Running => ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN,
            _ => ServiceControlAccept::empty(),
        };
        let (service_type, checkpoint) = (ServiceType::OWN_PROCESS, 0);
        ServiceStatus {
            service_type,
            current_state,
            controls_accepted,
            exit_code,
            checkpoint,
            wait_hint,
            process_id: None,
        }
    }
}

/// Tells the service manager, if it has started this process.
pub(super) fn tell(state: State) {
    if let Some(handle) = STATUS.get()
        && let Err(error) = handle.set_service_status(state.status())
    {
        tracing::debug!(%error, "cannot tell the service manager");
    }
}

/// Waits until the service manager wants this process to end. Cancel safe.
pub(super) async fn stopped() {
    // The sender is never dropped.
    let mut stop = STOP.subscribe();
    let _wanted = stop.wait_for(|stop| *stop).await;
}

/// Where a service writes its log.
pub type LogFiles = RollingFileAppender;

/// The files of the log in a folder, a new one each day.
///
/// # Errors
/// Where the folder cannot be written to.
pub fn log_files(folder: &Path) -> io::Result<LogFiles> {
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("imapool")
        .filename_suffix("log")
        .max_log_files(KEPT)
        .build(folder)
        .map_err(|error: InitError| io::Error::other(format!("{}: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_told_what_it_restarts_a_service_for() {
        assert_eq!(State::Ended(0).status().exit_code, ServiceExitCode::NO_ERROR);
        assert_eq!(State::Ended(2).status().exit_code, ServiceExitCode::ServiceSpecific(2));
        assert_eq!(State::Ended(2).status().current_state, ServiceState::Stopped);
        // Who is about to end hears no second call.
        assert!(State::Stopping.status().controls_accepted.is_empty());
        assert!(State::Running.status().controls_accepted.contains(ServiceControlAccept::STOP));
    }

    #[tokio::test]
    async fn an_end_that_was_wanted_stays_wanted() {
        STOP.send_replace(true);
        stopped().await;
        stopped().await;
    }

    #[test]
    fn what_to_do_is_said() {
        let refused = |code| failed("do it")(Error::Winapi(io::Error::from_raw_os_error(code))).to_string();
        assert!(refused(5).ends_with("; run this as an administrator"), "{}", refused(5));
        assert!(refused(1063).ends_with("in a console use imapool run"), "{}", refused(1063));
        assert!(refused(1060).ends_with("imapool service install makes it"), "{}", refused(1060));
    }
}
