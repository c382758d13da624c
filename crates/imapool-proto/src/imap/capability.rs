//! Capabilities: what a backend offers, and what of it imapool can promise to a client.
//!
//! Offered is what the backend offers, less what a pooling proxy cannot keep, plus what imapool does itself.

use std::sync::{Arc, OnceLock};

/// A list of capabilities, in the backend's order.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    words: Vec<String>,
    /// What is made of it for each [`Front`], once it was asked for: each session begins with one.
    before_login: [OnceLock<Arc<str>>; 4],
}

impl PartialEq for Capabilities {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for Capabilities {}

/// What decides about the list before login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Front {
    /// STARTTLS can be given.
    pub starttls: bool,
    /// A password may be sent as things are.
    pub login: bool,
}

/// Offered by imapool itself, whatever the backend: literals are its own affair on each side (RFC 7888), and so are
/// SASL-IR (RFC 4959) and ID (RFC 2971).
const OWN: [&str; 3] = ["SASL-IR", "LITERAL+", "ID"];

/// Of this replica (its name follows), nothing is held by the one that says so.
pub const FREE: &str = "XIMAPOOL-FREE=";

/// Login mechanisms that need a token, which only the backend can judge.
const TOKEN_MECHANISMS: [&str; 2] = ["XOAUTH2", "OAUTHBEARER"];

/// Bound on one list: number of words kept. Real servers have some sixty.
const MAX_WORDS: usize = 256;

impl Capabilities {
    /// Reads the words after `CAPABILITY`. What is not printable ASCII is left out.
    #[must_use]
    pub fn parse(words: &[u8]) -> Self {
        let clean =
            |word: &&str| word.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'[' | b']' | b'"' | b'\\'));
        let words = split(words).filter_map(|word| std::str::from_utf8(word).ok()).filter(clean);
        Self::of(words.take(MAX_WORDS).map(str::to_owned).collect())
    }

    /// Used before a backend was ever reached: what any IMAP server can do.
    #[must_use]
    pub fn minimal() -> Self {
        Self::of(vec!["IMAP4rev1".into(), "AUTH=PLAIN".into()])
    }

    /// What all of these lists have, in the order of the first.
    #[must_use]
    pub fn shared<'l>(mut lists: impl Iterator<Item = &'l Self>) -> Self {
        let mut words = lists.next().map(|first| first.words.clone()).unwrap_or_default();
        for other in lists {
            words.retain(|word| other.has(word));
        }
        Self::of(words)
    }

    /// Whether it is what [`Capabilities::parse`] makes of these words.
    #[must_use]
    pub fn is_told_by(&self, words: &[u8]) -> bool {
        split(words).eq(self.words.iter().map(String::as_bytes))
    }

    fn of(words: Vec<String>) -> Self {
        Self { words, ..Self::default() }
    }

    /// Whether `name` is in the list; case does not matter.
    pub fn has(&self, name: &str) -> bool {
        self.words.iter().any(|word| word.eq_ignore_ascii_case(name))
    }

    /// Nothing was ever said.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether a password can be verified: by LOGIN, or by AUTHENTICATE with PLAIN or LOGIN.
    pub fn takes_password(&self) -> bool {
        !self.has("LOGINDISABLED") || self.has("AUTH=PLAIN") || self.has("AUTH=LOGIN")
    }

    /// Whether the SASL mechanism is one that imapool speaks and can have verified by this backend.
    pub fn takes_mechanism(&self, mechanism: &str) -> bool {
        match mechanism {
            "PLAIN" | "LOGIN" => self.takes_password(),
            _ => TOKEN_MECHANISMS.contains(&mechanism) && self.has(&format!("AUTH={mechanism}")),
        }
    }

    /// The list for a client that has not logged in.
    #[must_use]
    pub fn before_login(&self, front: Front) -> Arc<str> {
        let place = usize::from(front.starttls) * 2 + usize::from(front.login);
        Arc::clone(self.before_login[place].get_or_init(|| self.list_before_login(front).into()))
    }

    fn list_before_login(&self, front: Front) -> String {
        let mut words = self.kept();
        if front.starttls {
            words.push("STARTTLS".into());
        }
        if front.login {
            let taken = ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"].into_iter().filter(|it| self.takes_mechanism(it));
            words.extend(taken.map(|mechanism| format!("AUTH={mechanism}")));
        }
        if !front.login || !self.takes_password() {
            words.push("LOGINDISABLED".into());
        }
        words.join(" ")
    }

    /// The list for a client that has logged in.
    pub fn after_login(&self) -> String {
        self.kept().join(" ")
    }

    fn kept(&self) -> Vec<String> {
        let mut words: Vec<String> = self.words.iter().filter(|word| keeps(word)).cloned().collect();
        for own in OWN {
            if !words.iter().any(|word| word.eq_ignore_ascii_case(own)) {
                words.push(own.into());
            }
        }
        words
    }
}

