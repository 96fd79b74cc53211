//! test
use tracer::*;
fn main() -> anyhow::Result<()> {
    env_logger::init();
    let t0 = std::time::Instant::now();
    let btf = btf::Btf::running_kernel()?;
    let layout = kernel::KernelLayout::resolve(&btf);
    eprintln!("btf {:?}", t0.elapsed());
    for f in &layout.fields { if f.offset == u32::MAX { eprintln!("missing {f:?}"); } }
    layout.check()?;
    let reader = probe::reader_only(&layout)?;
    eprintln!("load {:?}", t0.elapsed());
    let per_cpu = kernel::PerCpu::find(&reader, &layout);
    eprintln!("{per_cpu:x?}");
    let marks = reader.marks(None)?;
    eprintln!("{marks:x?} pid {}", std::process::id());
    let k = kernel::Kernel { memory: &reader, layout: &layout, per_cpu: &per_cpu };
    let tasks = k.tasks(marks.task);
    eprintln!("tasks {} {}", tasks.all.len(), tasks.complete);
    let me = tasks.all.iter().find(|t| t.tgid == std::process::id()).unwrap();
    let ns = k.mount_namespaces(&[me.clone()])[&me.nsproxy];
    let root = k.memory.word(ns, layout.table.mnt_ns_root).unwrap();
    let t0 = std::time::Instant::now();
    let (tree, whole) = k.mount_tree(root);
    let mut paths = kernel::Paths::new(k);
    for m in &tree { eprintln!("{} {} {:?} {:?} {:?}", m.id, m.propagation(), String::from_utf8_lossy(&paths.mountpoint(m).unwrap_or_default()), k.superblock(m.superblock), k.counts(&[m])); }
    eprintln!("tree {whole} {:?}", t0.elapsed());
    let want = std::env::args().nth(1).unwrap_or("/".into());
    let target = tree.iter().rev().find(|m| paths.mountpoint(m).unwrap() == want.as_bytes()).unwrap();
    let t0 = std::time::Instant::now();
    let s = kernel::snapshot(k, target, marks.task, || 0);
    eprintln!("snapshot {:?}", t0.elapsed());
    println!("{}", serde_json::to_string_pretty(&s)?);
    Ok(())
}
