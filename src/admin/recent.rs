//! The latest warnings and errors of the log, each of which says what to do, for the status page.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::log_format::Line;

/// Different messages that are remembered.
const MOST: usize = 50;
/// Characters of the fields of one message that are remembered.
const LONGEST: usize = 500;

/// One message, as often as it came.
#[derive(Debug, Clone, Serialize)]
pub struct Recent {
    /// `warn` or `error`.
    pub level: &'static str,
    /// In seconds since the Unix epoch: the last time.
    pub at: u64,
    /// How often.
    pub times: u64,
    /// The message.
    pub message: String,
    /// Its fields, of the last time.
    pub fields: String,
}

static RECENT: Mutex<VecDeque<Recent>> = Mutex::new(VecDeque::new());

/// The latest first.
pub fn recent() -> Vec<Recent> {
    RECENT.lock().iter().rev().cloned().collect()
}

/// Has warnings and errors remembered. The log is one for the process, and so is this.
#[derive(Debug, Clone, Copy)]
pub struct Remember;

impl<S: Subscriber> Layer<S> for Remember {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => return,
        };
        let mut text = Line::default();
        event.record(&mut text);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        text.fields = text.fields.chars().take(LONGEST).collect();
        let mut recent = RECENT.lock();
        let known = recent.iter().position(|known| known.message == text.message);
        let times = known.and_then(|known| recent.remove(known)).map_or(0, |known| known.times);
        if recent.len() == MOST {
            recent.pop_front();
        }
        recent.push_back(Recent { level, at, times: times + 1, message: text.message, fields: text.fields });
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn warnings_are_remembered_once_with_their_number() {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Remember), || {
            info!("not this one, for the test of recent messages");
            for number in 0..3 {
                warn!(number, "ports run short, for the test of recent messages");
            }
            for number in 0..MOST {
                warn!("message {number}");
            }
            warn!(number = 9, "ports run short, for the test of recent messages");
        });
        let recent = recent();
        assert_eq!(recent.len(), MOST);
        let found: Vec<_> = recent.iter().filter(|entry| entry.message.starts_with("ports run short")).collect();
        // Forgotten among so many others, and remembered anew.
        assert_eq!((found.len(), found[0].times, found[0].fields.as_str()), (1, 1, "number=9"));
        assert!(!recent.iter().any(|entry| entry.message.starts_with("not this one")));
    }
}
