//! User names as a server may take them: which spellings are likely to be one account.
//!
//! Pools go by the exact name, since what two spellings share must be certain. What is done *against* or *for the
//! care of* an account goes by the folded one: else whoever attacks it has as many attempts as it has spellings, and
//! whoever retires it leaves the others.

/// Octets of a name that count, once it is folded.
const MOST: usize = 256;

/// The name in one spelling: without surrounding white space, letters of one case, of one width, without what is not
/// seen, and without dots at the end of a domain. Servers do all of these: Dovecot and Cyrus fold case by default,
/// Exchange too; SASLprep (RFC 4013) and PRECIS (RFC 8265) fold width and drop what is not seen; DNS knows the last
/// dot.
///
/// What is no UTF-8 is folded as far as it is ASCII. At most 256 octets count: names that differ only after those are
/// one.
#[must_use]
pub fn folded(user: &[u8]) -> Vec<u8> {
    // Some characters get longer by folding, and some go: a bound before, and one after.
    let mut folded = wholly_folded(&user[..user.len().min(4 * MOST)]);
    if folded.len() > MOST {
        let len = valid(&folded[..MOST]).map_or(MOST, str::len);
        folded.truncate(len);
    }
    folded
}

/// The same, however long it is: where it decides what somebody may do, all of it counts.
#[must_use]
pub fn wholly_folded(user: &[u8]) -> Vec<u8> {
    let Some(text) = valid(user) else { return user.trim_ascii().to_ascii_lowercase() };
    let seen = text.chars().filter(|char| !is_ignored(*char)).map(of_one_width);
    // By way of capitals: there are letters which only these have in common (ς and σ, ſ and s).
    let folded: String = seen.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
    let folded = folded.trim();
    let folded = if folded.contains('@') { folded.trim_end_matches('.') } else { folded };
    folded.as_bytes().to_vec()
}

/// [`folded`], and what some servers leave out of the part before `@`: dots and, from a plus sign on, a detail. For
/// what is held against a name only: there it harms nobody if two accounts are taken for one, since anybody can spell
/// the other as well.
#[must_use]
pub fn attacked(user: &[u8]) -> Vec<u8> {
    let folded = folded(user);
    let at = folded.iter().rposition(|octet| *octet == b'@').unwrap_or(folded.len());
    let (local, domain) = folded.split_at(at);
    let plus = local.iter().skip(1).position(|octet| *octet == b'+').map_or(local.len(), |at| at + 1);
    local[..plus].iter().filter(|octet| **octet != b'.').chain(domain).copied().collect()
}

/// Cut off at the end, it may be within a character.
fn valid(user: &[u8]) -> Option<&str> {
    match std::str::from_utf8(user) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&user[..error.valid_up_to()]).ok(),
        Err(_) => None,
    }
}

/// Not seen, and mapped to nothing by SASLprep or PRECIS.
fn is_ignored(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

/// Full-width forms of ASCII are ASCII, and every space is one.
fn of_one_width(char: char) -> char {
    match char {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(char) - 0xfee0).unwrap_or(char),
        _ if char.is_whitespace() => ' ',
        _ => char,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_name_are_one() {
        for name in [
            "victim@example.org",
            "Victim@Example.ORG",
            "  vIctim@example.org\t",
            "victim@example.org.",
            "victim@example.org...",
            "v\u{ad}icti\u{200b}m@example.org\u{feff}",
            "\u{ff36}ictim\u{ff20}example.org",
            "\u{3000}victim@example.org\u{a0}",
        ] {
            assert_eq!(folded(name.as_bytes()), b"victim@example.org", "{name:?}");
        }
        assert_eq!(folded("ΣΊΣΥΦΟΣ".as_bytes()), folded("σίσυφος".as_bytes()));
        assert_eq!(folded("Jörg".as_bytes()), folded("JÖRG".as_bytes()));
        assert_eq!(folded(b"M\xfcller "), b"m\xfcller");
        for others in ["victim", "victim2@example.org", "victim@example.com", "vic.tim@example.org"] {
            assert_ne!(folded(others.as_bytes()), b"victim@example.org", "{others}");
        }
        assert_eq!(folded(b"ends.with."), b"ends.with.", "no domain, no DNS");
    }

    #[test]
    fn what_is_held_against_a_name_is_held_against_its_details() {
        for name in ["victim@x.org", "Vic.Tim@x.org", "victim+1@x.org", "v.i.c.t.i.m+news+2@X.org."] {
            assert_eq!(attacked(name.as_bytes()), b"victim@x.org", "{name}");
        }
        assert_eq!(attacked(b"victim+3"), b"victim");
        assert_eq!(attacked(b"+3"), b"+3", "a name is left");
    }

    proptest! {
        #[test]
        fn folding_is_bounded(user in proptest::collection::vec(any::<u8>(), 0..2000), text in any::<String>()) {
            for user in [&user[..], text.as_bytes()] {
                prop_assert!(folded(user).len() <= MOST && attacked(user).len() <= MOST);
            }
        }

        #[test]
        fn case_and_space_make_no_difference(name in "[a-zA-Z0-9äöüéßñçа-я@._-]{1,40}", before in " {0,9}", after in "[ \t]{0,9}") {
            let (upper, lower) = (name.to_uppercase(), name.to_lowercase());
            prop_assert_eq!(folded(upper.as_bytes()), folded(lower.as_bytes()));
            prop_assert_eq!(folded(format!("{before}{upper}{after}").as_bytes()), folded(name.as_bytes()));
            prop_assert_eq!(attacked(upper.as_bytes()), attacked(name.as_bytes()));
        }
    }
}
