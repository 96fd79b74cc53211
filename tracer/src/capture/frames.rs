//! A segment taken apart and put together again, for whoever damages what is in it on purpose: with checksums and
//! lengths that are right, so that what was changed is read.

use super::format::{BLOCK_HEADER, BlockHeader, BlockKind, Blocks, FILE_HEADER, Preamble, preamble};

/// Lines of JSON, and the number of what they are.
pub(crate) type Block = (u32, Vec<u8>);

/// Lines of a block at the most: a mutation is of something small.
const RAW_MAX: u32 = 1 << 20;
const BLOCKS_MAX: usize = 64;

/// The JSON of the header, and the blocks up to the first damage.
pub(crate) fn unpack(bytes: &[u8]) -> Option<(Vec<u8>, Vec<Block>)> {
    let Preamble::Header { length, .. } = preamble(bytes.get(..FILE_HEADER)?)? else {
        return None;
    };
    let (header, mut rest) = bytes.get(FILE_HEADER..)?.split_at_checked(length as usize)?;
    let mut blocks = Vec::new();
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK_HEADER>()
        && let Some(block) = BlockHeader::decode(block)
        && let Some((frame, after)) = after.split_at_checked(block.stored as usize)
        && blocks.len() < BLOCKS_MAX
    {
        let raw = block.raw.min(RAW_MAX) as usize;
        let lines = zstd::bulk::decompress(frame, raw).unwrap_or_default();
        blocks.push((block.kind.number(), lines));
        rest = after;
    }
    Some((header.to_vec(), blocks))
}

/// The bytes of a segment. `first` and `count` of each block are what it says of itself, and need not be so.
pub(crate) fn pack(header: &[u8], blocks: &[Block], counts: impl Fn(usize) -> (u64, u32)) -> Option<Vec<u8>> {
    let mut bytes = super::format::encode_json(super::format::VERSION, header);
    let mut encoder = Blocks::new().ok()?;
    for (index, (kind, lines)) in blocks.iter().enumerate() {
        let (first, count) = counts(index);
        let kind = BlockKind::of_number(*kind);
        bytes.extend_from_slice(&encoder.encode(kind, first, count, lines).ok()?);
    }
    Some(bytes)
}

/// How many lines that are.
pub(crate) fn count(lines: &[u8]) -> u32 {
    lines.split_inclusive(|byte| *byte == b'\n').count() as u32
}

#[cfg(test)]
mod tests {
    use super::{count, pack, unpack};

    #[test]
    fn what_is_packed_is_read() {
        let blocks = vec![
            (1, b"{\"a\":1}\n{}\n".to_vec()),
            (3, Vec::new()),
            (9, b"x".to_vec()),
        ];
        let bytes = pack(b"{}", &blocks, |index| (0, count(&blocks[index].1))).unwrap();
        let (header, found) = unpack(&bytes).unwrap();
        assert_eq!(header, b"{}");
        // What is of a newer version has no number of its own.
        assert_eq!(found[..2], blocks[..2]);
        assert_eq!(found[2], (0, b"x".to_vec()));
        assert_eq!((count(b"a\nb"), count(b"a\n"), count(b"")), (2, 1, 0));
    }
}
