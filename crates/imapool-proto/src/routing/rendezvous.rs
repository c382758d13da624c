//! One of several equal backends for an account, by weighted rendezvous hashing: each backend scores by a hash of its
//! name and the account, and the highest score wins. So every imapool finds the same one without a word to another,
//! shares are as the weights, and a backend that is added or taken away moves only its own share.
//!
//! (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; the weights as in Schindelhauer
//! and Schomaker, "Weighted distributed hash tables", 2005.)

use sha2::{Digest as _, Sha256};

/// The place of the one with the highest score among `shares` (name and weight). `None`: all weights are zero.
///
/// With `h` the first eight octets of SHA-256(name, 0, key) as a number in (0, 1], the score is `weight / −ln h`. A
/// name has no NUL. Of equal scores, the lower name wins.
pub fn pick<'n>(key: &[u8], shares: impl Iterator<Item = (&'n str, u32)>) -> Option<usize> {
    let scored = shares.enumerate().filter(|(_, (_, weight))| *weight > 0);
    let scored = scored.map(|(place, (name, weight))| (score(name, weight, key), name, place));
    let best = scored.max_by(|(one, first, _), (two, second, _)| one.total_cmp(two).then_with(|| second.cmp(first)));
    best.map(|(_, _, place)| place)
}

fn score(name: &str, weight: u32, key: &[u8]) -> f64 {
    f64::from(weight) / -of_unit(hash(name, key)).ln()
}

/// The first eight octets of SHA-256(name, 0, key).
fn hash(name: &str, key: &[u8]) -> u64 {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(key).finalize();
    digest.iter().take(8).fold(0, |number, octet| number << 8 | u64::from(*octet))
}

/// A number in (0, 1]: its 53 highest bits, which are what a `f64` holds.
#[expect(clippy::cast_precision_loss, reason = "it has 53 bits")]
fn of_unit(hash: u64) -> f64 {
    ((hash >> 11) + 1) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by other means (Python's hashlib and math), so that whoever routes by the same rule can compare.
    const VECTORS: &str = include_str!("rendezvous_vectors.txt");

    #[test]
    fn vectors() {
        let mut read = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let mut fields = line.split('\t');
            let [key, members, wanted] = [(); 3].map(|()| fields.next().unwrap());
            let members: Vec<_> = members
                .split(' ')
                .map(|member| member.split_once('=').unwrap())
                .map(|(name, weight)| (name, weight.parse().unwrap()))
                .collect();
            let picked = pick(key.as_bytes(), members.iter().copied()).map_or("-", |place| members[place].0);
            assert_eq!(picked, wanted, "{line}");
            read += 1;
        }
        assert!(read >= 40, "{read}");
    }

    #[test]
    fn shares_are_as_the_weights_and_only_a_share_moves() {
        let weights = [100, 100, 50, 200, 100, 100, 25, 100, 125, 100];
        let names: Vec<_> = (0..=weights.len()).map(|number| format!("mail{number}")).collect();
        let members =
            |count: usize| (0..count).map(|place| (names[place].as_str(), weights.get(place).map_or(100, |w| *w)));
        let (accounts, all) = (1_000_000, weights.len());
        let (mut shares, mut moved, mut between) = ([0; 10], 0, 0);
        for account in 0..accounts {
            let key = format!("user{account}@example.org");
            let (before, after) =
                (pick(key.as_bytes(), members(all)).unwrap(), pick(key.as_bytes(), members(all + 1)).unwrap());
            shares[before] += 1;
            moved += usize::from(after == all);
            between += usize::from(after != before && after != all);
        }
        let total: u32 = weights.iter().sum();
        for (share, weight) in shares.iter().zip(weights) {
            let wanted = f64::from(accounts) * f64::from(weight) / f64::from(total);
            assert!((f64::from(*share) / wanted - 1.0).abs() < 0.01, "{shares:?}");
        }
        let wanted = f64::from(accounts) * 100.0 / f64::from(total + 100);
        assert!((moved as f64 / wanted - 1.0).abs() < 0.01 && between == 0, "{moved}, {between}");
    }

    #[test]
    fn nobody_without_weight() {
        assert_eq!(pick(b"a", [("x", 0), ("y", 0)].into_iter()), None);
        assert_eq!(pick(b"a", [("x", 0), ("y", 1)].into_iter()), Some(1));
        assert_eq!(of_unit(u64::MAX), 1.0);
        assert!(of_unit(0) > 0.0);
    }
}
