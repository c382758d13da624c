//! A command on a connection of the session's own: which connection that is, what comes of the command, and what is
//! done when the connection is lost.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, info};

use super::closing::Ended;
use super::shared::needs_mailbox;
use super::{Session, Wake};
use crate::imap::command::{Command, Name};
use crate::imap::request::Request;
use crate::imap::sticky::Sticky;
use crate::mailbox::registry::{Registry, mailbox_name};
use crate::metrics::{CommandLabel, CommandResult, SessionClose};
use crate::pool::{CheckoutError, Pass, Want};
use crate::session::trace::note_if_slow;
use crate::upstream::backend::Service;
use crate::upstream::connection::{FromUpstream, Input};
use crate::upstream::loss::{LOST, Loss, MAX_ATTEMPTS};
use crate::upstream::machine::Facts;

/// The command that runs on the backend.
pub(super) struct Running {
    pub(super) name: Name,
    pub(super) since: Instant,
    /// To run it anew, as long as that can be done.
    pub(super) again: Option<Box<Request>>,
    pub(super) attempts: u8,
    /// What its tagged reply says, once that has begun.
    pub(super) result: Option<CommandResult>,
    /// What the session will have switched on by it, unless it has a connection that carries just that.
    pub(super) switches_on: Option<Sticky>,
    /// Names of mailboxes that mean others once it is done.
    pub(super) renames: Vec<Bytes>,
    /// It selects the mailbox of the hub that it runs in.
    pub(super) joins: bool,
    /// Something has come of it from a hub: a reply may be in its middle.
    pub(super) heard: bool,
    /// It is an APPEND to the mailbox that is selected in a hub.
    pub(super) appends_here: bool,
}

impl Running {
    pub(super) fn new(run: &Request, since: Instant) -> Self {
        Self {
            name: run.command.name,
            since,
            again: None,
            attempts: 1,
            result: None,
            switches_on: None,
            renames: run.command.renames(),
            joins: false,
            heard: false,
            appends_here: false,
        }
    }
}

impl Session {
    /// Runs a command on the connection that the session has, if there can be no better. Otherwise gives it back.
    pub(super) fn start_at_once(&mut self, run: Box<Request>) -> Result<(), Box<Request>> {
        if self.may_exchange(&run) { Err(run) } else { self.run_here(run, self.now, 1) }
    }

    /// Runs a command on the session's connection, taking one if it has none.
    pub(super) async fn start(&mut self, mut run: Box<Request>, mut attempts: u8, mut pass: Option<Pass>) {
        let (since, name) = (self.now, run.command.name);
        while self.lease.is_some() && !self.may_exchange(&run) || self.take_lease(&run, pass.take()).await {
            run = match self.run_here(run, since, attempts) {
                Ok(()) => return,
                Err(unsent) => unsent,
            };
            self.drop_lease();
            if !self.is_elsewhere_as_good() || attempts == MAX_ATTEMPTS {
                self.context.metrics.operation.command_ended(label(name), CommandResult::Lost);
                self.fail(LOST);
                break;
            }
            attempts += 1;
        }
        // It does not run, or not again.
        self.running = None;
        self.record.command_ends();
    }

    fn run_here(&mut self, run: Box<Request>, since: Instant, attempts: u8) -> Result<(), Box<Request>> {
        let hub = self.sharing.hub.as_ref().filter(|_| run.command.name == Name::Append);
        let running = Running {
            again: self.is_elsewhere_as_good().then(|| run.clone()),
            attempts,
            switches_on: self.lent.as_ref().and_then(|lent| lent.after(&run)),
            appends_here: hub.is_some_and(|hub| hub.is_named_by(&run.command)),
            ..Running::new(&run, since)
        };
        let Some(lease) = &mut self.lease else { return Err(run) };
        if self.parts.is_empty() {
            lease.run(run)?;
        } else {
            // The rest of a message that was refused early is still to go: the backend counts its octets.
            self.parts.push_back(Input::Run(run));
        }
        // What is run again, or comes from a hub with its connection, has begun before.
        if self.running.is_none() {
            self.record.command_begins(running.name);
        }
        self.record.ran_on(lease.shared().id);
        self.running = Some(running);
        Ok(())
    }

