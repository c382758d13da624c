//! A client that checks all it is told: its view of a mailbox, as untagged replies build it up.

mod modseq;
mod numbers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::modseq::Modseqs;
pub(crate) use self::numbers::Keys;
use self::numbers::Query;
use crate::accounts::password_of;
use crate::client::Client;

/// Lines of its conversation that a viewer remembers, for who has to find out what went wrong.
const REMEMBERED: usize = 200;

/// What all viewers know together.
pub(crate) type Known = Arc<Mutex<Facts>>;

/// Each SELECT begins a session of its own, as \\Recent counts them.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// See [`Known`]; by mailbox and UID.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The subjects of messages: the first who sees one notes it, all others must see the same.
    subjects: HashMap<(String, u32), String>,
    /// The session that was told that a message is recent, and has the mailbox selected (RFC 3501 section 2.3.2).
    recent: HashMap<(String, u32), u64>,
    /// Cyrus, also without imapool: SEARCH leaves out messages that are gone, although the client was not told; SORT
    /// and THREAD find new ones before they are announced; several connections are told that a message is recent.
    pub(crate) is_cyrus: bool,
}

/// A message of a mailbox, as far as it is known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) uid: Option<u32>,
    /// Without \Recent.
    pub(crate) flags: Option<BTreeSet<String>>,
    pub(crate) modseq: Option<u64>,
    /// Its flags were told since the last command began.
    told: bool,
    /// The last FETCH, COPY or MOVE by number named it.
    named: bool,
    /// A FETCH by number named it, and said nothing of it: it has to be gone.
    missed: bool,
    /// It was told to be recent.
    recent: bool,
}

/// See the module.
pub(crate) struct Viewer {
    pub(crate) client: Client,
    pub(crate) mailbox: String,
    pub(crate) view: Vec<Message>,
    pub(crate) commands: u64,
    known: Known,
    /// The UIDs that a COPY or MOVE names, if they are known.
    copied: Option<u32>,
    /// The numbers that a SEARCH may find.
    found: Option<(usize, usize)>,
    /// What the SEARCH that runs has to find.
    query: Option<Query>,
    /// Its SELECT, by [`SESSIONS`]; 0: it has the mailbox only to read.
    session: u64,
    modseqs: Modseqs,
    /// A FETCH runs: flags come without their mod-sequence, if it does not ask for that.
    fetches: bool,
    history: VecDeque<String>,
}

/// What Cyrus says of a FETCH, COPY or MOVE by number when all that it names is gone (RFC 2180 sections 4.1.2 and
/// 4.4.1).
const NONE_OF_THEM: &str = "NO No matching messages";

/// `OK` or not: what a tagged reply says after the tag.
pub(crate) type Tagged = String;

impl Viewer {
    pub(crate) async fn login(address: SocketAddr, user: &str, known: &Known) -> io::Result<Self> {
        let client = Client::login(address, user, &password_of(user)).await?;
        Ok(Self {
            client,
            mailbox: String::new(),
            view: Vec::new(),
            commands: 0,
            known: Arc::clone(known),
            copied: None,
            found: None,
            query: None,
            session: 0,
            modseqs: Modseqs::default(),
            fetches: false,
            history: VecDeque::new(),
        })
    }

    /// The last that was said, for the report of a failure.
    pub(crate) fn history(&self) -> String {
        self.history.iter().map(|line| format!("{line}\n")).collect()
    }

    pub(crate) fn uid(&self, number: usize) -> Option<u32> {
        self.view.get(number.checked_sub(1)?)?.uid
    }

    /// SELECT or EXAMINE.
    pub(crate) async fn select(&mut self, verb: &str, mailbox: &str) -> io::Result<()> {
        self.quiet().await?;
        let resync = self.resync(mailbox);
        self.view.clear();
        self.mailbox = mailbox.to_owned();
        self.session = if verb == "SELECT" { SESSIONS.fetch_add(1, Ordering::Relaxed) } else { 0 };
        self.run(&format!("{verb} {mailbox}{resync}")).await?;
        self.check_resumed().await
    }

    /// COPY or MOVE, by number or UID: what is copied must be what the client means.
    pub(crate) async fn copy(&mut self, line: &str, uid: Option<u32>) -> io::Result<()> {
        self.copied = uid;
        let result = self.run(line).await;
        self.copied = None;
        result
    }

