//! Conversations that nobody thought of: commands at random, well formed and not, directly and through imapool.

use std::fmt::Write as _;

use crate::conversation::{Conversation, parse};

/// One after another, commands which a client might say, or should not.
/// `silent`: with STORE's .SILENT among them.
pub(crate) fn conversations(seed: u64, count: u64, silent: bool) -> Vec<Conversation> {
    let talk = |index| Talk { silent, ..Talk::new(seed.wrapping_add(index)) };
    (0..count).flat_map(|index| parse(&talk(index).text())).collect()
}

const STEPS: usize = 40;

const MAILBOXES: [&str; 10] =
    ["INBOX", "inbox", "\"INBOX\"", "Box", "\"Box/Deep\"", "Box/Deep", "{{INBOX}}", "{{+Box}}", "None", "\"\""];
/// No keywords, here and in searches: which of them a server lists depends on what its process has seen.
const FLAGS: [&str; 7] = ["\\Seen", "\\Deleted", "\\Flagged", "\\Answered", "\\Draft", "\\seen", "\\Seen \\Deleted"];
const ITEMS: [&str; 24] = [
    "FLAGS",
    "UID",
    "(UID FLAGS)",
    "ALL",
    "FAST",
    "RFC822.SIZE",
    "ENVELOPE",
    "BODY",
    "BODYSTRUCTURE",
    "BODY[]",
    "BODY.PEEK[]",
    "BODY.PEEK[]<3.20>",
    "BODY.PEEK[HEADER]",
    "BODY.PEEK[HEADER.FIELDS (Subject From)]",
    "BODY[TEXT]",
    "BODY.PEEK[1]",
    "BODY.PEEK[2.MIME]",
    "(FLAGS BODY.PEEK[HEADER.FIELDS ({{Subject}})])",
    "BINARY.PEEK[1]",
    "BINARY.SIZE[1]",
    "(RFC822.SIZE INTERNALDATE RFC822.HEADER)",
    "MODSEQ",
    "(FLAGS",
    "NONSENSE",
];
const KEYS: [&str; 23] = [
    "ALL",
    "SEEN",
    "UNSEEN",
    "DELETED",
    "FLAGGED",
    "NEW",
    "OLD",
    "FROM ann",
    "SUBJECT \"first\"",
    "SUBJECT {{first}}",
    "BODY {{+hello}}",
    "TEXT \"\"",
    "HEADER Message-ID example",
    "LARGER 200",
    "SMALLER 300",
    "SINCE 3-Jan-2024",
    "BEFORE 03-Jan-2024",
    "SENTON 1-Jan-2024",
    "UID 2:4",
    "2:*",
    "*",
    "9:12",
    "NONSENSE",
];
const MESSAGES: [&str; 5] = [
    "Subject: new<CRLF><CRLF>new<CRLF>",
    "From: eve <eve@example.org><CRLF>Subject: b {3}<CRLF><CRLF>c OK<CRLF>* BYE<CRLF>",
    "no header",
    "Subject: long<CRLF><CRLF>{{=9000}}<CRLF>",
    "<CRLF>",
];
const OTHERS: [&str; 20] = [
    "NOOP",
    "CHECK",
    "CAPABILITY",
    "NAMESPACE",
    "NOOP x",
    "FETCH",
    "UID",
    "UID NOOP",
    "UID FETCH 1",
    "STORE 1 FLAGS",
    "CREATE",
    "SEARCH",
    "EXPUNGE 1",
    "LIST",
    "XNONSENSE",
    "XNONSENSE {{abc}}",
    "GETQUOTAROOT INBOX",
    "STATUS",
    "APPEND",
    "LOGIN u p",
];

/// The state of one.
struct Talk {
    seed: u64,
    state: u64,
    text: String,
    tag: usize,
    silent: bool,
}

impl Talk {
    fn new(seed: u64) -> Self {
        Self { seed, state: seed, text: String::new(), tag: 0, silent: true }
    }

    fn text(mut self) -> String {
        self.text = format!("== at random, {}\n", self.seed);
        let opening = self.one(&["SELECT INBOX", "EXAMINE INBOX", "SELECT Box", "NOOP"]);
        self.say("C", opening);
        for _ in 0..STEPS {
            let command = self.command();
            let kind = if self.below(8) == 0 && !changes(&command) { "P" } else { "C" };
            self.say(kind, &command);
            if kind == "P" {
                self.say("C", "NOOP");
            }
            match self.below(40) {
                0 => self.text.push_str("N:\n"),
                1 => {
                    self.say("C", "IDLE");
                    self.text.push_str("C: DONE\n");
                }
                _ => {}
            }
        }
        self.text
    }

