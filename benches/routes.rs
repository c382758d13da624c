//! A file of a million lines that says where accounts go: what it takes to read it, and to find one in it.
//! `cargo bench --bench routes`

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufWriter, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result};
use imapool::config::Config;
use imapool::imap::sasl::{Credential, Form, Mechanism};
use imapool::routing::map::Map;
use imapool::routing::name::Names;
use imapool::routing::{By, Target, check, rendezvous};

const LINES: usize = 1_000_000;
const LOOKUPS: usize = 2_000_000;

fn main() -> Result<()> {
    // `cargo test --all-targets` runs benches too.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("users.map");
    let mut file = BufWriter::new(File::create(&path)?);
    for line in 0..LINES {
        writeln!(file, "{} mail{}", user(line), line % 10)?;
    }
    file.flush()?;
    let octets = fs::metadata(&path)?.len();
    println!("a file of {LINES} lines, {:.1} MB", octets as f64 / 1e6);

    let config = Config::parse(&configuration(&path.display().to_string()), "bench")?;
    let begun = Instant::now();
    check(&config)?;
    println!("read, as a start or a reload does it: {:.2} s", begun.elapsed().as_secs_f64());

    let before = resident()?;
    let names = Names { fold: true, ..Names::default() };
    let mut map = Map::default();
    for (number, line) in (1..).zip(fs::read_to_string(&path)?.lines()) {
        map.add(number, line.as_bytes(), &names, |name| name.strip_prefix("mail")?.parse().ok().map(Target::Backend))?;
    }
    map.shrink();
    println!("resident memory for it: {:.0} MB", (resident()? - before) as f64 / 1e6);

    let keys: Vec<Vec<u8>> = (0..LOOKUPS).map(|turn| user(turn * 7919 % (LINES * 2)).into_bytes()).collect();
    let begun = Instant::now();
    let found = keys.iter().filter(|key| black_box(map.get(key, By::Default)).is_some()).count();
    let each = begun.elapsed().as_nanos() as f64 / LOOKUPS as f64;
    println!("a lookup, half of them in vain: {each:.0} ns ({found} of {LOOKUPS} found)");

    let credential = Credential {
        mechanism: Mechanism::Plain,
        user: b"Anna.Example@Example.ORG".to_vec(),
        authzid: Vec::new(),
        secret: imapool::secret::Secret::copy_of(b"secret"),
        forms: [Form::Quoted; 2],
    };
    let begun = Instant::now();
    for _ in 0..LOOKUPS {
        black_box(names.key(&credential.user, &credential.authzid));
    }
    println!("what a name is known by: {:.0} ns", begun.elapsed().as_nanos() as f64 / LOOKUPS as f64);

    let members: Vec<_> = (0..10).map(|number| format!("mail{number}")).collect();
    let begun = Instant::now();
    for key in keys.iter().take(LOOKUPS / 10) {
        black_box(rendezvous::pick(key, members.iter().map(|name| (name.as_str(), 100))));
    }
    println!("one of ten backends by hash: {:.0} ns", begun.elapsed().as_nanos() as f64 * 10.0 / LOOKUPS as f64);
    Ok(())
}

fn user(number: usize) -> String {
    format!("user{number}@domain{}.example.org", number % 5000)
}

fn configuration(file: &str) -> String {
    let backends: String =
        (0..10).map(|n| format!("[[backend]]\nname = \"mail{n}\"\naddress = \"192.0.2.{n}:143\"\n")).collect();
    format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{backends}[[route]]\nfile = \"{file}\"\n")
}

fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