    /// A search in which only these numbers can be found.
    pub(crate) async fn search(&mut self, line: &str, first: usize, last: usize) -> io::Result<()> {
        self.found = Some((first.min(last), first.max(last)));
        let result = self.run(line).await;
        self.found = None;
        result
    }

    /// APPEND, of a message whose subject is known from then on.
    pub(crate) async fn append(&mut self, mailbox: &str, subject: &str, synchronising: bool) -> io::Result<()> {
        let message = message(subject);
        let tagged = if synchronising {
            self.begin(&format!("APPEND {mailbox} {{{}}}", message.len())).await?;
            self.until("+ ", false).await?;
            self.client.send(message.as_bytes()).await?;
            self.client.send(b"\r\n").await?;
            self.until(&self.tag(), false).await?
        } else {
            self.begin(&format!("APPEND {mailbox} {{{}+}}\r\n{message}", message.len())).await?;
            self.until(&self.tag(), false).await?
        };
        let uid = code(&tagged, "APPENDUID").and_then(|words| words.get(1)?.parse().ok());
        match uid {
            Some(uid) => self.recognise(mailbox, uid, subject),
            None => self.wrong(&format!("APPEND: {tagged}")),
        }
    }

    /// STORE, by number or UID; what a silent one does, the client must know by itself (RFC 9051 section 6.4.6).
    pub(crate) async fn store(&mut self, numbers: &[usize], by_uid: bool, item: &str, flag: &str) -> io::Result<()> {
        let uids: Option<Vec<u32>> = numbers.iter().map(|number| self.uid(*number)).collect();
        let (verb, set) = match (by_uid, &uids) {
            (true, Some(uids)) => ("UID STORE", uids.iter().map(u32::to_string).collect::<Vec<_>>()),
            _ => ("STORE", numbers.iter().map(usize::to_string).collect()),
        };
        let before = self.view.clone();
        let line = format!("{verb} {} {item} ({flag})", set.join(","));
        self.begin(&line).await?;
        let tagged = self.until(&self.tag(), verb == "STORE").await?;
        self.judge(&line, &tagged)?;
        if !item.ends_with(".SILENT") {
            return Ok(());
        }
        for number in numbers {
            let named = before.get(number - 1).cloned().unwrap_or_default();
            // By number, nothing moves meanwhile; by UID, the message is found by its UID or not at all.
            let now = match verb {
                "STORE" => self.view.get_mut(number - 1),
                _ => self.view.iter_mut().find(|message| message.uid == named.uid),
            };
            let Some(now) = now.filter(|message| !message.told) else { continue };
            now.flags = now.flags.take().filter(|_| tagged.starts_with("OK")).map(|mut flags| {
                match item.as_bytes().first() {
                    Some(b'+') => drop(flags.insert(flag.to_owned())),
                    Some(b'-') => drop(flags.remove(flag)),
                    _ => flags = BTreeSet::from([flag.to_owned()]),
                }
                flags
            });
        }
        Ok(())
    }

    /// Stays in IDLE until nothing came for `quiet`.
    pub(crate) async fn idle(&mut self, quiet: Duration) -> io::Result<()> {
        self.begin_idle().await?;
        while self.hear(quiet).await? {}
        self.end_idle().await
    }

    pub(crate) async fn begin_idle(&mut self) -> io::Result<()> {
        self.begin("IDLE").await?;
        self.until("+ ", false).await.map(drop)
    }

    /// In IDLE: takes in what comes next; false: nothing did for so long.
    pub(crate) async fn hear(&mut self, quiet: Duration) -> io::Result<bool> {
        let more = self.client.has_more(quiet).await?;
        if more {
            let response = self.response("IDLE").await?;
            self.untagged(&response, false)?;
        }
        Ok(more)
    }

    pub(crate) async fn end_idle(&mut self) -> io::Result<()> {
        self.client.send(b"DONE\r\n").await?;
        let tagged = self.until(&self.tag(), false).await?;
        self.judge("IDLE", &tagged)
    }

