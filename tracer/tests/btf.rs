//! The resolver against the BTF of real kernels, cut down to the structs that matter.

use std::{fs, path::PathBuf};

use tracer::btf::{Btf, Resolved, resolve_all};
use tracer_common::FIELDS;

fn fixture(name: &str) -> Btf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/btf")
        .join(format!("{name}.btf"));
    Btf::parse(fs::read(&path).unwrap()).unwrap()
}

/// Compares one column of `offsets.txt`, which was made by other tools, with the resolver.
fn check_column(btf: &Btf, column: usize) {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for line in include_str!("btf/offsets.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let special = matches!(words[0], "sizeof" | "params");
        let values = usize::from(special) + 1;
        let found = match words[0] {
            "sizeof" => btf.struct_size(words[1]).ok().map(|size| size.to_string()),
            "params" => btf.function_params(words[1]).map(|count| count.to_string()),
            path => btf.field(path).ok().map(|field| match field.bits {
                Some(bits) => format!("{}:b{}", field.offset, bits.shift),
                None => field.offset.to_string(),
            }),
        };
        let expected = words[values + column];
        checked += 1;
        if found.as_deref().unwrap_or("-") != expected {
            wrong.push(format!("{line}: {found:?}"));
        }
        if expected == "-" || special {
            continue;
        }
        let types = words[values + 4..].join(" ");
        let types: Vec<&str> = types.split(" / ").collect();
        let expected = if types.len() == 1 { types[0] } else { types[column] };
        let found = btf.type_name_of(words[0]).unwrap();
        if found != expected {
            wrong.push(format!("{line}: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 230, "{checked}");
}

#[test]
fn debian_5_10() {
    check_column(&fixture("5.10-cloud-amd64"), 0);
}

#[test]
fn debian_6_1() {
    check_column(&fixture("6.1-cloud-amd64"), 1);
}

#[test]
fn debian_6_12() {
    check_column(&fixture("6.12-cloud-amd64"), 2);
}

#[test]
fn debian_7_2() {
    check_column(&fixture("7.2-cloud-amd64"), 3);
}
#[test]
fn ebusy_finds_its_fields_in_every_kernel() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/btf");
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "btf") {
            let btf = Btf::parse(fs::read(&path).unwrap()).unwrap();
            check_table(&path.display().to_string(), &btf);
        }
    }
}

fn check_table(kernel: &str, btf: &Btf) {
    let resolved = resolve_all(btf, FIELDS);
    let bad: Vec<&Resolved> = resolved.iter().filter(|field| field.error.is_some()).collect();
    assert!(bad.is_empty(), "{kernel}: {bad:#?}");
    assert_eq!(resolved.len(), FIELDS.len());
}
