//! The way to an authenticated connection: whatever a backend says, what is sent are whole lines of our own making,
//! and a connection is accepted only by an OK to our own tag.

#![no_main]

use bytes::BytesMut;
use imapool::config::Identify;
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
    let identify = [Identify::Auto, Identify::Always, Identify::Never][usize::from(*how >> 3) % 3];
    let mut login = Login::new(how & 0x80 != 0, identify);
    let mut started = false;
    let mut input = BytesMut::from(lines);
    loop {
        let left = input.len();
        let before = login.next_tag();
        let outcome = login.handle_input(&mut input);
        let sent = login.poll_transmit();
        assert!(sent.is_empty() || sent.ends_with(b"\r\n"));
        let said = &lines[lines.len() - left..lines.len() - input.len()];
        let last = said.split_inclusive(|b| *b == b'\n').next_back().unwrap_or_default();
        match outcome {
            Ok(None) => {
                assert!(login.take_alerts().iter().all(|alert| !alert.contains(['\r', '\n', '\0'])));
                // However it ends, nobody is let in by that.
                assert!(!matches!(login.handle_end("over"), Some(Outcome::Accepted | Outcome::Ready)));
                return;
            }
            Ok(Some(Outcome::StartTls)) => {
                assert!(how & 0x80 != 0 && !started);
                login.handle_tls();
                assert!(login.poll_transmit().ends_with(b" CAPABILITY\r\n"));
            }
            Ok(Some(Outcome::Accepted)) => {
                assert!(started && last.starts_with(b"i"));
                // The login's own, and the one that proved the session.
                assert!(login.next_tag() >= 3 && before >= 2);
                return;
            }
            Ok(Some(outcome)) => {
                if let Outcome::Refused(refusal) = &outcome {
                    assert!(!refusal.reply.contains(['\r', '\n', '\0']));
                    assert!(refusal.challenge.iter().all(|text| text.bytes().all(|b| b.is_ascii_graphic())));
                }
                if !login.is_ready() {
                    return;
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
