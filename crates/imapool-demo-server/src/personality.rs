//! Kinds of servers, as data: what each says, offers and lacks, and in what it differs from the RFC.
//!
//! A [`Personality`] is a row of a table and no copy of the server: [`Personality::options`] makes [`Options`] of it,
//! and the server looks at [`Quirks`] in a few places. It knows no sockets and no clock.

mod kinds;

use std::borrow::Cow;

use super::options::{Capabilities, Fault, Options, Stage};

/// One kind of server.
#[derive(Debug, Clone)]
pub struct Personality {
    /// What `imapool demo --server` calls it.
    pub name: Cow<'static, str>,
    /// Which servers it stands for, in one line.
    pub about: Cow<'static, str>,
    /// What imapool can do in front of it. The grid of the tests holds this to be true.
    pub verdict: Verdict,
    /// How it behaves.
    pub options: Options,
}

/// What an operator is told of a kind.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Short sessions share a few connections: 1,000 visits open no more than `pool.max_per_account`.
    pub pooling: bool,
    /// Sessions that have the same mailbox selected share one connection (`pool.mode = "multiplex"`).
    pub sharing: bool,
    /// What to set in the configuration; empty: nothing.
    pub set: Cow<'static, str>,
    /// What else to know; where `pooling` or `sharing` does not hold, why.
    pub know: Cow<'static, str>,
}

/// What a server says where servers use words of their own. Statuses are whole: `NO [CODE] text`.
#[derive(Debug, Clone)]
pub struct Words {
    /// After `* OK ` and the CAPABILITY code of the greeting.
    pub greeting: &'static str,
    /// After `OK ` and the CAPABILITY code of a login.
    pub logged_in: &'static str,
    /// The status of a wrong password.
    pub wrong_password: &'static str,
    /// Said untagged before that; empty: nothing.
    pub before_refusal: &'static str,
    /// The status of one login too many of an account; `{max}` stands for the limit.
    pub too_many: &'static str,
    /// The status of a command that is not known or not offered.
    pub unknown: &'static str,
    /// The status of SELECT, EXAMINE and STATUS of a mailbox that is not there.
    pub no_mailbox: &'static str,
    /// After `* BYE ` where the server ends a connection by itself.
    pub bye: &'static str,
    /// Added to the text of each tagged OK.
    pub suffix: &'static str,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            greeting: "imapool demo server ready.",
            logged_in: "Logged in",
            wrong_password: "NO [AUTHENTICATIONFAILED] Authentication failed.",
            before_refusal: "",
            too_many: "NO [LIMIT] Maximum number of connections from user+IP exceeded \
                       (mail_max_userip_connections={max})",
            unknown: "BAD Error in IMAP command: an unknown command.",
            no_mailbox: "NO [NONEXISTENT] Mailbox doesn't exist.",
            bye: "Server shutting down.",
            suffix: "",
        }
    }
}

/// How mailboxes are named towards clients. Within the store the delimiter is `/`, and there is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Between the levels of the hierarchy.
    pub delimiter: char,
    /// Before every name but INBOX: the personal namespace (RFC 2342).
    pub prefix: &'static str,
}

impl Default for Names {
    fn default() -> Self {
        Self { delimiter: '/', prefix: "" }
    }
}

impl Names {
    /// The store's name for what a client calls `name`; `None` outside of the personal namespace.
    pub(super) fn inner(self, name: &str) -> Option<String> {
        if name.eq_ignore_ascii_case("INBOX") {
            return Some("INBOX".into());
        }
        let (prefix, rest) = name.split_at_checked(self.prefix.len())?;
        prefix.eq_ignore_ascii_case(self.prefix).then(|| self.swapped(rest))
    }

    /// What a client calls the store's `name`.
    pub fn outer(self, name: &str) -> String {
        if name == "INBOX" { name.into() } else { format!("{}{}", self.prefix, self.swapped(name)) }
    }

    /// `/` and the delimiter exchanged, so that no two names become one.
    fn swapped(self, name: &str) -> String {
        let swap = |c| match c {
            '/' => self.delimiter,
            c if c == self.delimiter => '/',
            c => c,
        };
        name.chars().map(swap).collect()
    }

