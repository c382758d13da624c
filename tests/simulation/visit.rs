//! What clients do: kinds of them, and single commands with what must hold after each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::client::{Client, Gone, Status};
use crate::net::Net;
use crate::plan::Way;
use crate::reply::Piece;
use crate::secrets::{Inside, Secrets};
use crate::truth::{Count, Identity, Truth};
use crate::view::View;

/// What is new is told to who idles within that.
const NEWS: Duration = Duration::from_secs(20);

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Short sessions, anything at all.
    Webmail,
    /// Lies in IDLE.
    Phone,
    /// By UID, all mailboxes.
    Sync,
    /// By UID, with mod-sequences.
    Condstore,
    /// By UID, with VANISHED.
    Qresync,
    /// By number.
    Numbers,
    /// Wrong passwords, nonsense, hanging up in the middle.
    Rude,
    /// Lies in IDLE for minutes.
    Sleeper,
}

impl Kind {
    /// All but the last, which has a plan of its own.
    pub(crate) const ALL: [Self; 7] =
        [Self::Webmail, Self::Phone, Self::Sync, Self::Condstore, Self::Qresync, Self::Numbers, Self::Rude];

    /// What it does, as often as it stands here.
    fn habits(self) -> &'static [Act] {
        use Act::{
            Append, Body, Burst, Close, Copy, Dawdle, Expunge, FetchAll, Idle, List, Move, Nonsense, Noop, Search,
            Select, Status, Store, UidFetch, UidSearch, UidStore, Write,
        };
        match self {
            Self::Webmail => {
                &[Select, FetchAll, UidFetch, Body, Search, Status, List, Noop, UidStore, Append, Write, Burst, Burst]
            }
            Self::Phone => &[Select, Idle, Idle, Idle, FetchAll, UidFetch, Noop, UidStore],
            Self::Sync => {
                &[Select, Select, UidFetch, UidStore, UidSearch, Expunge, Copy, Move, Status, Close, Write, Burst]
            }
            Self::Condstore | Self::Qresync => &[Select, UidFetch, UidStore, UidSearch, Noop, Idle, Expunge, Append],
            Self::Numbers => {
                &[Select, FetchAll, FetchAll, Body, Store, Store, Search, Search, Expunge, Noop, Copy, Move]
            }
            Self::Sleeper => &[Idle, Idle, Idle, Noop],
            Self::Rude => &[Select, FetchAll, Nonsense, Noop, Store, Append, Idle, List, Dawdle],
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Select,
    FetchAll,
    UidFetch,
    Body,
    Search,
    UidSearch,
    Status,
    List,
    Noop,
    Store,
    UidStore,
    Append,
    Write,
    Copy,
    Move,
    Expunge,
    Idle,
    Close,
    Nonsense,
    /// Several commands at once.
    Burst,
    /// Reads nothing for a while.
    Dawdle,
}

/// Who visits.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) name: u64,
    pub(crate) kind: Kind,
    pub(crate) user: String,
    pub(crate) way: Way,
    pub(crate) visits: u64,
    pub(crate) commands: u64,
    pub(crate) begins: Duration,
    pub(crate) seed: u64,
}

/// What a visit is held against.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) net: Net,
    pub(crate) truth: Arc<Mutex<Truth>>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) mailboxes: Vec<String>,
    /// Nobody is refused or sent away: nothing goes wrong, and no operator acts.
    pub(crate) calm: bool,
    pub(crate) patience: Duration,
    /// One hub a mailbox tells all of its sessions.
    pub(crate) shares: bool,
    /// How long it may take until who was let in by what is refused since is sent away.
    pub(crate) leaves_refused: Option<Duration>,
    /// Nothing but COPY and MOVE is refused for numbers of messages that are gone.
    pub(crate) serves_what_is_left: bool,
    /// What the server offers and refuses, by the beginning of the command.
    pub(crate) refused: Vec<&'static str>,
}

impl Rules {
    /// The server is known to refuse this, though it offers it.
    fn refuses(&self, command: &str) -> bool {
        self.refused.iter().any(|refused| command.starts_with(refused))
    }
}

