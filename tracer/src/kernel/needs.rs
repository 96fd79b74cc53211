//! The fields that a collector cannot do without, by name.

use tracer_common::{ABSENT, Layout};

/// A field of the table, by its name there.
pub(super) type NeededField = (&'static str, fn(&Layout) -> u32);

/// All of them are needed; of each, one of several where kernels differ.
pub(super) type Needs = &'static [&'static [NeededField]];

/// `needs![a, b | c]`: `a`, and `b` or `c`.
macro_rules! needs {
    ($($($name:ident)|+),* $(,)?) => {
        &[$(&[$((stringify!($name), |table| table.$name)),+]),*]
    };
}

/// Names of those that are missing.
pub(super) fn missing(needs: Needs, table: &Layout) -> Vec<&'static str> {
    let lacks = |choices: &&&[NeededField]| choices.iter().all(|(_, offset)| offset(table) == ABSENT);
    let first = |choices: &&'static [NeededField]| choices.first().map(|(name, _)| *name);
    needs.iter().filter(lacks).filter_map(first).collect()
}

/// Whether all of them are there.
pub(super) fn has(needs: Needs, table: &Layout) -> bool {
    missing(needs, table).is_empty()
}

#[cfg(test)]
mod tests {
    use tracer_common::Layout;

    use super::{Needs, has, missing};

    #[test]
    fn one_of_several_is_enough() {
        const NEEDS: Needs = needs![mm_exe_file, mm_ma_root | mm_mmap];
        let mut table = Layout::absent();
        assert_eq!(missing(NEEDS, &table), ["mm_exe_file", "mm_ma_root"]);
        assert!(table.set("mm_mmap", 8) && !has(NEEDS, &table));
        assert!(table.set("mm_exe_file", 16) && has(NEEDS, &table));
    }
}
