//! Plans that have failed once, made smaller.

use imapool::config::PoolMode;

use crate::plan::{Action, Guest, Kindness, Plan, Way};
use crate::visit::Kind;

/// All of them.
pub(crate) const ALL: [fn() -> Plan; 2] = [pinned_before, another_credential];

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
        server: Kindness {
            faults: 0,
            delay: 290,
            farewell: 0,
            condstore: true,
            qresync: true,
            unselect: true,
            literal_plus: true,
            serves_what_is_left: true,
        },
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
