//! Packs fields of four or eight bits into 32-bit words, the first field in the lowest bits.

/// Packs `fields(i)` for `i` in `0..n`; the last word is padded with zeros.
pub(super) fn words(n: usize, bits: u32, fields: impl Fn(usize) -> u8) -> impl Iterator<Item = u32> {
    let per = 32 / bits as usize;
    (0..n.div_ceil(per)).map(move |word| {
        let here = word * per..((word + 1) * per).min(n);
        here.enumerate().fold(0, |sum, (at, i)| sum | u32::from(fields(i)) << (at * bits as usize))
    })
}

/// Little-endian bytes.
pub(super) fn bytes(words: impl Iterator<Item = u32>) -> Vec<u8> {
    words.flat_map(u32::to_le_bytes).collect()
}
