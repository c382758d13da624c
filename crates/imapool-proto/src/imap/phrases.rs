//! What servers say in words where response codes would be clearer: limits, throttling, logins that were accepted but
//! do not work. The words are data: one line for each way of saying it, with the server or the report it comes from.

use super::response::{Status, StatusReply};

/// What a server's words mean for a login, or for the session behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Too many connections or sessions of this account.
    Limit,
    /// The server cannot or will not judge now: it is throttling, or something within it is broken.
    Later,
    /// The login was accepted, but there is no mailbox behind it.
    NotConnected,
    /// The client is to tell by ID who it is (RFC 2971).
    NeedsId,
    /// The credential is refused.
    Refused,
}

use Meaning::{Later, Limit, NeedsId, NotConnected, Refused};

/// Response codes that say it (RFC 5530 section 3), or that servers have made up for it.
const CODES: &[(Meaning, &str)] = &[
    (Limit, "LIMIT"),
    (Limit, "INUSE"),
    (Later, "UNAVAILABLE"),
    (Later, "SERVERBUG"),
    (Later, "CORRUPTION"),
    (Later, "THROTTLED"),
    (Later, "OVERQUOTA"),
    (Later, "SYS/TEMP"),
    (Refused, "AUTHENTICATIONFAILED"),
    (Refused, "AUTHORIZATIONFAILED"),
    (Refused, "EXPIRED"),
];

/// Words that say it, in small letters. `…` stands for anything. The first that is found counts.
const PHRASES: &[(Meaning, &str)] = &[
    // Exchange and its cloud (email-oauth2-proxy #74 and #275, node-imap #523 and #689, getmail6 #214, imapsync #411).
    (NotConnected, "authenticated but not connected"),
    (NotConnected, "session invalidated"),
    // NetEase: 163, 126 (himalaya #651, go-imap #524).
    (NeedsId, "unsafe login"),
    // A penalty for wrong logins, which says nothing about this one.
    (Later, "too many…failures"),
    (Later, "too many failed"),
    (Later, "too many…attempts"),
    (Later, "too many bad"),
    (Later, "too many invalid"),
    // Exchange and its cloud.
    (Later, "throttl"),
    (Later, "backoff time"),
    (Later, "unavailable"),
    (Later, "connection is closed."),
    // Gmail.
    (Later, "bandwidth limit"),
    // Yahoo, AOL, Mailu (#1251, #2283).
    (Later, "rate limit"),
    (Later, "rate-limit"),
    (Later, "ratelimit"),
    // Whoever counts commands.
    (Later, "too many requests"),
    (Later, "too many commands"),
    // Dovecot, Gmail, Courier, Domino, Zimbra, Kerio.
    (Limit, "too many simultaneous"),
    (Limit, "too many concurrent"),
    (Limit, "too many…connection"),
    (Limit, "too many…session"),
    (Limit, "too many…logins"),
    (Limit, "too many…logged in"),
    (Limit, "too many…users"),
    (Limit, "maximum number of…connection"),
    (Limit, "maximum number of…session"),
    (Limit, "maximum number of…login"),
    (Limit, "maximum connection"),
    (Limit, "connection limit"),
    (Limit, "connections limit"),
    (Limit, "session limit"),
    (Limit, "sessions limit"),
    (Limit, "login limit"),
    (Limit, "limit…connections"),
    (Limit, "limit…sessions"),
    (Limit, "limit…logins"),
    (Limit, "connections exceeded"),
    (Limit, "mailbox is in use"),
    (Limit, "mailbox in use"),
    // Dovecot, Cyrus, Yandex, Courier, Zimbra, GMX and others, when what they ask is down.
    (Later, "temporary…fail"),
    (Later, "temporary…error"),
    (Later, "temporary problem"),
    (Later, "temporarily"),
    (Later, "try again later"),
    (Later, "try again in"),
    (Later, "try again after"),
    (Later, "try later"),
    (Later, "not available at the moment"),
    (Later, "service not available"),
    (Later, "service is not available"),
    (Later, "internal error"),
    (Later, "internal authentication error"),
    (Later, "server error"),
    (Later, "system error"),
    (Later, "backend error"),
    (Later, "generic failure"),
    (Later, "server busy"),
    (Later, "server is busy"),
    (Later, "server too busy"),
    (Later, "overloaded"),
    (Later, "under maintenance"),
    (Later, "down for maintenance"),
    (Later, "shutting down"),
    (Later, "timed out"),
    (Later, "timeout"),
    // Refusals, as far as they have to be recognised: in a BYE.
    (Refused, "authentication fail"),
    (Refused, "authenticate fail"),
    (Refused, "authentication unsuccessful"),
    (Refused, "authentication credentials invalid"),
    (Refused, "login fail"),
    (Refused, "login incorrect"),
    (Refused, "login denied"),
    (Refused, "invalid credentials"),
    (Refused, "invalid…password"),
    (Refused, "incorrect…password"),
    (Refused, "wrong…password"),
    (Refused, "bad…password"),
    (Refused, "password…incorrect"),
    (Refused, "password error"),
    (Refused, "access denied"),
    (Refused, "user unknown"),
    (Refused, "unknown user"),
    (Refused, "account…disabled"),
    (Refused, "account…locked"),
];

