//! Whatever happens, in whatever order: what sessions are told makes their view the server's.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A message: who it is, and how often its flags were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    id: u32,
    flags: u32,
}

/// A session as a client sees it: all its messages, in its own order.
#[derive(Debug)]
struct Client {
    id: MemberId,
    view: Vec<Message>,
    recent: u32,
    /// The last message it ever knew.
    seen: u32,
    /// The last line about the mailbox.
    text: Bytes,
}

#[derive(Debug)]
struct World {
    log: Log,
    server: Vec<Message>,
    clients: Vec<Client>,
    next_id: u32,
    /// The server speaks of VANISHED, not of EXPUNGE.
    uids: bool,
    text: Bytes,
}

#[derive(Debug, Clone)]
enum Op {
    Deliver(u32),
    Recent(u32),
    Text(u8),
    Expunge(usize),
    /// Those that chance has it, all at once.
    Purge(u64),
    Flag(usize),
    /// A session changes flags itself, and hears of it by the reply.
    Store(usize, usize),
    Join,
    Leave(usize),
    Replay(usize, Replay),
}

/// Events that the session has not been told of, those withheld not counted.
fn lag(log: &Log, id: MemberId) -> u64 {
    log.places.get(&id).map_or(0, |place| log.head() - place.position)
}

fn items(message: Message) -> Bytes {
    format!("(UID {} X {})", message.id, message.flags).into()
}

