//! Accounts that an operator moves with their sessions.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imapool::config::{Config, PoolMode};
use imapool::routing::{HandError, Moved};
use imapool_demo_server::{Event, Fault, Options, Passwords, Seed, Stage};

use crate::support::{Client, LIMIT, until};
use crate::town::Town;

const ROUTES: &str = "[routing]\nmoves_file = \"FOLDER/moves\"\ndefault = \"b\"";
const LOGIN: &str = "C: l LOGIN anna pw-anna\nS: l OK…";

async fn keeps(town: &Town, user: &str, to: &str, wait: Duration) -> Result<Moved, HandError> {
    let proxy = town.harness.proxy();
    proxy.router().move_with_sessions(&proxy.pools(), user.as_bytes(), to, wait).await
}

/// Everybody has the same three messages everywhere.
fn alike(options: Options) -> Options {
    Options { seed: Seed { mailboxes: vec![("INBOX".into(), 3), ("Other".into(), 2)], ..Seed::default() }, ..options }
}

/// What servers were told, in the order in which they were, each with its place.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(usize, String)>>>);

impl Heard {
    fn at(&self, place: usize, options: Options) -> Options {
        let heard = self.clone();
        let hook = move |event: &Event<'_>| {
            if event.stage == Stage::Command {
                heard.0.lock().unwrap().push((place, event.verb.to_owned()));
            }
            Fault::None
        };
        Options { faults: Some(Arc::new(hook)), ..options }
    }

    /// All that logged in at the first place had logged out when the first did at the other.
    fn assert_never_at_both(&self, [from, to]: [usize; 2]) {
        let heard = self.0.lock().unwrap();
        let logs_in = |verb: &str| matches!(verb, "LOGIN" | "AUTHENTICATE");
        let came = heard.iter().position(|(place, verb)| *place == to && logs_in(verb));
        let (before, after) = heard.split_at(came.expect("somebody has logged in there"));
        let count =
            |is: &dyn Fn(&str) -> bool| before.iter().filter(|(place, verb)| *place == from && is(verb)).count();
        assert_eq!(count(&logs_in), count(&|verb| verb == "LOGOUT"), "{heard:?}");
        assert!(count(&logs_in) > 0 && after.iter().all(|(place, _)| *place != from), "{heard:?}");
    }
}

async fn town(change: impl Fn(usize, Options) -> Options, proxy: impl FnOnce(&mut Config)) -> Town {
    Town::with(
        ROUTES,
        &[],
        |place, options| change(place, alike(options)),
        |config| {
            config.pool.spare = 0;
            // Whatever the others run in.
            config.pool.mode = PoolMode::Multiplex;
            proxy(config);
        },
    )
    .await
}

async fn selected(town: &Town) -> Client {
    let mut client = town.harness.login("anna").await;
    client.play("C: s SELECT INBOX\nS~ s OK…").await;
    client
}

/// A client that works goes on doing so: each command is answered OK.
async fn works(mut client: Client, mut stop: tokio::sync::watch::Receiver<bool>) -> Client {
    while !*stop.borrow_and_update() {
        for command in ["u UID FETCH 1:* (FLAGS)", "f FETCH 2 (UID)", "n NOOP", "q STATUS Other (MESSAGES)"] {
            let said = client.command(command).await;
            assert!(said.last().unwrap()[2..].starts_with("OK"), "{said:?}");
            assert!(!said.iter().any(|line| line.ends_with("EXPUNGE") || line.starts_with("* BYE")), "{said:?}");
        }
    }
    client
}

