//! The table of kinds. Each quirk names the public report that it was taken from; capability lists are those of the
//! reports, less what the in-memory server does not do.

use std::borrow::Cow;

use super::{CopyUid, Death, Literals, Names, Personality, Quirks, Remark, Step, Verdict, Words};
use crate::options::{Capabilities, Options};

/// What Dovecot offers after login; the kinds that lack one extension lack it of these.
const ALL: [&str; 18] = [
    "IMAP4rev1",
    "SASL-IR",
    "ID",
    "ENABLE",
    "IDLE",
    "LITERAL+",
    "UNSELECT",
    "CHILDREN",
    "NAMESPACE",
    "UIDPLUS",
    "LIST-EXTENDED",
    "CONDSTORE",
    "QRESYNC",
    "ESEARCH",
    "LIST-STATUS",
    "SPECIAL-USE",
    "MOVE",
    "STATUS=SIZE",
];

/// The extensions that a kind can lack.
const LACKED: [&str; 16] = [
    "IDLE",
    "UNSELECT",
    "NAMESPACE",
    "ENABLE",
    "CONDSTORE",
    "QRESYNC",
    "UIDPLUS",
    "MOVE",
    "ESEARCH",
    "SASL-IR",
    "LITERAL+",
    "ID",
    "SPECIAL-USE",
    "LIST-EXTENDED",
    "LIST-STATUS",
    "CHILDREN",
];

/// Everything works, and there is nothing to set.
const WORKS: Verdict = Verdict { pooling: true, sharing: true, set: Cow::Borrowed(""), know: Cow::Borrowed("") };

fn knows(know: &'static str) -> Verdict {
    Verdict { know: know.into(), ..WORKS }
}

