//! The parsers of single lines: commands, replies, capabilities, SASL messages.

#![no_main]

use bytes::Bytes;
use imapool::imap::capability::{Capabilities, Front};
use imapool::imap::command::{Command, Segment, parse_head, quoted};
use imapool::imap::modseqs::modseqs;
use imapool::imap::response::{CLASSIFY, Kind, StatusReply, esearch_tag, split_tag, trim_line_end};
use imapool::imap::sasl::{Exchange, Mechanism, Step};
use imapool::imap::untagged::classify;
use libfuzzer_sys::fuzz_target;

fn command(line: &[u8]) {
    let Ok(head) = parse_head(line) else { return };
    assert!(head.tag_end > 0 && line[head.tag_end] == b' ');
    let mut segments = vec![Segment { text: Bytes::copy_from_slice(&line[head.tag_end + 1..]), literal: None }];
    if line.ends_with(b" ") {
        segments[0].literal = Some((Bytes::from_static(b"lit\r\n"), false));
        segments.push(Segment { text: Bytes::from_static(b" end"), literal: None });
    }
    let command = Command { tag: Bytes::copy_from_slice(&line[..head.tag_end]), name: head.name, segments };
    let mut arguments = command.arguments();
    while arguments.astring().is_some() {}
    let mut words = command.arguments();
    while words.word().is_some() {}
    let _ = (arguments.at_end(), words.at_end(), command.selected_mailbox(), modseqs(&command));
    if let Some(value) = quoted(line) {
        let text = Bytes::from([b"X ".to_vec(), value].concat());
        let command = Command { segments: vec![Segment { text, literal: None }], ..command };
        let mut arguments = command.arguments();
        assert_eq!(arguments.astring().expect("a quoted string"), line);
        assert!(arguments.at_end());
    }
}

fn reply(line: &[u8]) {
    // Only ever given one line.
    let line = line.split_inclusive(|b| *b == b'\n').next().unwrap_or_default();
    let kind = classify(line).kind;
    let (tag, rest) = split_tag(line);
    assert_eq!([tag, rest].concat(), line);
    if let (Kind::Status(_), Some(text)) = (kind, line.get(1..)) {
        assert!(StatusReply::parse(text).is_some(), "one that classify takes");
    }
    if let Some(status) = StatusReply::parse(rest) {
        assert!(status.capabilities().is_none() || status.code.is_some());
        assert!(!status.text.ends_with(b"\n"));
    }
    match esearch_tag(line) {
        Ok(Some(found)) => assert!(found.written.start <= found.tag.start && found.tag.end <= found.written.end),
        Ok(None) => {}
        Err(needed) => assert!(line.len() < needed && needed <= CLASSIFY),
    }
    let trimmed = trim_line_end(line);
    assert!([&b""[..], b"\r", b"\n", b"\r\n"].contains(&&line[trimmed.len()..]));
}

fn capabilities(line: &[u8]) {
    let list = Capabilities::parse(line);
    for front in [(true, false), (false, true), (true, true)] {
        let offered = list.before_login(Front { starttls: front.0, login: front.1 });
        assert!(offered.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        assert!(!offered.contains([']', '"']));
    }
    assert_eq!(Capabilities::parse(list.after_login().as_bytes()).after_login(), list.after_login());
}

fn sasl(line: &[u8]) {
    for mechanism in [Mechanism::Plain, Mechanism::Login, Mechanism::XOAuth2, Mechanism::OAuthBearer] {
        let mut exchange = Exchange::new(mechanism);
        let mut step = exchange.initial(line);
        if let Ok(Step::Challenge(_)) = step {
            step = exchange.response(line);
        }
        if let Ok(Step::Done(credential)) = step {
            assert!(credential.is_sound());
            assert!(credential.sasl_message().expose().iter().all(u8::is_ascii_graphic));
        }
    }
}

fuzz_target!(|line: &[u8]| {
    command(line);
    reply(line);
    capabilities(line);
    sasl(line);
});
