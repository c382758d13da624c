//! What happens in a run, as data: it follows from a seed, can be made smaller, and is printed as Rust when it fails.

use std::time::Duration;

use imapool::config::PoolMode;

use crate::chance::Chance;
use crate::visit::Kind;

/// The servers that a plan may have, and that lack something.
/// (Domino is not among them: what it says is read by nobody who goes by the RFC.)
const PERSONALITIES: [&str; 19] = [
    "dovecot",
    "cyrus",
    "courier",
    "gmail",
    "exchange-2013",
    "exchange",
    "yahoo",
    "icloud",
    "netease",
    "hmailserver",
    "davmail",
    "xeams",
    "lacks:IDLE",
    "lacks:UIDPLUS",
    "lacks:MOVE",
    "lacks:ESEARCH",
    "lacks:ENABLE",
    "lacks:SASL-IR",
    "lacks:LITERAL+",
];

/// A whole run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mode: PoolMode,
    pub(crate) max_per_account: usize,
    pub(crate) max_total: usize,
    pub(crate) spare: usize,
    /// Milliseconds, as all times here.
    pub(crate) max_lifetime: u64,
    pub(crate) cache_ttl: u64,
    pub(crate) linger: u64,
    pub(crate) users: u64,
    pub(crate) messages: usize,
    /// Octets of each message besides.
    pub(crate) padding: usize,
    /// Which server it is, by the name of its personality; empty: by `server` alone.
    pub(crate) personality: &'static str,
    pub(crate) server: Kindness,
    pub(crate) net: [u64; 5],
    pub(crate) visitors: Vec<Guest>,
    pub(crate) actions: Vec<(u64, Action)>,
}

/// How the server behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kindness {
    /// One command in so many fails in some way; 0: none.
    pub(crate) faults: u64,
    /// It takes up to so many milliseconds for each command.
    pub(crate) delay: u64,
    /// And for LOGOUT so many more.
    pub(crate) farewell: u64,
    pub(crate) condstore: bool,
    pub(crate) qresync: bool,
    pub(crate) unselect: bool,
    pub(crate) literal_plus: bool,
    /// What is left of numbers that are gone is served, and the result is OK.
    pub(crate) serves_what_is_left: bool,
}

/// A client.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) name: u64,
    pub(crate) kind: Kind,
    pub(crate) user: u64,
    pub(crate) way: Way,
    pub(crate) visits: u64,
    pub(crate) commands: u64,
    pub(crate) begins: u64,
}

/// How a client logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Login,
    Plain,
    /// By a token of its own.
    Token,
}

/// What somebody else does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Pause,
    Resume,
    Drain,
    Retire(u64),
    Close(u64),
    /// Another configuration: `max_per_account`, `max_lifetime`.
    Reload(usize, u64),
    /// The backend has another address, or its first one again.
    Move,
    /// A user belongs to this backend of two, over one storage.
    Route(u64, usize),
    /// The same, by hand and with the user's sessions.
    Keep(u64, usize),
    /// From the start, the two are a group, with failover after so long.
    Group(Option<u64>),
    /// One of the group has another weight, by hand.
    Weigh(usize, u32),
    /// One of the group is emptied.
    Evacuate(usize),
    /// One of the group cannot be reached for so long.
    Down(usize, u64),
    /// From the start, a service says where users belong; and this one belongs there now.
    Says(u64, usize),
    /// What comes of asking that service from now on.
    Mood(Mood),
    /// A user has another password, and all tokens for it are others.
    Password(u64),
    /// The same, and all that is known of him is void at once.
    Revoke(u64),
    /// The server ends the connections of a user: by BYE, FIN or RST.
    Kill(u64, u8),
    /// The server is away for so long.
    Away(u64),
    /// The server ends all connections of a user, and for half a minute hangs up on whoever selects a mailbox.
    Spoil(u64),
    /// Mail comes in, by another way.
    Deliver(u64, usize),
}

/// What comes of asking a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// What it knows.
    Good,
    /// A server that is none.
    Lies,
    /// An error.
    Fails,
    /// Nothing.
    Silent,
    /// No HTTP.
    Babbles,
    /// It hangs up.
    HangsUp,
}

