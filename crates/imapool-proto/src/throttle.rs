//! What wrong logins are held against, here, before the next attempt reaches a backend: how well an attempt stands in
//! the queue for the backend's judgement, and how long its answer is held back. Pure: time is an argument.
//!
//! Nobody is locked out. A front end's address is everybody's, and an account's name is known to anyone: so wrong
//! logins make those behind them wait for their turn, and what speaks for an attempt (this credential was good once,
//! right logins came from this address) counts for more than what others did to the account.
//!
//! All that is held against a name is held against its spellings, too ([`attacked`]).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::names::attacked;

/// Failures of a pair are remembered for this long after the last one.
const MEMORY: Duration = Duration::from_secs(60);
/// Delays double up to this many times the first.
const MAX_FACTOR: u32 = 16;
/// Pairs, addresses, accounts remembered at once, each. 100 octets each as a rule; 400 at most, by the length of names.
const MAX_ENTRIES: usize = 100_000;
/// Wrong logins weigh half after this time.
const BAD_HALF_LIFE: f64 = 60.0;
/// Right ones that the backend judged: longer than `auth.cache_ttl`, within which there is no second one.
const GOOD_HALF_LIFE: f64 = 1800.0;
/// More right ones than this count no more, so that a front end which is taken over does not stay trusted for hours.
const MAX_GOOD: f64 = 100.0;
/// So many wrong ones of late from an address that is not familiar make what comes from it suspect.
const BAD_ADDRESS: f64 = 3.0;
/// So many wrong ones of late for an account, from anywhere, make suspect who comes from an address nothing is known
/// of.
const BAD_ACCOUNT: f64 = 10.0;
/// More wrong ones than this count no more against an address: a flood is forgotten minutes after its end.
const MAX_BAD: f64 = 2.0 * MAX_GOOD;
/// So many failures of one account from one address make the pair suspect.
const BAD_PAIR: u32 = 4;
/// So many of them count against the address, too: fewer than [`BAD_ADDRESS`], so that one account whose logins fail
/// again and again (it may not log in any more, its client has an old password) is not held against others behind the
/// same front end.
const OF_PAIR: u32 = 2;
/// A score below this is as good as none.
const NOTHING: f64 = 0.1;

/// How well an attempt stands: the better ones do not wait for the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The backend has accepted this very credential before. Nobody can forge that.
    Proven,
    /// Of late, more right logins than wrong ones came from the address.
    Familiar,
    /// Little is known.
    Unknown,
    /// Wrong ones came from the address, or for the account.
    Suspect,
}

/// What is known of an address, or of an account.
#[derive(Debug, Clone, Copy)]
struct Record {
    good: f64,
    bad: f64,
    at: Instant,
}

impl Record {
    fn new(now: Instant) -> Self {
        Self { good: 0.0, bad: 0.0, at: now }
    }

    /// What it weighs now.
    fn aged(self, now: Instant) -> Self {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        let (good, bad) =
            (self.good * (-seconds / GOOD_HALF_LIFE).exp2(), self.bad * (-seconds / BAD_HALF_LIFE).exp2());
        Self { good, bad, at: now }
    }

    fn is_familiar(self) -> bool {
        self.good > 0.5 && self.good > self.bad
    }
}

type Pair = (Vec<u8>, Option<IpAddr>);

/// Of a pair.
#[derive(Debug, Clone, Copy)]
struct Failures {
    number: u32,
    last: Instant,
    /// How the name was spelled, if always in the same way.
    spelling: Option<u64>,
}

fn spelling(user: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish()
}

/// See the module.
#[derive(Debug)]
pub struct Throttle {
    first_delay: Duration,
    pairs: BTreeMap<Pair, Failures>,
    addresses: BTreeMap<Option<IpAddr>, Record>,
    accounts: BTreeMap<Vec<u8>, Record>,
}

impl Throttle {
    /// `first_delay`: `auth.failure_delay`.
    #[must_use]
    pub fn new(first_delay: Duration) -> Self {
        Self { first_delay, pairs: BTreeMap::new(), addresses: BTreeMap::new(), accounts: BTreeMap::new() }
    }

