//! A backend that lies about numbers, of every size, at every moment, against a hub with several members: nothing
//! panics or hangs, memory is bounded by the kernel, nobody is told what contradicts what it was told before, and
//! once the backend tells the truth, everybody knows it, or was dismissed.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use imapool::imap::command::{Command, Segment, parse_head};
use imapool::imap::request::Request;
use imapool::imap::untagged::{Divider, Replies};
use imapool::mailbox::enabled::Enabled;
use imapool::mailbox::machine::{Action, GiveUp, Machine, MemberId, Settings, Told};
use imapool::upstream::loss::Loss;
use nix::sys::resource::{Resource, setrlimit};
use proptest::collection::vec;
use proptest::prelude::*;

/// Address space for all: a number that is allocated for is too much.
const MEMORY: u64 = 2 * 1024 * 1024 * 1024;
/// What the hub may do after each of the backend's replies, and be asked for.
const STEPS: usize = 20_000;
/// Messages that there truly are.
const TRUE: u32 = 3;

static ALIVE: AtomicU64 = AtomicU64::new(0);

/// Bounds memory, and ends the process if a case hangs.
fn guard() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).unwrap();
        std::thread::spawn(|| {
            loop {
                let before = ALIVE.load(Ordering::Relaxed);
                std::thread::sleep(Duration::from_secs(120));
                if ALIVE.load(Ordering::Relaxed) == before {
                    eprintln!("a case hangs");
                    std::process::abort();
                }
            }
        });
    });
}

fn command(line: &str) -> Box<Request> {
    let head = parse_head(format!("t {line}").as_bytes()).unwrap();
    let segments = vec![Segment { text: Bytes::from(line.to_owned()), literal: None }];
    Request::new(Command { tag: Bytes::from_static(b"t"), name: head.name, segments }, None)
}

/// A client: how many messages it counts, and what it waits for.
#[derive(Debug, Default)]
struct Client {
    count: Option<u32>,
    running: Option<String>,
    idling: bool,
    buffer: Vec<u8>,
}

impl Client {
    fn keeps_numbers(&self) -> bool {
        self.running.as_ref().is_some_and(|line| ["FETCH", "STORE", "SEARCH"].iter().any(|verb| line.starts_with(verb)))
    }

    fn hears(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
        let whole = self.buffer.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.buffer.drain(..whole).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            self.line(line);
        }
    }

    fn line(&mut self, line: &str) {
        let mut words = line.split([' ', '\r']);
        let (_, number, name) = (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
        let number = number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse::<u64>().ok()).flatten();
        assert!(self.running.is_some() || self.idling, "nothing asked: {line}");
        let selecting = self.running.as_ref().is_some_and(|line| line.starts_with("SELECT"));
        match (number, name) {
            (Some(n), "EXISTS") => {
                let n = u32::try_from(n).unwrap();
                assert!(selecting || n >= self.count.unwrap_or(0), "{line} after {:?}", self.count);
                self.count = Some(n);
            }
            (Some(n), "EXPUNGE") => {
                assert!((1..=u64::from(self.count.unwrap_or(0))).contains(&n), "{line} of {:?}", self.count);
                assert!(!self.keeps_numbers(), "{line} during {:?}", self.running);
                self.count = self.count.map(|count| count - 1);
            }
            (Some(n), "FETCH") => {
                assert!((1..=u64::from(self.count.unwrap_or(0))).contains(&n), "{line} of {:?}", self.count)
            }
            (Some(n), "RECENT") => assert!(n <= u64::from(u32::MAX), "{line}"),
            (None, _) if line.starts_with("* VANISHED") && !line.contains("EARLIER") => {
                assert!(!self.keeps_numbers() && !selecting, "{line} during {:?}", self.running);
                let set = line.trim_end().rsplit(' ').next().unwrap();
                let gone: u64 = set.split(',').map(|run| run.split_once(':').unwrap_or((run, run))).map(size).sum();
                let left = u64::from(self.count.unwrap_or(0)).checked_sub(gone).unwrap_or_else(|| panic!("{line}"));
                self.count = u32::try_from(left).ok();
            }
            _ => {}
        }
    }
}

fn size((first, last): (&str, &str)) -> u64 {
    last.parse::<u64>().unwrap() - first.parse::<u64>().unwrap() + 1
}

#[derive(Debug, Clone)]
enum Op {
    Join(bool),
    /// A member gives this command.
    Command(usize, String),
    /// A member takes so much.
    Take(usize, usize),
    /// The backend says so, in pieces of so many octets.
    Says(String, usize),
    /// It ends the command that runs: with OK or not.
    Done(bool),
    Lost,
    Leave(usize),
    Wait(u64),
    Yield,
}

