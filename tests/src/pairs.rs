//! Chooses the tests of a kind of reference that run in machines, where all of them would take hours: every kernel has
//! every tier, and every pair of kernel, tier, file system and way is in one of them.

use crate::harness;

/// The kernels of the matrix, as `EBUSY_VM` names them.
pub const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];
/// The tiers of each of them, as `EBUSY_PROBE` names them.
pub const TIERS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];

/// A test: the positions of its kernel, tier, file system and way in their lists.
pub type Cell = [usize; 4];

const FACTORS: usize = 4;

/// All tests.
fn product(sizes: Cell) -> impl Iterator<Item = Cell> {
    let [kernels, tiers, file_systems, ways] = sizes;
    (0..kernels * tiers * file_systems * ways).map(move |mut number| {
        sizes.map(|size| {
            let position = number % size;
            number /= size;
            position
        })
    })
}

/// The pairs that a test has: two factors, and the positions in them.
fn pairs(cell: Cell) -> impl Iterator<Item = [(usize, usize); 2]> {
    (0..FACTORS).flat_map(move |first| {
        (first + 1..FACTORS).map(move |second| [(first, cell[first]), (second, cell[second])])
    })
}

/// Chooses tests, as many kernels, tiers, file systems and ways as there are, so that each pair is in one of them:
/// always the one with the most pairs that are in none yet. `turn` decides between equally good ones, so that kinds of
/// references get different tests.
#[must_use]
pub fn covering(sizes: Cell, turn: usize) -> Vec<Cell> {
    let mut candidates: Vec<Cell> = product(sizes).collect();
    if !candidates.is_empty() {
        let middle = turn * 7 % candidates.len();
        candidates.rotate_left(middle);
    }
    let mut open: std::collections::BTreeSet<_> = candidates.iter().copied().flat_map(pairs).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let gain = |cell: &Cell| pairs(*cell).filter(|pair| open.contains(pair)).count();
        // `max_by_key` would take the last of equals.
        let Some(best) = candidates.iter().rev().copied().max_by_key(gain) else {
            break;
        };
        for pair in pairs(best) {
            open.remove(&pair);
        }
        chosen.push(best);
    }
    chosen
}

/// Decides if a test of a kind of reference runs in this machine: all run on a host, in a machine with another kernel
/// or tier, or if `EBUSY_FULL` is set.
#[must_use]
pub fn runs(turn: usize, (file_system, file_systems): (usize, usize), (way, ways): (usize, usize)) -> bool {
    let position = |name: &str, of: &[&str]| {
        let value = std::env::var(name).ok()?;
        of.iter().position(|known| *known == value)
    };
    let here = (position("EBUSY_VM", &KERNELS), position("EBUSY_PROBE", &TIERS));
    let (Some(kernel), Some(tier)) = here else {
        return true;
    };
    harness::is_full()
        || covering([KERNELS.len(), TIERS.len(), file_systems, ways], turn).contains(&[
            kernel,
            tier,
            file_system,
            way,
        ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{covering, pairs, product};
    use crate::zoo::ROWS;

    #[test]
    fn every_pair_is_in_one_of_the_chosen() {
        for (turn, row) in ROWS.iter().enumerate() {
            for ways in [3, 4] {
                let sizes = [4, 3, row.file_systems.len(), ways];
                let wanted: BTreeSet<_> = product(sizes).flat_map(pairs).collect();
                let chosen = covering(sizes, turn);
                let had: BTreeSet<_> = chosen.iter().copied().flat_map(pairs).collect();
                assert_eq!(wanted, had, "{}", row.name);
                // Every kernel has every tier at least once, and no choice is there twice.
                let cells: BTreeSet<_> = chosen.iter().map(|cell| (cell[0], cell[1])).collect();
                assert_eq!(cells.len(), 12, "{}", row.name);
                assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
            }
        }
    }

    #[test]
    fn a_third_of_all_is_chosen() {
        let sum = |of: &dyn Fn([usize; 4], usize) -> usize| -> usize {
            let of = |(turn, row): (usize, &crate::zoo::Row)| {
                of(
                    [4, 3, row.file_systems.len(), 3 + usize::from(row.bystander)],
                    turn,
                )
            };
            ROWS.iter().enumerate().map(of).sum()
        };
        let chosen = sum(&|sizes, turn| covering(sizes, turn).len());
        let all = sum(&|sizes, _| sizes.iter().product());
        assert!(chosen * 5 < all * 2, "{chosen} of {all}");
    }

    #[test]
    fn nothing_of_nothing() {
        assert!(covering([4, 3, 0, 4], 5).is_empty());
    }
}
