//! What clients do, each as one scene that is played directly and through the proxy.

use std::future::Future;
use std::pin::Pin;

use crate::door::{Door, Session, USER};

type Playing<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
type Scene = for<'a, 'b> fn(&'a mut Door<'b>) -> Playing<'a>;

/// All scenes by name.
pub(crate) fn all() -> Vec<(&'static str, Scene)> {
    vec![
        ("login", |door| Box::pin(login(door))),
        ("list", |door| Box::pin(list(door))),
        ("select", |door| Box::pin(select(door))),
        ("fetch", |door| Box::pin(fetch(door))),
        ("append", |door| Box::pin(append(door))),
        ("copy", |door| Box::pin(copy(door))),
        ("move", |door| Box::pin(move_away(door))),
        ("idle", |door| Box::pin(idle(door))),
        ("changes", |door| Box::pin(changes(door))),
        ("sharing", |door| Box::pin(sharing(door))),
    ]
}

/// A message whose header has a folded field.
const MESSAGE: &str = "From: a@example.org\r\nSubject: folded\r\n line\r\n\r\nbody\r\n";

async fn logout(door: &mut Door<'_>, mut session: Session) {
    let lines = door.run(&mut session, "LOGOUT").await;
    assert!(lines[0].starts_with("* BYE"), "{lines:?}");
    assert_eq!(session.client.rest().await, "");
}

async fn login(door: &mut Door<'_>) {
    let mut wrong = door.connect("w").await;
    let lines = wrong.client.command(&format!("w LOGIN {USER} wrong")).await;
    // Directly, some servers say OK to it. Through the proxy, nobody is let in.
    let refused = lines.last().unwrap().starts_with("w NO");
    assert!(refused || door.is_direct(), "{lines:?}");
    if refused {
        // And its connection goes on: what is wrong once can be right then.
        let _again = wrong.client.command("n NOOP").await;
    }
    drop(wrong);
    let mut right = door.login("a").await;
    door.run(&mut right, "NOOP").await;
    logout(door, right).await;
}

async fn list(door: &mut Door<'_>) {
    let mut session = door.login("a").await;
    let sent = door.mailbox("Sent");
    let mut commands =
        vec!["LIST \"\" \"\"".to_owned(), "LIST \"\" *".into(), "LIST \"\" %".into(), "LSUB \"\" *".into()];
    commands.push(format!("STATUS {sent} (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)"));
    commands.push(format!("STATUS {} (MESSAGES)", door.mailbox("nosuch")));
    if door.offers("NAMESPACE") {
        commands.push("NAMESPACE".into());
    }
    if door.offers("LIST-EXTENDED") {
        commands.push("LIST (SUBSCRIBED) \"\" (\"INBOX\" \"*\") RETURN (CHILDREN)".into());
    }
    if door.offers("LIST-STATUS") {
        commands.push("LIST \"\" * RETURN (STATUS (MESSAGES))".into());
    }
    if door.offers("SPECIAL-USE") && door.offers("LIST-EXTENDED") {
        commands.push("LIST (SPECIAL-USE) \"\" *".into());
    }
    let new = door.mailbox("New");
    for verb in ["CREATE", "SUBSCRIBE", "UNSUBSCRIBE", "DELETE"] {
        commands.push(format!("{verb} {new}"));
    }
    for command in commands {
        door.run(&mut session, &command).await;
    }
    logout(door, session).await;
}

async fn select(door: &mut Door<'_>) {
    let mut session = door.login("a").await;
    let (sent, missing) = (door.mailbox("Sent"), door.mailbox("nosuch"));
    for command in [
        "SELECT INBOX",
        "FETCH 1:* (UID FLAGS)",
        "CHECK",
        &format!("EXAMINE {sent}"),
        "FETCH 1:* (UID FLAGS)",
        &format!("SELECT {sent}"),
        "CLOSE",
        &format!("SELECT {missing}"),
        "SELECT INBOX",
        "UID FETCH 1:* (FLAGS)",
    ] {
        door.run(&mut session, command).await;
    }
    logout(door, session).await;
}