/// Octets of a reply's text that are looked at.
const LOOKED_AT: usize = 1000;

/// What a status reply means, if its code or its words say so. That there are too many connections is believed whatever
/// the code (Dovecot says so under `[UNAVAILABLE]`, Gmail under `[ALERT]`); else the code counts before the words.
#[must_use]
pub fn meaning(reply: &StatusReply<'_>) -> Option<Meaning> {
    let code = CODES.iter().find(|(_, code)| reply.has_code(code)).map(|(meaning, _)| *meaning);
    if code == Some(Refused) {
        return code;
    }
    match of_words(reply.text) {
        Some(words @ (Limit | NotConnected)) => Some(words),
        words => code.or(words),
    }
}

/// Whether its response code says that the credential is not good (any more).
#[must_use]
pub fn refuses_by_code(reply: &StatusReply<'_>) -> bool {
    CODES.iter().any(|(meaning, code)| *meaning == Refused && reply.has_code(code))
}

/// Words, in small letters, by which servers say that there is no such mailbox.
const NO_MAILBOX: &[&str] =
    &["not exist", "n't exist", "nonexist", "non-exist", "no such", "not found", "unknown mailbox"];

/// Whether a refusal says that the mailbox is not there (RFC 5530 section 3, NONEXISTENT).
#[must_use]
pub fn says_no_mailbox(reply: &StatusReply<'_>) -> bool {
    let says = |text: Vec<u8>| NO_MAILBOX.iter().any(|phrase| says(&text, phrase));
    reply.status == Status::No && (reply.has_code("NONEXISTENT") || reply.code.is_none() && says(small(reply.text)))
}

/// Whether a reply to any command says that there is no session behind the login (any more).
#[must_use]
pub fn says_not_connected(reply: &StatusReply<'_>) -> bool {
    let says = |text: Vec<u8>| PHRASES.iter().any(|(meaning, phrase)| *meaning == NotConnected && says(&text, phrase));
    reply.status != Status::Ok && says(small(reply.text))
}

/// What a text means, if its words say so.
#[must_use]
pub fn of_words(text: &[u8]) -> Option<Meaning> {
    let text = small(text);
    PHRASES.iter().find(|(_, phrase)| says(&text, phrase)).map(|(meaning, _)| *meaning)
}

/// As much of a text as is looked at, in small letters.
fn small(text: &[u8]) -> Vec<u8> {
    text[..text.len().min(LOOKED_AT)].to_ascii_lowercase()
}

