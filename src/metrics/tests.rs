//! What a scraper reads, by a strict parser of the text format 0.0.4.

use super::*;

#[test]
fn a_guard_moves_its_connection_and_takes_it_out_when_dropped() {
    let metrics = Metrics::new(&["main".to_owned()]);
    let backend = metrics.backend(0);
    let of = |state| backend.connections.get(state).get();
    let mut guard = backend.connection(ConnectionState::Connecting);
    assert_eq!((of(ConnectionState::Connecting), of(ConnectionState::Idle)), (1, 0));
    guard.set(ConnectionState::Idle);
    guard.set(ConnectionState::Idle);
    assert_eq!((of(ConnectionState::Connecting), of(ConnectionState::Idle)), (0, 1));
    assert_eq!(guard.state(), ConnectionState::Idle);
    drop(guard);
    assert_eq!((of(ConnectionState::Connecting), of(ConnectionState::Idle)), (0, 0));
}
