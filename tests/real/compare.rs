//! When two replies are the same: what differs from run to run is replaced, what imapool answers by itself is
//! compared by its status alone, lists of capabilities by the capability rule.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use similar::TextDiff;

use crate::runner::Transcript;

/// Commands which imapool answers, or may answer, without the server: their text is its own.
const OWN_TEXT: [&str; 9] =
    ["LOGIN", "AUTHENTICATE", "LOGOUT", "CAPABILITY", "ID", "NOOP", "STARTTLS", "UNAUTHENTICATE", "IDLE"];

/// Their replies may tell the capabilities in a response code or beside it; a refusal is a refusal.
const LOGINS: [&str; 2] = ["LOGIN", "AUTHENTICATE"];

/// Stands before the capabilities that a greeting tells.
const GREETING: &str = "<GREETING> ";

/// Commands whose `RECENT` counts.
const OPENING: [&str; 2] = ["SELECT", "EXAMINE"];

/// Response codes that a refused login may have or lack.
const REFUSAL_CODES: [&str; 3] = ["", " [ALERT]", " [AUTHENTICATIONFAILED]"];

/// Commands of which only the refusal counts, whether by NO or by BAD: they concern one side's connection alone.
const REFUSED: [&str; 3] = ["STARTTLS", "UNAUTHENTICATE", "COMPRESS"];

/// Capabilities a proxy that shares connections may take back.
const MAY_BE_HIDDEN: [&str; 13] = [
    "COMPRESS=DEFLATE",
    "CONTEXT=SEARCH",
    "CONTEXT=SORT",
    "I18NLEVEL=1",
    "JMAPACCESS",
    "LANGUAGE",
    "LOGIN-REFERRALS",
    "LOGINDISABLED",
    "MAILBOX-REFERRALS",
    "NOTIFY",
    "STARTTLS",
    "UNAUTHENTICATE",
    "X-REPLICATION",
];

/// Capabilities a proxy may have of its own.
const MAY_BE_ADDED: [&str; 6] = ["LITERAL+", "SASL-IR", "ID", "AUTH=PLAIN", "AUTH=LOGIN", "UNSELECT"];

/// What changes from run to run, and what is written instead.
static VOLATILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r" ?\([^()]*\d\.\d{3} [^()]*secs?[^()]*\)", ""),
        (r"UIDVALIDITY \d+", "UIDVALIDITY <n>"),
        (r"(APPENDUID|COPYUID) \d+", "$1 <n>"),
        (r"(HIGHESTMODSEQ|MODIFIED-SINCE) \d+", "$1 <n>"),
        (r"MODSEQ (\(?)\d+", "MODSEQ $1<n>"),
        (r"(MAILBOXID|EMAILID|THREADID) \([^)]*\)", "$1 (<id>)"),
        (r#"(INTERNALDATE|SAVEDATE) "[^"]*(20[3-9]\d|202[5-9])[^"]*""#, "$1 <now>"),
        // Dovecot guesses these from the age of files.
        (r"(\\(?:Has(?:No)?Children|Noselect)) \\(?:UnM|M)arked", "$1"),
        (r"LIST \(\\(?:UnM|M)arked ?", "LIST ("),
        (r"SESSIONID=<[^>]*>", "SESSIONID"),
        // A hub says it itself.
        (r"\[CLOSED\] [^\r\n]*", "[CLOSED]"),
        (r"OK (Unselect|Close) completed\.", "OK Completed"),
        (r"INTERNAL:[0-9a-f]+", "INTERNAL:<token>"),
    ]
    .map(|(pattern, instead)| (Regex::new(pattern).expect("a constant"), instead))
    .into()
});

/// News that came while the server idled: there Cyrus 3.10 tells the UID, and elsewhere not. A hub hears of them where
/// it may.
static TOLD_WITH_UID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(\* \d+ FETCH \(FLAGS \([^()]*\)) UID \d+\)").expect("a constant"));
/// The same, as servers tell it on a connection with QRESYNC.
static TOLD_BY_UID: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?m)^(S: \* \d+ FETCH \()(?:UID \d+ )?(FLAGS \([^()]*\))(?: UID \d+)?\)";
    Regex::new(pattern).expect("a constant")
});
/// Of a tagged OK: what Cyrus says to everybody, and words that imapool has of its own.
static TAGGED: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?m)^(S: [a-z]\w* OK)(?: \[HIGHESTMODSEQ <n>\])?(?: Completed| Enabled\.)?$";
    Regex::new(pattern).expect("a constant")
});
/// What is said beside it is the server's affair, or imapool's.
static HIGHEST: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^(S: \* OK \[HIGHESTMODSEQ <n>\]).*$").expect("a constant"));
static RECENT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\\Recent | ?\\Recent").expect("a constant"));

