//! Common part of all targets: bytes from cargo-fuzz go to the function of that name in `tracer::fuzz`, which may not
//! panic and checks its own cost. If the bytes have a grammar, most of them are made by it.

use std::sync::OnceLock;

use tracer::fuzz::{Counting, Grammar, Noise, Target, target_of};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Gives bytes to the target of that name.
pub fn feed(name: &str, bytes: &[u8]) {
    target(name).feed(bytes);
}

fn target(name: &str) -> &'static Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    TARGET.get_or_init(|| target_of(name))
}

/// Mutates these bytes in place; `None` if plain bytes are wanted.
pub fn mutate(name: &str, bytes: &mut [u8], size: usize, seed: u32) -> Option<usize> {
    let grammar = target(name).grammar;
    let mut noise = Noise(u64::from(seed));
    // The fuzzer's own mutations know the values that the code compares.
    if grammar == Grammar::Bytes || noise.once_in(4) {
        return None;
    }
    let mutated = grammar.mutate(&bytes[..size], &mut noise);
    // It has to fit.
    bytes.get_mut(..mutated.len())?.copy_from_slice(&mutated);
    Some(mutated.len())
}

/// A target by its name in `tracer::fuzz::TARGETS`.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::feed($name, bytes));
        libfuzzer_sys::fuzz_mutator!(
            |bytes: &mut [u8], size: usize, max_size: usize, seed: u32| {
                $crate::mutate($name, &mut bytes[..max_size], size, seed)
                    .unwrap_or_else(|| libfuzzer_sys::fuzzer_mutate(bytes, size, max_size))
            }
        );
    };
}
