//! `imapool check` loads what `imapool run` loads, and refuses what that refuses: with the same words, at the same
//! place, and within a moment, whatever is there in place of a file.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rcgen::KeyPair;

use crate::place::{Done, Place};

const BACKEND: &str = "[[backend]]\naddress = \"127.0.0.1:9\"\n";

/// A listener with the pair of files.
fn secure() -> String {
    let files = "certificate = \"cert.pem\"\nprivate_key = \"key.pem\"";
    format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n{files}\n{BACKEND}[admin]\naddress = \"\"\n"
    )
}

/// Both refuse it by the same line.
#[track_caller]
fn refused(place: &Place, text: &str, wanted: &str) -> Done {
    let checked = place.check(text, &[]);
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(2), ""), "{wanted}: {checked:?}");
    assert!(checked.stderr.contains(wanted), "{wanted}: {checked:?}");
    let run = place.run(&["run", "-c", "imapool.toml"]);
    assert!(matches!(run.code, Some(1 | 2)), "{run:?}");
    let told = checked.stderr.lines().next().unwrap();
    assert!(run.stderr.contains(told), "run says {}, check says {told}", run.stderr);
    checked
}

#[test]
fn tls_files_that_run_refuses() {
    let place = Place::new();
    assert_eq!(place.check(secure(), &[]).stderr, "");
    let (certificate, key) = (place.read("cert.pem"), place.read("key.pem"));
    let stranger = KeyPair::generate().unwrap().serialize_pem();
    let legacy =
        key.replace("PRIVATE KEY-----\n", "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n");
    let at_certificate = "imapool.toml:5:15: listener \"web\": ";
    let at_key = "imapool.toml:6:15: listener \"web\": ";
    for (file, text, at, words) in [
        (
            "key.pem",
            stranger.as_str(),
            at_key,
            "the private key in key.pem does not belong to the certificate in cert.pem",
        ),
        ("key.pem", "", at_key, "key.pem holds no private key"),
        ("key.pem", &certificate, at_key, "key.pem holds no private key"),
        ("key.pem", &key.replace("PRIVATE", "ENCRYPTED PRIVATE"), at_key, "not encrypted"),
        ("key.pem", &legacy, at_key, "key.pem"),
        ("key.pem", &key[..key.len() / 2], at_key, "key.pem"),
        ("cert.pem", "", at_certificate, "cert.pem holds no certificate"),
        ("cert.pem", &key, at_certificate, "cert.pem holds no certificate"),
        ("cert.pem", &certificate[..certificate.len() / 2], at_certificate, "cert.pem is not valid PEM"),
        ("cert.pem", &certificate.replace("\nMI", "\nAA"), at_certificate, "cert.pem"),
        ("cert.pem", "\u{0}\u{1}\u{2}", at_certificate, "cert.pem holds no certificate"),
    ] {
        place.write("cert.pem", &certificate);
        place.write("key.pem", &key);
        place.write(file, text);
        let done = refused(&place, &secure(), at);
        assert!(done.stderr.contains(words) && done.stderr.lines().count() == 1, "{words}: {done:?}");
    }
}

