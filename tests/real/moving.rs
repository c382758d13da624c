//! An account goes from one Dovecot to another with its sessions, over a copy that doveadm has made.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{JoinHandle, block_in_place};

use crate::accounts::password_of;
use crate::client::{Client, Reply};
use crate::places;
use crate::process::find_program;
use crate::proxy::Proxy;
use crate::server::{Options, Server, scratch_folder};

const COPIED: &str = "copied";
const BARE: &str = "bare";
/// Of each kind: who idles, and who works.
const CLIENTS: usize = 10;

fn configuration(servers: &[Server], folder: &str, mode: &str) -> String {
    let [old, new] = [0, 1].map(|place| servers[place].address);
    format!(
        "[[backend]]\nname = \"old\"\naddress = \"{old}\"\n[[backend]]\nname = \"new\"\naddress = \"{new}\"\n\
         [routing]\nmoves_file = \"{folder}/moves\"\n[pool]\nmode = \"{mode}\"\nmax_per_account = 30\n\
         [[listener]]\nname = \"webmail\"\naddress = \"127.0.0.1:0\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{folder}/token\"\n"
    )
}

async fn login(address: SocketAddr, user: &str) -> Client {
    Client::login(address, user, &password_of(user)).await.unwrap()
}

/// What a mailbox is known by.
fn validity(selected: &Reply) -> String {
    let text = selected.to_string();
    let (_, rest) = text.split_once("[UIDVALIDITY ").unwrap();
    rest.split_once(']').unwrap().0.to_owned()
}

/// The same mail with the same UIDs.
fn copy(from: &Server, to: &Server, user: &str) {
    let place = to.folder.path().join("mail").join(user).join("Maildir");
    let mut command = Command::new(find_program("doveadm").unwrap());
    command.arg("-c").arg(from.folder.path().join("dovecot.conf")).args(["backup", "-u", user]);
    let output = command.arg(format!("maildir:{}", place.display())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A mailbox of this name that is another at each server.
async fn create_apart(servers: &[Server], user: &str, mailbox: &str) {
    let mut known = Vec::new();
    for server in servers {
        let mut client = login(server.address, user).await;
        client.command(&format!("CREATE {mailbox}")).await.unwrap().ok();
        let mut found = validity(&client.command(&format!("SELECT {mailbox}")).await.unwrap().ok());
        while known.contains(&found) {
            for command in ["CLOSE", &format!("DELETE {mailbox}"), &format!("CREATE {mailbox}")] {
                client.command(command).await.unwrap().ok();
            }
            found = validity(&client.command(&format!("SELECT {mailbox}")).await.unwrap().ok());
        }
        known.push(found);
        client.logout().await.unwrap();
    }
}

async fn selected(address: SocketAddr, user: &str, mailbox: &str) -> Client {
    let mut client = login(address, user).await;
    client.command(&format!("SELECT {mailbox}")).await.unwrap().ok();
    client
}

async fn idles(address: SocketAddr, user: &str, mailbox: &str) -> Client {
    let mut client = selected(address, user, mailbox).await;
    client.send(b"i IDLE\r\n").await.unwrap();
    assert!(client.response().await.unwrap().unwrap().starts_with(b"+"));
    client
}

/// Works until it is told to stop, and sees the same all the time.
fn works(mut client: Client, stop: Arc<AtomicBool>) -> JoinHandle<(Client, String)> {
    tokio::spawn(async move {
        let view = client.command("FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])").await.unwrap().ok();
        let view = view.untagged;
        while !stop.load(Ordering::Relaxed) {
            for command in ["NOOP", "UID SEARCH ALL", "STATUS Drafts (MESSAGES)"] {
                client.command(command).await.unwrap().ok();
            }
            let now = client.command("FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])").await.unwrap().ok();
            assert_eq!(String::from_utf8_lossy(&now.untagged), String::from_utf8_lossy(&view));
        }
        (client, String::from_utf8(view).unwrap())
    })
}

fn keep(proxy: &Proxy, user: &str) -> String {
    let admin = proxy.admin.to_string();
    let output = block_in_place(|| proxy.ask(&["ctl", "--admin", &admin, "move", user, "new", "--keep-sessions"]));
    let told = [&output.stdout[..], &output.stderr].concat();
    let told = String::from_utf8(told).unwrap();
    assert!(output.status.success(), "{told}\n{}", proxy.log());
    told
}

/// Where the mail is the same, twenty clients that idle and work notice nothing, and hear of what comes at the other
/// server. Where it is not, they hear BYE.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_on_over_a_copy_and_hear_it_without() {
    let Some(servers) = places::start(2, &Options::new(places::named([COPIED, BARE]))).await else { return };
    create_apart(&servers, BARE, "Work").await;
    let mut old = login(servers[0].address, COPIED).await;
    for number in 0..20 {
        old.append("INBOX", "(\\Seen) ", &format!("Subject: {number}\r\n\r\nmail\r\n")).await.unwrap().ok();
    }
    old.logout().await.unwrap();
    std::fs::remove_dir_all(servers[1].folder.path().join("mail").join(COPIED)).unwrap();
    copy(&servers[0], &servers[1], COPIED);

    let folder = scratch_folder();
    std::fs::write(folder.path().join("token"), "0123456789abcdef").unwrap();
    let text = configuration(&servers, &folder.path().display().to_string(), "multiplex");
    let proxy = Proxy::configured(folder, &text);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut idlers, mut workers) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        idlers.push(idles(proxy.address, COPIED, "INBOX").await);
        workers.push(works(selected(proxy.address, COPIED, "INBOX").await, Arc::clone(&stop)));
    }
    let told = keep(&proxy, COPIED);
    assert!(told.contains(&format!("{COPIED}: goes to new; {} sessions go on there", 2 * CLIENTS)), "{told}");
    stop.store(true, Ordering::Relaxed);
    let mut views = Vec::new();
    for worker in workers {
        let (client, view) = worker.await.unwrap();
        views.push((client, view));
    }
    // \Recent is one session's.
    assert!(views.iter().all(|(_, view)| view.contains("Subject: 19")), "{}", views[0].1);
    // What comes now is at the new server, and all hear it.
    let mut direct = login(servers[1].address, COPIED).await;
    direct.append("INBOX", "", "Subject: news\r\n\r\nmail\r\n").await.unwrap().ok();
    for client in &mut idlers {
        let heard = client.response().await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), "* 22 EXISTS\r\n");
    }
    for (client, _) in &mut views {
        let fetched = client.command("UID FETCH * (BODY.PEEK[HEADER.FIELDS (SUBJECT)])").await.unwrap().ok();
        assert!(fetched.to_string().contains("Subject: news"), "{fetched}");
    }
    direct.logout().await.unwrap();

    let (mut idler, mut rests) =
        (idles(proxy.address, BARE, "Work").await, selected(proxy.address, BARE, "Work").await);
    let mut outside = login(proxy.address, BARE).await;
    outside.command("STATUS INBOX (MESSAGES)").await.unwrap().ok();
    keep(&proxy, BARE);
    for client in [&mut idler, &mut rests] {
        let mut heard = Vec::new();
        while let Some(response) = client.response().await.unwrap() {
            heard.push(String::from_utf8(response).unwrap());
        }
        assert!(heard.last().is_some_and(|last| last.starts_with("* BYE")), "{heard:?}");
    }
    assert_eq!(places::of(&outside.command("SELECT INBOX").await.unwrap().ok()), Some(1), "it is at the new server");
    drop((idlers, views, outside));
    proxy.finish();
}
