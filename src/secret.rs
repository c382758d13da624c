//! Passwords and tokens in memory: never printed, wiped when dropped, compared in constant time.
//!
//! What is remembered of a credential is a [`Fingerprint`]: a hash under a key which is made anew in each process, so
//! that it is of no use to anyone who comes by it.

use std::fmt;
use std::hash::{Hash, Hasher};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use zeroize::Zeroizing;

/// Bytes that must not leak: without `Display`, with a `Debug` that says nothing, wiped when dropped.
///
/// `==` takes the same time wherever the bytes differ; the length is not hidden.
#[derive(Clone)]
pub struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    /// Takes over the bytes; none of them are left behind in memory.
    pub fn new(bytes: Vec<u8>) -> Secret {
        // The copy is of the exact size, since shrinking a Vec in place could leave a tail behind.
        Secret::copy_of(&Zeroizing::new(bytes))
    }

    /// Copies the bytes; the caller's remain the caller's to wipe.
    pub fn copy_of(bytes: &[u8]) -> Secret {
        Secret(Zeroizing::new(Box::from(bytes)))
    }

    /// The bytes themselves. Each call is a place to look at in a review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Secret {
        Secret::new(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        verify_slices_are_equal(self.expose(), other.expose()).is_ok()
    }
}

impl Eq for Secret {}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new(b"hunter2".to_vec());
        let fingerprinter = Fingerprinter::new().unwrap();
        let fingerprint = fingerprinter.fingerprint(&[secret.expose()]);
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret(..) Secret(..)");
        assert_eq!(format!("{fingerprinter:?} {fingerprinter:#?}"), "Fingerprinter(..) Fingerprinter(..)");
        assert_eq!(format!("{fingerprint:?} {fingerprint:#?}"), "Fingerprint(..) Fingerprint(..)");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(..))");
    }

    #[test]
    fn secrets_are_equal_by_their_bytes() {
        let secret = Secret::copy_of(b"hunter2");
        assert_eq!(secret, Secret::from(b"hunter2".to_vec()));
        assert_eq!(secret.clone().expose(), b"hunter2");
        for other in [&b"hunter3"[..], b"hunter", b"hunter22", b""] {
            assert_ne!(secret, Secret::copy_of(other));
        }
        assert_eq!((secret.len(), secret.is_empty(), Secret::copy_of(b"").is_empty()), (7, false, true));
    }

    /// Wiping cannot be watched without unsafe code; that the type which does it is inside, can.
    #[test]
    fn a_secret_is_wiped_on_drop() {
        fn wipes<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        wipes(&Secret::copy_of(b"hunter2").0);
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
