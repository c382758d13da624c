//! Until when a certificate is good: the one thing that is read out of it here. Pure.

/// Seconds since the Unix epoch at which the first of a chain of DER certificates expires; `None`: no chain, or not
/// understood (RFC 5280 section 4.1.2.5).
#[must_use]
pub(crate) fn expires<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Option<i64> {
    chain.into_iter().map(not_after).try_fold(None, |first: Option<i64>, at| {
        let at = at?;
        Some(Some(first.map_or(at, |first| first.min(at))))
    })?
}

fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // Version, where it is said; serial number, algorithm and issuer.
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.2;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, after) = element(validity)?;
    let (tag, text, _) = element(after)?;
    match tag {
        0x17 => {
            let (year, rest) = digits(text, 2)?;
            seconds(if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        0x18 => {
            let (year, rest) = digits(text, 4)?;
            seconds(year, rest)
        }
        _ => None,
    }
}

/// The tag of the first element, its contents, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

fn digits(text: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(count)?;
    let number = digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))?;
    Some((number, rest))
}

/// `MMDDHHMMSSZ`
fn seconds(year: i64, text: &[u8]) -> Option<i64> {
    let mut parts = [0; 5];
    let mut rest = text;
    for part in &mut parts {
        (*part, rest) = digits(rest, 2)?;
    }
    let [month, day, hour, minute, second] = parts;
    if rest != b"Z" || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
            - 1
            - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn until(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["mail.example.org".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, month, day);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_first_of_a_chain_to_expire_counts() {
        let days =
            [(1999, 12, 31), (2000, 2, 29), (2024, 2, 29), (2026, 3, 1), (2049, 12, 31), (2050, 1, 1), (2400, 2, 29)];
        for (year, month, day) in days {
            let at = date_time_ymd(year, month, day).unix_timestamp();
            assert_eq!(expires([&until(year, month, day)[..]]), Some(at), "{year}-{month}-{day}");
        }
        let (early, late) = (until(2030, 1, 1), until(2040, 1, 1));
        let first = Some(date_time_ymd(2030, 1, 1).unix_timestamp());
        assert_eq!(expires([&late[..], &early]), first);
        assert_eq!(expires([&early[..], &late]), first);
        assert_eq!(expires([]), None);
    }

    #[test]
    fn what_is_cut_or_spoiled_is_not_understood_and_breaks_nothing() {
        let certificate = until(2030, 1, 1);
        for cut in 0..certificate.len() {
            assert_eq!(expires([&certificate[..cut]]), None, "{cut}");
            let mut spoiled = certificate.clone();
            spoiled[cut] ^= 0xff;
            let _ = expires([&spoiled[..]]);
        }
    }
}
