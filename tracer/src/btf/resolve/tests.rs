use super::*;
use crate::btf::testing::Builder;

fn place(btf: &Btf, path: &str) -> (u32, u32) {
    let field = btf.field(path).unwrap();
    assert_eq!(field.bits, None, "{path}");
    (field.offset, field.size)
}

#[test]
fn members_of_nested_anonymous_structs_and_unions() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    let long = builder.int("long unsigned int", 8);
    let deep = builder.structure("", 16, &[("x", int, 0, 0), ("deep", int, 64, 0)]);
    let union = builder.composite(Kind::Union, "", 16, &[("u", long, 0, 0), ("", deep, 0, 0)]);
    // Qualified, and without a name although its type has one (-fms-extensions).
    let constant = builder.refer(Kind::Const, "", union);
    let named = builder.structure("lender", 8, &[("lent", int, 32, 0)]);
    builder.structure(
        "s",
        40,
        &[
            ("a", int, 0, 0),
            ("", constant, 64, 0),
            ("", named, 192, 0),
            ("z", int, 256, 0),
        ],
    );
    let btf = builder.parse();
    assert_eq!(place(&btf, "s.a"), (0, 4));
    assert_eq!(place(&btf, "s.u"), (8, 8));
    assert_eq!(place(&btf, "s.deep"), (16, 4));
    assert_eq!(place(&btf, "s.lent"), (28, 4));
    assert_eq!(place(&btf, "s.z"), (32, 4));
    assert_eq!(
        btf.field("s.none").unwrap_err().to_string(),
        "s.none: this kernel has no member none"
    );
}

#[test]
fn steps_into_embedded_structs_through_every_modifier() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    let mut inner = builder.structure("inner", 8, &[("x", int, 32, 0)]);
    for kind in [
        Kind::Typedef,
        Kind::Const,
        Kind::Volatile,
        Kind::Restrict,
        Kind::TypeTag,
        Kind::Typedef,
    ] {
        inner = builder.refer(kind, "name", inner);
    }
    let union = builder.composite(Kind::Union, "u", 8, &[("i", inner, 0, 0)]);
    builder.structure("s", 24, &[("e", inner, 64, 0), ("u", union, 128, 0)]);
    let btf = builder.parse();
    assert_eq!(place(&btf, "s.e.x"), (12, 4));
    assert_eq!(place(&btf, "s.u.i.x"), (20, 4));
    assert_eq!(
        btf.field("s.e").unwrap().kind,
        FieldKind::Struct("inner".to_owned())
    );
    assert_eq!(btf.field("s.u").unwrap().kind, FieldKind::Union("u".to_owned()));
    // The typedef is no struct's name, so a path may begin with it.
    assert_eq!(place(&btf, "name.x"), (4, 4));
    assert!(btf.has_struct("name") && btf.has_struct("u") && !btf.has_struct("int"));
}

#[test]
fn pointers_are_not_followed() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    let inner = builder.structure("inner", 8, &[("x", int, 0, 0)]);
    let pointer = builder.refer(Kind::Ptr, "", inner);
    let array = builder.array(inner, 3);
    let forward = builder.refer(Kind::Fwd, "unknown", 0);
    builder.structure(
        "s",
        40,
        &[
            ("p", pointer, 0, 0),
            ("a", array, 64, 0),
            ("i", int, 256, 0),
            ("f", forward, 288, 0),
        ],
    );
    let btf = builder.parse();
    for (path, kind) in [
        ("s.p.x", "struct inner*"),
        ("s.a.x", "struct inner[3]"),
        ("s.i.x", "int"),
    ] {
        let error = btf.field(path).unwrap_err();
        assert!(
            matches!(&error, ResolveError::NotAStruct { kind: found, .. } if found == kind),
            "{error}"
        );
    }
    assert!(matches!(
        btf.field("s.f").unwrap_err(),
        ResolveError::Broken { .. }
    ));
    assert!(matches!(
        btf.field("s.f.x").unwrap_err(),
        ResolveError::NotAStruct { .. }
    ));
}

