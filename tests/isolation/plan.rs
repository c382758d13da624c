//! What client and backend of the isolation test have agreed on: who the accounts are, how a command names its session,
//! how every part of a reply names the command that it belongs to, and which reply (and which fault) a command gets.

/// A small generator of random numbers (splitmix64): the same on every machine, for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0..bound
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True `in_thousand` times in a thousand.
    pub(crate) fn chance(&mut self, in_thousand: u64) -> bool {
        self.below(1000) < in_thousand
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// An account of the backend. Several have something in common, so that a pool keyed by less than all of it mixes them.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) user: &'static str,
    pub(crate) authzid: &'static str,
    pub(crate) token: bool,
    pub(crate) secret: &'static str,
}

pub(crate) const ACCOUNTS: &[Account] = &[
    Account { user: "anna", authzid: "", token: false, secret: "sesame" },
    Account { user: "ann", authzid: "", token: false, secret: "asesame" },
    Account { user: "q\"uo\\te", authzid: "", token: false, secret: "p\"w\\" },
    Account { user: "jürgen", authzid: "", token: false, secret: "schlüssel" },
    Account { user: "root", authzid: "anna", token: false, secret: "toor" },
    Account { user: "root", authzid: "ann", token: false, secret: "toor" },
    Account { user: "anna", authzid: "", token: true, secret: "sesame" },
];

/// Whose session number `session` is, of `worlds` worlds among which the sessions are dealt out in turn.
pub(crate) fn account_of(session: u64, worlds: u64) -> usize {
    usize::try_from(session / worlds).unwrap() % ACCOUNTS.len()
}

/// The account for which these are the credentials.
pub(crate) fn account_by(user: &[u8], authzid: &[u8], token: bool) -> Option<usize> {
    ACCOUNTS.iter().position(|account| {
        account.user.as_bytes() == user && account.authzid.as_bytes() == authzid && account.token == token
    })
}

/// The mailboxes of every account; few, so that a new session often finds its mailbox selected by an earlier one.
pub(crate) const MAILBOXES: [&str; 3] = ["INBOX", "Sent", "Trash"];

/// What every command of a session carries in its arguments: `t<session>.<command>.<seed>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) session: u64,
    pub(crate) command: u64,
    /// Decides what the backend does: see [`Plan`].
    pub(crate) seed: u64,
}

impl Token {
    pub(crate) fn text(self) -> String {
        format!("t{}.{}.{:x}", self.session, self.command, self.seed)
    }

    /// The first one in `octets`.
    pub(crate) fn find(octets: &[u8]) -> Option<Self> {
        words(octets).find_map(Self::parse)
    }

    fn parse(word: &[u8]) -> Option<Self> {
        let mut numbers = std::str::from_utf8(word).ok()?.strip_prefix('t')?.split('.');
        let token = Self {
            session: numbers.next()?.parse().ok()?,
            command: numbers.next()?.parse().ok()?,
            seed: u64::from_str_radix(numbers.next()?, 16).ok()?,
        };
        numbers.next().is_none().then_some(token)
    }

    /// A message of `len` octets, each of which tells whose it is.
    pub(crate) fn message(self, len: usize) -> Vec<u8> {
        repeat(&format!("t{}.{};", self.session, self.command), len)
    }
}

/// The words of a line: what stands between spaces, quotes and brackets.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|octet| b" \"()[]{}<>;\r\n".contains(octet)).filter(|word| !word.is_empty())
}

fn repeat(unit: &str, len: usize) -> Vec<u8> {
    let mut octets = unit.repeat(len / unit.len() + 1).into_bytes();
    octets.truncate(len);
    octets
}

/// The octets of a literal in the reply to a command: each tells whose it is.
pub(crate) fn literal(session: u64, command: u64, account: usize, len: usize) -> Vec<u8> {
    repeat(&format!("m{session}.{command}.{account};"), len)
}

/// What a part of a reply belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    /// Part number `part` of the reply to a command: `m<session>.<command>.<account>.<connection>.<part>`.
    Reply { session: u64, command: u64, account: usize, connection: u64, part: u64 },
    /// A continuation: `c<session>.<command>.<account>.<connection>`.
    Continue { session: u64, command: u64, account: usize, connection: u64 },
    /// News of the mailbox that a session has selected: `w<session>.<mailbox>.<account>.<connection>`.
    News { session: u64, mailbox: usize, account: usize, connection: u64 },
    /// Of the account, and of no session of it: `l<account>.<connection>`.
    Account { account: usize, connection: u64 },
    /// Of a command of the proxy's own, or of nothing at all. For nobody: `x<connection>`.
    Nobody { connection: u64 },
}

