//! imapool as a service of Windows: installed once, started with the host, restarted when it fails, under an account
//! that may do nothing else.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceErrorControl,
    ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceSidType, ServiceStartType, ServiceState,
    ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{Error, service_dispatcher};

use super::access::{self, AccessError};
pub use super::log_files::{LogFiles, log_files};
use super::manager::{self, PATIENCE, STATUS, STOP};
use super::paths;

/// What the service is called.
const NAME: &str = "imapool";
/// Its own account, which exists as long as the service does, and has no password.
const ACCOUNT: &str = r"NT SERVICE\imapool";
/// After so many seconds it is started anew, the first times and from then on.
const RESTARTS: [u64; 3] = [1, 5, 30];
/// Without a failure for so long, it counts from the first again.
const FORGIVEN: Duration = Duration::from_secs(24 * 60 * 60);
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
    /// Its files.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// What it may do.
    #[error("cannot limit what the service may do: {error}")]
    Privileges {
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
/// Not where every user could replace the program or the configuration.
///
/// # Errors
/// See [`ServiceError`].
pub fn install(config: &Path, account: Option<&str>) -> Result<String, ServiceError> {
    let what = "install the service";
    let failed = failed(what);
    let account = access::account(account.unwrap_or(ACCOUNT));
    let program = std::env::current_exe().map_err(|error| failed(Error::Winapi(error)))?;
    let rights = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, rights).map_err(&failed)?;
    access::close_folders(NAME)?;
    let unknown = access::nobody_else_writes(&[&program, config])?;
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
            config.as_os_str().into(),
            "--logs".into(),
            paths::logs().into(),
        ],
        dependencies: Vec::new(),
        account_name: Some(account.clone()),
        account_password: None,
    };
    let service = manager
        .create_service(&info, ServiceAccess::CHANGE_CONFIG | ServiceAccess::START | ServiceAccess::DELETE)
        .map_err(&failed)?;
    let done = configure(&service).map_err(&failed).and_then(|()| drop_privileges());
    if let Err(error) = done {
        // Half a service is none.
        let _gone = service.delete();
        return Err(error);
    }
    let account = account.display();
    let mut told = format!("installed as {account}; it starts with the host, and now by: imapool service start");
    for path in unknown {
        told.push_str(&format!("\nsee that administrators alone may write to {}", path.display()));
    }
    Ok(told)
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

/// Takes from the service what an account of its kind may do and imapool has no use for, such as acting for whoever
/// connects to it.
fn drop_privileges() -> Result<(), ServiceError> {
    const KEPT: &str = "SeChangeNotifyPrivilege";
    /// Wine's has no such command. Windows says more than that.
    const UNKNOWN_COMMAND: i32 = 1;
    let failed = |error| ServiceError::Privileges { error };
    let status = paths::of_system("sc.exe").args(["privs", NAME, KEPT]).status().map_err(failed)?;
    match status.code() {
        Some(0 | UNKNOWN_COMMAND) => Ok(()),
        _ => Err(failed(io::Error::other(format!("sc privs ended with {status}")))),
    }
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
        wait_for(&service, what, ServiceState::Stopped)?;
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
    wait_for(&service, what, ServiceState::Running)
}

/// Stops it as Ctrl-C would, and waits for the end.
///
/// # Errors
/// See [`ServiceError`].
pub fn stop() -> Result<String, ServiceError> {
    let what = "stop the service";
    let service = open(what, ServiceAccess::QUERY_STATUS | ServiceAccess::STOP)?;
    service.stop().map_err(failed(what))?;
    wait_for(&service, what, ServiceState::Stopped)
}

fn state_of(service: &Service, what: &'static str) -> Result<ServiceState, ServiceError> {
    Ok(service.query_status().map_err(failed(what))?.current_state)
}

/// Gives what it is then. No event tells of it that could be waited for without unsafe code.
fn wait_for(service: &Service, what: &'static str, state: ServiceState) -> Result<String, ServiceError> {
    let wanted = if state == ServiceState::Running { "running" } else { "stopped" };
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let found = state_of(service, what)?;
        if found == state {
            return Ok(wanted.to_owned());
        }
        if found == ServiceState::Stopped {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(ServiceError::Late { wanted })
}

/// What the service does, from when it is run until the service manager has called for it.
static BODY: Mutex<Option<Box<dyn FnOnce() -> u32 + Send>>> = Mutex::new(None);

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
            STOP.cancel();
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    }) else {
        return;
    };
    let _first = STATUS.set(handle);
    manager::tell(manager::starting());
    let body = BODY.lock().take();
    // A panic is a failure as any.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body.map_or(1, |body| body())));
    manager::tell(manager::over(ended.unwrap_or(1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_is_said() {
        let refused = |code| failed("do it")(Error::Winapi(io::Error::from_raw_os_error(code))).to_string();
        assert!(refused(5).ends_with("; run this as an administrator"), "{}", refused(5));
        assert!(refused(1063).ends_with("in a console use imapool run"), "{}", refused(1063));
        assert!(refused(1060).ends_with("imapool service install makes it"), "{}", refused(1060));
    }
}