    /// How an attempt stands whose credential is not proven.
    #[must_use]
    pub fn standing(&self, user: &[u8], client: Option<IpAddr>, now: Instant) -> Standing {
        let client = network(client);
        let of_address = self.addresses.get(&client).map_or(Record::new(now), |record| record.aged(now));
        let user = attacked(user);
        let of_account = self.accounts.get(&user).map_or(0.0, |record| record.aged(now).bad);
        let of_pair = self.failures(&(user, client), now);
        match of_address {
            _ if of_pair >= BAD_PAIR => Standing::Suspect,
            record if record.is_familiar() => Standing::Familiar,
            record if record.bad >= BAD_ADDRESS || of_account >= BAD_ACCOUNT => Standing::Suspect,
            _ => Standing::Unknown,
        }
    }

    /// `auth.failure_delay` has changed; failures so far count on.
    pub fn set_first_delay(&mut self, first_delay: Duration) {
        self.first_delay = first_delay;
    }

    /// How long an attempt has to wait before it is made. The first failure costs the next attempt nothing: its answer
    /// was held back already.
    #[must_use]
    pub fn delay(&self, user: &[u8], client: Option<IpAddr>, now: Instant) -> Duration {
        match self.failures(&(attacked(user), network(client)), now) {
            0 | 1 => Duration::ZERO,
            failures => self.delay_after(failures - 1),
        }
    }

    /// How long the answer to a wrong attempt, or to one that was turned away here, is held back: it grows with the
    /// failures of the account from this address, and, four times more slowly, with all failures from this address.
    #[must_use]
    pub fn hold(&self, user: &[u8], client: Option<IpAddr>, now: Instant) -> Duration {
        let client = network(client);
        let of_address =
            self.addresses.get(&client).map(|record| record.aged(now)).filter(|record| !record.is_familiar());
        let of_address = of_address.map_or(0.0, |record| record.bad / 4.0).clamp(0.0, 1000.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
        let of_address = of_address as u32;
        self.delay_after(self.failures(&(attacked(user), client), now).max(of_address).max(1))
    }

    /// An attempt was refused, by the backend or by the routes.
    pub fn failed(&mut self, user: &[u8], client: Option<IpAddr>, now: Instant) {
        let client = network(client);
        let name = attacked(user);
        make_room(&mut self.pairs, |failures| now < failures.last + MEMORY / 4);
        let none = Failures { number: 0, last: now, spelling: Some(spelling(user)) };
        let failures = self.pairs.entry((name.clone(), client)).or_insert(none);
        failures.number = if now < failures.last + MEMORY { failures.number.saturating_add(1) } else { 1 };
        failures.last = now;
        failures.spelling = failures.spelling.filter(|known| *known == spelling(user));
        if failures.number <= OF_PAIR {
            let address = counted(&mut self.addresses, client, now, |record| record.is_familiar());
            address.bad = (address.bad + 1.0).min(MAX_BAD);
        }
        counted(&mut self.accounts, name, now, |record| record.bad >= BAD_ACCOUNT).bad += 1.0;
    }

    /// The backend has accepted. What came from memory does not count: who owns one account could have himself
    /// trusted by logging in to it again and again.
    pub fn succeeded(&mut self, user: &[u8], client: Option<IpAddr>, now: Instant) {
        let client = network(client);
        // Only by the name that failed: a server may have given one of its spellings to somebody else.
        let pair = (attacked(user), client);
        if self.pairs.get(&pair).is_some_and(|failures| failures.spelling == Some(spelling(user))) {
            self.pairs.remove(&pair);
        }
        let address = counted(&mut self.addresses, client, now, |record| record.is_familiar());
        address.good = (address.good + 1.0).min(MAX_GOOD);
    }

    /// Forgets what no longer counts.
    pub fn sweep(&mut self, now: Instant) {
        self.pairs.retain(|_, failures| now < failures.last + MEMORY);
        let counts = |record: &mut Record| record.aged(now).good.max(record.aged(now).bad) >= NOTHING;
        self.addresses.retain(|_, record| counts(record));
        self.accounts.retain(|_, record| counts(record));
    }

    fn failures(&self, pair: &Pair, now: Instant) -> u32 {
        self.pairs.get(pair).map_or(0, |failures| if now < failures.last + MEMORY { failures.number } else { 0 })
    }

    fn delay_after(&self, failures: u32) -> Duration {
        self.first_delay * (1 << failures.saturating_sub(1).min(16)).min(MAX_FACTOR)
    }
}

/// What is remembered under this key, as it counts now. If others have to be forgotten for it, then such as are not
/// `worth` it.
fn counted<K: Ord>(all: &mut BTreeMap<K, Record>, key: K, now: Instant, worth: impl Fn(Record) -> bool) -> &mut Record {
    make_room(all, |record| worth(record.aged(now)));
    let record = all.entry(key).or_insert(Record::new(now));
    *record = record.aged(now);
    record
}

/// Who has one address of a /64 has all of them.
fn network(client: Option<IpAddr>) -> Option<IpAddr> {
    client.map(|address| match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    })
}

