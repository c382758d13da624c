//! Follows what a server says without changing it: whether something can be said behind it.

use super::framer::Framer;
use super::response::{CLASSIFY, Kind, Status};
use super::untagged::classify;

/// See the module. It begins between two lines.
#[derive(Debug, Default)]
pub struct Follower {
    framer: Framer,
    /// The start of a line, until it tells of what kind that is.
    head: Vec<u8>,
    /// What was said last, as far as it tells of the end.
    parting: Parting,
}

/// Whether the server has taken its leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parting {
    /// It has not.
    #[default]
    Not,
    /// It has said BYE.
    Bye,
    /// It has answered a command behind that, which was LOGOUT, then.
    Logout,
}

impl Follower {
    /// Whether what was said so far ends with a line, so that another may follow.
    #[must_use]
    pub fn at_line_start(&self) -> bool {
        self.framer.at_line_start() && self.head.is_empty()
    }

    /// How the server has taken its leave.
    #[must_use]
    pub fn parting(&self) -> Parting {
        self.parting
    }

    /// The next octets of the stream.
    pub fn handle(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            if self.framer.at_line_start() {
                octets = self.begin(octets);
            }
            octets = &octets[self.framer.take(octets)..];
        }
    }

    /// At the start of a line: gives what is left once it is known of which kind it is.
    fn begin<'o>(&mut self, octets: &'o [u8]) -> &'o [u8] {
        let near = &octets[..octets.len().min(CLASSIFY - self.head.len())];
        let end = memchr::memchr(b'\n', near).map(|at| at + 1);
        let (near, rest) = octets.split_at(end.unwrap_or(near.len()));
        self.head.extend_from_slice(near);
        if end.is_some() || self.head.len() == CLASSIFY {
            let kind = classify(&self.head).kind;
            self.parting = match (kind, self.parting) {
                (Kind::Status(Status::Bye), _) => Parting::Bye,
                (Kind::Tagged, Parting::Bye) => Parting::Logout,
                (_, parting) => parting,
            };
            self.framer.begin(kind);
            self.framer.take(&self.head);
            self.head.clear();
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a line may follow, and how the server has parted, however the octets come.
    fn after(said: &str) -> (bool, Parting) {
        let mut whole = Follower::default();
        whole.handle(said.as_bytes());
        let found = (whole.at_line_start(), whole.parting());
        for size in 1..=said.len().min(70) {
            let mut parts = Follower::default();
            said.as_bytes().chunks(size).for_each(|part| parts.handle(part));
            assert_eq!((parts.at_line_start(), parts.parting()), found, "{said:?} in parts of {size}");
        }
        found
    }

    #[test]
    fn a_line_may_follow_a_line_and_nothing_else() {
        let long = format!("* LIST () \"/\" {}\r\n", "x".repeat(200));
        for (said, wanted) in [
            ("", true),
            ("* 1 EXISTS\r\n", true),
            ("* 1 EXISTS\r", false),
            ("* 1 EXIS", false),
            (&*long, true),
            ("* 1 FETCH (BODY[] {5}\r\n", false),
            ("* 1 FETCH (BODY[] {5}\r\n* BY\r", false),
            ("* 1 FETCH (BODY[] {7}\r\n* BYE\r\n", false),
            ("* 1 FETCH (BODY[] {7}\r\n* BYE\r\n)\r\n", true),
            ("a OK see {5}\r\n", true),
            ("* OK {5}\r\n+ go {3}\r\n", true),
            ("* 1 FETCH (BODY[] {99999999999999999999}\r\nx\r\n", false),
        ] {
            assert_eq!(after(said), (wanted, Parting::Not), "{said:?}");
        }
    }

    #[test]
    fn who_parts_says_so_in_a_line_of_its_own() {
        assert_eq!(after("* BYE gone\r\n"), (true, Parting::Bye));
        assert_eq!(after("* BYE gone\r\na OK Logout\r\n"), (true, Parting::Logout));
        assert_eq!(after("a OK * BYE\r\nb OK\r\n"), (true, Parting::Not));
        assert_eq!(after("* BYE go"), (false, Parting::Not), "it is not known yet");
    }
}