/// Sessions that idle and that work, and one without a mailbox: to all of them, nothing has happened. What comes later
/// comes from the other server.
#[tokio::test]
async fn nobody_notices_where_the_copy_is_good() {
    let heard = Heard::default();
    let town = town(|place, options| heard.at(place, options), |_| ()).await;
    let mut idlers = Vec::new();
    for _ in 0..10 {
        let mut client = selected(&town).await;
        client.play("C: i IDLE\nS: + …").await;
        idlers.push(client);
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut workers = Vec::new();
    for _ in 0..10 {
        workers.push(tokio::spawn(works(selected(&town).await, stopped.clone())));
    }
    let mut outside = town.harness.login("anna").await;
    outside.play("C: a NOOP\nS: a OK…").await;
    let moved = keeps(&town, "Anna", "c", LIMIT).await.unwrap();
    assert_eq!(moved, Moved { left: true, kept: 21 });
    let lines = fs::read_to_string(town.path("moves")).unwrap();
    assert!(lines.ends_with("\nanna c\n"), "{lines}");
    until("its hub to be there", || town.homes("anna") == ["c"]).await;
    town.servers[2].deliver("anna", "INBOX", "Subject: new\r\n\r\nnew\r\n").unwrap();
    for client in &mut idlers {
        client.play("S: * 4 EXISTS\nC: DONE\nS~ i OK…\nC: x FETCH 4 (UID)\nS~ x OK…").await;
    }
    outside.play("C: b STATUS INBOX (MESSAGES)\nS: * STATUS \"INBOX\" (MESSAGES 4)\nS: b OK…").await;
    stop.send_replace(true);
    for worker in workers {
        worker.await.unwrap().play("C: o LOGOUT\nS~ o OK…\nS.").await;
    }
    heard.assert_never_at_both([1, 2]);
    // The list has them where they are.
    assert!(town.harness.proxy().pools().accounts().iter().all(|account| account.key().backend == 2));
    // And back, where the new message was copied to.
    town.servers[1].deliver("anna", "INBOX", "Subject: new\r\n\r\nnew\r\n").unwrap();
    assert!(keeps(&town, "anna", "b", LIMIT).await.unwrap().left);
    idlers[0].play("C: y FETCH 4 (UID)\nS~ y OK…").await;
    assert_eq!(town.homes("anna"), ["b"]);
    drop((idlers, outside));
    town.finish().await;
}

/// Where the other server has another mailbox of this name, or none, those who have it selected hear BYE; others go on.
#[tokio::test]
async fn without_a_copy_they_hear_it() {
    let other = |place: usize, options: Options| match place {
        // Made as the first or the second, its UIDVALIDITY is another.
        2 => Options { seed: Seed { mailboxes: vec![("Other".into(), 2)], ..Seed::default() }, ..options },
        _ => Options {
            seed: Seed { mailboxes: vec![("One".into(), 1), ("Other".into(), 2)], ..Seed::default() },
            ..options
        },
    };
    let town = town(other, |_| ()).await;
    let mut there = Vec::new();
    for mailbox in ["Other", "One"] {
        for idles in [false, true] {
            let mut client = town.harness.login("anna").await;
            client.play(&format!("C: s SELECT {mailbox}\nS~ s OK…")).await;
            if idles {
                client.play("C: i IDLE\nS: + …").await;
            }
            there.push(client);
        }
    }
    let mut outside = town.harness.login("anna").await;
    outside.play("C: a NOOP\nS: a OK…").await;
    assert!(keeps(&town, "anna", "c", LIMIT).await.unwrap().left);
    for client in &mut there {
        client.play("S~ * BYE…\nS.").await;
    }
    outside.play("C: b LIST \"\" One\nS: b OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
    assert_eq!(town.homes("anna"), ["c"]);
    town.finish().await;
}

/// Of three messages and a fourth, one is gone.
async fn shape(town: &Town, place: usize, gone: u32) {
    let mut client = Client::connect(town.servers[place].address()).await;
    client.line().await;
    client.play("C: l LOGIN anna pw-anna\nS~ l OK…\nC: s SELECT INBOX\nS~ s OK…").await;
    town.servers[place].deliver("anna", "INBOX", "Subject: fourth\r\n\r\nx\r\n").unwrap();
    let delete = format!("C: d STORE {gone} +FLAGS (\\Deleted)\nS~ d OK…\nC: e EXPUNGE\nS~ e OK…");
    client.play(&format!("{delete}\nC: o LOGOUT\nS~ o OK…\nS.")).await;
}

/// As many messages, the same UIDVALIDITY and UIDNEXT, and other UIDs: what would do after a loss does not there.
#[tokio::test]
async fn what_only_looks_like_a_copy_is_none() {
    for (other, goes_on) in [(2, true), (3, false)] {
        let town = town(|_, options| options, |_| ()).await;
        shape(&town, 1, 2).await;
        shape(&town, 2, other).await;
        let mut client = selected(&town).await;
        client.play("C: u UID FETCH 1:* (UID)\nS~ u OK…\nC: i IDLE\nS: + …").await;
        assert!(keeps(&town, "anna", "c", LIMIT).await.unwrap().left);
        if goes_on {
            client.play("C: DONE\nS: i OK…\nC: v UID FETCH 3 (FLAGS)\nS: * 2 FETCH…\nS: v OK…").await;
        } else {
            client.play("S~ * BYE…\nS.").await;
        }
        drop(client);
        town.finish().await;
    }
}

/// A copy that was made before the last message came: the next one there would get its UID.
#[tokio::test]
async fn a_copy_that_is_behind_is_none() {
    for expunged in [false, true] {
        let town = town(|_, options| options, |_| ()).await;
        let mut client = selected(&town).await;
        town.servers[1].deliver("anna", "INBOX", "Subject: fourth\r\n\r\nx\r\n").unwrap();
        client.play("C: n NOOP\nS~ n OK…\nC: u UID FETCH 1:* (UID)\nS~ u OK…").await;
        if expunged {
            client.play("C: d STORE 4 +FLAGS (\\Deleted)\nS~ d OK…\nC: e EXPUNGE\nS~ e OK…").await;
        }
        client.play("C: i IDLE\nS: + …").await;
        assert!(keeps(&town, "anna", "c", LIMIT).await.unwrap().left);
        client.play("S~ * BYE…\nS.").await;
        drop(client);
        town.finish().await;
    }
}

/// With a connection for each session, one goes on that has no mailbox selected; what runs is answered before that.
#[tokio::test]
async fn who_has_a_connection_alone_goes_on_without_a_mailbox() {
    let heard = Heard::default();
    let town = town(|place, options| heard.at(place, options), |config| config.pool.mode = PoolMode::Session).await;
    let mut outside = town.harness.login("anna").await;
    outside.play("C: a ENABLE CONDSTORE\nS~ a OK…\nC: b LIST \"\" INBOX\nS~ b OK…").await;
    let (mut rests, mut idles) = (selected(&town).await, selected(&town).await);
    idles.play("C: i IDLE\nS: + …").await;
    let mut writes = town.harness.login("anna").await;
    writes.play("C: a APPEND INBOX {6}\nS: + …").await;
    let (moved, ()) = tokio::join!(keeps(&town, "anna", "c", LIMIT), async {
        rests.play("S~ * BYE…\nS.").await;
        idles.play("S~ * BYE…\nS.").await;
        writes.play("C: abcdef\nS: a OK…").await;
    });
    assert_eq!(moved.unwrap(), Moved { left: true, kept: 2 });
    outside.play("C: c STATUS INBOX (MESSAGES)\nS: * STATUS \"INBOX\" (MESSAGES 3)\nS: c OK…").await;
    writes.play("C: b SELECT INBOX\nS~ * 3 EXISTS\nS~ b OK…").await;
    assert_eq!(town.homes("anna"), ["c"]);
    heard.assert_never_at_both([1, 2]);
    drop((outside, writes));
    town.finish().await;
}

/// A message on its way to the old server arrives there, in either mode, and its client goes on at the new one.
#[tokio::test]
async fn a_message_on_its_way_arrives_before_that() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let town = town(|_, options| options, |config| config.pool.mode = mode).await;
        let mut client = town.harness.login("anna").await;
        client.play("C: a APPEND INBOX {6}\nS: + …\nC: abc").await;
        assert_eq!(keeps(&town, "anna", "c", Duration::ZERO).await.unwrap(), Moved { left: false, kept: 1 });
        // Whatever happens to this process now, another one finds it.
        assert!(fs::read_to_string(town.path("moves")).unwrap().ends_with("\nanna c\n"));
        // Who comes meanwhile waits for it.
        let mut late = town.harness.client().await;
        late.send("l LOGIN anna pw-anna\r\n").await;
        assert!(matches!(keeps(&town, "anna", "a", LIMIT).await, Err(HandError::Kept(_))), "it moves already");
        assert_eq!(town.homes("anna"), ["b"]);
        client.play("C: d\nS: a OK…").await;
        late.play("S: l OK…\nC: s SELECT INBOX\nS~ * 3 EXISTS\nS~ s OK…").await;
        assert_eq!((town.homes("anna"), town.servers[1].messages("anna", "INBOX").unwrap().len()), (vec!["c"], 4));
        client.play("C: o LOGOUT\nS~ o OK…\nS.").await;
        drop(late);
        town.finish().await;
    }
}

