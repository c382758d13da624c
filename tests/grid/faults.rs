//! Servers that lie, and servers that die: nothing hangs, nobody is let in who should not be, what is dialed is
//! bounded, and another account on the same server works on.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imapool::config::PoolMode;
use imapool::demo::server::personality::{Death, Personality, Quirks, Remark, Step};
use imapool::demo::server::{Fault, FaultHook, Server, Stage};
use proptest::prelude::*;

use crate::support::{Client, Harness};
use crate::{kind, proxy};

/// Whom the fault befalls.
const VICTIM: &str = "victim";
/// How often the victim's sessions begin anew.
const ROUNDS: usize = 5;
/// What they do.
const COMMANDS: [&str; 9] = [
    "SELECT INBOX",
    "NOOP",
    "FETCH 1:* (FLAGS)",
    "UID SEARCH ALL",
    "STORE 1 +FLAGS (\\Seen)",
    "IDLE",
    "NOOP",
    "APPEND INBOX",
    "LOGOUT",
];

/// A kind whose fault befalls the victim alone.
fn befalling(name: &str) -> Personality {
    let mut kind = kind(name);
    kind.options.quirks.victim = Some(VICTIM.into());
    kind
}

/// How a session of the victim went.
#[derive(Debug, Default)]
struct Went {
    /// Commands that were given.
    commands: usize,
    /// Of these, the ones that were answered with OK.
    well: usize,
}

/// A session of the victim: each command gets its tagged reply, or the connection ends.
async fn round(harness: &Harness, went: &mut Went) {
    let mut client = Client::connect(harness.address).await;
    let login = format!("LOGIN {VICTIM} pw-{VICTIM}");
    for (at, command) in std::iter::once(login.as_str()).chain(COMMANDS).enumerate() {
        went.commands += 1;
        let tag = format!("t{at} ");
        match command {
            "APPEND INBOX" => client.try_send(format!("{tag}APPEND INBOX {{6+}}\r\na: b\r\n\r\n")).await,
            _ => client.try_send(format!("{tag}{command}\r\n")).await,
        }
        loop {
            let Some(line) = client.try_line().await else { return };
            if line.starts_with('+') && command == "IDLE" {
                client.try_send("DONE\r\n").await;
            }
            if let Some(status) = line.strip_prefix(&tag) {
                went.well += usize::from(status.starts_with("OK"));
                break;
            }
        }
    }
}

/// Another account's session: all goes well.
async fn visit(harness: &Harness, user: &str) {
    let mut client = harness.login(user).await;
    client
        .play(
            "C: a SELECT INBOX
             S~ a OK…
             C: b FETCH 1 (FLAGS)
             S: * 1 FETCH…
             S~ b OK…
             C: c LOGOUT
             S: * BYE…
             S: c OK…
             S.",
        )
        .await;
}

/// What holds for every fault, in one mode.
async fn endures(name: &str, mode: PoolMode) {
    endures_kind(&befalling(name), mode, ROUNDS).await;
}

async fn endures_kind(kind: &Personality, mode: PoolMode, rounds: usize) {
    let name = &kind.name;
    let server = Server::start(kind.options()).await.unwrap();
    let harness = proxy(&server, mode).await;
    let mut went = Went::default();
    for _ in 0..rounds {
        round(&harness, &mut went).await;
        visit(&harness, "other").await;
    }
    let others = server.open_of("other") as u64;
    let dials = server.counters().accepted - others;
    let seldom = name.starts_with("dies:logout") || !name.starts_with("dies:");
    assert!(dials > 1 || seldom || rounds < ROUNDS, "{name}: the server never died: {went:?}");
    // A command may be run again once on another connection, if that cannot do harm.
    assert!(dials <= 2 * went.commands as u64, "{name}: {dials} dials for {} commands", went.commands);
    assert!(others >= 1, "{name}: the other account's connection has gone");
    if kind.verdict.pooling {
        assert!(went.well >= ROUNDS, "{name}: {went:?}");
    }
    harness.finish().await;
    server.stop().await;
}