static CAPABILITIES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)(^\* CAPABILITY|\[CAPABILITY)([^\]\r\n]*)").expect("a constant"));

static STATUS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)^(\S+) (OK|NO|BAD|BYE|PREAUTH)( \[(?:[^\]]*)\])?(.*)$").expect("a constant"));

/// A response made comparable.
#[derive(Debug)]
pub(crate) struct Edge {
    /// Its lines.
    pub(crate) lines: Vec<String>,
    /// The capabilities in it.
    pub(crate) capabilities: Option<String>,
}

/// Makes the responses of one account's conversation comparable with another's.
#[derive(Debug)]
pub(crate) struct Normaliser {
    user: String,
    verbs: HashMap<String, String>,
    last_verb: String,
    greeted: bool,
    recent_counts: bool,
}

impl Normaliser {
    /// For the conversation of `user`. Which of several connections a message is recent for is chance; if there
    /// are several, recent does not count.
    pub(crate) fn new(user: &str, recent_counts: bool) -> Self {
        Self { user: user.to_owned(), verbs: HashMap::new(), last_verb: String::new(), greeted: false, recent_counts }
    }

    /// Notes what a tag stands for.
    pub(crate) fn command(&mut self, tag: &str, verb: &str) {
        self.last_verb = verb.to_ascii_uppercase();
        self.verbs.insert(tag.to_owned(), self.last_verb.clone());
    }

    /// A new connection begins: its greeting comes next.
    pub(crate) fn connected(&mut self) {
        self.greeted = false;
    }

    fn hide_account(&self, text: &str) -> String {
        text.replace(&self.user, "USER")
    }

    /// One response.
    pub(crate) fn response(&mut self, response: &str) -> Edge {
        if response.starts_with('+') {
            return Edge { lines: vec!["+".to_owned()], capabilities: None };
        }
        if response.to_ascii_uppercase().starts_with("* ID ") {
            return Edge { lines: Vec::new(), capabilities: None };
        }
        if ["* LIST ", "* LSUB "].iter().any(|list| response.starts_with(list)) && response.contains("Other Users/") {
            // What another conversation shares with everybody is there or not, as chance has it.
            return Edge { lines: Vec::new(), capabilities: None };
        }
        let counts = self.recent_counts && OPENING.contains(&self.last_verb.as_str());
        if response.ends_with(" RECENT\r\n") && !counts {
            // Comes with the news, or a moment later, or not at all: RFC 9051 has dropped it.
            return Edge { lines: Vec::new(), capabilities: None };
        }
        let mut capabilities = None;
        let of_greeting = if self.greeted { "" } else { GREETING };
        let text = CAPABILITIES.replace(response, |found: &Captures<'_>| {
            capabilities = Some(of_greeting.to_owned() + &found[2].trim().to_ascii_uppercase());
            format!("{} <capabilities>", &found[1])
        });
        if text.starts_with("* CAPABILITY") && LOGINS.contains(&self.last_verb.as_str()) {
            // Dovecot tells them so, and not in the tagged reply, to a client that has asked before.
            return Edge { lines: Vec::new(), capabilities };
        }
        let mut text = self.hide_account(&text);
        if self.last_verb == "IDLE" {
            text = TOLD_WITH_UID.replace(&text, "$1)").into_owned();
        }
        if !self.recent_counts {
            text = RECENT.replace_all(&text, "").into_owned();
        }
        for (pattern, instead) in VOLATILE.iter() {
            text = pattern.replace_all(&text, *instead).into_owned();
        }
        let text = STATUS.replace(&text, |found: &Captures<'_>| self.status(found)).into_owned();
        Edge { lines: text.trim_end_matches("\r\n").split("\r\n").map(str::to_owned).collect(), capabilities }
    }

