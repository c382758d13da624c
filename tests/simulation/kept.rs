//! Plans that have failed once, made smaller.

use imapool::config::PoolMode;

use crate::plan::{Action, Guest, Kindness, Plan, Way};
use crate::visit::Kind;

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
