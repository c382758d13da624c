//! What ends the process: Ctrl-C, Ctrl-Break, the console's window, the shutdown of the host, the service manager.

use std::io;

use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, CtrlShutdown};
use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};

use super::manager::STOP;
use crate::platform::Request;

/// The events that are listened to.
#[derive(Debug)]
pub struct Signals {
    c: CtrlC,
    r#break: CtrlBreak,
    close: CtrlClose,
    shutdown: CtrlShutdown,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When events cannot be waited for.
    pub fn new() -> io::Result<Self> {
        Ok(Self { c: ctrl_c()?, r#break: ctrl_break()?, close: ctrl_close()?, shutdown: ctrl_shutdown()? })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Request {
        Request::Shutdown(tokio::select! {
            _ = self.c.recv() => "Ctrl-C",
            _ = self.r#break.recv() => "Ctrl-Break",
            _ = self.close.recv() => "the console's end",
            _ = self.shutdown.recv() => "the host's shutdown",
            () = STOP.cancelled() => "the service manager",
        })
    }
}