fn kind(name: &'static str, about: &'static str, verdict: Verdict, options: Options) -> Personality {
    Personality { name: name.into(), about: about.into(), verdict, options }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

const fn remark(verb: &'static str, line: &'static str, instead: bool) -> Remark {
    Remark { verb, line: Cow::Borrowed(line), instead }
}

/// The servers that people run.
pub(super) fn servers() -> Vec<Personality> {
    vec![
        dovecot(),
        cyrus(),
        courier(),
        exchange_2013(),
        exchange(),
        gmail(),
        yahoo(),
        icloud(),
        netease(),
        hmailserver(),
        davmail(),
        domino(),
        xeams(),
    ]
}

/// What a server offers that lacks `without` of [`ALL`].
fn all_but(without: &str) -> Capabilities {
    let before = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN AUTH=LOGIN";
    let offered = Capabilities { in_greeting: true, after_login: true, ..Capabilities::lists(before, &ALL.join(" ")) };
    offered.without(without)
}

fn dovecot() -> Personality {
    let options = Options {
        capabilities: all_but(""),
        enable: names(&["CONDSTORE", "QRESYNC", "UTF8=ACCEPT"]),
        words: Words {
            greeting: "Dovecot ready.",
            unknown: "BAD Error in IMAP command: Unknown command.",
            ..Words::default()
        },
        // mail_max_userip_connections
        max_connections_per_account: Some(10),
        ..Options::default()
    };
    kind(
        "dovecot",
        "Dovecot 2.3 and 2.4",
        knows("Keep `pool.max_per_account` below `mail_max_userip_connections`."),
        options,
    )
}

/// Capabilities as in nojb/ocaml-imap #34 and swift-nio-imap #286; texts as in cyrusimap/cyrus-imapd #2114.
fn cyrus() -> Personality {
    let after = "IMAP4rev1 LITERAL+ ID ENABLE NAMESPACE UIDPLUS UNSELECT CHILDREN CONDSTORE QRESYNC ESEARCH \
                 LIST-EXTENDED LIST-STATUS SPECIAL-USE STATUS=SIZE MOVE IDLE";
    let options = Options {
        capabilities: Capabilities {
            in_greeting: true,
            after_login: true,
            ..Capabilities::lists("IMAP4rev1 LITERAL+ ID ENABLE AUTH=PLAIN AUTH=LOGIN SASL-IR", after)
        },
        enable: names(&["CONDSTORE", "QRESYNC"]),
        words: Words {
            greeting: "mail.example.org Cyrus IMAP 3.6 server ready",
            logged_in: "User logged in SESSIONID=<mail.example.org-1-1>",
            wrong_password: "NO Login failed: authentication failure",
            unknown: "BAD Unrecognized command",
            no_mailbox: "NO Mailbox does not exist",
            ..Words::default()
        },
        names: Names { delimiter: '.', prefix: "INBOX." },
        ..Options::default()
    };
    kind("cyrus", "Cyrus IMAP 3, with the classic namespace INBOX.", WORKS, options)
}

/// Capabilities, texts and namespace as in lefcha/imapfilter #19. Neither ID nor UNSELECT nor LITERAL+.
fn courier() -> Personality {
    let list = "IMAP4rev1 UIDPLUS CHILDREN NAMESPACE IDLE";
    let options = Options {
        capabilities: Capabilities {
            in_greeting: true,
            ..Capabilities::lists("IMAP4rev1 UIDPLUS CHILDREN NAMESPACE IDLE AUTH=PLAIN", list)
        },
        enable: Vec::new(),
        words: Words {
            greeting: "Courier-IMAP ready. Copyright 1998-2018 Double Precision, Inc.  See COPYING for distribution \
                       information.",
            logged_in: "LOGIN Ok.",
            wrong_password: "NO Login failed.",
            unknown: "NO Error in IMAP command received by server.",
            no_mailbox: "NO Unable to open this mailbox.",
            ..Words::default()
        },
        names: Names { delimiter: '.', prefix: "INBOX." },
        ..Options::default()
    };
    kind("courier", "Courier-IMAP", knows("It has no UNSELECT: imapool leaves a mailbox in another way."), options)
}

/// Greeting and capabilities as in owncloud-archive/mail #1340: no UNSELECT, no SASL-IR. The line of COPYUID without
/// `* `: ruby/net-imap #250, domainaware/parsedmarc #80, jstedfast/MailKit #115.
fn exchange_2013() -> Personality {
    let options = Options {
        capabilities: Capabilities::lists(
            "IMAP4 IMAP4rev1 AUTH=PLAIN UIDPLUS MOVE ID CHILDREN IDLE NAMESPACE LITERAL+",
            "IMAP4 IMAP4rev1 AUTH=PLAIN UIDPLUS MOVE ID CHILDREN IDLE NAMESPACE LITERAL+",
        ),
        enable: Vec::new(),
        words: exchange_words(),
        quirks: Quirks { copyuid: CopyUid::Bare, ..Quirks::default() },
        ..Options::default()
    };
    let know =
        "MOVE says COPYUID in a line that is none of IMAP; the client gets it, or none, and the messages are moved.";
    kind("exchange-2013", "Exchange 2013 on premises", knows(know), options)
}

fn exchange_words() -> Words {
    Words {
        greeting: "The Microsoft Exchange IMAP4 service is ready.",
        logged_in: "LOGIN completed.",
        wrong_password: "NO LOGIN failed.",
        // jstedfast/MailKit #849, imapsync/imapsync #272
        unknown: "BAD Command Error. 12",
        no_mailbox: "NO No such mailbox.",
        bye: "Connection closed. 14",
        ..Words::default()
    }
}

/// Capabilities as in Cocoanetics/SwiftMail #109 and jstedfast/MailKit #2016. OK to a wrong mailbox, token or
/// password, or to one connection too many, and then BAD: simonrob/email-oauth2-proxy #74 and #275, mscdex/node-imap
/// #523 and #689, getmail6/getmail6 #214, imapsync/imapsync #411.
fn exchange() -> Personality {
    let list =
        "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+";
    let options = Options {
        capabilities: Capabilities::lists(list, list),
        enable: Vec::new(),
        words: exchange_words(),
        max_connections_per_account: Some(20),
        quirks: Quirks {
            not_connected: Some("BAD User is authenticated but not connected."),
            no_recent: true,
            ..Quirks::default()
        },
        ..Options::default()
    };
    let know = "It answers a login with OK before it knows whether the mailbox may be opened. imapool tries that \
                before it lets anybody in.";
    kind("exchange", "Exchange Online (Microsoft 365)", knows(know), options)
}

/// Capabilities, texts and `[THROTTLED]` as in jstedfast/MailKit #1396 and #1841; the limit as in zone-eu/wildduck
/// #35; the capabilities in a line of their own: modern-email/defects #18; COPYUID in the tagged reply to MOVE:
/// ruby/net-imap #398.
fn gmail() -> Personality {
    let after = "IMAP4rev1 UNSELECT IDLE NAMESPACE ID CHILDREN X-GM-EXT-1 UIDPLUS ENABLE MOVE CONDSTORE ESEARCH \
                 UTF8=ACCEPT LIST-EXTENDED LIST-STATUS LITERAL- SPECIAL-USE APPENDLIMIT=35651584";
    let before = "IMAP4rev1 UNSELECT IDLE NAMESPACE ID CHILDREN X-GM-EXT-1 SASL-IR AUTH=XOAUTH2 AUTH=PLAIN";
    let options = Options {
        capabilities: Capabilities::lists(before, after),
        enable: names(&["CONDSTORE", "UTF8=ACCEPT"]),
        words: Words {
            greeting: "Gimap ready for requests from 192.0.2.1 a1mb1",
            logged_in: "user@example.org authenticated (Success)",
            wrong_password: "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)",
            before_refusal: "NO [WEBALERT https://accounts.example.org/signin/continue] Web login required.",
            too_many: "NO [ALERT] Too many simultaneous connections. (Failure)",
            unknown: "BAD Unknown command a1mb1",
            no_mailbox: "NO [NONEXISTENT] Unknown Mailbox: (Failure)",
            suffix: " [THROTTLED]",
            ..Words::default()
        },
        max_connections_per_account: Some(15),
        append_limit: 35_651_584,
        quirks: Quirks { capability_line: true, copyuid: CopyUid::Tagged, no_recent: true, ..Quirks::default() },
        ..Options::default()
    };
    let know = "15 connections an account, all clients together. Messages are never \\Recent.";
    kind("gmail", "Gmail and Google Workspace", knows(know), options)
}

/// Capabilities as in zone-eu/wildduck #943; texts and the message that cannot be fetched as in jstedfast/MailKit
/// #358.
fn yahoo() -> Personality {
    let after = "IMAP4rev1 ID MOVE NAMESPACE XYMHIGHESTMODSEQ UIDPLUS LITERAL+ CHILDREN UNSELECT X-MSG-EXT IDLE ENABLE \
                 LIST-EXTENDED LIST-STATUS SPECIAL-USE APPENDLIMIT=41697280";
    let before =
        "IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2 ID MOVE NAMESPACE XYMHIGHESTMODSEQ UIDPLUS LITERAL+ CHILDREN";
    let options = Options {
        capabilities: Capabilities { in_greeting: true, ..Capabilities::lists(before, after) },
        enable: Vec::new(),
        words: Words {
            greeting: "IMAP4rev1 imapgate-1.8.1_01.20166",
            logged_in: "LOGIN completed - Mailbox size in bytes is 34943485",
            wrong_password: "NO [AUTHENTICATIONFAILED] LOGIN Invalid credentials",
            unknown: "BAD [CLIENTBUG] Unknown command",
            no_mailbox: "NO [TRYCREATE] No such mailbox",
            too_many: "NO [LIMIT] LOGIN Rate limit hit.",
            ..Words::default()
        },
        max_connections_per_account: Some(10),
        quirks: Quirks {
            unreadable: Some("NO [SERVERBUG] FETCH Server error while fetching messages"),
            odd_structure: true,
            silent_enable: true,
            no_recent: true,
            ..Quirks::default()
        },
        ..Options::default()
    };
    let know = "Some messages cannot be fetched (`[SERVERBUG]`): clients hear what the server says.";
    kind("yahoo", "Yahoo and AOL Mail", knows(know), options)
}

/// Greeting, capabilities and texts as in nextcloud/mail #3401; OK to ENABLE QRESYNC without ENABLED there and in
/// jstedfast/MailKit #1871. Neither MOVE nor LITERAL+.
fn icloud() -> Personality {
    let after = "XAPPLEPUSHSERVICE IMAP4 IMAP4rev1 CONDSTORE ENABLE QRESYNC NAMESPACE UIDPLUS CHILDREN UNSELECT \
                 ESEARCH SASL-IR ID IDLE LIST-STATUS";
    let options = Options {
        capabilities: Capabilities {
            in_greeting: true,
            ..Capabilities::lists("XAPPLEPUSHSERVICE IMAP4 IMAP4rev1 SASL-IR AUTH=PLAIN", after)
        },
        enable: Vec::new(),
        words: Words {
            greeting: "(2109B29-d3afe4d5aba6) iscream021.example.org",
            logged_in: "user authenticated",
            wrong_password: "NO [AUTHENTICATIONFAILED] Authentication failed",
            unknown: "BAD unrecognized command",
            no_mailbox: "NO [NONEXISTENT] Mailbox does not exist",
            ..Words::default()
        },
        max_connections_per_account: Some(10),
        quirks: Quirks { silent_enable: true, ..Quirks::default() },
        ..Options::default()
    };
    let know = "ENABLE QRESYNC is answered with OK and switches nothing on: clients hear EXPUNGE, as they do directly.";
    kind("icloud", "iCloud Mail", knows(know), options)
}

/// The refusal as in pimalaya/himalaya #651, emersion/go-imap #524 and OfflineIMAP/offlineimap #696: ID has to come
/// after login. The greeting as in twisted/twisted #6307.
fn netease() -> Personality {
    let list = "IMAP4rev1 SPECIAL-USE ID LITERAL+ UIDPLUS X-CM-EXT-1";
    let options = Options {
        capabilities: Capabilities::lists("IMAP4rev1 SPECIAL-USE ID LITERAL+ UIDPLUS X-CM-EXT-1 AUTH=PLAIN", list),
        enable: Vec::new(),
        words: Words {
            greeting: "Coremail System IMap Server Ready(163com[8db726ec93e9d4e3e9a2fd3d31b05251])",
            logged_in: "LOGIN completed",
            wrong_password: "NO LOGIN Login error or password error",
            unknown: "BAD command not support",
            no_mailbox: "NO mailbox does not exist",
            ..Words::default()
        },
        max_connections_per_account: Some(10),
        quirks: Quirks {
            id_before_select: Some("NO SELECT Unsafe Login. Please contact kefu@188.com for help"),
            ..Quirks::default()
        },
        ..Options::default()
    };
    let know = "It lets nobody work who has not sent ID after login: imapool does (`backend.id`). There is no IDLE.";
    kind("netease", "NetEase: 163, 126 and yeah.net", knows(know), options)
}

/// No UNSELECT, no ENABLE, no LITERAL+. IDLE can be switched off by the operator and is offered all the same. What a
/// failed EXAMINE leaves was not to be found out: the worst is taken, that the mailbox stays.
fn hmailserver() -> Personality {
    let list = "IMAP4 IMAP4rev1 CHILDREN IDLE NAMESPACE";
    let options = Options {
        capabilities: Capabilities::lists(list, list),
        enable: Vec::new(),
        words: Words {
            greeting: "IMAPrev1",
            logged_in: "LOGIN completed",
            wrong_password: "NO Invalid user name or password.",
            unknown: "BAD Unknown or NULL command",
            no_mailbox: "BAD Folder could not be found.",
            ..Words::default()
        },
        names: Names { delimiter: '.', prefix: "" },
        quirks: Quirks { idle_refused: Some("NO IDLE is disabled"), failed_select_keeps: true, ..Quirks::default() },
        ..Options::default()
    };
    let know = "IDLE may be offered and refused: imapool looks for news itself while its clients are in IDLE.";
    kind("hmailserver", "hMailServer 5, IDLE switched off", knows(know), options)
}

/// Greeting, capabilities and the second space before EXISTS (there from 500 messages on, here always) as in
/// modern-email/defects #45; the failed EXAMINE that keeps the mailbox as in emersion/go-imap #351.
fn davmail() -> Personality {
    let list = "IMAP4REV1 AUTH=LOGIN IDLE MOVE SPECIAL-USE UIDPLUS";
    let options = Options {
        capabilities: Capabilities { in_greeting: true, ..Capabilities::lists(list, list) },
        enable: Vec::new(),
        words: Words {
            greeting: "IMAP4rev1 DavMail 6.3.0-3627 server ready",
            logged_in: "Authenticated",
            wrong_password: "NO LOGIN failed",
            unknown: "BAD command unrecognized",
            no_mailbox: "NO EXAMINE folder not found",
            ..Words::default()
        },
        quirks: Quirks {
            failed_select_keeps: true,
            status_of_selected: Some("NO STATUS of the selected folder"),
            wide_exists: true,
            ..Quirks::default()
        },
        ..Options::default()
    };
    let know =
        "It refuses STATUS of the selected mailbox: imapool selects the mailbox anew for each session that joins.";
    kind("davmail", "DavMail 6", knows(know), options)
}

/// Greeting and capabilities as in jstedfast/MailKit #943, which also has the backslash as delimiter and the
/// parentheses too many; CRLF in a quoted string as in jakartaee/mail-api #255 (and cyrusimap/cyrus-imapd #1522).
/// Neither IDLE nor UNSELECT nor ID.
fn domino() -> Personality {
    let list = "IMAP4rev1 AUTH=PLAIN LITERAL+ NAMESPACE UIDPLUS";
    let options = Options {
        capabilities: Capabilities::lists(list, list),
        enable: Vec::new(),
        words: Words {
            greeting: "Domino IMAP4 Server Release 10.0.1FP3 ready Wed, 30 Oct 2019 09:28:06 +0100",
            logged_in: "LOGIN completed",
            wrong_password: "NO LOGIN invalid username or password",
            unknown: "BAD command not recognized",
            no_mailbox: "NO SELECT mailbox does not exist",
            ..Words::default()
        },
        names: Names { delimiter: '\\', prefix: "" },
        quirks: Quirks {
            folded_strings: true,
            literals: Literals::LineAfter,
            remarks: vec![remark("FETCH", "* OK", false)].into(),
            ..Quirks::default()
        },
        ..Options::default()
    };
    kind(
        "domino",
        "HCL (IBM, Lotus) Domino 10",
        knows("There is no IDLE: clients hear of news when they ask."),
        options,
    )
}

/// Greeting and capabilities as in umanamente/n8n-nodes-imap #36; EXAMINE without UIDVALIDITY as in nextcloud/mail
/// #3407 and #10199.
fn xeams() -> Personality {
    let options = Options {
        capabilities: Capabilities::lists("IMAP4rev1 IDLE", "IMAP4rev1 IDLE"),
        enable: Vec::new(),
        words: Words {
            greeting: "Synametrics IMAP4rev1 server ready 11/14/24 3:26 PM",
            logged_in: "LOGIN completed",
            wrong_password: "NO LOGIN failed",
            unknown: "BAD Command not supported",
            no_mailbox: "NO Folder does not exist",
            ..Words::default()
        },
        quirks: Quirks { examine_without_validity: true, literals: Literals::Plus, ..Quirks::default() },
        ..Options::default()
    };
    let know = "It has no UNSELECT, and EXAMINE does not say UIDVALIDITY.";
    kind("xeams", "Xeams", knows(know), options)
}

/// Servers like Dovecot that lack one extension each.
pub(super) fn lacking() -> Vec<Personality> {
    let lacks = |name: &'static str| {
        let base = dovecot().options;
        let capabilities = match name {
            // QRESYNC stands on CONDSTORE and ENABLE (RFC 7162), LIST-STATUS on LIST-EXTENDED (RFC 5819).
            "CONDSTORE" | "ENABLE" => all_but(name).without("QRESYNC"),
            "LIST-EXTENDED" => all_but(name).without("LIST-STATUS"),
            _ => all_but(name),
        };
        let enable = base.enable.into_iter().filter(|enabled| *enabled != name).collect();
        let verdict = match name {
            "IDLE" => knows("imapool looks for news itself while its clients are in IDLE, or offers none."),
            _ => WORKS,
        };
        Personality {
            name: format!("lacks:{name}").into(),
            about: format!("as Dovecot, without {name}").into(),
            verdict,
            options: Options { capabilities, enable, ..base },
        }
    };
    let mut all: Vec<_> = LACKED.into_iter().map(lacks).collect();
    // LOGIN is announced not to work (RFC 3501 section 6.2.3), and AUTHENTICATE LOGIN is the only way in.
    let mut capabilities = all_but("AUTH=PLAIN");
    capabilities.before.push_str(" LOGINDISABLED");
    let options = Options { capabilities, ..dovecot().options };
    all.push(kind("lacks:LOGIN", "as Dovecot, with AUTHENTICATE LOGIN as the only way to log in", WORKS, options));
    all
}

