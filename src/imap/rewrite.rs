//! stub
use super::{command::Command, numbering::Numbering};
pub enum Outcome { Unchanged, Rewritten { command: Command, missing: bool }, AllGone, Malformed, Unmappable(()) }
pub fn rewrite(_c: &Command, _n: &Numbering) -> Outcome { Outcome::Unmappable(()) }
#[derive(Default)]
pub struct Uses { pub numbers: bool, pub saved_result: bool, pub saves_result: bool, pub context: bool }
pub fn uses(c: &Command) -> Uses {
    let t = String::from_utf8_lossy(&c.segments[0].text).to_ascii_uppercase();
    Uses { numbers: !t.starts_with("UID "), saved_result: t.contains('$'), saves_result: t.contains("(SAVE"), context: t.contains("(UPDATE") }
}
