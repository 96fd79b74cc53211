//! The files of a crate, and the uses between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{
    super::sources,
    Arrow,
    paths::{self, Module, Names},
};

/// Maximum length of a chain of re-exports.
const HANDED_ON_MAX: usize = 16;

/// All files of a crate.
#[derive(Debug, Default)]
pub(super) struct CrateFiles {
    modules: BTreeMap<Names, Module>,
    uses: BTreeMap<String, BTreeSet<(Names, bool)>>,
    /// Modules that are there for tests only.
    tests: BTreeSet<Names>,
}

/// Reads the files of a crate below its folder of sources.
pub(super) fn read(folder: &Path) -> Result<CrateFiles> {
    let mut files = CrateFiles::default();
    for path in sources(folder)? {
        let name = path.strip_prefix(folder).unwrap_or(&path);
        let name = name.to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        files.add(&name, &text)?;
    }
    Ok(files)
}

/// The path of the module that a file is.
fn module_of(file: &str) -> Names {
    let mut names: Names = file
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if names.last().is_some_and(|last| last == "mod") || file == "lib.rs" {
        names.pop();
    }
    names
}

impl CrateFiles {
    fn add(&mut self, file: &str, text: &str) -> Result<()> {
        let parsed = syn::parse_file(text).with_context(|| format!("reading {file} as Rust"))?;
        let said = paths::read(file, module_of(file), &parsed);
        self.modules.extend(said.modules);
        self.tests.extend(said.tests);
        self.uses.insert(file.to_owned(), said.uses);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.uses.len()
    }

    /// All uses between files.
    pub(super) fn arrows(&self) -> Vec<Arrow> {
        let mut arrows = BTreeSet::new();
        for (from, uses) in &self.uses {
            let module = module_of(from);
            let of_tests = (1..=module.len()).any(|depth| self.tests.contains(&module[..depth]));
            for (path, in_test) in uses {
                let to = self.file_of(path, HANDED_ON_MAX);
                if let Some(to) = to.filter(|to| to != from) {
                    let what = path.join("::");
                    arrows.insert(Arrow {
                        from: from.clone(),
                        to: to.to_owned(),
                        what,
                        test: of_tests || *in_test,
                    });
                }
            }
        }
        arrows.into_iter().collect()
    }

    /// The file that defines it.
    fn file_of(&self, path: &[String], handed_on: usize) -> Option<&str> {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| self.modules.contains_key(&path[..*depth]))?;
        let module = self.modules.get(&path[..depth])?;
        let (Some(name), Some(less)) = (path.get(depth), handed_on.checked_sub(1)) else {
            return Some(&module.file);
        };
        if let Some(elsewhere) = module.exports.get(name).filter(|elsewhere| **elsewhere != path) {
            return self.file_of(elsewhere, less).or(Some(&module.file));
        }
        Some(&module.file)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrow, CrateFiles};

    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let mut all = CrateFiles::default();
        for (file, text) in files {
            all.add(file, text).unwrap();
        }
        let show = |Arrow { from, to, .. }| format!("{from} {to}");
        let mut shown: Vec<String> = all.arrows().into_iter().map(show).collect();
        shown.dedup();
        shown
    }

    #[test]
    fn what_is_handed_on_belongs_to_where_it_is_defined() {
        let found = arrows(&[
            ("lib.rs", "mod a; mod b;"),
            ("a/mod.rs", "mod deep; pub use deep::{Thing as Other, second};"),
            ("a/deep.rs", "pub struct Thing; pub fn second() {}"),
            ("b.rs", "use crate::a::Other; fn f() { crate::a::second(); }"),
        ]);
        assert_eq!(found, ["b.rs a/deep.rs"]);
    }

    #[test]
    fn a_path_by_a_child_by_the_parent_and_in_tests() {
        let found = arrows(&[
            ("lib.rs", "mod a; mod b;"),
            ("a/mod.rs", "mod x; mod y; fn f() { x::go(); } pub struct Up;"),
            ("a/x.rs", "pub fn go() {} use super::y::Y;"),
            (
                "a/y.rs",
                "pub struct Y; #[cfg(test)] mod tests { use super::{super::Up, Y}; }",
            ),
            ("b.rs", "fn f(_: &std::path::Path) {}"),
        ]);
        assert_eq!(found, ["a/mod.rs a/x.rs", "a/x.rs a/y.rs", "a/y.rs a/mod.rs"]);
    }
}