/// In what words a login too many is refused: imapsync/imapsync #272, lefcha/imapfilter #146, zone-eu/wildduck #35,
/// jstedfast/MailKit #377, mscdex/node-imap #606 and #882; the bandwidth as Google's help has it.
const THROTTLES: [(&str, &str); 7] = [
    ("backoff", "BAD Request is throttled. Suggested Backoff Time: 299961 milliseconds"),
    ("no-backoff", "NO Request is throttled. Suggested Backoff Time: 299961 milliseconds"),
    ("unavailable", "NO Server Unavailable. 15"),
    ("bandwidth", "NO [ALERT] Account exceeded command or bandwidth limits. (Failure)"),
    ("connections", "NO [ALERT] Too many simultaneous connections. (Failure)"),
    ("rate", "NO [LIMIT] LOGIN Rate limit hit."),
    ("dovecot", "NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=1)"),
];

/// Servers that let an account have one connection.
pub(super) fn throttling() -> Vec<Personality> {
    let throttles = |(name, too_many): (&str, &'static str)| {
        let base = dovecot().options;
        let words = Words { too_many, ..base.words };
        Personality {
            name: format!("throttles:{name}").into(),
            about: format!("lets an account have one connection; `{too_many}` to the next").into(),
            verdict: Verdict { set: "Set `pool.max_per_account` to what it allows.".into(), ..WORKS },
            options: Options { words, max_connections_per_account: Some(1), ..base },
        }
    };
    THROTTLES.into_iter().map(throttles).collect()
}