/// Those that are named are refused as the listener's own one is; in a folder, each is named, and the others serve.
#[test]
fn further_certificates() {
    let place = Place::new();
    let with = |certificates: &str| {
        secure().replace("tls = \"implicit\"\n", &format!("tls = \"implicit\"\ncertificates = [\"{certificates}\"]\n"))
    };
    let (certificate, key) = (place.read("cert.pem"), place.read("key.pem"));
    fs::create_dir(place.path("certs")).unwrap();
    place.write("certs/good.pem", format!("{certificate}{key}"));
    let done = place.check(with("certs"), &[]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    let done = refused(&place, &with("none"), "imapool.toml:5:16: `listener.certificates` cannot be ");
    assert!(done.stderr.contains("none cannot be read: No such file"), "{done:?}");

    place.write("broken.pem", &certificate);
    refused(&place, &with("broken.pem"), "imapool.toml:5:16: listener \"web\": broken.pem holds no private key");
    place.write("certs/one.pem", &certificate);
    place.write("certs/two.pem", "");
    place.issue(-90, 3);
    place.write("certs/soon.pem", format!("{}{}", place.read("cert.pem"), place.read("key.pem")));
    place.issue(-90, 60);
    let done = place.check(with("certs"), &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for wanted in [
        "listener \"web\": not all of its certificates are shown: certs/one.pem holds no private key",
        "listener \"web\": not all of its certificates are shown: certs/two.pem holds no certificate",
        "listener \"web\": a certificate in certs/soon.pem expires at ",
    ] {
        assert!(done.stderr.contains(wanted), "{wanted}: {done:?}");
    }
    assert_eq!(done.stderr.lines().count(), 3, "{done:?}");
}

/// The authorities of clients, and what is shown to a backend.
#[test]
fn certificates_both_ways() {
    let place = Place::new();
    let with = |ca: &str, certificate: &str, key: &str| {
        let text =
            secure().replace("tls = \"implicit\"\n", &format!("tls = \"implicit\"\nclient_ca_file = \"{ca}\"\n"));
        let ours = format!("certificate = \"{certificate}\"\nprivate_key = \"{key}\"\n");
        text.replace(
            BACKEND,
            &format!("[[backend]]\nname = \"main\"\naddress = \"127.0.0.1:9\"\ntls = \"implicit\"\n{ours}"),
        )
    };
    let stranger = KeyPair::generate().unwrap().serialize_pem();
    place.write("other.pem", stranger);
    let done = place.check(with("ca.pem", "cert.pem", "key.pem"), &[]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    refused(
        &place,
        &with("other.pem", "cert.pem", "key.pem"),
        "imapool.toml:5:18: listener \"web\": other.pem holds no",
    );
    refused(&place, &with("ca.pem", "key.pem", "key.pem"), "backend \"main\": key.pem holds no certificate");
    refused(
        &place,
        &with("ca.pem", "cert.pem", "other.pem"),
        "imapool.toml:13:15: backend \"main\": the private key in ",
    );
    refused(&place, &with("ca.pem", "cert.pem", "none.pem"), "imapool.toml:13:15: `backend.private_key` cannot be ");
    refused(
        &place,
        &with("none.pem", "cert.pem", "key.pem"),
        "imapool.toml:5:18: `listener.client_ca_file` cannot be ",
    );
}

#[test]
fn what_is_no_file_is_told_at_once() {
    let place = Place::new();
    let key = place.path("key.pem");
    let refuse = |words: &str| {
        let done = refused(&place, &secure(), "imapool.toml:6:15: `listener.private_key` cannot be \"key.pem\": ");
        assert!(done.stderr.contains(words), "{done:?}");
    };
    fs::remove_file(&key).unwrap();
    refuse("No such file");
    fs::create_dir(&key).unwrap();
    refuse("is a directory");
    fs::remove_dir(&key).unwrap();
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refuse("not a regular file");
    fs::remove_file(&key).unwrap();
    File::create(&key).unwrap().set_len(1 << 30).unwrap();
    refuse("longer than 1.0 MiB");
    fs::remove_file(&key).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &key).unwrap();
    refuse("not a regular file");
    fs::remove_file(&key).unwrap();
    std::os::unix::fs::symlink("key.pem", &key).unwrap();
    refuse("cannot be read");
}

#[test]
fn authorities_tokens_and_ports() {
    let place = Place::new();
    let text = |backend: &str, rest: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{BACKEND}name = \"mail\"\n{backend}\n[admin]\naddress = \"127.0.0.1:0\"\n{rest}"
        )
    };
    let tls = "tls = \"starttls\"\nca_file = \"ca.pem\"";
    let done = place.check(text(tls, ""), &[]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    place.write("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    refused(&place, &text(tls, ""), "imapool.toml:7:11: backend \"mail\": a certificate in ca.pem cannot be used: ");
    place.write("ca.pem", "");
    refused(&place, &text(tls, ""), "imapool.toml:7:11: backend \"mail\": ca.pem holds no certificate");
    let range = "source_port_range = \"1-5\"";
    let done = refused(&place, &text(range, ""), "imapool.toml:6:21: backend \"mail\": source_port_range");
    assert!(done.stderr.contains("take a part of them") || done.stderr.contains("Linux 6.3"), "{done:?}");
    let token = "token_file = \"token\"\n";
    place.write("token", "short");
    refused(&place, &text("", token), ": the admin token in token must have at least 16");
    File::create(place.path("token")).unwrap().set_len(1 << 30).unwrap();
    refused(
        &place,
        &text("", token),
        "`admin.token_file` cannot be \"token\": the file cannot be read: longer than 4.0 KiB",
    );
}

/// One run of `check` is enough to know what is to be done.
#[test]
fn all_that_is_wrong_is_told_at_once() {
    let place = Place::new();
    place.write("empty.pem", "");
    let listener = |name: &str, key: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\ncertificate = \"cert.pem\"\n\
             private_key = \"{key}\"\n"
        )
    };
    let text = listener("one", "empty.pem")
        + &listener("two", "key.pem")
        + &listener("three", "ca.pem")
        + "[[backend]]\naddress = \"localhost:9\"\ntls = \"starttls\"\nca_file = \"empty.pem\"\n";
    let done = place.check(text, &[]);
    let told: Vec<_> = done.stderr.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(told, ["imapool.toml:6:15", "imapool.toml:18:15", "imapool.toml:22:11"], "{done:?}");
}

