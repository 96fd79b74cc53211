//! Cuts BTF down to some types, so that a test can keep a kernel's description of them in a small file.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    kind::Kind,
    parse::{Btf, Record},
};

impl Btf {
    /// New BTF with every struct, union, enum, typedef and function of these names.
    ///
    /// Embedded types keep name and size, but lose their members unless they are named as well or have no name; types
    /// behind pointers are only declared. Names that are not there are left out.
    #[must_use]
    pub fn cut(&self, names: &[&str]) -> Vec<u8> {
        let mut reach = Reach::default();
        for name in names {
            reach.todo.extend(
                self.named(name, |_| true)
                    .into_iter()
                    .map(|(id, _)| (id, Keep::Whole)),
            );
        }
        while let Some((id, keep)) = reach.todo.pop() {
            if reach.seen.insert((id, keep))
                && let Some(record) = self.record(id)
            {
                let anonymous = self.name(record.name).is_empty();
                reach.visit(
                    id,
                    record,
                    if keep == Keep::Size && anonymous {
                        Keep::Whole
                    } else {
                        keep
                    },
                );
            }
        }
        let numbers = reach.kept.keys().zip(1..).map(|(old, new)| (*old, new)).collect();
        let mut writer = Writer {
            btf: self,
            numbers,
            types: Vec::new(),
            strings: vec![0],
            known: HashMap::new(),
        };
        for (id, keep) in reach.kept {
            if let Some(record) = self.record(id) {
                writer.record(record, keep);
            }
        }
        writer.finish()
    }
}

/// The kept part of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Keep {
    /// Its name: something points to it.
    Name,
    /// Its name and size: something embeds it.
    Size,
    /// All of it.
    Whole,
}

/// The types that are reached from the wanted ones.
#[derive(Default)]
struct Reach {
    kept: BTreeMap<u32, Keep>,
    todo: Vec<(u32, Keep)>,
    seen: HashSet<(u32, Keep)>,
}

impl Reach {
    fn visit(&mut self, id: u32, record: Record<'_>, keep: Keep) {
        let Some(kind) = record.kind else { return };
        match kind {
            Kind::Struct | Kind::Union if keep == Keep::Whole => {
                self.todo.extend(record.members().map(|member| {
                    // A member without a name lends its own members, whatever its type is called.
                    (
                        member.type_id,
                        if member.name == 0 { Keep::Whole } else { Keep::Size },
                    )
                }));
            }
            Kind::FuncProto if keep != Keep::Name => {
                self.todo.push((record.size_or_type, Keep::Name));
                self.todo
                    .extend(record.params().map(|(_, type_id)| (type_id, Keep::Name)));
            }
            Kind::Ptr => self.todo.push((record.size_or_type, Keep::Name)),
            Kind::Array => {
                if let Some([element, index, _]) = record.words::<3>().next() {
                    self.todo.extend([(element, keep), (index, Keep::Name)]);
                }
            }
            Kind::Func => self.todo.push((record.size_or_type, Keep::Whole)),
            _ if kind.is_modifier() => self.todo.push((record.size_or_type, keep)),
            // Variables and sections are no part of a struct.
            Kind::Var | Kind::DataSec => return,
            _ => {}
        }
        let kept = self.kept.entry(id).or_insert(keep);
        *kept = keep.max(*kept);
    }
}

struct Writer<'a> {
    btf: &'a Btf,
    /// New number of each old one.
    numbers: BTreeMap<u32, u32>,
    types: Vec<u8>,
    strings: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
}

impl Writer<'_> {
    fn record(&mut self, record: Record<'_>, keep: Keep) {
        let Some(kind) = record.kind else { return };
        let name = self.string(record.name);
        let target = self.number(record.size_or_type);
        match kind {
            Kind::Struct | Kind::Union if keep == Keep::Name => {
                self.words(&[name, info(Kind::Fwd, kind == Kind::Union), 0]);
            }
            Kind::FuncProto if keep == Keep::Name => self.words(&[name, info(kind, false), 0]),
            Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 if keep != Keep::Whole => {
                self.words(&[name, info(kind, false), record.size_or_type]);
            }
            Kind::Struct | Kind::Union => {
                self.words(&[name, record.info, record.size_or_type]);
                for [name, type_id, offset] in record.words::<3>() {
                    let words = [self.string(name), self.number(type_id), offset];
                    self.words(&words);
                }
            }
            Kind::FuncProto => {
                self.words(&[name, record.info, target]);
                for (name, type_id) in record.params() {
                    let words = [self.string(name), self.number(type_id)];
                    self.words(&words);
                }
            }
            Kind::Enum => {
                self.words(&[name, record.info, record.size_or_type]);
                for [name, value] in record.words::<2>() {
                    let words = [self.string(name), value];
                    self.words(&words);
                }
            }
            Kind::Enum64 => {
                self.words(&[name, record.info, record.size_or_type]);
                for [name, low, high] in record.words::<3>() {
                    let words = [self.string(name), low, high];
                    self.words(&words);
                }
            }
            Kind::Array => {
                self.words(&[name, record.info, 0]);
                for [element, index, len] in record.words::<3>() {
                    let words = [self.number(element), self.number(index), len];
                    self.words(&words);
                }
            }
            Kind::Int | Kind::Float | Kind::Fwd => {
                self.words(&[name, record.info, record.size_or_type]);
                record.words::<1>().for_each(|word| self.words(&word));
            }
            _ => {
                self.words(&[name, record.info, target]);
                record.words::<1>().for_each(|word| self.words(&word));
            }
        }
    }

    /// `void` for a type that was not kept.
    fn number(&self, old: u32) -> u32 {
        self.numbers.get(&old).copied().unwrap_or(0)
    }

    fn words(&mut self, words: &[u32]) {
        self.types
            .extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn string(&mut self, offset: u32) -> u32 {
        let text = self.btf.name(offset);
        if text.is_empty() {
            return 0;
        }
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text);
        self.strings.push(0);
        self.known.insert(text.to_vec(), at);
        at
    }

    fn finish(self) -> Vec<u8> {
        let types = self.types.len() as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, self.strings.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

fn info(kind: Kind, flag: bool) -> u32 {
    u32::from(flag) << 31 | u32::from(kind as u8) << 24
}
