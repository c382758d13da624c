//! What is otherwise for some accounts, as operators see it.

use imapool::config::{Account, PoolMode};
use imapool::demo::server::{Options, Server};

use crate::api::World;
use crate::http::get;
use crate::load::connect;
use crate::process::Imapool;

const OTHERWISE: &str = "[[account]]\nusers = [\"@out\"]\nallow = false\n\
                         [[account]]\nusers = [\"u8\", \"@a\", \"@b\", \"@c\"]\nmax_per_account = 9\nmode = \"session\"\nsessions = 7\n\
                         [[account]]\nusers = [\"U8\"]\nmax_per_account = 3\n\
                         [[backend]]\nname = \"other\"\naddress = \"127.0.0.1:9\"\nmax_per_account = 2\nidle_timeout = \"1m\"\n\
                         [[route]]\nusers = [\"@there\"]\nto = \"other\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn commands_tell_what_holds_for_an_account() {
    let server = Server::start(Options::default()).await.unwrap();
    let imapool = Imapool::start(server.address(), OTHERWISE).await;
    for (user, code, told) in [
        (
            "U8",
            0,
            "backend main\nby routing.default\nas u8\naccount 2 (users \"u8\", \"@a\", \"@b\", …)\n\
             at most 9 connections, mode: session, closed after 5m at rest; at most 7 sessions\n",
        ),
        (
            "x@there",
            0,
            "backend other\nby route 1 (users \"@there\")\nas x@there\n\
             at most 2 connections, mode: multiplex, closed after 1m at rest\n",
        ),
        (
            "x",
            0,
            "backend main\nby routing.default\nas x\nat most 4 connections, mode: multiplex, closed after 5m at rest\n",
        ),
        ("x@out", 1, "refused\nby account 1 (users \"@out\"), allow = false\nas x@out\n"),
    ] {
        let output = imapool.run(&["route", user]);
        assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap().as_str()), (Some(code), told));
    }
    for user in ["u8", "plain"] {
        let mut client = connect(imapool.address(), None).await;
        client.play(&format!("C: a LOGIN {user} pw-{user}\nS: a OK…\nC: z LOGOUT\nS: * BYE…\nS: z OK…\nS.")).await;
    }
    let listed = String::from_utf8(imapool.run(&["status", "--list", "accounts"]).stdout).unwrap();
    let column = |user: &str| {
        let line = listed.lines().find(|line| line.starts_with(user)).unwrap_or_else(|| panic!("{listed}"));
        line.split_whitespace().nth(4).unwrap().to_owned()
    };
    let of = listed.lines().next().unwrap().split_whitespace().position(|title| title == "OF");
    assert_eq!((of, column("u8"), column("plain")), (Some(4), "9".into(), "4".into()), "{listed}");
    let checked = imapool.run(&["check"]);
    let (told, warned) = (String::from_utf8(checked.stdout).unwrap(), String::from_utf8(checked.stderr).unwrap());
    assert!(told.contains("TLS: none, at most 2 connections for each account\n"), "{told}");
    assert!(told.contains("\n  otherwise for some accounts, in 3 [[account]]\n"), "{told}");
    assert!(warned.contains("warning: account 3 never counts: whoever it is for, account 2 or one before"), "{warned}");
}

#[tokio::test]
async fn the_api_tells_what_holds_for_an_account() {
    let world = World::changed(|config| {
        config.pool.mode = PoolMode::Multiplex;
        let mut account = Account::new(vec!["u8".into()]);
        (account.mode, account.sessions) = (Some(PoolMode::Session), 7);
        let mut out = Account::new(vec!["out".into()]);
        out.allow = false;
        config.accounts = vec![account, out];
    })
    .await;
    let route = get(world.admin, "/api/route?user=U8").await;
    assert_eq!((&route["backend"], &route["account"]), (&"mail".into(), &"account 1 (users \"u8\")".into()));
    let terms = serde_json::json!({
        "mode": "session", "max_per_account": 4, "idle_timeout": "5m", "sessions": 7, "allow": true
    });
    assert_eq!(route["terms"], terms);
    let route = get(world.admin, "/api/route?user=out").await;
    assert!(route["backend"].is_null() && route["terms"]["allow"] == false, "{route}");
    assert_eq!(route["rule"], "account 2 (users \"out\"), allow = false");
    let route = get(world.admin, "/api/route?user=x").await;
    assert!(route["account"].is_null() && route["terms"]["mode"] == "multiplex", "{route}");
    for user in ["u8", "x"] {
        world.harness.visit(user).await;
    }
    let rows = world.rows("accounts?sort=name").await;
    let told: Vec<_> = rows.iter().map(|row| (&row["user"], &row["mode"], &row["max_per_account"])).collect();
    let [session, multiplex] = ["session", "multiplex"].map(serde_json::Value::from);
    assert_eq!(told, [(&"u8".into(), &session, &4.into()), (&"x".into(), &multiplex, &4.into())]);
}
