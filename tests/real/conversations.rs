//! x
use crate::{client::Client, server::*, accounts::*};
#[tokio::test]
async fn starts() {
  for kind in [Kind::Dovecot, Kind::Cyrus] {
    let t=std::time::Instant::now();
    let s=Server::start(kind,&Options::new(Accounts::numbered("u",3))).await.unwrap();
    eprintln!("{:?} {:?}", t.elapsed(), kind);
    let mut c=Client::login(s.address,"u0","pw-u0").await.unwrap();
    eprintln!("{}", c.command("SELECT INBOX").await.unwrap());
    eprintln!("{}", c.command("LIST \"\" *").await.unwrap());
    eprintln!("{:?}", Client::login(s.address,"u0","bad").await);
    eprintln!("{:?} {}", t.elapsed(), s.log());
  }
}