/// Whether the parts of `phrase` stand in `text`, one after the other.
fn says(text: &[u8], phrase: &str) -> bool {
    let mut rest = text;
    phrase.split('…').all(|part| {
        let found = memchr::memmem::find(rest, part.as_bytes());
        rest = found.map_or(rest, |at| &rest[at + part.len()..]);
        found.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replies as servers have given them.
    const SAID: &[(Option<Meaning>, &str)] = &[
        (Some(NotConnected), "BAD User is authenticated but not connected."),
        (Some(NotConnected), "BYE Session invalidated - AccessTokenExpired"),
        (Some(NeedsId), "NO SELECT Unsafe Login. Please contact kefu@188.com for help"),
        (Some(NeedsId), "NO EXAMINE Unsafe Login. Please contact kefu@188.com for help"),
        (Some(Later), "BAD Request is throttled. Suggested Backoff Time: 57131 milliseconds"),
        (Some(Later), "NO Server Unavailable. 15"),
        (Some(Later), "BYE Connection is closed. 13"),
        (Some(Later), "NO [ALERT] Account exceeded command or bandwidth limits. (Failure)"),
        (Some(Later), "NO [OVERQUOTA] Account exceeded command or bandwidth limits."),
        (Some(Later), "NO [THROTTLED] slow down"),
        (Some(Later), "NO Throttled"),
        (Some(Later), "NO [UNAVAILABLE] LOGIN Server error - Please try again later"),
        (Some(Limit), "NO [LIMIT] LOGIN Rate limit hit."),
        (Some(Later), "NO LOGIN Rate limit hit."),
        (Some(Later), "NO Authentication rate limit from one source exceeded"),
        (Some(Later), "NO Temporary authentication failure (rate-limit)"),
        (Some(Later), "NO [UNAVAILABLE] Temporary authentication failure. [host:2024-01-01 00:00:00]"),
        (Some(Later), "NO [UNAVAILABLE] Account is temporarily unavailable."),
        (Some(Later), "NO Temporary system problem. Please try again later. (Failure)"),
        (Some(Later), "NO [UNAVAILABLE] LOGIN internal server error sc=abc"),
        (Some(Later), "NO [SERVERBUG] Internal error occurred. Refer to server log for more information."),
        (Some(Later), "NO System error"),
        (Some(Later), "NO Login failed: generic failure"),
        (Some(Later), "NO Too many login failures"),
        (Some(Later), "NO Too many failed login attempts, account blocked for 10 minutes"),
        (Some(Later), "BYE Too many bad commands"),
        (Some(Limit), "NO [INUSE] later"),
        (
            Some(Limit),
            "NO [LIMIT] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
        ),
        (Some(Limit), "NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded"),
        (Some(Limit), "NO [ALERT] Too many simultaneous connections. (Failure)"),
        (Some(Limit), "NO Too many open connections"),
        (Some(Limit), "NO too many open sessions for this user"),
        (Some(Limit), "NO [ALERT] Maximum connections for user exceeded"),
        (Some(Limit), "BYE Connection limit reached"),
        (Some(Limit), "BYE You have exceeded the limit of 20 connections"),
        (Some(Refused), "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)"),
        (Some(Refused), "NO [AUTHENTICATIONFAILED] try again later"),
        (Some(Refused), "NO [AUTHORIZATIONFAILED] No such authorization-ID"),
        (Some(Refused), "NO [EXPIRED] Your password is too old"),
        (Some(Refused), "NO LOGIN failed."),
        (Some(Refused), "NO AUTHENTICATE failed."),
        (Some(Refused), "NO Login failed."),
        (Some(Refused), "BYE Authentication failed"),
        (Some(Refused), "NO LOGIN Login error or password error"),
        (Some(Refused), "NO Login fail. Password is incorrect, login frequency limited, or system is busy."),
        (None, "NO IMAP access is not enabled for this account"),
        (None, "NO [ALERT] Please log in via your web browser: http://support.example/ (Failure)"),
        (None, "BAD Plaintext not allowed"),
        (Some(Refused), "NO Invalid user name or password. Please try again."),
        (None, "NO no"),
        (None, "BYE"),
    ];

    #[test]
    fn what_servers_say() {
        for (wanted, said) in SAID {
            let reply = StatusReply::parse(said.as_bytes()).unwrap();
            assert_eq!(meaning(&reply), *wanted, "{said}");
        }
    }

    #[test]
    fn every_line_of_the_tables_is_found_whatever_the_case_and_whatever_is_around_it() {
        for (at, (meant, phrase)) in PHRASES.iter().enumerate() {
            assert_eq!(*phrase, phrase.to_lowercase());
            let said = format!("NO Sorry: {} {at}.", phrase.replace('…', " such ").to_uppercase());
            let reply = StatusReply::parse(said.as_bytes()).unwrap();
            assert_eq!(meaning(&reply), Some(*meant), "{said}");
            let before = PHRASES[..at].iter().find(|(_, earlier)| phrase.contains(earlier) && !earlier.contains('…'));
            assert_eq!(before, None, "never reached: {phrase}");
        }
        for (meant, code) in CODES {
            let said = format!("NO [{}] no", code.to_lowercase());
            assert_eq!(meaning(&StatusReply::parse(said.as_bytes()).unwrap()), Some(*meant), "{said}");
        }
    }

    #[test]
    fn any_octets_of_any_length_mean_something_or_nothing() {
        assert_eq!(of_words(b""), None);
        assert_eq!(of_words(&[0xff; 5000]), None);
        assert_eq!(of_words(&[&[b'x'; 2000][..], b"throttled"].concat()), None);
    }
}
