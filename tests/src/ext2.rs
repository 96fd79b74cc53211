//! An empty ext2, written without the tools that not every machine has.

/// Size of a block: that of a page, as swap files like it.
const BLOCK: usize = 4096;
/// Blocks, all in one group: the superblock, the descriptor of the group, the bitmaps of blocks and inodes, two
/// blocks of inodes, the root directory, and what is free.
const BLOCKS: usize = 1024;
const USED: usize = 7;
const INODES: usize = 64;
const INODE: usize = 128;
/// Inodes below this number are the file system's own.
const FIRST: usize = 11;

/// The image (fs/ext2/ext2.h: revision 0, which has no features).
#[must_use]
pub fn image() -> Vec<u8> {
    let mut image = vec![0; BLOCKS * BLOCK];
    let (free_blocks, free_inodes) = (BLOCKS - USED, INODES + 1 - FIRST);
    let superblock = &mut image[1024..];
    for (at, number) in [
        (0, INODES),
        (4, BLOCKS),
        (12, free_blocks),
        (16, free_inodes),
        // Blocks of 1024 << 2, and fragments as large.
        (24, 2),
        (28, 2),
        (32, 8 * BLOCK),
        (36, 8 * BLOCK),
        (40, INODES),
    ] {
        half(superblock, at, number);
    }
    // Magic, and the state: clean.
    superblock[56..60].copy_from_slice(&[0x53, 0xef, 1, 0]);

    let group = &mut image[BLOCK..];
    half(group, 0, 2);
    half(group, 4, 3);
    half(group, 8, 4);
    half(group, 12, free_inodes << 16 | free_blocks);
    // One directory.
    half(group, 16, 1);
    bitmap(&mut image[2 * BLOCK..3 * BLOCK], USED, BLOCKS);
    bitmap(&mut image[3 * BLOCK..4 * BLOCK], FIRST - 1, INODES);

    // The root is inode 2: a directory with two links and one block, in units of 512 bytes.
    let root = &mut image[4 * BLOCK + INODE..];
    half(root, 0, 0o40755);
    half(root, 4, BLOCK);
    half(root, 24, 2 << 16);
    half(root, 28, BLOCK / 512);
    half(root, 40, USED - 1);
    // `.` and `..`: inode, length of the record, length of the name.
    let directory = &mut image[(USED - 1) * BLOCK..USED * BLOCK];
    half(directory, 0, 2);
    half(directory, 4, 1 << 16 | 0xc);
    half(directory, 12, 2);
    half(directory, 16, 2 << 16 | (BLOCK - 12));
    directory[8] = b'.';
    directory[20..22].copy_from_slice(b"..");
    image
}

fn half(piece: &mut [u8], at: usize, number: usize) {
    piece[at..at + 4].copy_from_slice(&(number as u32).to_le_bytes());
}

/// Marks the first `used` as used, and those beyond the end as well.
fn bitmap(piece: &mut [u8], used: usize, all: usize) {
    for bit in (0..used).chain(all..8 * piece.len()) {
        piece[bit / 8] |= 1 << (bit % 8);
    }
}