    /// The delimiter as a quoted string (RFC 3501 section 7.2.2).
    pub(super) fn quoted_delimiter(self) -> String {
        if self.delimiter == '\\' { "\"\\\\\"".into() } else { format!("\"{}\"", self.delimiter) }
    }
}

/// In what a server differs from the RFC, or from what most servers do. The default is none of it.
#[derive(Debug, Clone, Default)]
pub struct Quirks {
    /// SELECT and EXAMINE have this status until ID was sent after login.
    pub id_before_select: Option<&'static str>,
    /// A wrong password is answered with OK, and so is one login too many; this is the status of the next commands.
    pub not_connected: Option<&'static str>,
    /// Where MOVE says COPYUID.
    pub copyuid: CopyUid,
    /// IDLE is offered and has this status.
    pub idle_refused: Option<&'static str>,
    /// A failed SELECT or EXAMINE leaves the mailbox before it selected.
    pub failed_select_keeps: bool,
    /// STATUS of the selected mailbox has this status.
    pub status_of_selected: Option<&'static str>,
    /// No message is ever \Recent.
    pub no_recent: bool,
    /// The capabilities after login come as an untagged line before the tagged OK.
    pub capability_line: bool,
    /// ENABLE is answered with OK and without ENABLED, and switches nothing on.
    pub silent_enable: bool,
    /// A folded header field stays folded in ENVELOPE: CRLF in a quoted string.
    pub folded_strings: bool,
    /// How literals are announced and ended.
    pub literals: Literals,
    /// FETCH and STORE by number end with OK where messages are gone: what is left is served.
    pub serves_what_is_left: bool,
    /// Two spaces before the number of EXISTS.
    pub wide_exists: bool,
    /// EXAMINE does not say UIDVALIDITY and UIDNEXT.
    pub examine_without_validity: bool,
    /// FETCH of ENVELOPE or BODYSTRUCTURE of a message with the header field `X-Unreadable` has this status.
    pub unreadable: Option<&'static str>,
    /// BODYSTRUCTURE of a multipart has no subtype and no parameters.
    pub odd_structure: bool,
    /// Lines said before the tagged reply of a command, as they are.
    pub remarks: Cow<'static, [Remark]>,
    /// Where the connection ends of itself.
    pub dies: Option<Death>,
    /// `remarks`, `dies` and `not_connected` befall this user alone; `None`: everybody.
    pub victim: Option<String>,
}

/// Where MOVE says which UIDs the messages have got (RFC 6851 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyUid {
    /// In an untagged OK before the EXPUNGEs.
    #[default]
    Untagged,
    /// In the tagged reply.
    Tagged,
    /// In a line that consists of the code alone.
    Bare,
}

/// How a server sends literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Literals {
    /// `{5}`
    #[default]
    Plain,
    /// `{5+}`, which is for clients only (RFC 7888).
    Plus,
    /// An empty line after the octets of each message.
    LineAfter,
}

/// A line that a server says before the tagged reply of a command. `TAG` in it stands for the command's tag.
#[derive(Debug, Clone)]
pub struct Remark {
    /// The command's name in upper case; `*` is any command after login.
    pub verb: &'static str,
    /// The line without its end; an empty one is just that.
    pub line: Cow<'static, str>,
    /// The command's own untagged replies are not said.
    pub instead: bool,
}

/// At which step a connection dies, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// The step.
    pub at: Step,
    /// With `* BYE` before.
    pub bye: bool,
}

/// A step of a connection at which it can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Instead of the greeting.
    Greeting,
    /// At this command, in the middle of which `after` octets of its reply are sent; `None`: instead of any.
    Command {
        /// In upper case; `LOGIN` is AUTHENTICATE as well.
        verb: &'static str,
        /// Octets of the reply.
        after: Option<usize>,
    },
    /// Once the login was answered.
    AfterLogin,
    /// When a literal is announced, before it is asked for.
    Literal,
}

