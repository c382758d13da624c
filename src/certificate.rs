//! When a certificate is good, and for whom: what is read out of it here. Pure.

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Seconds since the Unix epoch between which a certificate is good (RFC 5280 section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    /// The first.
    pub(crate) begins: i64,
    /// The last.
    pub(crate) ends: i64,
}

impl Validity {
    /// Of a DER certificate; `None`: it is not understood.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self { begins: validity.not_before.timestamp(), ends: validity.not_after.timestamp() })
    }
}

/// Seconds since the Unix epoch at which the first of a chain of DER certificates expires; `None`: no chain, or not
/// understood.
#[must_use]
pub(crate) fn expires<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Option<i64> {
    let ends = chain.into_iter().map(|certificate| Validity::of(certificate).map(|validity| validity.ends));
    ends.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// The names of hosts that a DER certificate carries (RFC 9525 section 6: no common name counts), in lower case and
/// without a dot at the end; a star is a whole label, the first. Empty: there are none, or it is not understood.
pub(crate) fn names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = alternatives.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    });
    // A star alone, or in place of all but the top level, stands for nobody's hosts.
    let is_host = |name: &String| match name.strip_prefix("*.") {
        Some(domain) => domain.contains('.') && !domain.contains('*'),
        None => !name.is_empty() && !name.contains('*'),
    };
    let mut names: Vec<_> = names.filter(is_host).collect();
    names.sort_unstable();
    names.dedup();
    names
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

    fn with_names(names: &[&str]) -> Vec<u8> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_names_are_those_of_hosts_and_stars_stand_for_one_label() {
        let all = with_names(&[
            "Mail.Example.ORG",
            "*.example.org",
            "192.0.2.1",
            "mail.example.org",
            "xn--bcher-kva.example",
        ]);
        assert_eq!(names(&all), ["*.example.org", "mail.example.org", "xn--bcher-kva.example"]);
        for nobodys in ["*", "*.org", "m*.example.org", "mail.*.org", "*.*.example.org"] {
            assert_eq!(names(&with_names(&[nobodys])), [""; 0], "{nobodys}");
        }
        // A common name is none.
        assert_eq!(names(&with_names(&[])), [""; 0]);
        for cut in 0..all.len() {
            assert_eq!(names(&all[..cut]), [""; 0], "{cut}");
            let mut spoiled = all.clone();
            spoiled[cut] ^= 0xff;
            let _ = names(&spoiled);
        }
    }
}
