//! LOGIN and AUTHENTICATE (RFC 9051 section 6.2), up to the credential, and from its verdict on.

use std::sync::Arc;

use bytes::Bytes;

use super::{Action, LoginReply, Machine, Op, State, reply_line};
use crate::imap::command::Command;
use crate::imap::frame::Line;
use crate::imap::sasl::{Credential, Exchange, Mechanism, SaslError, Step};

impl Machine {
    pub(super) fn login(&mut self, command: &Command) {
        let mut arguments = command.arguments();
        let (user_form, user) = (arguments.form(), arguments.login_string());
        let (password_form, password) = (arguments.form(), arguments.login_string());
        let (Some(user), Some(password)) = (user, password) else {
            return self.bad(&command.tag, "LOGIN needs a user name and a password.");
        };
        arguments.skip_spaces();
        if !arguments.at_end() {
            return self.bad(&command.tag, "LOGIN takes two arguments.");
        }
        let credential = Credential::new(Mechanism::LoginCommand, user.into_owned(), Vec::new(), password.into_owned());
        self.verify(command.tag.clone(), credential.written(user_form, password_form));
    }

    pub(super) fn authenticate(&mut self, command: &Command) {
        let mut arguments = command.arguments();
        let Some(name) = arguments.word() else {
            return self.bad(&command.tag, "AUTHENTICATE needs a mechanism.");
        };
        let offered = |mechanism: &Mechanism| {
            self.offered.split(' ').any(|word| word.strip_prefix("AUTH=") == Some(mechanism.name()))
        };
        let Some(mechanism) = Mechanism::parse(name).filter(offered) else {
            return self.no(&command.tag, "Mechanism not available.");
        };
        let mut exchange = Exchange::new(mechanism);
        let initial = arguments.spaced_word();
        if command.has_literal() || !arguments.at_end() {
            return self.bad(&command.tag, "AUTHENTICATE takes a mechanism and an initial response.");
        }
        let step = match initial {
            None => Ok(Step::Challenge(exchange.first_challenge())),
            Some(initial) => exchange.initial(initial),
        };
        self.sasl_step(command.tag.clone(), exchange, step);
    }

    pub(super) fn sasl_line(&mut self, tag: Bytes, mut exchange: Exchange, line: &Line) {
        let step = match line.literal {
            Some(literal) => {
                self.skip_literal(literal);
                Err(SaslError::Malformed)
            }
            None => exchange.response(&line.text),
        };
        self.sasl_step(tag, exchange, step);
    }

    fn sasl_step(&mut self, tag: Bytes, exchange: Exchange, step: Result<Step, SaslError>) {
        match step {
            Ok(Step::Challenge(challenge)) => {
                self.write(format!("+ {challenge}\r\n"));
                self.op = Op::Sasl { tag, exchange };
            }
            Ok(Step::Done(credential)) => self.verify(tag, credential),
            Err(error) => self.bad(&tag, &format!("{error}.")),
        }
    }

    fn verify(&mut self, tag: Bytes, credential: Credential) {
        if !self.front.login {
            return self.no(&tag, "[PRIVACYREQUIRED] Logging in needs TLS first.");
        }
        if !credential.is_sound() {
            return self.no(&tag, "[AUTHENTICATIONFAILED] Authentication failed.");
        }
        self.op = Op::LoggingIn { tag };
        self.actions.push_back(Action::Login(Arc::new(credential)));
    }

    /// The answer to [`Action::Login`], after what the backend wants the user to see: each a line without `*` and
    /// line end.
    pub fn handle_login(&mut self, reply: LoginReply, alerts: &[String]) {
        let Op::LoggingIn { tag } = std::mem::replace(&mut self.op, Op::Ready) else { return };
        for alert in alerts {
            self.write(format!("* {alert}\r\n"));
        }
        match reply {
            LoginReply::Accepted(offered) => {
                self.state = State::Authenticated;
                self.errors = 0;
                self.write([&tag[..], b" OK [CAPABILITY ", offered.as_bytes(), b"] Logged in\r\n"].concat());
                self.offered = offered;
            }
            LoginReply::Refused { reply, challenge: Some(challenge) } => {
                self.write(format!("+ {challenge}\r\n"));
                self.op = Op::Refusing { tag, reply };
            }
            LoginReply::Refused { reply, challenge: None } => self.write(reply_line(&tag, "", &reply)),
        }
    }
}
