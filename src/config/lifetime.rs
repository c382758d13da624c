//! How long a certificate is still good. Pure.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

/// Certificates that are good for less are told of, those that never are for long when a third of that is left.
const SOON: i64 = 14 * DAY;
const DAY: i64 = 24 * 60 * 60;

/// Why a certificate will not do, now or soon; the worst is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifetime {
    /// It is over, since this second of the Unix epoch.
    Over(i64),
    /// It begins in this second.
    NotBegun(i64),
    /// It ends in this second.
    EndsSoon(i64),
}

impl Lifetime {
    /// That of a certificate which is good from `begins` to `ends`; `None`: nothing is wrong with it. All in seconds
    /// since the Unix epoch.
    #[must_use]
    pub fn at(now: i64, begins: i64, ends: i64) -> Option<Self> {
        let soon = SOON.min(ends.saturating_sub(begins) / 3);
        if ends < now {
            Some(Self::Over(ends))
        } else if begins > now {
            Some(Self::NotBegun(begins))
        } else {
            (ends.saturating_sub(now) < soon).then_some(Self::EndsSoon(ends))
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over(at) => write!(f, "expired at {}: renew it, it is refused", time(*at)),
            Self::NotBegun(at) => write!(f, "is good only from {} on: check this host's clock", time(*at)),
            Self::EndsSoon(at) => write!(f, "expires at {}: renew it", time(*at)),
        }
    }
}

/// A second of the Unix epoch; certificates may name years that nobody else can.
fn time(second: i64) -> String {
    /// The last second of the year 9999.
    const LAST: u64 = 253_402_300_799;
    match u64::try_from(second) {
        Ok(seconds @ 0..=LAST) => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
        }
        _ => "a time far away".to_owned(),
    }
}
