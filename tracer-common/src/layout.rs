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
    /// The user namespace whose superuser may mount in it.
    mnt_ns_user: 8 optional ["mnt_namespace.user_ns"];
    /// What an inode of nsfs leads to.
    mnt_ns_common: 0 optional ["mnt_namespace.ns"];
    /// The same in a network namespace.
    net_ns_common: 0 optional ["net.ns"];
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
    /// Its readahead state, whose setting up ends an open (kprobe tier).
    file_ra: 0 optional ["file.f_ra"];
    /// Its mapping.
    file_mapping: 8 optional ["file.f_mapping"];
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
    /// Pages that a tmpfs may have; 0 where it is not counted.
    shmem_most: 8 optional ["shmem_sb_info.max_blocks"];
    /// Pages that it has, without the parts of the CPUs.
    shmem_used: 8 optional ["shmem_sb_info.used_blocks.count"];
    /// Those parts.
    shmem_used_parts: 8 optional ["shmem_sb_info.used_blocks.counters"];
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
    // The ledger of open files.
    /// Hash (with the parent) and length of the name of a dentry: tells that it is still the same name.
    dentry_hash_len: 8 optional ["dentry.d_name.hash_len"];
    /// Type and permissions of an inode.
    inode_mode: 2 optional ["inode.i_mode"];
    /// Per-CPU values of an array map: the way to the per-CPU offsets.
    bpf_array_pptrs: 0 optional ["bpf_array.pptrs"];

    // UNIX sockets and what is in flight over them.
    /// Network namespace.
    nsproxy_net_ns: 8 optional ["nsproxy.net_ns"];
    /// Ring of all network namespaces.
    net_list: 16 optional ["net.list"];
    /// Hash table of the UNIX sockets of a network namespace, Linux 6.0 on; one for all of them before.
    net_unix_buckets: 8 optional ["net.unx.table.buckets"];
    /// `AF_*`.
    sock_family: 2 optional ["sock.__sk_common.skc_family"];
    /// `TCP_*`; of UNIX sockets as well.
    sock_state: 1 optional ["sock.__sk_common.skc_state"];
    /// Link in the hash table.
    sock_node: 16 optional ["sock.__sk_common.skc_node"];
    /// Back pointer in the table of sockets that are bound to a path, Linux 6.0 on.
    sock_bind_pprev: 8 optional ["sock.__sk_common.skc_bind_node.pprev"];
    /// What was sent to it.
    sock_queue: 0 optional ["sock.sk_receive_queue"];
    /// Its `struct socket`; null until it is accepted.
    sock_socket: 8 optional ["sock.sk_socket"];
    /// The `struct sock` of a `struct socket`.
    socket_sk: 8 optional ["socket.sk"];
    /// Its open file.
    socket_file: 8 optional ["socket.file"];
    /// The number of its inode, which follows the `struct socket`.
    socket_inode: 8 optional ["socket_alloc.vfs_inode.i_ino"];
    /// The address of a UNIX socket; null if it has none.
    unix_addr: 8 optional ["unix_sock.addr"];
    /// What a UNIX socket is bound to, in its `unix_sock`, which begins with its `struct sock`.
    unix_path: 16 optional ["unix_sock.path"];
    /// The socket that a buffer is charged to: the sender's; in the queue of a listener the one to be accepted.
    skb_sk: 8 optional ["sk_buff.sk"];
    /// What a protocol keeps in a buffer; of UNIX sockets an `unix_skb_parms`.
    skb_cb: 48 optional ["sk_buff.cb"];
    /// The sender, if credentials are passed.
    unix_cb_pid: 8 optional ["unix_skb_parms.pid"];
    /// Files in flight.
    unix_cb_fp: 8 optional ["unix_skb_parms.fp"];
    /// How many.
    scm_count: 2 optional ["scm_fp_list.count"];
    /// Which.
    scm_files: 0 optional ["scm_fp_list.fp"];
    /// The numbers of a `struct pid`, that of the host first.
    pid_numbers: 0 optional ["pid.numbers"];
    /// Number in a pid namespace.
    upid_nr: 4 optional ["upid.nr"];
    /// References on an open file, up to Linux 6.12.
    file_count: 8 optional ["file.f_count.counter"];
    /// The same less one, later.
    file_ref: 8 optional ["file.f_ref.refcnt.counter"];
    // What the kernel holds by itself: ways to objects that no task leads to.
    /// Inode of a dentry.
    dentry_inode: 8 optional ["dentry.d_inode"];
    /// The first of what is known of a directory: Linux 6.8 on, and before.
    dentry_children: 8 optional ["dentry.d_children.first", "dentry.d_subdirs.next"];
    /// The next one; links lead to links.
    dentry_sibling: 8 optional ["dentry.d_sib.next", "dentry.d_child.next"];
    /// The text of a symbolic link, where the file system has it in memory.
    inode_link: 8 optional ["inode.i_link"];
    /// Link in the inode's list of dentries.
    dentry_alias: 16 optional ["dentry.d_u.d_alias", "dentry.d_alias"];
    /// Private data of an inode: what a file of a pseudo file system stands for.
    inode_private: 8 optional ["inode.i_private"];
    /// Link in the superblock's list of inodes.
    inode_sb_list: 16 optional ["inode.i_sb_list"];
    /// Superblock of an inode.
    inode_sb: 8 optional ["inode.i_sb"];
    /// Dentries of an inode.
    inode_dentries: 8 optional ["inode.i_dentry"];
    /// Inodes of a superblock.
    sb_inodes: 16 optional ["super_block.s_inodes"];
    /// Link in the list of superblocks of a type.
    sb_instances: 16 optional ["super_block.s_instances"];
    /// Superblocks of a file system type.
    fs_type_supers: 8 optional ["file_system_type.fs_supers"];
    /// Next file system type: a pointer to it, or (Linux 7.1 or 7.2 on) the link of an `hlist`.
    fs_type_next: 8 optional ["file_system_type.next"];
    /// The same as the link of an `hlist`.
    fs_type_list: 16 optional ["file_system_type.list"];
    /// What a file of sysfs stands for: a `kobject`.
    kernfs_private: 8 optional ["kernfs_node.priv"];
    /// The `device` of a disk in its `gendisk`, up to Linux 5.10.
    disk_device: 0 optional ["gendisk.part0.__dev"];
    /// The same in its `block_device`, Linux 5.11 on.
    bdev_device: 0 optional ["block_device.bd_device"];
    /// Disk of a `block_device`.
    bdev_disk: 8 optional ["block_device.bd_disk"];
    /// Name of a disk.
    disk_name: 32 optional ["gendisk.disk_name"];
    /// What the driver keeps for a disk.
    disk_private: 8 optional ["gendisk.private_data"];
    /// `SWP_*`.
    swap_flags: 8 optional ["swap_info_struct.flags"];
    /// Number of a swap area.
    swap_type: 1 optional ["swap_info_struct.type"];
    /// Its file.
    swap_file: 8 optional ["swap_info_struct.swap_file"];
    /// Events of a trace array.
    trace_array_events: 16 optional ["trace_array.events"];
    /// Link in the trace array's list of events.
    trace_file_list: 16 optional ["trace_event_file.list"];
    /// The event that it is about.
    trace_file_call: 8 optional ["trace_event_file.event_call"];
    /// `TRACE_EVENT_FL_*`.
    call_flags: 4 optional ["trace_event_call.flags"];
    /// Name of an event.
    call_name: 8 optional ["trace_event_call.name"];
    /// Class of an event.
    call_class: 8 optional ["trace_event_call.class"];
    /// Group of a class.
    class_system: 8 optional ["trace_event_class.system"];
    /// The event of dynamic probes.
    probe_event_call: 0 optional ["trace_probe_event.call"];
    /// Its probes.
    probe_event_probes: 16 optional ["trace_probe_event.probes"];
    /// Link in the event's list of probes.
    probe_list: 16 optional ["trace_probe.list"];
    /// Event of a probe.
    probe_event: 8 optional ["trace_probe.event"];
    /// The probe in a uprobe.
    uprobe_probe: 0 optional ["trace_uprobe.tp"];
    /// Path of the probed file.
    uprobe_path: 16 optional ["trace_uprobe.path"];
    /// The event that a perf event is of.
    perf_event_call: 8 optional ["perf_event.tp_event"];
    /// `BPF_LINK_TYPE_*`.
    bpf_link_type: 4 optional ["bpf_link.type"];
    /// The link in that of a perf event; Linux 5.15 on.
    perf_link_link: 0 optional ["bpf_perf_link.link"];
    /// File of the perf event.
    perf_link_file: 8 optional ["bpf_perf_link.perf_file"];
    /// The link in that of many uprobes; Linux 6.6 on.
    uprobe_multi_link: 0 optional ["bpf_uprobe_multi_link.link"];
    /// Path of the probed file.
    uprobe_multi_path: 16 optional ["bpf_uprobe_multi_link.path"];
    /// The inode in an inode of proc.
    proc_inode_inode: 0 optional ["proc_inode.vfs_inode"];
    /// Entry of an inode of proc.
    proc_inode_entry: 8 optional ["proc_inode.pde"];
    /// What an entry stands for.
    proc_entry_data: 8 optional ["proc_dir_entry.data"];

    // io_uring: registered files.
    /// Table of the files registered with a ring: an array of tagged pointers, Linux 5.15 to 6.12 (and 5.10 stable).
    uring_files: 8 optional ["io_ring_ctx.file_table.files"];
    /// Its length.
    uring_file_count: 4 optional ["io_ring_ctx.nr_user_files"];
    /// The same as an array of nodes, Linux 6.13 on.
    uring_nodes: 8 optional ["io_ring_ctx.file_table.data.nodes"];
    /// Its length.
    uring_node_count: 4 optional ["io_ring_ctx.file_table.data.nr"];
    /// What a node is of: 0 is a file.
    uring_node_type: 0 optional ["io_rsrc_node.type"];
    /// Its file, tagged.
    uring_node_file: 8 optional ["io_rsrc_node.file_ptr"];
    /// What a task has to do with io_uring.
    task_io_uring: 8 optional ["task_struct.io_uring"];
    /// Rings that it refers to by index, Linux 5.18 on.
    uring_registered_rings: 128 optional ["io_uring_task.registered_rings"];

    // io_uring: requests under way, and rings that are taken down.
    /// Hash table of requests that wait for an event, of a ring; up to Linux 5.19.
    uring_waiting: 8 optional ["io_ring_ctx.cancel_hash"];
    /// Its size, as a power of two.
    uring_waiting_bits: 4 optional ["io_ring_ctx.cancel_hash_bits"];
    /// The same of buckets with a lock; Linux 6.0 on.
    uring_buckets: 8 optional ["io_ring_ctx.cancel_table.hbs"];
    /// Its size, as a power of two.
    uring_bucket_bits: 4 optional ["io_ring_ctx.cancel_table.hash_bits"];
    /// A second one; Linux 6.0 to 6.15 or so.
    uring_locked_buckets: 8 optional ["io_ring_ctx.cancel_table_locked.hbs"];
    /// Its size, as a power of two.
    uring_locked_bucket_bits: 4 optional ["io_ring_ctx.cancel_table_locked.hash_bits"];
    /// The requests of a bucket.
    uring_bucket_list: 8 optional ["io_hash_bucket.list"];
    /// Link of a request in such a table.
    request_node: 16 optional ["io_kiocb.hash_node"];
    /// The first of the direct I/O of a ring that is to be polled for: a `list_head`, in Linux 5.16 to 6.18 or so a
    /// list that ends.
    uring_polled: 8 optional ["io_ring_ctx.iopoll_list.next", "io_ring_ctx.iopoll_list.first"];
    /// Link of a request in that list; `comp_list` is still there, for another one, where there is an `iopoll_node`.
    request_polled: 8 optional ["io_kiocb.iopoll_node.next", "io_kiocb.comp_list.next", "io_kiocb.inflight_entry.next"];
    /// Ring of a request.
    request_ring: 8 optional ["io_kiocb.ctx"];
    /// File of a request, if it has one.
    request_file: 8 optional ["io_kiocb.file"];
    /// The request that is to follow.
    request_link: 8 optional ["io_kiocb.link"];
    /// What a worker does of a request.
    request_work: 0 optional ["io_kiocb.work"];
    /// What a thread that works for io_uring, or a kernel thread, is there for; 5.17 on.
    task_worker: 8 optional ["task_struct.worker_private"];
    /// The same of a thread that works for io_uring; before.
    task_uring_worker: 8 optional ["task_struct.pf_io_worker"];
    /// The same of a kernel thread; before.
    task_child_tid: 8 optional ["task_struct.set_child_tid"];
    /// Thread of a worker of io_uring.
    uring_worker_task: 8 optional ["io_worker.task"];
    /// What it does.
    uring_worker_work: 8 optional ["io_worker.cur_work"];
    /// What it takes its work from, which all workers of a task share: an `io_wq`, before Linux 6.4 its part for a node.
    uring_worker_queue: 8 optional ["io_worker.wq", "io_worker.wqe"];
    /// Work that waits in it, bounded and unbounded (`io_uring/io-wq.c`); Linux 5.15 on.
    uring_queue_accounts: 0 optional ["io_wq.acct", "io_wqe.acct"];
    /// The first of one of these.
    uring_account_first: 8 optional ["io_wq_acct.work_list.first", "io_wqe_acct.work_list.first"];
    /// The first of all; Linux 5.12 to 5.14.
    uring_queue_first: 8 optional ["io_wqe.work_list.first"];
    /// Link of work that waits.
    uring_work_link: 8 optional ["io_wq_work.list"];
    /// What a kernel thread is there for.
    kthread_data: 8 optional ["kthread.data"];
    /// Thread of a worker of workqueues.
    worker_task: 8 optional ["worker.task"];
    /// What it does.
    worker_work: 8 optional ["worker.current_work"];
    /// What takes a ring down.
    uring_exit_work: 0 optional ["io_ring_ctx.exit_work"];
    /// Completions that did not fit into a ring.
    uring_overflow: 16 optional ["io_ring_ctx.cq_overflow_list"];
    /// Tasks of a ring.
    uring_tasks: 16 optional ["io_ring_ctx.tctx_list"];

    // What a task does when it returns from a system call.
    /// Chain of it.
    task_works: 8 optional ["task_struct.task_works"];
    /// Link of an open file whose last reference is gone.
    file_work: 16 optional ["file.f_task_work", "file.f_rcuhead", "file.f_u.fu_rcuhead"];

    // fanotify: events that are not read or answered yet.
    /// List of events not read.
    group_notifications: 16 optional ["fsnotify_group.notification_list"];
    /// List of permission events that were read and wait for their answer.
    group_access_list: 16 optional ["fsnotify_group.fanotify_data.access_list"];
    /// Link of an event.
    event_list: 16 optional ["fanotify_event.fse.list"];
    /// Who caused it.
    event_pid: 8 optional ["fanotify_event.pid"];
    /// Path of an event.
    event_path: 16 optional ["fanotify_path_event.path"];
    /// Path of a permission event.
    perm_event_path: 16 optional ["fanotify_perm_event.path"];
    /// How deep its pid namespace is.
    pid_level: 4 optional ["pid.level"];
    /// The pid namespace that it is in.
    upid_ns: 8 optional ["upid.ns"];

    // Lookups under way.
    /// The innermost lookup of a task.
    task_nameidata: 8 optional ["task_struct.nameidata"];
    /// Where it has come.
    walk_path: 16 optional ["nameidata.path"];
    /// Its root, if it holds it.
    walk_root: 16 optional ["nameidata.root"];
    /// `LOOKUP_*`.
    walk_flags: 4 optional ["nameidata.flags"];
    /// `ND_*`, Linux 5.12 on.
    walk_state: 4 optional ["nameidata.state"];
    /// Symbolic links that it is in.
    walk_depth: 4 optional ["nameidata.depth"];
    /// Their array.
    walk_stack: 8 optional ["nameidata.stack"];
    /// The first two of them: with the next field, the size of one.
    walk_internal: 0 optional ["nameidata.internal"];
    /// What follows those two.
    walk_name: 8 optional ["nameidata.name"];
    /// Path of a symbolic link in that array.
    walk_link: 16 optional ["saved.link"];
    /// The lookup that this one interrupted.
    walk_saved: 8 optional ["nameidata.saved"];
    /// Kernel stack.
    task_stack: 8 optional ["task_struct.stack"];
    /// How far it is used, of a task that does not run.
    task_stack_pointer: 8 optional ["task_struct.thread.sp", "task_struct.thread.cpu_context.sp"];
    /// Whether a task sleeps: `TASK_*`.
    task_state: 0 optional ["task_struct.__state", "task_struct.state"];
    /// inode of an open file.
    file_inode: 8 optional ["file.f_inode"];

    // System calls that were refused: the caller's registers, at the top of its kernel stack.
    /// First argument.
    regs_di: 8 optional ["pt_regs.di"];
    /// Second argument.
    regs_si: 8 optional ["pt_regs.si"];
    /// Third argument.
    regs_dx: 8 optional ["pt_regs.dx"];
    /// Fourth argument.
    regs_r10: 8 optional ["pt_regs.r10"];
    /// Fifth argument.
    regs_r8: 8 optional ["pt_regs.r8"];
    /// Result, once the call has one.
    regs_ax: 8 optional ["pt_regs.ax"];
    /// Number of the system call.
    regs_orig_ax: 8 optional ["pt_regs.orig_ax"];
    /// Whether it came from user space, in its two lowest bits.
    regs_cs: 0 optional ["pt_regs.cs"];
    /// The last of them.
    regs_ss: 0 optional ["pt_regs.ss"];
    /// Type of the file system that a context of fsopen or fspick is of.
    context_type: 8 optional ["fs_context.fs_type"];
    /// What is to be mounted.
    context_source: 8 optional ["fs_context.source"];
    /// Root of what is to be reconfigured.
    context_root: 8 optional ["fs_context.root"];
    /// Options as the file system keeps them.
    context_private: 8 optional ["fs_context.fs_private"];
    /// What a file system keeps for a superblock.
    sb_info: 8 optional ["super_block.s_fs_info"];
    /// Device that an inode of a device stands for.
    inode_rdev: 4 optional ["inode.i_rdev"];
    /// Who has a block device for itself; Linux 5.11 on by way of its `device`.
    bdev_holder: 8 optional ["block_device.bd_holder"];

    // Process accounting.
    /// `struct pid` of a task.
    task_thread_pid: 8 optional ["task_struct.thread_pid"];
    /// Accounting of a pid namespace.
    pid_ns_bacct: 8 optional ["pid_namespace.bacct"];
    /// What of a `bsd_acct_struct` the namespace points to.
    acct_pin: 0 optional ["bsd_acct_struct.pin"];
    /// Its file.
    acct_file: 8 optional ["bsd_acct_struct.file"];
    /// Its pid namespace.
    acct_ns: 8 optional ["bsd_acct_struct.ns"];

    // AIO: requests that wait (`fs/aio.c`).
    /// Table of the contexts of an address space.
    mm_aio: 8 optional ["mm_struct.ioctx_table"];
    /// Its length.
    aio_table_count: 4 optional ["kioctx_table.nr"];
    /// Its array.
    aio_table: 0 optional ["kioctx_table.table"];
    /// Where in the table a context is.
    aio_context_number: 4 optional ["kioctx.id"];
    /// Requests of a context that can be cancelled.
    aio_context_requests: 16 optional ["kioctx.active_reqs"];
    /// Link of a request there.
    aio_request_link: 16 optional ["aio_kiocb.ki_list"];
    /// Context of a request.
    aio_request_context: 8 optional ["aio_kiocb.ki_ctx"];
    /// Its file.
    aio_request_file: 8 optional ["aio_kiocb.ki_filp"];
    /// What a worker does of a request to sync.
    aio_request_sync: 0 optional ["aio_kiocb.fsync.work"];

    // A process by its number, and what is said of it, without a look at /proc/PID.
    /// Processes of a pid namespace by their number: an xarray.
    pid_ns_numbers: 8 optional ["pid_namespace.idr.idr_rt.xa_head"];
    /// Number of a pid namespace.
    pid_ns_inum: 4 optional ["pid_namespace.ns.inum"];
    /// How many bits of an index are below those that a node is about.
    xa_node_shift: 1 optional ["xa_node.shift"];
    /// What a node leads to.
    xa_node_slots: 0 optional ["xa_node.slots"];
    /// Tasks of a `struct pid`: for a thread, a process, a group, a session.
    pid_tasks: 0 optional ["pid.tasks"];
    /// Their links.
    task_pid_links: 0 optional ["task_struct.pid_links"];
    /// Credentials.
    task_real_cred: 8 optional ["task_struct.real_cred"];
    /// Real user id.
    cred_uid: 4 optional ["cred.uid"];
    /// What its holder may do: a bit for each capability, in words of 32 or 64 bits.
    cred_cap_effective: 8 optional ["cred.cap_effective"];
    /// The user namespace in which that holds.
    cred_user_ns: 8 optional ["cred.user_ns"];
    /// The user namespace that it was made in; null for the first.
    user_ns_parent: 8 optional ["user_namespace.parent"];
    /// Who made it.
    user_ns_owner: 4 optional ["user_namespace.owner"];
    /// Top page table of an address space.
    mm_pgd: 8 optional ["mm_struct.pgd"];
    /// Where the command line begins.
    mm_arg_start: 8 optional ["mm_struct.arg_start"];
    /// Where it ends.
    mm_arg_end: 8 optional ["mm_struct.arg_end"];
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
