//! The kernel fields that ebusy reads, by dotted path in BTF. One table serves the programs (as a read-only
//! global) and the walks in user space; the offsets come from the running kernel, never from here.

/// The offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// How a field is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldEntry {
    /// The name in [`Layout`].
    pub name: &'static str,
    /// Dotted paths, the first that exists is taken.
    pub paths: &'static [&'static str],
    /// Expected size in bytes; 0 for any.
    pub size: u32,
    /// Whether ebusy works without it.
    pub required: bool,
}

macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident: $size:literal $need:ident [$($path:literal),+];)+) => {
        /// Byte offsets of kernel fields, [`ABSENT`] where the running kernel has no such field.
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Layout {
            $($(#[$doc])* pub $name: u32,)+
        }

        /// How each field of [`Layout`] is found, in its order.
        pub const FIELDS: &[FieldEntry] = &[
            $(FieldEntry {
                name: stringify!($name),
                paths: &[$($path),+],
                size: $size,
                required: layout!(@need $need),
            },)+
        ];

        impl Layout {
            /// A layout without any field.
            #[must_use]
            pub const fn absent() -> Self {
                Self { $($name: ABSENT,)+ }
            }

            /// Sets a field by its name; `false` if there is none of that name.
            pub fn set(&mut self, name: &str, offset: u32) -> bool {
                match name {
                    $(stringify!($name) => self.$name = offset,)+
                    _ => return false,
                }
                true
            }
        }
    };
    (@need required) => { true };
    (@need optional) => { false };
}

layout! {
    /// Ring of all processes.
    task_tasks: 16 required ["task_struct.tasks"];
    /// Ring of the threads of a process.
    task_thread_node: 16 required ["task_struct.thread_node"];
    /// `signal_struct`, shared by the threads of a process.
    task_signal: 8 required ["task_struct.signal"];
    /// Head of the ring of threads.
    signal_thread_head: 16 required ["signal_struct.thread_head"];
    /// Thread id.
    task_pid: 4 required ["task_struct.pid"];
    /// Process id.
    task_tgid: 4 required ["task_struct.tgid"];
    /// Command name.
    task_comm: 16 required ["task_struct.comm"];
    /// Start, boot clock; `real_start_time` before Linux 5.5.
    task_start_boottime: 8 required ["task_struct.start_boottime", "task_struct.real_start_time"];
    /// Leader of the thread group.
    task_group_leader: 8 required ["task_struct.group_leader"];
    /// Parent.
    task_real_parent: 8 required ["task_struct.real_parent"];
    /// Working and root directory.
    task_fs: 8 required ["task_struct.fs"];
    /// Descriptor table.
    task_files: 8 required ["task_struct.files"];
    /// Address space.
    task_mm: 8 required ["task_struct.mm"];
    /// Namespaces.
    task_nsproxy: 8 required ["task_struct.nsproxy"];
    /// Mount namespace.
    nsproxy_mnt_ns: 8 required ["nsproxy.mnt_ns"];
    /// Number of a mount namespace.
    mnt_ns_inum: 4 required ["mnt_namespace.ns.inum"];
    /// Its root mount.
    mnt_ns_root: 8 required ["mnt_namespace.root"];
    /// Root directory.
    fs_root: 16 required ["fs_struct.root"];
    /// Working directory.
    fs_pwd: 16 required ["fs_struct.pwd"];
    /// `vfsmount` of a `struct path`.
    path_mnt: 8 required ["path.mnt"];
    /// dentry of a `struct path`.
    path_dentry: 8 required ["path.dentry"];
    /// Current descriptor table.
    files_fdt: 8 required ["files_struct.fdt"];
    /// Its size.
    fdt_max_fds: 4 required ["fdtable.max_fds"];
    /// Its array of `struct file *`.
    fdt_fd: 8 required ["fdtable.fd"];
    /// Its bitmap of descriptors in use.
    fdt_open_fds: 8 required ["fdtable.open_fds"];
    /// Path of an open file.
    file_path: 16 required ["file.f_path"];
    /// `FMODE_*`.
    file_mode: 4 required ["file.f_mode"];
    /// `O_*`.
    file_flags: 4 required ["file.f_flags"];
    /// Private data; on overlayfs it leads to the backing file.
    file_private: 8 required ["file.private_data"];
    /// Path that the user opened, of a backing file; Linux 6.8 on (before, `f_path` is that path).
    backing_user_path: 16 optional ["backing_file.user_path"];
    /// Executable.
    mm_exe_file: 8 required ["mm_struct.exe_file"];
    /// Root of the maple tree of mappings, Linux 6.1 on.
    mm_ma_root: 8 optional ["mm_struct.mm_mt.ma_root"];
    /// List of mappings, before Linux 6.1.
    mm_mmap: 8 optional ["mm_struct.mmap"];
    /// Next mapping, before Linux 6.1.
    vma_next: 8 optional ["vm_area_struct.vm_next"];
    /// Address space of a mapping.
    vma_mm: 8 required ["vm_area_struct.vm_mm"];
    /// Mapped file.
    vma_file: 8 required ["vm_area_struct.vm_file"];
    /// Pivots of a leaf or inner node.
    maple_r64_pivot: 0 optional ["maple_range_64.pivot"];
    /// Slots of a leaf or inner node.
    maple_r64_slot: 0 optional ["maple_range_64.slot"];
    /// Pivots of an inner node with gaps.
    maple_a64_pivot: 0 optional ["maple_arange_64.pivot"];
    /// Slots of an inner node with gaps.
    maple_a64_slot: 0 optional ["maple_arange_64.slot"];
    /// The `vfsmount` in a `struct mount`.
    mount_mnt: 0 required ["mount.mnt"];
    /// Parent mount.
    mount_parent: 8 required ["mount.mnt_parent"];
    /// dentry it is mounted on.
    mount_mountpoint: 8 required ["mount.mnt_mountpoint"];
    /// Root dentry.
    mount_root: 8 required ["mount.mnt.mnt_root"];
    /// Superblock.
    mount_sb: 8 required ["mount.mnt.mnt_sb"];
    /// `MNT_*`.
    mount_flags: 4 required ["mount.mnt.mnt_flags"];
    /// Per-CPU counters.
    mount_pcp: 8 required ["mount.mnt_pcp"];
    /// List of child mounts.
    mount_mounts: 16 required ["mount.mnt_mounts"];
    /// Link in the parent's list.
    mount_child: 16 required ["mount.mnt_child"];
    /// What was mounted.
    mount_devname: 8 required ["mount.mnt_devname"];
    /// Ring of peers.
    mount_share: 16 required ["mount.mnt_share"];
    /// Slaves: `list_head` up to 6.16, `hlist_head` later (told apart by size).
    mount_slave_list: 0 required ["mount.mnt_slave_list"];
    /// Link in the master's list of slaves.
    mount_slave: 16 required ["mount.mnt_slave"];
    /// Master.
    mount_master: 8 required ["mount.mnt_master"];
    /// Namespace; null for a detached mount.
    mount_ns: 8 required ["mount.mnt_ns"];
    /// Id in mountinfo.
    mount_id: 4 required ["mount.mnt_id"];
    /// Id that is never reused, Linux 6.8 on.
    mount_id_unique: 8 optional ["mount.mnt_id_unique"];
    /// Peer group.
    mount_group_id: 4 required ["mount.mnt_group_id"];
    /// The mountpoint object, shared by all mounts on one dentry.
    mount_mp: 8 required ["mount.mnt_mp"];
    /// Link in its list.
    mount_mp_list: 16 required ["mount.mnt_mp_list"];
    /// Head of that list.
    mountpoint_list: 8 required ["mountpoint.m_list"];
    /// Where this exists children hold no reference on their parent (Linux 6.17 on).
    mount_overmount: 8 optional ["mount.overmount"];
    /// Link in the superblock's list of mounts, up to 6.16.
    mount_instance: 16 optional ["mount.mnt_instance"];
    /// The same as a chain, later.
    mount_next_for_sb: 8 optional ["mount.mnt_next_for_sb"];
    /// References, where one counter has them.
    pcp_count: 4 optional ["mnt_pcp.mnt_count"];
    /// References taken.
    pcp_gets: 4 optional ["mnt_pcp.mnt_gets"];
    /// References dropped.
    pcp_puts: 4 optional ["mnt_pcp.mnt_puts"];
    /// Device number.
    sb_dev: 4 required ["super_block.s_dev"];
    /// File system type.
    sb_type: 8 required ["super_block.s_type"];
    /// Mounts of the superblock: a `list_head`, or the first of a chain.
    sb_mounts: 0 required ["super_block.s_mounts"];
    /// Subtype (`fuse.sshfs`).
    sb_subtype: 8 optional ["super_block.s_subtype"];
    /// Name of a file system type.
    fs_type_name: 8 required ["file_system_type.name"];
    /// Name of a dentry.
    dentry_name: 8 required ["dentry.d_name.name"];
    /// Its length.
    dentry_name_len: 4 required ["dentry.d_name.len"];
    /// Parent dentry; itself at a root.
    dentry_parent: 8 required ["dentry.d_parent"];
    /// Superblock of a dentry.
    dentry_sb: 8 required ["dentry.d_sb"];
    /// Hash link; its back pointer is null for a deleted name.
    dentry_hash_pprev: 8 required ["dentry.d_hash.pprev"];
    /// Per-CPU values of an array map: the way to the per-CPU offsets.
    bpf_array_pptrs: 0 optional ["bpf_array.pptrs"];
}

#[cfg(test)]
mod tests {
    use super::{ABSENT, FIELDS, Layout};

    #[test]
    fn every_field_can_be_set_by_its_name() {
        let mut layout = Layout::absent();
        for field in FIELDS {
            assert!(layout.set(field.name, 8), "{}", field.name);
            assert!(!field.paths.is_empty());
        }
        assert_eq!(layout.task_pid, 8);
        assert!(!layout.set("no_such_field", 0));
        assert_eq!(Layout::absent().mount_id, ABSENT);
    }
}