impl Mood {
    pub(crate) const ALL: [Self; 6] = [Self::Good, Self::Lies, Self::Fails, Self::Silent, Self::Babbles, Self::HangsUp];
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let users = 1 + chance.below(3);
        let wild = chance.below(3);
        let one_in = |chance: &mut Chance, n: u64| if chance.one_in(2) { n + chance.below(n) } else { 0 };
        let mut plan = Self {
            seed,
            mode: if chance.one_in(4) { PoolMode::Session } else { PoolMode::Multiplex },
            max_per_account: 1 + usize::try_from(chance.below(4)).expect("small"),
            max_total: if chance.one_in(6) { 2 + usize::try_from(users).expect("small") } else { 0 },
            spare: usize::try_from(chance.below(3)).expect("small"),
            max_lifetime: if chance.one_in(4) { 5_000 + chance.below(20_000) } else { 3_600_000 },
            cache_ttl: chance.of(&[0, 5_000, 300_000, 300_000]),
            linger: chance.of(&[0, 1_000, 30_000]),
            users,
            messages: usize::try_from(chance.below(12)).expect("small"),
            padding: 0,
            personality: "",
            server: Kindness {
                faults: 0,
                delay: if chance.one_in(3) { chance.below(400) } else { 0 },
                farewell: 0,
                condstore: !chance.one_in(4),
                qresync: chance.one_in(2),
                unselect: !chance.one_in(6),
                literal_plus: !chance.one_in(4),
                serves_what_is_left: !chance.one_in(4),
            },
            net: [0, 0, 0, 0, if chance.one_in(3) { 1 + chance.below(20) } else { 0 }],
            visitors: Vec::new(),
            actions: Vec::new(),
        };
        if wild == 2 {
            plan.server.faults = one_in(&mut chance, 20);
            plan.net[..4].fill_with(|| one_in(&mut chance, 6));
        }
        plan.invite(&mut chance);
        plan.act(&mut chance, wild > 0);
        plan.vary(&mut chance, wild > 0);
        match chance.below(20) {
            0 | 1 => plan.doze(&mut chance),
            2 => plan.crowd(&mut chance),
            3 => plan.revoke(&mut chance),
            4 => plan.empty(&mut chance),
            5 => plan.pin(&mut chance),
            6 => plan.spoil(&mut chance),
            7 => plan.number(&mut chance),
            _ => {}
        }
        // By a chance of its own: what seeds meant before there were two, they mean still.
        let mut chance = Chance::new(seed).fork(2);
        if chance.one_in(8) && wild > 0 {
            for _ in 0..1 + chance.below(6) {
                let (user, place) = (chance.below(plan.users), usize::try_from(chance.below(2)).expect("small"));
                plan.actions.push((chance.below(20_000), Action::Route(user, place)));
            }
        }
        let mut chance = Chance::new(seed).fork(3);
        if !plan.routes() && wild > 0 {
            match chance.below(16) {
                0 | 1 => plan.group(&mut chance),
                2 => plan.ask(&mut chance),
                _ => {}
            }
        }
        let mut chance = Chance::new(seed).fork(4);
        if !plan.asks() && plan.groups().is_none() && wild > 0 && chance.one_in(6) {
            for _ in 0..1 + chance.below(6) {
                let (user, place) = (chance.below(plan.users), usize::try_from(chance.below(2)).expect("small"));
                plan.actions.push((chance.below(20_000), Action::Keep(user, place)));
            }
        }
        plan
    }

    /// Two servers over one storage are a group.
    fn group(&mut self, chance: &mut Chance) {
        let failover = chance.one_in(2).then(|| chance.of(&[0, 3_000]));
        self.actions.push((0, Action::Group(failover)));
        let wished = chance.one_in(2);
        for _ in 0..1 + chance.below(5) {
            let place = usize::try_from(chance.below(2)).expect("small");
            let action = match chance.below(4) {
                0 if wished => Action::Weigh(place, u32::try_from(chance.below(3)).expect("small") * 100),
                1 if wished => Action::Evacuate(place),
                _ => Action::Down(place, chance.below(12_000)),
            };
            self.actions.push((1 + chance.below(20_000), action));
        }
    }

    /// A service says where users belong.
    fn ask(&mut self, chance: &mut Chance) {
        for user in 0..self.users {
            self.actions.push((0, Action::Says(user, usize::try_from(chance.below(2)).expect("small"))));
        }
        for _ in 0..1 + chance.below(8) {
            let (at, user) = (1 + chance.below(20_000), chance.below(self.users));
            let action = match chance.below(3) {
                0 => Action::Says(user, usize::try_from(chance.below(2)).expect("small")),
                _ => Action::Mood(chance.of(&Mood::ALL)),
            };
            self.actions.push((at, action));
        }
    }

    /// Nothing goes wrong, and hardly anything is asked: some lie in IDLE for long, and others do nothing but log in.
    fn doze(&mut self, chance: &mut Chance) {
        (self.mode, self.max_total, self.net) = (PoolMode::Multiplex, 0, [0; 5]);
        (self.server.faults, self.server.delay, self.server.farewell) = (0, 0, 0);
        self.max_per_account = 1 + usize::try_from(chance.below(2)).expect("small");
        self.cache_ttl = chance.of(&[100, 1_000, 300_000]);
        self.max_lifetime = chance.of(&[1_500, 4_000, 3_600_000, 3_600_000]);
        self.users = 1;
        let news = chance.one_in(2);
        self.actions.retain(|(_, action)| news && matches!(action, Action::Deliver(..)));
        self.actions.iter_mut().for_each(|(_, action)| *action = Action::Deliver(0, 0));
        let sleepers = 1 + chance.below(4);
        for guest in &mut self.visitors {
            (guest.user, guest.way) = (0, Way::Login);
            (guest.kind, guest.visits, guest.commands) =
                if guest.name <= sleepers { (Kind::Sleeper, 2, 8) } else { (Kind::Webmail, 30, 1) };
        }
    }

    /// Nothing goes wrong, and sessions lie in IDLE in all mailboxes, when there come to be fewer places.
    fn crowd(&mut self, chance: &mut Chance) {
        (self.mode, self.max_total, self.net) = (PoolMode::Multiplex, 0, [0; 5]);
        (self.server.faults, self.server.delay) = (0, 0);
        self.max_per_account = 2 + usize::try_from(chance.below(3)).expect("small");
        (self.max_lifetime, self.cache_ttl) = (3_600_000, 300_000);
        self.users = 1;
        for guest in &mut self.visitors {
            (guest.user, guest.way, guest.kind) = (0, Way::Login, Kind::Phone);
            (guest.visits, guest.commands) = (1 + guest.visits % 2, 4 + guest.commands % 8);
        }
        self.actions.retain(|(_, action)| matches!(action, Action::Deliver(..)));
        self.actions.iter_mut().for_each(|(_, action)| *action = Action::Deliver(0, 0));
        let fewer = 1 + chance.below(self.max_per_account as u64 - 1);
        let fewer = Action::Reload(usize::try_from(fewer).expect("small"), 3_600_000);
        self.actions.push((chance.below(30_000), fewer));
    }

    /// What was verified is void just when it is verified: what the server says takes its time.
    fn revoke(&mut self, chance: &mut Chance) {
        (self.max_total, self.net, self.users) = (0, [0, 0, 0, 0, 1 + chance.below(2)], 1);
        self.server.faults = 0;
        self.cache_ttl = chance.of(&[5_000, 300_000]);
        let kind = chance.of(&[Kind::Webmail, Kind::Phone]);
        for guest in &mut self.visitors {
            let kind = if chance.one_in(2) { Kind::Phone } else { kind };
            (guest.user, guest.way, guest.kind, guest.visits) = (0, Way::Login, kind, 2 + guest.visits);
        }
        self.actions.retain(|(_, action)| matches!(action, Action::Deliver(..)));
        self.actions.iter_mut().for_each(|(_, action)| *action = Action::Deliver(0, 0));
        let begins = self.visitors.iter().map(|guest| guest.begins).min().unwrap_or_default();
        let at = if self.cache_ttl > 5_000 { begins + chance.below(1_000) } else { chance.below(10_000) };
        self.actions.push((at, if chance.one_in(3) { Action::Password(0) } else { Action::Revoke(0) }));
    }

    /// Those who wait for the only connection get theirs while the backend is drained.
    fn empty(&mut self, chance: &mut Chance) {
        (self.max_total, self.net, self.users, self.max_per_account) = (0, [0; 5], 1, 1);
        (self.server.faults, self.server.delay, self.server.farewell) = (0, 50 + chance.below(300), 0);
        (self.max_lifetime, self.cache_ttl, self.linger) = (3_600_000, 300_000, 0);
        for guest in &mut self.visitors {
            (guest.user, guest.way) = (0, Way::Login);
            guest.kind = chance.of(&[Kind::Webmail, Kind::Sync, Kind::Numbers]);
        }
        self.actions.clear();
        let at = 500 + chance.below(6_000);
        self.actions.push((at, Action::Drain));
        self.actions.push((at + 40_000, Action::Resume));
    }

    /// Somebody has a connection for himself, loses it, and goes on with others'.
    fn pin(&mut self, chance: &mut Chance) {
        (self.mode, self.max_total, self.users) = (PoolMode::Multiplex, 0, 1);
        self.net = [6 + chance.below(6), 0, 0, 0, 0];
        (self.server.faults, self.server.delay) = (15 + chance.below(30), 0);
        self.max_per_account = 2 + usize::try_from(chance.below(3)).expect("small");
        (self.max_lifetime, self.cache_ttl) = (chance.of(&[15_000, 3_600_000]), 300_000);
        self.visitors.truncate(1 + usize::try_from(chance.below(2)).expect("small"));
        for guest in &mut self.visitors {
            (guest.user, guest.way, guest.kind) = (0, Way::Login, Kind::Rude);
            (guest.visits, guest.commands) = (3 + guest.visits, 10 + guest.commands);
        }
        self.actions
            .retain(|(_, action)| matches!(action, Action::Deliver(0, _) | Action::Away(_) | Action::Kill(0, _)));
    }

    /// Some lie in IDLE while no mailbox can be selected.
    fn spoil(&mut self, chance: &mut Chance) {
        (self.mode, self.max_total, self.net, self.users) = (PoolMode::Multiplex, 0, [0; 5], 1);
        (self.server.faults, self.server.delay) = (0, 0);
        (self.max_lifetime, self.cache_ttl) = (3_600_000, 300_000);
        for guest in &mut self.visitors {
            (guest.user, guest.way, guest.kind) = (0, Way::Login, Kind::Sleeper);
        }
        self.actions.clear();
        self.actions.push((5_000 + chance.below(20_000), Action::Spoil(0)));
    }

    /// Many work by number in few mailboxes, and hear late of what others expunge.
    fn number(&mut self, chance: &mut Chance) {
        (self.mode, self.max_total, self.net, self.users) = (PoolMode::Multiplex, 0, [0; 5], 1);
        (self.server.faults, self.server.delay, self.server.farewell) = (0, 0, 0);
        (self.max_per_account, self.messages) = (1 + usize::try_from(chance.below(2)).expect("small"), 12);
        (self.max_lifetime, self.cache_ttl, self.personality) = (3_600_000, 300_000, "");
        for guest in &mut self.visitors {
            (guest.user, guest.way, guest.kind) = (0, Way::Login, Kind::Numbers);
            (guest.commands, guest.begins) = (8 + guest.commands, guest.begins / 20);
        }
        self.actions.clear();
    }

    /// Connections last for as long as nobody ends them.
    pub(crate) fn is_whole(&self) -> bool {
        self.server.faults == 0 && self.net[..4] == [0; 4]
    }

    /// There are two backends, and users go from one to the other.
    pub(crate) fn routes(&self) -> bool {
        self.actions.iter().any(|(_, action)| matches!(action, Action::Route(..)))
            || self.asks()
            || self.groups().is_some()
            || self.keeps()
    }

    /// Users go from one of two backends to the other with their sessions.
    pub(crate) fn keeps(&self) -> bool {
        self.actions.iter().any(|(_, action)| matches!(action, Action::Keep(..)))
    }

    /// A service says where users belong.
    pub(crate) fn asks(&self) -> bool {
        self.actions.iter().any(|(_, action)| matches!(action, Action::Says(..)))
    }

    /// There are two backends in a group, with this failover.
    pub(crate) fn groups(&self) -> Option<Option<u64>> {
        let of =
            |(_, action): &(u64, Action)| if let Action::Group(failover) = action { Some(*failover) } else { None };
        self.actions.iter().find_map(of)
    }

    /// In a group, each user is where the hash says, whatever happens.
    pub(crate) fn stays_in_group(&self) -> bool {
        let wished = |action: &Action| matches!(action, Action::Weigh(..) | Action::Evacuate(_));
        self.groups() == Some(None) && !self.actions.iter().any(|(_, action)| wished(action))
    }

    /// A login is verified once, when its user comes first, and in [`Plan::ONCE`] not again.
    pub(crate) fn verifies_once(&self) -> bool {
        let harmless = |(_, action): &(u64, Action)| {
            !matches!(
                action,
                Action::Retire(_)
                    | Action::Password(_)
                    | Action::Revoke(_)
                    | Action::Spoil(_)
                    | Action::Move
                    | Action::Route(..)
                    | Action::Keep(..)
                    | Action::Group(_)
                    | Action::Weigh(..)
                    | Action::Evacuate(_)
                    | Action::Down(..)
                    | Action::Says(..)
                    | Action::Mood(_)
                    | Action::Away(_)
            )
        };
        self.cache_ttl >= 300_000
            && self.server.faults == 0
            && self.net[..4] == [0; 4]
            && self.actions.iter().all(harmless)
            && self.visitors.iter().all(|guest| guest.kind != Kind::Rude && guest.way != Way::Token)
    }

    /// What is left of `cache_ttl` until it is renewed ahead.
    pub(crate) const ONCE: Duration = Duration::from_secs(200);

    /// As [`Plan::doze`] has made it, and nobody's connection is ever too old.
    pub(crate) fn is_sleepy(&self) -> bool {
        let sleeps = |guest: &Guest| guest.kind == Kind::Sleeper || guest.commands == 1;
        let ages = self.max_lifetime < 3_600_000;
        !ages
            && self.personality.is_empty()
            && self.is_calm()
            && self.actions.iter().all(|(_, action)| matches!(action, Action::Deliver(..)))
            && self.visitors.iter().all(sleeps)
    }

    /// Each connection comes back after each command: nobody has one to himself.
    pub(crate) fn shares_all(&self) -> bool {
        self.mode == PoolMode::Multiplex && self.visitors.iter().all(|guest| guest.kind != Kind::Rude)
    }

    /// The accounts of a user: each token has connections of its own.
    pub(crate) fn accounts_of(&self, user: u64) -> usize {
        1 + self.visitors.iter().filter(|guest| guest.user == user && guest.way == Way::Token).count()
    }

    /// The longest that a connection may be used, in milliseconds.
    pub(crate) fn longest_lifetime(&self) -> u64 {
        let of = |action: &(u64, Action)| if let Action::Reload(_, lifetime) = action.1 { lifetime } else { 0 };
        self.actions.iter().map(of).fold(self.max_lifetime, u64::max)
    }

    fn invite(&mut self, chance: &mut Chance) {
        let one_kind = chance.one_in(3).then(|| chance.of(&Kind::ALL));
        for name in 1..=2 + chance.below(7) {
            let kind = one_kind.unwrap_or_else(|| chance.of(&Kind::ALL));
            self.visitors.push(Guest {
                name,
                kind,
                user: chance.below(self.users),
                way: Way::Login,
                visits: 1 + chance.below(4),
                commands: 2 + chance.below(12),
                begins: chance.below(3_000),
            });
        }
    }

    fn act(&mut self, chance: &mut Chance, acts: bool) {
        for _ in 0..chance.below(8) {
            let at = chance.below(20_000);
            self.actions.push((at, Action::Deliver(chance.below(self.users), chance.below(2) as usize)));
        }
        if !acts {
            return;
        }
        for _ in 0..chance.below(6) {
            let user = chance.below(self.users);
            let at = chance.below(20_000);
            let action = match chance.below(9) {
                0 => Action::Pause,
                1 => Action::Drain,
                2 | 3 => Action::Retire(user),
                4 => Action::Close(user),
                5 => Action::Kill(user, u8::try_from(chance.below(3)).expect("small")),
                6 => Action::Away(chance.below(8_000)),
                _ => Action::Reload(
                    1 + usize::try_from(chance.below(4)).expect("small"),
                    if chance.one_in(2) { 3_600_000 } else { 2_000 + chance.below(10_000) },
                ),
            };
            if matches!(action, Action::Pause | Action::Drain) {
                let most = if chance.one_in(3) { 40_000 } else { 6_000 };
                self.actions.push((at + chance.below(most), Action::Resume));
            }
            self.actions.push((at, action));
        }
    }

    /// What came to be simulated last.
    fn vary(&mut self, chance: &mut Chance, acts: bool) {
        if chance.one_in(8) {
            self.padding = usize::try_from(1 + chance.below(40_000)).expect("small");
        }
        if chance.one_in(4) {
            self.personality = chance.of(&PERSONALITIES);
        }
        // Who verifies all the time would have more connections than a server takes.
        if chance.one_in(3) && self.cache_ttl >= 300_000 {
            self.server.farewell = chance.below(2_000);
        }
        for guest in &mut self.visitors {
            guest.way = chance.of(&[Way::Login, Way::Login, Way::Plain, Way::Token]);
        }
        if acts && chance.one_in(3) {
            self.actions.push((chance.below(20_000), Action::Move));
        }
        if acts && chance.one_in(3) {
            self.actions.push((chance.below(20_000), Action::Password(chance.below(self.users))));
        }
    }

    /// Nobody is refused, nobody sent away.
    pub(crate) fn is_calm(&self) -> bool {
        let harmless = |action: &Action| {
            matches!(action, Action::Retire(_) | Action::Reload(..) | Action::Move | Action::Deliver(..))
        };
        // Who pins a connection, or holds one for as long as a session, keeps others waiting.
        let pins = |guest: &Guest| guest.kind == Kind::Rude || self.mode == PoolMode::Session;
        let most = |action: &(u64, Action)| if let Action::Reload(most, _) = action.1 { most } else { usize::MAX };
        let most = self.actions.iter().map(most).fold(self.max_per_account, usize::min);
        self.visitors.iter().filter(|guest| pins(guest)).count() < most
            // With one connection that is slow, turns may take longer than anybody waits.
            && (most > 1 || self.server.delay == 0 && self.server.farewell == 0 && self.net[4] == 0)
            && self.server.faults == 0
            && self.net[..4] == [0; 4]
            && self.max_total == 0
            && self.actions.iter().all(|(_, action)| harmless(action))
    }

    /// Plans that are a little less than this one.
    pub(crate) fn less(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut with = |change: &dyn Fn(&mut Self)| {
            let mut plan = self.clone();
            change(&mut plan);
            all.push(plan);
        };
        for place in 0..self.visitors.len() {
            with(&|plan| _ = plan.visitors.remove(place));
        }
        for place in 0..self.actions.len() {
            with(&|plan| _ = plan.actions.remove(place));
        }
        for place in 0..5 {
            if self.net[place] > 0 {
                with(&|plan| plan.net[place] = 0);
            }
        }
        if self.server.faults > 0 {
            with(&|plan| plan.server.faults = 0);
        }
        if self.server.delay > 0 {
            with(&|plan| plan.server.delay = 0);
        }
        if self.server.farewell > 0 {
            with(&|plan| plan.server.farewell = 0);
        }
        if self.padding > 0 {
            with(&|plan| plan.padding = 0);
        }
        if !self.personality.is_empty() {
            with(&|plan| plan.personality = "");
        }
        for place in 0..self.visitors.len() {
            if self.visitors[place].way != Way::Login {
                with(&|plan| plan.visitors[place].way = Way::Login);
            }
            if self.visitors[place].visits > 1 {
                with(&|plan| plan.visitors[place].visits -= 1);
            }
            if self.visitors[place].commands > 2 {
                with(&|plan| plan.visitors[place].commands -= 1);
            }
        }
        all
    }

    /// As Rust.
    pub(crate) fn source(&self) -> String {
        format!("{self:#?}").replace(": [", ": vec![").replace("net: vec![", "net: [")
    }
}
