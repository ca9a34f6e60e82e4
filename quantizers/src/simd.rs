//! Which instructions this machine has, and the one macro that compiles a kernel for each of them.
//!
//! A kernel is plain Rust, written once and `#[inline(always)]`. The `dispatch!` macro makes a function that picks, at
//! run time, the copy compiled for the best instruction set present. Both copies are the same source without fused
//! multiply-add, so they give the same bytes; the vectoriser does the rest. On aarch64 NEON is part of the baseline,
//! hence one copy. Built with `--cfg aurora_scalar`, only the baseline copy exists.
//!
//! This is the only file of the crate that may say `unsafe`.
#![allow(unsafe_code)]

/// An instruction set that this machine was found to have. Cannot be made up: only [`Isa::best`] and
/// [`Isa::present`] hand them out, which is what makes calling the matching copy of a kernel sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Level);

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// What the compilation target promises (SSE2 on x86-64, NEON on aarch64).
    Baseline,
    /// AVX2.
    #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
    Avx2,
}

impl Isa {
    /// The compilation target's own instructions, present everywhere.
    pub const BASELINE: Isa = Isa(Level::Baseline);

    /// The fastest one present.
    #[inline]
    pub fn best() -> Isa {
        #[cfg(test)]
        if let Some(isa) = twin::chosen() {
            return isa;
        }
        #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Isa(Level::Avx2);
        }
        Isa::BASELINE
    }

    /// All that are present, the baseline first: what a test compares.
    pub fn present() -> Vec<Isa> {
        let mut all = vec![Isa::BASELINE];
        if Isa::best() != Isa::BASELINE {
            all.push(Isa::best());
        }
        all
    }
}

/// A test's choice of instructions, for what it calls on its own thread: every kernel behind a plain call has its twins.
#[cfg(test)]
pub(crate) mod twin {
    use std::cell::Cell;

    use super::Isa;

    thread_local!(static CHOSEN: Cell<Option<Isa>> = const { Cell::new(None) });

    /// What [`Isa::best`] says instead of the best.
    pub(crate) fn chosen() -> Option<Isa> {
        CHOSEN.get()
    }

    /// Runs `work` on one instruction set.
    pub(crate) fn on<T>(isa: Isa, work: impl FnOnce() -> T) -> T {
        CHOSEN.set(Some(isa));
        let done = work();
        CHOSEN.set(None);
        done
    }
}

/// Makes a function with one more argument, the [`Isa`], from an `#[inline(always)]` kernel:
/// `dispatch!(fn encode_with<L: Format32>(x: &[f32], out: &mut [u8]) = encode_blocks::<L>);`
macro_rules! dispatch {
    ($vis:vis fn $name:ident $(<$g:ident: $bound:path>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $kernel:expr) => {
        $vis fn $name $(<$g: $bound>)? (isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
            #[target_feature(enable = "avx2")]
            fn avx2 $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                $kernel($($arg),*)
            }
            match isa.0 {
                $crate::simd::Level::Baseline => $kernel($($arg),*),
                #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
                #[allow(unsafe_code)]
                // SAFETY: an `Isa` of this level exists only where AVX2 was detected.
                $crate::simd::Level::Avx2 => unsafe { avx2 $(::<$g>)? ($($arg),*) },
            }
        }
    };
}
pub(crate) use dispatch;

/// Rows and columns of a block of sums of products: 6 by 16 fill 12 of AVX2's 16 registers.
pub(crate) const BLOCK: (usize, usize) = (6, 16);

/// Sums of products of whole numbers, two at a time: `sums[r][c] = sum over k of a[k][r] . b[k][c]`, wrapping. The same
/// on every machine. AVX2 has an instruction for it that no compiler finds in the plain loop.
#[inline]
pub(crate) fn sum_pairs(isa: Isa, a: &[[[i16; 2]; BLOCK.0]], b: &[[[i16; 2]; BLOCK.1]]) -> [[i32; BLOCK.1]; BLOCK.0] {
    match isa.0 {
        Level::Baseline => sum_pairs_plainly(a, b),
        #[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
        // SAFETY: an `Isa` of this level exists only where AVX2 was detected.
        Level::Avx2 => unsafe { sum_pairs_avx2(a, b) },
    }
}