impl Quirks {
    /// Whether what befalls single users befalls this one.
    pub(super) fn befall(&self, user: Option<&str>) -> bool {
        self.victim.as_deref().is_none_or(|victim| user == Some(victim))
    }

    /// What becomes of a connection at this moment; `user` is who is logged in, or asks to be.
    pub(super) fn fault(&self, user: Option<&str>, stage: Stage, verb: &str) -> Fault {
        let Some(Death { at, bye }) = self.dies else { return Fault::None };
        if !self.befall(user) {
            return Fault::None;
        }
        let end = if bye { Fault::ByeThenClose } else { Fault::CloseBefore };
        match at {
            Step::Greeting if stage == Stage::Greeting => end,
            Step::Literal if stage == Stage::Literal && user.is_some() => end,
            Step::Command { verb: dying, after } if stage == Stage::Command && named(dying, verb) => {
                after.map_or(end, Fault::CloseMidReply)
            }
            _ => Fault::None,
        }
    }
}

/// Whether a command is the one that a table means.
fn named(wanted: &str, verb: &str) -> bool {
    let verb = if verb == "AUTHENTICATE" { "LOGIN" } else { verb.strip_prefix("UID ").unwrap_or(verb) };
    wanted == verb
}

impl Remark {
    /// Whether it is said with this command.
    pub(super) fn suits(&self, verb: &str) -> bool {
        self.verb == "*" || named(self.verb, verb)
    }
}

impl Personality {
    /// The kind of this name: `gmail`, `lacks:IDLE`, `dies:select+bye`; case does not matter.
    pub fn of(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|kind| kind.name.eq_ignore_ascii_case(name))
    }

    /// All kinds, in the order in which they are listed.
    pub fn all() -> Vec<Self> {
        let mut all = kinds::servers();
        all.extend(kinds::lacking());
        all.extend(kinds::throttling());
        all.extend(kinds::liars());
        all.extend(kinds::dying());
        all
    }

    /// Whether it stands for a server that people run, and not for a fault.
    pub fn is_server(&self) -> bool {
        !self.name.contains(':')
    }

    /// The options of a server of this kind.
    pub fn options(&self) -> Options {
        self.options.clone()
    }
}

impl Capabilities {
    /// The capabilities of a server that says the same before and after login, but for the mechanisms.
    fn lists(before: &str, after: &str) -> Self {
        Self { before: before.into(), after: after.into(), in_greeting: false, after_login: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_to_one() {
        let courier = Names { delimiter: '.', prefix: "INBOX." };
        for (inner, outer) in [("INBOX", "INBOX"), ("Sent", "INBOX.Sent"), ("a/b.c", "INBOX.a.b/c")] {
            assert_eq!(courier.outer(inner), outer);
            assert_eq!(courier.inner(outer).as_deref(), Some(inner));
        }
        assert_eq!(courier.inner("inbox.Sent").as_deref(), Some("Sent"));
        assert_eq!(courier.inner("Sent"), None);
        assert_eq!(Names { delimiter: '\\', prefix: "" }.quoted_delimiter(), r#""\\""#);
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_and_says_why_it_does_not_work() {
        let all = Personality::all();
        let mut names: Vec<_> = all.iter().map(|kind| kind.name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for kind in all {
            assert!(!kind.about.is_empty() && Personality::of(&kind.name).is_some(), "{}", kind.name);
            let Verdict { pooling, sharing, know, .. } = kind.verdict;
            assert!(pooling && sharing || !know.is_empty(), "{}", kind.name);
        }
    }

    #[test]
    fn a_death_befalls_its_victim_alone() {
        let quirks = Quirks {
            dies: Some(Death { at: Step::Command { verb: "FETCH", after: None }, bye: true }),
            victim: Some("victim".into()),
            ..Quirks::default()
        };
        assert_eq!(quirks.fault(Some("victim"), Stage::Command, "UID FETCH"), Fault::ByeThenClose);
        assert_eq!(quirks.fault(Some("other"), Stage::Command, "FETCH"), Fault::None);
        assert_eq!(quirks.fault(Some("victim"), Stage::Command, "SELECT"), Fault::None);
    }
}
