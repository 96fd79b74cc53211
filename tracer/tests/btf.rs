//! The resolver against the BTF of real kernels.

use tracer::btf::Btf;

#[test]
fn running_kernel() {
    let start = std::time::Instant::now();
    let btf = match Btf::running_kernel() {
        Ok(btf) => btf,
        Err(error) => return println!("skipped: running_kernel: {error}"),
    };
    println!("{:?} {btf:?}", start.elapsed());
    for path in ["mount.mnt_id", "mount.mnt.mnt_root", "task_struct.nsproxy", "mnt_pcp.mnt_count", "file.f_path.mnt", "super_block.s_id", "mount.mnt_slave", "dentry.d_name.name", "fanotify_event.type", "mnt_namespace.ns.inum", "foo.bar"] {
        println!("{path}: {:?} {:?}", btf.field(path), btf.type_name_of(path));
    }
    println!("{:?} {:?}", btf.function_params("propagate_mount_busy"), btf.function_params("do_dentry_open"));
    println!("{:?} {:?}", btf.struct_size("mount"), btf.enum_value("", "PIDTYPE_TGID"));
    println!("{:?}", btf.enum_value("pid_type", "PIDTYPE_TGID"));
}