/// What runs for longer than anybody waits ends, and with it its session; the others go on.
#[tokio::test]
async fn who_does_not_let_go_is_ended() {
    let slow = |place: usize, options: Options| match place {
        1 => Options {
            faults: Some(Arc::new(|event: &Event<'_>| match event.verb {
                "SEARCH" => Fault::Silence,
                _ => Fault::None,
            })),
            ..options
        },
        _ => options,
    };
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let town = town(slow, |config| {
            config.pool.mode = mode;
            config.pool.checkout_timeout = Duration::from_secs(1);
        })
        .await;
        let mut outside = town.harness.login("anna").await;
        outside.play("C: a NOOP\nS: a OK…").await;
        let mut hangs = selected(&town).await;
        hangs.send("h SEARCH BODY x\r\n").await;
        until("it to be there", || {
            town.harness.proxy().registry().all().iter().any(|it| it.command() == Some("SEARCH"))
        })
        .await;
        let moved = keeps(&town, "anna", "c", LIMIT).await.unwrap();
        assert_eq!(moved, Moved { left: true, kept: 1 }, "{mode:?}\n{}", town.harness.log.text());
        let rest = hangs.rest().await;
        assert!(rest.contains("h NO [UNAVAILABLE]") && rest.contains("* BYE"), "{rest}");
        outside.play("C: b SELECT INBOX\nS~ * 3 EXISTS\nS~ b OK…").await;
        assert_eq!(town.homes("anna"), ["c"]);
        drop(outside);
        town.finish().await;
    }
}

