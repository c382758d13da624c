//! What a backend wants the user to see while he logs in.

use super::refusal::printable_up_to;
use crate::imap::response::{Status, StatusReply};

/// So many are kept of one login.
const MAX_ALERTS: usize = 4;
/// Characters of one; web addresses are long.
const MAX_LENGTH: usize = 1000;

/// Keeps the reply if it is an alert: ALERT (RFC 9051 section 7.1), or WEBALERT with an address to visit, as Gmail
/// says.
pub(super) fn note(alerts: &mut Vec<String>, reply: &StatusReply<'_>) {
    let Some(code) = reply.code.filter(|_| reply.has_code("ALERT") || reply.has_code("WEBALERT")) else { return };
    if alerts.len() >= MAX_ALERTS || code.len() > MAX_LENGTH {
        return;
    }
    let status = match reply.status {
        Status::No => "NO",
        Status::Bad => "BAD",
        _ => "OK",
    };
    let code: String = code.iter().filter(|b| matches!(b, b' '..=b'~')).map(|b| char::from(*b)).collect();
    let alert = format!("{status} [{code}] {}", printable_up_to(reply.text, MAX_LENGTH));
    if !alerts.contains(&alert) {
        alerts.push(alert);
    }
}
