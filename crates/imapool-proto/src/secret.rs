//! Passwords and tokens in memory: never printed, wiped when dropped, compared in constant time.

use std::fmt;

use subtle::ConstantTimeEq as _;
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
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret(..) Secret(..)");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(..))");
    }

    #[test]
    fn secrets_are_equal_by_their_bytes() {
        let secret = Secret::copy_of(b"hunter2");
        assert_eq!(secret, Secret::new(b"hunter2".to_vec()));
        assert_eq!(secret.clone().expose(), b"hunter2");
        for other in [&b"hunter3"[..], b"hunter", b"hunter22", b""] {
            assert_ne!(secret, Secret::copy_of(other));
        }
        assert_eq!((secret.expose(), Secret::copy_of(b"").expose()), (&b"hunter2"[..], &b""[..]));
    }

    /// Wiping cannot be watched without unsafe code; that the type which does it is inside, can.
    #[test]
    fn a_secret_is_wiped_on_drop() {
        fn wipes<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        wipes(&Secret::copy_of(b"hunter2").0);
    }
}
