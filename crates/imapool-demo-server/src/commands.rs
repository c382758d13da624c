//! Which command does what in which state (RFC 3501 section 6), and the commands of any state.

use super::parse::{ParseError, Parser};
use super::reply::Reply;
use super::session::{Command, End, Flow, Session};
use super::store::Account;

/// Octets of the line that ends IDLE.
const DONE_LIMIT: usize = 1024;

/// Why a command is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// NO with this text.
    No(String),
    /// BAD with this text.
    Bad(String),
}

impl Refusal {
    /// A whole status, as the tables of kinds have it.
    pub(super) fn of(status: &str) -> Self {
        match status.split_once(' ') {
            Some(("BAD", text)) => Self::Bad(text.into()),
            Some(("NO", text)) => Self::No(text.into()),
            _ => Self::No(status.into()),
        }
    }

    pub(super) fn bad(why: &str) -> Self {
        Self::Bad(format!("Error in IMAP command: {why}."))
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self::bad(&error.to_string())
    }
}

/// The text of the tagged reply.
pub(super) type Outcome = Result<String, Refusal>;

/// Commands during which an EXPUNGE must not be sent (RFC 3501 section 7.4.1).
const NO_EXPUNGE: [&str; 3] = ["FETCH", "STORE", "SEARCH"];

impl Session {
    /// Runs a command; untagged replies and news go to `out`.
    pub(super) async fn execute(&mut self, command: Command, out: &mut Reply) -> Flow<Outcome> {
        let Command { tag, verb, rest: p } = command;
        self.tag.clone_from(&tag);
        let quirks = &self.shared.options.quirks;
        if self.not_connected
            && !matches!(verb.as_str(), "CAPABILITY" | "LOGOUT")
            && let Some(status) = quirks.not_connected
        {
            return Ok(Err(Refusal::of(status)));
        }
        match verb.as_str() {
            "IDLE" if self.offers("IDLE") && quirks.idle_refused.is_some() => {
                return Ok(Err(quirks.idle_refused.map_or_else(|| self.unknown(), Refusal::of)));
            }
            "LOGOUT" => return self.logout(&tag, p, out).await,
            "IDLE" if self.offers("IDLE") && self.account.is_some() => return self.idle(p, out).await,
            "LOGIN" | "AUTHENTICATE" if self.account.is_some() => {
                return Ok(Err(Refusal::bad("already logged in")));
            }
            "LOGIN" => return Ok(self.login(p).await),
            "AUTHENTICATE" => return self.authenticate(p).await,
            _ => {}
        }
        let outcome = self.simple(&verb, p, out);
        self.tell_news(!NO_EXPUNGE.contains(&verb.as_str()), out)?;
        Ok(outcome)
    }

    /// The commands that are answered at once.
    fn simple(&mut self, verb: &str, p: Parser, out: &mut Reply) -> Outcome {
        match verb {
            "CAPABILITY" => {
                p.end()?;
                let offered = &self.shared.options.capabilities;
                let list = if self.account.is_some() { &offered.after } else { &offered.before };
                out.untagged(&format!("CAPABILITY {list}"));
                Ok("Capability completed.".into())
            }
            "NOOP" => p.end().map(|()| "NOOP completed.".into()).map_err(Refusal::from),
            "ID" if self.offers("ID") => self.identify(p, out),
            _ => match self.account.clone() {
                Some(account) => self.authenticated(&account, verb, p, out),
                None => Err(Refusal::bad("not logged in, or an unknown command")),
            },
        }
    }

    fn authenticated(&mut self, account: &Account, verb: &str, p: Parser, out: &mut Reply) -> Outcome {
        match verb {
            "ENABLE" if self.offers("ENABLE") => self.enable(p, out),
            "SELECT" => self.select(account, p, false, out),
            "EXAMINE" => self.select(account, p, true, out),
            "CREATE" | "DELETE" | "SUBSCRIBE" | "UNSUBSCRIBE" => self.change_name(account, verb, p),
            "RENAME" => self.rename(account, p),
            "LIST" => self.list(account, p, false, out),
            "LSUB" => self.list(account, p, true, out),
            "STATUS" => self.status(account, p, out),
            "APPEND" => self.append(account, p),
            "NAMESPACE" if self.offers("NAMESPACE") => {
                p.end()?;
                let names = self.shared.options.names;
                let delimiter = names.quoted_delimiter();
                out.untagged(&format!("NAMESPACE ((\"{}\" {delimiter})) NIL NIL", names.prefix));
                Ok("Namespace completed.".into())
            }
            _ => self.selected(account, verb, p, out),
        }
    }