/// One visit at work.
struct Visit<'a> {
    client: Client,
    /// Which password it has logged in with.
    version: u64,
    /// What it has logged in with.
    secret: String,
    /// If that is a token.
    inside: Option<Inside>,
    rules: &'a Rules,
    chance: &'a mut Chance,
    who: &'a Visitor,
    marks: &'a mut u64,
}

/// All visits of one client.
pub(crate) async fn visits(who: Visitor, rules: Rules) {
    let mut chance = Chance::new(who.seed);
    let mut marks = 0;
    sleep(who.begins).await;
    for _ in 0..who.visits {
        let over = visit(&who, &rules, &mut chance, &mut marks).await;
        rules.truth.lock().gets_up(who.name);
        assert!(over.is_ok() || !rules.calm, "client {} ({:?}) was sent away", who.name, who.kind);
        let pause = if chance.one_in(8) { 40_000 } else { 200 };
        sleep(Duration::from_millis(chance.below(pause))).await;
    }
}

async fn visit(who: &Visitor, rules: &Rules, chance: &mut Chance, marks: &mut u64) -> Result<(), Gone> {
    let mut client = Client::connect(&rules.net, who.name, &rules.truth, rules.patience).await?;
    if who.kind == Kind::Rude && chance.one_in(3) {
        let status = client.run(&format!("LOGIN {} wrong", who.user)).await?;
        assert!(!status.is_ok(), "a wrong password was let in");
        return Ok(());
    }
    client.user.clone_from(&who.user);
    let mut visit = Visit { client, version: 0, secret: String::new(), inside: None, rules, chance, who, marks };
    if !visit.login().await? {
        return Ok(());
    }
    visit.enable().await?;
    let commands = visit.chance.below(who.commands);
    for _ in 0..commands {
        let act = visit.chance.of(who.kind.habits());
        visit.act(act).await?;
    }
    // Who comes while it says goodbye may be alone.
    rules.truth.lock().gets_up(who.name);
    if who.kind == Kind::Rude && visit.chance.one_in(2) {
        visit.leave_rudely().await
    } else if visit.chance.one_in(3) {
        Ok(())
    } else {
        let status = visit.client.run("LOGOUT").await?;
        assert!(status.is_ok(), "LOGOUT: {status:?}");
        Ok(())
    }
}

