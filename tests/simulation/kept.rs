//! Plans that have failed once, made smaller.

use imapool::config::PoolMode;

use crate::plan::{Action, Guest, Kindness, Plan, Way};
use crate::visit::Kind;

/// All of them.
pub(crate) const ALL: [fn() -> Plan; 8] = [
    pinned_before,
    another_credential,
    gone_at_rest,
    asked_during_a_reload,
    moved_while_paused,
    fewer_turns_than_were_given,
    no_turn_for_what_rests,
    all_of_a_life_for_selecting,
];

/// A session that had pinned a connection, and lost it, selects a mailbox that it shares: what it runs beside that is
/// given back, and NOOP goes to the mailbox.
pub(crate) fn pinned_before() -> Plan {
    Plan {
        seed: 13144,
        mode: PoolMode::Multiplex,
        max_per_account: 4,
        max_total: 0,
        spare: 1,
        max_lifetime: 18_873,
        cache_ttl: 300_000,
        linger: 0,
        users: 1,
        messages: 4,
        padding: 0,
        personality: "",
        server: Kindness {
            faults: 36,
            delay: 0,
            farewell: 0,
            condstore: true,
            qresync: false,
            unselect: true,
            literal_plus: true,
            serves_what_is_left: true,
        },
        net: [9, 0, 0, 0, 0],
        visitors: vec![Guest {
            name: 1,
            kind: Kind::Rude,
            user: 0,
            way: Way::Login,
            visits: 2,
            commands: 11,
            begins: 1201,
        }],
        actions: vec![(4445, Action::Away(7884))],
    }
}

/// A hub's connection is lost after the password was changed: whose old one is refused leaves, and the others, whose
/// own is good, stay.
pub(crate) fn another_credential() -> Plan {
    Plan {
        seed: 61_653,
        mode: PoolMode::Multiplex,
        max_per_account: 3,
        max_total: 3,
        spare: 0,
        max_lifetime: 3_600_000,
        cache_ttl: 300_000,
        linger: 30_000,
        users: 1,
        messages: 9,
        padding: 0,
        personality: "",
        server: Kindness { delay: 290, ..KIND },
        net: [0, 0, 0, 0, 12],
        visitors: vec![
            Guest { name: 1, kind: Kind::Sync, user: 0, way: Way::Login, visits: 1, commands: 8, begins: 238 },
            Guest { name: 2, kind: Kind::Sync, user: 0, way: Way::Token, visits: 1, commands: 6, begins: 796 },
            Guest { name: 3, kind: Kind::Sync, user: 0, way: Way::Login, visits: 1, commands: 9, begins: 1_728 },
            Guest { name: 4, kind: Kind::Sync, user: 0, way: Way::Login, visits: 2, commands: 12, begins: 1_798 },
            Guest { name: 5, kind: Kind::Sync, user: 0, way: Way::Login, visits: 1, commands: 2, begins: 1_361 },
        ],
        actions: vec![(2_624, Action::Kill(0, 0)), (1_208, Action::Password(0))],
    }
}

/// A connection is too old while it rests, and its server takes its time to say BYE: until its socket is closed, no
/// other is opened in its place.
pub(crate) fn gone_at_rest() -> Plan {
    Plan {
        seed: 122_285,
        max_per_account: 2,
        spare: 1,
        max_lifetime: 12_353,
        users: 2,
        messages: 4,
        server: Kindness { farewell: 1502, serves_what_is_left: false, ..KIND },
        visitors: vec![Guest {
            name: 2,
            kind: Kind::Qresync,
            user: 1,
            way: Way::Login,
            visits: 2,
            commands: 12,
            begins: 524,
        }],
        ..quiet()
    }
}

/// A login is verified while the configuration is reloaded, and nothing of that is about its backend: its answer
/// stands.
pub(crate) fn asked_during_a_reload() -> Plan {
    Plan {
        seed: 149_212,
        max_per_account: 3,
        server: Kindness { qresync: false, ..KIND },
        visitors: vec![Guest {
            name: 1,
            kind: Kind::Phone,
            user: 0,
            way: Way::Login,
            visits: 1,
            commands: 4,
            begins: 909,
        }],
        actions: vec![(919, Action::Reload(1, 3_600_000))],
        ..quiet()
    }
}