async fn fetch(door: &mut Door<'_>) {
    let mut session = door.inbox("a").await;
    door.append(&mut session, "INBOX", MESSAGE).await;
    for command in [
        "NOOP",
        "FETCH 1:* (FLAGS UID RFC822.SIZE INTERNALDATE)",
        "FETCH 1 (ENVELOPE BODYSTRUCTURE)",
        "FETCH 4 BODYSTRUCTURE",
        "FETCH 11 (ENVELOPE)",
        "FETCH 1:3 (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])",
        "UID FETCH 2 (BODY[TEXT])",
        "FETCH 3 BODY[]<0.20>",
        "FETCH 99 (FLAGS)",
        "UID FETCH 99 (FLAGS)",
        "SEARCH UNSEEN",
        "UID SEARCH ALL",
        "UID SEARCH SUBJECT nosuch",
        "FETCH 1:* (FLAGS)",
    ] {
        // The date of the message that was appended is another one.
        let command =
            if command.contains("INTERNALDATE") { "FETCH 1:10 (FLAGS UID RFC822.SIZE INTERNALDATE)" } else { command };
        door.run(&mut session, command).await;
    }
    door.append(&mut session, "INBOX", &format!("X-Unreadable: yes\r\n{MESSAGE}")).await;
    door.run(&mut session, "NOOP").await;
    door.run(&mut session, "FETCH 12 (ENVELOPE)").await;
    door.run(&mut session, "FETCH 12 (FLAGS)").await;
    logout(door, session).await;
}

async fn append(door: &mut Door<'_>) {
    let mut session = door.login("a").await;
    let (sent, missing) = (door.mailbox("Sent"), door.mailbox("nosuch"));
    door.append(&mut session, &sent, MESSAGE).await;
    door.append(&mut session, &missing, MESSAGE).await;
    door.append(&mut session, &format!("{sent} (\\Seen \\Flagged)"), MESSAGE).await;
    door.run(&mut session, &format!("SELECT {sent}")).await;
    door.append(&mut session, &sent, MESSAGE).await;
    door.run(&mut session, "NOOP").await;
    door.run(&mut session, "FETCH 1:* (UID FLAGS)").await;
    logout(door, session).await;
}

async fn copy(door: &mut Door<'_>) {
    let mut session = door.inbox("a").await;
    let (sent, missing) = (door.mailbox("Sent"), door.mailbox("nosuch"));
    for command in [
        format!("COPY 1:2 {sent}"),
        format!("UID COPY 5 {sent}"),
        format!("COPY 1 {missing}"),
        "STORE 1,3 +FLAGS (\\Deleted)".into(),
        "STORE 2 +FLAGS.SILENT (\\Answered)".into(),
        "EXPUNGE".into(),
        "FETCH 1:* (UID FLAGS)".into(),
        "UID STORE 10 FLAGS (\\Deleted keyword)".into(),
        "CLOSE".into(),
        format!("SELECT {sent}"),
        "FETCH 1:* (UID FLAGS)".into(),
    ] {
        door.run(&mut session, &command).await;
    }
    logout(door, session).await;
}

async fn move_away(door: &mut Door<'_>) {
    if !door.offers("MOVE") {
        return;
    }
    let mut session = door.inbox("a").await;
    let trash = door.mailbox("Trash");
    for command in [
        format!("UID MOVE 2,4 {trash}"),
        "FETCH 1:* (UID FLAGS)".into(),
        format!("MOVE 1 {trash}"),
        "FETCH 1:* (UID FLAGS)".into(),
        format!("SELECT {trash}"),
        "FETCH 1:* (UID FLAGS)".into(),
    ] {
        door.run(&mut session, &command).await;
    }
    logout(door, session).await;
}

