//! docs/servers.md: what imapool can do in front of which kind of server, made from the table of kinds.

use super::server::personality::Personality;

const HEAD: &str = "\
# Servers

In front of which servers imapool pools connections and shares them, and what to know of each. This page is made from
the table of kinds in `crates/imapool-demo-server/src/personality/kinds.rs` (`cargo run -- reference servers docs`), and
`cargo test --test grid` holds it to be true with an in-memory server that behaves as public reports say that these do.
Dovecot, Cyrus and Courier are tested for themselves besides (`cargo test --test real`); for the others there is no
more than that.

- **Pooling**: short sessions share a few connections. 1,000 visits (LOGIN, SELECT, FETCH, LOGOUT) of one account open
  no more than `pool.max_per_account`, in both modes.
- **Sharing**: sessions that have the same mailbox selected share one connection (`pool.mode = \"multiplex\"`).

In both modes, login, list, select, fetch, append, copy, move, IDLE and logout have the results that they have directly.

`imapool demo --server KIND` runs the demo in front of one of them; `--server list` prints them all.

| kind | server | pooling | sharing | what to set and to know |
| --- | --- | --- | --- | --- |
";

const LACKING: &str = "
## Servers that lack an extension

Of these, a server may lack any one, and pooling and sharing work the same:

";

const FAULTY: &str = "
## Servers that throttle, lie or die

The demo's server can refuse a second connection, contradict itself, or close the connection at one step of it; with
`+bye` after the name, it says BYE before. Nothing hangs then, nobody is let in who should not be, what is dialed is
bounded, and other accounts on the same server work on.

| kind | what it does | what becomes of its sessions |
| --- | --- | --- |
";

/// The page.
pub fn page() -> String {
    let (mut servers, mut lacked, mut faulty) = (String::new(), String::new(), String::new());
    for Personality { name, about, verdict, .. } in Personality::all() {
        let told = [&*verdict.set, &*verdict.know].map(str::trim).join(" ");
        let told = told.trim();
        if let Some(extension) = name.strip_prefix("lacks:") {
            lacked.push_str(&match told {
                "" => format!("- {extension}\n"),
                told => format!("- {extension}: {told}\n"),
            });
        } else if name.ends_with("+bye") {
            // The row without says it.
        } else if ["liar", "dies", "throttles"].iter().any(|fault| name.starts_with(fault)) {
            faulty.push_str(&format!("| `{name}` | {about} | {told} |\n"));
        } else {
            let yes = |works: bool| if works { "yes" } else { "no" };
            let (pooling, sharing) = (yes(verdict.pooling), yes(verdict.sharing));
            servers.push_str(&format!("| `{name}` | {about} | {pooling} | {sharing} | {told} |\n"));
        }
    }
    format!("{HEAD}{servers}{LACKING}{lacked}{FAULTY}{faulty}")
}
