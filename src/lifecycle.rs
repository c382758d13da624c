//! What the operating system asks of the process, and what its service manager is told.

pub use crate::platform::signals::Signals;
pub use crate::platform::{Request, manager, told};