struct World {
    machine: Machine,
    now: Instant,
    clients: BTreeMap<MemberId, Client>,
    next: MemberId,
    /// What runs upstream.
    runs: Option<String>,
    divider: Divider,
    input: BytesMut,
    connected: bool,
    honest: bool,
    /// What is on, on the connection; some members have switched on less.
    enabled: Enabled,
}

impl World {
    fn new(enabled: Enabled) -> Self {
        let settings = Settings {
            idle: true,
            esearch: true,
            unseen: true,
            condstore: true,
            keepalive: Duration::from_secs(600),
            patience: Duration::from_secs(5),
            silence: Duration::from_secs(10),
            parked: Duration::from_secs(5),
        };
        let now = Instant::now();
        let machine = Machine::new(Bytes::from_static(b"wINBOX"), settings, Arc::default(), now);
        let (clients, next) = (BTreeMap::new(), 0);
        let (divider, input) = Default::default();
        Self { machine, now, clients, next, runs: None, divider, input, connected: false, honest: false, enabled }
    }

    fn member(&self, who: usize) -> Option<MemberId> {
        self.clients.keys().nth(who % self.clients.len().max(1)).copied()
    }

    fn step(&mut self, op: &Op) {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        self.machine.handle_time(self.now);
        match op {
            Op::Join(resync) if self.clients.len() < 5 => self.join(*resync),
            Op::Command(who, line) => {
                let Some(id) = self.member(*who) else { return };
                self.gives(id, line);
            }
            Op::Take(who, count) => {
                let Some(id) = self.member(*who) else { return };
                for _ in 0..*count {
                    self.take(id);
                }
            }
            Op::Says(text, cut) => self.says(text, *cut),
            Op::Done(ok) => self.done(*ok),
            Op::Lost if self.connected => self.lost(),
            Op::Leave(who) => {
                let Some(id) = self.member(*who) else { return };
                self.machine.handle_leave(id);
                self.clients.remove(&id);
            }
            Op::Wait(millis) => self.now += Duration::from_millis(*millis),
            Op::Yield => self.machine.handle_give_up(GiveUp::Wanted),
            _ => {}
        }
        self.act();
    }

    fn join(&mut self, resync: bool) {
        self.next += 1;
        let enabled = match self.next % 3 {
            0 => Enabled::Nothing,
            1 => self.enabled,
            _ => self.enabled.min(Enabled::Condstore),
        };
        let line = match (enabled, resync) {
            (Enabled::Qresync, true) => "SELECT INBOX (QRESYNC (7 1))",
            (Enabled::Nothing, _) => "SELECT INBOX",
            _ => "SELECT INBOX (CONDSTORE)",
        };
        self.machine.handle_join(self.next, command(line), enabled);
        self.clients.insert(self.next, Client { running: Some(line.to_owned()), ..Client::default() });
    }

    fn gives(&mut self, id: MemberId, line: &str) {
        let client = self.clients.get_mut(&id).unwrap();
        if client.idling && client.running.is_none() {
            client.running = Some("DONE".into());
            client.idling = false;
            self.machine.handle_octets(id);
        } else if client.running.is_none() {
            client.idling = line == "IDLE";
            client.running = Some(line.to_owned());
            self.machine.handle_command(id, command(line));
        }
    }

    /// True: it was told something.
    fn take(&mut self, id: MemberId) -> bool {
        if !self.clients.contains_key(&id) || !self.machine.has_news(id) {
            return false;
        }
        let Some(told) = self.machine.poll_member(id) else { return true };
        let client = self.clients.get_mut(&id).unwrap();
        match told {
            Told::Data(data) => {
                assert!(data.len() <= 512 * 1024, "{} octets at once", data.len());
                client.hears(&data);
            }
            Told::Continue(_) => client.running = None,
            Told::Done(data, _, selected) => {
                client.hears(&data);
                assert!(client.buffer.is_empty(), "a tagged reply within a line");
                client.running.take().expect("a command");
                // A SELECT that says nothing of messages has none.
                client.count.get_or_insert(0);
                if !selected {
                    self.clients.remove(&id);
                }
            }
            Told::Unconnected => {
                client.running.take().expect("a command");
                if !self.machine.has_member(id) {
                    self.clients.remove(&id);
                }
            }
            Told::Tagged(_) => panic!("no reply is so long"),
            Told::Bye(_) | Told::Cut | Told::Revoked | Told::Yours(_) => drop(self.clients.remove(&id)),
        }
        true
    }

    fn says(&mut self, text: &str, cut: usize) {
        if !self.connected {
            return;
        }
        for piece in text.as_bytes().chunks(cut.max(1)) {
            self.input.extend_from_slice(piece);
            self.machine.handle_data(&self.divider.divide(&mut self.input));
        }
    }

