//! From a dotted path to a place in memory.

use std::collections::HashSet;

use super::{
    error::ResolveError,
    kind::Kind,
    parse::{Btf, Member, Record},
};

/// Longest chain of typedefs and qualifiers; the kernel's are below 10, and a cycle has to end somewhere.
const CHAIN_MAX: usize = 64;
/// Definitions named in an error.
const CANDIDATES_MAX: usize = 8;
/// Definitions of one name that are compared. Kernels have a handful at most; each costs a search of its own.
const DEFINITIONS_MAX: usize = 64;

/// Place and type of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the struct that the path begins with.
    pub offset: u32,
    /// Bytes to read at `offset`; for a bitfield as many as hold all of its bits.
    pub size: u32,
    /// Its type, without typedefs and qualifiers.
    pub kind: FieldKind,
    /// Which of those bits; `None` when the field is all of its bytes.
    pub bits: Option<Bits>,
}

/// The bits of a bitfield: `value >> shift & ((1 << width) - 1)` of the little-endian number at its `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// First bit, from the start of the field's first byte: 0 to 7.
    pub shift: u32,
    /// Number of bits.
    pub width: u32,
}

/// The type of a field, without typedefs and qualifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldKind {
    /// An integer, a `char` or a `bool`.
    Int {
        /// True if it has a sign.
        signed: bool,
    },
    /// A floating-point number.
    Float,
    /// A pointer to anything.
    Pointer,
    /// An embedded struct, with its name (empty when it has none).
    Struct(String),
    /// An embedded union, with its name (empty when it has none).
    Union(String),
    /// An array.
    Array {
        /// Bytes of one element, which may be an array itself.
        element_size: u32,
        /// Number of elements; 0 for a flexible array.
        len: u32,
    },
    /// An enum, with its name (empty when it has none).
    Enum(String),
}

impl Btf {
    /// Resolves `struct_name.member[.member...]`.
    ///
    /// Members of anonymous structs and unions belong to the struct around them. A step may enter an embedded
    /// struct, never follow a pointer. The first step may be a union, or a typedef where no struct has its name.
    pub fn field(&self, path: &str) -> Result<Field, ResolveError> {
        self.agreed(
            path,
            |id, steps| {
                self.walk(path, id, steps)
                    .and_then(|place| self.describe(path, place))
            },
            |a, b| (a.offset, a.size, a.bits) == (b.offset, b.size, b.bits),
            |field| match field.bits {
                Some(bits) => format!("offset {}, bit {}, {} bits", field.offset, bits.shift, bits.width),
                None => format!("offset {}, {} bytes", field.offset, field.size),
            },
        )
    }

    /// The type of a field, spelled as in C but without spaces before `*`: `struct list_head`, `const char*`.
    pub fn type_name_of(&self, path: &str) -> Result<String, ResolveError> {
        self.agreed(
            path,
            |id, steps| self.walk(path, id, steps).map(|place| self.spell(place.type_id)),
            PartialEq::eq,
            Clone::clone,
        )
    }

    /// Size in bytes of a struct, a union, or the typedef of one.
    pub fn struct_size(&self, name: &str) -> Result<u32, ResolveError> {
        let sizes = self
            .roots(name)?
            .into_iter()
            .map(|(id, record)| (id, Ok(record.size_or_type)))
            .collect();
        agree(name, sizes, PartialEq::eq, |size| format!("{size} bytes"))
    }

    /// True if there is a definition, not just a declaration, of this struct, union, or typedef of one.
    #[must_use]
    pub fn has_struct(&self, name: &str) -> bool {
        self.roots(name).is_ok()
    }

