//! Errors; every text names its object.

use std::io;

use thiserror::Error;

/// The bytes are no BTF that can be used.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The kernel was built without BTF.
    #[error("the running kernel has no {path}: boot one that was built with CONFIG_DEBUG_INFO_BTF=y")]
    NotBuilt {
        /// The file that is missing.
        path: String,
    },
    /// There is no sysfs to look in.
    #[error("no {path}, because sysfs is not mounted: mount -t sysfs sysfs /sys")]
    NoSysfs {
        /// The file that is missing.
        path: String,
    },
    /// The module is not loaded, or has no BTF of its own.
    #[error(
        "no BTF for the module {name:?}: it is not loaded, built in, or the kernel was built without CONFIG_DEBUG_INFO_BTF_MODULES=y"
    )]
    NoModule {
        /// The module asked for.
        name: String,
    },
    /// Reading failed.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// Shorter than a header.
    #[error("not BTF: {len} bytes are too few for a header")]
    TooShort {
        /// Length of the input.
        len: usize,
    },
    /// Not BTF.
    #[error("not BTF: it begins with {found:#06x}, not with 0xeb9f")]
    BadMagic {
        /// The first two bytes, as a little-endian number.
        found: u16,
    },
    /// BTF of a big-endian machine.
    #[error("this BTF is big-endian; only little-endian kernels are supported")]
    BigEndian,
    /// A version that is newer than this code.
    #[error("BTF version {found} is not known (only 1 is)")]
    BadVersion {
        /// Its version.
        found: u8,
    },
    /// The header contradicts the input's length.
    #[error("broken BTF: its {section} section does not fit into its {len} bytes")]
    BadSection {
        /// `header`, `type`, `string` or `layout`.
        section: &'static str,
        /// Length of the input.
        len: usize,
    },
    /// A type record ends after the end of the type section.
    #[error("broken BTF: type {id} is cut off")]
    Truncated {
        /// Its number.
        id: u32,
    },
    /// A kind of type whose length is not known, so that nothing after it can be found.
    #[error("type {id} is of kind {kind}, which this version of ebusy does not know")]
    UnknownKind {
        /// Number of the type.
        id: u32,
        /// Its kind.
        kind: u8,
    },
    /// More types than type ids.
    #[error("broken BTF: more types than can be numbered")]
    TooManyTypes,
}

/// A path could not be resolved, or not safely.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// The first step names no struct, union or typedef of one that is defined.
    #[error("this kernel defines no struct {name}")]
    NoSuchStruct {
        /// The name.
        name: String,
    },
    /// There is no such member.
    #[error("{path}: this kernel has no member {member}")]
    Missing {
        /// The whole path.
        path: String,
        /// The step that was not found.
        member: String,
    },
    /// Several definitions of one name disagree.
    #[error("{name} is ambiguous: {}", .candidates.join("; "))]
    Ambiguous {
        /// The query.
        name: String,
        /// The answer of each definition.
        candidates: Vec<String>,
    },
    /// The field has another size than the caller is about to read.
    #[error("{path} has {found} bytes, {expected} were expected")]
    WrongSize {
        /// The whole path.
        path: String,
        /// The size that the caller wants.
        expected: u32,
        /// The size in this kernel.
        found: u32,
    },
    /// The field is a bitfield, or lies in one, where a whole number of bytes is needed.
    #[error("{path} does not begin and end at a byte (bit {bit}, {width} bits)")]
    NotByteAligned {
        /// The whole path.
        path: String,
        /// First bit, from the start of the outermost struct.
        bit: u64,
        /// Number of bits.
        width: u32,
    },
    /// A step goes into something that has no members; pointers are never followed.
    #[error("{path}: {step} is {kind}, which has no members of its own")]
    NotAStruct {
        /// The whole path.
        path: String,
        /// The step whose type it is.
        step: String,
        /// That type.
        kind: String,
    },
    /// The path is empty, or has an empty step.
    #[error("{path:?} is no path of the form struct.member")]
    BadPath {
        /// The path.
        path: String,
    },
    /// The types contradict themselves: a cycle, an id out of range, a size that overflows.
    #[error("{path}: broken BTF at type {id}")]
    Broken {
        /// The query.
        path: String,
        /// The type at which it was noticed.
        id: u32,
    },
}
