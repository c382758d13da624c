use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::app::Proxy;
use crate::config::{Backend, Config, ListenAddr, Listener, PoolMode};
use crate::demo::server::{Options, Server};
use crate::upstream::connection::crash;

/// Logs in, says this, and logs out. False: the session was cut off.
async fn visit(proxy: &Proxy, command: &str) -> bool {
    let (_, ListenAddr::Tcp(address)) = proxy.listener_addresses().remove(0) else { panic!("a TCP address") };
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    stream.read_line(&mut String::new()).await.unwrap();
    for command in ["LOGIN u8 pw-u8", command, "LOGOUT"] {
        stream.write_all(format!("a {command}\r\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        while !line.starts_with("a ") {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return false;
            }
        }
        assert!(line.starts_with("a OK"), "{line}");
    }
    true
}

/// A fault that one connection brings to light ends the session that it was for. The account goes on.
#[tokio::test]
async fn a_crash_within_a_checkout_does_not_poison_the_account() {
    // The first one that is taken out of rest, and the one that it is exchanged for.
    for after in [1, 2] {
        let server = Server::start(Options::default()).await.unwrap();
        let listener = Listener::new(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()));
        let mut config = Config::new(listener, Backend::new("127.0.0.1", server.address().port()));
        config.admin.address = None;
        config.pool.spare = 0;
        config.pool.mode = PoolMode::Session;
        let proxy = Proxy::start(config).await.unwrap();
        assert!(visit(&proxy, "CREATE Other").await);
        let (inbox, other) = ("SELECT INBOX", "SELECT Other");
        assert_eq!(tokio::join!(visit(&proxy, inbox), visit(&proxy, other)), (true, true));
        let account = proxy.pools().accounts().remove(0);
        while account.usage().in_use > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(account.usage().connections, 2);
        let mut crashed = false;
        for command in [inbox, other] {
            crash::AFTER.set(if crashed { 0 } else { after });
            crashed |= !visit(&proxy, command).await;
        }
        assert!(crashed, "{after}");
        assert!(visit(&proxy, inbox).await && visit(&proxy, other).await, "{after}");
        proxy.drain().await;
    }
}
