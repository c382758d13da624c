//! Lists of patterns, of which the first counts that has a key in it: `[[account]]`.

use std::collections::BTreeMap;

use super::name::{Kind, Pattern, domain_of};

/// The places of lists, by what is in them. A look takes as long for a million patterns as for a few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct First {
    /// By [`Kind`].
    places: [BTreeMap<Box<[u8]>, usize>; 3],
    /// The most octets that a key of [`Kind::Below`] has: no more of a name is looked at, however many dots are in it.
    longest: usize,
}

impl First {
    /// Takes in the next list of patterns, whose place is this.
    pub fn add(&mut self, place: usize, patterns: impl IntoIterator<Item = Pattern>) {
        for Pattern { kind, key } in patterns {
            if kind == Kind::Below {
                self.longest = self.longest.max(key.len());
            }
            self.places[kind as usize].entry(key).or_insert(place);
        }
    }

    fn get(&self, kind: Kind, key: &[u8]) -> Option<usize> {
        self.places[kind as usize].get(key).copied()
    }

    /// The place of the first list that has a pattern for this key.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let by_domain = domain_of(key).and_then(|domain| self.of_domain(domain));
        self.get(Kind::Name, key).into_iter().chain(by_domain).min()
    }

    /// The place of the first list one of whose patterns has all that this one has.
    #[must_use]
    pub fn covering(&self, pattern: &Pattern) -> Option<usize> {
        match pattern.kind {
            Kind::Name => self.find(&pattern.key),
            Kind::Domain => self.of_domain(&pattern.key),
            Kind::Below => self.above(&pattern.key, 0),
        }
    }

    /// With its `@`.
    fn of_domain(&self, domain: &[u8]) -> Option<usize> {
        // It is not below itself: one octet at least is left of the dot, behind the `@`.
        self.get(Kind::Domain, domain).into_iter().chain(self.above(domain, 2)).min()
    }

    /// By the dots from this place on.
    fn above(&self, domain: &[u8], from: usize) -> Option<usize> {
        let nearest = from.max(domain.len().saturating_sub(self.longest));
        let dots = (nearest..domain.len()).filter(|at| domain[*at] == b'.');
        dots.filter_map(|at| self.get(Kind::Below, &domain[at..])).min()
    }
}