/// A password that the other server does not know: it is asked once nothing is left at the old one. Who was let in by
/// it hears BYE, and who knows the right one is let in.
#[tokio::test]
async fn the_other_server_judges_passwords_anew() {
    let other = |place: usize, options: Options| match place {
        2 => Options { passwords: Passwords::list([("anna", "other")]), ..options },
        _ => options,
    };
    let town = town(other, |_| ()).await;
    let (mut rests, mut idles) = (selected(&town).await, selected(&town).await);
    idles.play("C: i IDLE\nS: + …").await;
    assert!(keeps(&town, "anna", "c", LIMIT).await.unwrap().left);
    idles.play("S~ * BYE…\nS.").await;
    rests.play("S~ * BYE…\nS.").await;
    let mut client = town.harness.client().await;
    client.play("C: a LOGIN anna pw-anna\nS: a NO…\nC: b LOGIN anna other\nS: b OK…").await;
    assert_eq!(town.place(&mut client).await, "c");
    drop(client);
    town.finish().await;
}

/// What a session has switched on, and the other server does not know: it ends.
#[tokio::test]
async fn what_the_other_server_lacks_ends_those_who_need_it() {
    let other = |place: usize, options: Options| match place {
        2 => Options { capabilities: options.capabilities.clone().without("CONDSTORE"), enable: Vec::new(), ..options },
        _ => options,
    };
    let town = town(other, |_| ()).await;
    let mut needs = town.harness.login("anna").await;
    needs.play("C: a ENABLE CONDSTORE\nS~ a OK…\nC: s SELECT INBOX\nS~ s OK…\nC: i IDLE\nS: + …").await;
    let mut plain = town.harness.login("anna").await;
    plain.play("C: s SELECT Other\nS~ s OK…").await;
    assert!(keeps(&town, "anna", "c", LIMIT).await.unwrap().left);
    plain.play("C: f UID FETCH 1:2 (FLAGS)\nS~ f OK…").await;
    needs.play("S~ * BYE…\nS.").await;
    drop(plain);
    town.finish().await;
}