/// One session waits for what another does. Where there is no IDLE, it asks.
async fn idle(door: &mut Door<'_>) {
    let mut waiting = door.inbox("a").await;
    let mut idling = false;
    if door.offers("IDLE") {
        waiting.client.send("idle IDLE\r\n").await;
        let answer = waiting.client.until(|line| line.starts_with('+') || line.starts_with("idle ")).await;
        idling = answer.last().unwrap().starts_with('+');
        assert!(idling || !door.idles(), "{answer:?}");
    }
    let mut other = door.login("b").await;
    door.append(&mut other, "INBOX", MESSAGE).await;
    if idling {
        waiting.client.until(|line| line == "* 11 EXISTS" || line == "*  11 EXISTS").await;
        waiting.client.send("DONE\r\n").await;
        waiting.client.until(|line| line.starts_with("idle OK")).await;
    } else {
        let lines = waiting.client.command("ask NOOP").await;
        assert!(lines.iter().any(|line| line.ends_with("11 EXISTS")), "{lines:?}");
    }
    door.run(&mut waiting, "FETCH 11 (UID FLAGS)").await;
    logout(door, other).await;
    logout(door, waiting).await;
}

/// What CONDSTORE, QRESYNC and ESEARCH say, where they are offered.
async fn changes(door: &mut Door<'_>) {
    let mut session = door.login("a").await;
    if door.offers("ENABLE") {
        let lines = door.run(&mut session, "ENABLE CONDSTORE QRESYNC").await;
        assert!(lines.last().unwrap().contains(" OK"), "{lines:?}");
    }
    door.run(&mut session, "SELECT INBOX").await;
    let mut commands = Vec::new();
    if door.offers("CONDSTORE") {
        commands.extend([
            "FETCH 1:3 (UID FLAGS MODSEQ)",
            "STORE 2 +FLAGS (\\Flagged)",
            "FETCH 1:* (FLAGS) (CHANGEDSINCE 10)",
        ]);
        commands.extend(["STORE 2 (UNCHANGEDSINCE 1) +FLAGS (\\Seen)", "SEARCH MODSEQ 11"]);
    }
    if door.offers("ESEARCH") {
        commands.extend(["SEARCH RETURN (MIN MAX COUNT) ALL", "UID SEARCH RETURN () 3:5"]);
    }
    commands.extend(["STORE 5 +FLAGS (\\Deleted)", "EXPUNGE", "FETCH 1:* (UID FLAGS)"]);
    for command in commands {
        let lines = door.run(&mut session, command).await;
        // VANISHED and EXPUNGE say the same; which of them comes is what ENABLE decides.
        let vanished = lines.iter().any(|line| line.starts_with("* VANISHED"));
        door.found(format!("vanished: {vanished}"));
    }
    logout(door, session).await;
}

/// Three sessions in one mailbox: what each does is seen by the others.
async fn sharing(door: &mut Door<'_>) {
    let mut a = door.inbox("a").await;
    let mut b = door.inbox("b").await;
    let mut c = door.inbox("c").await;
    door.run(&mut a, "STORE 2 +FLAGS (\\Flagged)").await;
    door.run(&mut b, "STORE 3:4 +FLAGS (\\Deleted)").await;
    door.run(&mut c, "NOOP").await;
    door.run(&mut c, "EXPUNGE").await;
    door.append(&mut a, "INBOX", MESSAGE).await;
    for session in [&mut a, &mut b, &mut c] {
        door.run(session, "NOOP").await;
        door.run(session, "FETCH 1:* (UID FLAGS)").await;
        door.run(session, "UID SEARCH FLAGGED").await;
    }
    logout(door, b).await;
    door.run(&mut a, "UID STORE 1 -FLAGS (\\Seen)").await;
    door.run(&mut c, "FETCH 1:* (UID FLAGS)").await;
    logout(door, c).await;
    logout(door, a).await;
}
