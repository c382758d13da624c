//! Accounts that go to another replica than before, and routes that lead in a circle.

use imapool::config::{Config, Route};
use imapool_demo_server::Options;

use crate::ring::{MODES, Ring};

/// While it has sessions it stays; then it goes where the hash says, to another replica or to this one.
#[tokio::test]
async fn an_account_goes_when_its_sessions_have_ended() {
    for mode in MODES {
        let ring = Ring::with(mode, 2, Options::default(), |_| ()).await;
        let weigh = async |here: usize, there: usize| {
            let mut config = Config::clone(&ring.replicas[0].proxy().config());
            for backend in &mut config.backends {
                backend.weight = if backend.name == "r0" { here } else { there };
            }
            ring.replicas[0].proxy().reload(config).await.unwrap();
        };
        let user = ring.user_of(1);
        let mut first = ring.login(0, &user).await;
        assert_eq!(ring.relayed(0), 1);
        weigh(100, 0).await;
        let mut second = ring.login(0, &user).await;
        assert_eq!(ring.relayed(0), 2, "it stays");
        for client in [&mut first, &mut second] {
            client.play("C: a SELECT INBOX\nS~ a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        }
        ring.replicas[0].sessions(0).await;
        let mut third = ring.login(0, &user).await;
        assert_eq!(ring.relayed(0), 2, "it is here");
        third.play("C: a SELECT INBOX\nS~ a OK…").await;
        weigh(0, 100).await;
        let mut fourth = ring.login(0, &user).await;
        assert_eq!(ring.relayed(0), 2, "it stays here");
        for client in [&mut third, &mut fourth] {
            client.play("C: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        }
        ring.replicas[0].sessions(0).await;
        // What rests here of it has to end first.
        let mut fifth = ring.login(0, &user).await;
        assert_eq!(ring.relayed(0), 3, "it is gone");
        assert!(ring.replicas[0].proxy().pools().accounts().iter().all(|account| account.usage().connections == 0));
        fifth.play("C: a SELECT INBOX\nS~ a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        ring.finish().await;
    }
}

/// What no check of the configuration sees: a file that leads from the inner listener to a replica.
#[tokio::test]
async fn nobody_goes_in_a_circle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("map");
    std::fs::write(&file, "anna r1\nbert r0\n").unwrap();
    for mode in MODES {
        let ring = Ring::with(mode, 2, Options::default(), |config| {
            if !config.groups.is_empty() {
                config.routes.insert(0, Route { file: Some(file.clone()), ..Route::default() });
            }
        })
        .await;
        for user in ["anna", "bert"] {
            let mut client = ring.replicas[0].client().await;
            client.play(&format!("C: a LOGIN {user} pw-{user}\nS: a NO [UNAVAILABLE] The replicas disagree…")).await;
            client.play("C: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        }
        ring.finish().await;
    }
}
