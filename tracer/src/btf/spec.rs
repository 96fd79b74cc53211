//! Tables of fields: several names for one thing, tried in order.

use super::{error::ResolveError, parse::Btf, resolve::Field};

/// The offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// A field that is wanted, under the names that it has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldSpec {
    /// What ebusy calls it.
    pub name: &'static str,
    /// Dotted paths, the first that this kernel has is taken.
    pub paths: &'static [&'static str],
    /// Bytes that are going to be read; 0 for any number.
    pub size: u32,
    /// Nothing works without it.
    pub required: bool,
}

/// What became of a [`FieldSpec`] on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What ebusy calls it.
    pub name: &'static str,
    /// The path that this kernel has; `None` when it has none, or not one that can be used.
    pub path: Option<&'static str>,
    /// Bytes from the start of the path's struct; [`ABSENT`] without a path.
    pub offset: u32,
    /// Bytes of the field; 0 without a path.
    pub size: u32,
    /// Why there is no path. An optional field that this kernel simply does not have is no error.
    pub error: Option<String>,
    /// Nothing works without it.
    pub required: bool,
}

/// Looks up a whole table; the results are in its order.
#[must_use]
pub fn resolve_all(btf: &Btf, specs: &[FieldSpec]) -> Vec<Resolved> {
    specs.iter().map(|spec| resolve(btf, spec)).collect()
}

fn resolve(btf: &Btf, spec: &FieldSpec) -> Resolved {
    let mut resolved = Resolved {
        name: spec.name,
        path: None,
        offset: ABSENT,
        size: 0,
        error: None,
        required: spec.required,
    };
    let mut missing = Vec::new();
    for path in spec.paths {
        match btf.field(path).and_then(|field| usable(path, field, spec.size)) {
            Ok(field) => {
                return Resolved {
                    path: Some(path),
                    offset: field.offset,
                    size: field.size,
                    ..resolved
                };
            }
            // This kernel is laid out otherwise: that is what the other paths are for.
            Err(
                error @ (ResolveError::NoSuchStruct { .. }
                | ResolveError::Missing { .. }
                | ResolveError::NotAStruct { .. }),
            ) => missing.push(error.to_string()),
            // It is there, but not as expected. Another path might resolve and yet mean something else.
            Err(error) => {
                return Resolved {
                    error: Some(error.to_string()),
                    ..resolved
                };
            }
        }
    }
    if spec.required {
        resolved.error = Some(if missing.is_empty() {
            format!("{}: no path is known for it", spec.name)
        } else {
            missing.join("; ")
        });
    }
    resolved
}

/// An offset and a size are all that is handed on, so the field has to be nothing but that.
fn usable(path: &str, field: Field, size: u32) -> Result<Field, ResolveError> {
    if let Some(bits) = field.bits {
        let bit = u64::from(field.offset) * 8 + u64::from(bits.shift);
        return Err(ResolveError::NotByteAligned {
            path: path.to_owned(),
            bit,
            width: bits.width,
        });
    }
    if size != 0 && size != field.size {
        return Err(ResolveError::WrongSize {
            path: path.to_owned(),
            expected: size,
            found: field.size,
        });
    }
    Ok(field)
}
