//! The paths in a file: those that it defines, re-exports under another name, and uses.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Attribute, Item, ItemMod, ItemUse, UseTree, Visibility,
    visit::{self, Visit},
};

/// The names of a path from the root of the crate.
pub(super) type Names = Vec<String>;

/// A module: a file, or a part of it in braces.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) file: String,
    /// Names that are defined elsewhere.
    pub(super) exports: BTreeMap<String, Names>,
}

/// The paths of one file.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) modules: BTreeMap<Names, Module>,
    /// Paths from the root of the crate that this file uses, with true if only a test does.
    pub(super) uses: BTreeSet<(Names, bool)>,
    /// Modules that are there for tests only.
    pub(super) tests: BTreeSet<Names>,
}

/// Reads the text of a module.
pub(super) fn read(file: &str, module: Names, text: &syn::File) -> Said {
    let mut reader = Reader {
        file,
        said: Said::default(),
        at: module,
        children: BTreeSet::new(),
        testing: false,
    };
    reader.module(&text.items);
    reader.said
}

struct Reader<'t> {
    file: &'t str,
    said: Said,
    /// The module that is being read.
    at: Names,
    /// Modules in it, which a path may begin with.
    children: BTreeSet<String>,
    /// The module is for tests only.
    testing: bool,
}

impl Reader<'_> {
    fn module(&mut self, items: &[Item]) {
        let children: BTreeSet<String> = items
            .iter()
            .filter_map(|item| match item {
                Item::Mod(module) => Some(module.ident.to_string()),
                _ => None,
            })
            .collect();
        let module = Module {
            file: self.file.to_owned(),
            ..Module::default()
        };
        self.said.modules.insert(self.at.clone(), module);
        let before = std::mem::replace(&mut self.children, children);
        for item in items {
            self.visit_item(item);
        }
        self.children = before;
    }

    /// A path from the root of the crate; `None` where it leads out of the crate, or is a name of this module.
    fn absolute(&self, path: &[String]) -> Option<Names> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.at[..], rest].concat()),
            "super" => {
                let up = path.iter().take_while(|name| *name == "super").count();
                let base = self.at.len().checked_sub(up)?;
                Some([&self.at[..base], &path[up..]].concat())
            }
            child if self.children.contains(child) => Some([&self.at[..], path].concat()),
            _ => None,
        }
    }

    fn leaves(tree: &UseTree, before: &mut Names, found: &mut Vec<(Names, Option<String>)>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                Self::leaves(&path.tree, before, found);
                before.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                found.push((before.clone(), before.last().cloned()));
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                found.push(([&before[..], std::slice::from_ref(&name)].concat(), Some(name)));
            }
            UseTree::Rename(rename) => {
                let path = [&before[..], &[rename.ident.to_string()]].concat();
                found.push((path, Some(rename.rename.to_string())));
            }
            UseTree::Glob(_) => found.push((before.clone(), None)),
            UseTree::Group(group) => {
                for tree in &group.items {
                    Self::leaves(tree, before, found);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let before = self.testing;
        self.testing |= module.attrs.iter().any(is_cfg_test);
        self.at.push(module.ident.to_string());
        if self.testing {
            self.said.tests.insert(self.at.clone());
        }
        if let Some((_, items)) = &module.content {
            self.module(items);
        }
        self.at.pop();
        self.testing = before;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut leaves = Vec::new();
        Self::leaves(&item.tree, &mut Vec::new(), &mut leaves);
        for (path, name) in leaves {
            let Some(path) = self.absolute(&path) else {
                continue;
            };
            let handed_on = !matches!(item.vis, Visibility::Inherited);
            let Some(module) = self.said.modules.get_mut(&self.at) else {
                continue;
            };
            // Modules below can use an import, too; a re-export alone is no use of it here.
            if let Some(name) = name {
                module.exports.insert(name, path.clone());
            }
            if !handed_on {
                self.said.uses.insert((path, self.testing));
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if names.len() > 1
            && let Some(path) = self.absolute(&names)
        {
            self.said.uses.insert((path, self.testing));
        }
        visit::visit_path(self, path);
    }
}

fn is_cfg_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|what| what.is_ident("test"))
}
