//! What FETCH says of a message: for whoever has asked, and as news for the others.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::jobs::Job;
use super::replies::Reading;
use super::resume::Recovery;
use super::{Machine, Nonsense};
use crate::imap::fetch_items::{FetchScanner, Items};
use crate::imap::untagged::{Octets, Reply};
use crate::mailbox::shadow::{normal, stored};

/// Octets of a FETCH held back until it is known whether there is more to it than flags.
const HELD: usize = 512;

impl Machine {
    /// Holds a FETCH back as long as it may be one of only flags.
    pub(super) fn fetch_octets(&mut self, reading: &mut Reading, octets: &Octets<'_>, literal: bool) {
        if !literal {
            reading.items.iter_mut().for_each(|items| items.text(octets));
        }
        if let Some(mut held) = reading.held.take() {
            let other = reading.items.as_ref().is_some_and(|scanner| scanner.items().other) && octets.ends_with(b"\n");
            let fits = !literal && held.len() + octets.len() <= HELD;
            // Most come as a whole.
            let whole = fits && other && held.is_empty();
            if fits && !whole {
                held.put_slice(octets);
            }
            if fits && !other {
                reading.held = Some(held);
                return;
            }
            if reading.to.is_some() {
                reading.begun = true;
                let read = |scanner: &FetchScanner| (scanner.items().uid, scanner.has_flags());
                let (uid, flags) = reading.items.as_ref().map_or((None, true), read);
                self.put_fetch(reading, if whole { octets } else { &held }, uid, flags);
            }
            if fits {
                return;
            }
        }
        if reading.to.is_none() {
            return;
        }
        match reading.less.as_mut().filter(|_| !literal) {
            Some(less) => less.text(octets, &mut self.incoming.passed),
            None => self.emit(octets),
        }
    }

    /// `flags`: there are some in it.
    fn put_fetch(&mut self, reading: &mut Reading, octets: &[u8], uid: Option<u32>, flags: bool) {
        if reading.number == 0 && !self.find_number(reading, uid) {
            return;
        }
        let left_out = match (reading.to, reading.reply) {
            (Some(id), Reply::Fetch(number)) if flags && self.is_open() => self.claim_recent(id, number, octets),
            _ => 0..0,
        };
        self.incoming.passed.put_slice(b"* ");
        self.incoming.passed.put_slice(itoa::Buffer::new().format(reading.number).as_bytes());
        self.incoming.passed.put_slice(b" FETCH");
        for octets in [&octets[..left_out.start], &octets[left_out.end..]] {
            match &mut reading.less {
                Some(less) => less.text(octets, &mut self.incoming.passed),
                None => self.incoming.passed.put_slice(octets),
            }
        }
    }

    /// Messages have vanished, and which numbers these had is not known yet: the number by which the member knows the
    /// message of a FETCH. False: it does not know it, or nobody can say.
    fn find_number(&mut self, reading: &mut Reading, uid: Option<u32>) -> bool {
        let (Reply::Fetch(number), Some(fresh)) = (reading.reply, &self.fresh) else { return false };
        let Some(uid) = uid else {
            (reading.to, reading.begun) = (None, false);
            self.broken(Nonsense::Vanished);
            return false;
        };
        let own = reading.to.and_then(|id| self.view.log.back(id, fresh.number_before(number, uid)));
        reading.to = reading.to.filter(|_| own.is_some());
        reading.number = own.unwrap_or(0);
        own.is_some()
    }