/// Numbers that contradict what is known. The victim of these is a mailbox, and whoever works in it.
const LIES: [(&str, &str, &[Remark]); 6] = [
    (
        "liar:exists",
        "announces 4,294,967,295 messages, and then none",
        &[
            remark("NOOP", "* 4294967295 EXISTS", false),
            remark("NOOP", "* 0 EXISTS", false),
            remark("FETCH", "* 4294967295 EXISTS", false),
        ],
    ),
    (
        "liar:search",
        "finds all 4,294,967,295 UIDs",
        &[
            remark("SEARCH", "* ESEARCH (TAG \"TAG\") UID ALL 1:4294967295", true),
            remark("SEARCH", "* SEARCH 4294967295 1 1 0", true),
        ],
    ),
    (
        "liar:expunge",
        "expunges messages that are not there",
        &[
            remark("NOOP", "* 4294967295 EXPUNGE", false),
            remark("NOOP", "* 0 EXPUNGE", false),
            remark("NOOP", "* 0 EXISTS", false),
            remark("NOOP", "* 1 EXPUNGE", false),
            remark("FETCH", "* VANISHED 1:4294967295", false),
        ],
    ),
    (
        "liar:fetch",
        "tells of flags of messages that are not there",
        &[
            remark("NOOP", "* 4294967295 FETCH (FLAGS (\\Seen))", false),
            remark("FETCH", "* 4294967294 FETCH (UID 4294967295 FLAGS (\\Seen))", false),
            remark("STORE", "* 0 FETCH (FLAGS (\\Seen))", false),
        ],
    ),
    ("liar:login", "answers any login with OK, and refuses what comes after a wrong one", &[]),
    (
        "liar",
        "contradicts itself in every way at once",
        &[
            remark("SELECT", "* 4294967295 EXISTS", false),
            remark("NOOP", "* 0 EXISTS", false),
            remark("NOOP", "* 1 EXPUNGE", false),
            remark("SEARCH", "* ESEARCH (TAG \"TAG\") UID ALL 1:4294967295", true),
            remark("FETCH", "* 4294967295 FETCH (FLAGS (\\Seen))", false),
            remark("STORE", "* 4294967295 EXPUNGE", false),
        ],
    ),
];