#[test]
fn certificates_that_are_not_good_for_long() {
    let place = Place::new();
    for (from, until, words) in [
        (-60, -1, "listener \"web\": a certificate in cert.pem expired at 20"),
        (-60, 5, "listener \"web\": a certificate in cert.pem expires at 20"),
        (1, 60, "listener \"web\": a certificate in cert.pem is good only from 20"),
    ] {
        place.issue(from, until);
        let done = place.check(secure(), &[]);
        assert_eq!(done.code, Some(0));
        assert!(done.stderr.starts_with(&format!("imapool.toml: warning: {words}")), "{done:?}");
        // The log of what runs tells it, too.
        let mut command = place.command(&["run", "-c", "imapool.toml"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(log.any(|line| line.contains("WARN") && line.contains(words)), "{words}");
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
        drop((log, child.wait()));
    }
    // The authority of a backend, too.
    fs::copy(place.path("cert.pem"), place.path("ca.pem")).unwrap();
    place.issue(-1, 60);
    let text =
        secure().replace("127.0.0.1:9\"", "localhost:9\"\ntls = \"implicit\"\nca_file = \"ca.pem\"\nname = \"mail\"");
    let done = place.check(text, &[]);
    let wanted = "imapool.toml: warning: backend \"mail\": a certificate in ca.pem is good only from 20";
    assert!(done.stderr.starts_with(wanted), "{done:?}");
}

#[test]
fn a_configuration_that_is_no_file_or_no_text() {
    let place = Place::new();
    let good = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"127.0.0.1:9\"\n";
    // As some editors save it.
    let done = place.check(format!("\u{feff}{good}"), &[]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    let utf16: Vec<u8> = "\u{feff}[[listener]]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let done = place.check(utf16, &[]);
    assert_eq!(
        (done.code, done.stderr.as_str()),
        (
            Some(2),
            "imapool.toml: cannot read the configuration: it is UTF-16: save it as UTF-8 (PowerShell: -Encoding utf8)\n"
        )
    );
    let done = place.check(b"\xe4 = 1", &[]);
    assert_eq!(
        (done.code, done.stderr.as_str()),
        (Some(2), "imapool.toml:1:1: not UTF-8: save the file in that encoding\n")
    );
    let done = place.check("\u{0}".repeat(100_000), &[]);
    assert_eq!((done.code, done.stderr.lines().count()), (Some(2), 1), "{done:?}");
    let file = place.path("imapool.toml");
    for words in ["is a directory", "not a regular file", "longer than 256.0 KiB"] {
        let gone = fs::remove_file(&file);
        gone.or_else(|_| fs::remove_dir(&file)).unwrap();
        match words {
            "is a directory" => fs::create_dir(&file).unwrap(),
            "not a regular file" => nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            _ => File::create(&file).unwrap().set_len(100 << 20).unwrap(),
        }
        for command in [&["check"][..], &["run"], &["status"], &["ctl", "reload"]] {
            let done = place.run(&[command, &["-c", "imapool.toml"]].concat());
            assert!(done.code.is_some_and(|code| [1, 2].contains(&code)), "{command:?}: {done:?}");
            assert!(done.stderr.contains("imapool.toml: cannot read the configuration: "), "{done:?}");
            assert!(done.stderr.contains(words), "{done:?}");
        }
    }
}
