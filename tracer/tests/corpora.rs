//! The corpora of the fuzzers, and what differs a little from them, fed to the same functions: none of it may panic, or
//! cost more than its size allows.

use std::{fs, path::Path};

use tracer::fuzz::{Counting, Grammar, Noise, TARGETS, target_of};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_corpus_makes_anything_panic() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for target in TARGETS {
        let name = target.name;
        let files = fs::read_dir(corpora.join(name)).unwrap_or_else(|error| panic!("corpus {name}: {error}"));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            println!("{}", path.display());
            target.feed(&bytes);
            let mut noise = Noise(count);
            // Large ones take long; there are many small ones.
            for turn in 0..(100_000 / bytes.len().max(1)).clamp(3, 30) {
                let grammar = if turn % 2 == 0 {
                    target.grammar
                } else {
                    Grammar::Bytes
                };
                target.feed(&grammar.mutate(&bytes, &mut noise));
            }
            count += 1;
        }
        assert!(count > 0, "the corpus of {name} is empty");
    }
    // What a fuzzer starts from is real.
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/btf/7.2-cloud-amd64.btf");
    target_of("btf").feed(&fs::read(real).unwrap());
}
