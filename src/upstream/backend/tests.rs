use std::net::SocketAddr;

use super::*;

fn backend() -> Arc<Backend> {
    let config = config::Backend::new("127.0.0.1", 143);
    let pool = Arc::new(ArcSwap::from_pointee(config::Pool::default()));
    Backend::new(0, config, pool, Budget::of(4, [4]), Arc::default(), Net::System).unwrap()
}

fn of_host() -> [OpenError; 4] {
    let address = SocketAddr::from(([127, 0, 0, 1], 143));
    [
        OpenError::Dial(DialError::NoPorts(address)),
        OpenError::NoRoom(Duration::from_secs(1)),
        OpenError::Gate(Reason::Backend),
        OpenError::Suspect,
    ]
}

/// What this host lacks says nothing of the backend: neither that it is away, nor that it is there.
#[tokio::test]
async fn errors_of_this_host_leave_the_circuit_as_it_is() {
    let backend = backend();
    for _ in 0..10 {
        of_host().iter().for_each(|error| backend.note(Some(error)));
    }
    assert!(!backend.breaker.lock().is_open(), "not opened");
    for _ in 0..3 {
        backend.note(Some(&OpenError::Timeout(Duration::from_secs(1))));
    }
    assert!(backend.breaker.lock().is_open() && !backend.is_reachable() && backend.is_frozen());
    of_host().iter().for_each(|error| backend.note(Some(error)));
    assert!(backend.breaker.lock().is_open() && backend.is_frozen(), "not closed");
    // What was said to one account's login is no other's business.
    backend.note(Some(&OpenError::Limit("too many".into())));
    assert!(backend.breaker.lock().is_open());
    backend.note(None);
    assert!(!backend.breaker.lock().is_open() && backend.is_reachable());
}

/// One that refuses connections is away, but does not freeze what is open.
#[tokio::test]
async fn only_one_that_is_silent_is_frozen() {
    let backend = backend();
    let address = SocketAddr::from(([127, 0, 0, 1], 143));
    for _ in 0..3 {
        backend.note(Some(&OpenError::Dial(DialError::Refused(address))));
    }
    assert!(!backend.is_reachable() && !backend.is_frozen());
}

#[test]
fn times_are_told_in_sane_digits() {
    let error = OpenError::Timeout(Duration::from_nanos(9_999_776_896));
    assert_eq!(error.to_string(), "the backend did not answer within 10s: it hangs, or is overloaded");
}