/// Who waits for a connection to a backend that is paused hears what the one in its place says by then.
pub(crate) fn moved_while_paused() -> Plan {
    Plan {
        seed: 50_877,
        max_per_account: 1,
        spare: 2,
        max_lifetime: 6_750,
        cache_ttl: 0,
        linger: 30_000,
        messages: 4,
        server: Kindness { qresync: false, literal_plus: false, ..KIND },
        visitors: vec![Guest {
            name: 2,
            kind: Kind::Phone,
            user: 0,
            way: Way::Login,
            visits: 1,
            commands: 9,
            begins: 704,
        }],
        actions: vec![(2_226, Action::Pause), (15_739, Action::Move), (10_555, Action::Password(0))],
        ..quiet()
    }
}

/// The limit is lowered, and a connection beyond it comes back: that is no turn for who comes then, and those who share
/// one in IDLE are asked for theirs.
pub(crate) fn fewer_turns_than_were_given() -> Plan {
    Plan {
        seed: 306_531,
        max_per_account: 3,
        spare: 2,
        linger: 30_000,
        messages: 2,
        server: Kindness { unselect: false, ..KIND },
        visitors: vec![
            phone(2, 1, 2, 986),
            phone(3, 1, 6, 105),
            phone(4, 1, 6, 1_777),
            phone(5, 2, 11, 1_429),
            phone(6, 1, 10, 2_705),
            phone(7, 1, 3, 676),
        ],
        actions: vec![(3_044, Action::Reload(2, 3_600_000))],
        ..quiet()
    }
}

/// Two connections at rest are given up when there come to be fewer: each keeps its place until its socket is closed,
/// though there is no turn for it to keep.
pub(crate) fn no_turn_for_what_rests() -> Plan {
    Plan {
        seed: 719_404,
        max_per_account: 3,
        linger: 30_000,
        messages: 6,
        visitors: vec![phone(1, 1, 7, 69), phone(2, 1, 9, 2_526), phone(3, 1, 3, 2_054), phone(4, 1, 6, 32)],
        actions: vec![(3_160, Action::Reload(1, 3_600_000))],
        ..quiet()
    }
}

/// Connections live for six seconds, and it takes one to select the mailbox: a hub that has waited for one is served
/// on it, however old that is by then.
pub(crate) fn all_of_a_life_for_selecting() -> Plan {
    let guest = |name, kind, visits, commands, begins| Guest { kind, ..phone(name, visits, commands, begins) };
    Plan {
        seed: 714_444,
        max_per_account: 2,
        spare: 1,
        max_lifetime: 6_406,
        linger: 0,
        users: 2,
        messages: 7,
        server: Kindness {
            delay: 397,
            condstore: false,
            qresync: false,
            literal_plus: false,
            serves_what_is_left: false,
            ..KIND
        },
        net: [0, 0, 0, 0, 1],
        visitors: vec![
            guest(1, Kind::Webmail, 2, 12, 1_284),
            guest(2, Kind::Qresync, 2, 13, 233),
            guest(3, Kind::Qresync, 3, 6, 309),
            guest(5, Kind::Condstore, 2, 11, 757),
            guest(6, Kind::Sync, 4, 8, 1_442),
        ],
        ..quiet()
    }
}

fn phone(name: u64, visits: u64, commands: u64, begins: u64) -> Guest {
    Guest { name, kind: Kind::Phone, user: 0, way: Way::Login, visits, commands, begins }
}

const KIND: Kindness = Kindness {
    faults: 0,
    delay: 0,
    farewell: 0,
    condstore: true,
    qresync: true,
    unselect: true,
    literal_plus: true,
    serves_what_is_left: true,
};

/// Nobody comes, and nothing happens.
pub(crate) fn quiet() -> Plan {
    Plan {
        seed: 0,
        mode: PoolMode::Multiplex,
        max_per_account: 4,
        max_total: 0,
        spare: 0,
        max_lifetime: 3_600_000,
        cache_ttl: 300_000,
        linger: 1_000,
        users: 1,
        messages: 3,
        padding: 0,
        personality: "",
        server: KIND,
        net: [0; 5],
        visitors: Vec::new(),
        actions: Vec::new(),
    }
}