#[test]
fn kinds_and_spelling() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    let unsigned = builder.raw(Kind::Int as u8, false, "unsigned char", 0, 1, &[8]);
    let constant = builder.refer(Kind::Const, "", unsigned);
    let pointer = builder.refer(Kind::Ptr, "", constant);
    let fixed = builder.refer(Kind::Const, "", pointer);
    let void = builder.refer(Kind::Ptr, "", 0);
    let inner = builder.array(int, 3);
    let matrix = builder.array(inner, 2);
    let flexible = builder.array(pointer, 0);
    let enumeration = builder.enumeration("colour", false, &[("RED", 1)]);
    let float = builder.raw(Kind::Float as u8, false, "double", 0, 8, &[]);
    let function = builder.function("f", &[int]);
    let callback = builder.refer(Kind::Ptr, "", function - 1);
    let members = [
        ("c", unsigned, 0, 0),
        ("e", enumeration, 32, 0),
        ("p", fixed, 64, 0),
        ("v", void, 128, 0),
        ("m", matrix, 192, 0),
        ("d", float, 384, 0),
        ("cb", callback, 448, 0),
        ("flex", flexible, 512, 0),
    ];
    builder.structure("s", 64, &members);
    let btf = builder.parse();
    let expected = [
        ("s.c", 0, 1, FieldKind::Int { signed: false }, "unsigned char"),
        ("s.e", 4, 4, FieldKind::Enum("colour".to_owned()), "enum colour"),
        ("s.p", 8, 8, FieldKind::Pointer, "const unsigned char* const"),
        ("s.v", 16, 8, FieldKind::Pointer, "void*"),
        (
            "s.m",
            24,
            24,
            FieldKind::Array {
                element_size: 12,
                len: 2,
            },
            "int[2][3]",
        ),
        ("s.d", 48, 8, FieldKind::Float, "double"),
        ("s.cb", 56, 8, FieldKind::Pointer, "function*"),
        (
            "s.flex",
            64,
            0,
            FieldKind::Array {
                element_size: 8,
                len: 0,
            },
            "const unsigned char*[0]",
        ),
    ];
    for (path, offset, size, kind, spelled) in expected {
        assert_eq!(
            btf.field(path).unwrap(),
            Field {
                offset,
                size,
                kind,
                bits: None
            },
            "{path}"
        );
        assert_eq!(btf.type_name_of(path).unwrap(), spelled);
    }
}

#[test]
fn bitfields_with_the_flag_and_without() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    builder.structure(
        "new",
        12,
        &[
            ("a", int, 0, 3),
            ("b", int, 3, 10),
            ("whole", int, 32, 32),
            ("plain", int, 64, 0),
        ],
    );
    // Before the flag: an integer type of five bits, and one whose bits begin at the second.
    let five = builder.odd_int("int", 4, 0, 5);
    let shifted = builder.odd_int("int", 4, 2, 4);
    builder.structure("old", 4, &[("a", five, 3, 0), ("b", shifted, 8, 0)]);
    builder.structure("odd", 8, &[("x", int, 4, 0)]);
    let inner = builder.structure("inner", 4, &[("x", int, 0, 0)]);
    builder.structure("outer", 8, &[("inner", inner, 4, 0)]);
    let btf = builder.parse();
    let bits = |path: &str| {
        let field = btf.field(path).unwrap();
        (
            field.offset,
            field.size,
            field.bits.map(|bits| (bits.shift, bits.width)),
        )
    };
    assert_eq!(bits("new.a"), (0, 1, Some((0, 3))));
    assert_eq!(bits("new.b"), (0, 2, Some((3, 10))));
    assert_eq!(bits("new.whole"), (4, 4, None));
    assert_eq!(bits("new.plain"), (8, 4, None));
    assert_eq!(bits("old.a"), (0, 1, Some((3, 5))));
    assert_eq!(bits("old.b"), (1, 1, Some((2, 4))));
    for path in ["odd.x", "outer.inner.x"] {
        assert!(
            matches!(btf.field(path).unwrap_err(), ResolveError::NotByteAligned { .. }),
            "{path}"
        );
    }
}

