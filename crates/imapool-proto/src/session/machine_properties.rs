//! However a client's octets are cut, the session does the same.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Plays `octets` in pieces to a session whose outside answers at once: each login is accepted, each command done,
/// unless it asks for more first. Gives all that was done, what is streamed in one piece.
fn run(octets: &[u8], cuts: &[usize], eof: bool) -> Vec<String> {
    let mut machine = Machine::new(BOUNDS, Front { starttls: false, login: true }, OFFERED.into());
    let mut done = Vec::new();
    let mut cuts = cuts.iter().cycle();
    let mut rest = octets;
    answer(&mut machine, &mut done);
    while !rest.is_empty() && machine.wants_input() {
        let (piece, next) = rest.split_at(cuts.next().map_or(rest.len(), |cut| cut % rest.len() + 1));
        rest = next;
        machine.handle_input(piece);
        answer(&mut machine, &mut done);
        assert!(machine.input.len() <= MAX_SASL_LINE.max(BOUNDS.line), "unbounded");
    }
    if eof {
        machine.handle_eof();
        answer(&mut machine, &mut done);
        assert!(matches!(done.last().map(String::as_str), Some(last) if last.starts_with("CLOSE")), "{done:?}");
    }
    done
}

fn answer(machine: &mut Machine, done: &mut Vec<String>) {
    while let Some(action) = machine.poll() {
        let text = told(&action);
        match (done.last_mut(), text.strip_prefix("SEND ")) {
            (Some(last), Some(more)) if last.starts_with("SEND ") => last.push_str(more),
            _ => done.push(text),
        }
        match action {
            Action::Login(_) => machine.handle_login(LoginReply::Accepted("X".into()), &[]),
            Action::Run(run) if run.streams.is_some() || matches!(run.command.name, Name::Idle | Name::Other) => {
                machine.handle_continue("+ go\r\n".into());
            }
            Action::SendSegment(_, Some(_)) => machine.handle_continue("+ go\r\n".into()),
            Action::Run(run) => machine.handle_done(b" OK done\r\n", run.command.name == Name::Select),
            Action::SendSegment(_, None) => machine.handle_done(b" OK given\r\n", machine.is_selected()),
            Action::Send(octets) if octets.ends_with(b"\r\n") && machine.remnant() != Remnant::Unfinished => {
                machine.handle_done(b" OK said\r\n", machine.is_selected());
            }
            _ => {}
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"a LOGIN u p\r\n".to_vec()),
        1 => Just(b"b AUTHENTICATE PLAIN\r\nAHUAcA==\r\n".to_vec()),
        1 => Just(b"c SELECT INBOX\r\n".to_vec()),
        1 => Just(b"d APPEND x {4+}\r\n\r\nab {2}\r\nxy\r\n".to_vec()),
        1 => Just(b"e RENAME {3+}\r\nabc {3}\r\ndef\r\n".to_vec()),
        1 => Just(b"f IDLE\r\nDONE\r\n".to_vec()),
        1 => Just(b"g XYZZY {3+}\r\nabc\r\nline\r\n".to_vec()),
        1 => Just(b"h NOOP\n".to_vec()),
        1 => Just(b" {2000+}\r\n".to_vec()),
        1 => Just(b" {1}\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        2 => "[ -~]{0,20}\r\n".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..10),
    ];
    vec(piece, 0..15).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn cutting_changes_nothing(octets in pieces(), cuts in vec(0usize..40, 1..10), eof in any::<bool>()) {
        prop_assert_eq!(run(&octets, &[], eof), run(&octets, &cuts, eof));
    }

    /// Whoever has not logged in holds what it sent, rounded up, and of that a bounded part.
    #[test]
    fn a_stranger_holds_little(octets in floods(), cuts in vec(1usize..20_000, 1..10), refuse in any::<bool>()) {
        let bounds = Bounds { line: 1 << 20, literals: 1 << 20 };
        let mut machine = Machine::new(bounds, Front { starttls: false, login: true }, OFFERED.into());
        let (mut rest, mut cuts) = (&octets[..], cuts.iter().cycle());
        let mut sent: usize = 0;
        loop {
            while let Some(action) = machine.poll() {
                if matches!(action, Action::Login(_)) && refuse {
                    machine.handle_login(LoginReply::Refused { reply: "NO".into(), challenge: None }, &[]);
                }
            }
            prop_assert!(machine.held() <= sent + 3 * GROWTH, "{} of {sent}", machine.held());
            prop_assert!(machine.held() <= MAX_SASL_LINE + 2048, "{}", machine.held());
            let room = machine.room().min(rest.len());
            if room == 0 {
                break;
            }
            let (piece, next) = rest.split_at(room.min(*cuts.next().unwrap()));
            machine.handle_input(piece);
            (rest, sent) = (next, sent + piece.len());
        }
        // What is not taken is not taken for a reason.
        prop_assert!(rest.is_empty() || matches!(machine.op, Op::Over | Op::LoggingIn { .. }), "stuck: {:?}", machine.op);
    }
}

fn floods() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (0usize..20_000).prop_map(|length| vec![b'x'; length]),
        (0usize..9_000).prop_map(|length| format!("a LOGIN {{{length}+}}\r\n{} ", "y".repeat(length)).into_bytes()),
        (0usize..9_000).prop_map(|length| format!(" {{{length}}}\r\n{}", "z".repeat(length)).into_bytes()),
        (0usize..200).prop_map(|times| " {1+}\r\nx".repeat(times).into_bytes()),
        (0usize..2_000).prop_map(|times| "a CAPABILITY\r\n".repeat(times).into_bytes()),
        Just(b"a AUTHENTICATE LOGIN\r\n".to_vec()),
        Just(b"a AUTHENTICATE PLAIN ".to_vec()),
        (0usize..5_000).prop_map(|times| format!("{}\r\n", "dXNl".repeat(times)).into_bytes()),
        Just(b"\r\n".to_vec()),
        Just(b"a LOGIN ".to_vec()),
        vec(any::<u8>(), 0..3000),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}