    /// Whether another connection at rest may be better for a command than the one that the session has: one that
    /// carries the state already that it brings about. Otherwise each session that says something before that would
    /// cost one. And before a mailbox is selected, one that carries no more than the session has switched on.
    fn may_exchange(&self, run: &Request) -> bool {
        let name = run.command.name;
        let needs_its_own =
            self.lent.is_some() && (matches!(name, Name::Select | Name::Examine) || name.spoils_connection());
        !self.machine.is_selected()
            && self.parts.is_empty()
            && self.lease.as_ref().is_some_and(|lease| lease.may_rest())
            && (needs_its_own || name == Name::Enable || run.modseqs().mentioned)
    }

    /// What the session has switched on.
    fn own_sticky(&self) -> Arc<Sticky> {
        match (&self.lent, &self.lease) {
            (Some(lent), _) => Arc::clone(lent),
            (None, Some(lease)) => lease.shared().facts().sticky,
            (None, None) => self.sticky.clone().unwrap_or_default(),
        }
    }

    /// A command that would switch this on has ended on a connection that carries more than the session has switched
    /// on.
    fn lent_after(&mut self, after: Option<Sticky>, rest: &[u8]) {
        let Some((lent, lease)) = self.lent.as_mut().zip(self.lease.as_ref()) else { return };
        let facts = lease.shared().facts();
        if let Some(after) = after.filter(|_| rest.starts_with(b" OK")) {
            // What the backend has not said to be on, the session has not.
            *lent = Arc::new(lent.with(&after.common(&facts.granted)));
        }
        if facts.sticky == *lent {
            self.lent = None;
        }
    }

    /// Takes a connection out of the pool, or exchanges the one at hand for a better. False: the command has been
    /// answered, because none can be had, or because the connection is in the state already that the command asks
    /// for.
    async fn take_lease(&mut self, run: &Request, pass: Option<Pass>) -> bool {
        let pass = match pass {
            Some(pass) => pass,
            None => match self.pass_for(run).await {
                Ok(pass) => pass,
                Err(error) => {
                    self.turned_away(run, error);
                    return false;
                }
            },
        };
        let sticky = self.own_sticky();
        let or_sticky = sticky.after(run);
        let name = run.command.name;
        let for_mailbox = self.machine.is_selected() && self.sharing.hub.is_none();
        let enables = name == Name::Enable && !self.sharing.enables_for_hubs(&run.command);
        let selects = enables || matches!(name, Name::Select | Name::Examine) || needs_mailbox(name);
        let stays = pass.account().stays();
        let want = Want {
            pass,
            mailbox: run.selects().cloned(),
            or_sticky,
            sticky,
            lends: !for_mailbox && !selects && !name.spoils_connection(),
            shares: false,
            stays,
            client: self.record.client.ip(),
        };
        let taken = match self.lease.take() {
            Some(lease) => self.meanwhile(lease.exchanged(&want)).await,
            None => self.meanwhile(want.checkout()).await,
        };
        match taken {
            Ok(lease) => {
                let facts = lease.shared().facts();
                self.record.takes(lease.shared().id);
                // Drained just now, perhaps before this could be seen in the record.
                if want.pass.account().backend().service() == Service::Drained {
                    self.record.close();
                }
                self.lease = Some(lease);
                self.lent = (facts.sticky != want.sticky).then(|| Arc::clone(&want.sticky));
                if name == Name::Enable && want.or_sticky.is_some_and(|sticky| sticky == *facts.sticky) {
                    self.has_enabled(&run.command, &facts);
                    return false;
                }
                true
            }
            Err(error) => {
                let user = want.pass.account().name();
                info!(client = %self.record.client, user, %error, "no upstream connection for a command");
                self.context.metrics.operation.command_ended(label(name), CommandResult::No);
                self.unconnected(error);
                false
            }
        }
    }

