//! The systemd units.

use std::process::Command;

use crate::support::{find, folder, read, repository, succeed};

/// What `systemd-analyze security` may at most say, from 0.0 (safe) to 10.0.
const EXPOSURE: f32 = 2.0;

#[test]
fn the_service_is_little_exposed() {
    let Some(analyze) = find("systemd-analyze") else { return };
    let unit = repository("deploy/systemd/imapool.service");
    let text = succeed(Command::new(analyze).args(["security", "--offline=true", "--no-pager"]).arg(unit));
    let line = text.lines().find(|line| line.contains("Overall exposure level")).expect("a verdict");
    let exposure: f32 = line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number");
    assert!(exposure <= EXPOSURE, "{text}");
}

#[test]
fn the_units_are_well_formed() {
    let Some(analyze) = find("systemd-analyze") else { return };
    // It wants the programs to be there: a copy that names this binary.
    let folder = folder();
    for unit in ["imapool.service", "imapool.socket"] {
        let text = read(&format!("deploy/systemd/{unit}")).replace("/usr/bin/imapool", env!("CARGO_BIN_EXE_imapool"));
        std::fs::write(folder.path().join(unit), text).unwrap();
    }
    let mut command = Command::new(analyze);
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    command.args(["imapool.service", "imapool.socket"].map(|unit| folder.path().join(unit)));
    let output = command.output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaints.contains("imapool."), "{complaints}");
}
