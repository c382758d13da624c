//! Lists of patterns, of which the first counts that has a key in it: `[[account]]`.

use std::collections::BTreeMap;

use super::name::{Pattern, domain_of};

/// The places of lists, by what is in them. A look takes as long for a million patterns as for a few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct First {
    names: BTreeMap<Box<[u8]>, usize>,
    domains: BTreeMap<Box<[u8]>, usize>,
    below: BTreeMap<Box<[u8]>, usize>,
    /// The most octets that a key of `below` has: no more of a name is looked at, however many dots are in it.
    longest: usize,
}

impl First {
    /// Takes in the next list of patterns, whose place is this.
    pub fn add(&mut self, place: usize, patterns: impl IntoIterator<Item = Pattern>) {
        for pattern in patterns {
            let (all, key) = match pattern {
                Pattern::Name(key) => (&mut self.names, key),
                Pattern::Domain(key) => (&mut self.domains, key),
                Pattern::Below(key) => {
                    self.longest = self.longest.max(key.len());
                    (&mut self.below, key)
                }
            };
            all.entry(key).or_insert(place);
        }
    }

    /// The place of the first list that has a pattern for this key.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let by_name = self.names.get(key).copied();
        let by_domain = domain_of(key).and_then(|domain| self.of_domain(domain));
        by_name.into_iter().chain(by_domain).min()
    }

    /// The place of the first list one of whose patterns has all that this one has.
    #[must_use]
    pub fn covering(&self, pattern: &Pattern) -> Option<usize> {
        match pattern {
            Pattern::Name(name) => self.find(name),
            Pattern::Domain(domain) => self.of_domain(domain),
            Pattern::Below(parent) => self.above(parent, 0),
        }
    }

    /// With its `@`.
    fn of_domain(&self, domain: &[u8]) -> Option<usize> {
        // It is not below itself: one octet at least is left of the dot, behind the `@`.
        self.domains.get(domain).copied().into_iter().chain(self.above(domain, 2)).min()
    }

    /// By the dots from this place on.
    fn above(&self, domain: &[u8], from: usize) -> Option<usize> {
        let nearest = from.max(domain.len().saturating_sub(self.longest));
        let dots = (nearest..domain.len()).filter(|at| domain[*at] == b'.');
        dots.filter_map(|at| self.below.get(&domain[at..]).copied()).min()
    }
}
