//! Where the lowest of very many numbers end, without holding them: they are read twice, and counted by half of their
//! bits each time.

use rayon::prelude::*;

use crate::par;

/// How many numbers have each of 65536 halves of bits. All are finite and at least zero, so that their bits have their
/// order.
#[derive(Debug, Clone)]
pub struct Bins {
    /// The upper half that all have; else upper halves are counted.
    within: Option<u32>,
    counts: Vec<u64>,
}

impl Bins {
    /// Counts by the upper half of their bits.
    pub fn upper() -> Bins {
        Bins { within: None, counts: vec![0; 1 << 16] }
    }

    /// Counts those with this upper half, by the lower one.
    pub fn lower(upper: u32) -> Bins {
        Bins { within: Some(upper), counts: vec![0; 1 << 16] }
    }

    /// Counts these, too.
    pub fn count(mut self, numbers: &[f32]) -> Bins {
        let within = self.within;
        let empty = || Bins { within, counts: vec![0; 1 << 16] };
        let all = numbers.par_chunks(16 * par::CHUNK_WEIGHTS).fold(empty, |mut bins, numbers| {
            for bits in numbers.iter().map(|x| x.to_bits()) {
                match within {
                    None => bins.counts[(bits >> 16) as usize] += 1,
                    Some(upper) if bits >> 16 == upper => bins.counts[(bits & 0xffff) as usize] += 1,
                    Some(_) => {}
                }
            }
            bins
        });
        let all = all.reduce(empty, Bins::and);
        self = self.and(all);
        self
    }

    fn and(mut self, other: Bins) -> Bins {
        self.counts.iter_mut().zip(other.counts).for_each(|(a, b)| *a += b);
        self
    }

    /// The bin in which the `count`th lowest lies, and how many lie in bins before.
    ///
    /// # Panics
    /// If fewer were counted.
    pub fn place(&self, count: u64) -> (u32, u64) {
        let mut before = 0;
        for (bin, n) in self.counts.iter().enumerate() {
            if before + n >= count {
                return (bin as u32, before);
            }
            before += n;
        }
        panic!("{count} of {before} numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_find_the_number_that_sorting_finds() {
        let parts: Vec<Vec<f32>> =
            (0..5).map(|p| (0..700).map(|i| ((i * 7919 + p * 31) % 997) as f32 * 1.001e-3).collect()).collect();
        let mut sorted = parts.concat();
        sorted.sort_by(f32::total_cmp);
        for count in [1_usize, 2, 1750, 3499, 3500] {
            let upper = parts.iter().fold(Bins::upper(), |bins, part| bins.count(part));
            let (high, before) = upper.place(count as u64);
            let lower = parts.iter().fold(Bins::lower(high), |bins, part| bins.count(part));
            let (low, below) = lower.place(count as u64 - before);
            let size = f32::from_bits(high << 16 | low);
            assert_eq!(size, sorted[count - 1]);
            assert_eq!((before + below) as usize, sorted.iter().filter(|x| **x < size).count());
        }
    }
}
