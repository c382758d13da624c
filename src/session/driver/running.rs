//! A command on a connection of the session's own: which connection that is, what comes of the command, and what is
//! done when the connection is lost.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, info};

use super::Session;
use super::closing::Ended;
use super::shared::needs_mailbox;
use crate::imap::command::{Command, Name};
use crate::imap::request::Request;
use crate::imap::sticky::Sticky;
use crate::mailbox::registry::mailbox_name;
use crate::metrics::{CommandLabel, CommandResult};
use crate::pool::{CheckoutError, Pass, Want};
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
}

/// What a session has switched on, where its connection carries more than that.
#[derive(Debug)]
pub(super) struct Lent {
    sticky: Arc<Sticky>,
    /// What it will have switched on if the command that runs is answered OK.
    after: Option<Sticky>,
}

impl Session {
    /// Runs a command on the connection that the session has. Otherwise gives it back.
    pub(super) fn start_at_once(&mut self, run: Box<Request>) -> Result<(), Box<Request>> {
        if self.may_exchange(&run) {
            return Err(run);
        }
        let name = run.command.name;
        let again = self.is_elsewhere_as_good().then(|| run.clone());
        self.lent_for(&run);
        let Some(lease) = &mut self.lease else { return Err(run) };
        if self.parts.is_empty() {
            lease.run(run)?;
        } else {
            // The rest of a message that was refused early is still to go: the backend counts its octets.
            self.parts.push_back(Input::Run(run));
        }
        let id = lease.shared().id;
        // A hub that hands its connection over has begun it.
        if self.running.is_none() {
            self.record.command_begins(name);
        }
        self.record.ran_on(id);
        self.running = Some(Running { name, since: self.now, again, attempts: 1, result: None });
        Ok(())
    }