#[test]
fn definitions_that_disagree_are_refused() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    let long = builder.int("long", 8);
    builder.refer(Kind::Fwd, "s", 0);
    builder.structure(
        "s",
        16,
        &[("same", int, 0, 0), ("moved", int, 32, 0), ("wider", int, 64, 0)],
    );
    builder.structure(
        "s",
        16,
        &[
            ("same", int, 0, 0),
            ("moved", int, 96, 0),
            ("wider", long, 64, 0),
            ("extra", int, 32, 0),
        ],
    );
    builder.refer(Kind::Fwd, "only_declared", 0);
    let btf = builder.parse();
    assert_eq!(place(&btf, "s.same"), (0, 4));
    assert_eq!(btf.struct_size("s"), Ok(16));
    for path in ["s.moved", "s.wider", "s.extra"] {
        let error = btf.field(path).unwrap_err();
        let ResolveError::Ambiguous { name, candidates } = &error else {
            panic!("{error}")
        };
        assert_eq!((name.as_str(), candidates.len()), (path, 2));
    }
    assert!(matches!(
        btf.type_name_of("s.wider"),
        Err(ResolveError::Ambiguous { .. })
    ));
    assert!(matches!(btf.field("s.none"), Err(ResolveError::Missing { .. })));
    assert!(!btf.has_struct("only_declared"));
    assert!(matches!(
        btf.field("only_declared.x"),
        Err(ResolveError::NoSuchStruct { .. })
    ));
}

#[test]
fn paths_that_are_none() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    builder.structure("s", 4, &[("x", int, 0, 0)]);
    let btf = builder.parse();
    for path in ["", "s", ".", "s.", ".x", "s..x", "s.x."] {
        assert!(
            matches!(btf.field(path), Err(ResolveError::BadPath { .. })),
            "{path}"
        );
    }
}

#[test]
fn enums_and_functions() {
    let mut builder = Builder::new();
    let int = builder.int("int", 4);
    builder.enumeration("colour", true, &[("RED", 1), ("MINUS", u32::MAX)]);
    builder.enumeration("", false, &[("HIGH", u32::MAX), ("TWICE", 1)]);
    let anonymous = builder.enumeration("", false, &[("TWICE", 2), ("OTHER", 7)]);
    builder.refer(Kind::Typedef, "alias_t", anonymous);
    let name = builder.string("BIG");
    builder.raw(Kind::Enum64 as u8, false, "wide", 1, 8, &[name, 1, 2]);
    builder.function("three", &[int, int, int]);
    builder.function("variadic", &[int, 0]);
    builder.function("none", &[]);
    builder.function("disputed", &[int]);
    builder.function("disputed", &[]);
    builder.refer(Kind::Func, "broken", int);
    let btf = builder.parse();
    assert_eq!(btf.enum_value("colour", "RED"), Some(1));
    assert_eq!(btf.enum_value("colour", "MINUS"), Some(-1));
    assert_eq!(btf.enum_value("colour", "BLUE"), None);
    assert_eq!(btf.enum_value("", "HIGH"), Some(i64::from(u32::MAX)));
    assert_eq!(btf.enum_value("", "RED"), None);
    assert_eq!(btf.enum_value("", "TWICE"), None);
    assert_eq!(btf.enum_value("alias_t", "OTHER"), Some(7));
    assert_eq!(btf.enum_value("wide", "BIG"), Some((2 << 32) + 1));
    assert_eq!(btf.function_params("three"), Some(3));
    assert_eq!(btf.function_params("variadic"), Some(1));
    assert_eq!(btf.function_params("none"), Some(0));
    for name in ["disputed", "broken", "absent"] {
        assert_eq!(btf.function_params(name), None, "{name}");
    }
}

#[test]
fn pointers_of_a_32_bit_kernel() {
    let mut builder = Builder::new();
    builder.int("long unsigned int", 4);
    let pointer = builder.refer(Kind::Ptr, "", 0);
    builder.structure("s", 4, &[("p", pointer, 0, 0)]);
    assert_eq!(place(&builder.parse(), "s.p"), (0, 4));
}
