//! With `pool.mode = "multiplex"`: which connection a command runs on.
//!
//! Without a mailbox, a connection is taken for each command (transient). With one, commands run in the mailbox's hub
//! (shared). What cannot be shared has a connection of its own until the session ends (pinned): then all is as with
//! `pool.mode = "session"`.

use std::sync::Arc;

use bytes::Bytes;
use tracing::info;

use super::Session;
use super::closing::Ended;
use super::running::{Running, no_connection};
use crate::config::PoolMode;
use crate::imap::command::{Command, Name};
use crate::imap::request::Request;
use crate::imap::sticky::Sticky;
use crate::mailbox::enabled::{EnableSet, Enabled, Parameters};
use crate::mailbox::hub::{FromHub, Member};
use crate::metrics::{CommandResult, SessionClose};
use crate::pool::{Account, CheckoutError, Pass};
use crate::upstream::loss::LOST;

/// A session's part in sharing.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// The mode of its account is "multiplex": as it was when the session first needed a connection.
    multiplex: Option<bool>,
    /// The hub of the selected mailbox.
    pub(super) hub: Option<Member>,
    /// In IDLE without a mailbox, which is nobody's affair but imapool's.
    pub(super) idles_alone: bool,
    /// It has said what changes how the backend speaks to it (NOTIFY, say): IDLE without a mailbox may tell it
    /// something.
    has_spoiled: bool,
    /// The session's connection is its own until it ends.
    pub(super) pinned: bool,
    /// The tagged reply to an APPEND to the selected mailbox, while the hub looks for the new message.
    appended: Option<Bytes>,
}

impl Sharing {
    /// Whether an ENABLE is of nothing but what hubs see to: any connection will do that has more of that.
    pub(super) fn enables_for_hubs(&self, enable: &Command) -> bool {
        let asked = Sticky::asked_by(enable);
        self.multiplex == Some(true) && asked.iter().all(|word| matches!(&word[..], b"CONDSTORE" | b"QRESYNC"))
    }
}

impl Session {
    /// Answers what makes no sense without a mailbox, and an IDLE there, of which nothing can come; gives back all
    /// else. So nothing reaches a mailbox that is still selected on a connection, but not by this session.
    pub(super) fn answer_alone(&mut self, run: Box<Request>) -> Option<Box<Request>> {
        let name = run.command.name;
        self.sharing.has_spoiled |= name.spoils_connection();
        if self.machine.is_selected() {
            return Some(run);
        }
        if needs_mailbox(name) {
            self.machine.handle_done(b" BAD Select a mailbox first.\r\n", false);
            return None;
        }
        let offered = || self.account().is_some_and(|account| account.offers("IDLE"));
        if name != Name::Idle || self.sharing.has_spoiled || !offered() {
            return Some(run);
        }
        self.sharing.idles_alone = true;
        self.machine.handle_continue(Bytes::from_static(b"+ idling\r\n"));
        None
    }

    /// Runs the command of a session whose credential stands in a hub, if it belongs there; else gives it back.
    pub(super) fn share(&mut self, run: Box<Request>, pass: &Pass) -> Option<Box<Request>> {
        let account = Arc::clone(pass.account());
        let multiplex = || account.terms().mode == PoolMode::Multiplex;
        if !*self.sharing.multiplex.get_or_insert_with(multiplex) {
            return Some(run);
        }
        // What was pinned is gone with its connection.
        self.sharing.pinned = false;
        if run.command.name == Name::Enable && self.enables(&account, &run) {
            return None;
        }
        let selects = matches!(run.command.name, Name::Select | Name::Examine);
        let enabled = if selects { self.shares_as(&account, &run.command) } else { None };
        if self.sharing.hub.is_some() {
            if run.command.name == Name::Append {
                return Some(run);
            }
            if selects && run.selects().is_none() {
                self.machine.handle_done(b" BAD Malformed mailbox name.\r\n", true);
                return None;
            }
            // What selects a mailbox for nobody else needs a connection of its own, as any other command may.
            if enabled.is_none() {
                self.run_in_hub(run);
                return None;
            }
            // Left, whatever comes of the command (RFC 9051 section 6.3.2).
            self.sharing.hub = None;
            // RFC 7162 section 3.2.11, RFC 9051 section 6.3.2.
            if ["CONDSTORE", "QRESYNC", "IMAP4rev2"].iter().any(|name| account.offers(name)) {
                self.queue(Bytes::from_static(b"* OK [CLOSED] Previous mailbox closed.\r\n"));
            }
        }
        let Some((key, enabled)) = run.selects().cloned().zip(enabled) else {
            self.sharing.pinned |= selects || run.command.name.spoils_connection();
            return Some(run);
        };
        let switches_on = Some(enabled.sticky());
        self.record.command_begins(run.command.name);
        self.running = Some(Running { joins: true, switches_on, ..Running::new(&run, self.now) });
        self.sharing.hub = Some(Member::join(&self.context.auth, pass, key, enabled, run, &self.record));
        None
    }

