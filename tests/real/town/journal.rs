//! Who was logged in where and when, by the servers' logs.

use std::collections::HashMap;
use std::time::SystemTime;

/// Seconds, by the clock of the logs.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// One login.
#[derive(Debug, Clone)]
pub(super) struct Stay {
    pub(super) user: String,
    pub(super) server: usize,
    pub(super) from: f64,
    /// None: nothing tells that it has ended.
    pub(super) to: Option<f64>,
}

/// All logins that a server's log tells of, since `begun`. When the server was killed, all that were there ended.
pub(super) fn stays(server: usize, log: &str, begun: f64, kills: &[f64]) -> Vec<Stay> {
    let login = regex::Regex::new(r"^(\d+\.\d+) imap-login: Info: Login: user=<([^>]*)>.* session=<([^>]*)>").unwrap();
    let end = regex::Regex::new(r"^(\d+\.\d+) imap\([^)]*\)<\d+><([^>]*)>: Info: Disconnected").unwrap();
    let time = |text: &str| text.parse::<f64>().unwrap();
    let ends: HashMap<_, _> = log
        .lines()
        .filter_map(|line| end.captures(line))
        .map(|it| it.extract().1)
        .map(|[at, session]| (session, time(at)))
        .collect();
    let logins = log.lines().filter_map(|line| login.captures(line)).map(|it| it.extract().1);
    let stay = |[at, user, session]: [&str; 3]| {
        let from = time(at);
        let killed = kills.iter().copied().find(|kill| *kill > from);
        let to = ends.get(session).copied().or(killed);
        Stay { user: user.to_owned(), server, from, to }
    };
    logins.map(stay).filter(|stay| stay.from >= begun).collect()
}

/// For how long an account was at two servers at once at most, and how often accounts came to another server.
#[derive(Debug, Default)]
pub(super) struct Overlaps {
    pub(super) longest: f64,
    pub(super) example: String,
    pub(super) moves: usize,
}

pub(super) fn overlaps(mut stays: Vec<Stay>) -> Overlaps {
    stays.sort_by(|a, b| a.from.total_cmp(&b.from));
    let mut found = Overlaps { longest: f64::NEG_INFINITY, ..Overlaps::default() };
    // Of each account: the last that came, and of each server the stay that lasts longest.
    let mut known: HashMap<&str, Vec<&Stay>> = HashMap::new();
    for stay in &stays {
        let earlier = known.entry(&stay.user).or_default();
        found.moves += usize::from(earlier.last().is_some_and(|last| last.server != stay.server));
        for other in earlier.iter().filter(|other| other.server != stay.server) {
            let overlap = other.to.unwrap_or(f64::INFINITY) - stay.from;
            if overlap > found.longest {
                (found.longest, found.example) = (overlap, format!("{other:?}, {stay:?}"));
            }
        }
        earlier.push(stay);
    }
    found
}

#[test]
fn overlaps_are_found() {
    let stay = |server, from, to| Stay { user: "u".into(), server, from, to };
    let apart = overlaps(vec![stay(0, 1.0, Some(2.0)), stay(0, 1.5, Some(3.0)), stay(1, 3.5, None)]);
    assert_eq!((apart.longest, apart.moves), (-0.5, 1));
    let both = overlaps(vec![stay(1, 2.0, None), stay(0, 1.0, Some(2.5)), stay(0, 1.1, Some(1.2))]);
    assert_eq!((both.longest, both.moves), (0.5, 1));
    assert_eq!(overlaps(vec![stay(1, 2.0, None), stay(0, 3.0, None)]).longest, f64::INFINITY);
}

#[test]
fn the_log_of_a_dovecot_is_understood() {
    let log = "1.5 imap-login: Info: Login: user=<a>, method=PLAIN, rip=127.0.0.1, mpid=7, session=<x>\n\
               2.5 imap(a)<7><x>: Info: Disconnected: Logged out in=10 out=500\n\
               3.5 imap-login: Info: Login: user=<b>, method=PLAIN, rip=127.0.0.1, mpid=8, session=<y>\n";
    let seen: Vec<_> = stays(2, log, 0.0, &[4.0]).into_iter().map(|it| (it.user, it.from, it.to)).collect();
    assert_eq!(seen, [("a".to_owned(), 1.5, Some(2.5)), ("b".to_owned(), 3.5, Some(4.0))]);
    assert_eq!(stays(2, log, 3.0, &[]).len(), 1);
}