    /// Runs a command and looks at all that comes.
    pub(crate) async fn run(&mut self, line: &str) -> io::Result<()> {
        self.begin(line).await?;
        let keeps_numbers = ["FETCH", "STORE", "SEARCH", "SORT", "THREAD"].iter().any(|verb| line.starts_with(verb));
        let tagged = self.until(&self.tag(), keeps_numbers).await?;
        if tagged.starts_with(NONE_OF_THEM) && ["FETCH ", "COPY ", "MOVE "].iter().any(|verb| line.starts_with(verb)) {
            return self.none_of_them(line, &tagged).await;
        }
        self.judge(line, &tagged)?;
        self.check_missed(line)
    }

    /// It is said that no message is there of those that it named: then it is told so with the next command.
    async fn none_of_them(&mut self, line: &str, refusal: &str) -> io::Result<()> {
        self.begin("NOOP").await?;
        let tagged = self.until(&self.tag(), false).await?;
        self.judge("NOOP", &tagged)?;
        match self.view.iter().find(|message| message.named) {
            Some(message) => self.wrong(&format!("{line}: {refusal}, but there is {message:?}")),
            None => Ok(()),
        }
    }

    /// Compares with what the server says itself, while nobody changes anything: after a NOOP all was told.
    pub(crate) async fn settle(&mut self, truth: &[Message]) -> io::Result<()> {
        self.run("NOOP").await?;
        self.agrees(truth, "what it was told")?;
        self.run("FETCH 1:* (UID FLAGS)").await?;
        self.agrees(truth, "what it fetched")
    }

    /// What it knows is so.
    pub(crate) fn agrees(&self, truth: &[Message], what: &str) -> io::Result<()> {
        if self.view.len() != truth.len() {
            return self.wrong(&format!("by {what}, {} messages instead of {}", self.view.len(), truth.len()));
        }
        for (number, (mine, truth)) in (1..).zip(self.view.iter().zip(truth)) {
            if mine.uid.is_some_and(|uid| Some(uid) != truth.uid) {
                return self.wrong(&format!("by {what}, message {number} is {mine:?} instead of {truth:?}"));
            }
            if mine.flags.is_some() && mine.flags != truth.flags {
                return self.wrong(&format!("by {what}, message {number} has {mine:?} instead of {truth:?}"));
            }
        }
        Ok(())
    }

    fn tag(&self) -> String {
        format!("v{} ", self.commands)
    }

    fn note(&mut self, line: String) {
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        self.history.push_back(line);
    }

    fn wrong(&self, what: &str) -> io::Result<()> {
        Err(io::Error::other(format!("in {}: {what}", self.mailbox)))
    }

    /// What comes between commands may be news, but no EXPUNGE (RFC 9051 section 7.5.1).
    async fn quiet(&mut self) -> io::Result<()> {
        while self.client.has_more(Duration::ZERO).await? {
            let response = self.response("nothing").await?;
            self.untagged(&response, true)?;
        }
        Ok(())
    }

    async fn begin(&mut self, line: &str) -> io::Result<()> {
        self.quiet().await?;
        self.commands += 1;
        self.view.iter_mut().for_each(|message| message.told = false);
        if let Some(set) = ["FETCH ", "COPY ", "MOVE "].iter().find_map(|verb| line.strip_prefix(verb)) {
            let (set, count) = (set.split(' ').next().unwrap_or_default(), self.view.len());
            (1..).zip(&mut self.view).for_each(|(number, message)| message.named = names(set, number, count));
        }
        let fetch = line.starts_with("FETCH ") && !line.contains("CHANGEDSINCE");
        self.view.iter_mut().for_each(|message| message.missed |= fetch && message.named);
        self.fetches = line.starts_with("FETCH") || line.starts_with("UID FETCH");
        self.note(format!("C: {}", line.lines().next().unwrap_or_default()));
        let tag = self.tag();
        self.client.send(format!("{tag}{line}\r\n").as_bytes()).await
    }

    async fn response(&mut self, during: &str) -> io::Result<Vec<u8>> {
        let response = self.client.response().await;
        let response = response.map_err(|error| io::Error::other(format!("{error} during {during}")))?;
        response.ok_or_else(|| io::Error::other(format!("closed during {during}")))
    }

    /// Reads up to the line that begins like this; gives what follows.
    async fn until(&mut self, begin: &str, keeps_numbers: bool) -> io::Result<Tagged> {
        loop {
            let response = self.response(begin).await?;
            if let Some(rest) = response.strip_prefix(begin.as_bytes()) {
                let rest = String::from_utf8_lossy(rest).into_owned();
                self.note(format!("S: {}", rest.trim_end()));
                self.check_copied(&rest)?;
                return Ok(rest);
            }
            self.untagged(&response, keeps_numbers)?;
        }
    }