    /// The value of an enum's variant; with an empty `enum_name`, of one of the enums without a name.
    ///
    /// `None` when there is none, and when definitions disagree. Before 6.1 BTF does not say whether an enum
    /// has a sign: its negative values come out as 32-bit ones without.
    #[must_use]
    pub fn enum_value(&self, enum_name: &str, variant: &str) -> Option<i64> {
        let is_enum = |kind| matches!(kind, Kind::Enum | Kind::Enum64);
        let enums = if enum_name.is_empty() {
            self.records()
                .filter(|record| record.kind.is_some_and(is_enum) && self.name(record.name).is_empty())
                .collect()
        } else {
            let mut enums: Vec<_> = self
                .named(enum_name, is_enum)
                .into_iter()
                .map(|(_, record)| record)
                .collect();
            if enums.is_empty() {
                let typedefs = self.named(enum_name, |kind| kind == Kind::Typedef);
                enums.extend(typedefs.into_iter().filter_map(|(id, _)| self.strip(id)?.1));
                enums.retain(|record| record.kind.is_some_and(is_enum));
            }
            enums
        };
        let mut value = None;
        for record in enums {
            for (_, found) in record
                .variants()
                .filter(|(name, _)| self.name(*name) == variant.as_bytes())
            {
                if value.is_some_and(|value| value != found) {
                    return None;
                }
                value = Some(found);
            }
        }
        value
    }

    /// Number of parameters of a function of the kernel, without the `...` of a variadic one.
    ///
    /// `None` when BTF has no such function, and when functions of this name disagree.
    #[must_use]
    pub fn function_params(&self, name: &str) -> Option<usize> {
        let mut counts = self
            .named(name, |kind| kind == Kind::Func)
            .into_iter()
            .map(|(_, function)| {
                let prototype = self.record(function.size_or_type)?;
                (prototype.kind == Some(Kind::FuncProto))
                    .then(|| prototype.params().filter(|(_, type_id)| *type_id != 0).count())
            });
        let first = counts.next()??;
        counts.all(|count| count == Some(first)).then_some(first)
    }

    /// The definitions that a path may begin with.
    fn roots(&self, name: &str) -> Result<Vec<(u32, Record<'_>)>, ResolveError> {
        let mut roots = self.named(name, Kind::is_composite);
        if roots.is_empty() {
            let typedefs = self.named(name, |kind| kind == Kind::Typedef);
            roots = typedefs
                .into_iter()
                .filter_map(|(id, _)| self.strip(id))
                .filter_map(|(id, record)| Some((id, record?)))
                .filter(|(_, record)| record.kind.is_some_and(Kind::is_composite))
                .collect();
        }
        match roots.len() {
            0 => Err(ResolveError::NoSuchStruct {
                name: name.to_owned(),
            }),
            1..=DEFINITIONS_MAX => Ok(roots),
            count => Err(ResolveError::Ambiguous {
                name: name.to_owned(),
                candidates: vec![format!("{count} definitions")],
            }),
        }
    }

    /// Resolves the path in every definition of its first step, and fails if they disagree.
    fn agreed<T>(
        &self,
        path: &str,
        ask: impl Fn(u32, &[&str]) -> Result<T, ResolveError>,
        same: impl Fn(&T, &T) -> bool,
        show: impl Fn(&T) -> String,
    ) -> Result<T, ResolveError> {
        let steps: Vec<&str> = path.split('.').collect();
        match steps.split_first() {
            Some((root, steps)) if !steps.is_empty() && !root.is_empty() && !steps.contains(&"") => {
                let answers = self
                    .roots(root)?
                    .into_iter()
                    .map(|(id, _)| (id, ask(id, steps)))
                    .collect();
                agree(path, answers, same, show)
            }
            _ => Err(ResolveError::BadPath {
                path: path.to_owned(),
            }),
        }
    }

    /// Goes along the steps from the struct `id`.
    fn walk(&self, path: &str, id: u32, steps: &[&str]) -> Result<Place, ResolveError> {
        let mut place = Place {
            type_id: id,
            bit: 0,
            width: 0,
        };
        let mut before = path.split('.').next().unwrap_or(path);
        for step in steps {
            if place.width != 0 || !place.bit.is_multiple_of(8) {
                return Err(place.not_aligned(path, place.width));
            }
            let (id, record) = self
                .strip(place.type_id)
                .ok_or_else(|| broken(path, place.type_id))?;
            let Some(record) = record.filter(|record| record.kind.is_some_and(Kind::is_composite)) else {
                return Err(ResolveError::NotAStruct {
                    path: path.to_owned(),
                    step: before.to_owned(),
                    kind: self.spell(id),
                });
            };
            let (outer, member) =
                self.member(id, record, step.as_bytes())
                    .ok_or_else(|| ResolveError::Missing {
                        path: path.to_owned(),
                        member: (*step).to_owned(),
                    })?;
            place = Place {
                type_id: member.type_id,
                bit: place.bit + outer + u64::from(member.bit),
                width: member.width,
            };
            before = step;
        }
        Ok(place)
    }

