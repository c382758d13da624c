//! What a line, a command, a reply and a short session cost in the parts that do no I/O. `cargo bench --bench parsers`.
//!
//! imap-codec is there for scale: it parses a reply into types, which a proxy does not need.

#![allow(missing_docs, reason = "what criterion's macros make")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use imap_codec::ResponseCodec;
use imap_codec::decode::Decoder as _;
use imapool::imap::capability::{Capabilities, Front};
use imapool::imap::command::{Command, Segment, parse_head};
use imapool::imap::frame::{Decoder, Frame};
use imapool::imap::request::Request;
use imapool::imap::untagged::classify;
use imapool::session::machine::{Action, Bounds, LoginReply, Machine as Session};
use imapool::upstream::machine::{Event, Machine as Upstream};

const LINE: &[u8] = b"* 12 FETCH (UID 4827313 FLAGS (\\Seen \\Answered) RFC822.SIZE 44827)\r\n";
const BOUNDS: Bounds = Bounds { line: 64 * 1024, literals: 128 * 1024 };
const BULK: usize = 10 * 1024 * 1024;
/// As much as is read at a time.
const READ: usize = 32 * 1024;

fn command(line: &'static [u8]) -> Command {
    let head = parse_head(line).expect("a command");
    Command {
        tag: Bytes::from_static(&line[..head.tag_end]),
        name: head.name,
        segments: vec![Segment { text: Bytes::from_static(&line[head.tag_end + 1..]), literal: None }],
    }
}

fn lines(c: &mut Criterion) {
    let mut group = c.benchmark_group("line");
    group.throughput(Throughput::Bytes(LINE.len() as u64));
    group.bench_function("frame and classify", |b| {
        b.iter(|| {
            let line = black_box(LINE);
            let end = memchr::memchr(b'\n', line).expect("a line");
            classify(&line[..=end])
        });
    });
    group.bench_function("parse, by imap-codec", |b| {
        let codec = ResponseCodec::default();
        b.iter(|| codec.decode(black_box(LINE)).map(|(rest, _)| rest.len()).expect("a reply"));
    });
    group.finish();
}

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for (name, octets) in [
        ("without a literal", &b"a1 UID FETCH 1:50 (UID FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (FROM TO)])\r\n"[..]),
        ("with a literal", b"a1 LOGIN {5+}\r\nalice {6+}\r\nsecret\r\n"),
    ] {
        group.throughput(Throughput::Bytes(octets.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || BytesMut::from(octets),
                |input| {
                    let mut decoder = Decoder::default();
                    let mut name = None;
                    while !input.is_empty() {
                        match decoder.decode(input, BOUNDS.line) {
                            Ok(Some(Frame::Line(line))) => name = name.or_else(|| parse_head(&line.text).ok()),
                            Ok(Some(chunk)) => drop(black_box(chunk)),
                            other => panic!("{other:?}"),
                        }
                    }
                    name
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Ten FETCH replies with header fields, as a list of messages takes them.
fn ten_headers() -> Vec<u8> {
    let header = "From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>\r\nSubject: about the meeting\r\n\
                  Date: Mon, 7 Feb 2022 21:52:25 +0100\r\nMessage-ID: <1234567890.abcdef@mail.example.org>\r\n\r\n";
    let mut reply = String::new();
    for number in 1..=10 {
        reply += &format!(
            "* {number} FETCH (UID {} FLAGS (\\Seen) RFC822.SIZE 4827 INTERNALDATE \"07-Feb-2022 21:52:25 +0100\" \
             BODY[HEADER.FIELDS (FROM TO SUBJECT DATE MESSAGE-ID)] {{{}}}\r\n{header})\r\n",
            number + 4000,
            header.len()
        );
    }
    reply.into_bytes()
}

fn bulk() -> Vec<u8> {
    let mut reply = format!("* 1 FETCH (UID 5 BODY[] {{{BULK}}}\r\n").into_bytes();
    reply.resize(reply.len() + BULK, b'x');
    reply.extend_from_slice(b")\r\n");
    reply
}

/// Gives the machine a command, and the reply in pieces of what is read at a time; counts the octets passed on.
fn relay(machine: &mut Upstream, tag: u64, reply: &[u8]) -> usize {
    machine.handle_command(Request::new(command(b"a1 UID FETCH 1:50 (UID FLAGS)"), None));
    black_box(machine.poll_transmit());
    let mut passed = 0;
    let mut input = BytesMut::new();
    let end = format!("i{tag:x} OK done\r\n");
    for piece in reply.chunks(READ).chain([end.as_bytes()]) {
        input.extend_from_slice(piece);
        machine.handle_input(&mut input).expect("a valid reply");
        while let Some(event) = machine.poll_event() {
            match event {
                Event::Data(octets) => passed += octets.len(),
                Event::Done(..) => assert!(machine.is_clean()),
                other => panic!("{other:?}"),
            }
        }
    }
    passed
}

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("upstream");
    for (name, reply) in [("ten headers", ten_headers()), ("a literal of 10 MiB", bulk())] {
        group.throughput(Throughput::Bytes(reply.len() as u64));
        group.bench_function(name, |b| {
            let mut machine = Upstream::new(Arc::new(Capabilities::parse(b"IMAP4rev1 LITERAL+")), 0);
            machine.handle_attach();
            let mut tag = 0;
            b.iter(|| {
                assert_eq!(relay(&mut machine, tag, &reply), reply.len());
                tag += 1;
            });
        });
    }
    group.throughput(Throughput::Bytes(ten_headers().len() as u64));
    group.bench_function("ten headers, parsed by imap-codec", |b| {
        let (codec, reply) = (ResponseCodec::default(), ten_headers());
        b.iter(|| {
            let mut rest = black_box(&reply[..]);
            while !rest.is_empty() {
                rest = codec.decode(rest).expect("a reply").0;
            }
        });
    });
    group.finish();
}

fn sessions(c: &mut Criterion) {
    let offered: Arc<str> = Arc::from("IMAP4rev1 SASL-IR LITERAL+ ID IDLE AUTH=PLAIN");
    let octets = b"a1 LOGIN alice secret\r\na2 SELECT INBOX\r\na3 FETCH 1:10 (FLAGS)\r\na4 LOGOUT\r\n";
    c.bench_function("session: LOGIN, SELECT, FETCH, LOGOUT", |b| {
        b.iter(|| {
            let front = Front { starttls: false, login: true };
            let mut session = Session::new(BOUNDS, front, Arc::clone(&offered));
            let mut actions = 0;
            for line in octets.split_inclusive(|b| *b == b'\n') {
                session.handle_input(line);
                while let Some(action) = session.poll() {
                    actions += 1;
                    match action {
                        Action::Login(_) => session.handle_login(LoginReply::Accepted(Arc::clone(&offered)), &[]),
                        Action::Run(_) => session.handle_done(b" OK done\r\n", true),
                        other => drop(black_box(other)),
                    }
                }
            }
            assert_eq!(actions, 10);
        });
    });
}

criterion_group!(benches, lines, commands, replies, sessions);
criterion_main!(benches);