fn split(words: &[u8]) -> impl Iterator<Item = &[u8]> {
    words.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// Whether a backend's capability holds through a pool.
fn keeps(word: &str) -> bool {
    let word = word.to_ascii_uppercase();
    // Each side's own affair: TLS, logins, literals (imapool takes `{n+}` of any size), compression. Then what would
    // point a client past the proxy (RFC 9698, RFC 2221, RFC 2193). FREE is said to replicas alone.
    !["STARTTLS", "LOGINDISABLED", "LITERAL-", "UNAUTHENTICATE", "LOGIN-REFERRALS", "MAILBOX-REFERRALS"]
        .contains(&&*word)
        && !["AUTH=", "COMPRESS=", "JMAPACCESS", FREE].iter().any(|start| word.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_again_is_known() {
        let told = b" IMAP4rev1  IDLE AUTH=PLAIN";
        let known = Capabilities::parse(told);
        assert!(known.is_told_by(told) && known.is_told_by(b"IMAP4rev1 IDLE AUTH=PLAIN "));
        for other in [&b"IMAP4rev1 IDLE"[..], b"IMAP4rev1 IDLE AUTH=PLAIN X", b"IDLE IMAP4rev1 AUTH=PLAIN", b""] {
            assert!(!known.is_told_by(other));
        }
    }

    #[test]
    fn what_cannot_be_kept_is_not_offered() {
        let backend = Capabilities::parse(
            b" IMAP4rev1 LITERAL- IDLE STARTTLS LOGINDISABLED AUTH=PLAIN AUTH=GSSAPI AUTH=XOAUTH2 COMPRESS=DEFLATE UNAUTHENTICATE",
        );
        assert_eq!(
            &*backend.before_login(Front { starttls: false, login: true }),
            "IMAP4rev1 IDLE SASL-IR LITERAL+ ID AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2"
        );
        assert_eq!(
            &*backend.before_login(Front { starttls: true, login: false }),
            "IMAP4rev1 IDLE SASL-IR LITERAL+ ID STARTTLS LOGINDISABLED"
        );
        assert_eq!(backend.after_login(), "IMAP4rev1 IDLE SASL-IR LITERAL+ ID");
    }

    #[test]
    fn a_password_nobody_can_verify_is_not_asked_for() {
        let backend = Capabilities::parse(b"IMAP4rev1 LOGINDISABLED AUTH=OAUTHBEARER");
        let offered = backend.before_login(Front { starttls: false, login: true });
        assert_eq!(&*offered, "IMAP4rev1 SASL-IR LITERAL+ ID AUTH=OAUTHBEARER LOGINDISABLED");
    }

    #[test]
    fn what_several_backends_share() {
        let lists = [
            "IMAP4rev1 IDLE AUTH=PLAIN AUTH=XOAUTH2 X",
            "imap4rev1 AUTH=PLAIN idle",
            "IMAP4rev1 LOGINDISABLED IDLE AUTH=PLAIN",
        ];
        let lists = lists.map(|list| Capabilities::parse(list.as_bytes()));
        let shared = Capabilities::shared(lists.iter());
        assert_eq!(
            &*shared.before_login(Front { starttls: false, login: true }),
            "IMAP4rev1 IDLE SASL-IR LITERAL+ ID AUTH=PLAIN AUTH=LOGIN"
        );
        assert!(Capabilities::shared([].into_iter()).is_empty());
    }

    #[test]
    fn hostile_lists_break_no_line() {
        let list = Capabilities::parse(b"IMAP4rev1 X]Y A\x00B \xff ID");
        assert_eq!(list.after_login(), "IMAP4rev1 ID SASL-IR LITERAL+");
        assert_eq!(Capabilities::parse(&b"X ".repeat(9999)).words.len(), MAX_WORDS);
    }
}
