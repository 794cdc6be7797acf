//! Ranges of keys, and which of them hold a key: a treap ordered by the beginnings, of which each node knows the
//! furthest end below it. Finding the ranges around a key takes the logarithm of all and the number of those found.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;

/// Where a range ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Before this key.
    Before(Bytes),
    /// Not at all.
    Never,
}

impl End {
    fn is_behind(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => end.as_ref() > key,
            End::Never => true,
        }
    }
}

/// Ranges with what is registered for them.
#[derive(Debug)]
pub struct Intervals<T> {
    root: Tree<T>,
    /// Of the last priority that was drawn.
    seed: u64,
}

type Tree<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    start: Bytes,
    end: End,
    /// Of this node and all below it.
    furthest: End,
    priority: u64,
    members: BTreeSet<T>,
    left: Tree<T>,
    right: Tree<T>,
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Intervals { root: None, seed: 0 }
    }
}

impl<T: Ord + Copy> Intervals<T> {
    pub fn insert(&mut self, start: &Bytes, end: &End, member: T) {
        if let Some(node) = find(&mut self.root, start, end) {
            node.members.insert(member);
            return;
        }
        let new = Box::new(Node {
            start: start.clone(),
            end: end.clone(),
            furthest: end.clone(),
            priority: self.priority(),
            members: BTreeSet::from([member]),
            left: None,
            right: None,
        });
        let (left, right) = split(self.root.take(), start, end);
        self.root = merge(merge(left, Some(new)), right);
    }

    /// Says whether it was there.
    pub fn remove(&mut self, start: &Bytes, end: &End, member: T) -> bool {
        let Some(node) = find(&mut self.root, start, end) else { return false };
        let removed = node.members.remove(&member);
        if removed && node.members.is_empty() {
            cut(&mut self.root, start, end);
        }
        removed
    }

    /// Visits all that is registered for ranges with this key.
    pub fn containing(&self, key: &[u8], visit: &mut impl FnMut(T)) {
        stab(&self.root, key, visit);
    }

    /// Splitmix64: balance needs priorities without a pattern, and nothing else.
    fn priority(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl<T> Node<T> {
    fn order(&self, start: &Bytes, end: &End) -> Ordering {
        (&self.start, &self.end).cmp(&(start, end))
    }

    fn refresh(&mut self) {
        let below = [&self.left, &self.right];
        let furthest = below.into_iter().flatten().map(|node| &node.furthest).chain([&self.end]);
        if let Some(furthest) = furthest.max().cloned() {
            self.furthest = furthest;
        }
    }
}

fn find<'t, T>(tree: &'t mut Tree<T>, start: &Bytes, end: &End) -> Option<&'t mut Node<T>> {
    let node = tree.as_deref_mut()?;
    match node.order(start, end) {
        Ordering::Equal => Some(node),
        Ordering::Greater => find(&mut node.left, start, end),
        Ordering::Less => find(&mut node.right, start, end),
    }
}

/// Takes out the node of a range.
fn cut<T>(tree: &mut Tree<T>, start: &Bytes, end: &End) {
    let Some(node) = tree else { return };
    match node.order(start, end) {
        Ordering::Equal => *tree = merge(node.left.take(), node.right.take()),
        Ordering::Greater => {
            cut(&mut node.left, start, end);
            node.refresh();
        }
        Ordering::Less => {
            cut(&mut node.right, start, end);
            node.refresh();
        }
    }
}

/// What stands before the range, and what does not.
fn split<T>(tree: Tree<T>, start: &Bytes, end: &End) -> (Tree<T>, Tree<T>) {
    let Some(mut node) = tree else { return (None, None) };
    if node.order(start, end) == Ordering::Less {
        let (left, right) = split(node.right.take(), start, end);
        node.right = left;
        node.refresh();
        (Some(node), right)
    } else {
        let (left, right) = split(node.left.take(), start, end);
        node.left = right;
        node.refresh();
        (left, Some(node))
    }
}

/// All of `left` stands before all of `right`.
fn merge<T>(left: Tree<T>, right: Tree<T>) -> Tree<T> {
    match (left, right) {
        (None, tree) | (tree, None) => tree,
        (Some(mut left), Some(mut right)) => {
            if left.priority > right.priority {
                left.right = merge(left.right.take(), Some(right));
                left.refresh();
                Some(left)
            } else {
                right.left = merge(Some(left), right.left.take());
                right.refresh();
                Some(right)
            }
        }
    }
}

fn stab<T: Copy>(tree: &Tree<T>, key: &[u8], visit: &mut impl FnMut(T)) {
    let Some(node) = tree else { return };
    if !node.furthest.is_behind(key) {
        return;
    }
    stab(&node.left, key, visit);
    if node.start.as_ref() <= key {
        if node.end.is_behind(key) {
            node.members.iter().copied().for_each(&mut *visit);
        }
        stab(&node.right, key, visit);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn key(random: &mut StdRng) -> Bytes {
        let length = random.random_range(1..4);
        (0..length).map(|_| random.random_range(b'a'..b'e')).collect()
    }

    fn found(intervals: &Intervals<u32>, key: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        intervals.containing(key, &mut |member| found.push(member));
        found.sort_unstable();
        found
    }

    #[test]
    fn it_finds_what_a_list_would() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut intervals, mut list) = (Intervals::default(), Vec::new());
            for member in 0..600u32 {
                if random.random_range(0..3) == 0 && !list.is_empty() {
                    let (start, end, member) = list.swap_remove(random.random_range(0..list.len()));
                    assert!(intervals.remove(&start, &end, member), "seed {seed}");
                    assert!(!intervals.remove(&start, &end, member), "seed {seed}");
                } else {
                    let start = key(&mut random);
                    let end = match random.random_range(0..8) {
                        0 => End::Never,
                        _ => End::Before(key(&mut random)),
                    };
                    intervals.insert(&start, &end, member);
                    list.push((start, end, member));
                }
                let at = key(&mut random);
                let holds =
                    |(start, end, _): &&(Bytes, End, u32)| *start <= at && end.is_behind(&at);
                let mut expected: Vec<u32> =
                    list.iter().filter(holds).map(|entry| entry.2).collect();
                expected.sort_unstable();
                assert_eq!(found(&intervals, &at), expected, "seed {seed}, key {at:?}");
            }
        }
    }

    /// Even where ranges come in order, which degrades a tree without balance to a list, and the stack with it.
    #[test]
    fn many_ranges_in_order_are_no_burden() {
        let mut intervals = Intervals::default();
        let name = |number: u32| Bytes::from(format!("{number:08}"));
        for number in 0..200_000 {
            intervals.insert(&name(number), &End::Before(name(number + 2)), number);
        }
        assert_eq!(found(&intervals, &name(77_777)), [77_776, 77_777]);
        for number in 0..200_000 {
            assert!(intervals.remove(&name(number), &End::Before(name(number + 2)), number));
        }
        assert!(found(&intervals, &name(5)).is_empty());
    }
}
