//! The corpora of the fuzzers, and what differs a little from them, fed to the same functions: none of it may panic.

use std::{fs, path::Path};

use tracer::fuzz::TARGETS;

/// Reproducible noise (xorshift).
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// One change: a byte, a cut, a part twice, or a part of it elsewhere.
fn mutated(bytes: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = noise.below(bytes.len());
    match noise.below(4) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << noise.below(8);
            }
        }
        1 => bytes.truncate(at),
        2 => {
            let part = bytes[at..(at + 64).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
        _ => {
            let value = noise.below(256) as u8;
            let end = (at + noise.below(8)).min(bytes.len());
            bytes[at..end].fill(value);
        }
    }
    bytes
}

#[test]
fn no_corpus_makes_anything_panic() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in TARGETS {
        let files = fs::read_dir(corpora.join(name)).unwrap_or_else(|error| panic!("corpus {name}: {error}"));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            target(&bytes);
            let mut noise = Noise(0x2545_f491_4f6c_dd1d);
            // Large ones take long; there are many small ones.
            for _ in 0..(100_000 / bytes.len().max(1)).clamp(3, 60) {
                target(&mutated(&bytes, &mut noise));
            }
            count += 1;
        }
        assert!(count > 0, "the corpus of {name} is empty");
    }
    // What a fuzzer starts from is real.
    for (name, target) in TARGETS.iter().filter(|(name, _)| *name == "btf") {
        let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/btf/7.2-cloud-amd64.btf");
        target(&fs::read(real).unwrap_or_else(|error| panic!("{name}: {error}")));
    }
}