impl Marker {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Reply { session, command, account, connection, part } => {
                format!("m{session}.{command}.{account}.{connection}.{part}")
            }
            Self::Continue { session, command, account, connection } => {
                format!("c{session}.{command}.{account}.{connection}")
            }
            Self::News { session, mailbox, account, connection } => {
                format!("w{session}.{mailbox}.{account}.{connection}")
            }
            Self::Account { account, connection } => format!("l{account}.{connection}"),
            Self::Nobody { connection } => format!("x{connection}"),
        }
    }

    pub(crate) fn parse(word: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(word).ok()?;
        let (kind, numbers) = text.split_at_checked(1)?;
        let numbers: Vec<u64> = numbers.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let index = |number: u64| usize::try_from(number).unwrap();
        Some(match (kind, &numbers[..]) {
            ("m", &[session, command, account, connection, part]) => {
                Self::Reply { session, command, account: index(account), connection, part }
            }
            ("c", &[session, command, account, connection]) => {
                Self::Continue { session, command, account: index(account), connection }
            }
            ("w", &[session, mailbox, account, connection]) => {
                Self::News { session, mailbox: index(mailbox), account: index(account), connection }
            }
            ("l", &[account, connection]) => Self::Account { account: index(account), connection },
            ("x", &[connection]) => Self::Nobody { connection },
            _ => return None,
        })
    }
}

/// A bare number (of a message, or of messages) that names session and mailbox.
pub(crate) fn number(session: u64, mailbox: usize) -> u64 {
    session * 8 + mailbox as u64 + 1
}

/// Numbers of one mailbox in a world whose sessions share connections.
const SPREAD: u64 = 10_000;

/// Where sessions share connections, numbers name account and mailbox: how many messages a mailbox has, always. UIDs,
/// and the numbers of a session that was not told of EXPUNGE yet, are up to [`MAX_GONE`] above it.
pub(crate) fn shared_number(account: usize, mailbox: usize) -> u64 {
    (1 + account * MAILBOXES.len() + mailbox) as u64 * SPREAD
}

/// Messages that may be expunged (and replaced by new ones) in a mailbox of a world whose sessions share connections.
pub(crate) const MAX_GONE: u64 = SPREAD - 100;

/// Whether a number is one of this mailbox: see [`shared_number`].
pub(crate) fn is_shared_number(number: u64, account: usize, mailbox: usize) -> bool {
    number / SPREAD == shared_number(account, mailbox) / SPREAD
}

/// The session and the mailbox of a [`number`].
pub(crate) fn numbered(number: u64) -> (u64, usize) {
    ((number - 1) / 8, usize::try_from((number - 1) % 8).unwrap())
}

/// How a backend misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The connection ends after so many thousandths of the reply, in order or by a reset.
    Cut {
        thousandths: u64,
        reset: bool,
    },
    /// BYE before, or after, the tagged reply; then it closes.
    Bye {
        before: bool,
    },
    /// A tagged reply to a command that was never sent, or that was answered already, before the right one.
    WrongTag {
        old: bool,
    },
    /// Octets that are no IMAP, before the tagged reply.
    Garbage,
    /// `+` although nothing waits for it.
    Continuation,
    /// The tagged reply a second time, so many milliseconds later.
    Twice {
        later: u64,
    },
    /// More untagged data when the command was answered already.
    Late {
        later: u64,
    },
    /// The same, with a pause in the middle of the line.
    LateInParts {
        later: u64,
    },
    /// Closes so many milliseconds after the reply.
    Close {
        later: u64,
    },
    /// Never answers.
    Silence,
}

/// What a backend answers.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Untagged lines.
    pub(crate) lines: u64,
    /// One of them ends in a literal of this size.
    pub(crate) literal: Option<usize>,
    pub(crate) status: &'static str,
    /// Milliseconds before anything is said.
    pub(crate) delay: u64,
    /// The reply goes out in so many pieces, a little time apart.
    pub(crate) pieces: u64,
    /// News of the mailbox that were on their way when the command came.
    pub(crate) news_before: bool,
    pub(crate) news_after: bool,
    /// A synchronising literal is refused instead of asked for.
    pub(crate) refuses_literal: bool,
    pub(crate) fault: Fault,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let literal = match rng.below(100) {
            0..60 => None,
            60..85 => Some(rng.below(200)),
            85..96 => Some(rng.below(5_000)),
            96..99 => Some(rng.below(40_000)),
            _ => Some(rng.below(300_000)),
        };
        let milliseconds = |rng: &mut Rng| if rng.chance(200) { rng.below(60) } else { rng.below(3) };
        Self {
            lines: rng.below(4) + u64::from(literal.is_some()),
            literal: literal.map(|len| usize::try_from(len).unwrap()),
            status: rng.pick(&["OK", "OK", "OK", "OK", "OK", "OK", "OK", "OK", "NO", "BAD"]),
            delay: if rng.chance(50) { milliseconds(&mut rng) } else { 0 },
            pieces: if rng.chance(60) { 2 + rng.below(4) } else { 1 },
            news_before: rng.chance(300),
            news_after: rng.chance(150),
            refuses_literal: rng.chance(100),
            fault: if rng.chance(60) { Fault::any(&mut rng) } else { Fault::None },
        }
    }
}

impl Fault {
    fn any(rng: &mut Rng) -> Self {
        let later = if rng.chance(500) { 0 } else { rng.below(8) };
        match rng.below(40) {
            0..8 => Self::Cut { thousandths: rng.below(1001), reset: rng.chance(500) },
            8..12 => Self::Bye { before: rng.chance(500) },
            12..16 => Self::WrongTag { old: rng.chance(500) },
            16..19 => Self::Garbage,
            19..22 => Self::Continuation,
            22..26 => Self::Twice { later },
            26..31 => Self::Late { later },
            31..35 => Self::LateInParts { later },
            35..39 => Self::Close { later },
            _ => Self::Silence,
        }
    }
}
