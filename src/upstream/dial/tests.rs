//! The race between addresses, under simulated time.

use std::cell::RefCell;

use tokio::time::{Instant, sleep};

use super::*;
use crate::metrics::Label as _;
use crate::platform::tcp::{NO_DESCRIPTORS, NO_PORTS};

const V4: [&str; 3] = ["192.0.2.1:143", "192.0.2.2:143", "192.0.2.3:143"];
const V6: [&str; 2] = ["[2001:db8::1]:143", "[2001:db8::2]:143"];

fn parse(addresses: &[&str]) -> Vec<SocketAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

/// What an address does, and after how many milliseconds.
#[derive(Clone, Copy)]
enum Answer {
    Accept(u64),
    Refuse(u64),
    Silence,
}

/// Counts those that were begun and dropped before their end.
struct Begun<'a>(&'a RefCell<usize>, bool);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        *self.0.borrow_mut() += usize::from(!self.1);
    }
}

struct Outcome {
    /// The winner's place, or the error.
    result: Result<usize, DialError>,
    /// Milliseconds to each attempt's start, and to the end.
    starts: Vec<u128>,
    took: u128,
    dropped: usize,
}

/// Races one address for each answer, in this order.
async fn run(answers: &[Answer]) -> Outcome {
    let addresses: Vec<SocketAddr> =
        (0..answers.len()).map(|place| ([192, 0, 2, u8::try_from(place).unwrap()], 143).into()).collect();
    let (begun, starts, dropped) = (Instant::now(), RefCell::new(Vec::new()), RefCell::new(0));
    let attempt = |address: SocketAddr| {
        let (starts, dropped) = (&starts, &dropped);
        let place = addresses.iter().position(|other| *other == address).unwrap();
        async move {
            starts.borrow_mut().push(begun.elapsed().as_millis());
            let mut guard = Begun(dropped, false);
            let result = match answers[place] {
                Answer::Accept(after) => {
                    sleep(Duration::from_millis(after)).await;
                    Ok(place)
                }
                Answer::Refuse(after) => {
                    sleep(Duration::from_millis(after)).await;
                    Err(DialError::Refused(address))
                }
                Answer::Silence => std::future::pending().await,
            };
            guard.1 = true;
            result
        }
    };
    let result = race(addresses.clone(), attempt).await;
    Outcome { result, took: begun.elapsed().as_millis(), starts: starts.take(), dropped: dropped.take() }
}

use Answer::{Accept, Refuse, Silence};

#[tokio::test(start_paused = true)]
async fn the_first_address_alone_when_it_answers_in_time() {
    let outcome = run(&[Accept(200), Accept(1)]).await;
    assert_eq!((outcome.result.unwrap(), outcome.took), (0, 200));
    assert_eq!(outcome.starts, [0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_address_costs_the_attempt_delay() {
    let outcome = run(&[Silence, Silence, Accept(10), Accept(0)]).await;
    assert_eq!((outcome.result.unwrap(), outcome.took), (2, 510));
    assert_eq!(outcome.starts, [0, 250, 500]);
    assert_eq!(outcome.dropped, 2, "the losers");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_begins_the_next_attempt_at_once() {
    let outcome = run(&[Refuse(5), Refuse(5), Accept(5)]).await;
    assert_eq!((outcome.result.unwrap(), outcome.took), (2, 15));
    assert_eq!(outcome.starts, [0, 5, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_of_the_first_address_still_wins() {
    let outcome = run(&[Accept(300), Silence]).await;
    assert_eq!((outcome.result.unwrap(), outcome.took), (0, 300));
    assert_eq!((outcome.starts, outcome.dropped), (vec![0, 250], 1));
}

#[tokio::test(start_paused = true)]
async fn when_all_refuse_that_is_the_error() {
    let outcome = run(&[Refuse(300), Refuse(100)]).await;
    assert!(matches!(outcome.result, Err(DialError::Refused(_))));
    assert_eq!((outcome.starts, outcome.took), (vec![0, 250], 350));
}

#[tokio::test(start_paused = true)]
async fn silence_everywhere_does_not_end_and_does_not_spin() {
    // Simulated time goes on only when nothing is ready: a race that spins would hang here.
    let raced = tokio::time::timeout(Duration::from_secs(60), run(&[Silence, Refuse(1)])).await;
    assert!(raced.is_err());
}

#[tokio::test]
async fn the_most_telling_error_is_reported() {
    let errors = [of_kind("unreachable"), of_kind("refused"), of_kind("no_ports"), of_kind("io")];
    let results: Vec<_> = errors.iter().map(|error| error.result().as_str()).collect();
    assert_eq!(results, ["unreachable", "refused", "no_ports", "io"]);
    let addresses: Vec<_> = (1..=4).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let errors = RefCell::new(errors.into_iter());
    let attempt = |_| std::future::ready(Err::<(), _>(errors.borrow_mut().next().unwrap()));
    let error = race(addresses, attempt).await.unwrap_err();
    assert!(matches!(error, DialError::NoPorts(_)) && error.is_local(), "{error:?}");
}

fn of_kind(label: &str) -> DialError {
    let kind = match label {
        "unreachable" => io::ErrorKind::NetworkUnreachable,
        "refused" => io::ErrorKind::ConnectionRefused,
        "no_ports" => io::ErrorKind::AddrNotAvailable,
        _ => io::ErrorKind::Other,
    };
    DialError::connect(([127, 0, 0, 1], 143).into(), kind.into())
}

#[test]
fn a_lack_of_descriptors_or_ports_is_told() {
    let dialed = |code| DialError::connect(([127, 0, 0, 1], 143).into(), io::Error::from_raw_os_error(code));
    for code in NO_DESCRIPTORS {
        let error = dialed(code);
        assert!(matches!(error, DialError::NoDescriptors) && error.is_local(), "{code}: {error:?}");
    }
    for code in NO_PORTS {
        let error = dialed(code);
        assert!(matches!(error, DialError::NoPorts(_)) && error.is_local(), "{code}: {error:?}");
    }
}

#[test]
fn families_are_interleaved_beginning_with_the_first() {
    let all = [&V6[..1], &V4[..], &V6[1..]].concat();
    let expected = parse(&[V6[0], V4[0], V6[1], V4[1], V4[2]]);
    assert_eq!(interleave(parse(&all)), expected);
    assert_eq!(interleave(parse(&V4)), parse(&V4));
    assert!(interleave(Vec::new()).is_empty());
}

#[test]
fn source_addresses_serve_their_family_in_turn() {
    let [v4, v6] = [parse(&V4)[0], parse(&V6)[0]];
    let ips = |addresses: &[&str]| parse(addresses).into_iter().map(|address| address.ip()).collect::<Vec<_>>();
    let dialer = |addresses: &[&str]| {
        let backend = config::Backend { source_addresses: ips(addresses), ..config::Backend::new("192.0.2.9", 143) };
        Dialer::new(&backend, Net::System).unwrap()
    };
    let any = dialer(&[]);
    assert!(any.has_source_for(&v4) && any.has_source_for(&v6) && any.sources_for(&v4).is_empty());
    let only_four = dialer(&V4);
    assert!(only_four.has_source_for(&v4) && !only_four.has_source_for(&v6));
    assert_eq!(only_four.sources_for(&v4), ips(&V4));
    assert_eq!(only_four.sources_for(&v4), ips(&[V4[1], V4[2], V4[0]]));
    let both = dialer(&[V4[0], V6[0]]);
    assert_eq!((both.sources_for(&v6), both.sources_for(&v4)), (ips(&V6[..1]), ips(&V4[..1])));
}
