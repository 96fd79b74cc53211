//! The resolver against the BTF of real kernels, cut down to the structs that matter.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use tracer::btf::{Btf, KERNEL_BTF, Resolved, resolve_all};
use tracer_common::FIELDS;

fn fixture(name: &str) -> Btf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/btf")
        .join(format!("{name}.btf"));
    Btf::parse(fs::read(&path).expect("the fixture is there")).expect("the fixture is BTF")
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
        let found = btf.type_name_of(words[0]).expect("it has an offset");
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

#[test]
fn ebusy_finds_its_fields_in_the_running_kernel() {
    match Btf::running_kernel() {
        Ok(btf) => check_table("the running kernel", &btf),
        Err(error) => println!("skipped: ebusy_finds_its_fields_in_the_running_kernel: {error}"),
    }
}

/// Name, first bit, and width of a bitfield or 0.
type Member = (String, u32, u32);

/// The members of each struct, as `bpftool` lists them.
fn listed_by_bpftool() -> Result<BTreeMap<String, Vec<Member>>, String> {
    let output = Command::new("bpftool")
        .args(["btf", "dump", "file", KERNEL_BTF, "format", "raw"])
        .output()
        .map_err(|error| format!("bpftool: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "bpftool: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let mut structs = BTreeMap::<String, Vec<_>>::new();
    let mut current = None;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split('\'').nth(1).unwrap_or_default();
        let number = |word: &str| {
            line.split_whitespace()
                .find_map(|pair| pair.strip_prefix(word))
                .and_then(|value| value.parse().ok())
        };
        if let Some(bit) = number("bits_offset=") {
            if let Some(members) = current.as_ref().and_then(|name| structs.get_mut(name)) {
                members.push((name.to_owned(), bit, number("bitfield_size=").unwrap_or(0)));
            }
        } else {
            let kept = line.contains("] STRUCT '") && name != "(anon)" && !structs.contains_key(name);
            current = kept.then(|| name.to_owned());
            structs.extend(current.clone().map(|name| (name, Vec::new())));
        }
    }
    Ok(structs)
}

#[test]
fn the_running_kernel_as_bpftool_reads_it() {
    let btf = match Btf::running_kernel() {
        Ok(btf) => btf,
        Err(error) => return println!("skipped: the_running_kernel_as_bpftool_reads_it: {error}"),
    };
    let structs = match listed_by_bpftool() {
        Ok(structs) => structs,
        Err(error) => return println!("skipped: the_running_kernel_as_bpftool_reads_it: {error}"),
    };
    let paths = FIELDS.iter().flat_map(|field| field.paths);
    let names: Vec<&str> = paths.filter_map(|path| path.split('.').next()).collect();
    let mut checked = 0;
    for (name, members) in structs.iter().filter(|(name, _)| names.contains(&name.as_str())) {
        for (member, bit, width) in members.iter().filter(|(member, ..)| member != "(anon)") {
            let path = format!("{name}.{member}");
            let field = btf.field(&path).unwrap_or_else(|error| panic!("{error}"));
            let shift = field.bits.map_or(0, |bits| bits.shift);
            assert_eq!(field.offset * 8 + shift, *bit, "{path}");
            assert_eq!(field.bits.map_or(0, |bits| bits.width), *width, "{path}");
            checked += 1;
        }
    }
    assert!(checked > 300, "{checked} members compared");
}
