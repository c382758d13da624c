mod stage;

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};

use self::stage::{Act, OK, Stage, lines, question, says, settings};
use super::*;
use crate::shown;

fn server(host: &str) -> Answer {
    Answer::Server { host: host.to_owned(), port: None, user: None, secret: None }
}

fn refused(text: &str, code: Option<&str>, wait: Option<u64>) -> Answer {
    let (code, wait) = (code.map(str::to_owned), wait.map(Duration::from_secs));
    Answer::Refused(Denial { text: text.to_owned(), code, wait })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What comes of it, in words.
async fn told(lookup: &Arc<Lookup>, user: &str) -> String {
    match lookup.ask(question(user), false).await {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_request_has_nginxs_words() {
    let (stage, lookup) = Stage::new(
        |_| says(OK),
        |settings| {
            settings.headers = vec![("X-Auth-Key".to_owned(), Secret::copy_of(b"s3cret"))];
            settings.send_password = true;
        },
    );
    let asked = Question {
        user: b"J\xc3\xb6rg 100%\x7f\r\n\"+\xff".to_vec(),
        secret: Some(Secret::copy_of(b" pass\0")),
        mechanism: "xoauth2",
        client: Some("2001:db8::1".parse().unwrap()),
        server: Some("[2001:db8::2]:993".parse().unwrap()),
        tls: Some("TLSv1.3"),
        server_name: Some("imap.example.org".to_owned()),
        attempt: 3,
    };
    lookup.ask(asked, false).await.unwrap();
    lookup.ask(Question { client: None, ..question("b") }, false).await.unwrap();
    let mut requests = stage.requests();
    for request in &mut requests {
        let mut lines: Vec<_> = request.trim_end().split("\r\n").map(str::to_owned).collect();
        lines[1..].sort_unstable();
        *request = lines.join("\n");
    }
    assert_eq!(
        requests[0],
        "GET /auth?key=k3y HTTP/1.1\nAuth-Login-Attempt: 3\nAuth-Method: xoauth2\nAuth-Pass: %20pass%00\n\
         Auth-Protocol: imap\nAuth-Ssl-Protocol: TLSv1.3\nAuth-Ssl-Server-Name: imap.example.org\nAuth-Ssl: on\n\
         Auth-User: J\u{c3}\u{b6}rg%20100%25%7F%0D%0A\"+\u{ff}\nClient-Ip: 2001:db8::1\nHost: 192.0.2.2\n\
         Proxy-Protocol-Server-Addr: 2001:db8::2\nProxy-Protocol-Server-Port: 993\nX-Auth-Key: s3cret"
    );
    assert_eq!(
        requests[1],
        "GET /auth?key=k3y HTTP/1.1\nAuth-Login-Attempt: 1\nAuth-Method: plain\nAuth-Protocol: imap\nAuth-User: b\n\
         Client-Ip: unix:\nHost: 192.0.2.2\nX-Auth-Key: s3cret"
    );
}

#[tokio::test(start_paused = true)]
async fn a_password_is_sent_only_where_it_was_asked_for() {
    let (stage, lookup) = Stage::new(|_| says(OK), |_| {});
    let with = |secret: &[u8]| Question { secret: Some(Secret::copy_of(secret)), ..question("a") };
    lookup.ask(with(b"hunter2"), false).await.unwrap();
    lookup.ask(with(b"other"), false).await.unwrap();
    assert_eq!(stage.asked(), 1);
    assert!(!stage.requests()[0].contains("Auth-Pass"), "{:?}", stage.requests());
}

#[test]
fn answers_are_taken_by_the_letter() {
    let full = Answer::Server {
        host: "192.0.2.9".to_owned(),
        port: Some(1143),
        user: Some(b"a%40b".to_vec()),
        secret: Some(Secret::copy_of(b"p\xc3\xa4 ss")),
    };
    let long = "x".repeat(5000);
    let cut = "x".repeat(shown::MOST + 1);
    let with_long = format!("Auth-Status: {long}");
    let table: &[(&str, Answer)] = &[
        (OK, server("192.0.2.9")),
        ("auth-STATUS: OK\nAUTH-server: imap-1.example.org\nAuth-User: u", server("imap-1.example.org")),
        ("Auth-Status:   OK  \nAuth-Server: [2001:db8::1]\nX-Other: 1\nX-Other: 2", server("2001:db8::1")),
        ("Auth-Status: OK\nAuth-Server: 2001:DB8::1\nAuth-Wait: x", server("2001:db8::1")),
        ("Auth-Status: OK\nAuth-Server: 3com\nAuth-Error-Code: 1", server("3com")),
        ("Auth-Status: OK\nAuth-Server: 192.0.2.9\nAuth-Port: 1143\nAuth-User: a%40b\nAuth-Pass: pä ss", full),
        ("Auth-Status: Invalid login\nAuth-Wait: 3", refused("Invalid login", None, Some(3))),
        ("Auth-Status: no\nAuth-Wait: 0\nAuth-Server: !", refused("no", None, None)),
        ("Auth-Status: no\nAuth-Error-Code: unavailable", refused("no", Some("UNAVAILABLE"), None)),
        ("Auth-Status: no\nAuth-Error-Code: 535 5.7.8", refused("no", None, None)),
        ("Auth-Status: no\nAuth-Error-Code: X] * OK", refused("no", None, None)),
        ("Auth-Status: [LIMIT] too many", refused("too many", Some("LIMIT"), None)),
        ("Auth-Status: [LIMIT]", refused("Login refused", Some("LIMIT"), None)),
        ("Auth-Status: [LIMIT] x\nAuth-Error-Code: INUSE", refused("x", Some("INUSE"), None)),
        ("Auth-Status: [ [ALERT x] y", refused("ALERT x] y", None, None)),
        ("Auth-Status: ok", refused("ok", None, None)),
        ("Auth-Status: a\tb\u{202e}c", refused("a\\u{9}b\\u{202e}c", None, None)),
        (&with_long, refused(&cut, None, None)),
    ];
    for (said, expected) in table {
        assert_eq!(&reply::answer(b"u", &fields(said)).unwrap(), expected, "{said}");
    }
}

#[test]
fn what_is_wrong_with_an_answer_is_named() {
    let long = format!("{OK}\nAuth-User: {}", "x".repeat(8193));
    let long_name = format!("Auth-Status: OK\nAuth-Server: {}com", "abc.".repeat(63));
    let table: &[(&str, &str)] = &[
        ("X: 1", "Auth-Status is missing"),
        ("Auth-Status: ", "Auth-Status is empty"),
        ("Auth-Status: OK\nAuth-Status: OK\nAuth-Server: a", "Auth-Status is there twice"),
        ("Auth-Status: WAIT\nAuth-Wait: 1", "Auth-Status is WAIT, which is not supported: answer OK, or a text"),
        ("Auth-Status: OK", "Auth-Server is missing"),
        ("Auth-Status: OK\nAuth-Server: ", "Auth-Server is empty"),
        ("Auth-Status: OK\nAuth-Server: a\nauth-server: b", "Auth-Server is there twice"),
        ("Auth-Status: OK\nAuth-Server: a b", "Auth-Server is \"a b\", neither name nor address"),
        ("Auth-Status: OK\nAuth-Server: a:143", "Auth-Server is \"a:143\", neither name nor address"),
        ("Auth-Status: OK\nAuth-Server: 127.1", "Auth-Server is \"127.1\", neither name nor address"),
        ("Auth-Status: OK\nAuth-Server: 0x7f000001", "Auth-Server is \"0x7f000001\", neither name nor address"),
        ("Auth-Status: OK\nAuth-Server: 192.0.2.256", "Auth-Server is \"192.0.2.256\", neither name nor address"),
        ("Auth-Status: OK\nAuth-Server: unix:/a", "Auth-Server is \"unix:/a\", neither name nor address"),
        ("Auth-Status: OK\nAuth-Server: a\u{202e}", "Auth-Server is \"a\\u{202e}\", neither name nor address"),
        ("Auth-Status: OK\nAuth-Server: a..b", "Auth-Server is \"a..b\", neither name nor address"),
        (&format!("{OK}\nAuth-Port: 0"), "Auth-Port is \"0\", no port"),
        (&format!("{OK}\nAuth-Port: 65536"), "Auth-Port is \"65536\", no port"),
        (&format!("{OK}\nAuth-Port: +143"), "Auth-Port is \"+143\", no port"),
        (&format!("{OK}\nAuth-Port: imap"), "Auth-Port is \"imap\", no port"),
        (&format!("{OK}\nAuth-Port:"), "Auth-Port is empty"),
        (&format!("{OK}\nAuth-User:"), "Auth-User is empty"),
        (&format!("{OK}\nAuth-User: a\nAuth-User: a"), "Auth-User is there twice"),
        (&format!("{OK}\nAuth-Pass: a\tb"), "Auth-Pass has a control character in it"),
        (&long, "Auth-User has 8193 octets"),
        ("Auth-Status: no\nAuth-Wait: 1 s", "Auth-Wait is \"1 s\", no number of seconds"),
        ("Auth-Status: no\nAuth-Wait: 99999999999", "Auth-Wait is \"99999999999\", no number of seconds"),
    ];
    for (said, expected) in table {
        let fault = reply::answer(b"u", &fields(said)).unwrap_err();
        assert_eq!(fault.to_string(), format!("its answer cannot be used: {expected}"), "{said}");
    }
    assert!(reply::answer(b"u", &fields(&long_name)).is_err());
}

fn fields(said: &str) -> HeaderMap {
    let field = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.trim_matches(' ').as_bytes()).unwrap())
    };
    said.split('\n').map(field).collect()
}