    fn judge(&self, line: &str, tagged: &str) -> io::Result<()> {
        // The only refusal there may be: of COPY and MOVE, all or nothing, when the client has not heard yet that some
        // are gone (RFC 9051 section 6.4.7, RFC 5530 section 3). FETCH and STORE serve what is left (RFC 2180 section
        // 4).
        let gone = tagged.starts_with("NO [EXPUNGEISSUED]") && ["COPY", "MOVE"].iter().any(|name| line.contains(name));
        // There is no message whose number could be meant (RFC 9051 section 9: `seq-number`).
        let none = tagged.starts_with("BAD") && line.starts_with("FETCH 1:* ") && self.view.is_empty();
        if tagged.starts_with("OK") || gone || none { Ok(()) } else { self.wrong(&format!("{line}: {tagged}")) }
    }

    fn untagged(&mut self, response: &[u8], keeps_numbers: bool) -> io::Result<()> {
        let text = String::from_utf8_lossy(response).into_owned();
        self.note(format!("S: {}", text.lines().next().unwrap_or_default()));
        if text.starts_with("* BYE") || !text.starts_with("* ") {
            return self.wrong(&text);
        }
        self.check_copied(&text)?;
        let mut words = text.trim_end().splitn(4, ' ').skip(1);
        let first = words.next().unwrap_or_default();
        if first == "VANISHED" {
            return self.vanished(&text, keeps_numbers);
        }
        self.note_status(&text);
        let Ok(number) = first.parse::<usize>() else { return self.result(first, &text) };
        let count = self.view.len();
        let is_one = (1..=count).contains(&number);
        match words.next() {
            Some("EXISTS") if number < count => self.wrong(&format!("fewer messages: {text}")),
            Some("EXISTS") => {
                self.view.resize(number, Message::default());
                Ok(())
            }
            Some("RECENT") if number > count => self.wrong(&format!("of {count} messages: {text}")),
            Some("EXPUNGE") if keeps_numbers || self.modseqs.qresync => self.wrong("EXPUNGE where none may come"),
            Some("EXPUNGE" | "FETCH") if !is_one => self.wrong(&format!("of no message: {text}")),
            Some("EXPUNGE") => {
                self.view.remove(number - 1);
                Ok(())
            }
            Some("FETCH") => self.fetched(number, &text),
            _ => Ok(()),
        }
    }

    fn fetched(&mut self, number: usize, text: &str) -> io::Result<()> {
        let head = text.lines().next().unwrap_or_default();
        let message = &mut self.view[number - 1];
        let uid = head.split_once("UID ").and_then(|(_, rest)| rest.split([' ', ')']).next()?.parse().ok());
        let before = message.uid;
        message.uid = uid.or(before);
        message.missed = false;
        if let Some(flags) = head.split_once("FLAGS (").and_then(|(_, rest)| rest.split(')').next()) {
            message.flags = Some(flags_of(flags));
            message.told = true;
            message.recent = flags.split(' ').any(|flag| flag == "\\Recent");
        }
        let recent = message.uid.filter(|_| message.recent);
        if before.is_some_and(|before| uid.is_some_and(|uid| uid != before)) {
            return self.wrong(&format!("message {number} was {before:?}: {head}"));
        }
        if let Some(uid) = recent {
            self.claim_recent(uid)?;
        }
        self.note_modseq(number, head)?;
        let (earlier, later) = self.view.split_at(number - 1);
        let before = earlier.iter().rev().find_map(|message| message.uid);
        let after = later.iter().skip(1).find_map(|message| message.uid);
        let out_of_order = |uid| before.is_some_and(|before| uid <= before) || after.is_some_and(|after| uid >= after);
        if uid.is_some_and(out_of_order) {
            return self.wrong(&format!("UIDs out of order: {before:?}, {uid:?}, {after:?}"));
        }
        let subject = text.split_once("Subject: ").and_then(|(_, rest)| rest.lines().next());
        match (uid, subject) {
            (Some(uid), Some(subject)) => self.recognise(&self.mailbox, uid, subject),
            _ => Ok(()),
        }
    }