    fn status(&mut self, found: &Captures<'_>) -> String {
        let (tag, status) = (&found[1], &found[2]);
        let code = found.get(3).map_or("", |code| code.as_str());
        let verb = self.verbs.get(tag).map_or("", String::as_str);
        let greeting = tag == "*" && !std::mem::replace(&mut self.greeted, true);
        let refused = status != "OK" && (REFUSED.contains(&verb) || LOGINS.contains(&verb));
        if refused && REFUSAL_CODES.contains(&code) {
            return format!("{tag} <refused>");
        }
        if LOGINS.contains(&verb) && code.starts_with(" [CAPABILITY") {
            return format!("{tag} {status}");
        }
        // The last LOGOUT of each conversation.
        let own = greeting || tag == "zz" || status == "BAD" || status == "BYE" || OWN_TEXT.contains(&verb);
        if own { format!("{tag} {status}{code}") } else { found[0].to_owned() }
    }
}

/// What is wrong with the proxied transcript, as a unified diff and a list; `None`: nothing.
///
/// One after another on one account: Dovecot tells HIGHESTMODSEQ of a mailbox to everybody from the first time on
/// that a connection with CONDSTORE has opened it, and Cyrus lists what ENABLE has switched on just now. Which
/// connection it is, the pool decides.
pub(crate) fn difference(name: &str, direct: &Transcript, proxied: &Transcript) -> Option<String> {
    let mut report = String::new();
    let needless = if needless(proxied).is_empty() { needless(direct) } else { BTreeSet::new() };
    // imapool asks for the literals of a command before the server sees it: one that is refused may have been asked
    // for.
    // By which command mod-sequences are switched on, on a connection that others share, is said in words of imapool's.
    let any_connection = name.ends_with("(in sequence)") || name.starts_with("at random");
    let [old, new] = [direct, proxied].map(|transcript| {
        let (lines, next) = (&transcript.lines, transcript.lines.iter().skip(1).map(Some).chain([None]));
        let asked = |(line, next): &(&String, Option<&String>)| {
            line.as_str() == "S: +" && next.is_some_and(|next| next.starts_with("S: ") && next.contains(" BAD"))
        };
        // A server may say BYE and leave the command without an answer; imapool answers it first.
        let dismissed = |(line, next): &(&String, Option<&String>)| {
            line.ends_with(" NO [UNAVAILABLE]") && next.is_some_and(|next| next.starts_with("S: * BYE"))
        };
        let kept = lines.iter().zip(next).enumerate().filter(|(_, pair)| !asked(pair));
        let kept = kept.filter(|(_, pair)| std::ptr::eq(transcript, direct) || !dismissed(pair));
        let kept = kept.filter(|(at, _)| !std::ptr::eq(transcript, direct) || !needless.contains(at));
        let kept = kept.filter(|(_, (line, _))| !any_connection || !line.starts_with("S: * OK [HIGHESTMODSEQ"));
        let text = kept.map(|(_, (line, _))| line.as_str()).collect::<Vec<_>>().join("\n") + "\n";
        let text = text.replace("* ENABLED CONDSTORE QRESYNC", "* ENABLED QRESYNC");
        let text = HIGHEST.replace_all(&TOLD_BY_UID.replace_all(&text, "$1$2)"), "$1 …").into_owned();
        let text = TAGGED.replace_all(&text, "$1").into_owned();
        without_repeated_enabled(&text)
    });
    if old != new {
        let diff = TextDiff::from_lines(&old, &new);
        report += &diff.unified_diff().context_radius(4).header("direct", "through imapool").to_string();
    }
    if direct.capabilities.len() != proxied.capabilities.len() {
        report += "capabilities: not told as often\n";
    }
    for (direct, proxied) in direct.capabilities.iter().zip(&proxied.capabilities) {
        // A greeting may tell less than CAPABILITY does (Cyrus); imapool's tells all.
        let all = if direct.starts_with(GREETING) { format!("{direct} {proxied}") } else { direct.clone() };
        report += &capability_difference(&all, proxied);
    }
    if report.is_empty() { None } else { Some(format!("== {name}\n{report}")) }
}

/// Some servers list once more what ENABLE has switched on before (Dovecot), some say that it is nothing, some say
/// nothing of it (Cyrus).
fn without_repeated_enabled(text: &str) -> String {
    let mut listed = BTreeSet::new();
    let new = |line: &&str| match line.strip_prefix("S: * ENABLED") {
        Some(words) => !words.is_empty() && listed.insert(words.to_owned()),
        None => true,
    };
    text.lines().filter(new).fold(String::new(), |text, line| text + line + "\n")
}