    /// Runs a command on the session's connection, taking one if it has none.
    pub(super) async fn start(&mut self, run: Box<Request>, mut attempts: u8, mut pass: Option<Pass>) {
        let (since, is_first) = (self.now, attempts == 1);
        let name = run.command.name;
        let mut run = Some(run);
        while let Some(command) = run.take() {
            if (self.lease.is_none() || self.may_exchange(&command)) && !self.take_lease(&command, pass.take()).await {
                return;
            }
            let again = self.is_elsewhere_as_good().then(|| command.clone());
            self.lent_for(&command);
            let Some(lease) = &mut self.lease else { return };
            match lease.run(command) {
                Ok(()) => {
                    let id = lease.shared().id;
                    if is_first {
                        self.record.command_begins(name);
                    }
                    self.record.ran_on(id);
                    self.running = Some(Running { name, since, again, attempts, result: None });
                }
                Err(unsent) if self.is_elsewhere_as_good() && attempts < MAX_ATTEMPTS => {
                    attempts += 1;
                    self.drop_lease();
                    run = Some(unsent);
                }
                Err(_) => {
                    self.drop_lease();
                    self.context.metrics.operation().command_ended(label(name), CommandResult::Lost);
                    self.fail(LOST);
                }
            }
        }
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
            (Some(lent), _) => Arc::clone(&lent.sticky),
            (None, Some(lease)) => lease.shared().facts().sticky,
            (None, None) => self.sticky.clone().unwrap_or_default(),
        }
    }

    /// The command begins on a connection that may carry more than the session has switched on.
    fn lent_for(&mut self, run: &Request) {
        if let Some(lent) = &mut self.lent {
            lent.after = lent.sticky.after(run);
        }
    }

    /// The command has ended there.
    fn lent_after(&mut self, rest: &[u8]) {
        let Some(lent) = &mut self.lent else { return };
        if let Some(after) = lent.after.take().filter(|_| rest.starts_with(b" OK")) {
            // What the backend has not said to be on, the session has not.
            let granted = self.lease.as_ref().map(|lease| after.common(&lease.shared().facts().granted));
            lent.sticky = Arc::new(lent.sticky.with(&granted.unwrap_or_default()));
        }
        if self.lease.as_ref().is_none_or(|lease| lease.shared().facts().sticky == lent.sticky) {
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
                let lent = || Box::new(Lent { sticky: Arc::clone(&want.sticky), after: None });
                self.lent = (facts.sticky != want.sticky).then(lent);
                if name == Name::Enable && want.or_sticky.is_some_and(|sticky| sticky == *facts.sticky) {
                    self.has_enabled(&run.command, &facts);
                    return false;
                }
                true
            }
            Err(error) => {
                let user = want.pass.account().name();
                info!(client = %self.record.client, user, %error, "no upstream connection for a command");
                self.context.metrics.operation().command_ended(label(name), CommandResult::No);
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
            let lent = self.lent.take().map(|lent| lent.sticky);
            self.sticky = Some(lent.unwrap_or_else(|| lease.shared().facts().granted));
        }
    }

    pub(super) fn upstream(&mut self, event: FromUpstream) {
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
                self.has_renamed();
                self.queue(data.into_octets());
                self.lent_after(&rest);
                let name = self.finished(&rest);
                self.note_mailbox(name, selected);
                if let Some(rest) = self.unshare(name, rest, selected) {
                    self.machine.handle_done(&rest, selected || self.sharing.hub.is_some());
                }
            }
            FromUpstream::Checked | FromUpstream::Lost(_) => {}
        }
    }

    /// The tagged reply begins.
    pub(super) fn tagged(&mut self, octets: Bytes) {
        if let Some(running) = &mut self.running {
            running.result.get_or_insert_with(|| result_of(&octets));
        }
        self.machine.handle_tagged(octets);
    }

    /// The running command was answered; `rest`: the last of its tagged reply. Gives its name.
    pub(super) fn finished(&mut self, rest: &[u8]) -> Option<Name> {
        let running = self.running.take()?;
        let taken = self.now - running.since;
        let result = running.result.unwrap_or_else(|| result_of(rest));
        self.context.metrics.command(label(running.name), taken);
        self.context.metrics.operation().command_ended(label(running.name), result);
        self.record.command_ends();
        self.context.slow.note(&self.record, running.name, result, taken);
        Some(running.name)
    }

    /// There will be no answer to the running command but imapool's own.
    pub(super) fn lost_for_good(&mut self, running: &Running) {
        let taken = self.now - running.since;
        self.context.metrics.operation().command_ended(label(running.name), CommandResult::Lost);
        self.record.command_ends();
        self.context.slow.note(&self.record, running.name, CommandResult::Lost, taken);
    }

    /// Which mailbox is selected on the session's own connection, for those who look.
    pub(super) fn note_mailbox(&self, name: Option<Name>, selected: bool) {
        if !selected {
            self.record.selects(None);
        } else if matches!(name, Some(Name::Select | Name::Examine)) {
            let key = self.lease.as_ref().and_then(|lease| lease.shared().facts().selected);
            self.record.selects(key.map(|key| mailbox_name(&key)));
        }
    }

    /// The connection is gone: runs the command again where that is safe, and says what happened where it is not.
    pub(super) async fn lost(&mut self, mut loss: Loss) -> Result<(), Ended> {
        loss.unsent |= self.parts.iter().any(|part| matches!(part, Input::Run(_)));
        self.drop_lease();
        self.has_renamed();
        let running = self.running.take();
        if let Some(Running { name, .. }) = &running {
            let user = self.account().map(|account| account.name());
            info!(client = %self.record.client, user, command = name.as_str(), "upstream connection lost during a command");
        }
        if loss.cut {
            running.iter().for_each(|running| self.lost_for_good(running));
            return Err(Ended::Cut);
        }
        let ends = self.machine.is_selected() && self.sharing.hub.is_none();
        let reply = running.as_ref().map_or(LOST, |running| loss.reply(running.name));
        if let Some(text) = loss.bye.as_ref().filter(|_| ends) {
            running.iter().for_each(|running| self.lost_for_good(running));
            self.machine.handle_bye(reply, text);
            return Ok(());
        }
        let Some(running) = running else {
            if ends {
                self.machine.handle_lost("");
            }
            return Ok(());
        };
        let repeatable = loss.allows_another(running.name);
        if !repeatable || running.again.is_none() || running.attempts >= MAX_ATTEMPTS {
            self.lost_for_good(&running);
        }
        match running.again {
            Some(run) if repeatable && running.attempts < MAX_ATTEMPTS => {
                debug!(command = running.name.as_str(), "connection lost; running the command on another");
                self.start(run, running.attempts + 1, None).await;
            }
            _ => self.fail(reply),
        }
        Ok(())
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

pub(super) fn capitalized(error: &CheckoutError) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The metrics' label of a command, without a search.
pub(super) fn label(name: Name) -> CommandLabel {
    static LABELS: LazyLock<Vec<CommandLabel>> =
        LazyLock::new(|| Name::ALL.iter().map(|name| CommandLabel::from_verb(name.as_str().as_bytes())).collect());
    LABELS[name as usize]
}
