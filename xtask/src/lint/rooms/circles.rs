//! Circles in a graph: its strongly connected components (Tarjan's algorithm).

use std::collections::{BTreeMap, BTreeSet};

/// The groups of nodes that lead to each other; each sorted.
pub(super) fn circles<'a>(pairs: &BTreeSet<(&'a str, &'a str)>) -> Vec<Vec<&'a str>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in pairs {
        next.entry(from).or_default().push(to);
    }
    let mut search = Search {
        next: &next,
        seen: BTreeMap::new(),
        stack: Vec::new(),
        found: Vec::new(),
    };
    for node in next.keys() {
        if !search.seen.contains_key(node) {
            search.visit(node);
        }
    }
    search.found.sort();
    search.found
}

struct Search<'a, 'n> {
    next: &'n BTreeMap<&'a str, Vec<&'a str>>,
    /// The order in which a node was seen, and the first node on the stack that it leads to.
    seen: BTreeMap<&'a str, usize>,
    stack: Vec<&'a str>,
    found: Vec<Vec<&'a str>>,
}

impl<'a> Search<'a, '_> {
    /// Calls nest as deep as the longest chain of files.
    fn visit(&mut self, node: &'a str) -> usize {
        let order = self.seen.len();
        self.seen.insert(node, order);
        let place = self.stack.len();
        self.stack.push(node);
        let mut lowest = order;
        for to in self.next.get(node).into_iter().flatten() {
            lowest = match self.seen.get(to) {
                None => lowest.min(self.visit(to)),
                Some(order) if self.stack.contains(to) => lowest.min(*order),
                Some(_) => lowest,
            };
        }
        if lowest == order {
            let mut group = self.stack.split_off(place);
            if group.len() > 1 {
                group.sort_unstable();
                self.found.push(group);
            }
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::circles;

    #[test]
    fn groups_that_lead_to_each_other() {
        let of =
            |pairs: &[(&'static str, &'static str)]| circles(&pairs.iter().copied().collect::<BTreeSet<_>>());
        assert!(of(&[("a", "b"), ("b", "c"), ("a", "c")]).is_empty());
        assert_eq!(of(&[("a", "b"), ("b", "a"), ("b", "c")]), [vec!["a", "b"]]);
        let two = of(&[
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            ("c", "x"),
            ("x", "y"),
            ("y", "x"),
        ]);
        assert_eq!(two, [vec!["a", "b", "c"], vec!["x", "y"]]);
    }
}
