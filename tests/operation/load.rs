//! Front ends that come and go, and some that stay, while something happens to the proxy. None may fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::authority::Authority;
use crate::support::{Client, soon, until};

/// Accounts that the load takes turns in.
const ACCOUNTS: usize = 5;
/// Between two sessions of a front end. The load is there to have sessions under way at any moment, not to fill the
/// machine: some tests await for seconds what happens beside it.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
    staying: Vec<Client>,
    tls: Option<Arc<Authority>>,
    address: SocketAddr,
}

impl Load {
    /// `busy` front ends that begin one short session after the other, and `staying` that keep theirs.
    pub(crate) async fn start(address: SocketAddr, tls: Option<Arc<Authority>>, busy: usize, staying: usize) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut clients = Vec::new();
        for number in 0..staying {
            let mut client = connect(address, tls.as_deref()).await;
            client.play(&format!("C: l LOGIN user{number} pw-user{number}\nS: l OK…")).await;
            // Half of them hold a connection.
            if number % 2 == 0 {
                client.play("C: s SELECT INBOX\nS~ s OK…").await;
            }
            clients.push(client);
        }
        let tasks = (0..busy).map(|task| {
            let (stop, done, tls) = (Arc::clone(&stop), Arc::clone(&done), tls.clone());
            tokio::spawn(async move {
                let mut number = task;
                while !stop.load(Ordering::Relaxed) {
                    visit(address, tls.as_deref(), number % ACCOUNTS).await;
                    done.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, done, tasks, staying: clients, tls, address }
    }

    /// Sessions that came and went so far.
    pub(crate) fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until so many more have come and gone.
    pub(crate) async fn further(&self, sessions: usize) {
        let wanted = self.done() + sessions;
        until("further sessions", || {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a front end has failed");
            self.done() >= wanted
        })
        .await;
    }

    /// Ends it; whatever failed, fails the test.
    pub(crate) async fn finish(mut self) {
        self.further(1).await;
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            soon("the end of a front end", task).await.unwrap();
        }
        for client in &mut self.staying {
            client.play("C: z STATUS INBOX (MESSAGES)\nS~ z OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
        }
        // A last one, to see that all is well.
        visit(self.address, self.tls.as_deref(), 0).await;
    }
}

pub(crate) async fn connect(address: SocketAddr, tls: Option<&Authority>) -> Client {
    let mut client = match tls {
        None => Client::connect(address).await,
        Some(authority) => {
            let stream = soon("connect", TcpStream::connect(address)).await.unwrap();
            Client::over(authority.connect(stream).await.unwrap())
        }
    };
    let greeting = client.line().await;
    assert!(greeting.starts_with("* OK [CAPABILITY "), "{greeting}");
    client
}

async fn visit(address: SocketAddr, tls: Option<&Authority>, number: usize) {
    let mut client = connect(address, tls).await;
    let script = format!(
        "C: a LOGIN user{number} pw-user{number}\nS: a OK…\nC: b SELECT INBOX\nS~ b OK…\n\
         C: c FETCH 1 (FLAGS)\nS~ c OK…\nC: d LOGOUT\nS: * BYE…\nS: d OK…\nS."
    );
    client.play(&script).await;
}

/// A LOGIN with the right password, tagged `a`, whatever octets the name has.
pub(crate) fn login(user: &str) -> String {
    let password = format!("pw-{user}");
    format!("a LOGIN {{{}+}}\r\n{user} {{{}+}}\r\n{password}\r\n", user.len(), password.len())
}