/// What Cyrus says and a hub does not: flags in reply to a silent STORE, which a server should not tell (RFC 9051
/// section
/// 6.4.6), and an untagged BAD after the tagged one, when the connection is with others already.
fn needless(transcript: &Transcript) -> BTreeSet<usize> {
    let mut silent = false;
    let mut told = |line: &String| {
        silent = line.contains(".SILENT") || silent && !line.starts_with("C: ");
        line == "S: * BAD" || silent && line.starts_with("S: * ") && line.contains(" FETCH (FLAGS")
    };
    transcript.lines.iter().enumerate().filter(|(_, line)| told(line)).map(|(at, _)| at).collect()
}

fn capability_difference(direct: &str, proxied: &str) -> String {
    let [direct, proxied] = [direct, proxied].map(|list| list.split_whitespace().collect::<BTreeSet<_>>());
    let missing = direct.difference(&proxied).filter(|c| !MAY_BE_HIDDEN.contains(c)).copied();
    let added = proxied.difference(&direct).filter(|c| !MAY_BE_ADDED.contains(c)).copied();
    let [missing, added] = [missing.collect::<Vec<_>>(), added.collect::<Vec<_>>()].map(|list| list.join(" "));
    match (missing.is_empty(), added.is_empty()) {
        (true, true) => String::new(),
        _ => format!("capabilities: missing [{missing}], added [{added}]\n"),
    }
}

#[test]
fn a_silent_store_may_be_silent() {
    let transcript =
        |lines: &[&str]| Transcript { lines: lines.iter().map(|l| l.to_string()).collect(), ..Default::default() };
    let [silent, loud] = ["C: a STORE 1 FLAGS.SILENT ()", "C: a STORE 1 FLAGS ()"];
    let [told, ok] = ["S: * 1 FETCH (FLAGS ())", "S: a OK"];
    let same = |a: &[&str], b: &[&str]| difference("x", &transcript(a), &transcript(b)).is_none();
    assert!(same(&[silent, told, ok], &[silent, ok]) && same(&[silent, told, ok], &[silent, told, ok]));
    assert!(!same(&[silent, ok], &[silent, told, ok]) && !same(&[loud, told, ok], &[loud, ok]));
    assert!(!same(&[silent, ok, loud, told, ok], &[silent, ok, loud, ok]));
}

#[test]
fn what_must_differ_is_seen() {
    let transcript = |lines: &[&str]| {
        let mut normaliser = Normaliser::new("u1", true);
        normaliser.command("a1", "SELECT");
        normaliser.command("a2", "LOGIN");
        let mut transcript = Transcript::default();
        for line in lines {
            let Edge { lines, capabilities } = normaliser.response(&format!("{line}\r\n"));
            transcript.lines.extend(lines);
            transcript.capabilities.extend(capabilities);
        }
        transcript
    };
    let same = |a: &[&str], b: &[&str]| difference("x", &transcript(a), &transcript(b)).is_none();
    let greeting = "* OK hello";
    assert!(same(&[greeting, "a1 OK done (0.001 + 0.000 secs)."], &["* OK hi", "a1 OK done (0.105 + 0.100 secs)."]));
    assert!(!same(&[greeting, "a1 OK done"], &[greeting, "a1 OK finished"]));
    assert!(!same(&[greeting, "a1 OK [READ-ONLY] done"], &[greeting, "a1 OK [READ-WRITE] done"]));
    assert!(same(&[greeting, "a2 OK in"], &[greeting, "a2 OK logged in"]));
    assert!(!same(&[greeting, "a2 OK in"], &[greeting, "a2 NO in"]));
    assert!(!same(&[greeting, "* 5 EXISTS"], &[greeting, "* 6 EXISTS"]));
    assert!(!same(&[greeting, "* 5 EXISTS"], &[greeting]));
    let own = r#"* LIST () "/" "Users/x""#;
    assert!(same(&[greeting, own, r#"* LIST () "/" "Other Users/x""#], &[greeting, own]));
    assert!(!same(&[greeting, own], &[greeting]));
    assert!(same(
        &[greeting, r#"* LIST (\HasChildren \UnMarked) "/" B"#],
        &[greeting, r#"* LIST (\HasChildren) "/" B"#]
    ));
    assert!(same(&["* OK [CAPABILITY A NOTIFY] x"], &["* OK [CAPABILITY A ID] y"]));
    let told = "* OK [CAPABILITY A] x";
    assert!(!same(&[told, "* CAPABILITY A B"], &[told, "* CAPABILITY A"]));
    assert!(!same(&[told, "* CAPABILITY A"], &[told, "* CAPABILITY A C"]));
    // The greeting alone may tell more.
    assert!(same(&[told, "* CAPABILITY A C"], &["* OK [CAPABILITY A C] x", "* CAPABILITY A C"]));
}
