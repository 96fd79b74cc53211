//! Fields of loadable modules. Their types are in the module's own BTF (Linux 5.11 on), or in the kernel's where the
//! code is built in; a module may be loaded while ebusy runs. So they are looked up when something of the module is
//! there, and have tables of their own: the programs know nothing of them.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use crate::btf::{ABSENT, Btf, FieldSpec, Resolved, resolve_all};

/// The fields that ebusy reads of one module.
pub(super) trait ModuleFields: Copy {
    /// Name of the module.
    const MODULE: &'static str;
    /// How its fields are found.
    const SPECS: &'static [FieldSpec];

    /// The offsets, from the fields in the order of [`Self::SPECS`].
    fn from_offsets(offsets: &[u32]) -> Self;
}

macro_rules! module_fields {
    ($(#[$doc:meta])* $type:ident $module:literal {
        $($(#[$field_doc:meta])* $name:ident: $size:literal [$($path:literal),+];)+
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $type {
            $($(#[$field_doc])* pub(super) $name: u32,)+
        }

        impl ModuleFields for $type {
            const MODULE: &'static str = $module;
            const SPECS: &'static [FieldSpec] = &[
                $(FieldSpec {
                    name: concat!($module, "_", stringify!($name)),
                    paths: &[$($path),+],
                    size: $size,
                    required: false,
                },)+
            ];

            fn from_offsets(offsets: &[u32]) -> Self {
                let mut offsets = offsets.iter().copied();
                Self {
                    $($name: offsets.next().unwrap_or(ABSENT),)+
                }
            }
        }
    };
}

module_fields! {
    /// The loop driver.
    LoopFields "loop" {
        /// Number of a device.
        number: 4 ["loop_device.lo_number"];
        /// Its disk.
        disk: 8 ["loop_device.lo_disk"];
        /// The file behind it.
        file: 8 ["loop_device.lo_backing_file"];
    }
}

module_fields! {
    /// Overlays.
    OverlayFields "overlay" {
        /// Its layers, the upper one first (Linux 5.8 on).
        layers: 8 ["ovl_fs.layers"];
        /// The work directory as it was given.
        work: 8 ["ovl_fs.workbasedir"];
        /// The mount that overlayfs keeps of a layer.
        mount: 8 ["ovl_layer.mnt"];
    }
}

impl OverlayFields {
    /// As they are in Linux 5.8 to 5.10 (`fs/overlayfs/ovl_entry.h`), whose modules have no BTF.
    pub(super) const LINUX_5_10: Self = Self {
        layers: 8,
        work: 24,
        mount: 0,
    };
}

module_fields! {
    /// Formats of programs that are run by interpreters.
    BinfmtFields "binfmt_misc" {
        /// Name of an entry.
        name: 8 ["Node.name"];
        /// The interpreter, if it is kept open.
        file: 8 ["Node.interp_file"];
    }
}

module_fields! {
    /// Caches of the RPC server.
    CacheFields "sunrpc" {
        /// Name of a cache.
        name: 8 ["cache_detail.name"];
        /// Number of its hash chains.
        size: 4 ["cache_detail.hash_size"];
        /// The chains.
        table: 8 ["cache_detail.hash_table"];
        /// Link of an entry in its chain.
        link: 16 ["cache_head.cache_list"];
        /// Name of a client.
        domain_name: 8 ["auth_domain.name"];
    }
}

module_fields! {
    /// Exports of the NFS server.
    ExportFields "nfsd" {
        /// The cache entry in an export.
        head: 0 ["svc_export.h"];
        /// To whom.
        client: 8 ["svc_export.ex_client"];
        /// What.
        path: 16 ["svc_export.ex_path"];
        /// The cache entry in the key of a file handle.
        key_head: 0 ["svc_expkey.h"];
        /// To whom.
        key_client: 8 ["svc_expkey.ek_client"];
        /// What.
        key_path: 16 ["svc_expkey.ek_path"];
    }
}

/// The tables of the modules that were there so far.
#[derive(Debug, Default)]
pub(super) struct Modules {
    kernel: Option<Arc<Btf>>,
    resolved: Mutex<HashMap<&'static str, Arc<[Resolved]>>>,
}

impl Modules {
    /// None resolved yet.
    pub(super) fn new(kernel: Arc<Btf>) -> Self {
        Self {
            kernel: Some(kernel),
            resolved: Mutex::default(),
        }
    }

    /// The fields of a module; all absent where the kernel does not describe it.
    pub(super) fn fields<M: ModuleFields>(&self) -> M {
        let offsets: Vec<u32> = self
            .resolve(M::MODULE, M::SPECS)
            .iter()
            .map(|field| field.offset)
            .collect();
        M::from_offsets(&offsets)
    }

    /// Every field of every module, for `doctor`.
    pub(super) fn all(&self) -> Vec<Resolved> {
        let tables = [
            (LoopFields::MODULE, LoopFields::SPECS),
            (OverlayFields::MODULE, OverlayFields::SPECS),
            (BinfmtFields::MODULE, BinfmtFields::SPECS),
            (CacheFields::MODULE, CacheFields::SPECS),
            (ExportFields::MODULE, ExportFields::SPECS),
        ];
        tables
            .into_iter()
            .flat_map(|(module, specs)| self.resolve(module, specs).to_vec())
            .collect()
    }

    fn resolve(&self, module: &'static str, specs: &'static [FieldSpec]) -> Arc<[Resolved]> {
        let mut known = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fields) = known.get(module) {
            return Arc::clone(fields);
        }
        let Some(kernel) = &self.kernel else {
            return Arc::default();
        };
        let built_in = || {
            let fields = resolve_all(kernel, specs);
            let there = fields.iter().any(|field| field.offset != ABSENT);
            there.then_some(fields)
        };
        let split = || Some(resolve_all(&Btf::module(module, Arc::clone(kernel)).ok()?, specs));
        let Some(fields) = split().or_else(built_in) else {
            // Its BTF may come yet; one that is loaded without BTF stays so.
            let fields: Arc<[Resolved]> = resolve_all(kernel, specs).into();
            if Path::new("/sys/module").join(module).exists() {
                known.insert(module, Arc::clone(&fields));
            }
            return fields;
        };
        let fields: Arc<[Resolved]> = fields.into();
        known.insert(module, Arc::clone(&fields));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::{LoopFields, ModuleFields as _, Modules};
    use crate::btf::ABSENT;

    #[test]
    fn without_types_all_fields_are_absent() {
        let fields: LoopFields = Modules::default().fields();
        assert_eq!(
            (fields.number, fields.disk, fields.file),
            (ABSENT, ABSENT, ABSENT)
        );
        let fields = LoopFields::from_offsets(&[0, 8, 16]);
        assert_eq!((fields.number, fields.disk, fields.file), (0, 8, 16));
    }
}