    /// A message is the same for everybody, always.
    fn recognise(&self, mailbox: &str, uid: u32, subject: &str) -> io::Result<()> {
        let mut known = self.known.lock().expect("no holder panics");
        let first = known.subjects.entry((mailbox.to_owned(), uid)).or_insert_with(|| subject.to_owned());
        if first == subject { Ok(()) } else { self.wrong(&format!("{uid} of {mailbox} is {first} and {subject}")) }
    }

    /// The results of SEARCH, SORT and THREAD are messages that the client knows of.
    fn result(&mut self, kind: &str, text: &str) -> io::Result<()> {
        if let ("SEARCH" | "ESEARCH", Some(query)) = (kind, self.query.as_mut()) {
            let misses = self.known.lock().expect("no holder panics").is_cyrus;
            let found = query.check(text, &mut self.view, misses);
            return found.or_else(|wrong| self.wrong(&wrong));
        }
        let numbers = match kind {
            "SEARCH" | "SORT" | "THREAD" => text.split_once(" (MODSEQ").map_or(text, |(numbers, _)| numbers),
            "ESEARCH" => text.split_once(" ALL ").map_or("", |(_, numbers)| numbers),
            _ => return Ok(()),
        };
        let Some((first, last)) = self.found else { return Ok(()) };
        let found = numbers.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<usize>().ok());
        let is_early = kind != "SEARCH" && self.known.lock().expect("no holder panics").is_cyrus;
        let count = if is_early { usize::MAX } else { self.view.len() };
        match found.into_iter().find(|number| *number < first || *number > last.min(count)) {
            Some(number) => self.wrong(&format!("{number} found of {}: {text}", self.view.len())),
            None => Ok(()),
        }
    }

    /// `[COPYUID <validity> <source> <target>]` (RFC 4315 section 3).
    fn check_copied(&self, text: &str) -> io::Result<()> {
        let source = code(text, "COPYUID").and_then(|words| words.get(1)?.parse::<u32>().ok());
        match (source, self.copied) {
            (Some(source), Some(meant)) if source != meant => self.wrong(&format!("{meant} was meant: {text}")),
            _ => Ok(()),
        }
    }
}

/// Whether a sequence set names the message, of so many.
fn names(set: &str, number: usize, count: usize) -> bool {
    let bound = |word: &str| if word == "*" { count } else { word.parse().unwrap_or(0) };
    set.split(',').any(|part| {
        let (from, to) = part.split_once(':').unwrap_or((part, part));
        let (from, to) = (bound(from), bound(to));
        (from.min(to)..=from.max(to)).contains(&number)
    })
}

/// The words of a response code, without its name.
fn code<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (_, rest) = text.split_once(&format!("[{name} "))?;
    Some(rest.split(']').next()?.split(' ').collect())
}

fn flags_of(text: &str) -> BTreeSet<String> {
    text.split(' ').filter(|flag| !flag.is_empty() && *flag != "\\Recent").map(str::to_owned).collect()
}

/// A small message.
pub(crate) fn message(subject: &str) -> String {
    format!("From: a@example.org\r\nSubject: {subject}\r\nMessage-ID: <{subject}@example.org>\r\n\r\nof {subject}\r\n")
}

/// The messages of a mailbox, as the server itself tells them.
pub(crate) async fn truth(direct: &mut Client, mailbox: &str) -> io::Result<Vec<Message>> {
    direct.command(&format!("EXAMINE {mailbox}")).await?.ok();
    let fetched = direct.command("FETCH 1:* (UID FLAGS)").await?;
    let lines = String::from_utf8_lossy(&fetched.untagged).into_owned();
    let parsed = lines.lines().filter_map(|line| {
        let uid = line.split_once("UID ")?.1.split([' ', ')']).next()?.parse().ok();
        let flags = line.split_once("FLAGS (")?.1.split(')').next().map(flags_of);
        Some(Message { uid, flags, ..Message::default() })
    });
    Ok(parsed.collect())
}

#[test]
fn sets_name_messages_either_way_round() {
    let named = |set: &str| (1..=5).filter(|number| names(set, *number, 5)).collect::<Vec<_>>();
    assert_eq!(named("2"), [2]);
    assert_eq!(named("*:4,1"), [1, 4, 5]);
    assert_eq!(named("2:1"), [1, 2]);
    assert_eq!(named("9"), [0; 0]);
}