fn sum_pairs_plainly(a: &[[[i16; 2]; BLOCK.0]], b: &[[[i16; 2]; BLOCK.1]]) -> [[i32; BLOCK.1]; BLOCK.0] {
    let mut sums = [[0; BLOCK.1]; BLOCK.0];
    for (a, b) in a.iter().zip(b) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                let [first, second] = [0, 1].map(|i| i32::from(a[i]) * i32::from(b[i]));
                *sum = first.wrapping_add(second).wrapping_add(*sum);
            }
        }
    }
    sums
}

#[cfg(all(target_arch = "x86_64", not(aurora_scalar)))]
#[target_feature(enable = "avx2")]
fn sum_pairs_avx2(a: &[[[i16; 2]; BLOCK.0]], b: &[[[i16; 2]; BLOCK.1]]) -> [[i32; BLOCK.1]; BLOCK.0] {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
        _mm256_storeu_si256,
    };
    let mut sums = [[_mm256_setzero_si256(); 2]; BLOCK.0];
    for (a, b) in a.iter().zip(b) {
        let (low, high) = b.split_at(8);
        // SAFETY: each half has eight pairs, as many bytes as are read; unaligned reads are allowed.
        let b = [low, high].map(|b| unsafe { _mm256_loadu_si256(b.as_ptr().cast::<__m256i>()) });
        for (sums, a) in sums.iter_mut().zip(a) {
            let pair = i32::from(a[0]) & 0xffff | i32::from(a[1]) << 16;
            let a = _mm256_set1_epi32(pair);
            for (sum, b) in sums.iter_mut().zip(&b) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, *b));
            }
        }
    }
    let mut out = [[0; BLOCK.1]; BLOCK.0];
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (out, sum) in out.chunks_exact_mut(8).zip(sums) {
            // SAFETY: eight numbers of 32 bits are as many bytes as are written; unaligned writes are allowed.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>(), *sum) };
        }
    }
    out
}

/// `x` cut off towards zero and held within `low..=high`; NaN gives `high`. One instruction per step, where the
/// saturating `as` takes several.
///
/// # Panics
/// Never in kernels: the bounds are constants there and the check folds away.
#[inline(always)]
pub(crate) fn trunc_within(x: f32, low: i16, high: i16) -> i32 {
    let (low, high) = (f32::from(low), f32::from(high));
    let x = if x < high { x } else { high };
    let x = if x > low { x } else { low };
    // SAFETY: x is finite and lies within i16 (NaN took `high` above), so it fits an i32.
    unsafe { x.to_int_unchecked() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunc_within_cuts_towards_zero_and_clamps() {
        let cases = [
            (2.9, 2),
            (-2.9, -2),
            (-0.9, 0),
            (1e30, 127),
            (-1e30, -128),
            (f32::INFINITY, 127),
            (f32::NEG_INFINITY, -128),
            (f32::NAN, 127),
        ];
        for (x, want) in cases {
            assert_eq!(trunc_within(x, -128, 127), want, "{x}");
        }
    }

    #[test]
    fn pairs_have_one_sum_everywhere() {
        let number = |at: usize| [-2047, 2047, 3, -1, 1024, -517, 0][at % 7];
        for pairs in [0, 1, 2, 7, 256] {
            let a: Vec<[[i16; 2]; 6]> =
                (0..pairs).map(|k| std::array::from_fn(|r| [number(k * 5 + r), number(k + 3 * r)])).collect();
            let b: Vec<[[i16; 2]; 16]> =
                (0..pairs).map(|k| std::array::from_fn(|c| [number(k * 3 + c), number(k * 2 + 5 * c)])).collect();
            let product = |r: usize, c: usize, k: usize| {
                (0..2).map(|i| i64::from(a[k][r][i]) * i64::from(b[k][c][i])).sum::<i64>()
            };
            for isa in Isa::present() {
                for (r, sums) in sum_pairs(isa, &a, &b).iter().enumerate() {
                    for (c, sum) in sums.iter().enumerate() {
                        let want = (0..pairs).map(|k| product(r, c, k)).sum::<i64>();
                        assert_eq!(i64::from(*sum), want, "{isa:?}: {pairs} pairs, [{r}, {c}]");
                    }
                }
            }
        }
    }

    #[test]
    fn the_best_isa_is_among_those_present() {
        assert!(Isa::present().contains(&Isa::best()));
        if cfg!(aurora_scalar) {
            assert_eq!(Isa::best(), Isa::BASELINE);
        }
    }
}
