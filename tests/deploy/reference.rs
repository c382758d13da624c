//! What is made from the code is what is committed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use imapool::config::Config;

use crate::support::{find, folder, imapool, read, repository, succeed};

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    // Pictures are not text; nor are they made from the code.
    let text = |entry: &std::fs::DirEntry| {
        Some((entry.file_name().into_string().ok()?, std::fs::read_to_string(entry.path()).ok()?))
    };
    entries.filter_map(|entry| text(&entry)).collect()
}

#[test]
fn the_committed_files_are_current() {
    let made =
        [("man", "deploy/man"), ("completions", "deploy/completions"), ("schema", "config"), ("servers", "docs")];
    for (kind, committed) in made {
        let fresh = folder();
        succeed(imapool().args(["reference", kind]).arg(fresh.path()));
        let (fresh, mut old) = (files(fresh.path()), files(&repository(committed)));
        match kind {
            "schema" => old.retain(|name, _| name.ends_with(".schema.json")),
            "servers" => old.retain(|name, _| name == "servers.md"),
            _ => {}
        }
        let stale: Vec<_> = fresh.keys().chain(old.keys()).filter(|name| fresh.get(*name) != old.get(*name)).collect();
        assert!(stale.is_empty(), "{committed}: {stale:?}: run `cargo run -- reference {kind} {committed}`");
    }
}

#[test]
fn every_command_has_a_man_page_without_faults() {
    let Some(man) = find("man") else { return };
    let help = succeed(imapool().arg("--help"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let pages: Vec<_> = commands.map(|name| format!("deploy/man/imapool-{name}.1")).collect();
    assert!(pages.len() >= 4, "{help}");
    for page in pages.iter().map(String::as_str).chain(["deploy/man/imapool.1", "deploy/man/imapool.toml.5"]) {
        let mut command = Command::new(&man);
        command.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]).arg(repository(page));
        let output = command.env("LC_ALL", "C.UTF-8").output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{page}: {complaints}");
    }
}

#[test]
fn the_completions_are_understood_by_their_shells() {
    for (shell, file) in [("bash", "imapool.bash"), ("zsh", "_imapool"), ("fish", "imapool.fish")] {
        let Some(shell) = find(shell) else { continue };
        succeed(Command::new(shell).arg("-n").arg(repository("deploy/completions").join(file)));
    }
}

#[test]
fn the_example_names_its_schema_and_follows_it() {
    assert!(read("config/imapool.toml").starts_with("#:schema ./imapool.schema.json\n"));
    let Some(taplo) = find("taplo") else { return };
    let schema = format!("file://{}", repository("config/imapool.schema.json").display());
    let lint = |file: &Path| {
        let mut command = Command::new(&taplo);
        command.args(["lint", "--schema", &schema]).arg(file).output().unwrap()
    };
    let good = lint(&repository("config/imapool.toml"));
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let folder = folder();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, read("config/imapool.toml").replace("max_per_account = 4", "max_per_acount = 4")).unwrap();
    assert!(!lint(&file).status.success(), "an unknown key is not noticed");
}

#[test]
fn the_man_pages_say_what_help_does_not() {
    let page = read("deploy/man/imapool.1");
    for heading in ["EXAMPLES", "ENVIRONMENT", "FILES", "SIGNALS", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
        assert!(page.contains(&format!(".SH {heading}\n")), "{heading}");
    }
    // All that the configuration may say, each in its section.
    let page = read("deploy/man/imapool.toml.5");
    for (section, key) in Config::keys().into_iter().filter(|(section, _)| !section.is_empty()) {
        let headings = [format!(".SH [{section}]\n"), format!(".SH [[{section}]]\n")];
        let (_, rest) = headings.iter().find_map(|heading| page.split_once(heading)).unwrap();
        let rest = rest.split(".SH").next().unwrap();
        assert!(rest.contains(&format!("\\fB{key} = ")) || rest.contains(&format!("\\fB#{key} = ")), "{section}.{key}");
    }
}