impl World {
    fn new(exists: u32, uids: bool, max_events: usize) -> Self {
        let server = (1..=exists).map(|id| Message { id, flags: 0 }).collect();
        let log = Log { max_events, ..Log::new(exists, 0) };
        Self { log, server, clients: Vec::new(), next_id: exists + 1, uids, text: Bytes::new() }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Deliver(count) => {
                for _ in 0..count {
                    self.server.push(Message { id: self.next_id, flags: 0 });
                    self.next_id += 1;
                }
                self.log.handle_exists(self.server.len() as u32).unwrap();
            }
            Op::Recent(number) => self.log.handle_recent(number),
            Op::Text(text) => {
                self.text = vec![text].into();
                self.log.handle_text(self.text.clone(), None);
            }
            Op::Expunge(at) if !self.server.is_empty() => {
                let at = at % self.server.len();
                let gone = self.server.remove(at);
                let number = at as u32 + 1;
                if self.uids {
                    self.log.handle_gone(Ranges::from_iter([number]), Ranges::from_iter([gone.id])).unwrap();
                } else {
                    self.log.handle_gone(Ranges::from_iter([number]), Ranges::new()).unwrap();
                }
            }
            Op::Purge(chance) => {
                let goes = |at: usize| chance & (1 << (at % 64)) != 0;
                let numbers: Ranges = (0..self.server.len()).filter(|at| goes(*at)).map(|at| at as u32 + 1).collect();
                let uids = numbers.iter().filter(|_| self.uids).map(|n| self.server[n as usize - 1].id).collect();
                let mut at = 0..;
                self.server.retain(|_| at.next().is_some_and(|at| !goes(at)));
                assert_eq!(self.log.handle_gone(numbers.clone(), uids).is_ok(), !numbers.is_empty());
            }
            Op::Flag(at) if !self.server.is_empty() => {
                let at = at % self.server.len();
                self.server[at].flags += 1;
                self.log.handle_fetch(at as u32 + 1, items(self.server[at]), None).unwrap();
            }
            Op::Store(who, at) if !self.clients.is_empty() && !self.server.is_empty() => self.store(who, at),
            Op::Join => {
                let id = self.clients.iter().map(|client| client.id + 1).max().unwrap_or(0);
                self.log.join(id);
                let (view, recent, seen) = (self.server.clone(), self.log.recent(), self.next_id - 1);
                self.clients.push(Client { id, view, recent, seen, text: self.text.clone() });
            }
            Op::Leave(who) if !self.clients.is_empty() => {
                let client = self.clients.swap_remove(who % self.clients.len());
                self.log.leave(client.id);
            }
            Op::Replay(who, replay) if !self.clients.is_empty() => {
                let who = who % self.clients.len();
                self.replay(who, replay);
            }
            _ => {}
        }
        self.check();
    }

    /// As a hub would: brings the session up to date, but for EXPUNGE, then runs its command.
    fn store(&mut self, who: usize, at: usize) {
        let who = who % self.clients.len();
        self.replay(who, Replay::KeepNumbers);
        let at = at % self.server.len();
        let client = &mut self.clients[who];
        self.server[at].flags += 1;
        let own = self.log.numbering(client.id).back(at as u32 + 1).expect("it has been told");
        client.view[own as usize - 1].flags += 1;
        self.log.handle_fetch(at as u32 + 1, items(self.server[at]), Some(client.id)).unwrap();
        assert_eq!(lag(&self.log, client.id), 0, "it has heard it");
    }

    fn replay(&mut self, who: usize, replay: Replay) {
        let client = &mut self.clients[who];
        for news in self.log.replay(client.id, replay) {
            match news {
                News::Expunge(gone) => {
                    assert!(replay == Replay::All && !self.uids);
                    let mut at = 1..;
                    client.view.retain(|_| at.next().is_some_and(|at| !gone.contains(at)));
                }
                News::Vanished { uids, .. } => {
                    assert!(replay == Replay::All && self.uids);
                    let before = client.view.len();
                    client.view.retain(|message| !uids.contains(message.id));
                    assert_eq!(before - client.view.len(), uids.len() as usize);
                }
                News::Exists(n) => {
                    // It fetches what it did not know.
                    let seen = std::mem::replace(&mut client.seen, self.next_id - 1);
                    client.view.extend(self.server.iter().filter(|message| message.id > seen));
                    assert_eq!(client.view.len(), n as usize);
                }
                News::Recent(n) => {
                    assert!(n as usize <= client.view.len(), "{n} recent of {}", client.view.len());
                    client.recent = n;
                }
                News::Text(text) => client.text = text,
                News::Fetch(n, text) => {
                    let message = &mut client.view[n as usize - 1];
                    let told =
                        self.server.iter().find(|other| other.id == message.id).expect("not of one that is gone");
                    message.flags = told.flags;
                    assert_eq!(text, items(*message));
                }
            }
        }
        while self.log.is_stale(client.id) {
            for (own, n) in self.log.take_stale(client.id, 2) {
                let told = self.server[n as usize - 1];
                assert_eq!(client.view[own as usize - 1].id, told.id);
                client.view[own as usize - 1].flags = told.flags;
            }
        }
        self.check_told(who, replay);
    }

    fn check_told(&self, who: usize, replay: Replay) {
        let client = &self.clients[who];
        assert_eq!((client.recent, &client.text), (self.log.recent(), &self.text));
        assert_eq!(lag(&self.log, client.id), 0);
        if replay == Replay::All {
            assert_eq!(client.view, self.server);
            assert!(self.log.numbering(client.id).is_identity() && !self.log.withholds(client.id));
        }
        let left: Vec<_> = client.view.iter().filter(|message| self.has(message.id)).copied().collect();
        assert_eq!(left, self.server, "all that is left, with its flags");
        assert_eq!(left.len() < client.view.len(), self.log.withholds(client.id));
    }

    fn has(&self, id: u32) -> bool {
        self.server.iter().any(|message| message.id == id)
    }

    /// Of each session at any moment.
    fn check(&self) {
        assert!(self.log.events.len() <= self.log.max_events);
        let lagging = self.clients.iter().map(|client| lag(&self.log, client.id)).max().unwrap_or(0);
        assert_eq!(self.log.events.len() as u64, lagging, "no more than the slowest needs");
        assert_eq!(self.log.octets, self.log.events.iter().map(Event::octets).sum::<usize>());
        for client in &self.clients {
            let numbering = self.log.numbering(client.id);
            assert_eq!(
                (numbering.known() as usize, numbering.exists() as usize),
                (client.view.len(), self.server.len())
            );
            for (n, message) in (1..).zip(&client.view) {
                let number = self.server.iter().position(|other| other.id == message.id).map(|at| at as u32 + 1);
                assert_eq!(numbering.forward(n), number);
            }
            for (m, message) in (1..).zip(&self.server) {
                let own = client.view.iter().position(|other| other.id == message.id).map(|at| at as u32 + 1);
                assert_eq!(numbering.back(m), own);
                assert_eq!(self.log.back(client.id, m), own);
            }
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1u32..4).prop_map(Op::Deliver),
        1 => (0u32..4).prop_map(Op::Recent),
        1 => any::<u8>().prop_map(Op::Text),
        6 => any::<usize>().prop_map(Op::Expunge),
        2 => any::<u64>().prop_map(Op::Purge),
        1 => Just(Op::Purge(u64::MAX)),
        6 => any::<usize>().prop_map(Op::Flag),
        3 => any::<(usize, usize)>().prop_map(|(who, at)| Op::Store(who, at)),
        2 => Just(Op::Join),
        1 => any::<usize>().prop_map(Op::Leave),
        3 => any::<usize>().prop_map(|who| Op::Replay(who, Replay::All)),
        4 => any::<usize>().prop_map(|who| Op::Replay(who, Replay::KeepNumbers)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn views_are_the_servers(
        exists in 0u32..12, uids in any::<bool>(), max_events in prop_oneof![Just(3usize), Just(8), Just(1000)],
        ops in vec(op(), 1..60),
    ) {
        let mut world = World::new(exists, uids, max_events);
        for op in [Op::Join, Op::Join].iter().chain(&ops) {
            world.step(op);
        }
        for who in 0..world.clients.len() {
            world.replay(who, Replay::All);
        }
        prop_assert!(world.log.events.is_empty());
    }
}

/// RFC 9051 section 7.5.1: no EXPUNGE during FETCH, STORE and SEARCH. The others are told in numbers that stay.
#[test]
fn what_is_told_and_when() {
    let mut log = Log::new(4, 0);
    log.join(1);
    log.handle_gone(Ranges::from_iter([2]), Ranges::new()).unwrap();
    log.handle_exists(4).unwrap();
    log.handle_fetch(2, "(FLAGS (\\Seen))".into(), None).unwrap();
    log.handle_fetch(2, "(FLAGS ())".into(), None).unwrap();
    let told = |news: Vec<News>| {
        let mut out = BytesMut::new();
        news.iter().for_each(|news| news.write(&mut out));
        String::from_utf8(out.to_vec()).unwrap()
    };
    assert_eq!(told(log.replay(1, Replay::KeepNumbers)), "* 5 EXISTS\r\n* 3 FETCH (FLAGS ())\r\n");
    log.handle_gone(Ranges::from_iter([4]), Ranges::new()).unwrap();
    log.handle_recent(1);
    assert_eq!(told(log.replay(1, Replay::All)), "* 5 EXPUNGE\r\n* 2 EXPUNGE\r\n* 1 RECENT\r\n");
    assert_eq!(told(log.replay(1, Replay::All)), "");
}

#[test]
fn what_cannot_be_is_refused() {
    let mut log = Log::new(2, 0);
    assert_eq!(log.handle_exists(1), Err(LogError::Shrunk(2, 1)));
    assert_eq!(log.handle_gone(Ranges::from_iter([3]), Ranges::new()), Err(LogError::NoSuchMessage(3, 2)));
    assert_eq!(log.handle_gone(Ranges::from_iter([0]), Ranges::new()), Err(LogError::NoSuchMessage(0, 2)));
    assert_eq!(log.handle_gone(Ranges::from_iter([1, 3]), Ranges::new()), Err(LogError::NoSuchMessage(3, 2)));
    assert_eq!(log.handle_gone(Ranges::new(), Ranges::new()), Err(LogError::NoSuchMessage(0, 2)));
    assert_eq!(log.handle_fetch(3, Bytes::new(), None), Err(LogError::NoSuchMessage(3, 2)));
    assert_eq!(log.exists(), 2);
}

#[test]
fn a_session_at_rest_costs_no_more_than_the_bound() {
    let mut log = Log::new(10_000, 0);
    let (asleep, awake) = (1, 2);
    log.join(asleep);
    log.join(awake);
    for round in 0..3u32 {
        for n in 1..=5000 {
            log.handle_fetch(n, format!("(FLAGS ({round}) {})", "x".repeat(100)).into(), Some(awake)).unwrap();
            assert!(log.events.len() <= MAX_EVENTS && log.octets <= MAX_OCTETS);
        }
    }
    for _ in 0..9000 {
        log.handle_gone(Ranges::from_iter([1]), Ranges::new()).unwrap();
        log.replay(awake, Replay::All);
    }
    assert_eq!(log.replay(asleep, Replay::All), [News::Expunge((1..=9000).collect())]);
    assert!(!log.is_stale(asleep), "those are gone");
}

/// A mailbox of as many messages as there can be, which are gone, and as many again: to count them costs nothing.
#[test]
fn all_the_numbers_there_are() {
    let all = || Ranges::from_runs(vec![(1, u32::MAX)]);
    let mut log = Log::new(3, u32::MAX);
    let (asleep, awake) = (1, 2);
    log.join(asleep);
    log.join(awake);
    for _ in 0..3 {
        log.handle_exists(u32::MAX).unwrap();
        log.handle_fetch(u32::MAX, "(FLAGS ())".into(), None).unwrap();
        log.replay(awake, Replay::KeepNumbers);
        log.handle_gone(all(), Ranges::new()).unwrap();
        log.replay(awake, Replay::KeepNumbers);
        assert!(log.withholds(awake));
    }
    log.handle_exists(7).unwrap();
    log.handle_fetch(7, "(FLAGS ())".into(), None).unwrap();
    assert_eq!(log.back(awake, 7), None, "numbers go no further");
    assert_eq!(log.replay(awake, Replay::KeepNumbers), [News::Recent(7)]);
    let gone = News::Expunge(all());
    assert_eq!(log.replay(awake, Replay::All), [gone, News::Exists(7)]);
    let told = log.replay(asleep, Replay::All);
    let gone = News::Expunge((1..=3).collect());
    // The flags of those that are new to it, it asks for.
    assert_eq!(told, [gone, News::Exists(7), News::Recent(7)]);
    assert_eq!(log.back(awake, 7), Some(7));
}
