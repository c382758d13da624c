//! The man pages: of the command line by clap's, with what clap does not know of; and imapool.toml(5), which says what
//! config/imapool.toml says.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::roff::{Roff, bold, roman};
use imapool::schema::{EXPLAINED, setting};

/// Entries of one section: what it is about, and what is said of it.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

/// What clap does not know, for imapool(1).
const SECTIONS: &[Section] = &[
    (
        "ENVIRONMENT",
        &[
            (
                "IMAPOOL_ADMIN",
                "The admin address of a running imapool, for status, top, ctl and check --diff, as by --admin.",
            ),
            (
                "IMAPOOL_ADMIN_TOKEN",
                "The token that actions need, where admin.token_file is not set: for run, and for ctl.",
            ),
            ("RUST_LOG", "What is logged, in place of log.level: \"debug\", or \"imapool=debug,rustls=info\"."),
            ("LISTEN_FDS, LISTEN_PID", "Listening sockets, handed over by systemd or another launcher."),
            ("NOTIFY_SOCKET, WATCHDOG_USEC", "Where and how often systemd is told that imapool is ready and lives."),
            ("RUNTIME_DIRECTORY", "Where imapool says what came of a reload, for ctl reload --pid."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/imapool/imapool.toml", "The configuration, unless --config names another: imapool.toml(5)."),
            ("/etc/imapool/tls/", "Private keys, readable for the group imapool (a custom of the package)."),
            (
                "/run/imapool/",
                "Unix sockets: those of listeners, and the admin address, where the configuration has them there.",
            ),
            ("/lib/systemd/system/imapool.service, imapool.socket", "The units of systemd (of the package)."),
            ("/usr/share/doc/imapool/", "Examples, the alerts for Prometheus, the dashboard for Grafana."),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "No new sessions. Sessions at rest hear BYE, commands that run may finish, within limits.drain_timeout.",
            ),
            (
                "SIGHUP",
                "Read the configuration again, all of it or nothing. What came of it is in the log, and the exit status of \
                 imapool ctl reload.",
            ),
            (
                "SIGUSR1",
                "Another process takes over (listener.reuse_port): no new sessions, and those that are open go on until they \
                 end, at the latest for limits.drain_timeout.",
            ),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            (
                "1",
                "Failed while running: an address in use, an imapool that cannot be reached, is not ready (status) or refuses \
                 (ctl), a server that does not answer (check --connect), a session that failed (demo).",
            ),
            ("2", "The configuration or the command line is wrong."),
        ],
    ),
    (
        "SEE ALSO",
        &[(
            "imapool.toml(5)",
            "and the pages of the commands: imapool-run(1), imapool-check(1), imapool-status(1), imapool-top(1), \
             imapool-ctl(1), imapool-demo(1), imapool-import(1)",
        )],
    ),
];

/// Writes all pages.
pub(super) fn write(command: Command, folder: &Path) -> anyhow::Result<()> {
    let version = command.get_version().unwrap_or_default().to_owned();
    clap_mangen::generate_to(command, folder).context("man pages")?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "1") {
            let page = with_examples(&fs::read_to_string(&path)?);
            let is_root = path.file_name().is_some_and(|name| name == "imapool.1");
            fs::write(&path, if is_root { root(&page) } else { page })?;
        }
    }
    fs::write(folder.join("imapool.toml.5"), configuration(&version)).context("man pages")
}

/// Clap has no name for what follows the help, and does not keep its lines.
fn with_examples(page: &str) -> String {
    let Some((before, after)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let (extra, rest) = after.split_once("\n.SH").map_or((after, None), |(extra, rest)| (extra, Some(rest)));
    let kept = |line: &&str| !line.starts_with("Example") && !line.starts_with("Exit status:");
    let lines: Vec<_> = extra.lines().filter(kept).map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    let rest = rest.map_or(String::new(), |rest| format!("\n.SH{rest}"));
    format!("{before}.SH EXAMPLES\n.nf\n{}\n.fi{rest}", lines.join("\n").trim_end())
}

/// With what is not said by the command line, before its version.
fn root(page: &str) -> String {
    let (before, version) = page.split_once(".SH VERSION").unwrap_or((page, ""));
    let mut roff = Roff::new();
    for (heading, entries) in SECTIONS {
        roff.control("SH", [*heading]);
        for (what, text) in *entries {
            roff.control("TP", []).text([bold(*what)]).text([roman(*text)]);
        }
    }
    format!("{}\n{}.SH VERSION{version}", before.trim_end(), body(&roff))
}

/// Without the lines that each page begins with.
fn body(roff: &Roff) -> String {
    let page = roff.render();
    page.split_once(".SH").map_or(page.clone(), |(_, rest)| format!(".SH{rest}"))
}

/// imapool.toml(5): comments of the example, each with the keys that follow it.
fn configuration(version: &str) -> String {
    let mut roff = Roff::new();
    roff.control("TH", ["imapool.toml", "5", "", &format!("imapool {version}")]);
    roff.control("SH", ["NAME"]).text([roman("imapool.toml - the configuration of imapool(1)")]);
    roff.control("SH", ["DESCRIPTION"]);
    let (mut words, mut keys) = (Vec::new(), Vec::new());
    // The end is as a blank line.
    for line in EXPLAINED.lines().chain([""]) {
        // A section that may be left out is commented out.
        let header = line.strip_prefix('#').unwrap_or(line);
        let section = header.starts_with('[');
        if keys.is_empty() && section {
            roff.control("SH", [header]);
        }
        if setting(line).is_some() {
            keys.push(line);
        } else if let Some(comment) =
            line.strip_prefix('#').filter(|rest| !rest.starts_with([':', '-', '[']) && !rest.starts_with(" --"))
        {
            words.push(comment.strip_prefix(' ').unwrap_or(comment));
        } else {
            entry(&mut roff, &mut keys, &mut words);
        }
    }
    roff.control("SH", ["SEE ALSO"]).text([roman("imapool(1), imapool-check(1)")]);
    roff.render()
}

/// Keys with their comment, or a comment of a section.
fn entry(roff: &mut Roff, keys: &mut Vec<&str>, words: &mut Vec<&str>) {
    for (index, key) in keys.drain(..).enumerate() {
        roff.control(if index == 0 { "TP" } else { "TQ" }, []).text([bold(key)]);
    }
    let mut paragraph = String::new();
    for line in words.drain(..) {
        // A blank line ends a paragraph; what is indented is shown as it is.
        if line.is_empty() || line.starts_with(' ') {
            text(roff, &mut paragraph);
            match line.trim() {
                "" => drop(roff.control("PP", [])),
                line => drop(
                    roff.control("RS", []).control("nf", []).text([roman(line)]).control("fi", []).control("RE", []),
                ),
            }
        } else {
            paragraph += line;
            paragraph.push(' ');
        }
    }
    text(roff, &mut paragraph);
}

fn text(roff: &mut Roff, paragraph: &mut String) {
    if !paragraph.is_empty() {
        roff.text([roman(paragraph.trim_end())]);
        paragraph.clear();
    }
}