    fn selected(&mut self, account: &Account, verb: &str, p: Parser, out: &mut Reply) -> Outcome {
        let (by_uid, name) = match verb.strip_prefix("UID ") {
            Some(name) => (true, name),
            None => (false, verb),
        };
        let known = match name {
            "FETCH" | "STORE" | "COPY" | "SEARCH" => true,
            "EXPUNGE" => !by_uid || self.offers("UIDPLUS"),
            "MOVE" => self.offers("MOVE"),
            "CHECK" | "CLOSE" => !by_uid,
            "UNSELECT" => !by_uid && self.offers("UNSELECT"),
            _ => false,
        };
        if !known {
            return Err(self.unknown());
        }
        let Some(view) = self.view.take() else {
            return Err(Refusal::bad("no mailbox selected"));
        };
        let mut here = super::selected::Here { session: self, account, view, by_uid };
        let outcome = match name {
            "FETCH" => here.fetch(p, out),
            "STORE" => here.store(p, out),
            "COPY" => here.copy(p, false, out),
            "MOVE" => here.copy(p, true, out),
            "SEARCH" => here.search(p, out),
            "EXPUNGE" => here.expunge(p),
            "CHECK" => p.end().map(|()| "CHECK completed.".into()).map_err(Refusal::from),
            // CLOSE and UNSELECT; only a malformed one leaves the mailbox selected.
            _ => match p.end() {
                Ok(()) => {
                    if name == "CLOSE" {
                        here.close();
                    }
                    return Ok(format!("{name} completed."));
                }
                Err(e) => Err(e.into()),
            },
        };
        let view = here.view;
        self.view = Some(view);
        outcome
    }

    /// Tells the selected mailbox's news. A mailbox that was deleted by another session ends the connection.
    pub(super) fn tell_news(&mut self, may_expunge: bool, out: &mut Reply) -> Flow<bool> {
        let telling = self.telling();
        let (Some(account), Some(view)) = (&self.account, &mut self.view) else { return Ok(false) };
        let mut content = account.lock();
        match content.by_id_mut(view.mailbox) {
            Some(mailbox) => Ok(view.tell(mailbox, may_expunge, telling, out)),
            None => Err(End::Killed(super::options::Kill::Bye)),
        }
    }

    async fn logout(&mut self, tag: &str, p: Parser, out: &mut Reply) -> Flow<Outcome> {
        if let Err(e) = p.end() {
            return Ok(Err(e.into()));
        }
        let mut last = std::mem::take(out);
        last.untagged(&self.marked("BYE Logging out"));
        self.finish(tag, Ok("Logout completed.".into()), &mut last);
        self.send(last).await?;
        Err(End::LoggedOut)
    }

    /// IDLE (RFC 2177): news are told as they come, until DONE.
    async fn idle(&mut self, p: Parser, out: &mut Reply) -> Flow<Outcome> {
        if let Err(e) = p.end() {
            return Ok(Err(e.into()));
        }
        let mut changes = self.account.as_ref().map(|a| a.watch());
        let mut first = std::mem::take(out);
        first.text("+ ").text(&self.marked("idling")).text("\r\n");
        // What happened before IDLE is news as well.
        self.tell_news(true, &mut first)?;
        self.send(first).await?;
        loop {
            let changed = async {
                match &mut changes {
                    Some(changes) => changes.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                line = self.read_line(DONE_LIMIT) => {
                    let line = line?;
                    let done = line.trim_ascii_end().eq_ignore_ascii_case(b"DONE");
                    self.tell_news(true, out)?;
                    return Ok(if done { Ok("Idle completed.".into()) } else { Err(Refusal::bad("expected DONE")) });
                }
                _open = changed => {
                    let mut news = Reply::default();
                    if self.tell_news(true, &mut news)? {
                        self.send(news).await?;
                    }
                }
            }
        }
    }

    /// ID (RFC 2971)
    fn identify(&mut self, mut p: Parser, out: &mut Reply) -> Outcome {
        p.space()?;
        if p.peek() == Some(b'(') {
            p.list(Parser::nstring)?;
        } else if p.nstring()?.is_some() {
            return Err(Refusal::bad("expected a list or NIL"));
        }
        p.end()?;
        self.identified |= self.account.is_some();
        out.untagged("ID (\"name\" \"imapool demo server\")");
        Ok("ID completed.".into())
    }

    /// ENABLE (RFC 5161): unknown names are passed over.
    fn enable(&mut self, mut p: Parser, out: &mut Reply) -> Outcome {
        let mut enabled = Vec::new();
        let silent = self.shared.options.quirks.silent_enable;
        p.space()?;
        loop {
            let name = p.keyword()?;
            if !silent && self.shared.options.enable.contains(&name) && self.enabled.insert(name.clone()) {
                enabled.push(name);
            }
            if !p.eat(b' ') {
                break;
            }
        }
        p.end()?;
        if silent {
            return Ok("ENABLE completed".into());
        }
        self.switch_on(&enabled);
        let separator = if enabled.is_empty() { "" } else { " " };
        out.untagged(&format!("ENABLED{separator}{}", enabled.join(" ")));
        Ok("Enabled.".into())
    }
}