    fn say(&mut self, kind: &str, command: &str) {
        self.tag += 1;
        let tag = self.tag;
        let _ = writeln!(self.text, "{kind}: t{tag:02} {command}");
    }

    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).expect("31 bits") % bound
    }

    fn one(&mut self, of: &[&'static str]) -> &'static str {
        of[self.below(of.len())]
    }

    fn command(&mut self) -> String {
        let uid = self.one(&["", "", "UID "]);
        let mailbox = self.one(&MAILBOXES);
        let target = self.one(&["INBOX", "Box", "Box/Deep", "{{Extra}}", "Other", "None", "\"Extra\""]);
        match self.below(30) {
            0..=4 => format!("{uid}FETCH {} {}", self.set(), self.one(&ITEMS)),
            5..=8 => {
                let how = self.one(&["FLAGS", "+FLAGS", "-FLAGS", "+FLAGS.SILENT", "-flags.silent", "FLAGS.SILENT"]);
                let how = if self.silent { how } else { how.trim_end_matches(".SILENT").trim_end_matches(".silent") };
                let flags = self.one(&FLAGS);
                let flags = if self.below(5) == 0 { flags.to_owned() } else { format!("({flags})") };
                format!("{uid}STORE {} {how} {flags}", self.set())
            }
            9..=11 => {
                let answer = self.one(&["", "", "RETURN (ALL) ", "RETURN (MIN MAX COUNT) ", "CHARSET UTF-8 "]);
                format!("{uid}SEARCH {answer}{}", self.keys())
            }
            12 => {
                let by = self.one(&["SUBJECT", "REVERSE SUBJECT", "SIZE", "FROM ARRIVAL", "NONSENSE"]);
                format!("{uid}SORT ({by}) UTF-8 {}", self.keys())
            }
            13 => {
                let how = self.one(&["REFERENCES", "ORDEREDSUBJECT"]);
                // Dovecot 2.3 ends, by an assertion, where numbers that do not exist are negated here.
                format!("{uid}THREAD {how} US-ASCII {}", self.one(&KEYS[..14]))
            }
            14 => "EXPUNGE".to_owned(),
            15 => format!("UID EXPUNGE {}", self.set()),
            16 | 17 => format!("{uid}COPY {} {target}", self.set()),
            18 => format!("{uid}MOVE {} {target}", self.set()),
            19..=21 => {
                format!("{} {mailbox}", self.one(&["SELECT", "EXAMINE", "select"]))
            }
            22 => self.one(&["CLOSE", "UNSELECT", "CLOSE"]).to_owned(),
            23 | 24 => {
                let flags = self.one(&["", "", "(\\Seen) ", "(\\Flagged) ", "() ", "(\\Recent) "]);
                let minute = self.below(60);
                let date = self.one(&["\"05-Feb-2024 10:", "\"5-Feb-2024 10:", "\"nonsense"]);
                let date = format!("{date}{minute:02}:00 +0100\" ");
                // Dovecot takes what follows a command that it refused for commands.
                let plus = flags != "(\\Recent) " && date.starts_with("\"05");
                let kind = if plus { self.one(&["", "+", "~", "~+"]) } else { self.one(&["", "~"]) };
                format!("APPEND {target} {flags}{date}{{{{{kind}{}}}}}", self.one(&MESSAGES))
            }
            25 => {
                let verb = self.one(&["CREATE", "DELETE", "SUBSCRIBE", "UNSUBSCRIBE"]);
                // None that is ever selected: Dovecot hangs up on those who have it open.
                let mailbox = self.one(&["Extra", "Extra/Sub", "Other", "\"Extra\"", "{{Other}}", "None"]);
                format!("{verb} {mailbox}")
            }
            26 => format!("RENAME {} {}", self.one(&["Extra", "Other"]), self.one(&["Other", "Extra", "Moved"])),
            27 => {
                let items = self.one(&["MESSAGES", "MESSAGES UNSEEN UIDNEXT", "DELETED SIZE", "NONSENSE", ""]);
                format!("STATUS {mailbox} ({items})")
            }
            28 => {
                let verb = self.one(&["LIST", "LSUB", "LIST (SUBSCRIBED)"]);
                let (root, pattern) =
                    (self.one(&["\"\"", "Box", "\"Box/\""]), self.one(&["*", "%", "\"B*\"", "{{+%}}", "\"\""]));
                format!("{verb} {root} {pattern}")
            }
            _ => self.one(&OTHERS).to_owned(),
        }
    }

    fn set(&mut self) -> &'static str {
        self.one(&[
            "1",
            "1:*",
            "*",
            "2",
            "3:2",
            "1,3",
            "*:2",
            "4:9",
            "1:3,2:4",
            "9",
            "2:2,5",
            "0",
            "1:",
            "x",
            "4294967295",
            "1:2:3",
        ])
    }

    fn keys(&mut self) -> String {
        let first = self.one(&KEYS);
        match self.below(6) {
            0 => format!("NOT {first}"),
            1 => format!("OR {first} {}", self.one(&KEYS)),
            2 => format!("({first} {}) NOT {}", self.one(&KEYS), self.one(&KEYS)),
            3 => format!("{first} {}", self.one(&KEYS)),
            4 => format!("OR (NOT ({first})) {}", self.one(&KEYS)),
            _ => first.to_owned(),
        }
    }
}

/// A server may run pipelined commands in the order it likes, where that makes no difference to it.
fn changes(command: &str) -> bool {
    !["NOOP", "CAPABILITY", "NAMESPACE", "STATUS None", "LIST", "LSUB"].iter().any(|verb| command.starts_with(verb))
        || command.contains("{{")
}
