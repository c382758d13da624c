//! The clock, the connections, the clients and the chance of one program.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::client::Client;
use super::server::{self, Flags, Message, World};
use crate::imap::capability::Capabilities;
use crate::imap::command::{Command, Segment, parse_head};
use crate::imap::request::Request;
use crate::imap::untagged::Replies;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::machine::{Action, GiveUp, Machine, MemberId, Settings, Told};
use crate::upstream::loss::Loss;
use crate::upstream::machine::{Event, Machine as Upstream};
use crate::upstream::manners::Manners;

/// What a program is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) sessions: usize,
    pub(super) mailboxes: usize,
    pub(super) connections: usize,
    pub(super) losses: bool,
    /// Connections are retired, and sessions' credentials refused.
    pub(super) retires: bool,
    /// The server refuses what imapool asks of its own accord.
    pub(super) refusals: bool,
    /// What some of the sessions switch on.
    pub(super) enable: Enabled,
}

/// What happened in it.
#[derive(Debug, Default, Clone)]
pub(super) struct Totals {
    pub(super) joined: u64,
    pub(super) checked: u64,
    pub(super) withheld: u64,
    pub(super) byes: u64,
    pub(super) cuts: u64,
    pub(super) parked: u64,
    pub(super) lost: u64,
    pub(super) divided: u64,
    pub(super) pinned: u64,
    pub(super) ahead: u64,
    pub(super) refused: u64,
    pub(super) modified: u64,
    pub(super) resumed: u64,
    pub(super) revoked: u64,
    pub(super) retired: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: &Self) {
        self.joined += other.joined;
        self.checked += other.checked;
        self.withheld += other.withheld;
        self.byes += other.byes;
        self.cuts += other.cuts;
        self.parked += other.parked;
        self.lost += other.lost;
        self.divided += other.divided;
        self.pinned += other.pinned;
        self.ahead += other.ahead;
        self.refused += other.refused;
        self.modified += other.modified;
        self.resumed += other.resumed;
        self.revoked += other.revoked;
        self.retired += other.retired;
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A connection of imapool to the server: the true upstream machine, and what is on its way.
struct Link {
    upstream: Upstream,
    server: server::Connection,
    to_server: Vec<String>,
    input: BytesMut,
    on_its_way: BytesMut,
    /// The mailbox as it was when the server last answered.
    seen: Option<Vec<Message>>,
    /// In that answer nothing could be said of what is gone (RFC 9051 section 7.5.1).
    quiet: bool,
    sent: bool,
    replied: bool,
}

struct Hub {
    key: Bytes,
    machine: Machine,
    link: Option<Link>,
    /// Its connection was retired.
    outdated: bool,
    connecting: bool,
    shared: bool,
    members: Vec<MemberId>,
}

pub(super) struct Sim {
    plan: Plan,
    chance: Chance,
    world: World,
    names: Vec<String>,
    manners: Arc<Manners>,
    hubs: Vec<Hub>,
    clients: BTreeMap<MemberId, Client>,
    /// Which hub a client is in.
    places: HashMap<MemberId, usize>,
    resting: Vec<Link>,
    now: Instant,
    /// When the server had last answered all.
    delivered: Instant,
    next: MemberId,
    log: Vec<String>,
    loud: bool,
    pub(super) totals: Totals,
}

/// No server takes longer to answer.
const LATEST: Duration = Duration::from_secs(5);

const SETTINGS: Settings = Settings {
    idle: true,
    esearch: true,
    unseen: true,
    condstore: true,
    keepalive: Duration::from_secs(600),
    patience: Duration::from_millis(200),
    silence: Duration::from_secs(10),
    parked: Duration::from_secs(5),
};

pub(super) fn command(line: &str) -> Box<Request> {
    let tagged = format!("t {line}");
    let head = parse_head(tagged.as_bytes()).unwrap();
    let segments = vec![Segment { text: Bytes::from(line.to_owned()), literal: None }];
    Request::new(Command { tag: Bytes::from_static(b"t"), name: head.name, segments }, None)
}

fn refusals(chance: &mut Chance) -> server::Refusals {
    use server::Refusal::{Bad, No, Nothing};
    let mut some = || *chance.pick(&[None, Some(No), Some(Bad), Some(Nothing)]);
    let (idle, status, esearch, search) = (some(), some(), some(), some());
    server::Refusals { idle, status, esearch, search, late: chance.one_in(2) }
}

impl Sim {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            chance.below(2);
        }
        let mut world = World::default();
        if plan.refusals {
            world.refusals = refusals(&mut chance);
        }
        let names: Vec<String> = (0..plan.mailboxes).map(|n| format!("box{n}")).collect();
        for name in &names {
            world.create(name);
            for _ in 0..chance.below(6) {
                world.mailbox(name).unwrap().append(Flags::new());
            }
        }
        Self {
            plan,
            chance,
            world,
            names,
            manners: Arc::default(),
            hubs: Vec::new(),
            clients: BTreeMap::new(),
            places: HashMap::new(),
            resting: Vec::new(),
            now: Instant::now(),
            delivered: Instant::now(),
            next: 0,
            log: Vec::new(),
            loud: false,
            totals: Totals::default(),
        }
    }

    pub(super) fn transcript(&self) -> String {
        self.log.join("\n")
    }

    /// Writes down what happens.
    pub(super) fn aloud(mut self) -> Self {
        self.loud = true;
        self
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if self.loud {
            self.log.push(line());
        }
    }

    pub(super) fn run(&mut self) {
        for _ in 0..self.plan.sessions {
            self.arrive();
        }
        let steps = 30 + self.chance.below(40 * self.plan.sessions.min(6));
        for _ in 0..steps {
            if self.plan.retires && self.chance.one_in(12) {
                self.retire();
            }
            match self.chance.below(12) {
                0..=3 => self.client_step(),
                4 => self.third_party(),
                5 if self.plan.losses && self.chance.one_in(3) => self.lose(),
                5 => {
                    if self.now >= self.delivered + LATEST {
                        self.deliver_all();
                    }
                    self.now += Duration::from_millis(self.chance.below(700) as u64);
                }
                6 if self.chance.one_in(8) => {
                    self.deliver_all();
                    self.now += Duration::from_secs(6);
                }
                7 => self.server_step(),
                _ => self.deliver_some(),
            }
            self.settle();
        }
        self.finish();
    }

    /// All is answered, and everybody looks once more.
    fn finish(&mut self) {
        self.say(|| "-- end".into());
        self.world.refusing = 0;
        self.quiesce();
        assert!(
            !self.hubs.iter().any(|hub| hub.link.is_some() && hub.outdated),
            "a connection that was retired is kept"
        );
        let ids: Vec<MemberId> = self.clients.keys().copied().collect();
        for id in ids {
            let Some(client) = self.clients.get(&id) else { continue };
            if client.idling {
                self.idles(id);
            }
            let Some(client) = self.clients.get(&id) else { continue };
            if client.mailbox.is_some() {
                self.give(id, "NOOP");
                self.until_answered(id);
            }
            let Some(client) = self.clients.get(&id) else { continue };
            assert!(client.running.is_none(), "{id} waits for {:?}", client.running);
            if let Some(mailbox) = client.mailbox.clone() {
                client.equals(&self.world.mailboxes[&mailbox].messages.clone());
            }
        }
        // It may be asked by several hubs at once, before the first has heard. Where DONE was on its way already,
        // twice: it may have been chance; and once more after a while.
        let most = self.plan.connections.min(self.plan.mailboxes * 8);
        assert!(self.world.refused_idles <= 3 * most, "{} times IDLE", self.world.refused_idles);
    }

    /// Who idles is told without asking, as long as its hub has a connection and has had the time to select the
    /// mailbox there.
    fn idles(&mut self, id: MemberId) {
        // Others have been asked meanwhile, and this hub may have been given a connection for it just now.
        self.quiesce();
        if !self.manners.known().idle.allows(self.now) {
            // It was refused, or connections were lost in it: news are asked for now and then.
            self.now += Duration::from_secs(16);
            self.quiesce();
        }
        let link = self.places.get(&id).and_then(|hub| self.hubs[*hub].link.as_ref());
        if link.is_some_and(|link| link.seen.is_some()) {
            let mailbox = self.clients[&id].mailbox.clone().unwrap();
            let messages = self.world.mailboxes[&mailbox].messages.clone();
            self.say(|| format!("{id} idles and should know all"));
            self.clients[&id].equals(&messages);
        }
        if self.clients.contains_key(&id) {
            self.say(|| format!("{id} C: DONE"));
            self.end_idle(id);
            self.until_answered(id);
        }
    }

    /// Lets everything take its course, for some seconds.
    fn quiesce(&mut self) {
        for _ in 0..6 {
            self.settle();
            self.deliver_all();
            self.now += Duration::from_millis(600);
        }
        self.settle();
    }

    /// Lets the server answer all that it was asked.
    fn deliver_all(&mut self) {
        self.delivered = self.now;
        let mut moved = true;
        while moved {
            moved = false;
            for at in 0..self.hubs.len() {
                self.serve(at);
                moved |= self.deliver(at, usize::MAX);
            }
        }
    }

    fn until_answered(&mut self, id: MemberId) {
        for round in 0..100 {
            if self.clients.get(&id).is_none_or(|client| client.running.is_none()) {
                return;
            }
            for at in 0..self.hubs.len() {
                self.serve(at);
                self.deliver(at, usize::MAX);
            }
            if round > 20 {
                self.now += Duration::from_millis(100);
            }
            self.settle();
        }
    }

    fn arrive(&mut self) {
        let id = self.next;
        self.next += 1;
        self.clients.insert(id, Client::default());
        self.select(id);
    }

    fn select(&mut self, id: MemberId) {
        self.leave(id);
        let name = self.chance.pick(&self.names.clone()).clone();
        let read_only = self.chance.one_in(6);
        if self.chance.one_in(2) {
            let most = self.plan.enable;
            let enabled = (*self.chance.pick(&[Enabled::Condstore, Enabled::Qresync])).min(most);
            self.clients.get_mut(&id).unwrap().switches_on(enabled);
        }
        let enabled = self.clients[&id].enabled;
        let parameter =
            match self.clients[&id].resync(&name).filter(|_| enabled == Enabled::Qresync && !self.chance.one_in(4)) {
                Some(resync) => resync,
                None if enabled.has_modseqs() && self.chance.one_in(2) => " (CONDSTORE)".into(),
                None => String::new(),
            };
        let line = format!("{} {name}{parameter}", if read_only { "EXAMINE" } else { "SELECT" });
        self.say(|| format!("{id} C: {line}"));
        let run = command(&line);
        let key = run.selects().unwrap().clone();
        self.clients.get_mut(&id).unwrap().begin(&line);
        let found = self.hubs.iter().rposition(|hub| hub.key == key && hub.shared && !hub.machine.is_empty());
        let at = found.unwrap_or_else(|| self.open(key));
        self.join(id, run, at);
    }

    fn open(&mut self, key: Bytes) -> usize {
        let machine = Machine::new(key.clone(), SETTINGS, Arc::clone(&self.manners), self.now);
        self.add(Hub {
            key,
            machine,
            link: None,
            outdated: false,
            connecting: false,
            shared: true,
            members: Vec::new(),
        })
    }

    fn join(&mut self, id: MemberId, run: Box<Request>, at: usize) {
        let enabled = self.clients[&id].enabled;
        let hub = &mut self.hubs[at];
        hub.machine.handle_time(self.now);
        hub.machine.handle_join(id, run, enabled);
        hub.members.push(id);
        self.places.insert(id, at);
    }

    fn add(&mut self, hub: Hub) -> usize {
        match self.hubs.iter().position(|hub| hub.members.is_empty() && hub.link.is_none() && hub.machine.is_empty()) {
            Some(at) => {
                self.hubs[at] = hub;
                at
            }
            None => {
                self.hubs.push(hub);
                self.hubs.len() - 1
            }
        }
    }

    fn leave(&mut self, id: MemberId) {
        if let Some(at) = self.places.remove(&id) {
            self.hubs[at].machine.handle_time(self.now);
            self.hubs[at].machine.handle_leave(id);
            self.hubs[at].members.retain(|member| *member != id);
        }
    }

    fn give(&mut self, id: MemberId, line: &str) {
        self.say(|| format!("{id} C: {line}"));
        let client = self.clients.get_mut(&id).unwrap();
        client.begin(line);
        if command(line).modseqs().asked {
            client.switches_on(Enabled::Condstore);
        }
        let at = self.places[&id];
        let hub = &mut self.hubs[at];
        hub.machine.handle_time(self.now);
        hub.machine.handle_command(id, command(line));
        self.settle();
    }

    fn end_idle(&mut self, id: MemberId) {
        let hub = &mut self.hubs[self.places[&id]];
        self.clients.get_mut(&id).unwrap().begin("DONE");
        self.clients.get_mut(&id).unwrap().idling = false;
        hub.machine.handle_time(self.now);
        hub.machine.handle_octets(id);
        self.settle();
    }

    fn client_step(&mut self) {
        let ids: Vec<MemberId> = self.clients.keys().copied().collect();
        if ids.is_empty() || self.chance.one_in(60) && ids.len() < self.plan.sessions {
            return self.arrive();
        }
        let id = *self.chance.pick(&ids);
        if self.chance.one_in(80) {
            self.say(|| format!("{id} vanishes"));
            self.leave(id);
            self.clients.remove(&id);
            return;
        }
        let client = &self.clients[&id];
        if client.idling {
            self.say(|| format!("{id} C: DONE"));
            return self.end_idle(id);
        }
        if client.running.is_some() {
            return;
        }
        if client.mailbox.is_none() || self.chance.one_in(15) {
            return self.select(id);
        }
        let line = self.line(id);
        if line == "IDLE" {
            self.clients.get_mut(&id).unwrap().idling = true;
        }
        self.give(id, &line);
    }

    fn line(&mut self, id: MemberId) -> String {
        let view = self.clients[&id].view.clone();
        let count = view.len();
        let uids: Vec<u32> = view.iter().filter_map(|known| known.uid).collect();
        let by_uid = self.chance.one_in(3);
        let mut number = || {
            if by_uid && !uids.is_empty() {
                self.chance.pick(&uids).to_string()
            } else {
                (1 + self.chance.below(count)).to_string()
            }
        };
        let set = match (number(), number(), number().len() + count) {
            (a, b, n) if n % 3 == 0 => format!("{a}:{b}"),
            (a, b, n) if n % 3 == 1 => format!("{a},{b}"),
            (a, _, _) => a,
        };
        let prefix = if by_uid { "UID " } else { "" };
        let flags = *self.chance.pick(&["(\\Seen)", "(\\Deleted)", "(\\Flagged)", "(\\Seen \\Deleted)"]);
        let sign = *self.chance.pick(&["+", "-", ""]);
        let odds = if self.clients[&id].enabled.has_modseqs() { 4 } else { 20 };
        if self.plan.enable.has_modseqs() && count > 0 && self.chance.one_in(odds) {
            let modseq = 1 + self.chance.below(30);
            let silent = if self.chance.one_in(2) { ".SILENT" } else { "" };
            let vanished = self.clients[&id].enabled == Enabled::Qresync && self.chance.one_in(2);
            return match self.chance.below(5) {
                1 if vanished => format!("UID FETCH 1:99 (UID FLAGS) (CHANGEDSINCE {modseq} VANISHED)"),
                0 | 1 => format!("{prefix}FETCH {set} (FLAGS MODSEQ)"),
                2 => format!("{prefix}FETCH 1:* (UID FLAGS) (CHANGEDSINCE {modseq})"),
                3 => format!("SEARCH MODSEQ {modseq}"),
                _ => format!("{prefix}STORE {set} (UNCHANGEDSINCE {modseq}) {sign}FLAGS{silent} {flags}"),
            };
        }
        let target = self.chance.pick(&self.names.clone()).clone();
        match self.chance.below(if count == 0 { 4 } else { 22 }) {
            0 | 1 => "NOOP".into(),
            2 => "IDLE".into(),
            3 if self.chance.one_in(3) => (*self.chance.pick(&["CLOSE", "UNSELECT", "XYZZY"])).into(),
            3 => (*self.chance.pick(&["LIST \"\" *", "CHECK", "EXPUNGE"])).into(),
            4 | 5 => "FETCH 1:* (UID FLAGS)".into(),
            6 => format!("{prefix}FETCH {set} (FLAGS)"),
            7 => format!("{prefix}FETCH {set} (UID BODY.PEEK[])"),
            8 => format!("{prefix}FETCH {set} (BODY[])"),
            9 => format!("FETCH *:{} (UID)", 1 + self.chance.below(count)),
            10..=12 => format!("{prefix}STORE {set} {sign}FLAGS {flags}"),
            13 | 14 => format!("{prefix}STORE {set} {sign}FLAGS.SILENT {flags}"),
            15 => format!("{prefix}SEARCH {}", self.chance.pick(&["ALL", "SEEN", "NOT DELETED"])),
            16 if !uids.is_empty() => format!("SEARCH UID {}", self.chance.pick(&uids)),
            16 => format!("SEARCH 1:{count}"),
            17 => format!("{prefix}COPY {set} {target}"),
            18 => format!("{prefix}MOVE {set} {target}"),
            19 if by_uid => format!("UID EXPUNGE {set}"),
            _ => "FETCH 1:* FLAGS".into(),
        }
    }

    /// Somebody who does not come by imapool.
    fn third_party(&mut self) {
        let name = self.chance.pick(&self.names.clone()).clone();
        let mailbox = self.world.mailbox(&name).unwrap();
        let uids: Vec<u32> = mailbox.messages.iter().map(|m| m.uid).collect();
        let what = self.chance.below(4);
        if what <= 1 || uids.is_empty() {
            let uid = mailbox.append(Flags::new());
            self.say(|| format!("-- {name}: new {uid}"));
        } else {
            let uid = *self.chance.pick(&uids);
            let mailbox = self.world.mailbox(&name).unwrap();
            if what == 2 {
                mailbox.expunge(|m| m.uid == uid);
            } else {
                let flag = if uid.is_multiple_of(2) { "\\Flagged" } else { "\\Seen" };
                mailbox.set(uid, [flag.to_owned()].into());
            }
            self.say(|| format!("-- {name}: {} {uid}", if what == 2 { "gone" } else { "flags of" }));
        }
    }

    fn deliver_some(&mut self) {
        if self.hubs.is_empty() {
            return;
        }
        let at = self.chance.below(self.hubs.len());
        let octets = if self.chance.one_in(3) { 1 + self.chance.below(40) } else { usize::MAX };
        self.serve(at);
        self.deliver(at, octets);
    }

    fn server_step(&mut self) {
        if !self.hubs.is_empty() {
            let at = self.chance.below(self.hubs.len());
            self.serve(at);
        }
    }

    /// The server reads and answers.
    fn serve(&mut self, at: usize) {
        let name = String::from_utf8(self.hubs[at].key[1..].to_vec()).unwrap();
        let Some(link) = &mut self.hubs[at].link else { return };
        let mut news = false;
        for line in std::mem::take(&mut link.to_server) {
            let reply = link.server.line(&mut self.world, &line);
            news = true;
            if self.loud {
                self.log.push(format!("   hub {at} C: {line}"));
                self.log.extend(reply.lines().map(|line| format!("   hub {at} S: {line}")));
            }
            link.on_its_way.extend_from_slice(reply.as_bytes());
            link.sent = true;
            let verb = line.split(' ').nth(1).unwrap_or_default();
            link.quiet = matches!(verb, "FETCH" | "STORE" | "SEARCH");
        }
        if link.server.is_idling() {
            let told = link.server.idle_news(&self.world);
            news |= !told.is_empty();
            if self.loud {
                self.log.extend(told.lines().map(|line| format!("   hub {at} S: {line}")));
            }
            link.on_its_way.extend_from_slice(told.as_bytes());
        }
        if news {
            link.seen = self.world.mailboxes.get(&name).map(|mailbox| mailbox.messages.clone());
        }
    }

    fn deliver(&mut self, at: usize, octets: usize) -> bool {
        let hub = &mut self.hubs[at];
        hub.machine.handle_time(self.now);
        let Some(link) = &mut hub.link else { return false };
        let take = octets.min(link.on_its_way.len());
        if take == 0 {
            return false;
        }
        link.replied = true;
        let piece = link.on_its_way.split_to(take);
        link.input.unsplit(piece);
        self.read_on(at);
        self.transmit(at);
        self.settle();
        true
    }

    /// What a hub's connection has of what the server has said goes to the hub.
    fn read_on(&mut self, at: usize) {
        let hub = &mut self.hubs[at];
        let Some(link) = &mut hub.link else { return };
        link.upstream.handle_input(&mut link.input).unwrap();
        while let Some(event) = hub.link.as_mut().and_then(|link| link.upstream.poll_event()) {
            match event {
                Event::Data(data) => hub.machine.handle_data(&data),
                Event::Continue(_) => hub.machine.handle_continue(),
                Event::Tagged(octets) => hub.machine.handle_tagged(octets),
                Event::Done(rest, selected) => hub.machine.handle_done(&Replies::default(), rest, selected),
                // What the connection's owner does with one whose mailbox cannot be left: the command that waits for
                // it was not sent.
                Event::OwnDone(_, false) => {
                    hub.link = None;
                    self.totals.lost += 1;
                    hub.machine.handle_lost(&Loss::before_anything());
                }
                Event::OwnDone(..) | Event::Ignored(..) => {}
                Event::Bye(text) => panic!("{text:?}"),
            }
        }
    }

    fn transmit(&mut self, at: usize) {
        if let Some(link) = &mut self.hubs[at].link {
            let octets = link.upstream.poll_transmit();
            let text = String::from_utf8(octets.to_vec()).unwrap();
            link.to_server.extend(text.lines().map(str::to_owned));
        }
    }

    /// Does what the machines ask for, and tells the clients what there is for them, until nothing is left.
    fn settle(&mut self) {
        loop {
            let mut progress = false;
            for at in 0..self.hubs.len() {
                progress |= self.act(at);
                progress |= self.tell(at);
                self.close_if_empty(at);
            }
            progress |= self.connect();
            if !progress {
                return;
            }
        }
    }

    fn close_if_empty(&mut self, at: usize) {
        let hub = &mut self.hubs[at];
        if hub.machine.is_empty() {
            hub.connecting = false;
            if let Some(link) = hub.link.take() {
                self.put_back(link);
            }
        }
    }

    /// To the pool, if it is clean.
    fn put_back(&mut self, mut link: Link) {
        if link.upstream.is_clean()
            && link.upstream.spoiled().is_none()
            && link.on_its_way.is_empty()
            && link.input.is_empty()
        {
            link.upstream.handle_release();
            // The next one to have it has been told nothing by it.
            link.seen = None;
            self.resting.push(link);
        }
    }

    fn act(&mut self, at: usize) -> bool {
        let mut progress = false;
        self.hubs[at].machine.handle_time(self.now);
        while let Some(action) = self.hubs[at].machine.poll_action() {
            progress = true;
            let hub = &mut self.hubs[at];
            match action {
                Action::Connect => hub.connecting = true,
                Action::Run(run) => {
                    let link = hub.link.as_mut().expect("a connection");
                    link.sent = false;
                    link.replied = false;
                    link.upstream.handle_command(run);
                    self.transmit(at);
                    self.read_on(at);
                }
                Action::Ahead(command) => {
                    self.totals.ahead += 1;
                    hub.link.as_mut().expect("a connection").upstream.handle_ahead(command);
                    self.transmit(at);
                }
                Action::EndIdle => {
                    hub.link.as_mut().expect("a connection").upstream.handle_octets(b"DONE\r\n");
                    self.transmit(at);
                }
                Action::Disconnect => {
                    self.totals.parked += 1;
                    let link = hub.link.take().expect("a connection");
                    assert!(link.upstream.is_clean());
                    let outdated = hub.outdated;
                    self.say(|| format!("   hub {at} parks"));
                    if outdated {
                        self.totals.retired += 1;
                    } else {
                        self.put_back(link);
                    }
                }
                // Its task has ended, whatever ran there.
                Action::Abandon(_) if hub.machine.is_empty() => {
                    hub.machine.handle_lost(&Loss { cut: true, ..Loss::default() })
                }
                Action::Abandon(error) => panic!("the server made no sense: {error}"),
                Action::Overloaded(owner) => {
                    if self.in_use() < self.plan.connections {
                        let others: Vec<MemberId> = self.hubs[at].machine.members().filter(|id| *id != owner).collect();
                        self.fork(at, &others, true);
                    }
                }
                Action::Elsewhere(ids) => {
                    let other = self.open(self.hubs[at].key.clone());
                    for id in ids {
                        let run = self.hubs[at].machine.eject(id).expect("a SELECT");
                        self.gone(at, id);
                        self.join(id, run, other);
                    }
                }
                Action::Split(id) => self.fork(at, &[id], false),
                Action::HandOver(_) => {
                    self.totals.pinned += 1;
                    hub.link = None;
                }
            }
        }
        progress
    }

    fn fork(&mut self, at: usize, ids: &[MemberId], shared: bool) {
        let Some(mut machine) = self.hubs[at].machine.fork(ids) else { return };
        if !shared {
            machine.apart = true;
        }
        self.totals.divided += 1;
        let key = self.hubs[at].key.clone();
        self.hubs[at].members.retain(|id| !ids.contains(id));
        let other = self.add(Hub {
            key,
            machine,
            link: None,
            outdated: false,
            connecting: false,
            shared,
            members: ids.to_vec(),
        });
        self.say(|| format!("   hub {at} divides: {ids:?} to {other}"));
        for id in ids {
            self.places.insert(*id, other);
        }
    }

    fn in_use(&self) -> usize {
        self.hubs.iter().filter(|hub| hub.link.is_some()).count()
    }

    fn connect(&mut self) -> bool {
        let Some(at) = self.hubs.iter().position(|hub| hub.connecting) else { return false };
        if self.in_use() >= self.plan.connections {
            let holding: Vec<usize> = (0..self.hubs.len()).filter(|hub| self.hubs[*hub].link.is_some()).collect();
            let other = *self.chance.pick(&holding);
            self.hubs[other].machine.handle_time(self.now);
            self.hubs[other].machine.handle_give_up(GiveUp::Wanted);
            return self.act(other);
        }
        let (needed, apart) = (self.hubs[at].machine.needed(), self.hubs[at].machine.apart);
        let fits = |link: &Link| {
            let by_select = needed == Enabled::Condstore && link.server.enabled < needed;
            by_select || link.server.enabled == needed || !apart && link.server.enabled > needed
        };
        let found = self.resting.iter().position(fits);
        let lacking =
            self.resting.iter().position(|link| link.server.enabled < needed && self.plan.sessions.is_multiple_of(2));
        let link = match found.or(lacking).map(|found| self.resting.swap_remove(found)) {
            Some(mut link) => {
                link.upstream.handle_attach();
                link.upstream.divide_replies(true);
                if needed == Enabled::Qresync {
                    link.server.enable(needed);
                }
                link
            }
            None => {
                let capabilities = Arc::new(Capabilities::parse(b"IMAP4rev1 IDLE ESEARCH UNSELECT UIDPLUS"));
                let mut upstream = Upstream::new(capabilities, 1);
                upstream.handle_attach();
                upstream.divide_replies(true);
                let other = if !apart && self.chance.one_in(2) { self.plan.enable } else { Enabled::Nothing };
                let on = if needed == Enabled::Qresync { needed } else { other };
                let server = server::Connection::new(self.chance.one_in(2), on);
                Link {
                    upstream,
                    server,
                    to_server: Vec::new(),
                    input: BytesMut::new(),
                    on_its_way: BytesMut::new(),
                    seen: None,
                    quiet: false,
                    sent: false,
                    replied: false,
                }
            }
        };
        let hub = &mut self.hubs[at];
        hub.connecting = false;
        hub.outdated = false;
        let on = link.server.enabled;
        hub.link = Some(link);
        hub.machine.handle_time(self.now);
        hub.machine.handle_connected(on);
        true
    }

    /// A hub is to go on with another connection, or one of its members is let go, whose command does not run.
    fn retire(&mut self) {
        if self.hubs.is_empty() {
            return;
        }
        let at = self.chance.below(self.hubs.len());
        let hub = &mut self.hubs[at];
        hub.machine.handle_time(self.now);
        let owner = hub.machine.owner();
        let others: Vec<MemberId> = hub.members.iter().copied().filter(|id| Some(*id) != owner).collect();
        if self.chance.one_in(4) && !others.is_empty() {
            let id = *self.chance.pick(&others);
            self.hubs[at].machine.handle_revoked(&[id]);
            self.say(|| format!("{id} is let go"));
        } else if hub.link.is_some() {
            let why = if self.chance.one_in(2) { GiveUp::Retired } else { GiveUp::Aged };
            hub.machine.handle_give_up(why);
            hub.outdated = why == GiveUp::Retired;
            self.say(|| format!("   hub {at} is to change connections"));
        }
    }

    fn lose(&mut self) {
        let holding: Vec<usize> = (0..self.hubs.len()).filter(|hub| self.hubs[*hub].link.is_some()).collect();
        if holding.is_empty() {
            return;
        }
        let at = *self.chance.pick(&holding);
        if self.chance.one_in(2) {
            self.serve(at);
        }
        let hub = &mut self.hubs[at];
        let link = hub.link.take().expect("chosen for it");
        self.totals.lost += 1;
        self.world.refusing = self.chance.below(3);
        hub.machine.handle_time(self.now);
        let cut = !link.upstream.at_line_start();
        hub.machine.handle_lost(&Loss { unsent: !link.sent, unanswered: !link.replied, cut, ..Loss::default() });
        self.say(|| format!("   hub {at} loses its connection"));
    }

    fn tell(&mut self, at: usize) -> bool {
        let mut progress = false;
        for id in self.hubs[at].members.clone() {
            while self.hubs[at].machine.has_news(id) {
                progress = true;
                let Some(told) = self.hubs[at].machine.poll_member(id) else { break };
                self.told(at, id, told);
            }
        }
        progress
    }

    fn told(&mut self, at: usize, id: MemberId, told: Told) {
        self.say(|| format!("{id} S: {told:?}"));
        let Some(client) = self.clients.get_mut(&id) else { return };
        match told {
            Told::Data(data) => client.data(&data),
            Told::Continue(_) => {
                assert!(client.idling);
                client.running = None;
            }
            Told::Tagged(_) => panic!("no reply is so long"),
            Told::Done(data, rest, selected) => {
                client.data(&data);
                let rest = String::from_utf8(rest.to_vec()).unwrap();
                self.totals.withheld += u64::from(rest.contains("EXPUNGEISSUED"));
                let link = self.hubs[at].link.as_ref();
                // A NOOP may be answered with what is known by a later answer, which says less than a NOOP must.
                let by_later = |link: &&Link| link.quiet && client.runs("NOOP");
                let seen = link.filter(|link| !by_later(link)).and_then(|link| link.seen.as_deref());
                let name = std::str::from_utf8(&self.hubs[at].key[1..]).unwrap();
                match client.done(&rest, seen, &self.world.mailboxes[name].messages) {
                    "selected" => self.totals.joined += 1,
                    "resumed" => self.totals.resumed += 1,
                    "checked" => self.totals.checked += 1,
                    "modified" => self.totals.modified += 1,
                    _ => {}
                }
                if !selected {
                    client.left();
                    self.gone(at, id);
                }
            }
            Told::Bye(text) => {
                assert!(self.plan.losses, "BYE {text:?}");
                self.totals.byes += 1;
                self.clients.remove(&id);
                self.gone(at, id);
            }
            Told::Cut => {
                self.totals.cuts += 1;
                self.clients.remove(&id);
                self.gone(at, id);
            }
            Told::Yours(_) => {
                // What it does there is no affair of the hub's.
                self.clients.remove(&id);
                self.gone(at, id);
            }
            Told::Revoked => {
                self.totals.revoked += 1;
                self.clients.remove(&id);
                self.gone(at, id);
            }
            Told::Unconnected => {
                assert!(self.plan.losses, "connections can always be had");
                match client.unconnected() {
                    true => self.gone(at, id),
                    false => self.totals.refused += 1,
                }
            }
        }
    }

    fn gone(&mut self, at: usize, id: MemberId) {
        self.places.remove(&id);
        self.hubs[at].members.retain(|member| *member != id);
    }
}