    fn done(&mut self, ok: bool) {
        if self.connected && self.runs.take().is_some() {
            let rest: &[u8] = if ok { b" OK done\r\n" } else { b" NO not done\r\n" };
            self.machine.handle_done(&Replies::default(), Bytes::from_static(rest), true);
        }
    }

    fn lost(&mut self) {
        (self.connected, self.runs) = (false, None);
        (self.divider, self.input) = Default::default();
        self.machine.handle_lost(&Loss { cut: true, ..Loss::default() });
    }

    fn act(&mut self) {
        for step in 0.. {
            assert!(step < STEPS, "no end");
            self.machine.handle_time(self.now);
            let Some(action) = self.machine.poll_action() else { return };
            match action {
                Action::Connect => {
                    self.connected = true;
                    self.machine.handle_connected(self.enabled);
                }
                Action::Run(run) => {
                    self.runs = Some(String::from_utf8_lossy(&run.command.segments[0].text).into_owned());
                    if self.honest {
                        self.answers();
                    }
                }
                Action::EndIdle if self.honest => self.done(true),
                Action::EndIdle | Action::Ahead(_) | Action::Overloaded(_) => {}
                Action::Disconnect => (self.connected, self.runs) = (false, None),
                Action::Abandon(_) => self.lost(),
                Action::Elsewhere(ids) => {
                    for id in ids {
                        self.machine.eject(id);
                        self.clients.remove(&id);
                    }
                }
                Action::Split(id) => {
                    if self.machine.fork(&[id]).is_some() {
                        self.clients.remove(&id);
                    }
                }
                Action::HandOver(_) => (self.connected, self.runs) = (false, None),
            }
        }
    }

    /// The truth: three messages, UIDs 11 to 13.
    fn answers(&mut self) {
        let line = self.runs.clone().unwrap();
        let untagged = match line.split(' ').next().unwrap() {
            "SELECT" => format!(
                "* {TRUE} EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 14] n\r\n* OK [HIGHESTMODSEQ 9] h\r\n"
            ),
            "UID" if line.contains("UNSEEN") => "* ESEARCH (TAG \"x\") UID\r\n".to_owned(),
            "UID" if line.contains("SEARCH RETURN (ALL)") => "* ESEARCH (TAG \"x\") UID ALL 11:13\r\n".to_owned(),
            "FETCH" if line.contains("(UID)") => {
                (1..=TRUE).map(|n| format!("* {n} FETCH (UID {})\r\n", n + 10)).collect()
            }
            "STATUS" => "* STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7 HIGHESTMODSEQ 9)\r\n".to_owned(),
            "IDLE" => {
                self.machine.handle_continue();
                return;
            }
            _ => String::new(),
        };
        self.says(&untagged, untagged.len());
        self.done(true);
    }

    /// From now on the backend tells the truth, on a new connection, and everybody asks.
    fn end(&mut self) {
        self.honest = true;
        if self.connected {
            self.machine.handle_time(self.now);
            self.lost();
        }
        for _ in 0..3 {
            self.settle();
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                self.gives(id, "NOOP");
            }
            self.settle();
        }
        for (id, client) in &self.clients {
            assert!(client.running.is_none(), "{id} waits for {:?}", client.running);
            assert_eq!(client.count, Some(TRUE), "{id}");
        }
    }

    fn settle(&mut self) {
        for _ in 0..30 {
            self.now += Duration::from_millis(700);
            self.act();
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                let mut steps = 0..STEPS;
                while self.take(id) {
                    steps.next().expect("an end");
                    self.act();
                }
            }
        }
    }
}

/// Of every size, as they are written.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0u64..8).prop_map(|n| n.to_string()),
        2 => (0u64..3000).prop_map(|n| n.to_string()),
        3 => prop::sample::select(vec![
            "2147483647", "2147483648", "4294967294", "4294967295", "4294967296", "9223372036854775807", "9223372036854775808",
            "18446744073709551615", "18446744073709551616", "1000000000000000000000000000000000000000", "007", "-1", "+2",
        ]).prop_map(str::to_owned),
    ]
}

fn set() -> impl Strategy<Value = String> {
    vec(prop_oneof![number(), (number(), number()).prop_map(|(a, b)| format!("{a}:{b}")), Just("*:4".into())], 1..4)
        .prop_map(|parts| parts.join(","))
}