impl Visit<'_> {
    /// `false`: it was refused, as may be.
    fn well(&self, status: &Status, command: &str) -> bool {
        if status.is_ok() {
            return true;
        }
        let changed = self.rules.secrets.version(&self.who.user) > self.version;
        let may = status.is_unavailable() || changed && status.code == "AUTHENTICATIONFAILED";
        let may = status.word == "NO" && !self.rules.calm && may || self.rules.refuses(command);
        assert!(may, "client {} ({:?}): {command}: {status:?}", self.who.name, self.who.kind);
        false
    }

    async fn run(&mut self, command: &str) -> Result<bool, Gone> {
        let status = self.client.run(command).await?;
        Ok(self.well(&status, command))
    }

    /// `false`: it was refused, as may be.
    async fn login(&mut self) -> Result<bool, Gone> {
        let (user, secrets) = (&self.who.user, Arc::clone(&self.rules.secrets));
        // Some do not know yet that it was changed.
        let version = secrets.version(user) - u64::from(secrets.version(user) > 0 && self.chance.one_in(4));
        let password = Secrets::password(user, version);
        self.version = version;
        self.secret.clone_from(&password);
        let began = Instant::now();
        let trying = secrets.tries(&Secrets::token(user, version, self.who.name));
        let status = match self.who.way {
            Way::Plain if self.client.can("AUTH=PLAIN") => {
                self.client.authenticate("PLAIN", &format!("\0{user}\0{password}")).await?
            }
            Way::Token if self.client.can("AUTH=XOAUTH2") => {
                let token = Secrets::token(user, version, self.who.name);
                self.secret.clone_from(&token);
                self.client.authenticate("XOAUTH2", &format!("user={user}\x01auth=Bearer {token}\x01\x01")).await?
            }
            _ => self.client.run(&format!("LOGIN {user} {password}")).await?,
        };
        if status.is_ok() && self.secret != password {
            self.inside = Some(secrets.enters(user, &self.secret, began));
        }
        drop(trying);
        if version < secrets.version(user) {
            assert!(!status.is_ok() || secrets.may_be_known(user, version), "{password} is good, and should not be");
            return Ok(status.is_ok());
        }
        Ok(self.well(&status, "LOGIN"))
    }

    async fn enable(&mut self) -> Result<(), Gone> {
        let what = match self.who.kind {
            Kind::Qresync => "QRESYNC",
            Kind::Condstore if self.chance.one_in(2) => "CONDSTORE",
            _ => return Ok(()),
        };
        if self.client.can("ENABLE") && self.client.can(what) && self.run(&format!("ENABLE {what}")).await? {
            let mut said = self.client.said.iter().filter(|pieces| pieces[0].word() == "ENABLED");
            let enabled = said.any(|pieces| pieces[1..].iter().any(|piece| piece.word() == what));
            // Who has asked may be told mod-sequences, whether the server has said so or not.
            (self.client.qresync, self.client.condstore) = (enabled && what == "QRESYNC", true);
        }
        Ok(())
    }

    fn view(&self) -> Option<&View> {
        self.client.view.as_ref()
    }

    /// Where the selected mailbox is.
    fn place(&self) -> Option<(String, String)> {
        self.view().map(|view| (view.user.clone(), view.mailbox.clone()))
    }

    /// Who was let in with what the server has refused since, is sent away soon, whatever he does.
    fn check_refused(&self) {
        let refused = self.rules.secrets.refused_for(&self.secret);
        if let (Some(most), Some(refused)) = (self.rules.leaves_refused, refused) {
            assert!(refused <= most, "client {} is there {refused:?} after {} was refused", self.who.name, self.secret);
        }
    }

    async fn act(&mut self, act: Act) -> Result<(), Gone> {
        let selects = matches!(act, Act::Select | Act::Status | Act::List | Act::Append | Act::Write | Act::Nonsense);
        if self.view().is_none() && !selects {
            self.select().await?;
        }
        if self.view().is_none() && !selects {
            return Ok(());
        }
        match act {
            Act::Select => self.select().await,
            Act::FetchAll => self.fetch_all().await,
            Act::UidFetch => self.uid_fetch().await,
            Act::Body => self.body().await,
            Act::Search => self.search().await,
            Act::UidSearch => self.uid_search().await,
            Act::Status => {
                let mailbox = self.chance.of(&self.rules.mailboxes);
                self.run(&format!("STATUS {mailbox} (MESSAGES UIDNEXT UNSEEN)")).await.map(drop)
            }
            Act::List => self.run("LIST \"\" *").await.map(drop),
            Act::Noop => self.noop().await,
            Act::Store => self.store(false).await,
            Act::UidStore => self.store(true).await,
            Act::Append => self.append(false).await,
            Act::Write => self.append(true).await,
            Act::Copy => self.copy(false).await,
            Act::Move => self.copy(true).await,
            Act::Expunge => self.expunge().await,
            Act::Idle => self.idle().await,
            Act::Close => self.close().await,
            Act::Burst => self.burst().await,
            Act::Dawdle => {
                let tag = self.client.send("UID FETCH 1:* (BODY.PEEK[])").await?;
                sleep(Duration::from_millis(self.chance.below(8_000))).await;
                let status = self.client.finish(&tag).await?;
                self.well(&status, "UID FETCH");
                Ok(())
            }
            Act::Nonsense => {
                let status = self.client.run("XYZZY 1 2 3").await?;
                assert!(!status.is_ok(), "XYZZY: {status:?}");
                Ok(())
            }
        }
    }

    async fn select(&mut self) -> Result<(), Gone> {
        let mailbox = self.chance.of(&self.rules.mailboxes);
        let verb = if self.chance.one_in(5) { "EXAMINE" } else { "SELECT" };
        let sleeps = self.who.kind == Kind::Sleeper;
        let (mailbox, verb) = if sleeps { ("INBOX".to_owned(), "SELECT") } else { (mailbox, verb) };
        if sleeps {
            self.rules.truth.lock().lies_down(self.who.name);
        }
        let parameter = if self.who.kind == Kind::Condstore && self.client.can("CONDSTORE") {
            self.client.condstore = true;
            " (CONDSTORE)"
        } else {
            ""
        };
        let before = self.rules.truth.lock().uids(&self.who.user, &mailbox);
        let mut view = View::new(&self.who.user, &mailbox, verb == "EXAMINE");
        (view.condstore, view.qresync) = (self.client.condstore, self.client.qresync);
        self.client.view = Some(view);
        let well = self.run(&format!("{verb} {mailbox}{parameter}")).await?;
        if !well {
            self.client.view = None;
            return Ok(());
        }
        self.client.view.as_mut().expect("just made").opening = false;
        self.rules.truth.lock().lies(self.who.name);
        self.check_count(&before, "SELECT");
        // With VANISHED, all depends on the UIDs.
        if self.client.qresync { self.fetch_all().await } else { Ok(()) }
    }

    /// What was there before the command and after it must be counted by now.
    fn check_count(&self, before: &BTreeSet<u32>, what: &str) {
        let Some(view) = self.view() else { return };
        let after = self.rules.truth.lock().uids(&view.user, &view.mailbox);
        let kept = before.intersection(&after).count();
        assert!(
            view.messages.len() >= kept,
            "after {what}, client {} counts {} of {kept} messages of {} {}",
            self.who.name,
            view.len(),
            view.user,
            view.mailbox
        );
    }

    async fn noop(&mut self) -> Result<(), Gone> {
        let Some((user, mailbox)) = self.place() else { return Ok(()) };
        let known = |this: &Self| this.view().map(View::uids).unwrap_or_default();
        let (before, known_before) = (self.rules.truth.lock().uids(&user, &mailbox), known(self));
        if !self.run("NOOP").await? {
            return Ok(());
        }
        self.check_count(&before, "NOOP");
        let gone: BTreeSet<_> = known_before.difference(&before).copied().collect();
        let known_now = known(self);
        let stale: Vec<_> = known_now.intersection(&gone).collect();
        assert!(stale.is_empty(), "after NOOP, client {} still counts {stale:?} of {user} {mailbox}", self.who.name);
        Ok(())
    }

    /// All by number, and so all UIDs.
    async fn fetch_all(&mut self) -> Result<(), Gone> {
        if self.view().is_none_or(|view| view.messages.is_empty()) {
            return Ok(());
        }
        let items = if self.chance.one_in(4) { "(UID)" } else { "(UID FLAGS)" };
        let told = if items == "(UID)" { self.told() } else { BTreeSet::new() };
        let tag = self.client.send(&format!("FETCH 1:* {items}")).await?;
        let number = self.number(&tag);
        let status = self.client.finish(&tag).await?;
        if !self.numbers_served(&status, "FETCH 1:*") {
            return Ok(());
        }
        let Some(view) = self.view() else { return Ok(()) };
        for (place, message) in view.messages.iter().enumerate() {
            // It came while the command ran.
            let untold = message.told != number && message.uid.is_some();
            let there = |uid| self.rules.truth.lock().uids(&view.user, &view.mailbox).contains(&uid);
            let counts = message.uid.is_some_and(|uid| told.contains(&uid) || there(uid));
            assert!(!untold || !counts, "FETCH 1:* told nothing of {}", place + 1);
        }
        Ok(())
    }

    fn number(&self, tag: &str) -> u64 {
        tag.split_once('x').and_then(|(_, number)| number.parse().ok()).expect("a tag of ours")
    }

    /// As [`Visit::well`], for what may meet numbers of messages that are gone.
    fn numbers_served(&self, status: &Status, command: &str) -> bool {
        if status.code == "EXPUNGEISSUED" {
            let may = !self.rules.serves_what_is_left || command.starts_with("COPY") || command.starts_with("MOVE");
            assert!(may, "client {}: {command}: {status:?}", self.who.name);
            return false;
        }
        self.well(status, command)
    }

    async fn uid_fetch(&mut self) -> Result<(), Gone> {
        let items = if self.chance.one_in(3) { "(FLAGS BODY.PEEK[])" } else { "(FLAGS)" };
        let highest = self.view().filter(|view| view.condstore).map_or(0, |view| view.highest);
        let since = if highest > 0 && self.chance.one_in(2) {
            format!(" (CHANGEDSINCE {})", highest.saturating_sub(3).max(1))
        } else {
            String::new()
        };
        self.run(&format!("UID FETCH 1:* {items}{since}")).await.map(drop)
    }

    /// One of those that are counted, and its UID if that is known.
    fn any(&mut self) -> Option<(u32, Option<u32>)> {
        let len = self.view()?.len();
        let n = u32::try_from(self.chance.below(len.into())).expect("small");
        let uid = self.view()?.messages.get(n as usize)?.uid;
        Some((n + 1, uid))
    }

    async fn body(&mut self) -> Result<(), Gone> {
        let Some((n, _)) = self.any() else { return Ok(()) };
        let command = format!("FETCH {n} (UID BODY.PEEK[])");
        let status = self.client.run(&command).await?;
        self.numbers_served(&status, &command);
        Ok(())
    }

    async fn search(&mut self) -> Result<(), Gone> {
        let Some(len) = self.view().map(View::len) else { return Ok(()) };
        let told = self.told();
        let status = self.client.run("SEARCH ALL").await?;
        if !self.numbers_served(&status, "SEARCH") {
            return Ok(());
        }
        let found = self.found();
        let Some((user, mailbox)) = self.place() else { return Ok(()) };
        let there = self.rules.truth.lock().uids(&user, &mailbox);
        // Those that are gone, and that no EXPUNGE may tell of now, the server may leave out.
        for n in (1..=len).filter(|n| !found.contains(n)) {
            let uid = self.view().and_then(|view| view.messages.get(n as usize - 1)?.uid);
            let left_out = uid.is_none_or(|uid| !there.contains(&uid) && !told.contains(&uid));
            assert!(left_out, "SEARCH ALL of {len} messages finds {found:?}");
        }
        Ok(())
    }

    /// Does not wait for one command before it sends the next.
    async fn burst(&mut self) -> Result<(), Gone> {
        let all = ["NOOP", "UID FETCH 1:* (FLAGS)", "UID SEARCH ALL", "STATUS One (MESSAGES)", "UID FETCH 1:* (UID)"];
        let commands: Vec<_> = (0..2 + self.chance.below(4)).map(|_| self.chance.of(&all).to_owned()).collect();
        for (status, command) in self.client.run_all(&commands).await?.iter().zip(&commands) {
            self.well(status, command);
        }
        Ok(())
    }

    /// Of what the session counts, what imapool knows to be gone, as it has told another session: it goes by what this
    /// one counts, and leaves out none of them (RFC 9051 section 7.5.1).
    fn told(&self) -> BTreeSet<u32> {
        let Some(view) = self.view().filter(|_| self.rules.shares) else { return BTreeSet::new() };
        let (user, mailbox, read_only) = (&view.user, &view.mailbox, view.read_only);
        // Who joined while it could not be said what is new there may be in a hub of its own.
        if self.rules.net.is_divided(user, mailbox, read_only) {
            return BTreeSet::new();
        }
        self.rules.truth.lock().told(user, mailbox, read_only)
    }

    /// What SEARCH has found.
    fn found(&self) -> Vec<u32> {
        let search = self.client.said.iter().filter(|pieces| pieces[0].word() == "SEARCH");
        let numbers = search.flat_map(|pieces| &pieces[1..]).filter(|piece| matches!(piece, Piece::Word(_)));
        let mut found: Vec<_> = numbers.map(Piece::number).collect();
        found.sort_unstable();
        found
    }

    async fn uid_search(&mut self) -> Result<(), Gone> {
        let Some((user, mailbox)) = self.place() else { return Ok(()) };
        let known = self.view().map(View::uids).unwrap_or_default();
        if !self.run("UID SEARCH ALL").await? {
            return Ok(());
        }
        let found = self.found();
        let after = self.rules.truth.lock().uids(&user, &mailbox);
        for uid in known.intersection(&after) {
            assert!(found.contains(uid), "UID SEARCH ALL does not find {uid} of {user} {mailbox}: {found:?}");
        }
        Ok(())
    }

    async fn store(&mut self, by_uid: bool) -> Result<(), Gone> {
        let Some((n, uid)) = self.any().filter(|_| self.view().is_some_and(|view| !view.read_only)) else {
            return Ok(());
        };
        let Some((user, mailbox)) = self.place() else { return Ok(()) };
        *self.marks += 1;
        let mark = format!("$m{}x{}", self.who.name, self.marks);
        let silent = if self.chance.one_in(3) { ".SILENT" } else { "" };
        self.rules.truth.lock().mark(&mark, &user, &mailbox, uid);
        let (command, what) = match uid.filter(|_| by_uid) {
            Some(uid) => (format!("UID STORE {uid} +FLAGS{silent} ({mark})"), "UID STORE"),
            None => (format!("STORE {n} +FLAGS{silent} ({mark})"), "STORE"),
        };
        let status = self.client.run(&command).await?;
        if !self.numbers_served(&status, what) {
            return Ok(());
        }
        self.rules.truth.lock().marked(&mark);
        Ok(())
    }

    async fn append(&mut self, own: bool) -> Result<(), Gone> {
        *self.marks += 1;
        let identity = Identity { user: self.who.user.clone(), name: format!("a{}x{}", self.who.name, self.marks) };
        let mailbox = if own { self.own() } else { self.chance.of(&self.rules.mailboxes) };
        let message = Identity::message(&identity.user, &identity.name);
        let wait = !self.client.can("LITERAL+") || self.chance.one_in(2);
        if own {
            self.rules.truth.lock().kept(&mailbox, &identity).unknown += 1;
        }
        let status = self.client.run_with(&format!("APPEND {mailbox}"), &message, wait).await?;
        let mut truth = self.rules.truth.lock();
        if own && status.is_ok() {
            *truth.kept(&mailbox, &identity) = Count { done: 1, unknown: 0 };
        }
        truth.check_kept(&self.who.user, &self.own());
        if !own {
            truth.check_single(&self.who.user, &mailbox);
        }
        drop(truth);
        self.well(&status, "APPEND");
        Ok(())
    }

    fn own(&self) -> String {
        format!("Own{}", self.who.name)
    }

    /// COPY and MOVE of one message into a mailbox of this client's own.
    async fn copy(&mut self, moves: bool) -> Result<(), Gone> {
        let Some((n, Some(uid))) = self.any() else { return Ok(()) };
        let Some((user, mailbox)) = self.place() else { return Ok(()) };
        if moves && (self.view().is_some_and(|view| view.read_only) || !self.client.can("MOVE")) {
            return Ok(());
        }
        let own = self.own();
        let held = self.rules.truth.lock().messages(&user, &mailbox);
        let Some(message) = held.iter().find(|message| message.uid == uid) else { return Ok(()) };
        let identity = Identity::of(&message.octets);
        let verb = if moves { "MOVE" } else { "COPY" };
        let by_uid = self.chance.one_in(2);
        let command = if by_uid { format!("UID {verb} {uid} {own}") } else { format!("{verb} {n} {own}") };
        {
            let mut truth = self.rules.truth.lock();
            truth.kept(&own, &identity).unknown += 1;
            if moves {
                truth.doom(&user, &mailbox, uid);
            }
        }
        self.client.note(&format!("{verb} {identity:?}"));
        let status = self.client.run(&command).await?;
        let copied = status.code == "COPYUID";
        let mut truth = self.rules.truth.lock();
        let count = truth.kept(&own, &identity);
        if status.is_ok() || status.code == "EXPUNGEISSUED" {
            count.unknown -= 1;
            // MOVE says it untagged (RFC 6851 section 4.3), some servers nowhere: how many there are is counted below.
            if (moves || !self.client.can("UIDPLUS")) && status.is_ok() {
                count.unknown += 1;
            } else {
                count.done += usize::from(copied);
            }
        }
        truth.check_kept(&user, &own);
        drop(truth);
        let what = if by_uid { "UID" } else { verb };
        self.numbers_served(&status, what);
        Ok(())
    }

    async fn expunge(&mut self) -> Result<(), Gone> {
        let Some((_, Some(uid))) = self.any().filter(|_| self.view().is_some_and(|view| !view.read_only)) else {
            return Ok(());
        };
        let Some((user, mailbox)) = self.place() else { return Ok(()) };
        self.rules.truth.lock().doom(&user, &mailbox, uid);
        if !self.run(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)")).await? {
            return Ok(());
        }
        let by_uid = self.client.can("UIDPLUS") && self.chance.one_in(2);
        let command = if by_uid { format!("UID EXPUNGE {uid}") } else { "EXPUNGE".to_owned() };
        if !self.run(&command).await? {
            return Ok(());
        }
        let there = self.rules.truth.lock().uids(&user, &mailbox);
        assert!(!there.contains(&uid), "{command} left {uid}");
        let counted = self.view().map(View::uids).unwrap_or_default();
        if counted.contains(&uid) {
            // It may be told so when the mailbox cannot be gone on with after that: then it is sent away at once.
            self.client.run("NOOP").await?;
            panic!("after {command}, {uid} is still counted");
        }
        Ok(())
    }

    async fn idle(&mut self) -> Result<(), Gone> {
        if !self.client.can("IDLE") {
            return Ok(());
        }
        let tag = self.client.send("IDLE").await?;
        if let Some(status) = self.client.until_continuation(&tag).await? {
            self.well(&status, "IDLE");
            return Ok(());
        }
        let time = if self.chance.one_in(4) { 60_000 } else { 3_000 };
        let least = if self.who.kind == Kind::Sleeper { 60_000 } else { 0 };
        let time = Duration::from_millis(least + self.chance.below(time));
        for time in [time.saturating_sub(NEWS), time.min(NEWS)] {
            let before = self.place().filter(|_| self.rules.calm && time == NEWS);
            let uids = before.as_ref().map(|(user, mailbox)| self.rules.truth.lock().uids(user, mailbox));
            if let Some(status) = self.client.listen(&tag, time).await? {
                assert!(!status.is_ok(), "IDLE ends by itself: {status:?}");
                self.well(&status, "IDLE");
                return Ok(());
            }
            self.check_refused();
            if let Some(uids) = uids {
                self.check_count(&uids, "some time in IDLE");
            }
        }
        self.client.write(b"DONE\r\n").await?;
        let status = self.client.finish(&tag).await?;
        self.well(&status, "IDLE");
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Gone> {
        if self.view().is_some_and(|view| !view.read_only) {
            // CLOSE expunges: what others have marked as deleted, too, which they have asked for.
            self.client.note("closes");
        }
        let verb = if self.client.can("UNSELECT") && self.chance.one_in(2) { "UNSELECT" } else { "CLOSE" };
        if self.run(verb).await? {
            self.client.view = None;
        }
        Ok(())
    }

    /// Hangs up in the middle of something.
    async fn leave_rudely(&mut self) -> Result<(), Gone> {
        match self.chance.below(4) {
            0 => self.client.send("FETCH 1:* (BODY[]").await.map(drop),
            1 => self.client.write(b"x APPEND INBOX {100}\r\nhalf").await,
            2 => self.client.send("FETCH 1:* (UID BODY.PEEK[])").await.map(drop),
            _ => self.client.send("IDLE").await.map(drop),
        }
    }
}