/// Servers that lie.
pub(super) fn liars() -> Vec<Personality> {
    let lies = |(name, about, remarks): (&'static str, &'static str, &'static [Remark])| {
        let not_connected =
            matches!(name, "liar" | "liar:login").then_some("BAD User is authenticated but not connected.");
        let options = Options {
            quirks: Quirks { remarks: Cow::Borrowed(remarks), not_connected, ..Quirks::default() },
            ..dovecot().options
        };
        // A wrong login alone hurts nobody else.
        let well = name == "liar:login";
        let know = if well { "" } else { "Sessions in the mailbox end. Other accounts work on." };
        kind(name, about, Verdict { pooling: well, sharing: well, ..knows(know) }, options)
    };
    LIES.into_iter().map(lies).collect()
}

/// The steps at which a connection can die.
const STEPS: [(&str, &str, Step); 14] = [
    ("greeting", "instead of the greeting", Step::Greeting),
    ("capability", "at CAPABILITY", at("CAPABILITY")),
    ("login", "at LOGIN or AUTHENTICATE", at("LOGIN")),
    ("after-login", "once the login was answered", Step::AfterLogin),
    ("select", "at SELECT", at("SELECT")),
    ("mid-select", "in the middle of the reply to SELECT", Step::Command { verb: "SELECT", after: Some(60) }),
    ("fetch", "at FETCH", at("FETCH")),
    ("mid-fetch", "in the middle of the reply to FETCH", Step::Command { verb: "FETCH", after: Some(60) }),
    ("search", "at SEARCH", at("SEARCH")),
    ("store", "at STORE", at("STORE")),
    ("idle", "when IDLE begins", at("IDLE")),
    ("literal", "when the message of APPEND is announced", Step::Literal),
    ("append", "once the message of APPEND was sent", at("APPEND")),
    ("logout", "at LOGOUT", at("LOGOUT")),
];