/// A backend that greets nobody: sessions hear so, and it is not dialed for each of them again and again.
async fn greets_nobody(name: &str, mode: PoolMode) {
    let kind = kind(name);
    assert!(matches!(kind.options.quirks.dies.unwrap().at, Step::Greeting));
    let server = Server::start(kind.options()).await.unwrap();
    let harness = proxy(&server, mode).await;
    for _ in 0..ROUNDS {
        let mut client = Client::connect(harness.address).await;
        let greeting = client.line().await;
        assert!(greeting.starts_with("* OK"), "{greeting}");
        let lines = client.command(&format!("a LOGIN {VICTIM} pw-{VICTIM}")).await;
        assert!(lines.last().unwrap().starts_with("a NO [UNAVAILABLE]"), "{lines:?}");
    }
    let dials = server.counters().accepted;
    assert!(dials <= 3 * ROUNDS as u64, "{name}: {dials} dials for {ROUNDS} logins");
    harness.finish().await;
    server.stop().await;
}

/// A wrong password that the server says OK to gets nobody in: neither before nor after the right one was seen, and
/// the right user works on.
async fn lets_no_intruder_in(name: &str, mode: PoolMode) {
    let mut kind = kind(name);
    // Only what it says to a wrong password matters here.
    kind.options.quirks.remarks = Cow::Borrowed(&[]);
    let server = Server::start(kind.options()).await.unwrap();
    let harness = proxy(&server, mode).await;
    let intrude = async || {
        let mut client = Client::connect(harness.address).await;
        client.line().await;
        let lines = client.command("w LOGIN anna wrong").await;
        assert!(lines.last().unwrap().starts_with("w NO"), "{lines:?}");
        let lines = client.command("s SELECT INBOX").await;
        assert!(!lines.last().unwrap().starts_with("s OK"), "{lines:?}");
    };
    intrude().await;
    let mut right = harness.login("anna").await;
    right.play("C: a SELECT INBOX\nS~ a OK…").await;
    intrude().await;
    right.play("C: b FETCH 1 (FLAGS)\nS: * 1 FETCH…\nS~ b OK…\nC: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
    visit(&harness, "anna").await;
    harness.finish().await;
    server.stop().await;
}

/// Who needs a second connection, which the server refuses, hears that it is for now: not that the password is wrong.
/// Who has the first one works on, and so does everybody once it is free.
async fn is_refused_for_now(name: &str, mode: PoolMode) {
    let server = Server::start(kind(name).options()).await.unwrap();
    let harness = proxy(&server, mode).await;
    let mut first = harness.login("anna").await;
    first.play("C: a SELECT INBOX\nS~ a OK…").await;
    // Its own mailbox: nothing to share.
    let mut second = harness.login("anna").await;
    let lines = second.command("a SELECT Sent").await;
    let refused = lines.last().unwrap();
    assert!(refused.starts_with("a OK") || refused.starts_with("a NO [UNAVAILABLE]"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("AUTHENTICATIONFAILED") || line.starts_with("* BYE")), "{lines:?}");
    first.play("C: b FETCH 1 (FLAGS)\nS~ b OK…\nC: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
    second.play("C: b SELECT Sent\nS~ b OK…\nC: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
    // The credential is known as before.
    let logins = server.counters().logins;
    visit(&harness, "anna").await;
    assert_eq!(server.counters().logins, logins, "{name}: asked again for a credential that is known");
    harness.finish().await;
    server.stop().await;
}

/// Numbers that are much, little, or next to what is there.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0..13_u32, Just(u32::MAX), Just(u32::MAX - 1), Just(1 << 31), any::<u32>()]
}

/// A line of numbers that may contradict anything.
fn lie() -> impl Strategy<Value = Remark> {
    let verbs = vec!["SELECT", "NOOP", "FETCH", "SEARCH", "STORE", "IDLE", "STATUS", "*"];
    let line = (number(), number(), 0..12_usize).prop_map(|(a, b, shape)| match shape {
        0 => format!("* {a} EXISTS"),
        1 => format!("* {a} EXPUNGE"),
        2 => format!("* {a} FETCH (FLAGS (\\Seen))"),
        3 => format!("* {a} FETCH (UID {b} FLAGS (\\Deleted))"),
        4 => format!("* VANISHED {a}:{b}"),
        5 => format!("* VANISHED (EARLIER) {a}:{b}"),
        6 => format!("* SEARCH {a} {b}"),
        7 => format!("* ESEARCH (TAG \"TAG\") UID ALL {a}:{b}"),
        8 => format!("* STATUS INBOX (MESSAGES {a} UIDNEXT {b})"),
        9 => format!("* OK [UIDNEXT {a}] lie"),
        10 => format!("* OK [UIDVALIDITY {a}] lie"),
        _ => format!("* {a} RECENT"),
    });
    (proptest::sample::select(verbs), line, any::<bool>()).prop_map(|(verb, line, instead)| Remark {
        verb,
        line: line.into(),
        instead,
    })
}

/// A fault of any sort: lies, or a death at any octet of a reply.
fn fault() -> impl Strategy<Value = Quirks> {
    let verbs = vec!["LOGIN", "SELECT", "NOOP", "FETCH", "SEARCH", "STORE", "IDLE", "APPEND", "STATUS", "NAMESPACE"];
    let lies = proptest::collection::vec(lie(), 1..6)
        .prop_map(|lies| Quirks { remarks: Cow::Owned(lies), ..Quirks::default() });
    let octets = proptest::option::of(0..600_usize);
    let death = (proptest::sample::select(verbs), octets, any::<bool>()).prop_map(|(verb, after, bye)| Quirks {
        dies: Some(Death { at: Step::Command { verb, after }, bye }),
        ..Quirks::default()
    });
    prop_oneof![2 => lies, 1 => death]
}

/// What a server does in place of a command, or with it.
fn misdeed() -> impl Strategy<Value = Fault> {
    let tagged = vec![
        "NO no",
        "NO [UNAVAILABLE] later",
        "NO [ALERT] Account exceeded command or bandwidth limits.",
        "NO [LIMIT] too much",
        "NO [AUTHENTICATIONFAILED] who are you",
        "NO [NONEXISTENT] what",
        "BAD no",
        "BAD Request is throttled. Suggested Backoff Time: 100 milliseconds",
        "BAD User is authenticated but not connected.",
        "OK",
        "OK [CLOSED] done",
    ];
    let untagged =
        vec!["BAD what", "NO slow", "OK [ALERT] news", "CAPABILITY IMAP4rev1", "BYE not really", "LIST () \"/\" x"];
    prop_oneof![
        6 => proptest::sample::select(tagged).prop_map(|text| Fault::Tagged(text.into())),
        1 => Just(Fault::CloseBefore),
        1 => Just(Fault::ResetBefore),
        1 => Just(Fault::ByeThenClose),
        1 => (0..300_usize).prop_map(Fault::CloseMidReply),
        1 => Just(Fault::DelayMs(40)),
        1 => proptest::sample::select(untagged).prop_map(|text| Fault::Untagged(text.into())),
    ]
}

/// What is done at a command, so many times after so many.
#[derive(Debug, Clone)]
struct Whim {
    verb: &'static str,
    misdeed: Fault,
    spared: u64,
    times: u64,
}

fn whim() -> impl Strategy<Value = Whim> {
    let verbs = vec![
        "CAPABILITY",
        "NAMESPACE",
        "ID",
        "ENABLE",
        "NOOP",
        "LIST",
        "STATUS",
        "SELECT",
        "EXAMINE",
        "UNSELECT",
        "CLOSE",
        "IDLE",
        "FETCH",
        "UID FETCH",
        "SEARCH",
        "UID SEARCH",
        "STORE",
        "APPEND",
        "LOGOUT",
    ];
    let times = prop_oneof![Just(1), Just(2), Just(u64::MAX)];
    (proptest::sample::select(verbs), misdeed(), 0..4_u64, times).prop_map(|(verb, misdeed, spared, times)| Whim {
        verb,
        misdeed,
        spared,
        times,
    })
}

/// Has the victim's connections suffer from these.
fn moody(whims: Vec<Whim>) -> FaultHook {
    let counts: Vec<AtomicU64> = whims.iter().map(|_| AtomicU64::new(0)).collect();
    Arc::new(move |event| {
        let suits =
            |whim: &Whim| event.stage == Stage::Command && event.user == Some(VICTIM) && event.verb == whim.verb;
        let mut fault = Fault::None;
        for (whim, count) in whims.iter().zip(&counts).filter(|(whim, _)| suits(whim)) {
            let before = count.fetch_add(1, Ordering::Relaxed);
            if before.checked_sub(whim.spared).is_some_and(|nth| nth < whim.times) {
                fault = whim.misdeed.clone();
            }
        }
        fault
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_refusal_is_endured(whims in proptest::collection::vec(whim(), 1..4), multiplex in any::<bool>()) {
        let mut kind = kind("dovecot");
        kind.options.faults = Some(moody(whims));
        kind.verdict.pooling = false;
        let mode = if multiplex { PoolMode::Multiplex } else { PoolMode::Session };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(endures_kind(&kind, mode, 2));
    }

    #[test]
    fn any_fault_is_endured(quirks in fault(), multiplex in any::<bool>()) {
        let mut kind = kind("dovecot");
        kind.options.quirks = Quirks { victim: Some(VICTIM.into()), ..quirks };
        kind.verdict.pooling = false;
        let mode = if multiplex { PoolMode::Multiplex } else { PoolMode::Session };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(endures_kind(&kind, mode, 2));
    }
}

/// Each answer to a question of imapool's own contradicts the last, so that there is always another to ask.
#[tokio::test]
async fn contradictions_without_end() {
    let line = |verb, line: &'static str, instead| Remark { verb, line: line.into(), instead };
    let remarks = vec![line("NOOP", "* 4294967294 EXPUNGE", true), line("FETCH", "* 4294967294 EXISTS", false)];
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let mut kind = kind("dovecot");
        kind.options.quirks =
            Quirks { victim: Some(VICTIM.into()), remarks: Cow::Owned(remarks.clone()), ..Quirks::default() };
        kind.verdict.pooling = false;
        endures_kind(&kind, mode, 2).await;
    }
}

/// A test for each fault and mode, and the list of all their names. What follows a kind is why it does not hold yet.
macro_rules! faults {
    ($($test:ident: $holds:ident($kind:literal) $(ignored $why:literal)?,)*) => {
        $(
            mod $test {
                use imapool::config::PoolMode;

                #[tokio::test]
                $(#[ignore = $why])?
                async fn multiplex() {
                    super::$holds($kind, PoolMode::Multiplex).await;
                }

                #[tokio::test]
                $(#[ignore = $why])?
                async fn session() {
                    super::$holds($kind, PoolMode::Session).await;
                }
            }
        )*

        /// The kinds above.
        pub(crate) const TESTED: &[&str] = &[$($kind),*];
    };
}

faults! {
    liar_exists: endures("liar:exists"),
    liar_search: endures("liar:search"),
    liar_expunge: endures("liar:expunge"),
    liar_fetch: endures("liar:fetch"),
    liar: endures("liar"),
    liar_login: lets_no_intruder_in("liar:login"),
    liar_and_intruder: lets_no_intruder_in("liar"),
    exchange_and_intruder: lets_no_intruder_in("exchange"),
    throttles_backoff: is_refused_for_now("throttles:backoff"),
    throttles_no_backoff: is_refused_for_now("throttles:no-backoff"),
    throttles_unavailable: is_refused_for_now("throttles:unavailable"),
    throttles_bandwidth: is_refused_for_now("throttles:bandwidth"),
    throttles_connections: is_refused_for_now("throttles:connections"),
    throttles_rate: is_refused_for_now("throttles:rate"),
    throttles_dovecot: is_refused_for_now("throttles:dovecot"),
    dies_greeting: greets_nobody("dies:greeting"),
    dies_greeting_bye: greets_nobody("dies:greeting+bye"),
    dies_capability: endures("dies:capability"),
    dies_capability_bye: endures("dies:capability+bye"),
    dies_login: endures("dies:login"),
    dies_login_bye: endures("dies:login+bye"),
    dies_after_login: endures("dies:after-login"),
    dies_after_login_bye: endures("dies:after-login+bye"),
    dies_select: endures("dies:select"),
    dies_select_bye: endures("dies:select+bye"),
    dies_mid_select: endures("dies:mid-select"),
    dies_fetch: endures("dies:fetch"),
    dies_fetch_bye: endures("dies:fetch+bye"),
    dies_mid_fetch: endures("dies:mid-fetch"),
    dies_search: endures("dies:search"),
    dies_search_bye: endures("dies:search+bye"),
    dies_store: endures("dies:store"),
    dies_store_bye: endures("dies:store+bye"),
    dies_idle: endures("dies:idle"),
    dies_idle_bye: endures("dies:idle+bye"),
    dies_literal: endures("dies:literal"),
    dies_literal_bye: endures("dies:literal+bye"),
    dies_append: endures("dies:append"),
    dies_append_bye: endures("dies:append+bye"),
    dies_logout: endures("dies:logout"),
    dies_logout_bye: endures("dies:logout+bye"),
}
