//! What came of a reload by a signal. There are no such signals here: `imapool ctl reload` asks by the admin address.

/// Why it is not known what came of it.
#[derive(Debug, thiserror::Error)]
#[error("Windows has no SIGHUP that process {0} could be sent: use imapool ctl reload without --pid")]
pub struct AskError(i32);

/// Sends nothing.
///
/// # Errors
/// Always.
pub fn ask(pid: i32) -> Result<String, AskError> {
    Err(AskError(pid))
}

/// Those who have asked: nobody.
#[derive(Debug, Default)]
pub struct Askers;

impl Askers {
    /// Nobody waits.
    #[must_use]
    pub fn waiting() -> Self {
        Self
    }

    /// Tells nobody.
    pub fn tell(self, _: Result<&str, &str>) {}
}
