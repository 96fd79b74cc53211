//! Cuts a kernel's BTF down to what ebusy and its tests look up: how `tests/btf/*.btf` are made.
//!
//! `cargo run -p tracer --example btf_cut -- vmlinux.btf tests/btf/NAME.btf`, where `vmlinux.btf` is
//! `/sys/kernel/btf/vmlinux`, or comes from a kernel's package: unpack its `vmlinuz` with the kernel's
//! `scripts/extract-vmlinux`, then `objcopy --dump-section .BTF=vmlinux.btf vmlinux /dev/null`.

use std::{collections::BTreeSet, env, fs};

use anyhow::{Context, bail};
use tracer::btf::{Btf, Field, FieldKind};

/// The fields and functions whose offsets and parameters the tests know.
const KNOWN: &str = include_str!("../tests/btf/offsets.txt");

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [from, to] = args.as_slice() else {
        bail!("usage: btf_cut FROM TO")
    };
    let btf = Btf::parse(fs::read(from).with_context(|| format!("cannot read {from}"))?)?;

    let known = KNOWN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            match words.next()? {
                "sizeof" | "params" => words.next(),
                path => Some(path),
            }
        });
    let mut names = BTreeSet::new();
    for path in known.chain(
        tracer_common::FIELDS
            .iter()
            .flat_map(|field| field.paths.iter().copied()),
    ) {
        names.extend(path.split('.').next().map(str::to_owned));
        // The structs that the path goes through.
        for (end, _) in path.match_indices('.').skip(1) {
            if let Ok(Field {
                kind: FieldKind::Struct(name) | FieldKind::Union(name),
                ..
            }) = btf.field(&path[..end])
            {
                names.insert(name);
            }
        }
    }

    let cut = btf.cut(&names.iter().map(String::as_str).collect::<Vec<_>>());
    fs::write(to, &cut).with_context(|| format!("cannot write {to}"))?;
    println!("{} bytes, {} types", cut.len(), Btf::parse(cut)?.type_count());
    Ok(())
}
