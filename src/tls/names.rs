//! Which of many certificates a client gets, by the name that it asks for. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::pem::Certificate;

/// Of one name and one kind of key, no more are looked at: those that are good for longest.
const OF_A_KIND: usize = 4;

/// Certificates by their names. A star stands for one label (RFC 9525 section 6.3).
#[derive(Debug, Default)]
pub(super) struct ByName(HashMap<String, Vec<Arc<Certificate>>>);

impl ByName {
    pub(super) fn of<'c>(certificates: impl Iterator<Item = &'c Arc<Certificate>>) -> Self {
        let mut this = Self::default();
        for certificate in certificates {
            for name in &certificate.names {
                this.0.entry(name.clone()).or_default().push(Arc::clone(certificate));
            }
        }
        this.0.values_mut().for_each(keep_the_best);
        this
    }

    /// That for a host of this name, for a client that knows these signatures: of one that is good at this second of
    /// the Unix epoch, if there is one.
    pub(super) fn find(&self, name: &str, schemes: &[SignatureScheme], now: i64) -> Option<Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let exact = self.0.get(&name);
        let wild = name.split_once('.').and_then(|(_, domain)| self.0.get(&format!("*.{domain}")));
        // The first are the best. What has expired is better than another host's.
        let known = || {
            let all = [exact, wild].into_iter().flatten().flatten();
            all.filter(|it| it.key.key.choose_scheme(schemes).is_some())
        };
        let best = known().find(|it| is_good(it, now)).or_else(|| known().next());
        best.map(|best| Arc::clone(&best.key))
    }
}

/// By its own certificate, which is the first: what is wrong with the others may be no matter to a client.
fn is_good(certificate: &Certificate, now: i64) -> bool {
    certificate.validities.first().is_none_or(|validity| (validity.begins..=validity.ends).contains(&now))
}

/// Smaller and faster keys first; of the same kind those that are good for longest.
fn keep_the_best(certificates: &mut Vec<Arc<Certificate>>) {
    let rank = |certificate: &Arc<Certificate>| match certificate.key.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        _ => 2,
    };
    certificates.sort_by_key(|it| (rank(it), std::cmp::Reverse(it.expires)));
    let mut seen = [0; 3];
    certificates.retain(|it| {
        let seen: &mut usize = &mut seen[rank(it)];
        *seen += 1;
        *seen <= OF_A_KIND
    });
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm, date_time_ymd};

    use super::super::pem::Pair;
    use super::*;

    const ALL: &[SignatureScheme] =
        &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519, SignatureScheme::RSA_PSS_SHA256];
    const NOW: i64 = 1_800_000_000;

    /// For these names, with this kind of key, good in these years.
    fn made(names: &[&str], kind: &'static SignatureAlgorithm, years: (i32, i32)) -> Arc<Certificate> {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate_for(kind).unwrap();
        let file = folder.path().join("both.pem");
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(&file, format!("{pem}{}", key.serialize_pem())).unwrap();
        Arc::new(Certificate::load(&Pair::new(&file, &file), 1 << 16).unwrap())
    }

    fn usual(names: &[&str], until: i32) -> Arc<Certificate> {
        made(names, &PKCS_ECDSA_P256_SHA256, (2020, until))
    }

    #[track_caller]
    fn gets(all: &[&Arc<Certificate>], name: &str, schemes: &[SignatureScheme], wanted: Option<&Arc<Certificate>>) {
        for by_name in [ByName::of(all.iter().copied()), ByName::of(all.iter().rev().copied())] {
            let found = by_name.find(name, schemes, NOW);
            let place = found.as_ref().map(|found| all.iter().position(|it| Arc::ptr_eq(&it.key, found)));
            let wanted = wanted.map(|wanted| all.iter().position(|it| Arc::ptr_eq(it, wanted)));
            assert_eq!(place, wanted, "{name}");
        }
    }

    #[test]
    fn the_exact_name_goes_before_the_star_which_is_one_label() {
        let (exact, star) = (usual(&["mail.example.org"], 2030), usual(&["*.example.org"], 2040));
        let all = [&exact, &star];
        gets(&all, "mail.example.org", ALL, Some(&exact));
        gets(&all, "MAIL.example.ORG.", ALL, Some(&exact));
        gets(&all, "imap.example.org", ALL, Some(&star));
        for unknown in ["a.b.example.org", "example.org", "mail.example.net", "org", "", ".example.net", "*"] {
            gets(&all, unknown, ALL, None);
        }
    }

    #[test]
    fn of_two_for_a_name_the_one_that_is_good_for_longest() {
        let (early, late) = (usual(&["a.example", "b.example"], 2030), usual(&["b.example"], 2040));
        gets(&[&early, &late], "b.example", ALL, Some(&late));
        gets(&[&early, &late], "a.example", ALL, Some(&early));
        // One for next year does not take the place of that for this year.
        let next = made(&["b.example"], &PKCS_ECDSA_P256_SHA256, (2029, 2050));
        gets(&[&early, &late, &next], "b.example", ALL, Some(&late));
        // What has expired does not take the place of a star's that has not.
        let (left, star) = (usual(&["x.d.example"], 2022), usual(&["*.d.example"], 2030));
        gets(&[&left, &star], "x.d.example", ALL, Some(&star));
        gets(&[&usual(&["x.d.example"], 2029), &star], "y.d.example", ALL, Some(&star));
        // Whatever there is is better than another name's.
        let over = usual(&["c.example"], 2022);
        gets(&[&early, &over], "c.example", ALL, Some(&over));
    }

    #[test]
    fn the_kind_of_key_is_one_that_the_client_knows() {
        let ecdsa = usual(&["a.example"], 2030);
        let ed25519 = made(&["a.example"], &PKCS_ED25519, (2020, 2040));
        let all = [&ecdsa, &ed25519];
        gets(&all, "a.example", ALL, Some(&ecdsa));
        gets(&all, "a.example", &[SignatureScheme::ED25519], Some(&ed25519));
        gets(&all, "a.example", &[SignatureScheme::RSA_PSS_SHA256], None);
        // Where none of the exact name's will do, the star's may.
        let star = made(&["*.example"], &PKCS_ED25519, (2020, 2040));
        assert!(star.names.is_empty(), "*.example is nobody's");
        let ecdsa_over = usual(&["d.example"], 2021);
        let other = made(&["d.example"], &PKCS_ED25519, (2020, 2040));
        gets(&[&ecdsa_over, &other], "d.example", ALL, Some(&other));
    }

    #[test]
    fn thousands_for_one_name_are_not_gone_through() {
        let certificate = usual(&["a.example"], 2030);
        let rsa_like = made(&["a.example"], &PKCS_ED25519, (2020, 2025));
        let all: Vec<_> = (0..5000).map(|_| Arc::clone(&certificate)).chain([rsa_like]).collect();
        let by_name = ByName::of(all.iter());
        assert_eq!(by_name.0["a.example"].len(), OF_A_KIND + 1);
    }
}