/// A field's value, as services write it and as they should not.
const VALUE: &str = "(OK|[0-9]{1,6}|\\[?[A-Z]{1,9}\\]?|[ -~\u{80}-\u{2fff}\t]{0,40})";

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_the_same(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        let encoded = request::encoded(&octets);
        prop_assert_eq!(percent_encoding::percent_decode(encoded.as_bytes()).collect::<Vec<_>>(), octets);
        prop_assert!(encoded.as_bytes().iter().all(|octet| !octet.is_ascii_control() && *octet != b' '));
    }

    #[test]
    fn no_answer_is_more_than_it_may_be(
        said in proptest::collection::vec((0..8usize, VALUE), 0..9),
    ) {
        let names = ["auth-status", "auth-server", "auth-port", "auth-user", "auth-pass", "auth-wait",
            "auth-error-code", "other"];
        let mut fields = HeaderMap::new();
        for (name, value) in &said {
            fields.append(names[*name], HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        match reply::answer(b"u", &fields) {
            Ok(Answer::Server { host, port, user, .. }) => {
                prop_assert!(!host.is_empty() && host.bytes().all(|octet| octet.is_ascii_graphic()));
                prop_assert!(port != Some(0));
                prop_assert!(user.is_none_or(|user| !user.is_empty() && !user.iter().any(u8::is_ascii_control)));
            }
            Ok(Answer::Refused(Denial { text, code, .. })) => {
                prop_assert!(!text.contains(char::is_control) && !text.starts_with('[') && !text.is_empty());
                let of_code = |octet: u8| octet.is_ascii_uppercase() || octet.is_ascii_digit() || octet == b'-';
                prop_assert!(code.is_none_or(|code| !code.is_empty() && code.bytes().all(of_code)));
            }
            Err(fault) => prop_assert!(!fault.to_string().contains(char::is_control)),
        }
    }
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        Lookup::new(settings, Net::System).map(|_| ()).unwrap_err()
    };
    let url = |url: &str| refused(&|settings: &mut Settings| url.clone_into(&mut settings.url));
    assert_eq!(url("https://a/?key=1"), "\"https://a/\" asks for https, which is not supported yet: use http");
    assert_eq!(
        url("a/b?key=1"),
        "\"a/b\" does not begin with http://".replace("does not begin with http://", "is no URL")
    );
    assert_eq!(url("unix:/a"), "\"unix:/a\" is no URL");
    assert_eq!(url("a"), "\"a\" does not begin with http://");
    assert_eq!(url("http:///a"), "\"http:///a\" is no URL");
    assert_eq!(url("http://a:0/"), "\"http://a:0/\" has a port that is none");
    assert_eq!(url("http://a:65536/"), "\"http://a:65536/\" has a port that is none");
    assert!(!url("http://u:pw@a/").contains("pw"));
    let header = |name: &str, value: &[u8]| {
        let header = (name.to_owned(), Secret::copy_of(value));
        refused(&|settings: &mut Settings| settings.headers = vec![header.clone(), header.clone()])
    };
    assert_eq!(header("auth-USER", b"a"), "\"auth-USER\" is a header that the lookup itself sends");
    assert_eq!(header("Host", b"a"), "\"Host\" is a header that the lookup itself sends", "twice");
    assert!(header("Transfer-Encoding", b"a").contains("itself"));
    for (name, value) in [("A B", &b"x"[..]), ("A", b"x\r\nB: 1"), ("", b"")] {
        let told = header(name, value);
        assert!(told.contains("cannot be sent") && !told.contains("B: 1"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_shown() {
    let (_, lookup) = Stage::new(
        |_| says(&format!("{OK}\nAuth-Port: 1234567\nAuth-Pass: hunter2")),
        |settings| {
            settings.send_password = true;
            settings.headers = vec![("Authorization".to_owned(), Secret::copy_of(b"hunter2"))];
            settings.url = "http://192.0.2.2/auth?key=hunter2".to_owned();
        },
    );
    let question = Question { secret: Some(Secret::copy_of(b"hunter2")), ..question("a") };
    let key = lookup.key(&question);
    let (service, settings) =
        (format!("{:?}", lookup.connections.service.request(&question).headers()), &lookup.settings);
    let headers = &settings.headers;
    let shown = format!("{question:?} {key:?} {lookup:?} {service} {headers:?}");
    let error = lookup.ask(question, false).await.unwrap_err();
    let shown = format!("{shown} {error} {error:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(
        error.to_string(),
        "lookup at http://192.0.2.2/auth: its answer cannot be used: Auth-Port is \"1234567\", no port"
    );
}

#[tokio::test(start_paused = true)]
async fn one_deadline_is_over_all() {
    let drip: Vec<_> = "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\n"
        .bytes()
        .flat_map(|octet| [Act::Say(vec![octet]), Act::Wait(Duration::from_millis(500))])
        .collect();
    let half = vec![Act::Say(b"HTTP/1.1 200 OK\r\nAuth-Status: O".to_vec()), Act::Hang];
    for acts in [vec![Act::Hang], half, drip] {
        let (stage, lookup) = Stage::acts([acts]);
        let start = Instant::now();
        assert_eq!(told(&lookup, "a").await, "lookup at http://192.0.2.2/auth: no answer within 5s");
        assert_eq!(start.elapsed(), seconds(5));
        sleep(Duration::from_millis(600)).await;
        assert_eq!(stage.open().0, 0, "the connection is given up");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_an_error() {
    let head =
        |status: &str| vec![Act::Say(format!("HTTP/1.1 {status}\r\n{}\r\n", lines(OK)).into_bytes()), Act::Close];
    let many = format!("{OK}{}", "\nX: 1".repeat(100));
    let table = [
        (head("502 Bad Gateway"), "answered 502"),
        (head("302 Found"), "answered 302"),
        (head("101 Switching"), "answered 101"),
        (vec![Act::Close], "the connection ended before the answer"),
        (vec![Act::Say(b"HTTP/1.1 200 OK\r\nAuth-St".to_vec()), Act::Close], "the connection ended before the answer"),
        (vec![Act::Say(b"* OK IMAP4rev1 ready\r\n".to_vec()), Act::Hang], "answered what is no HTTP response"),
        (vec![Act::Say(b"HTTP/1.1 200 OK\r\nAuth-Status: O\0K\r\n\r\n".to_vec())], "answered what is no HTTP response"),
        (
            vec![Act::Say(b"HTTP/1.1 200 OK\r\n".to_vec()), Act::Endless(b"X: 0123456789\r\n")],
            "or one with more than 64 KiB",
        ),
        (
            vec![Act::Say(b"HTTP/1.1 200 OK\r\nX: ".to_vec()), Act::Endless(b"0123456789")],
            "or one with more than 64 KiB",
        ),
        (says(&many), "or one with more than 64 KiB or 100 fields in its head"),
    ];
    for (acts, expected) in table {
        let (stage, lookup) = Stage::acts([acts]);
        let start = Instant::now();
        let told = told(&lookup, "a").await;
        assert!(told.starts_with("lookup at http://192.0.2.2/auth: ") && told.contains(expected), "{told}");
        assert_eq!((stage.asked(), start.elapsed()), (1, Duration::ZERO), "{expected}");
        sleep(Duration::from_millis(1)).await;
        assert_eq!(stage.open().0, 0, "{expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_not_waited_for_long_and_its_connection_closed() {
    let head = |more: &str| format!("HTTP/1.1 200 OK\r\n{}{more}\r\n", lines(OK)).into_bytes();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let short = [&head(chunked)[..], b"3\r\nabc\r\n0\r\n\r\n"].concat();
    let table = [
        // What says it, how long it takes, whether the connection is used again.
        (vec![Act::Say(head("Content-Length: 0\r\n"))], 0, true),
        (vec![Act::Say(head("Content-Length: 5\r\n")), Act::Say(b"abcde".to_vec())], 0, true),
        (vec![Act::Say(short)], 0, true),
        (vec![Act::Say(b"HTTP/1.1 204 No\r\nAuth-Status: OK\r\nAuth-Server: a\r\n\r\n".to_vec())], 0, true),
        (
            vec![
                Act::Say(head("Content-Length: 5\r\n")),
                Act::Wait(Duration::from_millis(50)),
                Act::Say(b"abcde".to_vec()),
            ],
            50,
            true,
        ),
        (vec![Act::Say(head("Content-Length: 5\r\n")), Act::Hang], 100, false),
        (vec![Act::Say(head("Content-Length: 65537\r\n")), Act::Hang], 0, false),
        (vec![Act::Say(head(chunked)), Act::Endless(b"4\r\nabcd\r\n")], 0, false),
        (vec![Act::Say(head(chunked)), Act::Say(b"x\r\n".to_vec()), Act::Hang], 0, false),
        (vec![Act::Say(head("")), Act::Endless(b"abc")], 0, false),
        (vec![Act::Say(head("")), Act::Hang], 0, false),
        (vec![Act::Say(head("Connection: close\r\nContent-Length: 0\r\n")), Act::Hang], 0, false),
    ];
    for (index, (acts, time, again)) in table.into_iter().enumerate() {
        let (stage, lookup) = Stage::new(move |_| acts.clone(), |_| {});
        let start = Instant::now();
        lookup.ask(question("a"), false).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(time), "{index}");
        sleep(Duration::from_millis(1)).await;
        assert_eq!(stage.open().0, usize::from(again), "{index}");
        lookup.ask(question("b"), false).await.unwrap();
        assert_eq!(stage.dials(), if again { 1 } else { 2 }, "{index}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let then = |end| [says(OK), vec![end]].concat();
    // Between two questions; and when the second has been asked.
    let (stage, lookup) = Stage::acts([then(Act::Close), says(OK)]);
    lookup.ask(question("a"), false).await.unwrap();
    sleep(seconds(1)).await;
    lookup.ask(question("b"), false).await.unwrap();
    assert_eq!((stage.dials(), stage.asked()), (2, 2));
    let (stage, lookup) = Stage::acts([says(OK), vec![Act::Close], says(OK)]);
    lookup.ask(question("a"), false).await.unwrap();
    lookup.ask(question("b"), false).await.unwrap();
    assert_eq!((stage.dials(), stage.asked()), (2, 3));
    // Once: a new one that is closed is an error.
    let (stage, lookup) = Stage::acts([says(OK), vec![Act::Close], vec![Act::Close], says(OK)]);
    lookup.ask(question("a"), false).await.unwrap();
    assert!(told(&lookup, "b").await.contains("the connection ended before the answer"));
    assert_eq!((stage.dials(), stage.asked()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_burst_makes_do_with_few_connections() {
    let slow = || [vec![Act::Wait(Duration::from_millis(10))], says(OK)].concat();
    let (stage, lookup) = Stage::new(move |_| slow(), |_| {});
    for round in 0..3 {
        let mut asking = JoinSet::new();
        for user in 0..1000 {
            let lookup = Arc::clone(&lookup);
            asking.spawn(async move { lookup.ask(question(&format!("{round}-{user}")), false).await.unwrap() });
        }
        asking.join_all().await;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(stage.open(), (8, 64), "those that are kept, and those at once");
        assert_eq!(stage.dials(), 64 + round * 56);
    }
    assert_eq!(stage.asked(), 3000);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_waits_within_the_deadline() {
    let (stage, lookup) = Stage::new(|_| vec![Act::Hang], |_| {});
    let start = Instant::now();
    let mut asking = JoinSet::new();
    for user in 0..5000 {
        let lookup = Arc::clone(&lookup);
        asking.spawn(async move { (told(&lookup, &user.to_string()).await, Instant::now()) });
    }
    let outcomes = asking.join_all().await;
    let with = |part: &str| outcomes.iter().filter(|(told, _)| told.contains(part)).count();
    assert_eq!((with("no answer within 5s"), with("too many questions wait")), (4096, 5000 - 4096));
    assert!(outcomes.iter().all(|(_, at)| *at <= start + seconds(5)));
    assert_eq!((stage.dials(), stage.open().1), (64, 64));
    assert!(lookup.flights.len() == 0);
}

#[tokio::test(start_paused = true)]
async fn answers_are_kept_for_their_time() {
    let fields = |request: &str| match request {
        _ if request.contains("Auth-User: ok") => says(OK),
        _ if request.contains("Auth-User: wait") => says("Auth-Status: no\nAuth-Wait: 3"),
        _ => says("Auth-Status: no\nAuth-Wait: 30"),
    };
    for (user, good) in [("ok", 60), ("wait", 3), ("no", 10)] {
        let (stage, lookup) = Stage::new(fields, |_| {});
        told(&lookup, user).await;
        advance(seconds(good) - Duration::from_millis(1)).await;
        told(&lookup, user).await;
        assert_eq!(stage.asked(), 1, "{user}");
        advance(Duration::from_millis(1)).await;
        told(&lookup, user).await;
        assert_eq!(stage.asked(), 2, "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_serves_in_need_whoever_has_sessions() {
    let (stage, lookup) =
        Stage::new(|request| says(if request.contains("b") { "Auth-Status: no" } else { OK }), |_| {});
    for user in ["a", "b"] {
        lookup.ask(question(user), false).await.unwrap();
    }
    advance(seconds(60)).await;
    stage.set_down(true);
    assert_eq!(*lookup.ask(question("a"), true).await.unwrap(), server("192.0.2.9"));
    for (user, in_use) in [("a", false), ("b", true), ("c", true)] {
        let error = lookup.ask(question(user), in_use).await.unwrap_err();
        assert!(error.to_string().contains("cannot connect to 192.0.2.2:80: connection refused"), "{error}");
    }
    advance(seconds(600)).await;
    lookup.ask(question("a"), true).await.unwrap_err();
    stage.set_down(false);
    advance(seconds(2)).await;
    lookup.ask(question("a"), true).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_gone_is_left_alone_and_found_again() {
    let (stage, lookup) = Stage::new(|_| says(OK), |_| {});
    stage.set_down(true);
    let start = Instant::now();
    let mut user = 0;
    while start.elapsed() < seconds(60) {
        user += 1;
        let error = lookup.ask(question(&user.to_string()), false).await.unwrap_err();
        assert!(error.to_string().contains("cannot connect"), "{error}");
        sleep(Duration::from_millis(10)).await;
    }
    assert!((30..45).contains(&stage.dials()), "{} dials", stage.dials());
    stage.set_down(false);
    advance(seconds(2)).await;
    lookup.ask(question("a"), false).await.unwrap();
    lookup.ask(question("b"), false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_user_at_whom_the_service_fails_is_nobody_elses_fault() {
    let bad = |request: &str| match request {
        _ if request.contains("Auth-User: bad") => {
            vec![Act::Say(b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n".to_vec())]
        }
        _ if request.contains("Auth-User: odd") => says("Auth-Status: OK"),
        _ => says(OK),
    };
    let (stage, lookup) = Stage::new(bad, |_| {});
    for user in 0..20 {
        assert!(told(&lookup, "bad").await.ends_with("answered 500"));
        assert!(told(&lookup, "odd").await.ends_with("Auth-Server is missing"));
        told(&lookup, &format!("bad{user}")).await;
        lookup.ask(question(&user.to_string()), false).await.unwrap();
    }
    assert_eq!(stage.asked(), 2 + 20 + 20, "not the same question again and again");
    advance(seconds(1)).await;
    told(&lookup, "bad").await;
    assert_eq!(stage.asked(), 43);
}

#[tokio::test(start_paused = true)]
async fn equal_questions_share_one_request_whoever_leaves() {
    let (stage, lookup) = Stage::new(|_| [vec![Act::Wait(seconds(1))], says(OK)].concat(), |_| {});
    let ask = || {
        let lookup = Arc::clone(&lookup);
        tokio::spawn(async move { lookup.ask(question("a"), false).await.unwrap() })
    };
    let first = ask();
    let others: Vec<_> = (0..100).map(|_| ask()).collect();
    sleep(Duration::from_millis(500)).await;
    first.abort();
    let start = Instant::now();
    for other in others {
        assert_eq!(*other.await.unwrap(), server("192.0.2.9"));
    }
    assert_eq!((stage.asked(), start.elapsed()), (1, Duration::from_millis(500)));
    assert!(lookup.flights.len() == 0);
}

#[tokio::test(start_paused = true)]
async fn the_answer_goes_with_all_that_was_sent() {
    for send_password in [false, true] {
        let (stage, lookup) = Stage::new(|_| says(OK), |settings| settings.send_password = send_password);
        let with =
            |secret: &str, client: [u8; 4], mechanism, server: Option<&str>, tls, server_name: Option<&str>| Question {
                user: b"a".to_vec(),
                secret: Some(Secret::copy_of(secret.as_bytes())),
                mechanism,
                client: Some(client.into()),
                server: server.map(|server| server.parse().unwrap()),
                tls,
                server_name: server_name.map(str::to_owned),
                attempt: 1,
            };
        let questions = [
            with("p", [1; 4], "plain", None, None, None),
            with("p", [1; 4], "oauthbearer", None, None, None),
            with("p", [1; 4], "plain", Some("192.0.2.1:143"), None, None),
            with("p", [1; 4], "plain", None, Some("TLSv1.2"), None),
            with("p", [1; 4], "plain", None, Some("TLSv1.2"), Some("a.example")),
            with("q", [1; 4], "plain", None, None, None),
            with("p", [2; 4], "plain", None, None, None),
        ];
        for question in &questions {
            for attempt in 1..3 {
                lookup.ask(Question { attempt, ..question.clone() }, false).await.unwrap();
            }
        }
        assert_eq!(stage.asked(), if send_password { 7 } else { 5 });
    }
}

/// Closed by us, it would be in TIME_WAIT here otherwise.
#[tokio::test]
async fn a_connection_that_we_close_is_reset() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        let said = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", lines(OK));
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.read_buf(&mut request).await
    });
    let url = format!("http://localhost:{}/auth", address.port());
    let lookup = Lookup::new(Settings { url, ..settings() }, Net::System).unwrap();
    lookup.ask(question("a"), false).await.unwrap();
    drop(lookup);
    let ended = tokio::time::timeout(seconds(20), service).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
