//! Dates as IMAP and Internet messages write them, and days to compare them by.

use std::time::{SystemTime, UNIX_EPOCH};

use super::parse::{ParseError, Parser};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment with the zone it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    /// Seconds since 1970-01-01 00:00 UTC.
    seconds: i64,
    /// Minutes east of UTC.
    zone: i32,
}

impl DateTime {
    /// The present, in UTC.
    pub(super) fn now() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self::from_unix(i64::try_from(seconds).unwrap_or(0))
    }

    /// A moment in UTC.
    pub(super) fn from_unix(seconds: i64) -> Self {
        Self { seconds, zone: 0 }
    }

    /// The day in its own zone, in days since 1970-01-01: dates are compared "disregarding time and timezone".
    pub(super) fn day(self) -> i64 {
        (self.seconds + i64::from(self.zone) * 60).div_euclid(86_400)
    }

    /// `date-time` (RFC 3501 section 9): `"17-Jul-1996 02:44:25 -0700"`, with its quotes.
    pub(super) fn imap(self) -> String {
        let (y, m, d) = civil(self.day());
        let second = (self.seconds + i64::from(self.zone) * 60).rem_euclid(86_400);
        let (sign, zone) = (if self.zone < 0 { '-' } else { '+' }, self.zone.abs());
        format!(
            "\"{d:2}-{}-{y:04} {:02}:{:02}:{:02} {sign}{:02}{:02}\"",
            MONTHS[m - 1],
            second / 3600,
            second / 60 % 60,
            second % 60,
            zone / 60,
            zone % 60
        )
    }

    /// `date-time`, with its quotes.
    pub(super) fn parse_imap(p: &mut Parser) -> Result<Self, ParseError> {
        const WHAT: ParseError = ParseError("a date and time");
        let text = p.string()?.ok_or(WHAT)?;
        let text = std::str::from_utf8(&text).map_err(|_| WHAT)?.trim_start();
        let mut words = text.split(' ');
        let day = words.next().and_then(parse_day).ok_or(WHAT)?;
        let second = words.next().and_then(parse_time).ok_or(WHAT)?;
        let zone = words.next().and_then(parse_zone).ok_or(WHAT)?;
        Ok(Self { seconds: day * 86_400 + second - i64::from(zone) * 60, zone })
    }
}

/// `date` (RFC 3501 section 9): `1-Feb-1994`, quoted or not, as a day.
pub(super) fn parse_imap_date(p: &mut Parser) -> Result<i64, ParseError> {
    let text = p.astring()?;
    std::str::from_utf8(&text).ok().and_then(parse_day).ok_or(ParseError("a date"))
}

/// The day of a `Date:` field (RFC 5322 section 3.3): `Mon, 7 Feb 1994 21:52:25 -0800 (PST)`.
pub(super) fn message_day(field: &str) -> Option<i64> {
    let rest = field.split_once(',').map_or(field, |(_, rest)| rest);
    let mut words = rest.split_ascii_whitespace();
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    days(year.parse().ok()?, month, day.parse().ok()?)
}

fn parse_day(text: &str) -> Option<i64> {
    let mut fields = text.splitn(3, '-');
    let (day, month, year) = (fields.next()?, fields.next()?, fields.next()?);
    days(year.parse().ok()?, month, day.parse().ok()?)
}

fn parse_time(text: &str) -> Option<i64> {
    let mut fields = text.split(':').map(|f| f.parse::<u32>().ok());
    let (h, m, s) = (fields.next()??, fields.next()??, fields.next()??);
    (h < 24 && m < 60 && s < 61 && fields.next().is_none()).then(|| i64::from(h * 3600 + m * 60 + s))
}

fn parse_zone(text: &str) -> Option<i32> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let number: i32 = digits.parse().ok()?;
    (digits.len() == 4 && (0..=2359).contains(&number)).then_some(sign * (number / 100 * 60 + number % 100))
}

fn days(year: i64, month: &str, day: i64) -> Option<i64> {
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month))? as i64 + 1;
    if !(1..=31).contains(&day) || !(0..=9999).contains(&year) {
        return None;
    }
    // Days from a civil date: years begin in March, so that leap days come last.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Year, month (1..=12) and day of a number of days since 1970-01-01.
fn civil(days: i64) -> (i64, usize, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), usize::try_from(month).unwrap_or(1), doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn dates_survive_a_round_trip() {
        for text in
            ["\"17-Jul-1996 02:44:25 -0700\"", "\" 1-Jan-1970 00:00:00 +0000\"", "\"29-Feb-2024 23:59:59 +0530\""]
        {
            let date = DateTime::parse_imap(&mut Parser::new(Bytes::from_static(text.as_bytes()))).unwrap();
            assert_eq!(date.imap(), text);
        }
    }

    #[test]
    fn a_message_and_an_argument_name_the_same_day() {
        let day = parse_day("7-Feb-1994").unwrap();
        assert_eq!(message_day("Mon, 7 Feb 1994 21:52:25 -0800 (PST)"), Some(day));
        assert_eq!(message_day("7 Feb 1994"), Some(day));
        assert_eq!(message_day("nonsense"), None);
        assert_eq!(parse_day("32-Feb-1994"), None);
        assert_eq!(parse_day("1-Feb-99999999999999999999"), None);
    }
}