/// Of a map that is full keeps what is worth keeping, or if that is all of it, nothing.
fn make_room<K: Ord, V>(map: &mut BTreeMap<K, V>, worth: impl Fn(&V) -> bool) {
    if map.len() >= MAX_ENTRIES {
        map.retain(|_, value| worth(value));
        if map.len() >= MAX_ENTRIES / 2 {
            map.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([127, 0, 0, last]))
    }

    #[test]
    fn failures_slow_only_their_own_pair() {
        let (one, other) = (address(1), address(2));
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        let fail = |throttle: &mut Throttle| {
            throttle.failed(b"u", one, now);
            throttle.hold(b"u", one, now)
        };
        assert_eq!(fail(&mut throttle), SECOND);
        assert_eq!(throttle.delay(b"u", one, now), Duration::ZERO);
        assert_eq!(fail(&mut throttle), 2 * SECOND);
        assert_eq!(throttle.delay(b"u", one, now), SECOND);
        for _ in 0..40 {
            fail(&mut throttle);
        }
        assert_eq!(throttle.delay(b"u", one, now), 16 * SECOND);
        assert_eq!(throttle.delay(b"u", other, now), Duration::ZERO);
        assert_eq!(throttle.delay(b"v", one, now), Duration::ZERO);
        assert_eq!(throttle.delay(b"u", one, now + MEMORY), Duration::ZERO);
        throttle.succeeded(b"u", one, now);
        assert_eq!(throttle.delay(b"u", one, now), Duration::ZERO);
    }

    #[test]
    fn an_attack_makes_its_addresses_suspect_and_no_other() {
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        let front_end = address(1);
        throttle.succeeded(b"somebody", front_end, now);
        for n in 0..200_u32 {
            let (user, from) = ([b'u', (n % 7) as u8], address(10 + (n % 20) as u8));
            throttle.failed(&user, from, now);
        }
        for user in [&b"u\x01"[..], b"never seen"] {
            assert_eq!(throttle.standing(user, address(10), now), Standing::Suspect);
            assert_eq!(throttle.standing(user, front_end, now), Standing::Familiar, "{user:?}");
        }
        assert_eq!(throttle.standing(b"u\x01", address(99), now), Standing::Suspect, "an account under attack");
        assert_eq!(throttle.standing(b"never seen", address(99), now), Standing::Unknown);
        assert!(throttle.hold(b"never seen", address(10), now) > SECOND, "slowed by its address");
        assert_eq!(throttle.hold(b"never seen", front_end, now), SECOND);
        let later = now + 10 * MEMORY;
        assert_eq!(throttle.standing(b"u\x01", address(10), later), Standing::Unknown, "nobody is locked out");
    }

    #[test]
    fn a_front_end_through_which_an_attack_comes() {
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        for user in 0..50_u8 {
            throttle.succeeded(&[user], None, now);
        }
        for _ in 0..BAD_PAIR {
            assert_eq!(throttle.standing(b"attacked", None, now), Standing::Familiar);
            throttle.failed(b"attacked", None, now);
        }
        assert_eq!(throttle.standing(b"attacked", None, now), Standing::Suspect, "the pair");
        assert_eq!(throttle.standing(b"another", None, now), Standing::Familiar);
        for n in 0..60_u32 {
            throttle.failed(&n.to_be_bytes(), None, now);
        }
        assert_eq!(throttle.standing(b"another", None, now), Standing::Suspect, "more wrong than right");
        assert_eq!(throttle.standing(b"another", None, now + 2 * MEMORY), Standing::Familiar);
    }

    #[test]
    fn one_account_that_fails_for_ever_is_held_against_nobody_else() {
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        for _ in 0..3 {
            throttle.succeeded(b"somebody", address(1), now);
        }
        for n in 0..200 {
            for from in [address(1), address(2)] {
                throttle.failed(b"locked", from, now + n * SECOND);
            }
        }
        let later = now + 200 * SECOND;
        assert_eq!(throttle.standing(b"another", address(1), later), Standing::Familiar);
        assert_eq!(throttle.standing(b"another", address(2), later), Standing::Unknown);
        for from in [address(1), address(2)] {
            assert_eq!(throttle.standing(b"locked", from, later), Standing::Suspect);
        }
    }

    #[test]
    fn a_flood_is_forgotten_minutes_after_its_end() {
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        for n in 0..90_000_u32 {
            throttle.failed(&n.to_be_bytes(), address(1), now);
        }
        assert_eq!(throttle.standing(b"u", address(1), now + 5 * MEMORY), Standing::Suspect);
        assert_eq!(throttle.standing(b"u", address(1), now + 7 * MEMORY), Standing::Unknown);
    }

    #[test]
    fn ipv6_is_counted_by_network() {
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        let from = |text: &str| Some(text.parse().unwrap());
        for n in 0..10_u8 {
            throttle.failed(&[b'u', n], from(&format!("2001:db8:1:2::{n}")), now);
        }
        assert_eq!(throttle.standing(b"v", from("2001:db8:1:2:ffff::1"), now), Standing::Suspect);
        assert_eq!(throttle.standing(b"v", from("2001:db8:1:3::1"), now), Standing::Unknown);
        throttle.failed(b"u", from("::ffff:192.0.2.1"), now);
        assert_eq!(throttle.standing(b"v", from("::ffff:192.0.2.2"), now), Standing::Unknown);
    }

    #[test]
    fn spellings_of_a_name_count_together() {
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        throttle.succeeded(b"somebody", address(1), now);
        let spellings: Vec<String> =
            (0..160).map(|n| format!("{}vIctim{}", " ".repeat(n % 7), "\t".repeat(n / 7))).collect();
        for (n, user) in spellings.iter().enumerate() {
            throttle.failed(user.as_bytes(), address(10 + n as u8), now);
        }
        let stands = |throttle: &Throttle, user: &[u8], from| throttle.standing(user, address(from), now);
        assert_eq!(stands(&throttle, b"Victim", 250), Standing::Suspect, "from a new address");
        assert_eq!(stands(&throttle, b"VICTIM", 1), Standing::Familiar);
        for user in &spellings[..BAD_PAIR as usize] {
            throttle.failed(user.as_bytes(), address(1), now);
        }
        assert_eq!(stands(&throttle, b"VICTIM", 1), Standing::Suspect, "through the front end");
        assert!(throttle.delay(b"victim", address(1), now) > SECOND);
    }

    #[test]
    fn who_owns_another_spelling_cannot_clear_what_is_held_against_this_one() {
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        for _ in 0..3 {
            throttle.failed(b"victim", address(1), now);
        }
        throttle.succeeded(b"Victim", address(1), now);
        assert_eq!(throttle.delay(b"victim", address(1), now), 2 * SECOND);
        throttle.succeeded(b"victim", address(1), now);
        assert_eq!(throttle.delay(b"victim", address(1), now), Duration::ZERO);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut throttle = Throttle::new(SECOND);
        throttle.succeeded(b"good", address(1), now);
        for n in 0..=u32::try_from(MAX_ENTRIES).unwrap() {
            let from = Some(IpAddr::from(((10 << 24) | n).to_be_bytes()));
            throttle.failed(&n.to_be_bytes(), from, now);
        }
        let sizes = [throttle.pairs.len(), throttle.addresses.len(), throttle.accounts.len()];
        assert!(sizes.iter().all(|size| *size <= MAX_ENTRIES), "{sizes:?}");
        assert_eq!(throttle.standing(b"u", address(1), now), Standing::Familiar, "what is good is not pushed out");
        throttle.sweep(now + 1000 * MEMORY);
        assert!(throttle.pairs.is_empty() && throttle.addresses.is_empty() && throttle.accounts.is_empty());
    }
}
