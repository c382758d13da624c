//! Who reads what a command prints may stop; where the configuration is; and what the environment says.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;

use crate::place::{Done, Place};

const GOOD: &str =
    "[[listener]]\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"127.0.0.1:9\"\n[admin]\naddress = \"\"\n";

/// With a standard output, or error, whose reader has gone.
fn unread(place: &Place, arguments: &[&str], error: bool) -> Done {
    let mut command = place.command(arguments);
    let (ours, theirs) = nix::unistd::pipe().unwrap();
    drop(ours);
    if error {
        command.stderr(Stdio::from(theirs))
    } else {
        command.stdout(Stdio::from(theirs))
    };
    command.output().unwrap().into()
}

#[test]
fn a_reader_that_stops_is_no_failure() {
    let place = Place::new();
    place.write("good.toml", GOOD);
    place.write("other.toml", format!("{GOOD}[pool]\nlinger = \"1s\"\n"));
    place.write("imapproxy.conf", "server_hostname mail.example.org\n");
    for arguments in [
        &["check", "-c", "good.toml"][..],
        &["check", "-c", "good.toml", "--diff=other.toml"],
        &["check", "--help"],
        &["import", "imapproxy.conf"],
    ] {
        let done = unread(&place, arguments, false);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
    // What failed has failed all the same, also where nobody hears of it.
    place.write("wrong.toml", "x");
    assert_eq!(unread(&place, &["check", "-c", "wrong.toml"], true).code, Some(2));
    assert_eq!(unread(&place, &["status", "--admin", "127.0.0.1:1"], true).code, Some(1));
}

/// Answers as the admin address does; gives what it was asked.
fn admin(body: &'static str) -> (String, thread::JoinHandle<String>) {
    use std::io::Write as _;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&head[..length]).into_owned()
    });
    (address, asked)
}

#[test]
fn status_and_ctl_may_be_cut_off_too() {
    let place = Place::new();
    for (arguments, body) in [
        (&["status"][..], "{\"ready\":true,\"backends\":[{}]}"),
        (&["status", "--json"], "{\"ready\":true}"),
        (&["ctl", "reload"], "{\"changes\":[]}"),
    ] {
        let (address, asked) = admin(body);
        let done = unread(&place, &[arguments, &["--admin", &address]].concat(), false);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        asked.join().unwrap();
    }
}

/// It says where imapool is, for all commands; `check` needs it only for --diff.
#[test]
fn the_variable_for_the_admin_address_breaks_nothing() {
    let place = Place::new();
    place.write("imapool.toml", GOOD);
    for value in ["127.0.0.1:1", "", "nonsense"] {
        let mut command = place.command(&["check", "-c", "imapool.toml"]);
        let done = Done::from(command.env("IMAPOOL_ADMIN", value).output().unwrap());
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{value:?}");
    }
    let mut command = place.command(&["check", "-c", "imapool.toml", "--diff"]);
    let done = Done::from(command.env("IMAPOOL_ADMIN", "127.0.0.1:1").output().unwrap());
    assert_eq!(done.code, Some(1));
    let words = "imapool cannot be reached at 127.0.0.1:1: Connection refused (os error 111); is it running";
    assert!(done.stderr.contains(words) && done.stderr.matches("refused").count() == 1, "{done:?}");
}

#[test]
fn every_command_takes_the_configuration_by_one_letter() {
    let place = Place::new();
    let (address, asked) = admin("{\"ready\":true}");
    let text = GOOD.replace("address = \"\"", &format!("address = \"{address}\"\ntoken_file = \"secret\""));
    place.write("imapool.toml", text);
    // Nobody but imapool need be able to read what its configuration names: there is no such token here.
    let mut command = place.command(&["status", "-c", "imapool.toml"]);
    let done = Done::from(command.env("IMAPOOL_ADMIN", "").output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert!(asked.join().unwrap().starts_with("GET /api/summary"));
    let done = place.run(&["ctl", "-c", "imapool.toml", "reload"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("the admin token cannot be read from secret"), "{done:?}");
    let done = place.run(&["top", "-c", "missing.toml"]);
    assert!(done.stderr.contains("missing.toml: cannot read the configuration"), "{done:?}");
}

/// Where there is none, that file is named: a test of the package has one there.
#[test]
fn without_a_name_it_is_the_usual_file() {
    let place = Place::new();
    if std::path::Path::new("/etc/imapool/imapool.toml").exists() {
        return;
    }
    for command in ["check", "run"] {
        let done = place.run(&[command]);
        assert_eq!(done.code, Some(2));
        let wanted = "/etc/imapool/imapool.toml: cannot read the configuration: No such file";
        assert!(done.stderr.starts_with(wanted), "{done:?}");
    }
    for command in ["run", "check", "status", "top", "ctl"] {
        let help = place.run(&[command, "--help"]).stdout;
        assert!(help.contains("/etc/imapool/imapool.toml") && help.contains("-c, --config <FILE>"), "{help}");
    }
}
