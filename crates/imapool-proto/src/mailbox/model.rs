//! Random programs of many sessions and a third party, against a naive server: what each session is told has to add
//! up to what the server has.

mod client;
mod server;
mod world;

use self::world::{Plan, Sim};
use super::enabled::Enabled;

/// Programs, by the environment: `IMAPOOL_MODEL_PROGRAMS`.
fn programs(default: u64) -> u64 {
    std::env::var("IMAPOOL_MODEL_PROGRAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// So many programs from `first` on. `None`: one alone was run, by the environment: `IMAPOOL_MODEL_SEED`.
fn run(first: u64, programs: u64, plan: impl Fn(u64) -> Plan) -> Option<world::Totals> {
    let mut totals = world::Totals::default();
    let alone: Option<u64> = std::env::var("IMAPOOL_MODEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = alone.map_or(first..first + programs, |seed| seed..seed + 1);
    for seed in seeds {
        let mut sim = Sim::new(seed, plan(seed));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sim.run()));
        if let Err(panic) = result {
            let mut again = Sim::new(seed, plan(seed)).aloud();
            let _same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| again.run()));
            eprintln!("{}", again.transcript());
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
        totals.add(&sim.totals);
    }
    alone.is_none().then_some(totals)
}

const PLAN: Plan = Plan {
    sessions: 3,
    mailboxes: 1,
    connections: 1,
    losses: false,
    retires: false,
    refusals: false,
    enable: Enabled::Nothing,
};

/// Few sessions, one mailbox, one connection.
#[test]
fn one_hub() {
    let Some(totals) = run(0, programs(8000), |_| PLAN) else { return };
    assert_eq!(totals.byes, 0, "{totals:?}");
    assert!(totals.joined > 0 && totals.checked > 0 && totals.withheld > 0 && totals.ahead > 0, "{totals:?}");
}

/// The same, and some of the sessions have switched CONDSTORE on.
#[test]
fn mod_sequences() {
    let Some(totals) = run(3_000_000, programs(8000) / 4, |seed| Plan {
        sessions: 2 + seed as usize % 5,
        connections: 2,
        enable: Enabled::Condstore,
        ..PLAN
    }) else {
        return;
    };
    assert_eq!(totals.byes, 0, "{totals:?}");
    assert!(totals.joined > 0 && totals.checked > 0 && totals.modified > 0, "{totals:?}");
}

/// The same with QRESYNC: sessions leave mailboxes, and come back and ask what has changed.
#[test]
fn resynchronising() {
    let Some(totals) = run(4_000_000, programs(8000) / 4, |seed| Plan {
        sessions: 2 + seed as usize % 5,
        mailboxes: 1 + seed as usize % 2,
        connections: 2,
        enable: Enabled::Qresync,
        ..PLAN
    }) else {
        return;
    };
    assert_eq!(totals.byes, 0, "{totals:?}");
    assert!(totals.joined > 0 && totals.checked > 0 && totals.resumed > 0, "{totals:?}");
}

const ENABLE: [Enabled; 3] = [Enabled::Nothing, Enabled::Condstore, Enabled::Qresync];

/// More sessions than connections, and more mailboxes: hubs park, resume and divide.
#[test]
fn hubs_take_turns() {
    for connections in [1, 2, 4] {
        let Some(totals) = run(1_000_000, programs(8000) / 4, |seed| Plan {
            sessions: 2 + seed as usize % 19,
            mailboxes: 1 + seed as usize % 4,
            connections,
            enable: ENABLE[seed as usize / 20 % 3],
            ..PLAN
        }) else {
            continue;
        };
        assert_eq!(totals.byes, 0, "{totals:?}");
        assert!(totals.parked > 0 && totals.checked > 0, "{totals:?}");
    }
}

/// The server refuses what imapool asks of its own accord: everybody is served, and hears the truth.
#[test]
fn what_is_refused() {
    for connections in [1, 2] {
        let Some(totals) = run(5_000_000, programs(8000) / 4, |seed| Plan {
            sessions: 2 + seed as usize % 7,
            mailboxes: 1 + seed as usize % 2,
            connections,
            refusals: true,
            enable: ENABLE[seed as usize / 20 % 3],
            ..PLAN
        }) else {
            continue;
        };
        assert_eq!(totals.byes, 0, "{totals:?}");
        assert!(totals.joined > 0 && totals.checked > 0, "{totals:?}");
    }
}

/// Connections are lost at any moment.
#[test]
fn connections_are_lost() {
    for connections in [1, 2, 4] {
        let Some(totals) = run(2_000_000, programs(8000) / 4, |seed| Plan {
            sessions: 1 + seed as usize % 20,
            mailboxes: 1 + seed as usize % 3,
            connections,
            losses: true,
            refusals: seed % 4 == 3,
            enable: ENABLE[seed as usize / 20 % 3],
            ..PLAN
        }) else {
            continue;
        };
        assert!(totals.lost > 0 && totals.checked > 0, "{totals:?}");
        // Those of hubs that did not know yet which messages they had.
        assert!(totals.byes * 10 < totals.joined, "{totals:?}");
    }
}

/// Connections are retired at any moment, and sessions let go: nobody else notices anything.
#[test]
fn connections_are_retired() {
    for connections in [1, 2, 4] {
        let Some(totals) = run(6_000_000, programs(8000) / 4, |seed| Plan {
            sessions: 1 + seed as usize % 20,
            mailboxes: 1 + seed as usize % 3,
            connections,
            retires: true,
            enable: ENABLE[seed as usize / 20 % 3],
            ..PLAN
        }) else {
            continue;
        };
        assert_eq!(totals.byes, 0, "{totals:?}");
        assert!(totals.retired > 0 && totals.revoked > 0 && totals.checked > 0, "{totals:?}");
    }
}
