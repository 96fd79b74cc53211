//! Tables of fields: several names for one thing, tried in order.

use tracer_common::{ABSENT, FieldEntry};

use super::{error::ResolveError, parse::Btf, resolve::Field};

/// The result for a [`FieldEntry`] on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// ebusy's name for it.
    pub name: &'static str,
    /// The path that this kernel has; `None` if it has none, or no usable one.
    pub path: Option<&'static str>,
    /// Bytes from the start of the path's struct; [`ABSENT`] without a path.
    pub offset: u32,
    /// Bytes of the field; 0 without a path.
    pub size: u32,
    /// The reason if there is no path. An optional field that this kernel does not have is no error.
    pub error: Option<String>,
    /// Nothing works without it.
    pub required: bool,
}

/// Looks up a whole table; the results are in its order.
#[must_use]
pub fn resolve_all(btf: &Btf, specs: &[FieldEntry]) -> Vec<Resolved> {
    specs.iter().map(|spec| resolve(btf, spec)).collect()
}

fn resolve(btf: &Btf, spec: &FieldEntry) -> Resolved {
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
            // This kernel has another layout: the other paths are for such kernels.
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

/// Callers get only an offset and a size, so the field must be nothing more.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::testing::Builder;

    fn kernel() -> Btf {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        let long = builder.int("long unsigned int", 8);
        builder.structure("mnt_pcp", 16, &[("mnt_gets", int, 0, 0), ("wide", long, 64, 0)]);
        builder.structure("flags", 4, &[("low", int, 0, 3), ("high", int, 3, 5)]);
        builder.structure("twice", 8, &[("x", int, 0, 0)]);
        builder.structure("twice", 8, &[("x", int, 32, 0)]);
        builder.parse()
    }

    fn one(paths: &'static [&'static str], size: u32, required: bool) -> Resolved {
        resolve(
            &kernel(),
            &FieldEntry {
                name: "it",
                paths,
                size,
                required,
            },
        )
    }

    #[test]
    fn the_first_path_that_exists_is_taken() {
        let found = one(
            &[
                "mnt_pcp.mnt_count",
                "gone.x",
                "mnt_pcp.mnt_gets.x",
                "mnt_pcp.mnt_gets",
            ],
            4,
            true,
        );
        assert_eq!(
            (found.path, found.offset, found.size),
            (Some("mnt_pcp.mnt_gets"), 0, 4)
        );
        assert_eq!(found.error, None);
        let found = one(&["mnt_pcp.wide"], 0, true);
        assert_eq!((found.offset, found.size), (8, 8));
    }

    #[test]
    fn a_missing_field_is_an_error_only_when_it_is_required() {
        let found = one(&["mnt_pcp.mnt_count", "gone.x"], 4, false);
        assert_eq!(
            (found.path, found.offset, found.size, &found.error),
            (None, ABSENT, 0, &None)
        );
        let found = one(&["mnt_pcp.mnt_count", "gone.x"], 4, true);
        let text = found.error.unwrap();
        assert!(
            text.contains("mnt_pcp.mnt_count") && text.contains("struct gone"),
            "{text}"
        );
        assert!(one(&[], 4, true).error.is_some());
    }

    #[test]
    fn what_is_there_but_wrong_does_not_fall_through() {
        for (path, word) in [
            ("mnt_pcp.wide", "8 bytes, 4 were expected"),
            ("flags.low", "bit 0, 3 bits"),
            ("flags.high", "bit 3, 5 bits"),
            ("twice.x", "ambiguous"),
        ] {
            let paths: &'static [&'static str] = Box::leak(Box::new([path, "mnt_pcp.mnt_gets"]));
            for required in [true, false] {
                let found = one(paths, 4, required);
                assert_eq!((found.path, found.offset), (None, ABSENT), "{path}");
                let text = found.error.unwrap();
                assert!(text.contains(word), "{path}: {text}");
            }
        }
    }
}
