//! Input that was made to do harm, or was damaged.

use std::{sync::Arc, time::Instant};

use proptest::prelude::*;

use super::{Btf, kind::Kind, testing::Builder};

/// One of everything.
fn rich() -> Builder {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    builder.int("long unsigned int", 8);
    let deep = builder.structure("", 8, &[("x", int, 0, 0), ("deep", int, 32, 0)]);
    let union = builder.composite(Kind::Union, "u", 8, &[("", deep, 0, 0), ("y", int, 0, 0)]);
    let alias = builder.refer(Kind::Typedef, "u_t", union);
    let constant = builder.refer(Kind::Const, "", alias);
    let tagged = builder.refer(Kind::TypeTag, "rcu", constant);
    let pointer = builder.refer(Kind::Ptr, "", tagged);
    let array = builder.array(pointer, 4);
    let members = [
        ("a", int, 0, 3),
        ("b", int, 3, 9),
        ("", constant, 64, 0),
        ("u", alias, 128, 0),
        ("p", pointer, 192, 0),
    ];
    builder.structure("s", 64, &members);
    builder.structure("t", 64, &[("array", array, 0, 0), ("u", union, 256, 0)]);
    builder.refer(Kind::Fwd, "s", 0);
    builder.enumeration("e", true, &[("ONE", 1)]);
    builder.enumeration("", false, &[("TWO", 2)]);
    let name = builder.string("BIG");
    builder.raw(Kind::Enum64 as u8, false, "wide", 1, 8, &[name, 1, 2]);
    builder.function("f", &[int, pointer]);
    builder.raw(Kind::Var as u8, false, "v", 0, int, &[1]);
    builder.raw(Kind::DataSec as u8, false, ".data", 1, 4, &[int, 0, 4]);
    builder.raw(Kind::Float as u8, false, "double", 0, 8, &[]);
    builder.refer(Kind::DeclTag, "tag", int);
    builder
}

/// Calls every query.
fn ask(btf: &Btf) {
    let paths = [
        "s.a", "s.b", "s.deep", "s.y", "s.u.x", "s.p", "t.array", "t.u.deep", "u_t.x", "s", "s.a.b.c", "e.x",
    ];
    for path in paths {
        let _ = btf.field(path);
        let _ = btf.type_name_of(path);
    }
    for name in ["s", "t", "u", "u_t", "e", "", "f", "wide"] {
        let _ = btf.struct_size(name);
        let _ = btf.function_params(name);
        for variant in ["ONE", "TWO", "BIG", ""] {
            let _ = btf.enum_value(name, variant);
        }
    }
    let cut = Btf::parse(btf.cut(&["s", "t", "e", "f", "wide", "u_t"])).unwrap();
    assert!(cut.type_count() <= btf.type_count());
}

#[test]
fn cut_off_anywhere() {
    let whole = rich().bytes();
    for len in 0..whole.len() {
        assert!(Btf::parse(whole[..len].to_vec()).is_err(), "{len}");
    }
    ask(&Btf::parse(whole).unwrap());
}

#[test]
fn cut_off_anywhere_with_a_header_that_agrees() {
    let builder = rich();
    let whole = builder.bytes();
    let types = u32::from_le_bytes(*whole[12..].first_chunk().unwrap());
    for len in 0..=types {
        let mut bytes = whole.clone();
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        if let Ok(btf) = Btf::parse(bytes) {
            ask(&btf);
        }
    }
    for len in 0..=builder.strings_len() {
        let mut bytes = whole.clone();
        bytes[20..24].copy_from_slice(&len.to_le_bytes());
        ask(&Btf::parse(bytes).unwrap());
    }
}

#[test]
fn types_that_go_round_in_circles() {
    let mut builder = Builder::new();
    let typedef = builder.next();
    builder.refer(Kind::Typedef, "loop_t", typedef);
    let first = builder.refer(Kind::Const, "", typedef + 2);
    builder.refer(Kind::Volatile, "", first);
    let array = builder.next();
    builder.array(array, 2);
    let inside = builder.next();
    builder.structure("", 8, &[("", inside, 0, 0), ("", inside + 1, 0, 0)]);
    builder.structure(
        "s",
        8,
        &[
            ("t", typedef, 0, 0),
            ("c", first, 0, 0),
            ("a", array, 0, 0),
            ("", inside, 0, 0),
        ],
    );
    let pointer = builder.next();
    builder.refer(Kind::Ptr, "", pointer);
    builder.structure("p", 8, &[("p", pointer, 0, 0)]);
    let btf = builder.parse();
    for path in ["s.t", "s.c", "s.a", "s.t.x", "s.a.x", "s.none", "loop_t.x"] {
        assert!(btf.field(path).is_err(), "{path}");
        let _ = btf.type_name_of(path);
    }
    // Its size is known, whatever it points to.
    assert_eq!(btf.field("p.p").unwrap().size, 8);
    assert!(btf.type_name_of("p.p").unwrap().starts_with('?'));
    ask(&btf);
}

#[test]
fn anonymous_structs_that_double_at_every_level() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    let mut inner = builder.structure("", 4, &[("x", int, 0, 0)]);
    for _ in 0..60 {
        inner = builder.structure("", 4, &[("", inner, 0, 0), ("", inner, 0, 0)]);
    }
    builder.structure("s", 4, &[("", inner, 0, 0)]);
    let btf = builder.parse();
    let start = Instant::now();
    assert!(btf.field("s.none").is_err());
    assert!(btf.field("s.x").is_ok());
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn very_deep_and_very_many() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    let mut inner = builder.structure("", 4, &[("x", int, 0, 0)]);
    for _ in 0..100_000 {
        inner = builder.structure("", 4, &[("", inner, 0, 0)]);
    }
    for _ in 0..10_000 {
        builder.structure("s", 4, &[("", inner, 0, 0)]);
    }
    builder.structure("once", 4, &[("", inner, 0, 0)]);
    let mut pointer = int;
    for _ in 0..100_000 {
        pointer = builder.refer(Kind::Ptr, "", pointer);
    }
    builder.structure("p", 8, &[("p", pointer, 0, 0)]);
    let huge = builder.array(inner, u32::MAX);
    builder.structure("h", 8, &[("h", huge, 0, 0), ("far", int, u32::MAX - 7, 0)]);
    let btf = builder.parse();
    let start = Instant::now();
    assert_eq!(btf.field("once.x").unwrap().offset, 0);
    assert!(
        btf.field("s.x")
            .unwrap_err()
            .to_string()
            .contains("10000 definitions")
    );
    assert!(btf.type_name_of("p.p").is_ok());
    assert!(btf.field("h.h").is_err());
    assert_eq!(btf.field("h.far").unwrap().offset, (u32::MAX - 7) / 8);
    let _ = btf.cut(&["s", "once", "p", "h"]);
    assert!(start.elapsed().as_secs() < 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = rich().bytes();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(btf) = Btf::parse(bytes) {
            ask(&btf);
        }
    }

    #[test]
    fn damaged_words(damage in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..40), 1..12)) {
        let mut bytes = rich().bytes();
        for (at, value) in damage {
            let at = at.index(bytes.len() / 4) * 4;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        if let Ok(btf) = Btf::parse(bytes.clone()) {
            ask(&btf);
        }
        // As a module's, its numbers mean something else.
        let kernel = Arc::new(rich().parse());
        if let Ok(btf) = Btf::parse_split(bytes, kernel) {
            ask(&btf);
        }
    }

    #[test]
    fn noise(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(tail);
        if let Ok(btf) = Btf::parse(bytes) {
            ask(&btf);
        }
    }
}
