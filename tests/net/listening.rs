//! Binding and accepting.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;

use imapool::config::ListenAddr;
use imapool::listener::{BindProblem, BoundListener, ClientAddr};
use imapool::stream::{Socket, Stream};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{Folder, accept_from, listener, port_of, soon, tcp_listener};

async fn one_word(client: &mut (impl AsyncWriteExt + Unpin), server: &mut Stream) {
    client.write_all(b"a1 NOOP\r\n").await.unwrap();
    let mut word = [0; 9];
    soon(server.read_exact(&mut word)).await.unwrap();
    assert_eq!(&word, b"a1 NOOP\r\n");
}

#[tokio::test]
async fn ipv4_with_nodelay_and_keepalive() {
    let listener = BoundListener::bind(&tcp_listener()).unwrap();
    let (mut client, (mut server, peer)) = accept_from(&listener).await;
    assert_eq!(peer, ClientAddr::Tcp(client.local_addr().unwrap()));
    assert_eq!(peer.to_string(), client.local_addr().unwrap().to_string());
    assert!(peer.is_loopback());
    one_word(&mut client, &mut server).await;
    let Socket::Tcp(tcp) = server.socket() else { panic!("{server:?} is not TCP") };
    let socket = SockRef::from(tcp);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 120);
}

#[tokio::test]
async fn ipv6_is_for_ipv6_only() {
    let six = BoundListener::bind(&listener(ListenAddr::Tcp("[::]:0".parse().unwrap()))).unwrap();
    let port = port_of(&six);
    // The same port for IPv4: possible only if the first does not take that as well.
    let four = BoundListener::bind(&listener(ListenAddr::Tcp(([127, 0, 0, 1], port).into()))).unwrap();
    let address: SocketAddr = format!("[::1]:{port}").parse().unwrap();
    let (client, (mut server, peer)) = soon(async { tokio::join!(TcpStream::connect(address), six.accept()) }).await;
    assert_eq!(peer.ip(), Some("::1".parse().unwrap()));
    one_word(&mut client.unwrap(), &mut server).await;
    let (mut client, (mut server, _)) = accept_from(&four).await;
    one_word(&mut client, &mut server).await;
}

#[tokio::test]
async fn an_address_in_use_is_told_with_the_listeners_name() {
    let first = BoundListener::bind(&tcp_listener()).unwrap();
    let error = BoundListener::bind(&listener(first.local_address().clone())).unwrap_err();
    assert!(matches!(error.reason, BindProblem::InUse(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("\"webmail\"") && text.contains(&port_of(&first).to_string()), "{text}");
}

#[tokio::test]
async fn an_address_of_another_host_is_told() {
    let error = BoundListener::bind(&listener(ListenAddr::Tcp("192.0.2.1:0".parse().unwrap()))).unwrap_err();
    assert!(matches!(error.reason, BindProblem::NoSuchAddress(_)), "{error:?}");
}

/// Past connections in TIME_WAIT, which closing first leaves on the port, do not keep a new process from listening.
#[tokio::test]
async fn a_listener_can_be_replaced_at_once() {
    let first = BoundListener::bind(&tcp_listener()).unwrap();
    let (mut client, (server, _)) = accept_from(&first).await;
    let closing = tokio::spawn(server.close(crate::support::LIMIT));
    soon(client.read_to_end(&mut Vec::new())).await.unwrap();
    drop(client);
    soon(closing).await.unwrap();
    let address = first.local_address().clone();
    drop(first);
    BoundListener::bind(&listener(address)).unwrap();
}

/// More of them than a task may accept in one turn of the runtime.
#[tokio::test]
async fn whoever_waits_when_a_listener_closes_is_accepted() {
    const CLIENTS: usize = 300;
    let listener = BoundListener::bind(&tcp_listener()).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port_of(&listener)));
    let clients: Vec<_> = (0..CLIENTS).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    assert_eq!(soon(listener.close()).await.len(), clients.len());
}

fn unix(folder: &Folder) -> (std::path::PathBuf, imapool::config::Listener) {
    let path = folder.0.join("imap.sock");
    (path.clone(), listener(ListenAddr::Unix(path)))
}

#[tokio::test]
async fn a_unix_socket_serves_owner_and_group_and_goes_with_its_listener() {
    let folder = Folder::new();
    let (path, config) = unix(&folder);
    let listener = BoundListener::bind(&config).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(*listener.local_address(), ListenAddr::Unix(path.clone()));
    let (client, (mut server, peer)) =
        soon(async { tokio::join!(UnixStream::connect(&path), listener.accept()) }).await;
    assert_eq!((peer, peer.to_string().as_str(), peer.ip()), (ClientAddr::Unix, "unix", None));
    assert!(peer.is_loopback());
    one_word(&mut client.unwrap(), &mut server).await;
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_unix_socket_is_replaced() {
    let folder = Folder::new();
    let (path, config) = unix(&folder);
    drop(StdUnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left over");
    let listener = BoundListener::bind(&config).unwrap();
    let (client, _) = soon(async { tokio::join!(UnixStream::connect(&path), listener.accept()) }).await;
    client.unwrap();
}

#[tokio::test]
async fn a_unix_socket_on_which_somebody_answers_is_left_alone() {
    let folder = Folder::new();
    let (path, config) = unix(&folder);
    let _other = StdUnixListener::bind(&path).unwrap();
    let error = BoundListener::bind(&config).unwrap_err();
    assert!(matches!(error.reason, BindProblem::InUse(_)), "{error:?}");
    soon(UnixStream::connect(&path)).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let folder = Folder::new();
    let (path, config) = unix(&folder);
    fs::write(&path, "precious").unwrap();
    let error = BoundListener::bind(&config).unwrap_err();
    assert!(matches!(error.reason, BindProblem::NotASocket(_)), "{error:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn the_successors_unix_socket_is_left_alone() {
    let folder = Folder::new();
    let (path, config) = unix(&folder);
    let listener = BoundListener::bind(&config).unwrap();
    fs::rename(&path, folder.0.join("old.sock")).unwrap();
    let successor = StdUnixListener::bind(&path).unwrap();
    drop(listener);
    soon(UnixStream::connect(&path)).await.unwrap();
    drop(successor);
}