    /// Answers an ENABLE of what was switched on for an earlier session, on the connection that this one has got: as
    /// the backend did then, if that was asked for in the same words. If not, what is on is listed: the backend would
    /// not list it again (RFC 5161 section 3.2), and the client would take it for refused.
    fn has_enabled(&mut self, enable: &Command, facts: &Facts) {
        match facts.enable_reply.as_ref().filter(|reply| reply.answers(enable)) {
            Some(reply) => {
                self.queue(reply.untagged.clone());
                self.machine.handle_done(&reply.tagged, false);
            }
            None => {
                self.say_enabled(Sticky::asked_by(enable).into_iter().filter(|word| facts.granted.has(word)));
            }
        }
        self.lent = None;
        self.let_go();
    }

    /// Answers ENABLE in words of imapool's own.
    pub(super) fn say_enabled(&mut self, words: impl Iterator<Item = Vec<u8>>) {
        let mut line = b"* ENABLED".to_vec();
        words.for_each(|word| line.extend([b" ", &word[..]].concat()));
        line.extend(b"\r\n");
        self.queue(line.into());
        self.machine.handle_done(b" OK Enabled.\r\n", false);
    }

    pub(super) fn drop_lease(&mut self) {
        // What had not gone to this connection means nothing to another.
        self.parts.clear();
        if let Some(lease) = self.lease.take() {
            self.record.gives_back();
            self.sticky = self.lent.take().or_else(|| Some(lease.shared().facts().granted));
        }
    }

    pub(super) fn upstream(&mut self, event: FromUpstream) -> Wake {
        match event {
            FromUpstream::Data(replies) => self.queue(replies.into_octets()),
            FromUpstream::Tagged(octets) => self.tagged(octets),
            FromUpstream::Continue(line) => {
                // A literal that has been sent cannot be sent again.
                if let Some(running) = self.running.as_mut().filter(|running| running.name != Name::Idle) {
                    running.again = None;
                }
                self.machine.handle_continue(line);
            }
            FromUpstream::Done(data, rest, selected) => {
                self.queue(data.into_octets());
                if let Some(running) = self.finished(&rest) {
                    self.lent_after(running.switches_on, &rest);
                    self.note_mailbox(running.name, selected);
                    if let Some(rest) = self.unshare(running.appends_here, rest, selected) {
                        self.machine.handle_done(&rest, selected || self.sharing.hub.is_some());
                    }
                }
            }
            FromUpstream::Checked => {}
            FromUpstream::Lost(loss) => return Wake::Lost(loss),
        }
        Wake::Done(Ok(()))
    }

    /// The tagged reply begins.
    pub(super) fn tagged(&mut self, octets: Bytes) {
        if let Some(running) = &mut self.running {
            running.result.get_or_insert_with(|| result_of(&octets));
        }
        self.machine.handle_tagged(octets);
    }

    /// The running command was answered; `rest`: the last of its tagged reply.
    pub(super) fn finished(&mut self, rest: &[u8]) -> Option<Running> {
        let running = self.running.take()?;
        self.context.metrics.command_seconds.get(label(running.name)).observe(self.now - running.since);
        self.ends(&running, running.result.unwrap_or_else(|| result_of(rest)));
        Some(running)
    }

    /// The command is over. If it has no answer, there will be none but imapool's own.
    pub(super) fn ends(&self, running: &Running, result: CommandResult) {
        // Who has joined meanwhile may have found either.
        self.tell_renames(&running.renames);
        self.context.metrics.operation.command_ended(label(running.name), result);
        self.record.command_ends();
        note_if_slow(self.context.slow, &self.record, running.name, result, self.now - running.since);
    }

    /// These names of mailboxes mean others from now on, or will: nobody joins any more by them.
    pub(super) fn tell_renames(&self, names: &[Bytes]) {
        if let Some(account) = self.account().filter(|_| !names.is_empty()) {
            Registry::of(account).renamed(names);
        }
    }