    /// Finds a member by name in a struct and in the anonymous structs and unions within it.
    ///
    /// Each type is looked at once: a type that does not have the member does not have it elsewhere either,
    /// and input that nests the same types over and over costs no more than its size.
    fn member<'a>(&'a self, id: u32, record: Record<'a>, wanted: &[u8]) -> Option<(u64, Member)> {
        let mut seen = HashSet::from([id]);
        let mut todo = vec![(0, record)];
        while let Some((outer, record)) = todo.pop() {
            for member in record.members() {
                let name = self.name(member.name);
                if name == wanted {
                    return Some((outer, member));
                }
                if !name.is_empty() || member.width != 0 {
                    continue;
                }
                if let Some((id, Some(inner))) = self.strip(member.type_id)
                    && inner.kind.is_some_and(Kind::is_composite)
                    && seen.insert(id)
                {
                    todo.push((outer + u64::from(member.bit), inner));
                }
            }
        }
        None
    }

    /// The type at a place.
    fn describe(&self, path: &str, place: Place) -> Result<Field, ResolveError> {
        let (id, record) = self
            .strip(place.type_id)
            .ok_or_else(|| broken(path, place.type_id))?;
        let bad = || broken(path, id);
        let record = record.ok_or_else(bad)?;
        let name = || String::from_utf8_lossy(self.name(record.name)).into_owned();
        let mut size = self.size_of(id).ok_or_else(bad)?;
        let (mut bit, mut width) = (place.bit, place.width);
        let kind = match record.kind {
            Some(Kind::Int) => {
                let (encoding, first, bits) = record.int().ok_or_else(bad)?;
                // Compilers before the flag for bitfields made an integer type of so many bits instead.
                if width == 0 && (first != 0 || bits != size.saturating_mul(8)) {
                    bit += u64::from(first);
                    width = bits;
                }
                FieldKind::Int {
                    signed: encoding & 1 != 0,
                }
            }
            Some(Kind::Float) => FieldKind::Float,
            Some(Kind::Ptr) => FieldKind::Pointer,
            Some(Kind::Struct) => FieldKind::Struct(name()),
            Some(Kind::Union) => FieldKind::Union(name()),
            Some(Kind::Enum | Kind::Enum64) => FieldKind::Enum(name()),
            Some(Kind::Array) => {
                let (element, len) = record.array().ok_or_else(bad)?;
                FieldKind::Array {
                    element_size: self.size_of(element).ok_or_else(bad)?,
                    len,
                }
            }
            _ => return Err(bad()),
        };
        // A bitfield as wide as its type, at a byte, is no different from a plain field.
        let whole = bit.is_multiple_of(8) && width == size.saturating_mul(8);
        let bits = (width != 0 && !whole).then_some(Bits {
            shift: (bit % 8) as u32,
            width,
        });
        if let Some(bits) = bits {
            size = (bits.shift + bits.width).div_ceil(8);
        } else if !bit.is_multiple_of(8) {
            return Err(place.not_aligned(path, size.saturating_mul(8)));
        }
        let offset = u32::try_from(bit / 8)
            .ok()
            .filter(|offset| offset.checked_add(size).is_some());
        Ok(Field {
            offset: offset.ok_or_else(bad)?,
            size,
            kind,
            bits,
        })
    }

    /// Follows typedefs and qualifiers to the type itself, which is `None` for `void`; `None` for a cycle or an
    /// id that is not used.
    fn strip(&self, mut id: u32) -> Option<(u32, Option<Record<'_>>)> {
        for _ in 0..CHAIN_MAX {
            if id == 0 {
                return Some((0, None));
            }
            let record = self.record(id)?;
            if !record.kind.is_some_and(Kind::is_modifier) {
                return Some((id, Some(record)));
            }
            id = record.size_or_type;
        }
        None
    }

    /// Size in bytes; `None` if the type has none, or if it does not fit.
    fn size_of(&self, mut id: u32) -> Option<u32> {
        let mut count = 1_u32;
        for _ in 0..CHAIN_MAX {
            let (_, record) = self.strip(id)?;
            let record = record?;
            let size = match record.kind? {
                Kind::Int | Kind::Float | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 => {
                    record.size_or_type
                }
                Kind::Ptr => self.pointer_size(),
                Kind::Array => {
                    let (element, len) = record.array()?;
                    count = count.checked_mul(len)?;
                    id = element;
                    continue;
                }
                _ => return None,
            };
            return count.checked_mul(size);
        }
        None
    }

    /// Spells a type as in C.
    fn spell(&self, id: u32) -> String {
        self.spell_within(id, CHAIN_MAX)
    }

    fn spell_within(&self, id: u32, depth: usize) -> String {
        if id == 0 {
            return "void".to_owned();
        }
        let (Some(depth), Some(record)) = (depth.checked_sub(1), self.record(id)) else {
            return "?".to_owned();
        };
        let Some(kind) = record.kind else {
            return "?".to_owned();
        };
        let name = match self.name(record.name) {
            b"" => "(anonymous)".into(),
            name => String::from_utf8_lossy(name),
        };
        let inner = || self.spell_within(record.size_or_type, depth);
        let qualified = |word: &str| {
            let inner = inner();
            // The qualifier of a pointer comes after it.
            if inner.ends_with('*') {
                format!("{inner} {word}")
            } else {
                format!("{word} {inner}")
            }
        };
        match kind {
            Kind::Int | Kind::Float | Kind::Typedef | Kind::Var | Kind::DataSec => name.into_owned(),
            Kind::Struct => format!("struct {name}"),
            Kind::Union => format!("union {name}"),
            Kind::Enum | Kind::Enum64 => format!("enum {name}"),
            Kind::Fwd => format!("{} {name}", if record.flag { "union" } else { "struct" }),
            Kind::Ptr => inner() + "*",
            Kind::Const => qualified("const"),
            Kind::Volatile => qualified("volatile"),
            Kind::Restrict => qualified("restrict"),
            Kind::TypeTag | Kind::DeclTag => inner(),
            Kind::Func | Kind::FuncProto => "function".to_owned(),
            Kind::Array => {
                let Some((element, len)) = record.array() else {
                    return "?".to_owned();
                };
                let element = self.spell_within(element, depth);
                // `int[2][3]` is two arrays of three: the outer length goes before the inner ones.
                let split = element.find('[').unwrap_or(element.len());
                let (element, lengths) = element.split_at(split);
                format!("{element}[{len}]{lengths}")
            }
        }
    }
}