    /// Whether the command runs in the hub that the session is in, on the connection that this has.
    pub(super) fn stays_in_hub(&self, run: &Request) -> bool {
        let leaves = matches!(run.command.name, Name::Select | Name::Examine | Name::Append);
        self.sharing.hub.is_some() && !leaves
    }

    pub(super) fn run_in_hub(&mut self, run: Box<Request>) {
        let Some(hub) = &self.sharing.hub else { return };
        // What asks for mod-sequences switches CONDSTORE on (RFC 7162 section 3.1).
        let on = || Sticky { condstore: true, ..self.sticky.as_deref().cloned().unwrap_or_default() };
        let switches_on = run.modseqs().asked.then(on);
        self.record.command_begins(run.command.name);
        self.running = Some(Running { switches_on, ..Running::new(&run, self.now) });
        hub.run(run);
    }

    /// Answers an ENABLE, before a mailbox is selected, of what hubs see to (RFC 5161), where the backend is known to
    /// switch it on. So it costs no connection that carries just that.
    fn enables(&mut self, account: &Account, enable: &Request) -> bool {
        let (asked, known) = (Sticky::asked_by(&enable.command), account.manners.known());
        let granted = |word: &Vec<u8>| match &word[..] {
            b"CONDSTORE" => known.grants_condstore,
            b"QRESYNC" => known.grants_qresync,
            _ => false,
        };
        let may = known.enable.allows(self.now.into_std()) && account.offers("ENABLE");
        if !may || self.sharing.hub.is_some() || asked.is_empty() || !asked.iter().all(granted) {
            return false;
        }
        let before = self.sticky.clone().unwrap_or_default();
        self.say_enabled(asked.into_iter().filter(|word| !before.has(word)));
        self.sticky = before.after(enable).map(Arc::new).or(self.sticky.take());
        true
    }

    /// What a session has switched on that selects a mailbox so, and shares it. `None`: it shares it with nobody.
    fn shares_as(&self, account: &Account, select: &Command) -> Option<EnableSet> {
        let on = self.sticky.as_deref().map_or(Some(EnableSet::default()), EnableSet::of)?;
        let parameters = Parameters::of(select)?;
        let enabled = if parameters.condstore { on.enabled.max(Enabled::Condstore) } else { on.enabled };
        let offered = enabled.capability().is_none_or(|name| account.offers(name));
        let may = !parameters.condstore || account.manners.known().condstore.allows(self.now.into_std());
        // Without QRESYNC, the server will say that its parameter is not known to it (RFC 7162 section 3.2.5).
        let known = parameters.resync.is_none() || on.enabled == Enabled::Qresync;
        (offered && known && may).then_some(EnableSet { enabled, ..on })
    }

    /// A command has ended on the session's own connection: gives that back, unless it is pinned, which it is no more
    /// without a mailbox if nothing else stands against it. Gives the tagged reply that is due now, if any.
    pub(super) fn unshare(&mut self, appends_here: bool, rest: Bytes, selected: bool) -> Option<Bytes> {
        self.sharing.pinned &= selected || self.sharing.has_spoiled;
        if self.let_go()
            && appends_here
            && rest.starts_with(b" OK")
            && let Some(hub) = &self.sharing.hub
        {
            // The client is to hear of its message before it hears that it is there (RFC 9051 section 6.3.12).
            hub.run(Request::own(Name::Noop, "NOOP"));
            self.sharing.appended = Some(rest);
            return None;
        }
        Some(rest)
    }

