//! A new process takes over under load: nobody is refused, and who is connected stays with the old one until its
//! deadline.

use std::net::TcpListener;
use std::process::Command;

use imapool::demo::server::{Options, Server};
use nix::sys::signal::Signal;

use crate::load::{Load, connect};
use crate::process::Imapool;
use crate::support::until;

const DRAIN: &str = "[limits]\ndrain_timeout = \"3s\"\n";

/// Both processes run; the old one hands over. Sessions come and go all the while.
async fn hand_over(mut old: Imapool, new: Imapool, load: Load, address: std::net::SocketAddr) {
    let mut rests = connect(address, None).await;
    rests.play("C: a LOGIN u8 pw-u8\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    load.further(20).await;
    old.signal(Signal::SIGUSR1);
    old.logged("handing over").await;
    load.further(50).await;
    // The old one still serves who is connected; whoever stays hears BYE at the end.
    if !old.has_ended() {
        rests.command("c STATUS INBOX (MESSAGES)").await;
    }
    old.ended().await;
    load.further(50).await;
    load.finish().await;
    assert!(new.log().contains("session ended"), "the new one serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_reuse_port() {
    let server = Server::start(Options::default()).await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (folder, file) = Imapool::configured(server.address(), DRAIN);
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("address = \"127.0.0.1:0\"\n", &format!("address = \"{free}\"\nreuse_port = true\n"));
    std::fs::write(&file, text).unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
        command.arg("run").arg("--config").arg(&file);
        command
    };
    let old = Imapool::spawn(start(), tempfile::tempdir().unwrap()).await;
    let load = Load::start(free, None, 4, 0).await;
    load.further(20).await;
    let new = Imapool::spawn(start(), folder).await;
    hand_over(old, new, load, free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_sockets_of_a_launcher() {
    let server = Server::start(Options::default()).await.unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let start = || {
        let (folder, file) = Imapool::configured(server.address(), DRAIN);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("127.0.0.1:0", &address.to_string())).unwrap();
        // What systemd does: the socket is descriptor 3, and the variables name the process that it is for.
        let script = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" run --config \"$1\"";
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_imapool")).arg(&file);
        command.stdin(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()));
        (command, folder)
    };
    let (command, folder) = start();
    let old = Imapool::spawn(command, folder).await;
    let load = Load::start(address, None, 4, 0).await;
    load.further(20).await;
    let (command, folder) = start();
    let new = Imapool::spawn(command, folder).await;
    hand_over(old, new, load, address).await;
}

/// Sessions at rest are left alone until the deadline, then told.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_at_rest_hear_bye_at_the_deadline() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut old = Imapool::start(server.address(), DRAIN).await;
    let mut rests = connect(old.address(), None).await;
    rests.play("C: a LOGIN u8 pw-u8\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…").await;
    old.signal(Signal::SIGUSR1);
    old.logged("handing over").await;
    until("nobody listens", || std::net::TcpStream::connect(old.address()).is_err()).await;
    rests.play("C: c STATUS INBOX (MESSAGES)\nS~ c OK…\nS: * BYE [UNAVAILABLE]…\nS.").await;
    old.ended().await;
    assert_eq!(server.counters().open, 0, "its connections have said goodbye");
}

/// What the service manager hears, on a socket of the test's.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told() {
    let server = Server::start(Options::default()).await.unwrap();
    let (folder, file) = Imapool::configured(server.address(), "");
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(crate::support::LIMIT)).unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}"));
            let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if heard.contains(wanted) {
                return heard;
            }
            assert!(heard.contains("WATCHDOG=1"), "{heard:?} instead of {wanted}");
        }
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
    command.arg("run").arg("--config").arg(file).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut imapool = Imapool::spawn(command, folder).await;
    hear("READY=1");
    hear("WATCHDOG=1");
    imapool.signal(Signal::SIGHUP);
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    imapool.signal(Signal::SIGTERM);
    hear("STOPPING=1");
    imapool.ended().await;
}