    /// Which mailbox is selected on the session's own connection, for those who look.
    pub(super) fn note_mailbox(&self, name: Name, selected: bool) {
        if !selected {
            self.record.selects(None);
        } else if matches!(name, Name::Select | Name::Examine) {
            let key = self.lease.as_ref().and_then(|lease| lease.shared().facts().selected);
            self.record.selects(key.map(|key| mailbox_name(&key)));
        }
    }

    /// The connection is gone: runs the command again where that is safe, and says what happened where it is not.
    pub(super) async fn lost(&mut self, mut loss: Loss) -> Result<(), Ended> {
        loss.unsent |= self.parts.iter().any(|part| matches!(part, Input::Run(_)));
        self.drop_lease();
        if let Some(Running { name, .. }) = &self.running {
            let user = self.account().map(|account| account.name());
            info!(client = %self.record.client, user, command = name.as_str(), "upstream connection lost during a command");
        }
        let ends = !self.is_elsewhere_as_good();
        let bye = loss.bye.as_ref().filter(|_| ends);
        if !loss.cut
            && bye.is_none()
            && let Some(Running { name, attempts, again, .. }) = &mut self.running
            && loss.allows_another(*name)
            && *attempts < MAX_ATTEMPTS
            && let Some(run) = again.take()
        {
            debug!(command = name.as_str(), "connection lost; running the command on another");
            let attempts = *attempts + 1;
            self.start(run, attempts, None).await;
            return Ok(());
        }
        let running = self.running.take();
        running.iter().for_each(|running| self.ends(running, CommandResult::Lost));
        let reply = running.as_ref().map_or(LOST, |running| loss.reply(running.name));
        match bye {
            _ if loss.cut => return Err(Ended::Broken(SessionClose::UpstreamLost)),
            Some(text) => self.machine.handle_bye(reply, text),
            None if ends || running.is_some() => self.fail(reply),
            None => {}
        }
        Ok(())
    }

    /// The account moves to another backend. Gives up a connection of its own to where it was, between two commands.
    /// What is selected only there cannot be gone on with, as after a loss: then the session ends.
    pub(super) fn let_go_of_what_moves(&mut self) {
        // Taken since, it is to where the account is now.
        if self.lease.as_ref().is_none_or(|lease| !lease.is_outdated()) {
            return self.record.has_let_go();
        }
        let idles = self.machine.is_idling();
        let is_busy = self.running.is_some() && !idles;
        if is_busy || !self.parts.is_empty() || !self.is_between_lines() {
            return;
        }
        if self.is_elsewhere_as_good() && !idles {
            self.drop_lease();
        } else {
            self.record.close();
        }
        self.record.has_let_go();
    }
}

/// What a tagged reply says, without its tag. That its connection was lost, a hub says in these words.
fn result_of(reply: &[u8]) -> CommandResult {
    let reply = reply.trim_ascii_start();
    let lost = LOST.trim_end_matches('.').as_bytes();
    match reply.split(u8::is_ascii_whitespace).next().unwrap_or_default() {
        _ if reply.starts_with(lost) => CommandResult::Lost,
        word if word.eq_ignore_ascii_case(b"OK") => CommandResult::Ok,
        word if word.eq_ignore_ascii_case(b"NO") => CommandResult::No,
        _ => CommandResult::Bad,
    }
}

/// The tagged reply to a command for which there is no connection, without its tag.
pub(super) fn no_connection(error: CheckoutError) -> String {
    let code = if error == CheckoutError::Limit { "LIMIT" } else { "UNAVAILABLE" };
    let text = error.to_string();
    let (first, rest) = text.split_at(1);
    format!("NO [{code}] {}{rest}.", first.to_ascii_uppercase())
}

/// The metrics' label of a command, without a search.
pub(super) fn label(name: Name) -> CommandLabel {
    static LABELS: LazyLock<Vec<CommandLabel>> =
        LazyLock::new(|| Name::ALL.iter().map(|name| CommandLabel::from_verb(name.as_str().as_bytes())).collect());
    LABELS[name as usize]
}
