//! The layout of the running kernel: the shared table of offsets, and what follows from the shape of its types.

use tracer_common::{ABSENT, FIELDS, Layout};

use crate::btf::{Btf, Field, FieldKind, FieldSpec, Resolved, resolve_all};

/// Field offsets and the facts that differ between kernels.
#[derive(Debug, Clone)]
pub struct KernelLayout {
    /// The offsets; the programs have the same.
    pub table: Layout,
    /// Slots of a `maple_range_64` node.
    pub range_slots: usize,
    /// Slots of a `maple_arange_64` node.
    pub arange_slots: usize,
    /// Values of `enum maple_type`: leaf, range, arange.
    pub maple_types: [i64; 3],
    /// A child mount holds a reference on its parent (up to Linux 6.16; kernel fact 3).
    pub children_counted: bool,
    /// `mnt_slave_list` is an `hlist_head`, not a `list_head`.
    pub slaves_are_hlist: bool,
    /// `LOOKUP_RCU`, of a lookup that holds nothing.
    pub lookup_rcu: u32,
    /// The type of a fanotify event, which may be a bitfield.
    pub event_type: Option<Field>,
    /// Values of `enum fanotify_event_type` for events that hold a path: path, permission.
    pub event_types: [i64; 2],
    /// `MNT_UMOUNT`, of a mount that was taken out of its namespace.
    pub unmounted: u32,
    /// Size of an `io_hash_bucket`; 0 where there is none (up to Linux 5.19).
    pub uring_bucket: u32,
    /// Size of the account of waiting work of an io_uring; 0 where there is none (up to Linux 5.14).
    pub uring_account: u32,
    /// Every field as it was resolved, for `doctor`.
    pub fields: Vec<Resolved>,
}

/// A field that ebusy cannot do without is missing or ambiguous.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kernel's type information lacks what ebusy reads ({}); \
     please report it with the output of `ebusy doctor` and `uname -r`", .0.join("; ")
)]
pub struct LayoutError(pub Vec<String>);

impl KernelLayout {
    /// Resolves the table; fields that are missing stay in [`KernelLayout::fields`] with the reason.
    #[must_use]
    pub fn resolve(btf: &Btf) -> Self {
        let specs: Vec<FieldSpec> = FIELDS
            .iter()
            .map(|field| FieldSpec {
                name: field.name,
                paths: field.paths,
                size: field.size,
                required: field.required,
            })
            .collect();
        let fields = resolve_all(btf, &specs);
        let mut table = Layout::absent();
        for field in &fields {
            table.set(field.name, field.offset);
        }
        let slots = |path: &str| match btf.field(path).map(|field| field.kind) {
            Ok(FieldKind::Array { len, .. }) => len as usize,
            _ => 0,
        };
        let maple = |name: &str, default| btf.enum_value("maple_type", name).unwrap_or(default);
        let event = |name: &str, default| btf.enum_value("fanotify_event_type", name).unwrap_or(default);
        Self {
            table,
            range_slots: slots("maple_range_64.slot").min(64),
            arange_slots: slots("maple_arange_64.slot").min(64),
            maple_types: [
                maple("maple_leaf_64", 1),
                maple("maple_range_64", 2),
                maple("maple_arange_64", 3),
            ],
            children_counted: table.mount_overmount == ABSENT,
            slaves_are_hlist: btf
                .field("mount.mnt_slave_list")
                .is_ok_and(|field| field.size == 8),
            lookup_rcu: lookup_rcu(btf),
            event_type: btf.field("fanotify_event.type").ok(),
            event_types: [
                event("FANOTIFY_EVENT_TYPE_PATH", 2),
                event("FANOTIFY_EVENT_TYPE_PATH_PERM", 3),
            ],
            // A macro up to Linux 6.16, of the same value (include/linux/mount.h).
            unmounted: btf
                .enum_value("mount_flags", "MNT_UMOUNT")
                .and_then(|flag| u32::try_from(flag).ok())
                .unwrap_or(0x800_0000),
            uring_bucket: btf.struct_size("io_hash_bucket").unwrap_or(0),
            // `io_wqe_acct` before Linux 6.4.
            uring_account: btf
                .struct_size("io_wq_acct")
                .or_else(|_| btf.struct_size("io_wqe_acct"))
                .unwrap_or(0),
            fields,
        }
    }

    /// Refuses a table that lacks a required field.
    pub fn check(&self) -> Result<(), LayoutError> {
        let mut missing: Vec<String> = self
            .fields
            .iter()
            .filter(|field| field.required && field.offset == ABSENT)
            .map(|field| format!("{}: {}", field.name, field.error.as_deref().unwrap_or("missing")))
            .collect();
        let either = |a: u32, b: u32| a != ABSENT || b != ABSENT;
        if !either(self.table.pcp_count, self.table.pcp_gets) {
            missing.push("mnt_pcp: neither mnt_count nor mnt_gets".into());
        }
        if !either(self.table.mm_ma_root, self.table.mm_mmap) {
            missing.push("mm_struct: neither mm_mt nor mmap".into());
        }
        if !either(self.table.mount_instance, self.table.mount_next_for_sb) {
            missing.push("mount: neither mnt_instance nor mnt_next_for_sb".into());
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(LayoutError(missing))
        }
    }
}

/// `LOOKUP_RCU` is a macro, of which BTF knows nothing: 0x40 up to Linux 6.12, `BIT(8)` in 6.18 and 7.2
/// (include/linux/namei.h). The flags of dentries were renumbered by the same series, and those are an enum in BTF.
fn lookup_rcu(btf: &Btf) -> u32 {
    match btf.enum_value("dentry_flags", "DCACHE_OP_HASH") {
        Some(_) => 1 << 8,
        None => 0x40,
    }
}