fn reply() -> impl Strategy<Value = String> {
    let items = (number(), number(), number())
        .prop_map(|(n, uid, m)| format!("* {n} FETCH (UID {uid} FLAGS (\\Seen) MODSEQ ({m}))"));
    prop_oneof![
        4 => number().prop_map(|n| format!("* {n} EXISTS")),
        4 => number().prop_map(|n| format!("* {n} EXPUNGE")),
        2 => number().prop_map(|n| format!("* {n} RECENT")),
        3 => items,
        3 => (number(), prop::sample::select(vec!["", "\\Seen", "a", "b"])).prop_map(|(n, f)| format!("* {n} FETCH (FLAGS ({f}))")),
        2 => number().prop_map(|n| format!("* {n} FETCH (((((BODY[] NIL)")),
        3 => set().prop_map(|set| format!("* VANISHED {set}")),
        1 => set().prop_map(|set| format!("* VANISHED (EARLIER) {set}")),
        2 => set().prop_map(|set| format!("* ESEARCH (TAG \"x\") UID ALL {set}")),
        2 => set().prop_map(|set| format!("* ESEARCH (TAG \"x\") MIN {set} MAX {set} ALL {set} COUNT {set} PARTIAL (1:2 {set})")),
        2 => set().prop_map(|set| format!("* SEARCH {}", set.replace([',', ':'], " "))),
        1 => set().prop_map(|set| format!("* SORT {}", set.replace([',', ':'], " "))),
        1 => set().prop_map(|set| format!("* THREAD ({})", set.replace([',', ':'], ")("))),
        2 => number().prop_map(|n| format!("* OK [UIDNEXT {n}] x")),
        1 => number().prop_map(|n| format!("* OK [UIDVALIDITY {n}] x")),
        2 => number().prop_map(|n| format!("* OK [HIGHESTMODSEQ {n}] x")),
        1 => set().prop_map(|set| format!("* OK [COPYUID 7 {set} {set}] x")),
        1 => (number(), number()).prop_map(|(a, b)| format!("* STATUS INBOX (UIDNEXT {a} UIDVALIDITY 7 HIGHESTMODSEQ {b})")),
        // What is true, so that lies have something to contradict.
        2 => Just("* 3 EXISTS".into()),
        2 => Just("* OK [UIDVALIDITY 7] x".into()),
        2 => Just("* ESEARCH (TAG \"x\") UID ALL 11:13".into()),
        2 => Just("* 1 FETCH (UID 11)\r\n* 2 FETCH (UID 12)\r\n* 3 FETCH (UID 13)".into()),
    ]
}

fn command_line() -> impl Strategy<Value = String> {
    let sets =
        prop::sample::select(vec!["1:*", "1:4294967295", "*:4294967295", "4294967295:*", "2", "*", "4294967295"]);
    prop_oneof![
        3 => Just("NOOP".to_owned()),
        3 => Just("IDLE".to_owned()),
        1 => Just("EXPUNGE".to_owned()),
        1 => Just("CLOSE".to_owned()),
        2 => sets.clone().prop_map(|set| format!("FETCH {set} (FLAGS)")),
        1 => sets.clone().prop_map(|set| format!("UID FETCH {set} (FLAGS)")),
        2 => sets.clone().prop_map(|set| format!("STORE {set} +FLAGS.SILENT (\\Seen)")),
        1 => sets.clone().prop_map(|set| format!("UID STORE {set} -FLAGS (\\Seen)")),
        2 => sets.clone().prop_map(|set| format!("SEARCH {set} NOT UID {set}")),
        1 => sets.prop_map(|set| format!("COPY {set} Trash")),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let truth = "* 3 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 14] n\r\n* OK [HIGHESTMODSEQ 5] h\r\n";
    let says = |text: String| (Just(text), 1usize..40).prop_map(|(text, cut)| Op::Says(text, cut));
    prop_oneof![
        2 => any::<bool>().prop_map(Op::Join),
        5 => (any::<usize>(), command_line()).prop_map(|(who, line)| Op::Command(who, line)),
        4 => (any::<usize>(), 1usize..4).prop_map(|(who, count)| Op::Take(who, count)),
        8 => vec(reply(), 1..5).prop_flat_map(move |lines| says(lines.join("\r\n") + "\r\n")),
        2 => says(truth.to_owned()),
        8 => prop::bool::weighted(0.9).prop_map(Op::Done),
        1 => Just(Op::Lost),
        1 => any::<usize>().prop_map(Op::Leave),
        3 => (0u64..2000).prop_map(Op::Wait),
        1 => Just(Op::Yield),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_time: 30_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lies_end_in_the_truth(
        enabled in prop::sample::select(vec![Enabled::Nothing, Enabled::Condstore, Enabled::Qresync]),
        ops in vec(op(), 1..80),
    ) {
        guard();
        let mut world = World::new(enabled);
        let truth = "* 3 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 14] n\r\n* OK [HIGHESTMODSEQ 5] h\r\n";
        let opening = [Op::Join(false), Op::Says(truth.to_owned(), 99), Op::Done(true), Op::Take(0, 3), Op::Join(true)];
        for op in opening.iter().chain(&ops) {
            world.step(op);
        }
        world.end();
    }
}