    pub(super) fn end_fetch(&mut self, number: u32, reading: &mut Reading) {
        let Some(mut items) = reading.items.take().map(|mut items| items.finish()) else { return };
        let modseq_only = items.flags.is_none() && items.uid.is_none() && !items.other;
        if let (Some(Job::Census { fresh: true, .. }), Some(fresh), Some(uid)) = (&self.job, &mut self.fresh, items.uid)
        {
            fresh.told(number, uid);
        }
        // What is said of a mailbox that the members' views do not follow yet is asked for again when they do.
        if !self.is_open() {
            let wanted = reading.to.is_some() && reading.number == 0 && !(reading.less.is_some() && modseq_only);
            if let Some(held) = reading.held.take().filter(|_| wanted) {
                if items.flags.is_some() {
                    self.view.shadow.forgot = true;
                }
                self.put_fetch(reading, &held, items.uid, items.flags.is_some());
            }
            return;
        }
        if let Some(uid) = items.uid {
            match self.view.uids.nth(number) {
                Some(known) if known == uid => {}
                None if self.view.uids.last().is_none_or(|last| last < uid) => {
                    if number - 1 == self.view.uids.len() {
                        self.view.uids.insert(uid);
                    }
                }
                _ => return self.broken(Nonsense::OtherUid(number, uid)),
            }
        }
        if items.modseq.is_some() && !self.has_modseqs() {
            items.modseq = None;
            let asked = matches!(&self.job, Some(Job::Member(running)) if running.run.modseqs().asked);
            if !items.other && !asked {
                reading.held = reading.held.take().and_then(|held| without_modseq(&items, held));
            }
        }
        if self.has_modseqs() {
            // Whoever is told mod-sequences is told it always (RFC 7162 section 3.2.4).
            items.uid = items.uid.or(self.view.uids.nth(number));
        }
        if matches!(self.job, Some(Job::Refresh)) && self.joining.asks_for_news() {
            // Those who join will find it so.
            let known = self.joining.modseq;
            self.joining.modseq = known.max(items.modseq.filter(|_| known.is_some()));
        }
        self.view.touched |= number > self.view.uids.len();
        let mut wanted = true;
        if let Some(text) = items.flags.as_ref().and_then(|flags| flags.text.as_ref()) {
            let flags = normal(text);
            wanted = items.other || !self.goes_without_saying(number, items.uid, &flags);
            let learned = self.view.shadow.learn(number, &flags);
            let newer = items.modseq.is_some_and(|modseq| self.view.shadow.learn_modseq(number, modseq));
            let asked = match &self.job {
                Some(Job::Member(running)) => running.shape.asks_flags,
                job => matches!(job, Some(Job::Recheck)),
            };
            let news = newer || if asked { learned == Some(true) } else { learned != Some(false) };
            if news && items.modseq.is_none() && self.wants_modseqs() {
                // The others have to be told it as well (RFC 7162 section 3.1.4.2).
                self.view.shadow.owe(number);
                if self.recovery == Recovery::UpToDate {
                    self.recovery = Recovery::Modseqs;
                }
            } else if let Some(text) = items.news().filter(|_| news) {
                if items.modseq.is_none() {
                    self.view.shadow.outdate(number);
                }
                if let Err(error) = self.view.log.handle_fetch(number, text, reading.to) {
                    return self.broken(error);
                }
            }
        }
        wanted &= reading.less.is_none() || !modseq_only;
        match reading.held.take().filter(|_| reading.to.is_some()) {
            Some(held) if wanted => self.put_fetch(reading, &held, items.uid, items.flags.is_some()),
            Some(_) => self.tell_modseq(number, &items),
            None => {}
        }
    }

    /// Who silently stores is told the mod-sequence all the same, and nothing else (RFC 7162 section 3.1.4.2).
    fn tell_modseq(&mut self, number: u32, items: &Items) {
        let hears = self.owner().is_some_and(|owner| self.hears_modseqs(owner));
        if let (Some(own), Some(modseq)) = (self.number_for_owner(number), items.modseq.filter(|_| hears)) {
            let uid = items.uid.map_or_else(String::new, |uid| format!("UID {uid} "));
            self.incoming.passed.put_slice(format!("* {own} FETCH ({uid}MODSEQ ({modseq}))\r\n").as_bytes());
        }
    }

    /// Whether the flags of the message are what the member whose silent STORE runs takes them for.
    fn goes_without_saying(&mut self, number: u32, uid: Option<u32>, flags: &Bytes) -> bool {
        let Some(own) = self.number_for_owner(number) else { return false };
        let Some(Job::Member(running)) = &self.job else { return false };
        let Some(member) = self.members.get_mut(&running.id) else { return false };
        let (Some(named), Some(store)) = (&running.silent, &running.shape.store) else { return false };
        let named = match running.shape.uid {
            true => {
                uid.is_some_and(|uid| named.contains(uid)) || number == self.view.exists() && named.contains(u32::MAX)
            }
            false => named.contains(number),
        };
        let expected =
            self.view.shadow.flags(number).is_none_or(|before| stored(before, store.sign, &store.flags) == *flags);
        // Once something was said, the last word has to be right.
        let told = member.told.get_or_insert_default();
        let silent = named && expected && !told.contains(own);
        if !silent {
            told.insert(own);
        }
        silent
    }
}

/// The items of a FETCH, which are no others than these, less its mod-sequence; `None`: nothing is left.
fn without_modseq(items: &Items, held: BytesMut) -> Option<BytesMut> {
    let text = match (&items.flags, items.uid) {
        (Some(_), _) => match items.news() {
            Some(news) => news,
            None => return Some(held),
        },
        (None, Some(uid)) => format!("(UID {uid})").into(),
        (None, None) => return None,
    };
    Some(BytesMut::from(&[b" ", &text[..], b"\r\n"].concat()[..]))
}
