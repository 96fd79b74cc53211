//! A builder of small BTF for the tests of this module.

use super::{Btf, kind::Kind};

/// Writes types one after the other; each method returns the number of the type that it wrote.
pub(super) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
    first: u32,
    string_base: u32,
}

/// Name, type, first bit, and width for a bitfield (0 for others).
pub(super) type MemberOf = (&'static str, u32, u32, u32);

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            count: 0,
            first: 1,
            string_base: 0,
        }
    }

    /// For a module on top of `kernel`, which has `strings` bytes of strings.
    pub(super) fn split(kernel: &Btf, strings: u32) -> Self {
        Self {
            strings: Vec::new(),
            first: kernel.type_count(),
            string_base: strings,
            ..Self::new()
        }
    }

    pub(super) fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32 + self.string_base;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    pub(super) fn strings_len(&self) -> u32 {
        self.strings.len() as u32
    }

    /// The number of the next type, for types that refer to later ones.
    pub(super) fn next(&self) -> u32 {
        self.first + self.count
    }

    pub(super) fn raw(
        &mut self,
        kind: u8,
        flag: bool,
        name: &str,
        vlen: u32,
        word: u32,
        tail: &[u32],
    ) -> u32 {
        let info = u32::from(flag) << 31 | u32::from(kind) << 24 | vlen;
        let name = self.string(name);
        for word in [name, info, word].iter().chain(tail) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.first + self.count - 1
    }

    pub(super) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.raw(Kind::Int as u8, false, name, 0, size, &[(1 << 24) | (size * 8)])
    }

    pub(super) fn odd_int(&mut self, name: &str, size: u32, first: u32, bits: u32) -> u32 {
        self.raw(Kind::Int as u8, false, name, 0, size, &[first << 16 | bits])
    }

    /// A pointer, a typedef, a qualifier, a tag, or a function.
    pub(super) fn refer(&mut self, kind: Kind, name: &str, to: u32) -> u32 {
        let tail: &[u32] = if kind == Kind::DeclTag { &[0] } else { &[] };
        self.raw(kind as u8, false, name, 0, to, tail)
    }

    pub(super) fn array(&mut self, element: u32, len: u32) -> u32 {
        self.raw(Kind::Array as u8, false, "", 0, 0, &[element, element, len])
    }

    pub(super) fn composite(&mut self, kind: Kind, name: &str, size: u32, members: &[MemberOf]) -> u32 {
        let flag = members.iter().any(|member| member.3 != 0);
        let mut tail = Vec::new();
        for (name, type_id, bit, width) in members {
            tail.extend([self.string(name), *type_id, bit | width << 24]);
        }
        self.raw(kind as u8, flag, name, members.len() as u32, size, &tail)
    }

    pub(super) fn structure(&mut self, name: &str, size: u32, members: &[MemberOf]) -> u32 {
        self.composite(Kind::Struct, name, size, members)
    }

    pub(super) fn enumeration(&mut self, name: &str, signed: bool, variants: &[(&str, u32)]) -> u32 {
        let mut tail = Vec::new();
        for (name, value) in variants {
            tail.extend([self.string(name), *value]);
        }
        self.raw(Kind::Enum as u8, signed, name, variants.len() as u32, 4, &tail)
    }

    pub(super) fn function(&mut self, name: &str, params: &[u32]) -> u32 {
        let tail: Vec<u32> = params.iter().flat_map(|type_id| [0, *type_id]).collect();
        let prototype = self.raw(Kind::FuncProto as u8, false, "", params.len() as u32, 0, &tail);
        self.refer(Kind::Func, name, prototype)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes_with_layout(&[])
    }

    /// With the section of the kinds' lengths, if it is not empty.
    pub(super) fn bytes_with_layout(&self, layout: &[u8]) -> Vec<u8> {
        let header: u32 = if layout.is_empty() { 24 } else { 32 };
        let types = self.types.len() as u32;
        let strings = self.strings.len() as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [header, 0, types, types, strings] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        if !layout.is_empty() {
            bytes.extend_from_slice(&(types + strings).to_le_bytes());
            bytes.extend_from_slice(&(layout.len() as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        bytes.extend_from_slice(layout);
        bytes
    }

    pub(super) fn parse(&self) -> Btf {
        Btf::parse(self.bytes()).unwrap()
    }
}