    /// Gives the session's own connection back, unless it is pinned; false: it is.
    pub(super) fn let_go(&mut self) -> bool {
        let lets_go = self.sharing.multiplex == Some(true) && !self.sharing.pinned;
        if lets_go {
            self.drop_lease();
        }
        lets_go
    }

    /// Something came from the hub.
    pub(super) fn heard(&mut self, event: FromHub) -> Result<(), Ended> {
        let is_last = matches!(event, FromHub::Bye(_) | FromHub::Cut | FromHub::Stalled | FromHub::Lost);
        if let Some(running) = self.running.take_if(|_| is_last) {
            self.ends(&running, CommandResult::Lost);
        }
        match event {
            FromHub::Data(octets) => {
                self.running.iter_mut().for_each(|running| running.heard = true);
                self.queue(octets);
            }
            FromHub::Continue(line) => self.machine.handle_continue(line),
            FromHub::Tagged(octets) => self.tagged(octets),
            FromHub::Done(data, rest, selected) => {
                self.queue(data);
                self.ended(&rest, selected);
            }
            FromHub::Unconnected(CheckoutError::Refused) => {
                self.leave_hub();
                self.machine.handle_revoked();
            }
            FromHub::Unconnected(error) => {
                info!(client = %self.record.client, %error, "no upstream connection for a command");
                let selected = self.running.as_ref().is_none_or(|running| !running.joins);
                self.ended(format!(" {}\r\n", no_connection(error)).as_bytes(), selected);
            }
            FromHub::Bye(text) => {
                self.leave_hub();
                // What waited to be run, or to be run again, was not.
                self.machine.handle_bye(LOST, &text);
            }
            FromHub::Cut => return Err(Ended::Broken(SessionClose::UpstreamLost)),
            FromHub::Stalled => return Err(Ended::Broken(SessionClose::WriteTimeout)),
            FromHub::Lost => {
                self.leave_hub();
                self.machine.handle_lost(LOST);
            }
            FromHub::Yours(lease, run) => {
                self.sharing.hub = None;
                self.sharing.pinned = true;
                self.record.takes(lease.shared().id);
                self.lease = Some(*lease);
                self.note_mailbox(Name::Select, true);
                if self.start_at_once(run).is_err() {
                    self.drop_lease();
                    self.machine.handle_lost(LOST);
                }
            }
        }
        Ok(())
    }

    /// The hub is no more. Of an APPEND that was done before, its client hears all the same.
    fn leave_hub(&mut self) {
        self.sharing.hub = None;
        if let Some(appended) = self.sharing.appended.take() {
            self.machine.handle_done(&appended, true);
        }
    }

    /// The hub has answered the running command.
    fn ended(&mut self, rest: &[u8], selected: bool) {
        let running = self.finished(rest);
        // As the hub has it: whatever else comes of the command, it is on, if it was understood.
        if let Some(on) = running.and_then(|running| running.switches_on)
            && selected
            && !rest.starts_with(b" BAD")
        {
            self.sticky = Some(Arc::new(on));
        }
        if !selected {
            self.sharing.hub = None;
        }
        let appended = self.sharing.appended.take();
        self.machine.handle_done(appended.as_deref().unwrap_or(rest), selected);
    }

    /// Whether a command for a connection of the session's own could be run on any: the mailbox, if there is one, is
    /// not selected there.
    pub(super) fn is_elsewhere_as_good(&self) -> bool {
        !self.machine.is_selected() || self.sharing.hub.is_some()
    }

    /// The running command cannot be run, or its outcome will never be known. A mailbox that is selected in a hub stays
    /// selected.
    pub(super) fn fail(&mut self, reply: &str) {
        if self.sharing.hub.is_some() {
            self.machine.handle_done(format!(" {reply}\r\n").as_bytes(), true);
        } else {
            self.machine.handle_lost(reply);
        }
    }
}

/// Makes sense only in a mailbox (RFC 9051 section 6.4).
pub(super) fn needs_mailbox(name: Name) -> bool {
    use Name::{
        CancelUpdate, Check, Close, Copy, Expunge, Fetch, Move, Replace, Search, Sort, Store, Thread, Unselect,
    };
    matches!(
        name,
        CancelUpdate
            | Check
            | Close
            | Copy
            | Expunge
            | Fetch
            | Move
            | Replace
            | Search
            | Sort
            | Store
            | Thread
            | Unselect
    )
}