const fn at(verb: &'static str) -> Step {
    Step::Command { verb, after: None }
}

/// Servers that close the connection at one step, with and without `* BYE`.
pub(super) fn dying() -> Vec<Personality> {
    let mut all = Vec::new();
    for (step, when, at) in STEPS {
        for bye in [false, true] {
            let mid_reply = matches!(at, Step::Command { after: Some(_), .. });
            if bye && mid_reply {
                continue;
            }
            let quirks = Quirks { dies: Some(Death { at, bye }), ..Quirks::default() };
            let base = dovecot().options;
            // Asked for only where it was not told.
            let told = step != "capability";
            let capabilities = Capabilities { in_greeting: told, after_login: told, ..base.capabilities };
            let (suffix, how) = if bye { ("+bye", "says BYE and closes") } else { ("", "closes") };
            // Nobody's visit needs these.
            let well = matches!(step, "store" | "idle" | "literal" | "append" | "logout");
            let know = if well {
                "The command that it dies at fails."
            } else {
                "It cannot be worked with. Dials are slowed down."
            };
            all.push(Personality {
                name: format!("dies:{step}{suffix}").into(),
                about: format!("{how} {when}").into(),
                verdict: Verdict { pooling: well, sharing: well && step != "idle", ..knows(know) },
                options: Options { quirks, capabilities, ..base },
            });
        }
    }
    all
}
