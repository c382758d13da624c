//! What is remembered of a credential is a [`Fingerprint`]: a hash under a key which is made anew in each process, so
//! that it is of no use to anyone who comes by it. [`Secret`] is the credential itself.

use std::fmt;
use std::hash::{Hash, Hasher};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

pub use imapool_proto::secret::Secret;

/// Makes [`Fingerprint`]s under a random key of its own. One for each process.
pub struct Fingerprinter {
    key: hmac::Key,
}

/// The system had no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

impl Fingerprinter {
    /// With a fresh random key.
    ///
    /// # Errors
    /// [`NoRandomness`]: nothing can be done but to give up.
    pub fn new() -> Result<Fingerprinter, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| NoRandomness)?;
        Ok(Fingerprinter { key })
    }

    /// The fingerprint of a list of fields. Each goes in with its length, so that `["ab", "c"]` and `["a", "bc"]`,
    /// or a list with an empty field more, differ.
    pub fn fingerprint(&self, fields: &[&[u8]]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for field in fields {
            context.update(&(field.len() as u64).to_be_bytes());
            context.update(field);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        Fingerprint(hash)
    }
}

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprinter(..)")
    }
}

/// HMAC-SHA256 of a credential's fields. Compared in constant time, and never printed.
#[derive(Clone, Copy)]
pub struct Fingerprint([u8; 32]);

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Fingerprint) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Fingerprint {}

/// For pools keyed by credential. Equality still decides; a hash table's own timing tells only about a keyed hash.
impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

/// What tells a secret from another one that takes its place, the same in each process. These 16 bits say nothing of
/// one that is worth the name.
#[must_use]
pub fn mark(secret: &Secret) -> u16 {
    let hash = digest::digest(&digest::SHA256, secret.expose());
    hash.as_ref().iter().take(2).fold(0, |mark, octet| (mark << 8) | u16::from(*octet))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let fingerprinter = Fingerprinter::new().unwrap();
        let fingerprint = fingerprinter.fingerprint(&[b"hunter2"]);
        assert_eq!(format!("{fingerprinter:?} {fingerprinter:#?}"), "Fingerprinter(..) Fingerprinter(..)");
        assert_eq!(format!("{fingerprint:?} {fingerprint:#?}"), "Fingerprint(..) Fingerprint(..)");
    }

    #[test]
    fn each_process_has_fingerprints_of_its_own() {
        let [one, other] = [(); 2].map(|()| Fingerprinter::new().unwrap());
        assert!(one.fingerprint(&[b"x"]) != other.fingerprint(&[b"x"]));
    }

    proptest! {
        #[test]
        fn fingerprints_are_equal_when_all_fields_are(
            one in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..4), 0..4),
            other in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..4), 0..4),
        ) {
            let fingerprinter = Fingerprinter::new().unwrap();
            let of = |fields: &[Vec<u8>]| fingerprinter.fingerprint(&fields.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(of(&one) == of(&other), one == other);
            prop_assert_eq!(of(&one), of(&one));
        }

        #[test]
        fn where_a_field_ends_counts(bytes in proptest::collection::vec(any::<u8>(), 1..40), cut in any::<prop::sample::Index>()) {
            let fingerprinter = Fingerprinter::new().unwrap();
            let (head, tail) = bytes.split_at(cut.index(bytes.len()));
            prop_assert!(fingerprinter.fingerprint(&[head, tail]) != fingerprinter.fingerprint(&[&bytes]));
            prop_assert!(fingerprinter.fingerprint(&[&bytes, b""]) != fingerprinter.fingerprint(&[&bytes]));
        }
    }
}
