//! The way to an authenticated connection: whatever a backend says, what is sent are whole lines of our own making, and a
//! connection is accepted only by an OK to our own tag.

#![no_main]

use imapool::imap::sasl::{Credential, Mechanism};
use imapool::upstream::login::{Login, Outcome};
use libfuzzer_sys::fuzz_target;

const MECHANISMS: [Mechanism; 5] =
    [Mechanism::LoginCommand, Mechanism::Plain, Mechanism::Login, Mechanism::XOAuth2, Mechanism::OAuthBearer];

fuzz_target!(|octets: &[u8]| {
    let [how, user, secret, lines @ ..] = octets else { return };
    let (mut user, mut secret) = (vec![*user], vec![*secret]);
    user.extend_from_slice(lines.get(..2).unwrap_or_default());
    secret.extend_from_slice(lines.get(2..5).unwrap_or_default());
    let credential = Credential::new(MECHANISMS[usize::from(*how) % 5], user, Vec::new(), secret);
    if !credential.is_sound() {
        return;
    }
    let mut login = Login::new(how & 0x80 != 0);
    let mut started = false;
    for line in lines.split_inclusive(|b| *b == b'\n') {
        let tag = format!("i{:x} ", login.next_tag().wrapping_sub(1));
        let outcome = login.handle_line(line);
        let sent = login.poll_transmit();
        assert!(sent.is_empty() || sent.ends_with(b"\r\n"));
        match outcome {
            Ok(None) => {}
            Ok(Some(Outcome::StartTls)) => {
                assert!(how & 0x80 != 0 && !started);
                login.handle_tls();
                assert!(login.poll_transmit().ends_with(b" CAPABILITY\r\n"));
            }
            Ok(Some(Outcome::Accepted)) => {
                assert!(started && line.starts_with(tag.as_bytes()));
                return;
            }
            Ok(Some(outcome)) => {
                assert!(line.starts_with(tag.as_bytes()) || outcome == Outcome::Ready);
                if let Outcome::Refused(refusal) = &outcome {
                    assert!(!refusal.reply.contains(['\r', '\n', '\0']));
                    assert!(refusal.challenge.iter().all(|text| text.bytes().all(|b| b.is_ascii_graphic())));
                }
                started = login.start(&credential).is_ok();
                if !started {
                    return;
                }
                let sent = login.poll_transmit();
                assert!(sent.ends_with(b"\r\n"));
                // What is not a literal's octets breaks no line.
                if !sent.contains(&b'{') {
                    assert_eq!(sent.iter().filter(|b| **b == b'\n').count(), 1);
                }
            }
            Err(_) => return,
        }
    }
});