/// A place in a struct, and its type.
#[derive(Clone, Copy)]
struct Place {
    type_id: u32,
    /// From the start of the outermost struct.
    bit: u64,
    /// Number of bits of a bitfield; 0 for others.
    width: u32,
}

impl Place {
    fn not_aligned(self, path: &str, width: u32) -> ResolveError {
        ResolveError::NotByteAligned {
            path: path.to_owned(),
            bit: self.bit,
            width,
        }
    }
}

fn broken(path: &str, id: u32) -> ResolveError {
    ResolveError::Broken {
        path: path.to_owned(),
        id,
    }
}

/// The answer that all definitions give, or `Ambiguous`.
fn agree<T>(
    name: &str,
    answers: Vec<(u32, Result<T, ResolveError>)>,
    same: impl Fn(&T, &T) -> bool,
    show: impl Fn(&T) -> String,
) -> Result<T, ResolveError> {
    let shown = |(id, answer): &(u32, Result<T, ResolveError>)| match answer {
        Ok(found) => format!("type {id}: {}", show(found)),
        Err(error) => format!("type {id}: {error}"),
    };
    let agreed = match answers.split_first() {
        Some(((_, Ok(first)), rest)) => rest
            .iter()
            .all(|(_, other)| matches!(other, Ok(other) if same(first, other))),
        // That none of them has it is an answer as well.
        _ => answers.iter().all(|(_, answer)| answer.is_err()),
    };
    if !agreed {
        let candidates = answers.iter().take(CANDIDATES_MAX).map(shown).collect();
        return Err(ResolveError::Ambiguous {
            name: name.to_owned(),
            candidates,
        });
    }
    match answers.into_iter().next() {
        Some((_, answer)) => answer,
        None => Err(ResolveError::NoSuchStruct {
            name: name.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