/// Nothing has changed when it cannot be done, and nobody has noticed.
#[tokio::test]
async fn what_cannot_be_done_is_not_begun() {
    let routes = format!("{ROUTES}\n[[route]]\nfile = \"FOLDER/users.map\"");
    let lines = "carla b u7\ndora b u7\n";
    let mut town = Town::with(
        &routes,
        &[("users.map", lines)],
        |_, options| alike(options),
        |config| {
            config.pool.mode = PoolMode::Multiplex;
        },
    )
    .await;
    town.stop(2).await;
    let mut anna = selected(&town).await;
    let mut carla = town.harness.client().await;
    carla.play("C: l LOGIN carla pw-u7\nS: l OK…").await;
    assert!(matches!(keeps(&town, "anna", "c", LIMIT).await, Err(HandError::Silent { .. })));
    assert!(matches!(keeps(&town, "anna", "nowhere", LIMIT).await, Err(HandError::Target(_))));
    assert!(!town.path("moves").exists());
    fs::create_dir(town.path("moves")).unwrap();
    assert!(matches!(keeps(&town, "anna", "a", LIMIT).await, Err(HandError::Write { .. })));
    // The attempt has left nothing behind: others come, and it can be moved.
    fs::remove_dir(town.path("moves")).unwrap();
    anna.play("C: n NOOP\nS: n OK…").await;
    assert_eq!(town.homes("anna"), ["b"]);
    let mut late = selected(&town).await;
    assert_eq!(keeps(&town, "anna", "a", LIMIT).await.unwrap(), Moved { left: true, kept: 2 });
    for client in [&mut anna, &mut late] {
        client.play("C: m NOOP\nS: m OK…").await;
    }
    // Who is nowhere, and who is there already.
    assert_eq!(keeps(&town, "bert", "a", LIMIT).await.unwrap(), Moved { left: true, kept: 0 });
    assert_eq!(keeps(&town, "anna", "a", LIMIT).await.unwrap(), Moved { left: true, kept: 2 });
    assert_eq!(town.homes("anna"), ["a"]);
    // By whichever of its names.
    assert_eq!(keeps(&town, "dora", "a", LIMIT).await.unwrap(), Moved { left: true, kept: 1 });
    carla.play("C: n NOOP\nS: n OK…").await;
    let mut dora = town.harness.client().await;
    dora.play("C: l LOGIN dora pw-u7\nS: l OK…").await;
    assert_eq!(town.homes("u7"), ["a"]);
    drop((anna, late, carla, dora));
    town.finish().await;
}

/// Whatever an operator does meanwhile: it is at one server at most, and its next login is served.
#[tokio::test]
async fn what_is_done_meanwhile_counts() {
    for done in ["kick", "move", "reload", "gone"] {
        let town = town(|_, options| options, |_| ()).await;
        let mut client = town.harness.login("anna").await;
        client.play("C: a APPEND INBOX {6}\nS: + …\nC: abc").await;
        assert!(!keeps(&town, "anna", "c", Duration::ZERO).await.unwrap().left);
        let router = town.harness.proxy().router();
        let goes = match done {
            "kick" => {
                assert!(router.kick(b"anna"));
                "c"
            }
            "move" => {
                assert!(!router.move_account(b"anna", Some("a"), Duration::ZERO).await.unwrap());
                "a"
            }
            "reload" => {
                town.reload("[routing]\ndefault = \"a\"").await;
                "a"
            }
            _ => {
                // Another in the place of the one that it goes to.
                town.reload(&format!("c: login_timeout = \"29s\"\n{ROUTES}")).await;
                "c"
            }
        };
        client.play("C: d\nS~ a OK…").await;
        if done != "gone" {
            client.play("S~ * BYE…\nS.").await;
        }
        let mut next = town.harness.client().await;
        next.play(LOGIN).await;
        next.play("C: s STATUS INBOX (MESSAGES)\nS: * STATUS \"INBOX\" (MESSAGES 3)\nS: s OK…").await;
        assert_eq!(town.homes("anna"), [goes], "{done}");
        drop((client, next));
        town.finish().await;
    }
}
