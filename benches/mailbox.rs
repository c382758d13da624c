//! What changes cost in a mailbox of a million messages: it has to be the number of changes that counts, in whatever
//! order they come. `cargo bench --bench mailbox`. Each figure is for all changes together.

#![allow(missing_docs, reason = "what criterion's macros make")]

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use imapool::imap::command::{Command, Segment, parse_head};
use imapool::imap::ranges::Ranges;
use imapool::imap::request::Request;
use imapool::imap::untagged::{Divider, Replies};
use imapool::mailbox::enabled::Enabled;
use imapool::mailbox::machine::{Action, Machine, Settings, Told};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MESSAGES: u32 = 1_000_000;
const CHANGES: u32 = 100_000;
/// As much as is read at a time.
const READ: usize = 32 * 1024;

fn command(line: &str) -> Box<Request> {
    let head = parse_head(format!("t {line}").as_bytes()).expect("a command");
    let segments = vec![Segment { text: Bytes::from(line.to_owned()), literal: None }];
    Request::new(Command { tag: Bytes::from_static(b"t"), name: head.name, segments }, None)
}

/// A hub of two members: the first is in IDLE, the second lags.
fn hub() -> Machine {
    let settings = Settings {
        idle: true,
        esearch: true,
        unseen: false,
        condstore: true,
        keepalive: Duration::from_secs(600),
        patience: Duration::from_secs(5),
        silence: Duration::from_secs(10),
        parked: Duration::from_secs(5),
    };
    let mut machine = Machine::new(Bytes::from_static(b"wINBOX"), settings, Arc::default(), Instant::now());
    machine.handle_join(1, command("SELECT INBOX"), Enabled::Nothing);
    step(&mut machine);
    machine.handle_connected(Enabled::Nothing);
    step(&mut machine);
    says(&mut machine, &format!("* {MESSAGES} EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 9999999] n\r\n"));
    done(&mut machine);
    told(&mut machine, 1);
    machine.handle_join(2, command("SELECT INBOX"), Enabled::Nothing);
    step(&mut machine);
    // Their UIDs are odd numbers: no two touch.
    let uids: Vec<String> = (1..=MESSAGES).map(|n| (2 * n - 1).to_string()).collect();
    says(&mut machine, &format!("* ESEARCH (TAG \"x\") UID ALL {}\r\n", uids.join(",")));
    for _ in 0..3 {
        done(&mut machine);
    }
    told(&mut machine, 2);
    machine.handle_command(1, command("IDLE"));
    told(&mut machine, 1);
    machine
}

fn says(machine: &mut Machine, text: &str) {
    machine.handle_data(&Divider::default().divide(&mut BytesMut::from(text)));
}

fn step(machine: &mut Machine) {
    while let Some(action) = machine.poll_action() {
        assert!(matches!(action, Action::Connect | Action::Run(_)), "{action:?}");
    }
}

fn done(machine: &mut Machine) {
    machine.handle_done(&Replies::default(), Bytes::from_static(b" OK done\r\n"), true);
    step(machine);
}

/// Octets that the member is told.
fn told(machine: &mut Machine, id: u64) -> usize {
    let mut octets = 0;
    while machine.has_news(id) {
        octets += match machine.poll_member(id) {
            Some(Told::Data(data)) => data.len(),
            Some(Told::Done(data, ..)) => data.len(),
            _ => 0,
        };
    }
    octets
}

/// All is read, and the member in IDLE told meanwhile; then the one that lags gives a command.
fn all(mut machine: Machine, text: &Bytes) -> Machine {
    let (mut divider, mut input) = (Divider::default(), BytesMut::new());
    for piece in text.chunks(READ) {
        input.extend_from_slice(piece);
        machine.handle_data(&divider.divide(&mut input));
        black_box(told(&mut machine, 1));
    }
    machine.handle_command(2, command("NOOP"));
    for _ in 0..10_000 {
        step(&mut machine);
        if told(&mut machine, 2) == 0 {
            return machine;
        }
    }
    panic!("no end");
}

fn lines(numbers: impl Iterator<Item = u32>, rest: &str) -> Bytes {
    let mut text = BytesMut::new();
    for n in numbers {
        text.extend_from_slice(format!("* {n} {rest}\r\n").as_bytes());
    }
    text.freeze()
}

/// Of numbers up to what is left, in no order.
fn random() -> impl Iterator<Item = u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..CHANGES).map(move |gone| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % u64::from(MESSAGES - gone)) as u32 + 1
    })
}

fn changes(c: &mut Criterion) {
    let mut group = c.benchmark_group("a million messages");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(100));
    let vanished: Vec<String> = (1..=MESSAGES).map(|n| (2 * n - 1).to_string()).collect();
    for (name, text) in [
        ("100,000 flags, ascending", lines(1..=CHANGES, "FETCH (FLAGS (\\Seen))")),
        ("100,000 flags, random", lines(random(), "FETCH (FLAGS (\\Seen))")),
        ("100,000 EXPUNGE of the first", lines((0..CHANGES).map(|_| 1), "EXPUNGE")),
        ("100,000 EXPUNGE, every other", lines(1..=CHANGES, "EXPUNGE")),
        ("100,000 EXPUNGE, descending", lines((1..=CHANGES).rev(), "EXPUNGE")),
        ("100,000 EXPUNGE, random", lines(random(), "EXPUNGE")),
        ("VANISHED of all", format!("* VANISHED {}\r\n", vanished.join(",")).into()),
    ] {
        group.bench_function(name, |b| b.iter_batched(hub, |hub| all(hub, &text), BatchSize::PerIteration));
    }
    group.finish();
}

fn sets(c: &mut Criterion) {
    let odd: Ranges = (1..=MESSAGES).map(|n| 2 * n - 1).collect();
    let mut group = c.benchmark_group("a set of a million runs");
    group.bench_function("insert what is there", |b| {
        let mut set = odd.clone();
        b.iter(|| set.insert_range(black_box(777_777..=777_777)));
    });
    group.bench_function("insert and remove in the middle", |b| {
        let mut set = odd.clone();
        b.iter(|| set.insert(black_box(1_000_000)) && set.remove(1_000_000));
    });
    group.finish();
}

criterion_group!(benches, changes, sets);
criterion_main!(benches);
